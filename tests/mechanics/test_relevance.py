"""Relevance against its literal twin, its conservation, and hand cases."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.mechanics.relevance import table
from survey_lib.mechanics.relevance.engine import Explanation, Passed, relevance, totals, true_class
from survey_lib.mechanics.relevance.rules import AlphaBeta, Box, Epsilon, Flat, Rules
from survey_lib.mechanics.relevance.tape import RelevanceError, record
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model
from tests.mechanics.relevance_nets import VARIANTS, ids, lively, no_bias, project_net
from tests.oracles import relevance as twin

EXACT = Rules(sums=Epsilon(1e-14), pools=Epsilon(1e-14))
EXACT_LINEAR = Rules(linear=Epsilon(1e-14), first=Epsilon(1e-14))


# ---- hand cases


def test_the_dossiers_hand_case():
    """a = (1, 2), W = ((1, −1), (1, 2)), R = (3, 4): denominators (3, 4), messages 1 and 6."""
    net = nn.Linear(2, 2, bias=False).double()
    net.weight.data = torch.tensor([[1.0, 1.0], [-1.0, 2.0]]).double()  # (outputs, inputs)
    r = torch.tensor([[3.0, 4.0]]).double()
    found = relevance(net, torch.tensor([[1.0, 2.0]]).double(), r)
    assert found.input.tolist() == [[1.0, 6.0]]
    assert found.maps[""].tolist() == [[3.0, 4.0]]


def test_signed_inputs_count_by_the_sign_of_what_they_contribute():
    """A negative input through a negative weight speaks for the output; z⁺ would miss it."""
    net = nn.Linear(2, 1, bias=False).double()
    net.weight.data = torch.tensor([[-2.0, 1.0]]).double()
    found = relevance(net, torch.tensor([[-1.0, 2.0]]).double(), torch.ones(1, 1).double())
    assert found.input.tolist() == [[0.5, 0.5]]


def test_alpha_two_beta_one_by_hand():
    """Contributions 3, 1 and −2: positive ones share 2 R, the negative one takes −R."""
    net = nn.Linear(3, 1, bias=False).double()
    net.weight.data = torch.tensor([[3.0, 1.0, -2.0]]).double()
    found = relevance(net, torch.ones(1, 3).double(), torch.full((1, 1), 4.0).double(),
                      Rules(linear=AlphaBeta(2, 1)))  # fmt: skip
    assert found.input.tolist() == [[6.0, 2.0, -4.0]]


def test_alpha_two_beta_one_with_negative_inputs_by_hand():
    """The same contributions, 3, 1 and −2, made by a negative input each way."""
    net = nn.Linear(3, 1, bias=False).double()
    net.weight.data = torch.tensor([[-3.0, 1.0, 2.0]]).double()
    x = torch.tensor([[-1.0, 1.0, -1.0]]).double()
    rules = Rules(linear=AlphaBeta(2, 1))
    found = relevance(net, x, torch.full((1, 1), 4.0).double(), rules)
    assert found.input.tolist() == [[6.0, 2.0, -4.0]]


def test_a_negative_addend_takes_its_part_of_what_is_negative():
    """3 + (−1), R = 4, α = 2, β = 1: the sum's positive part gets 8, its negative one −4."""

    class Net(nn.Module):
        def forward(self, x):
            return x[:, :1] + x[:, 1:]

    x = torch.tensor([[3.0, -1.0]]).double()
    rules = Rules(sums=AlphaBeta(2, 1))
    found = relevance(Net(), x, torch.full((1, 1), 4.0).double(), rules)
    assert found.input.tolist() == [[8.0, -4.0]]


def test_a_layer_called_twice_has_the_relevance_of_both_calls():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.again = nn.Linear(3, 3, bias=False)

        def forward(self, x):
            return self.again(F.relu(self.again(x)))

    net = Net().double().requires_grad_(False)
    net.again.weight.data = torch.tensor([[1.0, 2, 1], [1, 1, 3], [2, 1, 1]]).double()
    x, start = torch.tensor([[1.0, 2, 1]]).double(), torch.tensor([[1.0, 2, 4]]).double()
    between = twin.through(twin.epsilon, net.again, F.relu(net.again(x)), start, eps=1e-14)
    found = relevance(net, x, start, EXACT_LINEAR)
    torch.testing.assert_close(found.maps["again"], start + between)


