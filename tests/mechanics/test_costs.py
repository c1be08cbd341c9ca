"""Closed-form costs equal what is counted, call by call, on nets that were really made smaller."""

import numpy as np
import pytest
import torch
from torch import nn

from survey_lib.mechanics.costs import METRICS, Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.models import build_model
from tests.mechanics.toys import TOYS, Residual, Transposed, Twice, example
from tests.oracles.channels import random_recipe, randomised, removal_error


class BothAxes(nn.Module):
    """x + conv(x): one group on both axes of a weight, its cost a square of the channels kept."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.b = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.head((x + self.b(x)).mean((2, 3)))


class Steps(nn.Module):
    """Layers at each step of (B, T, C), and a mean over the steps."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(8, 6)
        self.b = nn.Linear(6, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):  # (B, C₀, H, W) → (B, T, W)
        x = torch.relu(self.b(torch.tanh(self.a(x.flatten(1, 2)))))
        return self.head(x.mean(1))


NETS = {**TOYS, "both axes": BothAxes, "steps": Steps}


def counted(model: nn.Module, x: torch.Tensor) -> dict[str, int]:
    """MACs, outputs and parameters per example; every call of every layer is looked at."""
    macs = outputs = 0

    def look(module, args, y):
        nonlocal macs, outputs
        transposed = isinstance(module, nn.ConvTranspose2d)
        # a weight is applied at each position of the output, a transposed one at each of the input
        t, axis = (args[0], 1) if transposed else (y, -1 if isinstance(module, nn.Linear) else 1)
        macs += t.numel() // t.shape[axis] * module.weight.numel()
        outputs += y.numel()

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    handles = [m.register_forward_hook(look) for m in model.modules() if isinstance(m, layers)]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    params = sum(p.numel() for p in model.parameters())
    return {"macs": macs // len(x), "activations": outputs // len(x), "params": params}


def kept_of(graph, recipe):
    return np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups])


CASES = [(k, m) for k in NETS for m in METRICS]


@pytest.mark.parametrize(("kind", "metric"), CASES)
def test_costs_equal_what_is_counted(kind, metric):
    model = randomised(NETS[kind]())
    x = example(model)
    graph = trace_groups(model, x)
    costs = Costs(graph, metric)
    assert costs.dense == counted(model, x)[metric]
    for seed in range(4):
        recipe = random_recipe(graph, seed)
        small = apply_recipe(model, graph, recipe)
        assert costs(kept_of(graph, recipe)) == counted(small, x)[metric]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", NETS)
def test_savings_equal_what_one_unit_less_saves(kind, metric):
    model = randomised(NETS[kind]())
    graph = trace_groups(model, example(model))
    costs = Costs(graph, metric)
    for seed in range(3):
        kept = np.maximum(kept_of(graph, random_recipe(graph, seed)), 2)
        kept = np.minimum(kept, costs.sizes)
        savings = costs.savings(kept)
        for i, group in enumerate(graph.groups):
            if not group.protected:
                less = kept - (np.arange(len(kept)) == i)
                assert savings[i] == costs(kept) - costs(less) > 0


def test_a_square_of_the_channels_by_hand():
    """k of 6 channels: a has 64·18·k MACs, b 64·9·k², the head 3·k; b's 9·k² need no bias."""
    model = randomised(BothAxes())
    graph = trace_groups(model, example(model))
    macs, params = Costs(graph, "macs"), Costs(graph, "params")
    assert [g.name for g in graph.groups] == ["a", "head"]
    for k in range(1, 7):
        assert macs(np.array([k, 3])) == 64 * 18 * k + 64 * 9 * k**2 + 3 * k
        assert params(np.array([k, 3])) == 19 * k + 9 * k**2 + 3 * k + 3
    saved = macs.savings(np.array([6, 3]))[0]
    assert saved == 64 * 18 + 64 * 9 * (36 - 25) + 3


