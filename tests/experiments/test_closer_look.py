from dataclasses import replace

import numpy as np
import pytest
import torch

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, study
from survey_lib.experiments import closer_look as experiment
from survey_lib.experiments import runner
from survey_lib.mechanics.costs import Costs
from survey_lib.methods.closer_look import shapes
from survey_lib.tasks.dense import dense_net
from survey_lib.tasks.train import total_steps

SLUG = "closer_look"


def record(arm, budget=0.0, seed=0, **numbers):
    cell = experiment._cell(arm, seed, budget)
    return Record(SLUG, "study", runner.plain(cell), seed, f"{arm}{budget}", "done", numbers)


def long_run(arm, accuracies):
    at = {str(b): {"accuracy": a} for b, a in zip(experiment.BUDGETS, accuracies, strict=True)}
    return record(arm, at=at)


def test_every_quick_cell_has_its_twin_in_the_study():
    quick, whole = set(experiment.grid("quick")), set(experiment.grid("study"))
    assert quick <= whole
    assert len(whole) == len(experiment.grid("study"))


def test_every_claim_has_its_statistic():
    names = {claim.statistic for claim, _ in runner.claims_and_statistics(SLUG)}
    assert names == set(experiment.STATISTICS)


def test_the_claims_budgets_are_among_those_a_long_run_is_measured_at():
    assert set(experiment.BUDGETS) <= set(experiment.MARKS)
    assert experiment.SMALLEST == min(experiment.BUDGETS) == min(experiment.MARKS)


def test_what_others_start_from_comes_first():
    for profile in ("quick", "study", "tune"):
        order = [{"dense": 0, "fisher": 1}.get(c.arm, 2) for c in experiment.grid(profile)]
        assert order == sorted(order)


def test_criteria_share_one_schedule_and_rivals_another():
    cells = experiment.grid("study")
    walks = [c for c in cells if c.arm in experiment.LONG_RUNS]
    runs = [experiment.config_of(c) for c in walks]
    assert {(w.pruned_lr, c.interval, c.beta) for w, c in zip(walks, runs, strict=True)} == {
        (experiment.LEARNING_RATES["pruned"], experiment.INTERVAL, 0.0)
    }
    assert {c.criterion for c in runs} == set(experiment.LONG_RUNS)
    trained = [c for c in cells if c.arm in (*experiment.RIVALS, "depth", "inherited", "shuffled")]
    assert {(c.lr, c.epochs) for c in trained} == {
        (experiment.LEARNING_RATES["scratch"], experiment.EPOCHS)
    }


def test_differences_of_accuracy():
    rows = [
        long_run("fisher", (0.88, 0.86, 0.80)),
        long_run("l1", (0.87, 0.80, 0.70)),
        *(record("fisher_scratch", b, accuracy=a, macs=m)
          for b, a, m in zip(experiment.BUDGETS, (0.87, 0.86, 0.84), (90, 60, 30), strict=True)),
        *(record("bottleneck", b, accuracy=a, val=v)
          for b, a, v in zip(experiment.BUDGETS, (0.87, 0.85, 0.83), (0, 0, 0.9), strict=True)),
        *(record("width", b, accuracy=a, val=v, macs=m)
          for b, a, v, m in zip(experiment.BUDGETS, (0.9, 0.9, 0.85), (0, 0, 0.8), (60, 40, 20),
                                strict=True)),
    ]  # fmt: skip
    assert experiment.fisher_scratch_over_pruned(rows) == pytest.approx(0.04)
    # the bottleneck net is the better one on validation, though not on test
    assert experiment.best_reduced_over_pruned(rows) == pytest.approx(0.03)
    assert experiment.fisher_over_l1(rows) == pytest.approx((0.01 + 0.06 + 0.10) / 3)
    assert experiment.profile_over_uniform(rows) == pytest.approx((0 + 0.01 + 0.01) / 3)
    assert experiment.fisher_macs_over_width(rows) == pytest.approx(1.5)
    with pytest.raises(MissingArm):
        experiment.fisher_over_l1(rows[:1])


def test_the_claim_on_time_takes_the_shape_drawn_anew_and_the_large_batch():
    timed = {
        str(b): {"rows": [{"name": n, "min_ms": t * f} for n, t in
                          (("fisher", 9.0), ("fisher shape", 3.0), ("width", 2.0))]}
        for b, f in ((64, 1.0), (1, 0.7))
    }  # fmt: skip
    timed["1"]["rows"][1]["min_ms"] = 100.0
    rows = [record("latency", 0.25, timed=timed)]
    assert experiment.pruned_time_over_reduced(rows) == pytest.approx(1.5)


def test_the_rates_chosen_are_the_best_means():
    rows = []
    for arm, field, budget in (("dense", "dense_lr", 0.0), ("fisher", "pruned_lr", 0.0),
                               ("l1", "pruned_lr", 0.0), ("width", "lr", 0.25)):  # fmt: skip
        role = {"dense_lr": "dense", "pruned_lr": "pruned", "lr": "scratch"}[field]
        for i, lr in enumerate(experiment.TRIED_RATES[role]):
            cell = experiment._cell(arm, 900, budget, **{field: lr})
            val = 0.9 - abs(i - 1) * 0.1 + (0.15 if (arm, i) == ("l1", 0) else 0)
            rows.append(Record(SLUG, "tune", runner.plain(cell), 900, str(cell), "done",
                               {"val": val}))  # fmt: skip
    assert experiment.best_rates(rows) == {
        "dense": experiment.TRIED_RATES["dense"][1],
        "pruned": experiment.TRIED_RATES["pruned"][1],
        "scratch": experiment.TRIED_RATES["scratch"][1],
    }