def test_sums_are_kept_in_float64_whatever_the_net_computes_in():
    r = torch.full((1, 3, 1000, 1000), 0.1)
    assert totals(r).dtype == torch.float64
    assert float(totals(r)) == pytest.approx(3e6 * float(r[0, 0, 0, 0]), rel=1e-12)


def test_flat_gives_every_input_the_same():
    net = nn.Conv2d(1, 1, 2, bias=False).double()
    found = relevance(net, torch.randn(1, 1, 2, 2, generator=seeded(0)).double(),
                      torch.full((1, 1, 1, 1), 8.0).double(), Rules(first=Flat()))  # fmt: skip
    assert found.input.tolist() == [[[[2.0, 2.0], [2.0, 2.0]]]]


def test_without_biases_lrp_0_is_gradient_times_input():
    net = no_bias(project_net("cnn_small", {"bn": False})[0])
    x = torch.randn(3, 1, 28, 28, generator=seeded(2), dtype=torch.float64).requires_grad_()
    y = net(x)
    zero = Rules(*[Epsilon(1e-15)] * 2, first=Epsilon(1e-15))
    found = relevance(net, x.detach(), y.detach() * F.one_hot(torch.tensor([0, 1, 2]), 10), zero)
    (grad,) = torch.autograd.grad(y[range(3), range(3)].sum(), x)
    torch.testing.assert_close(found.input, x.detach() * grad, rtol=1e-7, atol=1e-10)


def test_a_filter_that_speaks_for_nothing_has_no_relevance_and_twins_share():
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(),
                        nn.Linear(36, 2, bias=False)).double()  # fmt: skip
    net[0].weight.data = net[0].weight.data.abs()
    net[0].weight.data[1] = net[0].weight.data[0]
    w = net[3].weight.data.abs().reshape(2, 4, 9)
    w[:, 1] = w[:, 0]
    w[:, 2] *= -1
    net[3].weight.data = w.reshape(2, 36)
    x = torch.rand(2, 1, 5, 5, generator=seeded(0)).double()
    r = relevance(net, x, true_class(torch.tensor([0, 1]))).maps["0"].sum((0, 2, 3))
    assert r[2] == 0
    assert r[0] == pytest.approx(float(r[1]), rel=1e-12)
    assert (r[[0, 3]] > 0).all()


# ---- the literal twin


def test_a_net_with_a_bit_of_everything_equals_the_matrix_twin():
    """Conv with batch norm, max pool, grouped conv, residual sum, concatenation, average, head."""
    g = seeded(3)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
            self.norm = nn.BatchNorm2d(2)
            self.group = nn.Conv2d(2, 2, 3, padding=1, groups=2)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            h = F.max_pool2d(F.relu(self.norm(self.conv(x)), inplace=True), 2)
            s = F.relu(h + self.group(h))
            return self.head(torch.flatten(F.adaptive_avg_pool2d(torch.cat([h, s], 1), 1), 1))

    net = lively(Net()).requires_grad_(False)
    x = torch.randn(1, 1, 4, 4, generator=g, dtype=torch.float64)
    start = torch.tensor([[0.5, 1.0, 2.0]]).double()
    rules = Rules(conv=AlphaBeta(2, 1), linear=Epsilon(0.01), first=Box(-4.0, 4.0),
                  sums=Epsilon(0.01), pools=Epsilon(0.01))  # fmt: skip
    found = relevance(net, x, start, rules)

    # forwards, kept
    scale = net.norm.weight / (net.norm.running_var + net.norm.eps).sqrt()
    h = F.max_pool2d(full := F.relu(net.norm(net.conv(x))), 2)
    branch = net.group(h)
    s = F.relu(h + branch)
    both = torch.cat([h, s], 1)
    flat = both.mean((2, 3))
    # and back, by matrices
    r = twin.through(twin.epsilon, lambda v: v @ net.head.weight.T, flat, start,
                     b=net.head.bias.tolist(), eps=0.01)  # fmt: skip
    r = twin.through(twin.epsilon, lambda v: v.mean((2, 3)), both, r, eps=0.01)
    to_h, to_s = r[:, :2], r[:, 2:]
    direct, to_branch = twin.shares(h, branch, to_s, 0.01)
    torch.testing.assert_close(found.maps["group"], to_branch)
    grouped = lambda v: F.conv2d(v, net.group.weight, None, 1, 1, 1, 2)  # noqa: E731
    inside = twin.through(twin.alpha_beta, grouped, h, to_branch, alpha=2, beta=1)
    at_conv = twin.biggest(full, to_h + direct + inside, 2)
    torch.testing.assert_close(found.maps["conv"], at_conv)
    folded = lambda v: F.conv2d(v, net.conv.weight * scale[:, None, None, None], None, 1, 1)  # noqa: E731
    heat = twin.through(twin.box, folded, x, at_conv, low=-4.0, high=4.0)
    torch.testing.assert_close(found.input, heat)


