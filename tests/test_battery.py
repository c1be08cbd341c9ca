"""What every method must satisfy, whatever paper it comes from: by kind."""

import copy
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from survey_lib.measure.size import file_bytes
from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.sparse import load_sparse, save_sparse
from survey_lib.mechanics.surgery import apply_recipe, load_compressed, save_compressed
from survey_lib.methods import METHODS, baselines, loss_modelling, to_prune_or_not
from survey_lib.methods.closer_look import method as closer_look
from survey_lib.methods.group_fisher import method as group_fisher
from survey_lib.methods.llm_int8 import method as llm_int8
from survey_lib.methods.llm_int8.linear import quantize
from survey_lib.methods.thinet import method as thinet
from survey_lib.methods.thinet import variants
from survey_lib.tasks.data import Split, Splits
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task
from survey_lib.tasks.train import evaluate
from tests.conftest import in_double

FAST = to_prune_or_not.Config(n=5)
CASES = {
    "to_prune_or_not": (to_prune_or_not, FAST),
    "global": (to_prune_or_not, to_prune_or_not.Config(n=5, scope="global")),
    "loss_modelling": (loss_modelling, loss_modelling.Config("QM", 3, examples=100)),
    "linear model": (loss_modelling, loss_modelling.Config("LM", 2, examples=100)),
    "magnitude": (baselines, baselines.Config("magnitude")),
    "random": (baselines, baselines.Config("random")),
}
KEEP = 0.3


def compress(case, task, seed=0):
    module, config = CASES[case]
    model = task.build(seeded(0))
    return module.compress(model, task, Budget("nonzeros", KEEP), config, generator=seeded(seed))


def test_every_method_module_declares_how_it_is_steered():
    for slug, name in METHODS.items():
        module = importlib.import_module(name)
        assert slug in name.split(".")  # a module, or a package that holds the paper's module
        assert module.STEERS in ("budget", "outcome")
        assert module.KIND in ("channels", "weights", "bits", "protocol")
        assert callable(module.compress)
        assert module.Config.__dataclass_params__.frozen


@pytest.mark.parametrize("case", CASES)
def test_the_given_model_is_untouched(case, tiny_task):
    module, config = CASES[case]
    model = tiny_task.build(seeded(0))
    before = copy.deepcopy(model.state_dict())
    module.compress(model, tiny_task, Budget("nonzeros", KEEP), config, generator=seeded(1))
    after = model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("case", CASES)
