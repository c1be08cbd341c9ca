"""What is particular to this experiment; the contract of all is in test_contract.py."""

import itertools
import math
from dataclasses import asdict, replace

import pytest

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.to_prune_or_not import cells, study
from survey_lib.experiments.to_prune_or_not.cells import Cell
from survey_lib.tasks.task import Training

SLUG = "to_prune_or_not"


def record(cell, **numbers):
    return Record(SLUG, "study", asdict(cell), cell.seed, "k", "done", numbers)


def rows(*pairs):
    return Rows([record(cell, **numbers) for cell, numbers in pairs], Cell, ("lr",))


def pair(family, width, dense, pruned):
    large = study.LARGE[family]
    return [
        (study.cell("dense", 0, family, width), dense),
        (study.cell("gradual", 0, family, large, match=width), pruned),
    ]


def test_pruned_cells_keep_exactly_as_many_parameters_as_the_dense_net_they_match():
    for cell in study.GRIDS["quick"]():
        if cell.match:
            total = cells.dense_parameters(cell.family, cell.width)
            target = cells.dense_parameters(cell.family, cell.match)
            assert cells.kept_share(cell) * total == pytest.approx(target)


def test_a_gap_is_pruned_minus_dense_and_its_mean_is_over_the_budgets():
    found = rows(*itertools.chain.from_iterable(
        pair("mlp", w, {"test": 0.5}, {"test": 0.5 + 0.1 * i})
        for i, w in enumerate(study.SMALL["mlp"])
    ))  # fmt: skip
    assert study.mlp_gap(found) == pytest.approx(0.15)
    assert study.gap_growth(found) == pytest.approx(0.3)


def test_the_language_gap_is_positive_when_the_pruned_net_has_the_lower_loss():
    found = rows(*itertools.chain.from_iterable(
        pair("gpt", w, {"loss": 2.0}, {"loss": 1.5}) for w in study.SMALL["gpt"]
    ))  # fmt: skip
    assert study.gpt_gap(found) == pytest.approx(0.5)


def test_only_the_starved_budgets_of_the_convolutional_net_count():
    found = rows(*itertools.chain.from_iterable(
        pair("cnn", w, {"test": 0.5}, {"test": 0.6 if w in study.STARVED else 99.0})
        for w in study.SMALL["cnn"]
    ))  # fmt: skip
    assert study.cnn_gap(found) == pytest.approx(0.1)


def test_accelerating_loss_is_positive_for_a_cliff():
    found = rows(
        (study.cell("dense", 0, "cnn", 1.0), {"test": 0.9}),
        pair("cnn", 0.25, {}, {"test": 0.89})[1],
        pair("cnn", 0.12, {}, {"test": 0.8})[1],
    )
    assert study.accelerating_loss(found) == pytest.approx(0.09 - 0.01)


def test_half_free_compares_with_the_large_dense_net():
    dense = (study.cell("dense", 0, "cnn", 1.0), {"test": 0.9})
    assert study.half_is_free(rows(dense, *pair("cnn", 0.71, {"test": 0.1}, {"test": 0.88}))) == (
        pytest.approx(-0.02)
    )


def test_ablations_take_the_right_arms():
    names = ("base", "shot", "straight", "few", "global", "random", "fresh")
    test = {"base": 0.8, "shot": 0.7, "straight": 0.79, "few": 0.78, "global": 0.2,
            "random": 0.3, "fresh": 0.6}  # fmt: skip
    pairs = [(c, {"test": test[n]}) for c, n in zip(study._ablation(0), names, strict=True)]
    found = rows(*pairs, pair("cnn", study.TIGHT, {}, {"test": 0.75})[1])
    assert study.gradual_over_one_shot(found) == pytest.approx(0.1)
    assert study.cubic_over_straight(found) == pytest.approx(0.01)
    assert study.update_interval(found) == pytest.approx(-0.02)
    assert study.over_fresh_weights(found) == pytest.approx(0.2)
    assert study.medium_start(found) == pytest.approx(0.05)


