"""Removal is exact for every kind of coupling, on every model of the project."""

import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_activations, count_parameters
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.sparse import StorageError
from survey_lib.mechanics.surgery import (
    RecipeError,
    apply_recipe,
    full_recipe,
    load_compressed,
    save_compressed,
)
from survey_lib.tasks.models import build_model
from tests.mechanics.toys import TOYS, Flattened, Plain, Tokens, example
from tests.oracles.channels import (
    random_recipe,
    randomised,
    removal_error,
    silenced_output,
)

EXACT = 1e-10
PROJECT = {
    "mlp": ("mlp", {"width": 0.1}),
    "cnn_small": ("cnn_small", {"width": 0.25}),
    "cnn_small without norm": ("cnn_small", {"width": 0.25, "bn": False}),
    "vgg_small": ("vgg_small", {"width": 0.5}),
    "vgg_small fc": ("vgg_small", {"width": 0.5, "head": "fc", "bn": False}),
    "resnet_small": ("resnet_small", {"width": 0.5, "blocks": 2}),
    "resnet_small grouped": ("resnet_small", {"groups": 4}),
    "densenet_small": ("densenet_small", {"width": 0.5}),
    "densenet_small bottleneck": ("densenet_small", {"width": 0.5, "bottleneck": 2}),
    "mobilenet_small": ("mobilenet_small", {"width": 0.5}),
    "char_gpt": ("char_gpt", {"width": 0.25}),
}


def project_net(name):
    model, options = PROJECT[name]
    net = randomised(build_model(model, generator=torch.Generator().manual_seed(0), **options))
    g = torch.Generator().manual_seed(1)
    if model == "char_gpt":
        return net, torch.randint(65, (2, 12), generator=g)
    return net, torch.randn(2, 1, 28, 28, generator=g, dtype=torch.float64)


@st.composite
def recipes(draw, graph):
    return {
        g.name: sorted(draw(st.sets(st.integers(0, g.size - 1), min_size=1)))
        for g in graph.prunable
    }


@pytest.mark.parametrize("kind", TOYS)
def test_removal_equals_zeroing_at_the_consumers(kind):
    model = randomised(TOYS[kind]())
    x = example(model)
    graph = trace_groups(model, x)
    assert graph.prunable

    @settings(max_examples=12, deadline=None, derandomize=True)
    @given(recipes(graph))
    def check(recipe):
        off, moved, small = removal_error(model, graph, recipe, x)
        assert off < EXACT
        gone = sum(g.size for g in graph.prunable) - sum(map(len, recipe.values()))
        assert (moved > 1e-6) == (gone > 0)  # what goes mattered
        kept = np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups])
        assert Costs(graph, "params")(kept) == count_parameters(small)

    check()


@pytest.mark.parametrize("name", PROJECT)
def test_removal_is_exact_and_costs_are_known_before_it(name):
    model, x = project_net(name)
    graph = trace_groups(model, x)
    for seed in range(3):
        recipe = random_recipe(graph, seed)
        off, moved, small = removal_error(model, graph, recipe, x)
        assert off < EXACT < moved
        kept = np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups])
        assert Costs(graph, "params")(kept) == count_parameters(small)
        assert Costs(graph, "macs")(kept) == count_macs(small, x)
        assert Costs(graph, "activations")(kept) == count_activations(small, x)
    assert Costs(graph, "macs").dense == count_macs(model, x)


@pytest.mark.parametrize("metric", ["macs", "params", "activations"])
def test_savings_equal_what_the_next_removal_saves(metric):
    model, x = project_net("mobilenet_small")
    graph = trace_groups(model, x)
    costs = Costs(graph, metric)
    kept = np.array([max(1, g.size - 1) for g in graph.groups])
    savings = costs.savings(kept)
    for i, group in enumerate(graph.groups):
        if not group.protected:
            less = kept.copy()
            less[i] -= 1
            assert savings[i] == costs(kept) - costs(less) > 0