def test_the_budget_is_met_within_one_weight_a_layer(case, tiny_task):
    result = compress(case, tiny_task)
    total = sum(p.numel() for p in result.model.parameters())
    cut = sum(int((~m).sum()) for m in result.masks.values())
    assert abs(total - cut - KEEP * total) <= len(result.masks)
    # really zero in the net; a dead channel's bias may add a few zeros of its own
    zeros = sum(int((p == 0).sum()) for p in result.model.parameters())
    assert cut <= zeros < cut + 0.01 * total
    assert sum(row["kept"] for row in result.table) == sum(int(m.sum()) for m in
                                                           result.masks.values())  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_same_seed_same_bytes_other_seed_other_bytes(case, tiny_task):
    a, b, c = (compress(case, tiny_task, seed).model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize("case", CASES)
def test_saved_and_loaded_gives_the_same_output_in_fewer_bytes(case, tiny_task, tmp_path):
    result = compress(case, tiny_task)
    path = tmp_path / "net.safetensors"
    written = save_sparse(result.model, path)
    again = load_sparse(tiny_task.build(seeded(9)), path).eval()
    x = tiny_task.example(8)
    assert torch.equal(again(x), result.model(x))
    dense = sum(t.numel() * t.element_size() for t in result.model.state_dict().values())
    assert written < 0.6 * dense


@pytest.mark.parametrize("case", CASES)
def test_no_tensor_is_made_on_an_assumed_device(case, tiny_task):
    """A tensor made without naming a device would land on ``meta`` here and fail."""
    torch.set_default_device("meta")
    try:
        with torch.device("cpu"):
            model = tiny_task.build(seeded(0))
        module, config = CASES[case]
        result = module.compress(
            model, tiny_task, Budget("nonzeros", KEEP), config, generator=seeded(0)
        )
    finally:
        torch.set_default_device(None)
    assert {p.device.type for p in result.model.parameters()} == {"cpu"}


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_magnitude_masks_follow_a_permutation_of_the_weights(scope):
    generator = torch.Generator().manual_seed(0)
    weights = {k: torch.randn(12, 9, dtype=torch.float64, generator=generator) for k in "ab"}
    order = torch.randperm(12, generator=generator)
    plain = to_prune_or_not.MaskedWeights({k: w.clone() for k, w in weights.items()})
    moved = to_prune_or_not.MaskedWeights({k: w[order].clone() for k, w in weights.items()})
    plain.prune_to(0.6, scope)
    moved.prune_to(0.6, scope)
    for k in weights:
        assert torch.equal(plain.masks[k][order], moved.masks[k])


def test_gradual_magnitude_beats_random_masks(tiny_mlp_task):
    """At a budget this small the choice of weights decides; random scores would fail here."""
    budget = Budget("nonzeros", 0.08)
    accuracy = {}
    for name, module, config in (
        ("gradual", to_prune_or_not, to_prune_or_not.Config(n=10)),
        ("random", baselines, baselines.Config("random")),
    ):
        runs = []
        for seed in range(4):
            model = tiny_mlp_task.build(seeded(seed))
            result = module.compress(model, tiny_mlp_task, budget, config, generator=seeded(seed))
            runs.append(evaluate(result.model, tiny_mlp_task.test, tiny_mlp_task)["loss"])
        accuracy[name] = sum(runs) / len(runs)
    assert accuracy["gradual"] < 0.8 * accuracy["random"]


# ---- methods of kind ``channels``: a new one adds a case


@dataclass(frozen=True)
class Channels:
    """A channel method to be tried on the test CNN."""

    module: ModuleType
    config: Any
    """Tunes a little."""
    untuned: Any
    """Chooses and removes, nothing else: the choice is then a function of the net."""
    random: bool = False
    """True where the choice does not depend on the net."""


SHORT = {"images": 5, "pairs": 20, "layer_epochs": 0.5, "final_epochs": 1.0}
STILL = SHORT | {"layer_epochs": 0.0, "final_epochs": 0.0}


def opponent(criterion):
    short, still = thinet.Config(**SHORT), thinet.Config(**STILL)
    configs = (variants.Config(criterion, c) for c in (short, still))
    return Channels(variants, *configs, random=criterion == "random")


def long_run(criterion, **more):
    """One short interval a channel; ``untuned`` at rate 0."""
    configs = (closer_look.Config(criterion, interval=2, lr=lr, **more) for lr in (0.01, 0.0))
    return Channels(closer_look, *configs, random=criterion == "random")


CHANNELS = {
    "thinet": Channels(thinet, thinet.Config(**SHORT), thinet.Config(**STILL)),
    "thinet, no scalars": Channels(
        thinet, thinet.Config(rescale=False, **SHORT), thinet.Config(rescale=False, **STILL)
    ),
    **{name: opponent(name) for name in variants.CHOICES},
    **{
        f"group fisher {per}": Channels(
            group_fisher,
            group_fisher.Config(per=per, d=2, tune_epochs=1.0, tune_lr=0.05),
            group_fisher.Config(per=per, d=1, lr=0.0, tune_epochs=0.0),
        )
        for per in group_fisher.SAVINGS
    },
    **{f"long run, {name}": long_run(name) for name in ("fisher", "l1_signed", "random")},
    "long run, Fisher and MACs": long_run("fisher", beta=0.1),
}
MACS = Budget("macs", 0.5)


def cut(case, task, *, budget=MACS, seed=0, model=None, tuned=True):
    """The case's method on the test CNN (untrained), and the graph of the dense net."""
    chosen = CHANNELS[case]
    model = model or task.build(seeded(0)).eval()
    config = chosen.config if tuned else chosen.untuned
    result = chosen.module.compress(model, task, budget, config, generator=seeded(seed))
    return result, trace_groups(model, task.example(1))


def cost(graph, recipe, metric="macs", more=0):
    """Of a recipe, with ``more`` units put back into every group that lost some."""
    kept = np.array([
        min(g.size, len(recipe[g.name]) + more) if g.name in recipe else g.size
        for g in graph.groups
    ])  # fmt: skip
    return Costs(graph, metric)(kept) / Costs(graph, metric).dense


def permuted(model, group, order):
    """The same function with the units of one group in another order."""
    model = copy.deepcopy(model)
    for s in group.slices:
        tensor = getattr(model.get_submodule(s.module), s.tensor).data
        index, positions = torch.arange(tensor.shape[s.axis]), torch.from_numpy(s.positions)
        index[positions.ravel()] = positions[order].ravel()
        tensor.copy_(tensor.index_select(s.axis, index))
    return model


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_leave_the_given_model_untouched(case, tiny_task):
    model = tiny_task.build(seeded(0)).eval()
    before = copy.deepcopy(model.state_dict())
    cut(case, tiny_task, model=model)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("metric", ["macs", "params", "activations"])
@pytest.mark.parametrize("case", CHANNELS)
def test_channels_meet_the_budget_within_one_step(case, metric, tiny_task):
    budget = Budget(metric, 0.6)
    result, graph = cut(case, tiny_task, budget=budget, tuned=False)
    assert cost(graph, result.recipe, metric) <= 0.6 < cost(graph, result.recipe, metric, more=1)
    small = trace_groups(result.model, tiny_task.example(1))
    dense = Costs(graph, metric).dense
    assert Costs(small, metric).dense == round(cost(graph, result.recipe, metric) * dense)


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_refuse_a_budget_out_of_reach(case, tiny_task):
    with pytest.raises(BudgetNotMet):
        cut(case, tiny_task, budget=Budget("macs", 0.001))


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_same_seed_same_bytes_other_seed_other_bytes(case, tiny_task):
    a, b, c = (cut(case, tiny_task, seed=seed)[0].model.state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_saved_and_loaded_give_the_same_output(case, tiny_task, tmp_path):
    result, graph = cut(case, tiny_task)
    written = save_compressed(result.model, graph, result.recipe, tmp_path)
    x = tiny_task.example(8)
    again = load_compressed(tmp_path, tiny_task.build(seeded(9)), x)
    assert torch.equal(again(x), result.model(x))
    dense = sum(t.numel() * t.element_size() for t in tiny_task.build(seeded(0)).parameters())
    assert written < dense


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_make_no_tensor_on_an_assumed_device(case, tiny_task):
    torch.set_default_device("meta")
    try:
        with torch.device("cpu"):
            model = tiny_task.build(seeded(0)).eval()
        result, _ = cut(case, tiny_task, model=model)
    finally:
        torch.set_default_device(None)
    assert {p.device.type for p in result.model.parameters()} == {"cpu"}


@pytest.mark.parametrize("case", [c for c, chosen in CHANNELS.items() if not chosen.random])
def test_channels_chosen_follow_a_permutation_of_the_units(case, tiny_task):
    """Of the first group that is cut, so that what is sampled elsewhere stays the same."""
    task = in_double(tiny_task)
    model = task.build(seeded(4)).double().eval()
    plain, graph = cut(case, task, model=model, tuned=False)
    first = next(iter(plain.recipe))
    order = torch.randperm(graph[first].size, generator=seeded(5))
    moved = permuted(model, graph[first], order)
    torch.testing.assert_close(moved(task.example(9)), model(task.example(9)))
    other, _ = cut(case, task, model=moved, tuned=False)
    assert other.recipe[first] != plain.recipe[first]
    kept = sorted(order[other.recipe.pop(first)].tolist())
    assert {first: kept} | other.recipe == plain.recipe


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_recipe_and_table_tell_the_same(case, tiny_task):
    result, graph = cut(case, tiny_task, tuned=False)
    by_name = {row["layer"]: row for row in result.table}
    for name, kept in result.recipe.items():
        assert by_name[name]["channels"] == graph[name].size
        assert by_name[name]["kept"] == len(kept) < graph[name].size
    shapes = [p.shape for p in apply_recipe(
        tiny_task.build(seeded(0)), graph, result.recipe).parameters()]  # fmt: skip
    assert shapes == [p.shape for p in result.model.parameters()]


# ---- methods of kind ``bits``: a new one adds a case, and how a saved net is built again

BITS = {
    kind: (llm_int8, llm_int8.Config(kind, alpha=1.5), lambda net, rows, config: quantize(
        net, [row["layer"] for row in rows], config))
    for kind in llm_int8.KINDS
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny_text():
    """Random characters and a small character model, untrained."""
    x = torch.randint(65, (16, 65), generator=seeded(0))
    split = Split(x[:, :-1].contiguous(), x[:, 1:].contiguous())
    splits = Splits(split, split, split, tuple(map(chr, range(65))), hash="noise")
    options = {"width": 0.5, "layers": 2}
    return Task("noise/char_gpt", splits, "char_gpt", options, "perplexity")


def coarse(case, task, *, seed=0, model=None):
    module, config, _ = BITS[case]
    model = model or task.build(seeded(0)).eval()
    return module.compress(model, task, None, config, generator=seeded(seed))


@pytest.mark.parametrize("case", BITS)
def test_bits_leave_the_given_model_untouched(case, tiny_text):
    model = tiny_text.build(seeded(0)).eval()
    before = copy.deepcopy(model.state_dict())
    result = coarse(case, tiny_text, model=model)
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], v) for k, v in after.items())
    theirs = {p.data_ptr() for p in model.parameters()}
    assert theirs.isdisjoint(t.data_ptr() for t in result.model.state_dict().values())