def test_signed_inputs_equal_the_matrix_twin_where_nothing_is_positive_too():
    net = lively(nn.Sequential(nn.Conv2d(2, 3, 2), nn.Conv2d(3, 2, 2))).requires_grad_(False)
    x = torch.randn(1, 2, 4, 4, generator=seeded(4), dtype=torch.float64)
    net[1].weight.data[0] = -net[1].weight.data[0].abs()
    r = torch.rand(1, 2, 2, 2, generator=seeded(5)).double()
    found = relevance(net, x, r)
    middle = net[0](x)
    at_0 = twin.through(twin.alpha_beta, lambda v: F.conv2d(v, net[1].weight), middle, r)
    torch.testing.assert_close(found.maps["0"], at_0)
    heat = twin.through(twin.alpha_beta, lambda v: F.conv2d(v, net[0].weight), x, at_0)
    torch.testing.assert_close(found.input, heat)


# ---- conservation


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=ids)
def test_relevance_is_conserved_to_1e_8(name, options):
    """Without biases α1β0 hands on all of it, down to the input."""
    net, x = project_net(name, options)
    if name == "densenet_small":  # a batch norm of its own with γ < 0 makes a positive out of what
        for m in net.modules():  # nothing spoke for; what it receives then ends there
            if isinstance(m, nn.BatchNorm2d):
                m.weight.data.abs_()
    found = relevance(no_bias(net), x, true_class(torch.tensor([1, 0])), EXACT)
    assert found.kept.abs().max() < 1e-8
    assert found.unaccounted < 1e-8


@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=ids)
def test_with_biases_what_is_lost_is_lost_in_layers_and_accounted_for(name, options):
    """α1β0 ignores biases: only where a bias alone keeps a unit alive is relevance lost."""
    net, x = project_net(name, options)
    found = relevance(net, x, true_class(torch.tensor([1, 0])), EXACT)
    assert found.unaccounted < 1e-8
    assert {p.name for p in found.ledger if p.kept.abs().max() > 1e-8} <= table.LAYERS
    if not {"add", "avg_pool2d"} & {p.name for p in found.ledger}:
        assert (found.input >= 0).all()
        assert all((r >= 0).all() for r in found.maps.values())


def test_epsilon_keeps_what_its_bias_and_epsilon_contribute():
    net = nn.Linear(2, 1).double()
    net.weight.data, net.bias.data = torch.ones(1, 2).double(), torch.ones(1).double()
    found = relevance(net, torch.ones(1, 2).double(), torch.ones(1, 1).double(),
                      Rules(linear=Epsilon(1.0)))  # fmt: skip
    assert found.input.tolist() == [[0.25, 0.25]]  # z = 2, bias 1, ε 1
    assert found.ledger[0].kept.tolist() == [0.5]
    assert found.unaccounted == 0


def test_permuting_filters_permutes_their_relevance():
    net, x = project_net("cnn_small", {})
    order = torch.randperm(32, generator=seeded(0))
    before = relevance(net, x, true_class(torch.tensor([3, 4])))
    first, norm, second = net.features[0], net.features[1], net.features[3]
    first.weight.data = first.weight.data[order]
    for t in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        t.copy_(t[order])
    second.weight.data = second.weight.data[:, order]
    after = relevance(net, x, true_class(torch.tensor([3, 4])))
    torch.testing.assert_close(after.maps["features.0"], before.maps["features.0"][:, order])
    torch.testing.assert_close(after.input, before.input)