def test_a_layer_called_twice_costs_twice_by_hand():
    """8 × 8 positions; the second layer, of 5 × 5 × 9 weights, is called twice."""
    graph = trace_groups(randomised(Twice()), example(Twice()))
    assert Costs(graph, "macs").dense == 64 * 90 + 2 * 64 * 225 + 15
    assert Costs(graph, "activations").dense == 64 * 5 + 2 * 64 * 5 + 3
    assert Costs(graph, "params").dense == 95 + 230 + 18


def test_a_transposed_layer_s_outputs_are_on_its_second_axis_by_hand():
    """6 channels on 4 × 4, then 5 on 8 × 8 made by a weight of (6, 5, 2, 2)."""
    graph = trace_groups(randomised(Transposed()), example(Transposed()))
    costs = Costs(graph, "activations")
    assert [g.name for g in graph.groups] == ["a", "up", "head"]
    assert costs(np.array([6, 5, 3])) == 16 * 6 + 64 * 5 + 3
    assert costs(np.array([4, 2, 3])) == 16 * 4 + 64 * 2 + 3
    assert costs.savings(np.array([6, 5, 3])).tolist()[:2] == [16, 64]


def test_a_head_saves_its_products_by_hand():
    """A head of width d on T tokens costs 4 · T · (4 d) · d weights and 2 · T² · d products."""
    model = build_model("char_gpt", generator=torch.Generator().manual_seed(0), width=0.25)
    x = torch.randint(65, (1, 12), generator=torch.Generator().manual_seed(1))
    graph = trace_groups(model, x)
    macs, params = Costs(graph, "macs"), Costs(graph, "params")
    at, group = next((i, g) for i, g in enumerate(graph.groups) if g.name.endswith("query"))
    module = model.get_submodule(group.name.rpartition(".")[0])
    width = module.query.in_features
    d = width // group.size
    assert macs.savings(macs.sizes)[at] == 4 * 12 * width * d + 2 * 12 * 12 * d
    assert params.savings(params.sizes)[at] == 4 * width * d
    less = macs.sizes - (np.arange(len(macs.sizes)) == at)
    assert macs.dense - macs(less) == 4 * 12 * width * d + 2 * 12 * 12 * d


def test_removal_behind_a_mean_over_steps_is_exact():
    """``x.mean(1)`` of (B, T, C) takes an axis before the channels': they are on axis 1 now."""
    model = randomised(Steps())
    x = example(model)
    graph = trace_groups(model, x)
    assert [g.name for g in graph.prunable] == ["a", "b"]
    for recipe in ({"a": [0, 3]}, {"b": [1, 2, 4]}, {"a": [5], "b": [0]}):
        off, moved, _ = removal_error(model, graph, recipe, x)
        assert off < 1e-10 < moved


class Moved(nn.Module):
    """The same, kept or not kept, from the back, by name, and with a layer per channel behind."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.a = nn.Linear(8, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = torch.tanh(self.a(x.flatten(1, 2)))  # (B, T, C)
        return self.head(self.norm(self.how(x)))


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x.mean(1),
        lambda x: x.mean(dim=-2),
        lambda x: torch.mean(x, 1),
        lambda x: x.sum((1,)),
        lambda x: x.amax(1),
        lambda x: x.unsqueeze(1).mean((1, 2)),
        lambda x: x.mean(1, keepdim=True).flatten(1),
    ],
)
def test_a_mean_before_the_channels_moves_them(how):
    model = randomised(Moved(how))
    x = example(model)
    graph = trace_groups(model, x)
    assert [g.name for g in graph.prunable] == ["a"]
    off, moved, small = removal_error(model, graph, {"a": [0, 2, 5]}, x)
    assert off < 1e-10 < moved
    assert small.norm.num_features == small.head.in_features == 3


def test_a_stream_on_both_axes_loses_both():
    model = randomised(Residual())
    x = example(model)
    graph = trace_groups(model, x)
    off, moved, small = removal_error(model, graph, {"a": [1, 4]}, x)
    assert off < 1e-10 < moved
    assert small.b.weight.shape == (2, 2, 3, 3)
    assert torch.equal(small.b.weight, model.b.weight[[1, 4]][:, [1, 4]])
