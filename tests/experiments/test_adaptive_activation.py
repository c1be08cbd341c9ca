"""What is particular to this experiment; the contract of all is in test_contract.py."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.adaptive_activation import cells, study
from survey_lib.experiments.adaptive_activation.cells import Cell
from survey_lib.experiments.context import artefacts, measure
from survey_lib.tasks.dense import dense_net
from survey_lib.tasks.train import total_steps

SLUG = "adaptive_activation"


def rows(*pairs):
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell, ("lr", "dense_lr"))


def searched(test, val, params, **knobs):
    return study.cell("adaptive", 0, **knobs), {"test": test, "val": val, "params": params}


@pytest.fixture
def found():
    """One replicate: accuracies in whole points, sizes in hundreds."""
    return rows(
        (study.cell("dense", 0), {"test": 0.90, "val": 0.91, "params": 1000}),
        searched(0.893, 0.910, 600, target=0.0),
        searched(0.884, 0.900, 350, target=1.0),
        searched(0.873, 0.885, 200, target=3.0),
        searched(0.880, 0.900, 300, target=1.0, rewind="rate"),
        searched(0.882, 0.890, 290, policy="memory", keep=0.3),
        searched(0.100, 0.100, 10, policy="memory", keep=0.5),
        searched(0.100, 0.100, 10, target=1.0, first=0.2),  # the explorer's, asked by nobody
        (study.tuned("fixed", 0), {"test": 0.880}),
        (study.tuned("l1", 0), {"test": 0.874}),
        (study.tuned("taylor", 0), {"test": 0.890}),
        (study.tuned("taylor_normalised", 0), {"test": 0.879}),
        (study.tuned("random", 0), {"test": 0.864}),
        (study.tuned("scratch", 0), {"test": 0.881}),
        (
            study.cell("choice", 0),
            {
                "fixed": [{"test": 0.1, "test_re": a} for a in (0.9, 0.8, 0.6)],
                "random": [{"test": 0.9, "test_re": a} for a in (0.9, 0.7, 0.4)],
            },
        ),
    )


def test_limits_are_asked_on_validation_and_on_test(found):
    assert study.limits_broken(found) == 0.0  # 0.000, 0.000 and −0.005 over it
    broken = rows(
        (study.cell("dense", 0), {"val": 0.910}),
        searched(0.9, 0.9095, 600, target=0.0),
        searched(0.9, 0.9000, 350, target=1.0),
        searched(0.9, 0.8700, 200, target=3.0),
    )
    assert study.limits_broken(broken) == pytest.approx(2 / 3)
    assert study.overshoot_on_test(found) == pytest.approx((0.007 + 0.006 - 0.003) / 3)


def test_sizes_are_shares_of_the_dense_nets_parameters(found):
    assert study.removed_for_nothing(found) == pytest.approx(0.4)
    assert study.smallest_size_step(found) == pytest.approx(0.15)
    assert study.weights_over_rate(found) == pytest.approx(0.65 - 0.70)
    assert study.memory_gain(found) == pytest.approx(-0.018)


def test_leads_are_over_rivals_of_the_main_limit(found):
    assert study.over_fixed(found) == pytest.approx(0.004)
    assert study.over_l1(found) == pytest.approx(0.010)
    assert study.over_taylor(found) == pytest.approx(-0.006)
    assert study.over_taylor_normalised(found) == pytest.approx(0.005)
    assert study.over_random(found) == pytest.approx(0.020)
    assert study.over_scratch(found) == pytest.approx(0.003)
    assert study.activation_over_random(found) == pytest.approx(0.1)


def test_a_statistic_misses_an_arm_by_name():
    for statistic in study.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


def test_a_rival_needs_the_run_whose_size_and_cost_it_is_given():
    rival = study.tuned("l1", 3)
    dense, told = cells.needs(rival)
    assert dense == study.cell("dense", 3)
    assert told == study.cell("adaptive", 3, target=study.MAIN)
    assert cells.needs(told) == (dense,)
    assert cells.needs(dense) == ()
    grid = study.GRIDS["study"]()
    assert {need for cell in grid for need in cells.needs(cell)} <= set(grid)


def test_the_explorer_has_every_policy_limit_and_step():
    grid = study.explored()
    assert len(set(grid)) == len(grid) == 3 * (4 + 2 * 3)
    assert set(grid) <= set(study.GRIDS["study"]())


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_task):
    """The experiment on four classes of blobs."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(
        cells, "task_of",
        lambda c: tiny_task.with_training(epochs=c.epochs, batch=32, lr=c.dense_lr),
    )  # fmt: skip
    knobs = {"epochs": 2.0, "rounds": 2, "images": 64, "target": 20.0, "dense_lr": 0.05}

    def run(arm, **more):
        cell = Cell(arm, 1, **(knobs | more))
        return cell, measure(SLUG, cell, "d")

    return run