def test_equal_bytes_count_the_mask():
    """A pruned net whose file weighs as much as the next wider dense net is compared with that."""
    widths = (study.LARGE["mlp"], *study.SMALL["mlp"])
    size = {w: 1000 * 4**i for i, w in enumerate(reversed(widths))}
    test = {w: 0.1 * i for i, w in enumerate(reversed(widths))}
    pairs = [
        (study.cell("dense", 0, "mlp", w), {"bytes_dense": size[w], "test": test[w]})
        for w in widths
    ]
    for wider, w in itertools.pairwise(widths):
        pairs.append(pair("mlp", w, {}, {"test": test[w], "bytes_bitmask": size[wider]})[1])
    assert study.gap_at_equal_bytes(rows(*pairs)) == pytest.approx(-0.1)


def test_a_statistic_misses_an_arm_by_name():
    with pytest.raises(MissingArm, match="gradual"):
        study.mlp_gap(rows())


def test_a_longer_training_is_not_taken_for_the_ordinary_one():
    dense = study.cell("dense", 0, "cnn", 1.0)
    found = rows((dense, {"test": 0.9}), (replace(dense, longer=2.0), {"test": 0.95}))
    assert found.one(arm="dense", family="cnn")["test"] == 0.9


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_task):
    """The experiment on four classes of blobs, with a cache of its own."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "task_of", lambda cell: tiny_task.with_training(epochs=2.0))
    monkeypatch.setattr(cells, "kept_share", lambda cell: 0.3)
    return lambda arm: measure(SLUG, Cell(arm, 0, keep=0.3, lr=0.05), "digest")


def test_every_pruned_arm_ends_at_the_same_number_of_weights_and_steps(small):
    found = {arm: small(arm) for arm in cells.ARMS}
    assert len({numbers["steps"] for numbers in found.values()}) == 1
    kept = {
        arm: sum(k for _, k in n["layers"].values()) for arm, n in found.items() if "layers" in n
    }
    assert set(kept) == {"gradual", "one_shot", "random"}
    assert max(kept.values()) - min(kept.values()) <= 4
    assert found["fresh"]["nonzeros"] <= found["gradual"]["nonzeros"] + 10
    assert all(math.isfinite(n["test"]) for n in found.values())


def test_a_fresh_net_wears_the_masks_that_the_gradual_run_left(small, monkeypatch):
    worn = []
    monkeypatch.setattr(cells.MaskedWeights, "set", lambda self, masks: worn.append(masks))
    cut = small("gradual")
    small("fresh")
    kept = {name: int(mask.sum()) for name, mask in worn[-1].items()}
    assert kept == {name: k for name, (_, k) in cut["layers"].items()}


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in recorded(SLUG):
        cell = Cell(**{k: v for k, v in r.config.items()})
        if cell.arm == "dense":
            assert r.numbers["nonzeros"] > 0.97 * r.numbers["params"]
        if "layers" not in r.numbers:
            continue
        layers = r.numbers["layers"]
        cut = sum(size - kept for size, kept in layers.values())
        target = cells.kept_share(cell) * r.numbers["params"]
        assert abs(r.numbers["params"] - cut - target) <= len(layers)
        assert r.numbers["nonzeros"] <= r.numbers["params"] - cut
        if cell.arm == "gradual":
            assert r.numbers["trace"]["sparsity"] == sorted(r.numbers["trace"]["sparsity"])


def test_random_masks_would_lose_against_magnitude_in_the_study():
    base = {"family": "cnn", "width": study.MEDIUM, "match": study.TIGHT}
    for seed in range(study.SEEDS["cnn"]):
        found = Rows([r for r in recorded(SLUG) if r.seed == seed], Cell, ("lr",))
        assert found.one(arm="gradual", **base)["test"] > found.one(arm="random", **base)["test"]


def test_training_of_the_study_is_the_familys_whatever_the_default_recipe():
    task = cells.task_of(Cell("dense", 0, "mlp", lr=0.3, longer=0.5))
    assert (task.training.epochs, task.training.lr) == (10.0, 0.3)
    assert isinstance(task.training, Training)