def test_the_starts_size_ranks_alike_for_one_example_but_not_for_a_mixture():
    net, x = project_net("cnn_small", {})
    y = torch.tensor([0, 1])
    per = [relevance(net, x, true_class(y, logit=logit)).maps["features.3"].sum((2, 3))
           for logit in (False, True)]  # fmt: skip
    for one, scaled in zip(*per, strict=True):
        torch.testing.assert_close(one / one.sum(), scaled / scaled.sum())
    summed = [p.sum(0) / p.sum() for p in per]
    assert (summed[0] - summed[1]).abs().max() > 1e-3


# ---- exact or refused


def test_what_no_rule_knows_is_refused_by_name_unless_a_rule_is_given():
    net = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    x, start = torch.rand(2, 3, generator=seeded(0)).double(), true_class(torch.tensor([0, 1]))
    with pytest.raises(RelevanceError, match=r"1 \(layer_norm\): no rule says how"):
        relevance(net, x, start)
    found = relevance(net, x, start, own={"layer_norm": table.unchanged})
    assert found.unaccounted < 1e-12


class Custom(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.layer, self.f = nn.Linear(3, 3), f

    def forward(self, x):
        return self.f(self.layer(x))


def ignored(h):
    h.relu_()
    return h


@pytest.mark.parametrize(
    ("f", "message"),
    [
        (lambda h: h * h.flip(1), "a product of two maps"),
        (lambda h: h - h.flip(1), "only plain sums"),
        (ignored, "not one tensor made from the input|was overwritten before"),
        (lambda h: (h, h), "gives a tuple"),
        (lambda h: h @ h.T, "no rule says how"),
        (lambda h: torch.add(h, h.flip(1), alpha=2), "only plain sums"),
    ],
)
def test_what_no_rule_foresees_is_refused(f, message):
    x = torch.rand(3, 3, generator=seeded(0))
    with pytest.raises(RelevanceError, match=message):
        relevance(Custom(f), x, true_class(torch.tensor([0, 1, 2])))


def test_a_list_that_grows_after_it_was_concatenated_is_remembered_as_it_was():
    def grows(h):
        seen = [h]
        joined = torch.cat(seen, 1)
        seen.append(h)
        return joined

    x = torch.rand(3, 3, generator=seeded(0))
    assert relevance(Custom(grows), x, true_class(torch.tensor([0, 1, 2]))).unaccounted < 1e-6


def test_a_start_of_another_shape_is_refused():
    with pytest.raises(RelevanceError, match=r"shape \(1, 2\)"):
        relevance(nn.Linear(3, 2), torch.rand(1, 3), torch.ones(1, 3))


def test_the_net_and_its_modes_stay_as_they_are():
    net = build_model("resnet_small", generator=seeded(0)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.rand(2, 1, 28, 28, generator=seeded(1))
    relevance(net, x, true_class(torch.tensor([1, 0])))
    assert all(m.training for m in net.modules())
    assert all(torch.equal(v, net.state_dict()[k]) for k, v in before.items())
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("alpha", [(2, 0.5), (0.5, -0.5)])
def test_alpha_and_beta_that_do_not_conserve_are_refused(alpha):
    with pytest.raises(ValueError, match="α − β must be 1"):
        AlphaBeta(*alpha)


def test_what_no_operator_accounts_for_is_told_as_a_share_of_the_start():
    start, heat = torch.tensor([[4.0, 0.0], [1.0, -3.0]]), torch.tensor([[2.0], [-2.0]])
    passed = Passed("a", "linear", torch.tensor([4.0, -2.0]), torch.tensor([3.0, -2.0]))
    told = Explanation(start, start, heat, {}, [passed])
    assert told.kept.tolist() == [2.0, 0.0]
    assert told.unaccounted == 0.25  # 2 are missing of 4, and the ledger tells of 1


class Between(nn.Module):
    """Two layers and what stands between them."""

    def __init__(self, between):
        super().__init__()
        self.a, self.b, self.f = nn.Linear(3, 4), nn.Linear(4, 2), between

    def forward(self, x):
        return self.b(self.f(torch.relu(self.a(x))))


def added_in_place(y):
    out = y.clone()
    out += y.flip(1)
    return out


SAME = {
    "added in place": (added_in_place, lambda y: y.clone() + y.flip(1)),
    "times a number": (lambda y: y * 3.0, lambda y: y / (1 / 3.0)),
}


@pytest.mark.parametrize("name", SAME)
def test_another_way_to_write_it_hands_back_the_same(name):
    x, y = torch.rand(5, 3, generator=seeded(1)).double(), torch.tensor([0, 1, 0, 1, 1])
    found = []
    for between in SAME[name]:
        torch.manual_seed(0)
        found.append(relevance(Between(between).double(), x, true_class(y)).input)
    torch.testing.assert_close(*found)


def test_of_a_map_and_a_gate_on_it_the_map_takes_all():
    torch.manual_seed(0)
    net = Between(lambda y: y * torch.sigmoid(y.mean(1, keepdim=True))).double()
    x = torch.rand(5, 3, generator=seeded(1)).double()
    found = relevance(net, x, torch.ones(5, 2).double())
    (scaled,) = (p for p in found.ledger if p.name == "mul")
    torch.testing.assert_close(scaled.received, scaled.handed)
    (gate,) = (p for p in found.ledger if p.name == "sigmoid")
    assert gate.received.tolist() == [0.0] * 5
    assert float(found.maps["a"].abs().sum()) > 0


def test_a_batch_norm_behind_a_transposed_convolution_is_folded_into_it():
    torch.manual_seed(0)
    up, norm = nn.ConvTranspose2d(2, 3, 2, 2), nn.BatchNorm2d(3)
    norm.running_mean.uniform_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, -1, 1)
    tail = [nn.ReLU(), nn.Flatten(), nn.Linear(48, 2)]
    net = nn.Sequential(up, norm, *tail).double().eval()
    by_hand = copy.deepcopy(up)
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    by_hand.weight.data = up.weight.detach() * scale.detach()[None, :, None, None]
    by_hand.bias.data = ((up.bias - norm.running_mean) * scale + norm.bias).detach()
    x = torch.rand(4, 2, 2, 2, generator=seeded(2)).double()
    start = true_class(torch.tensor([0, 1, 1, 0]))
    folded = relevance(nn.Sequential(by_hand, *tail).eval(), x, start).input
    torch.testing.assert_close(relevance(net, x, start).input, folded)


class Unnamed(nn.Module):
    """A transposed convolution that is called as a function, its groups left at their default."""

    def __init__(self, up, rest):
        super().__init__()
        self.up, self.rest = up, rest

    def forward(self, x):
        return self.rest(F.conv_transpose2d(x, self.up.weight, self.up.bias, 2))


def test_groups_that_are_not_named_are_one():
    torch.manual_seed(0)
    up = nn.ConvTranspose2d(2, 3, 2, 2)
    rest = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))
    rest[0].running_mean.uniform_()
    x = torch.rand(4, 2, 2, 2, generator=seeded(2)).double()
    start = true_class(torch.tensor([0, 1, 1, 0]))
    named = relevance(nn.Sequential(up, *rest).double().eval(), x, start).input
    torch.testing.assert_close(relevance(Unnamed(up, rest).double().eval(), x, start).input, named)


