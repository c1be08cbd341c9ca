"""Rules of a user's own: layers that no table holds, and the proof that catches a wrong one."""

import pytest
import torch
from torch import nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import GraphError
from survey_lib.mechanics.rules.own import follow, pin, tie
from survey_lib.mechanics.surgery import apply_recipe
from tests.mechanics.cases import IMAGES, Case, check
from tests.mechanics.judge import EXACT, NOTHING, fingerprint, judge
from tests.oracles.channels import randomised


class Bend(torch.autograd.Function):
    """A kernel of one's own: a slope for each channel below zero."""

    @staticmethod
    def forward(ctx, x, slope):
        ctx.save_for_backward(x, slope)
        return torch.where(x > 0, x, x * slope.view(1, -1, 1, 1))

    @staticmethod
    def backward(ctx, grad):
        x, slope = ctx.saved_tensors
        factor = torch.where(x > 0, torch.ones_like(x), slope.view(1, -1, 1, 1).expand_as(x))
        below = torch.where(x > 0, torch.zeros_like(x), x * grad)
        return grad * factor, below.sum((0, 2, 3))


class Bent(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((n,), 0.1))

    def forward(self, x):
        return Bend.apply(x, self.alpha)


class Centre(nn.Module):
    """Mixes its channels."""

    def forward(self, x):
        return x - x.mean(1, keepdim=True)


class Join(nn.Module):
    """Adds two tensors in its own way."""

    def forward(self, a, b):
        return Sum.apply(a, b)


class Sum(torch.autograd.Function):
    @staticmethod
    def forward(_ctx, a, b):
        return a + 0.5 * b

    @staticmethod
    def backward(_ctx, grad):
        return grad, 0.5 * grad


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c, self.join = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 3, padding=1), Join()
        self.b = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.b(self.join(self.a(x), self.c(x)))


def chain(layer: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 1), layer, nn.Conv2d(8, 2, 1))


def test_a_layer_of_ones_own_is_followed_by_its_rule():
    check(Case(lambda: chain(Bent(8)), IMAGES, free=("0",),
               options={"rules": {Bent: follow("alpha")}}))  # fmt: skip
    graph = trace_groups(chain(Bent(8)), IMAGES, rules={Bent: follow("alpha")})
    assert [(s.module, s.tensor) for s in graph["0"].slices if s.role == "through"] == [
        ("1", "alpha")
    ]


def test_a_layer_of_two_inputs_ties_them():
    check(Case(Branches, IMAGES, free=("a",), options={"rules": {Join: tie}}))
    graph = trace_groups(Branches(), IMAGES, rules={Join: tie})
    assert [s.module for s in graph["a"].producers] == ["a", "c"]


def test_a_pin_says_why():
    rules = {Bent: pin("the kernel takes eight channels")}
    found = judge(chain(Bent(8)), IMAGES, rules=rules)
    assert found.word == NOTHING
    assert found.protected["0"] == "the kernel takes eight channels in 1"


def test_a_function_may_have_a_rule_too():
    model = chain(nn.Identity())
    model[1].forward = lambda x: torch.special.expit(x)
    assert "stands in no rule" in trace_groups(model, IMAGES)["0"].protected
    found = judge(chain(Expit()), IMAGES, rules={torch.special.expit: tie})
    assert found.word == EXACT, str(found)


class Expit(nn.Module):
    def forward(self, x):
        return torch.special.expit(x)


class Strict(nn.Module):
    """A kernel that is compiled for one type of number."""

    def __init__(self, n):
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(n))

    def forward(self, x):
        if x.dtype != self.alpha.dtype:
            raise TypeError(f"built for {self.alpha.dtype}, got {x.dtype}")
        return x * self.alpha.view(1, -1, 1, 1)


def test_a_kernel_is_tried_with_numbers_of_its_own_type():
    for model, x in ((chain(Strict(8)).double(), IMAGES.double()),
                     (chain(Strict(8)).float(), IMAGES.float())):  # fmt: skip
        graph = trace_groups(model, x, rules={Strict: follow("alpha")})
        assert [g.name for g in graph.prunable] == ["0"]


@pytest.mark.parametrize("double", [False, True])
def test_a_wrong_rule_is_refused_by_the_proof_and_nothing_is_changed(double):
    model, x = randomised(chain(Centre())), IMAGES.double()
    model, x = (model, x) if double else (model.float(), x.float())
    graph = trace_groups(model, x, rules={Centre: follow()})
    assert [g.name for g in graph.prunable] == ["0"]  # the rule is believed
    before, output = fingerprint(model), model(x)
    for inplace in (False, True):
        with pytest.raises(GraphError, match=r"removing units of 0 is not exact.*rule for") as said:
            apply_recipe(model, graph, {"0": [0, 1, 2]}, inplace=inplace)
        assert "\n" not in str(said.value)
        assert fingerprint(model) == before
    assert torch.equal(model(x), output)
    # without the check the wrong rule has its way
    small = apply_recipe(model, graph, {"0": [0, 1, 2]}, check=False)
    assert small[0].out_channels == 3


def test_a_parameter_that_the_rule_forgets_is_refused_by_the_proof():
    model, x = randomised(chain(Bent(8))), IMAGES.double()
    graph = trace_groups(model, x, rules={Bent: follow()})
    with pytest.raises(GraphError, match=r"removing units of 0 is not exact \(the smaller net"):
        apply_recipe(model, graph, {"0": [0, 1, 2]})


def test_the_proof_is_made_once_a_graph():
    model, x = randomised(chain(Bent(8))), IMAGES.double()
    graph = trace_groups(model, x, rules={Bent: follow("alpha")})
    assert not graph.proved
    apply_recipe(model, graph, {"0": [0, 1, 2]})
    assert graph.proved