@pytest.mark.parametrize("case", BITS)
def test_bits_same_seed_same_bytes(case, tiny_text):
    a, b = (coarse(case, tiny_text, seed=1).model.state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("case", BITS)
def test_bits_saved_and_loaded_give_the_same_output(case, tiny_text, tmp_path):
    _, config, rebuild = BITS[case]
    result = coarse(case, tiny_text)
    save_file(result.model.state_dict(), tmp_path / "net.safetensors")
    again = rebuild(tiny_text.build(seeded(9)), result.table, config).eval()
    x = tiny_text.example(8)
    assert not torch.equal(again(x), result.model(x))
    again.load_state_dict(load_file(tmp_path / "net.safetensors"))
    assert torch.equal(again(x), result.model(x))
    wanted = tiny_text.build(seeded(0)).eval()(x)
    assert 0 < (result.model(x) - wanted).norm() < 0.2 * wanted.norm()


@pytest.mark.parametrize("case", BITS)
def test_bits_are_saved_in_a_third_of_the_bytes_at_most(case, tiny_text):
    result = coarse(case, tiny_text)
    before, kept = (sum(row[k] for row in result.table) for k in ("bytes", "kept"))
    assert kept <= 0.3 * before
    saved = file_bytes(tiny_text.build(seeded(0))) - file_bytes(result.model)
    assert saved == pytest.approx(before - kept, abs=10_000)  # names of more tensors


@pytest.mark.parametrize("case", BITS)
def test_bits_make_no_tensor_on_an_assumed_device(case, tiny_text):
    torch.set_default_device("meta")
    try:
        with torch.device("cpu"):
            model = tiny_text.build(seeded(0)).eval()
        result = coarse(case, tiny_text, model=model)
        y = result.model(tiny_text.example(2))
    finally:
        torch.set_default_device(None)
    assert {t.device.type for t in result.model.state_dict().values()} == {y.device.type} == {"cpu"}


@pytest.mark.parametrize("keep", [0, -0.1, 1.5])
def test_a_budget_outside_0_1_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
        Budget("nonzeros", keep)


def test_a_budget_reads_as_the_command_line_writes_it():
    assert Budget.parse("macs=0.5") == Budget("macs", 0.5)
    with pytest.raises(ValueError, match="METRIC=FRACTION"):
        Budget.parse("half")