@pytest.mark.parametrize("kind", ["residual", "grouped", "concatenated", "flattened"])
def test_a_small_net_trains_on(kind):
    model = randomised(TOYS[kind]())
    x = example(model, 6)
    graph = trace_groups(model, x)
    small = apply_recipe(model, graph, random_recipe(graph, 1)).train()
    optimiser = torch.optim.SGD(small.parameters(), 0.1)
    before = [p.clone() for p in small.parameters()]
    small(x).square().mean().backward()
    optimiser.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, small.parameters(), strict=True))
    assert all(p.is_leaf and p.requires_grad for p in small.parameters())


def test_the_dense_net_is_untouched_and_shares_nothing():
    model = randomised(Plain())
    before = copy.deepcopy(model.state_dict())
    graph = trace_groups(model, example(model))
    small = apply_recipe(model, graph, {"a": [0, 2]})
    with torch.no_grad():
        for p in small.parameters():
            p.fill_(7.0)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert (model.a.out_channels, small.a.out_channels, small.b.in_channels) == (6, 2, 2)
    assert small.norm.num_features == 2


def test_in_place_gives_the_same_net():
    model = randomised(Tokens())
    x = example(model)
    graph = trace_groups(model, x)
    recipe = random_recipe(graph, 3)
    small = apply_recipe(model, graph, recipe)
    same = apply_recipe(model, graph, recipe, inplace=True)
    assert same is model
    assert torch.equal(small(x), model(x))
    assert model.a.weight is model.c.weight  # what was shared still is


def test_a_shared_matrix_stays_shared():
    model = randomised(Tokens())
    graph = trace_groups(model, example(model))
    small = apply_recipe(model, graph, random_recipe(graph, 0))
    assert small.a.weight is small.c.weight
    assert any(t.startswith("shared") for g in graph.groups for t in g.ties)


def test_the_memory_layout_and_frozen_weights_are_kept():
    model = randomised(Plain()).to(memory_format=torch.channels_last)
    model.b.weight.requires_grad_(False)
    graph = trace_groups(model, example(model))
    small = apply_recipe(model, graph, {"a": [0, 1, 4]})
    assert small.b.weight.is_contiguous(memory_format=torch.channels_last)
    assert not small.b.weight.requires_grad
    assert small.a.weight.requires_grad


# Folding constants.


