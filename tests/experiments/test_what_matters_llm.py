"""What is particular to this experiment; the contract of all is in test_contract.py."""

import math
from dataclasses import asdict, replace

import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.what_matters_llm import cells, study
from survey_lib.experiments.what_matters_llm.cells import CALIBRATED, Cell
from survey_lib.mechanics.graph import trace_groups
from survey_lib.tasks.task import load_task
from tests.tiny_language import llama

SLUG = "what_matters_llm"


def rows(*pairs):
    records = [
        Record(SLUG, "study", asdict(cell), cell.seed, "k", "done", numbers)
        for cell, numbers in pairs
    ]
    return Rows(records, Cell, ("lr",))


def gradual(criterion, loss, **more):
    return study.cell("gradual", 0, criterion, **more), {"loss": loss}


# ---- statistics


def test_differences_of_loss_are_means_over_half_and_a_quarter():
    """Three quarters are drawn and not judged."""
    given = {"magnitude": (9.0, 2.0, 3.0), "random": (0.0, 1.8, 2.6), "top_v": (0.0, 1.7, 2.5),
             "gum": (0.0, 1.71, 2.43)}  # fmt: skip
    found = rows(*(
        gradual(c, loss, keep=k)
        for c, losses in given.items() for k, loss in zip(study.KEEP, losses, strict=True)
    ))  # fmt: skip
    assert study.magnitude_over_random(found) == pytest.approx(0.3)
    assert study.random_over_top_v(found) == pytest.approx(0.1)
    assert study.top_v_over_gum(found) == pytest.approx(0.03)


def test_a_field_that_distillation_narrows_is_positive():
    plain = dict(zip(study.CRITERIA, (2.0, 1.9, 1.6, 1.5), strict=True))
    taught = dict(zip(study.CRITERIA, (1.8, 1.7, 1.65, 1.6), strict=True))
    found = rows(*(gradual(c, loss) for c, loss in plain.items()),
                 *(gradual(c, loss, alpha=study.ALPHA) for c, loss in taught.items()))  # fmt: skip
    assert study.spread_shrinks(found) == pytest.approx(0.3)


def test_sensitivity_is_over_that_of_the_whole_net_trained_on():
    found = rows(
        (study.whole(0), {"sensitivity": 2.0}), (study.whole(0, lr=0.0), {"sensitivity": 99.0}),
        (study.cell("gradual", 0, "random"), {"sensitivity": 1.4}),
        (study.cell("gradual", 0, "magnitude"), {"sensitivity": 1.0}),
    )  # fmt: skip
    assert study.sensitivity_random_over_magnitude(found) == pytest.approx(0.2)


def test_uniqueness_is_asked_where_copies_were_planted():
    found = rows(
        *((study.cell("gradual", 0, c, copies=study.COPIES), {"uniqueness": u})
          for c, u in (("gum", 0.9), ("top_v", 0.8))),
        *((study.cell("gradual", 0, c), {"uniqueness": 0.0}) for c in ("gum", "top_v")),
    )  # fmt: skip
    assert study.uniqueness_gain(found) == pytest.approx(0.1)


def test_a_pair_counts_as_kept_where_both_copies_are_left():
    found = rows(
        (study.cell("gradual", 0, "magnitude", copies=2), {"copies": [[2, 2, 0, 1], [2, 2, 2, 1]]}),
        (study.cell("gradual", 0, "top_v", copies=2), {"copies": [[1, 1, 0, 2], [0, 1, 2, 1]]}),
    )
    assert study.copies_kept_whole(found) == pytest.approx(5 / 8 - 2 / 8)


def test_the_gap_that_training_closes_is_positive_where_random_needs_it():
    found = rows(
        (Cell("cut", 0, "random"), {"loss": 4.0}), (Cell("cut", 0, "top_v"), {"loss": 2.5}),
        gradual("random", 1.8), gradual("top_v", 1.7),
    )  # fmt: skip
    assert study.training_closes_the_gap(found) == pytest.approx(1.4)


