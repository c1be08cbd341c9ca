"""What is particular to this experiment; the contract of all is in test_contract.py."""

import json
import math
from dataclasses import asdict, replace

import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import Context, measure, needed
from survey_lib.experiments.pruning_adapters import cells, study
from survey_lib.experiments.pruning_adapters.cells import Cell
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.pruning_adapters.adapter import adapter_size
from survey_lib.tasks.dense import seeded

SLUG = "pruning_adapters"


def rows(*pairs):
    return Rows([Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs], Cell)


def path(role, tenth, settled=0.0, thirty=0.0, **knobs):
    """A run with these accuracies at 10 % (batch norm anew), after more steps, and at 30 %."""
    numbers = {"test_re": tenth, "settled": settled, "test_at": [0.0, 0.0, thirty, 0.0]}
    return replace(study.cell_of(role, 0), **knobs), numbers


def test_leads_are_taken_at_their_density_rate_and_number_of_images(monkeypatch):
    monkeypatch.setitem(study.RATES, "settled fine", 0.01)
    monkeypatch.setitem(study.RATES, "settled splora 4", 0.02)
    found = rows(
        path("splora 4", 0.8, 0.1, 0.88), path("fine", 0.75, 0.1, 0.9),
        path("settled splora 4", 0.1, 0.91), path("settled fine", 0.1, 0.92),
        path("splora 4", 0.1, lr=study.SMALL_LR), path("fine", 0.1, lr=study.SMALL_LR),
        path("splora 4, 100", 0.7), path("fine, 100", 0.4),
        path("splora 4, 5000", 0.85), path("fine, 5000", 0.83),
        path("splora 1", 0.73), path("head", 0.6), path("splora 16", 0.1),
        (study.cell_of("scratch", 0), {"test": 0.94}),
    )  # fmt: skip
    assert study.adapter_gain_at_ten(found) == pytest.approx(0.05)
    assert study.adapter_loss_at_thirty(found) == pytest.approx(-0.02)
    assert study.gain_with_hundred(found) == pytest.approx(0.3)
    assert study.gain_with_many(found) == pytest.approx(0.02)
    assert study.gain_settled(found) == pytest.approx(-0.01)
    assert study.rank_gain_at_ten(found) == pytest.approx(0.07)
    assert study.over_batch_norm(found) == pytest.approx(0.2)
    assert study.over_fresh(found) == pytest.approx(-0.03)


def test_the_spread_is_over_the_papers_criteria_at_a_tenth():
    fine = dict(zip(study.CRITERIA, (0.6, 0.7, 0.8, 0.75), strict=True)) | {"random": 0.1}
    thin = dict(zip(study.CRITERIA, (0.85, 0.84, 0.8, 0.82), strict=True)) | {"random": 0.1}
    found = rows(*(
        path(role, v, criterion=c)
        for role, of in (("fine", fine), ("splora 4", thin)) for c, v in of.items()
    ))  # fmt: skip
    assert study.spread_difference(found) == pytest.approx(0.2 - 0.05)


def test_counts_are_ratios_of_what_is_learned_and_stored():
    ours, theirs = (study.cell_of(role, 0) for role in ("splora 4", "fine"))
    found = rows(
        (ours, {"learned_at": [1, 1, 10, 5], "bytes_at": [0, 0, 0, 40], "source_bytes": 600,
                "gap_at": [1e-6, 4e-6, 2e-6, 0.0], "macs_at": [10, 8, 6, 3],
                "macs_cut_at": [10, 8, 5, 3]}),
        (theirs, {"learned_at": [1, 1, 80, 10], "bytes_at": [0, 0, 0, 100]}),
    )  # fmt: skip
    assert study.learned_ratio_at_thirty(found) == 8
    assert study.saving_change(found) == pytest.approx(math.log(4))
    assert study.fused_difference(found) == 4e-6
    assert study.fused_macs_ratio(found) == 1.2
    assert study.tasks_to_pay(found) == 10


def test_a_statistic_misses_an_arm_by_name():
    for statistic in study.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


def test_a_role_names_its_learner_rank_and_images():
    assert study.cell_of("splora 16", 3, 0.2) == Cell("splora", 3, 16, lr=0.2, settle=0)
    assert study.cell_of("fine, 100", 3) == Cell("fine", 3, images=100, lr=study.RATES["fine, 100"])
    shaped = study.cell_of("scratch", 3)
    assert needed(shaped) == (Cell("source", 3), study.cell_of("fine", 3))
    assert set(study.explored()) <= set(study.GRIDS["study"]())
    assert study.cell_of("settled fine", 3, 0.1) == Cell("fine", 3, lr=0.1)