class Unpadded(nn.Module):
    """A norm's shift revives silenced channels; nothing is padded."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 4, 3, bias=False)
        self.head = nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.norm(self.a(x))))).flatten(1))


@pytest.mark.parametrize(
    ("make", "recipe"),
    [(Unpadded, {"a": [1, 4], "b": [0, 3]}), (Flattened, {"a": [0, 3], "hidden": [2, 3, 5]})],
)
def test_folding_equals_silencing_the_producers(make, recipe):
    model = randomised(make())
    x = example(model)
    graph = trace_groups(model, x)
    folded = apply_recipe(model, graph, recipe, fold=x)
    assert (folded(x) - silenced_output(model, graph, recipe, x)).abs().max() < EXACT
    plain = apply_recipe(model, graph, recipe)
    assert (folded(x) - plain(x)).abs().max() > 1e-3  # the constant is not nothing


def test_two_examples_are_enough_to_fold_and_one_is_not():
    model = randomised(Unpadded())
    x, recipe = example(model), {"a": [1, 4]}
    graph = trace_groups(model, x)
    folded = apply_recipe(model, graph, recipe, fold=x[:2])
    assert (folded(x) - silenced_output(model, graph, recipe, x)).abs().max() < EXACT
    with pytest.raises(RecipeError, match="at least two examples"):
        apply_recipe(model, graph, recipe, fold=x[:1])


def test_folding_into_a_padded_convolution_is_refused():
    model = randomised(TOYS["residual"]())
    x = example(model)
    graph = trace_groups(model, x)
    with pytest.raises(RecipeError, match=r"b: a constant cannot be folded into a padded"):
        apply_recipe(model, graph, {"a": [0]}, fold=x)


def test_a_bias_that_folding_added_is_saved_and_loaded(tmp_path):
    model = randomised(Unpadded())
    x = example(model)
    graph = trace_groups(model, x)
    recipe = {"a": [1, 4]}
    folded = apply_recipe(model, graph, recipe, fold=x)
    save_compressed(folded, graph, recipe, tmp_path)
    assert torch.equal(load_compressed(tmp_path, randomised(Unpadded(), 9), x)(x), folded(x))


# Files.


@pytest.mark.parametrize("name", ["resnet_small grouped", "densenet_small", "char_gpt"])
def test_saved_and_loaded_gives_the_same_output(name, tmp_path):
    model, x = project_net(name)
    graph = trace_groups(model, x)
    recipe = random_recipe(graph, 0)
    small = apply_recipe(model, graph, recipe)
    size = save_compressed(small, graph, recipe, tmp_path, constructor=name)
    dense = copy.deepcopy(model)
    with torch.no_grad():
        for p in dense.parameters():
            p.zero_()
    again = load_compressed(tmp_path, dense, x)
    assert torch.equal(again(x), small(x))
    assert size == (tmp_path / "weights.safetensors").stat().st_size
    assert json.loads((tmp_path / "recipe.json").read_text())["constructor"] == name


def saved(tmp_path):
    model, x = project_net("resnet_small")
    graph = trace_groups(model, x)
    recipe = random_recipe(graph, 0)
    save_compressed(apply_recipe(model, graph, recipe), graph, recipe, tmp_path)
    return model, x


def test_a_damaged_file_is_one_clear_sentence(tmp_path):
    model, x = saved(tmp_path)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(StorageError, match="damaged, or not the file"):
        load_compressed(tmp_path, model, x)
    for text in ("{", "[" * 100_000):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(StorageError, match="not readable as JSON"):
            load_compressed(tmp_path, model, x)
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(StorageError, match="not written by save_compressed"):
        load_compressed(tmp_path, model, x)
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(StorageError, match="no such file"):
        load_compressed(tmp_path, model, x)


def test_the_file_of_another_net_is_refused(tmp_path):
    saved(tmp_path)
    other, x = project_net("mobilenet_small")
    with pytest.raises(StorageError, match="the recipe of another net"):
        load_compressed(tmp_path, other, x)


# Recipes that don't fit.


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"nowhere": [0]}, "no channel group 'nowhere'"),
        ({"a": []}, "a: at least one of its 6 units must stay"),
        ({"a": [0, 6]}, "a: kept units must be distinct numbers below 6"),
        ({"a": [1, 1]}, "a: kept units must be distinct"),
        ({"a": [-1]}, "a: kept units must be distinct"),
        ({"head": [0, 1]}, r"head is protected \(output of the net\)"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_clear_sentence(recipe, message):
    model = randomised(Plain())
    graph = trace_groups(model, example(model))
    with pytest.raises(RecipeError, match=message):
        apply_recipe(model, graph, recipe)


def test_the_full_recipe_changes_nothing():
    model = randomised(Plain())
    x = example(model)
    graph = trace_groups(model, x)
    assert torch.equal(apply_recipe(model, graph, full_recipe(graph))(x), model(x))


class Biased(nn.Module):
    """Keeps a bias computed from its weights, and drops it when moved, as timm's attention does."""

    def __init__(self, width: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(width))
        self.kept: Tensor | None = None

    def forward(self, x):
        if self.kept is None:
            self.kept = self.table.detach().exp()
        return x * self.kept

    def _apply(self, fn, recurse=True):
        self.kept = None
        return super()._apply(fn, recurse)


@pytest.mark.parametrize("inplace", [False, True])
def test_what_a_module_computed_from_its_weights_and_keeps_is_computed_anew(inplace):
    model = randomised(nn.Sequential(nn.Linear(4, 6), Biased(6), nn.Linear(6, 2)))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).double()
    output = model(x)
    assert model[1].kept is not None  # it has run before it is traced
    graph = trace_groups(model, x)
    assert [g.name for g in graph.prunable] == ["0"]
    torch.testing.assert_close(model(x), output)
    with torch.no_grad():
        model[2].weight[:, [1, 4]] = 0
    want = model(x)
    assert model[1].kept is not None  # and again before it is cut
    small = apply_recipe(model, graph, {"0": [0, 2, 3, 5]}, inplace=inplace)
    assert small[1].table.shape == (4,)
    torch.testing.assert_close(small(x), want, rtol=0, atol=EXACT)