def test_a_dense_net_leaves_two_states_and_is_the_surveys(small, tiny_task):
    cell = Cell("dense", 1, epochs=2.0, dense_lr=0.05)
    measure(SLUG, cell, "d")
    last, early = (
        load_file(artefacts(SLUG, cell, "d") / f"{n}.safetensors") for n in ("last", "early")
    )
    wanted = dense_net(cells.task_of(cell), 1).state_dict()
    assert all(torch.equal(last[k], v) for k, v in wanted.items())
    assert not torch.equal(early["features.0.weight"], last["features.0.weight"])


def test_a_search_is_told_round_by_round_and_its_cost_counts_what_was_rejected(small, tiny_task):
    cell, found = small("adaptive")
    told = found["rounds"]
    whole = total_steps(cells.task_of(cell))
    each = whole - int(whole / 6)
    trained = [r["steps"] for r in told[1:]]
    assert set(trained) == {each}
    assert found["steps"] == sum(trained)
    assert found["rejected_steps"] == sum(r["steps"] for r in told if not r["good"])
    assert found["ended"] in [r["number"] for r in told if r["good"]]
    last = next(r for r in told if r["number"] == found["ended"])
    assert list(found["layers"].values()) == last["left"] != told[0]["left"]
    ended = json.loads((artefacts(SLUG, cell, "d") / "ended.json").read_text())
    assert ended["steps"] == found["steps"]
    assert ended["params"] == last["size"]


@pytest.mark.parametrize("arm", [*cells.SCORED, "scratch", "longer"])
def test_rivals_have_the_searchs_size_and_steps(small, tiny_task, arm):
    cell, found = small(arm, lr=0.02)
    told = replace(cell, arm="adaptive", lr=0.0)
    search = measure(SLUG, told, "d")
    more = total_steps(cells.task_of(cell)) if arm == "scratch" else 0
    assert found["steps"] == search["steps"] + more
    dense = sum(p.numel() for p in tiny_task.build(torch.Generator()).parameters())
    if arm == "longer":
        assert found["params"] == dense
    elif arm == "scratch":
        assert found["params"] == search["params"]
    else:
        assert search["params"] * 0.6 < found["params"] <= search["params"]
        assert set(found["before"]) == {"test", "test_re"}


def test_a_size_policy_meets_its_size(small):
    for policy, metric in (("memory", "params"), ("macs", "macs")):
        _, found = small("adaptive", policy=policy, keep=0.5)
        _, dense = small("dense")
        assert found[metric] <= 0.5 * dense[metric]
        assert found["rounds"][-1]["size"] <= 0.5


def test_choices_take_as_many_of_each_layer(small, tiny_task):
    _, found = small("choice")
    assert [len(found[arm]) for arm in cells.CHOSEN] == [3] * 4
    gone = [56 - sum({"features.0": 8, "features.3": 16, "features.6": 32, **left}.values())
            for left in found["left"]]  # fmt: skip
    assert gone == sorted(gone)
    assert gone[0] >= 6
    scores = {"a": torch.tensor([0.1, 0.9, 0.5])}
    assert cells.highest(scores, {"a": 2}) == {"a": [1, 2]}


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in recorded(SLUG):
        cell, n = Cell(**r.config), r.numbers
        if cell.arm == "adaptive":
            assert n["steps"] == sum(row["steps"] for row in n["rounds"])
            if cell.policy == "accuracy":
                ended = next(row for row in n["rounds"] if row["number"] == n["ended"])
                assert ended["reduction"] <= cell.target
            else:
                assert n["rounds"][-1]["size"] <= cell.keep + 1e-9