def test_source_and_target_share_no_class_and_learners_see_the_same_images():
    for seed in range(8):
        ours, others = cells.classes_of(seed)
        assert sorted(ours + others) == list(range(10))
    assert len({tuple(cells.classes_of(s)[0]) for s in range(8)}) > 5
    few, again = (cells.target_task(Cell(arm, 1)) for arm in ("fine", "splora"))
    assert torch.equal(few.train.x, again.train.x)
    assert few.train.y.bincount().tolist() == [100] * 5
    assert cells.target_task(Cell("fine", 1, images=100)).train.y.bincount().tolist() == [20] * 5
    other = cells.target_task(Cell("fine", 2))
    assert not torch.equal(few.train.x[:50], other.train.x[:50])


def test_the_net_is_that_of_its_plan():
    """131 k parameters by hand; adapters of rank r have r Σ (n + m)."""
    task = cells.target_task(Cell("fine", 0))
    net = task.build(seeded(0))
    weights = 9 * (32 + 32 * 64 + 64 * 64 + 64 * 128)
    assert sum(p.numel() for p in net.parameters()) == weights + 2 * 288 + 128 * 5 + 5 == 130_533
    assert sum(g.size for g in trace_groups(net, task.example(1)).prunable) == 288
    pairs = [(1, 32), (32, 64), (64, 64), (64, 128)]
    assert sum(adapter_size(n, m, 4) for n, m in pairs) + 2 * 288 + 645 == 3017
    assert net(task.example(3)).shape == (3, 5)
    assert torch.equal(net[0].weight, task.build(seeded(0))[0].weight)


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The experiment with few steps and images."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "FIRST", 2)
    monkeypatch.setattr(cells, "BETWEEN", 1)
    monkeypatch.setattr(cells, "FURTHER_SEEDS", 0)
    monkeypatch.setattr(cells, "GAP_IMAGES", 50)
    whole = cells.task_of

    def fewer(classes):
        task = whole(classes)
        cut = {n: type(s)(s.x[:60], s.y[:60]) for n, s in
               (("val", task.data.val), ("test", task.data.test))}  # fmt: skip
        return replace(task, data=replace(task.data, **cut))

    monkeypatch.setattr(cells, "task_of", fewer)
    knobs = {"images": 50, "lr": 0.01, "settle": 2, "epochs": 0.05}
    return lambda arm, **more: Cell(arm, 1, **knobs | more)


def test_a_path_is_measured_at_its_densities(small):
    found = measure(SLUG, small("splora"), "d")
    assert found["density_at"] == pytest.approx(list(cells.DENSITIES), abs=0.002)
    assert found["learned_at"][0] == 3017
    assert found["learned_at"] == sorted(found["learned_at"], reverse=True)
    assert found["macs_at"] == found["macs_cut_at"]
    assert found["macs_at"][-1] == found["macs"]
    assert found["test_at"][-1] == found["test"]
    assert 0 < max(found["gap_at"]) < 1e-4
    assert found["source_bytes"] == 4 * (130_533 + 2 * 288)
    assert found["bytes_at"][0] == 4 * (3017 + 2 * 288) + 36
    assert found["val_path"] == pytest.approx(sum(found["val_at"]) / 4)
    units = found["kept_at"][-1]
    assert sum(units.values()) == 29
    assert found["params_at"][-1] < 0.1 * found["params_at"][0]


def test_fine_pruning_stores_its_weights_and_no_mask(small):
    found = measure(SLUG, small("fine", criterion="weight"), "d")
    assert found["learned_at"] == found["params_at"]
    assert found["bytes_at"] == found["alone_at"]
    assert found["gap_at"] == [0.0] * 4
    shape = json.loads(
        Context(SLUG, small("scratch", criterion="weight", shape_lr=0.01), "d")
        .kept(small("fine", criterion="weight"), "recipe.json").read_text()
    )  # fmt: skip
    assert {n: len(u) for n, u in shape.items()} == found["kept_at"][-1]
    for arm in ("scratch", "inherited"):
        again = measure(SLUG, small(arm, criterion="weight", shape_lr=0.01), "d")
        assert again["params"] == found["params_at"][-1]


def test_more_steps_at_the_end_change_nothing_before(small):
    long, short = (measure(SLUG, small("head", settle=n), "d") for n in (3, 0))
    assert "settled" not in short
    assert {k: long[k] for k in short} == short


def test_learners_start_from_the_same_source_and_head(small):
    nets = [cells.source_net(Context(SLUG, small(arm), "d")).state_dict()
            for arm in ("fine", "splora")]  # fmt: skip
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])