@pytest.fixture
def short(tmp_path, monkeypatch):
    """A barely trained cell whose nets are cached in a folder of this test."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    cell = experiment._cell("fisher", 0, epochs=0.05, interval=1)
    monkeypatch.setattr(experiment, "MARKS", (0.7, 0.6))
    monkeypatch.setattr(experiment, "BUDGETS", (0.7, 0.6))
    monkeypatch.setattr(experiment, "SMALLEST", 0.6)
    few = experiment.load_task("resnet_small").data.val

    def task_of(cell):
        task = real(cell)
        return replace(task, data=replace(task.data, train=few, test=few))

    real = experiment.task_of
    monkeypatch.setattr(experiment, "task_of", task_of)
    return cell


def test_a_long_run_passes_through_every_mark_once_and_others_start_from_it(short):
    task = experiment.task_of(short)
    numbers = experiment.run(short)
    graph, dense = shapes.dense_costs(task)
    costs = Costs(graph, "params")
    for mark, found in numbers["at"].items():
        kept = np.array(found["widths"])
        assert found["parameters"] == costs(kept) <= float(mark) * dense["params"]
        assert found["macs"] == Costs(graph, "macs")(kept)
        assert costs(np.minimum(kept + 1, costs.sizes)) > float(mark) * dense["params"]
        assert found["steps"] == int((costs.sizes - kept).sum()) + 1
    assert numbers["accuracy"] == pytest.approx(
        np.mean([a["accuracy"] for a in numbers["at"].values()])
    )
    # the shape from scratch has the pruned net's sizes and weights of its own
    cell = replace(short, arm="fisher_scratch", budget=0.6)
    shape = experiment.rival(task, cell)
    pruned, _ = experiment.fisher_net(task, cell, 0.6)
    assert [p.shape for p in shape.parameters()] == [p.shape for p in pruned.parameters()]
    inherited = experiment.rival(task, replace(cell, arm="inherited"))
    for a, b, c in zip(pruned.parameters(), inherited.parameters(), shape.parameters(),
                       strict=True):  # fmt: skip
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c)


def test_what_the_fisher_run_found_is_made_again_where_it_is_absent(short):
    task = experiment.task_of(short)
    again, recipe = experiment.fisher_net(task, short, 0.6)
    net = dense_net(task, 0)
    *_, (_, stop, small) = experiment.passed(net, task, short, (0.6,))
    assert recipe == stop.recipe
    for a, b in zip(again.parameters(), small.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_dense_net_is_trained_on_as_long_and_as_it_was_pruned(short, monkeypatch):
    task = experiment.task_of(short)
    steps = experiment.run(short)["at"]["0.6"]["steps"]
    seen = {}

    def spy(net, task, recipe, *, generator):
        seen.update(steps=total_steps(task, recipe), schedule=recipe.schedule, lr=recipe.lr)

    monkeypatch.setattr(experiment, "fit", spy)
    experiment.longer(task, replace(short, arm="dense_longer"))
    assert seen == {"steps": steps, "schedule": "constant", "lr": short.pruned_lr}


def test_rivals_have_at_most_the_budgets_parameters(short):
    task = experiment.task_of(short)
    _, dense = shapes.dense_costs(task)
    for arm in ("width", "bottleneck", "shuffled", "fisher_scratch"):
        net = experiment.rival(task, replace(short, arm=arm, budget=0.6))
        share = sum(p.numel() for p in net.parameters()) / dense["params"]
        assert 0.5 < share <= 0.6, arm
    shallow = experiment.rival(task, replace(short, arm="depth"))
    assert len(shallow.stages) == 3
    with pytest.raises(ValueError, match="no arm"):
        experiment.rival(task, replace(short, arm="deeper"))


def test_the_committed_study_covers_the_grid_and_every_claim_is_judged():
    recorded = {r.key for r in study(SLUG)}
    wanted = {runner.cell_key(SLUG, c) for c in experiment.grid("study")}
    assert recorded == wanted
    words = {v.claim.id: v for v in runner.verdicts(SLUG)}
    assert len(words) == len(read_card(SLUG).claims)
    assert all(v.interval is not None for v in words.values())
    assert not any(v.changed for v in words.values())


def test_the_rates_are_those_that_the_recorded_tries_chose():
    assert experiment.best_rates(study(SLUG, "tune")) == experiment.LEARNING_RATES


def test_the_studys_shapes_hold_what_their_budgets_allow():
    rows = study(SLUG)
    for net, seeds in (("resnet", experiment.SEEDS), ("densenet", experiment.DENSENET_SEEDS)):
        for seed in range(seeds):
            own = [r for r in rows if r.seed == seed]
            whole = experiment.pick(own, arm="dense", net=net)["parameters"]
            fisher = experiment.pick(own, arm="fisher", net=net)["at"]
            for r in own:
                budget = r.config["budget"]
                if r.config["net"] != net or not budget or r.config["arm"] == "latency":
                    continue
                assert r.numbers["parameters"] <= budget * whole
                if r.config["arm"] in ("fisher_scratch", "inherited"):
                    same = fisher[str(budget)]
                    assert r.numbers["parameters"] == same["parameters"]
                    assert r.numbers["macs"] == same["macs"]