def test_random_that_collapses_is_positive_and_wants_its_rows():
    pairs = [
        (Cell("text", 3, c, keep=k), {"log_perplexity": v})
        for c, k, v in (("random", 0.8, 7.0), ("sensitivity", 0.8, 4.0), ("random", 0.6, 1.0))
    ]
    assert study.smollm2_random_over_sensitivity(rows(*pairs)) == pytest.approx(3.0)
    with pytest.raises(MissingArm):
        study.smollm2_random_over_sensitivity(rows(*pairs[1:]))


def test_what_tuned_random_costs_is_over_the_whole_net_tuned_as_long():
    pairs = [
        (Cell("text", 3, keep=1.0, lr=study.TEXT_RATE), {"log_perplexity": 3.0}),
        (Cell("text", 3, keep=1.0), {"log_perplexity": 9.0}),
        (Cell("text", 3, "random", keep=0.8, lr=study.TEXT_RATE), {"log_perplexity": 3.4}),
        (Cell("text", 3, "random", keep=0.8), {"log_perplexity": 9.0}),
    ]
    assert study.smollm2_random_tuned(rows(*pairs)) == pytest.approx(0.4)


# ---- grids


def test_all_criteria_are_tuned_alike_and_seen_at_the_same_shares():
    assert {r.rates for r in study.ROLES if r.name != "dense"} == {study.TRIED}
    assert {role.name for role in study.ROLES} == set(study.RATES)
    table = study._table(0)
    for keep in study.KEEP:
        assert {c.criterion for c in table if c.keep == keep and not c.alpha} == set(study.CRITERIA)
    assert {c.criterion for c in table if c.alpha} == set(study.CRITERIA)


def test_every_setting_of_the_explorer_is_measured():
    settings = {(c.keep, c.lambda_gum) for c in study.explored()}
    assert len(settings) == len(study.LEFT) * len(study.LAMBDAS)
    assert set(study.explored()) <= set(study.GRIDS["study"]())


def test_the_text_that_scores_or_tuning_come_from_is_not_the_text_that_is_measured():
    read = {(s + 1) * cells.APART + i for s in range(cells.STRETCHES) for i in range(cells.WINDOWS)}
    assert read.isdisjoint(cells.CALIBRATION)
    assert read.isdisjoint(cells.TAUGHT)
    assert len(read) == cells.STRETCHES * cells.WINDOWS


def test_what_smollm2_is_tuned_for_is_run_before_it_is_read():
    grid = study.GRIDS["study"]()
    read = [c for c in grid if c.arm == "text" and c.lr]
    assert len(read) == 3 * cells.STRETCHES
    for c in read:
        (first,) = cells.needs(c)
        assert grid.index(first) < grid.index(c)


# ---- cells


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A narrower character net, trained for a moment on a little text."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "CHOSEN", 2)
    task = load_task("char_gpt", examples=64, width=0.125, layers=2)
    few = replace(task.data, val=task.data.val.__class__(task.val.x[:8], task.val.y[:8]),
                  test=task.data.test.__class__(task.test.x[:8], task.test.y[:8]))  # fmt: skip
    task = replace(task, data=few).with_training(epochs=2)
    monkeypatch.setattr(cells, "own_task", lambda _: task)
    return task


