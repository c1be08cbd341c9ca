"""What is particular to this experiment; the contract of all is in test_contract.py."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.closer_look import cells, study
from survey_lib.experiments.closer_look.cells import BUDGETS, Cell
from survey_lib.experiments.context import Context, measure
from survey_lib.mechanics.costs import Costs
from survey_lib.methods.closer_look import shapes
from survey_lib.tasks.dense import dense_net
from survey_lib.tasks.train import evaluate, recalibrate, total_steps

SLUG = "closer_look"


def record(cell, **numbers):
    return Record(SLUG, "study", asdict(cell), cell.seed, "k", "done", numbers)


def rows(*pairs):
    return Rows([record(cell, **numbers) for cell, numbers in pairs], Cell, study.FREE)


def run(criterion, *accuracies, macs=(90, 60, 30)):
    """A long run that is right on so many images with statistics re-estimated; stale it is not."""
    at = {
        str(b): {"test_re": a, "test": a / 2, "val_re": 0.0, "macs": m}
        for b, a, m in zip(BUDGETS, accuracies, macs, strict=True)
    }
    return study.run(0, criterion), {"at": at}


def each(make, *accuracies, **more):
    return [
        (make(b), {"test_re": a, "test": 0.0} | {k: v[i] for k, v in more.items()})
        for i, (b, a) in enumerate(zip(BUDGETS, accuracies, strict=True))
    ]


def test_the_budgets_are_among_the_marks_and_the_smallest_ends_the_run():
    assert set(BUDGETS) <= set(cells.MARKS)
    assert study.SMALLEST == min(BUDGETS) == min(cells.MARKS)


def test_stops_count_with_statistics_re_estimated():
    found = rows(run("fisher", 0.88, 0.86, 0.80), run("l1", 0.87, 0.80, 0.70),
                 run("random", 0.87, 0.83, 0.76))  # fmt: skip
    assert study.fisher_over_l1(found) == pytest.approx((0.01 + 0.06 + 0.10) / 3)
    assert study.random_over_l1(found) == pytest.approx((0 + 0.03 + 0.06) / 3)
    with pytest.raises(MissingArm):
        study.fisher_over_l1(rows(run("fisher", 0.88, 0.86, 0.80)))


def test_settled_nets_are_those_after_so_many_epochs():
    pairs = [(study.after(0, c, e), {"test_re": a}) for c, e, a in
             (("fisher", 1.0, 0.83), ("fisher", 8.0, 0.86), ("random", 8.0, 0.85))]  # fmt: skip
    equal = replace(study.shape(0), arm="scratch_equal", budget=0.25, settle=8.0)
    found = rows(*pairs, run("fisher", 0.9, 0.9, 0.80), (equal, {"test_re": 0.87}))
    assert study.one_epoch_gains(found) == pytest.approx(0.03)
    assert study.fisher_over_random_full(found) == pytest.approx(0.01)
    assert study.settled_over_equal(found) == pytest.approx(-0.01)
    brief = [
        pair
        for c, values in (("fisher", (0.9, 0.8, 0.7)), ("l1", (0.9, 0.7, 0.5)))
        for pair in each(lambda b, c=c: study.after(0, c, 1.0, b), *values)
    ]
    assert study.fisher_over_l1_settled(rows(*brief)) == pytest.approx((0 + 0.1 + 0.2) / 3)


def test_rivals_are_compared_with_the_stop():
    found = rows(
        run("fisher", 0.88, 0.86, 0.80),
        *each(lambda b: study.shape(0, b), 0.87, 0.86, 0.84),
        *each(lambda b: study.by_hand("bottleneck", 0, b), 0.87, 0.85, 0.83, val_re=(0, 0, 0.9)),
        *each(lambda b: study.by_hand("width", 0, b), 0.9, 0.9, 0.85, val_re=(0, 0, 0.8),
              macs=(60, 40, 20)),
    )  # fmt: skip
    assert study.scratch_over_pruned(found) == pytest.approx(0.04)
    # the bottleneck net is the better one on validation, though not on test
    assert study.best_reduced_over_pruned(found) == pytest.approx(0.03)
    assert study.profile_over_uniform(found) == pytest.approx((0 + 0.01 + 0.01) / 3)
    assert study.fisher_macs_over_width(found) == pytest.approx(1.5)


def test_the_claim_on_time_takes_the_shape_drawn_anew_and_the_large_batch():
    timed = {
        str(b): {"rows": [{"name": n, "min_ms": t * f} for n, t in
                          (("fisher", 9.0), ("fisher shape", 3.0), ("width", 2.0))]}
        for b, f in ((64, 1.0), (1, 0.7))
    }  # fmt: skip
    timed["1"]["rows"][1]["min_ms"] = 100.0
    cell = replace(study.run(0, "fisher"), arm="latency", budget=0.25)
    assert study.pruned_time_over_reduced(rows((cell, {"timed": timed}))) == pytest.approx(1.5)


def test_a_run_at_another_pace_is_not_taken_for_the_studys():
    slow = study.run(0, "fisher", interval=100)
    found = rows(run("fisher", 0.9, 0.9, 0.8), (slow, {"at": {"0.25": {"test_re": 0.1}}}))
    assert study.stop(found, "fisher") == 0.8


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Cells of a barely trained net; what they keep lies in a folder of this test."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "MARKS", (0.7, 0.6))
    monkeypatch.setattr(cells, "BUDGETS", (0.7, 0.6))
    few, real = cells.load_task("resnet_small").data.val, cells.task_of

    def task_of(cell):
        task = real(cell)
        return replace(task, data=replace(task.data, train=few, test=few))

    monkeypatch.setattr(cells, "task_of", task_of)

    def cell(arm, budget=0.6, **more):
        base = study.run(0, "fisher", epochs=0.05, interval=1, lr=0.05)
        return replace(base, arm=arm, budget=budget, **more)

    return cell


def test_a_long_run_passes_through_every_mark_once(short):
    cell = cells.run_of(short("pruned"))
    task, numbers = cells.task_of(cell), measure(SLUG, cell, "d")
    graph, dense = shapes.dense_costs(task)
    costs = Costs(graph, "params")
    for mark, found in numbers["at"].items():
        kept = np.array(found["widths"])
        assert found["params"] == costs(kept) <= float(mark) * dense["params"]
        assert found["macs"] == Costs(graph, "macs")(kept)
        assert costs(np.minimum(kept + 1, costs.sizes)) > float(mark) * dense["params"]
        assert found["steps"] == int((costs.sizes - kept).sum()) + 1
    assert numbers["test_re"] == pytest.approx(
        np.mean([a["test_re"] for a in numbers["at"].values()])
    )


def test_statistics_re_estimated_are_those_of_the_small_net(short):
    cell = cells.run_of(short("pruned"))
    task, numbers = cells.task_of(cell), measure(SLUG, cell, "d")
    net, _, _ = cells.found_net(Context(SLUG, short("settled"), "d"), task, 0.6)
    assert evaluate(net, task.test, task)["accuracy"] == numbers["at"]["0.6"]["test"]
    recalibrate(net, task.train)
    assert evaluate(net, task.test, task)["accuracy"] == numbers["at"]["0.6"]["test_re"]


def test_what_a_long_run_left_is_used_by_all_that_need_it(short, monkeypatch):
    task = cells.task_of(short("settled"))
    trained = {}

    def fit(net, task, *args, **more):
        if (first := next(iter(net.parameters()))) is not None:
            trained[arm] = [p.clone() for p in net.parameters()], first
        return type("H", (), {"steps": 0})

    measure(SLUG, cells.run_of(short("pruned")), "d")
    monkeypatch.setattr(cells, "fit", fit)
    for arm in ("settled", "scratch"):
        measure(SLUG, short(arm, settle=1.0), "d")
    pruned, widths, steps = cells.found_net(Context(SLUG, short("settled"), "d"), task, 0.6)
    settled, fresh = trained["settled"][0], trained["scratch"][0]
    for a, b, c in zip(pruned.parameters(), settled, fresh, strict=True):
        assert torch.equal(a, b)
        assert a.shape == c.shape
        assert a.ndim < 2 or not torch.equal(a, c)
    graph, _ = shapes.dense_costs(task)
    assert steps == sum(g.size for g in graph.groups) - sum(widths.values()) + 1


def test_lengths_and_schedules_of_what_follows(short, monkeypatch):
    """Equal: dense, pruned and settled steps in all. The dense net keeps pace with the run."""
    task = cells.task_of(short("settled"))
    measure(SLUG, cells.run_of(short("pruned")), "d")
    _, _, run = cells.found_net(Context(SLUG, short("settled"), "d"), task, 0.6)
    seen = []

    def fit(net, task, recipe=None, *, generator):
        recipe = recipe or task.training
        seen.append((total_steps(task, recipe), recipe.schedule, recipe.lr))
        return type("H", (), {"steps": seen[-1][0]})

    dense_net(task, 0)
    monkeypatch.setattr(cells, "fit", fit)
    one = total_steps(task, replace(task.training, epochs=1.0))
    dense = total_steps(task)
    rate = short("pruned").pruned_lr
    measure(SLUG, short("settled", settle=1.0), "d")
    measure(SLUG, short("scratch"), "d")
    measure(SLUG, short("scratch_equal", settle=1.0), "d")
    measure(SLUG, short("dense_longer", settle=1.0), "d")
    assert seen == [
        (one, "cosine", 0.05),
        (dense, "cosine", 0.05),
        (dense + run + one, "cosine", 0.05),
        (run, "constant", rate),
        (one, "cosine", 0.05),
    ]


def test_nets_made_by_hand_have_at_most_the_budgets_parameters(short):
    task = cells.task_of(short("width"))
    _, dense = shapes.dense_costs(task)
    for arm in ("width", "bottleneck"):
        net = cells.by_hand(task, short(arm), cells.seeded(0))
        share = sum(p.numel() for p in net.parameters()) / dense["params"]
        assert 0.5 < share <= 0.6, arm
    assert len(cells.by_hand(task, short("depth"), cells.seeded(0)).stages) == 3


def test_the_studys_shapes_hold_what_their_budgets_allow():
    for seed in range(study.SEEDS):
        found = Rows([r for r in recorded(SLUG) if r.seed == seed], Cell, study.FREE)
        whole = found.one(arm="dense")["params"]
        for budget in BUDGETS:
            shape = found.one(arm="scratch", criterion="fisher", budget=budget)
            assert shape["params"] == study.stop(found, "fisher", budget, "params")
            assert shape["params"] <= budget * whole
            for arm in study.REDUCED:
                assert found.one(arm=arm, budget=budget)["params"] <= budget * whole


def test_equal_cost_is_equal_in_the_study():
    for seed in range(study.SEEDS):
        found = Rows([r for r in recorded(SLUG) if r.seed == seed], Cell, study.FREE)
        last = {"criterion": "fisher", "budget": study.SMALLEST, "settle": cells.EPOCHS}
        settled, equal = (found.one(arm=arm, **last) for arm in ("settled", "scratch_equal"))
        run = study.stop(found, "fisher", of="steps")
        assert equal["steps"] == 2 * settled["steps"] + run  # dense and settled are as long
