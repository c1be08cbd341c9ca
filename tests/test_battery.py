"""What every method of kind ``weights`` must satisfy, whatever paper it comes from."""

import copy
import importlib

import pytest
import torch

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.sparse import load_sparse, save_sparse
from survey_lib.methods import METHODS, baselines, loss_modelling, to_prune_or_not
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.train import evaluate

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
        assert name.endswith(slug)
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
            runs.append(evaluate(result.model, tiny_mlp_task)["loss"])
        accuracy[name] = sum(runs) / len(runs)
    assert accuracy["gradual"] < 0.8 * accuracy["random"]


@pytest.mark.parametrize("keep", [0, -0.1, 1.5])
def test_a_budget_outside_0_1_is_refused(keep):
    with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
        Budget("nonzeros", keep)


def test_a_budget_reads_as_the_command_line_writes_it():
    assert Budget.parse("macs=0.5") == Budget("macs", 0.5)
    with pytest.raises(ValueError, match="METRIC=FRACTION"):
        Budget.parse("half")