@pytest.mark.parametrize("rows", [True, False])
def test_a_batch_norm_behind_a_linear_layer_is_folded_where_both_mean_the_same_axis(rows):
    """Of (N, C) it scales the layer's units; of (N, T, C) it scales places, no part of it."""
    torch.manual_seed(1)
    norm, linear = nn.BatchNorm1d(3), nn.Linear(4, 3)
    norm.running_mean.uniform_()
    norm.running_var.uniform_(0.5, 2)
    nn.init.uniform_(norm.weight, 0.5, 1)
    net = nn.Sequential(linear, norm, nn.ReLU()).double().eval().requires_grad_(False)
    x = torch.rand(2, 4, generator=seeded(3)).double()
    if not rows:
        x = torch.rand(2, 3, 4, generator=seeded(3)).double()
    tape = record(net, x)
    assert [bool(layer.norm) for layer in tape.layers if layer.name == "linear"] == [rows]


def test_a_sum_by_keyword_is_refused_in_a_sentence():
    net = Between(lambda y: torch.add(y, other=y.flip(1)))
    with pytest.raises(RelevanceError, match="only plain sums are known; give a rule for it"):
        relevance(net, torch.rand(2, 3), true_class(torch.tensor([0, 1])))


def test_a_constant_added_by_keyword_gets_nothing():
    net = Between(lambda y: torch.add(y, other=torch.ones(1, 4)))
    found = relevance(net, torch.rand(2, 3), true_class(torch.tensor([0, 1])))
    (passed,) = (p for p in found.ledger if p.name == "add")
    torch.testing.assert_close(passed.received, passed.handed)
