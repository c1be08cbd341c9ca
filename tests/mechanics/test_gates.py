"""Layers are found by the weight they are called with, wherever and however they are called."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import _get_current_function_mode_stack

from survey_lib.mechanics.gates import GateGradients, at_readers, gated, input_positions, readers
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import Slice
from survey_lib.mechanics.statistics import activations, fisher, gate_gradients
from tests.mechanics.toys import TOYS, Depthwise, Flattened, Grouped, Residual, Tokens, example
from tests.oracles.channels import randomised


def loss(logits, y):
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def case(make, n=4):
    model = randomised(make())
    x = example(model, n)
    return model, trace_groups(model, x), x, torch.arange(n) % 3


class Padded(nn.Conv2d):
    """A convolution with a forward of its own, as timm's are."""

    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


class Named(nn.Linear):
    def forward(self, x):
        return F.linear(weight=self.weight, input=x, bias=self.bias)


class OwnForward(Residual):
    """The residual toy, its layers called in three other ways."""

    def __init__(self):
        super().__init__()
        self.b = Padded(6, 6, 3)
        self.head = Named(6, 3)

    def forward(self, x):
        x = torch.conv2d(input=x, weight=self.a.weight, bias=None, padding=1)
        x = F.relu(self.norm(x))
        x = x + self.b(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def twins():
    """The same net twice: called as torch's layers, and as functions. And one graph for both."""
    usual, graph, x, y = case(Residual)
    own = OwnForward().double().eval()
    own.load_state_dict(usual.state_dict())
    torch.testing.assert_close(own(x), usual(x), rtol=0, atol=1e-12)
    return usual, own, graph, x, y


def test_gradients_do_not_depend_on_how_a_layer_is_called():
    usual, own, graph, x, y = twins()
    wanted = gate_gradients(usual, graph, loss, x, y).single()
    found = gate_gradients(own, graph, loss, x, y).single()
    for group, copies in wanted.items():
        assert set(copies) == set(found[group])
        for layer, g in copies.items():
            torch.testing.assert_close(found[group][layer], g, rtol=0, atol=1e-12)
            assert g.abs().max() > 1e-4


def test_gates_do_not_depend_on_how_a_layer_is_called():
    usual, own, graph, x, _ = twins()
    masks = {"a": torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 2.0])}
    with gated(usual, graph, masks):
        wanted = usual(x)
    with gated(own, graph, masks):
        found = own(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    assert (found - own(x)).abs().max() > 1e-2


def test_activations_do_not_depend_on_how_a_layer_is_called():
    class AsFunctions(Flattened):
        def forward(self, x):
            x = torch.tanh(self.a(x)).flatten(1)
            x = F.linear(x, self.hidden.weight, bias=self.hidden.bias)
            return F.linear(torch.tanh(self.norm(x)), weight=self.head.weight, bias=self.head.bias)

    usual, graph, x, _ = case(Flattened)
    own = AsFunctions().double().eval()
    own.load_state_dict(usual.state_dict())
    wanted, found = activations(usual, graph, [x]), activations(own, graph, [x])
    assert set(found) == set(wanted) == {"a", "hidden"}
    for name in wanted:
        torch.testing.assert_close(found[name].mean, wanted[name].mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found[name].map, wanted[name].map, rtol=0, atol=1e-12)


class Rows(nn.Module):
    """Convolution over time, one transposed, one grouped, then a layer at each step."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv1d(2, 6, 3, padding=1)
        self.up = nn.ConvTranspose1d(6, 4, 2, stride=2)
        self.deep = nn.Conv1d(4, 8, 3, padding=1, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = torch.tanh(self.deep(torch.tanh(self.up(torch.tanh(self.a(x))))))
        return self.head(x.mean(2))


def test_one_axis_of_space_and_transposed_layers():
    model = randomised(Rows())
    x = torch.randn(3, 2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = trace_groups(model, x)
    found = gate_gradients(model, graph, loss, x, torch.arange(3)).single()
    assert {name: list(copies) for name, copies in found.items()} == {
        "a": ["up"],
        "up": ["deep", "head"],
    }
    eps = 1e-6
    for name, layer, unit in (("a", "up", 5), ("up", "deep", 1), ("up", "head", 0)):
        wide = {
            "up": [unit],
            "deep": [2 * unit, 2 * unit + 1],
            "head": range(4 * unit, 4 * unit + 4),
        }
        ends = []
        for sign in (1, -1):
            factor = torch.ones(1, {"up": 6, "deep": 4, "head": 8}[layer], dtype=torch.float64)
            factor[:, list(wide[layer])] += sign * eps
            factor = factor[:, :, None] if layer != "head" else factor
            handle = getattr(model, layer).register_forward_pre_hook(
                lambda m, a, factor=factor: (a[0] * factor,)
            )
            with torch.no_grad():
                out = model(x)
            ends.append(F.cross_entropy(out, torch.arange(3), reduction="none"))
            handle.remove()
        slope = (ends[0] - ends[1]) / (2 * eps)
        torch.testing.assert_close(found[name][layer][:, unit], slope, rtol=1e-6, atol=1e-8)


def test_a_matrix_that_two_layers_share_is_one_reader():
    model = randomised(Tokens())
    x = example(model, 4)
    graph = trace_groups(model, x)
    y = torch.arange(16).view(4, 4) % 3
    found = gate_gradients(model, graph, loss, x, y).single()
    assert {name: list(copies) for name, copies in found.items()} == {
        "embed": ["a"],  # a and c
        "a": ["b", "head"],
    }


def test_whose_masks_are_held():
    model, graph, *_ = case(Grouped)
    assert list(readers(graph)) == [("g", "weight"), ("b", "weight"), ("head", "weight")]
    assert list(readers(graph, carriers=False)) == [("b", "weight"), ("head", "weight")]
    with at_readers(model, graph, lambda *_: None) as paths:
        assert paths == ("g", "b", "head")


def test_where_units_lie_on_the_input():
    import numpy as np

    def at(axis, positions, weight, channels, **kind):
        s = Slice("", "weight", axis, "in", np.array(positions))
        return input_positions(s, weight, channels, **kind).tolist()

    assert at(1, [[0], [2]], (5, 3, 1), 3) == [[0], [2]]
    assert at(1, [[0, 1], [2, 3]], (5, 4), 4) == [[0, 1], [2, 3]]
    # four groups of 2 inputs and 3 outputs: whole groups, two units of two groups
    assert at(0, [[0, 1, 2], [3, 4, 5]], (12, 2, 3, 3), 8) == [[0, 1], [2, 3]]
    assert at(0, [[0, 1, 2, 6, 7, 8], [3, 4, 5, 9, 10, 11]], (12, 2, 3, 3), 8) == [
        [0, 1, 4, 5],
        [2, 3, 6, 7],
    ]
    # the same share of every group
    assert at(1, [[0], [1]], (12, 2, 3, 3), 8) == [[0, 2, 4, 6], [1, 3, 5, 7]]
    # depthwise, three outputs of each input
    assert at(0, [[0, 1, 2], [3, 4, 5]], (6, 1, 3), 2) == [[0], [1]]
    assert at(0, [[3], [1]], (6, 5, 2, 2), 6, transposed=True) == [[3], [1]]


def test_gates_come_before_what_is_watched_and_contexts_may_end_in_any_order():
    model, graph, x, _ = case(Depthwise)
    masks = {"a": torch.tensor([1.0, 0.0, 1.0, 1.0, 3.0, 1.0])}
    seen = {}

    def look(path, x, axis, at):
        seen[path] = x.detach().clone()

    def context():
        with gated(model, graph, masks):
            yield

    first = context()
    next(first)
    second = at_readers(model, graph, look)
    second.__enter__()
    model(x)
    masked = seen["b"]
    assert masked[:, 1].abs().max() == 0 < masked[:, 0].abs().max()
    first.close()  # before the one that began later
    assert not _get_current_function_mode_stack()
    plain = model(x)
    assert seen["b"][:, 1].abs().max() > 0
    second.__exit__(None, None, None)
    seen.clear()
    assert torch.equal(model(x), plain)
    assert not seen
    assert not model._forward_pre_hooks
    assert not model._forward_hooks


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_pass_leaves_nothing_behind(error):
    model, graph, x, y = case(Residual)

    def stop(*_):
        raise error

    handle = model.norm.register_forward_hook(stop)
    gates = gated(model, graph, {"a": torch.zeros(6)})
    with pytest.raises(error), gates, GateGradients(model, graph):
        model(x)
    handle.remove()
    assert not _get_current_function_mode_stack()
    assert not model._forward_pre_hooks
    assert (model(x) - model(x)).abs().max() == 0
    assert fisher(model, graph, loss, [(x, y)])["a"].abs().max() > 0


def test_what_is_computed_beside_the_net_is_left_alone():
    model, graph, x, _ = case(Residual)
    plain = model(x)
    with gated(model, graph, {"a": torch.zeros(6)}):
        twin = copy.deepcopy(model)
        assert not _get_current_function_mode_stack()
        assert torch.equal(twin(x), plain)  # a copy has weights of its own
        assert (model(x) - plain).abs().max() > 1e-3


@pytest.mark.parametrize("frozen", ["all", "first", "head"])
@pytest.mark.parametrize("kind", [k for k in TOYS if k != "shared matrix"])
def test_frozen_weights_change_no_gradient(kind, frozen):
    model, graph, x, y = case(TOYS[kind])
    wanted = gate_gradients(model, graph, loss, x, y).single()
    for name, p in model.named_parameters():
        if frozen == "all" or name.startswith("a." if frozen == "first" else "head."):
            p.requires_grad_(False)
    found = gate_gradients(model, graph, loss, x, y).single()
    for group, copies in wanted.items():
        for layer, g in copies.items():
            assert torch.equal(found[group][layer], g)
    assert all(p.grad is None for p in model.parameters())


def test_half_precision_by_autocast():
    model, graph, x, y = case(Residual)
    model, x = model.float(), x.float()
    wanted = gate_gradients(model, graph, loss, x, y).coupled()["a"]

    def half(z, y):
        return loss(z.float(), y)

    with torch.autocast("cpu", torch.bfloat16):
        assert model(x).dtype == torch.bfloat16
        found = gate_gradients(model, graph, half, x, y).coupled()["a"]
        with gated(model, graph, {"a": torch.ones(6)}):
            same = model(x)
        assert torch.equal(same, model(x))
    assert (found - wanted).abs().max() < 0.05 * wanted.abs().max()
    assert not torch.equal(found.float(), wanted)