def test_each_arm_of_the_character_model(small):
    def of(cell):
        return measure(SLUG, cell, "d")

    whole = of(Cell("dense", 0, lr=0.002))
    assert whole["neurons"] == 128
    assert 0 < whole["uniqueness"] <= 1
    assert of(Cell("dense", 0))["loss"] != whole["loss"]
    half = of(Cell("gradual", 0, "top_v", lr=0.002))
    assert half["left"] == 0.5
    assert half["steps"] == 2
    assert sum(kept for _, kept in half["layers"].values()) == half["neurons"] == 64
    assert half["params"] == whole["params"] - 64 * 2 * 16
    fresh = of(Cell("fresh", 0, "top_v", lr=0.002))
    assert fresh["params"] == half["params"]
    assert of(Cell("cut", 0, "random"))["steps"] == 0
    assert of(Cell("gradual", 0, "random", at_once=True, lr=0.002))["left"] == 0.5
    assert of(Cell("soft", 0, lambda_mvp=0.0, lr=0.002))["left"] == 1.0
    taught = of(Cell("gradual", 0, "top_v", alpha=0.5, lr=0.002))
    assert taught["loss"] != half["loss"]
    plane = of(Cell("plane", 0, "gum", keep=0.25, lr=0.002))
    assert len(plane["neurons_of"]) == 128
    assert sum(row[3] for row in plane["neurons_of"]) == 32
    planted = of(Cell("gradual", 0, "gum", copies=3, lr=0.002))
    assert planted["neurons"] == (128 + 2 * 2 * 2) // 2
    assert [len(layer) for layer in planted["copies"]] == [2, 2]
    assert all(0 <= n <= 3 for layer in planted["copies"] for n in layer)


def test_copies_are_planted_into_the_dense_net_of_the_seed(small):
    context = cells.Context(SLUG, Cell("gradual", 0, "gum", copies=3), "d")
    task, wide, sets = cells.start(context)
    x = task.example(3)
    torch.testing.assert_close(wide(x), context.dense(task)(x), atol=1e-5, rtol=1e-5)
    assert [len(same) for layer in sets for same in layer] == [3] * 4


@pytest.mark.filterwarnings("ignore")
def test_each_arm_of_the_language_model(monkeypatch, tmp_path):
    """On a tiny random Llama: what is scored on some windows is cut and read on others."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "CALIBRATION", range(6, 9))
    monkeypatch.setattr(cells, "APART", 1)
    net, windows = llama(), torch.arange(90).view(9, 10) * 7 % 50
    monkeypatch.setattr(
        cells, "language_model", lambda: (net, windows, trace_groups(net, windows[:1]))
    )
    found = measure(SLUG, CALIBRATED, "d")
    assert found["neurons"] == 72
    assert len(found["sensitivity_of_layers"]) == 3
    plain = measure(SLUG, Cell("text", 0, keep=1.0), "d")
    assert math.isfinite(plain["log_perplexity"])
    for criterion in study.SCORES:
        less = measure(SLUG, Cell("text", 0, criterion, keep=0.5), "d")
        assert less["log_perplexity"] != plain["log_perplexity"]
    saved = measure(SLUG, Cell("removed", 0, "sensitivity", keep=0.5), "d")
    assert saved["params"] == sum(p.numel() for p in net.parameters()) - 36 * 3 * 16
    assert saved["ms_per_token"] > 0

    monkeypatch.setattr(cells, "TAUGHT", range(8))
    monkeypatch.setattr(cells, "STRETCHES", 2)
    before = {name: p.clone() for name, p in net.state_dict().items()}
    tuned = {
        (c, k): [
            measure(SLUG, Cell("text", s, c, keep=k, lr=1e-2), "d")["log_perplexity"]
            for s in (0, 1)
        ]
        for c, k in (("gum", 1.0), ("random", 0.5), ("top_v", 0.5))
    }
    assert len({loss for pair in tuned.values() for loss in pair}) == 6
    assert tuned["gum", 1.0][0] < plain["log_perplexity"]  # the text repeats itself
    assert all(torch.equal(p, before[name]) for name, p in net.state_dict().items())
    run = measure(SLUG, Cell("taught", 0, "random", keep=0.5, lr=1e-2), "d")
    assert run["steps"] == len(run["trace"]) == 8
    assert run["log_perplexity"] == pytest.approx(sum(tuned["random", 0.5]) / 2)
