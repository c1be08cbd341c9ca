"""Relevance against zennit, on the project's nets and on timm's; and what captum does on sums."""

import warnings

import pytest
import timm
import torch
from torch import nn

from survey_lib.mechanics.relevance.engine import relevance, true_class
from survey_lib.mechanics.relevance.rules import Box, Epsilon, Rules
from survey_lib.tasks.dense import seeded
from tests.mechanics.relevance_nets import VARIANTS, ids, lively, project_net
from tests.oracles import zennit_nets


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=ids)
def test_equals_zennit_on_the_projects_nets(name, options):
    net, x = project_net(name, options)
    apart = from_zennit(net, x, true_class(torch.tensor([1, 0])))
    assert max(apart.values()) < 1e-6, max(apart, key=lambda k: apart[k])


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "mobilenetv2_100"])
def test_equals_zennit_on_timms_nets(name):
    torch.manual_seed(0)
    net = lively(timm.create_model(name, num_classes=5))
    x = torch.randn(2, 3, 64, 64, generator=seeded(1), dtype=torch.float64)
    apart = from_zennit(net, x, true_class(torch.tensor([1, 0])))
    assert max(apart.values()) < 1e-6, max(apart, key=lambda k: apart[k])


def from_zennit(net, x, start):
    """Layer, and "" for the input → largest difference from zennit's, over zennit's largest."""
    wanted = zennit_nets.relevance(net, x, start(torch.ones_like(net(x))))
    found = relevance(net, x, start, Rules(sums=Epsilon(1e-12), pools=Epsilon(1e-12)))
    maps = found.maps | {"": found.input}
    assert maps.keys() == wanted.keys()
    return {path: float((maps[path] - r).abs().max() / r.abs().max())
            for path, r in wanted.items()}  # fmt: skip


def test_the_box_rule_equals_zennits():
    net, x = project_net("vgg_small", {})
    start = true_class(torch.tensor([1, 0]))
    low, high = (torch.full_like(x, v) for v in (-5.0, 5.0))
    wanted = zennit_nets.relevance(net, x, start(torch.ones(2, 10).double()), box=(low, high))[""]
    found = relevance(net, x, start, Rules(first=Box(-5.0, 5.0), pools=Epsilon(1e-12))).input
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_captum_hands_both_branches_of_a_sum_everything():
    """Why it is no oracle here: at each residual sum the total doubles, and nobody says so."""
    from captum.attr import LRP
    from captum.attr._utils.lrp_rules import EpsilonRule

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)

        def forward(self, x):
            return self.a(x) + self.b(x)

    net = Sum().double()
    for m in (net.a, net.b):
        m.rule = EpsilonRule(1e-12)
    x = torch.rand(1, 3, generator=seeded(0)).double() + 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        total = LRP(net).attribute(x.clone().requires_grad_(), target=1).sum()
    answer = float(net(x).detach()[0, 1])
    assert float(total.detach()) == pytest.approx(2 * answer, rel=1e-6)
    ours = relevance(net, x, true_class(torch.tensor([1]), logit=True),
                     Rules(linear=Epsilon(1e-12), sums=Epsilon(1e-12)))  # fmt: skip
    assert float(ours.input.sum()) == pytest.approx(answer, rel=1e-6)
