"""What is particular to this experiment; the contract of all is in test_contract.py."""

from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file

from survey_lib.evidence.protocol import MissingArm, Rows, tune_grid
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import Context, measure
from survey_lib.experiments.parameterized_structured import cells, study
from survey_lib.experiments.parameterized_structured.cells import Cell
from survey_lib.methods.parameterized_structured import method
from survey_lib.tasks.train import evaluate, total_steps

SLUG = "parameterized_structured"


def rows(*pairs):
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell, study.FREE)


def right(test_re, **more):
    """A net that is right on so many images with statistics re-estimated; stale it is not."""
    return {"test_re": test_re, "test": 0.0, "val": 0.0, "val_re": 0.0} | more


# ---- statistics


def test_a_lead_is_the_mean_over_the_two_strong_pulls():
    a, b = study.HIGH
    learned = [(study.psp(0, a), right(0.86)), (study.psp(0, b), right(0.82))]
    found = rows(
        *learned,
        (study.rival("l1_norm", 0, a, match="structures"), right(0.84)),
        (study.rival("l1_norm", 0, b, match="structures"), right(0.78)),
        (study.rival("l1_norm", 0, a, match="macs"), right(0.86)),
        (study.rival("l1_norm", 0, b, match="macs"), right(0.81)),
        (study.rival("l1_norm", 0, a, match="layers"), right(0.85)),
        (study.rival("l1_norm", 0, b, match="layers"), right(0.84)),
        (study.rival("random", 0, a, match="layers"), right(0.80)),
        (study.rival("random", 0, b, match="layers"), right(0.70)),
        (study.rival("fixed", 0, a), right(0.85)),
        (study.rival("fixed", 0, b), right(0.83)),
        (study.rival("fresh", 0, a), right(0.84)),
    )
    assert study.psp_over_l1_norm(found) == pytest.approx(0.03)
    assert study.psp_over_l1_norm_macs(found) == pytest.approx(0.005)
    assert study.psp_over_l1_norm_layers(found) == pytest.approx(-0.005)
    assert study.psp_over_random(found) == pytest.approx(0.09)
    assert study.learned_over_fixed(found) == pytest.approx(0.0)
    assert study.inherited_over_fresh(found) == pytest.approx(0.02)
    with pytest.raises(MissingArm):
        study.psp_over_l1_norm(rows(*learned))


def test_the_penalties_are_compared_at_the_same_sparsity():
    """ℓ1: 0.90 at 0, 0.80 at a half, then 0.6 at 0.9; decay 0.89 at a quarter and 0.84 at 0.4."""
    l1 = zip((0.5, 0.7, 0.8, 0.9), (0.80, 0.70, 0.65, 0.6), strict=True)
    pairs = [(study.psp(0, p, "l1"), right(acc, sparsity=s))
             for p, (s, acc) in zip(study.L1_PULLS, l1, strict=False)]  # fmt: skip
    mild = zip(study.MILD, (0.25, 0.4), (0.89, 0.84), strict=True)
    pairs += [(study.psp(0, p), right(acc, sparsity=s)) for p, s, acc in mild]
    pairs += [(study.psp(0, study.PULLS[0]), right(0.90, sparsity=0.0))]
    wanted = ((0.89 - 0.85) + (0.84 - 0.82)) / 2
    assert study.decay_over_l1_penalty(rows(*pairs)) == pytest.approx(wanted)
    beyond = [(c, n | {"sparsity": 0.99} if c == study.psp(0, study.MILD[1]) else n)
              for c, n in pairs]  # fmt: skip
    with pytest.raises(ValueError, match=r"lies outside 0\.0"):
        study.decay_over_l1_penalty(rows(*beyond))


def test_the_gap_and_the_threshold_are_judged_when_the_mask_is_frozen():
    def numbers(near, low, high):
        by = [{"factor": f, "test_re": t} for f, t in ((0.5, low), (1.0, 0.85), (2.0, high))]
        return right(0.9, at_freeze={"near": near}, near=1.0,
                     thresholds=[*by, {"factor": 4.0, "val_re": 0.1}])  # fmt: skip

    a, b = study.HIGH
    found = rows((study.psp(0, a), numbers(0.02, 0.86, 0.85)),
                 (study.psp(0, b), numbers(0.06, 0.85, 0.82)))  # fmt: skip
    assert study.share_near_threshold(found) == pytest.approx(0.04)
    assert study.threshold_effect(found) == pytest.approx(0.03)  # a loss counts like a gain


def test_from_random_weights_it_meets_the_rivals_line():
    """ℓ1 norms: 0.88 at none, 0.86 at 0.6 and 0.84 at 0.8; learned 0.855 at 0.7."""
    a, b = study.HIGH
    found = rows(
        (study.longer(0), right(0.88)),
        (study.rival("l1_norm", 0, a), right(0.86, sparsity=0.6)),
        (study.rival("l1_norm", 0, b), right(0.84, sparsity=0.8)),
        (study.psp(0, **study.FRESH), right(0.855, sparsity=0.7)),
    )
    assert study.from_scratch_over_l1_norm(found) == pytest.approx(0.005)


def test_batch_norm_minus_none_over_both_strengths():
    near = {"cnn": (0.9, 0.7), "cnn_plain": (0.3, 0.1)}
    found = rows(*(
        (study.psp(0, p, net=net, psp_lr=study.STACK_LR), right(0.9, at_freeze={"near": n}))
        for net, values in near.items()
        for p, n in zip(study.STACK_PULLS, values, strict=True)
    ))  # fmt: skip
    assert study.batch_norm_blurs(found) == pytest.approx(0.6)


def test_other_ways_to_measure_read_other_numbers():
    a, b = study.HIGH
    found = [Record(SLUG, "study", asdict(c), 0, "k", "done", n) for c, n in (
        (study.psp(0, a), right(0.86) | {"test": 0.8}),
        (study.psp(0, b), right(0.82) | {"test": 0.7}),
        (study.rival("l1_norm", 0, a), right(0.84) | {"test": 0.5}),
        (study.rival("l1_norm", 0, b), right(0.86) | {"test": 0.6}),
    )]  # fmt: skip
    ways = study.INSTEAD["psp_over_l1_norm"]
    told = {words: way(found) for words, way in ways.items()}
    assert told == pytest.approx({
        "statistics not re-estimated": 0.2,
        "the weaker pull alone": 0.02,
        "the stronger pull alone": -0.04,
    })  # fmt: skip


def test_the_smallest_step_of_the_sparsity():
    values = (0.0, 0.5, 0.45, 0.8)
    pairs = [(study.psp(0, p), right(0.9, sparsity=s))
             for p, s in zip(study.PULLS, values, strict=True)]  # fmt: skip
    assert study.smallest_sparsity_step(rows(*pairs)) == pytest.approx(-0.05)


def test_the_claim_on_time_takes_fewer_columns_and_fewer_channels_at_the_large_batch():
    timed = {
        batch: {"rows": [{"name": n, "min_ms": t * f} for n, t in
                         (("dense", 9.0), ("fewer columns, im2col", 3.0), ("fewer channels", 2.0))]}
        for batch, f in (("64", 1.0), ("1", 7.0))
    }  # fmt: skip
    timed["1"]["rows"][1]["min_ms"] = 100.0
    cell = study.rival("latency", 0, study.HIGH[0])
    assert study.column_time(rows((cell, {"timed": timed}))) == pytest.approx(1.5)


# ---- grids


def test_rates_change_the_steps_and_not_the_pull():
    """λ η is the same whatever rate is tried."""
    tried = [c for c in study.ROLES[1].cells(900, 0.03) + study.ROLES[1].cells(900, 0.3)]
    lams = [cells.config_of(c).decay for c in tried]
    assert [lam * c.psp_lr for lam, c in zip(lams, tried, strict=True)] == pytest.approx(
        [study.TUNED] * 2
    )
    assert lams[0] > lams[1]


def test_every_role_tries_its_own_arm_on_validation_replicates():
    grid = tune_grid(study.ROLES, study.REPLICATES)
    assert {c.arm for c in grid} == {"dense_longer", "psp", "fixed", "l1_norm", "random", "fresh"}
    alone = [c for c in grid if c.arm in ("fixed", "l1_norm", "random")]
    assert {c.share for c in alone} == {study.SHARE}
    assert not any(cells.needs(c) for c in alone)


def test_rivals_are_compared_with_a_run_of_the_study():
    grid = study.GRIDS["study"]()
    assert len(grid) == len(set(grid))
    rivals = [c for c in grid if c.arm in cells.RIVALS]
    assert rivals
    for cell in rivals:
        (run,) = cells.needs(cell)
        assert run in grid
        assert (run.arm, run.seed, run.pull, run.net) == ("psp", cell.seed, cell.pull, cell.net)
    assert set(study.GRIDS["quick"]()) <= set(grid)
    assert {c.arm for c in grid} == set(cells.ARMS)
    assert not {c.seed for c in grid} & set(study.REPLICATES)


# ---- arms, on a net of some hundred weights


@pytest.fixture
def small(tmp_path, monkeypatch, tiny_task):
    """Cells of a tiny net; what they keep lies in a folder of this test."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "task_of", lambda cell: tiny_task)
    return Cell("psp", 0, start="fresh", pull=0.006, rate=10.0, epsilon=0.5, epochs=1.0,
                psp_lr=0.05)  # fmt: skip


def structures(found):
    return sum(kept for _, kept in found["layers"].values())


def test_a_run_notes_its_path_and_what_was_cut(small, tiny_task):
    found = measure(SLUG, small, "d")
    assert found["decay"] == pytest.approx(0.12)
    assert 0 < found["sparsity"] < 1
    assert found["sparsity"] == pytest.approx(1 - structures(found) / found["structures"])
    assert found["path"][0]["sparsity"] == 0.0
    assert [p["step"] for p in found["path"]] == [0, 8]
    for point in found["path"]:
        assert sum(point["hist"]) == found["structures"]
    assert found["path"][-1]["sparsity"] == found["at_freeze"]["sparsity"] == found["sparsity"]
    assert found["frozen_at"] == found["steps"] // 2
    same = next(r for r in found["thresholds"] if r["factor"] == 1.0)
    assert same["sparsity"] == found["sparsity"]
    cut = [r["sparsity"] for r in found["thresholds"]]
    assert cut == sorted(cut)
    assert found["nonzeros"] < found["params"]
    assert found["macs_nonzero"] == pytest.approx(found["macs"] * (1 - found["macs_gone"]), abs=1)
    net = tiny_task.build(cells.seeded(0))
    folder = Context(SLUG, replace(small, arm="l1_norm"), "d")
    net.load_state_dict(load_file(folder.kept(small, "net.safetensors")))
    assert evaluate(net.eval(), tiny_task.test, tiny_task)["accuracy"] == found["test"]


def test_rivals_cut_as_much_as_the_run(small):
    run = measure(SLUG, small, "d")
    rival = replace(small, arm="l1_norm", lr=0.05)
    equal = measure(SLUG, rival, "d")
    assert structures(equal) == structures(run)
    macs = measure(SLUG, replace(rival, match="macs", scope="global"), "d")
    assert run["macs_gone"] <= macs["macs_gone"] < run["macs_gone"] + 0.05
    for arm in ("l1_norm", "random"):
        layers = measure(SLUG, replace(rival, arm=arm, match="layers"), "d")
        assert layers["layers"] == run["layers"]
        assert layers["steps"] == run["steps"]
    fixed = measure(SLUG, replace(rival, arm="fixed"), "d")
    assert abs(structures(fixed) - structures(run)) <= len(run["layers"])
    assert "thresholds" not in fixed
    alone = measure(SLUG, Cell("l1_norm", 0, share=0.5, epochs=1.0, lr=0.05), "d")
    assert alone["sparsity"] == pytest.approx(0.5, abs=0.02)


def test_fresh_weights_have_the_runs_mask_and_the_steps_of_both_trainings(small, tiny_task):
    run = measure(SLUG, small, "d")
    fresh = measure(SLUG, replace(small, arm="fresh", lr=0.05), "d")
    assert fresh["layers"] == run["layers"]
    assert fresh["steps"] == total_steps(tiny_task) + run["steps"]


def test_the_timed_nets_are_the_same_function_and_meet_at_equal_macs(small, monkeypatch):
    seen = {}

    class Compared:
        device_line = "here"

        def dicts(self):
            return []

    def compare(nets, example):
        seen.update(nets)
        outputs = {n: net(example) for n, net in nets.items()}
        for name in ("all columns, im2col", "fewer columns, im2col"):
            torch.testing.assert_close(outputs[name], outputs["zeros left in"])
        return Compared()

    monkeypatch.setattr(cells, "compare", compare)
    found = measure(SLUG, replace(small, arm="latency"), "d")
    assert list(found["timed"]) == ["64", "1"]
    example = torch.randn(1, 1, 8, 8)
    macs = {n: cells.count_macs(net, example) for n, net in seen.items()}
    target = macs["dense"] * (1 - found["macs_gone"])
    assert macs["fewer columns, im2col"] == pytest.approx(target, rel=0.02)
    assert macs["fewer channels"] <= target < macs["all columns, im2col"] * 1.001
    assert macs["zeros left in"] == macs["dense"]


def test_a_run_may_start_from_fresh_weights(small, monkeypatch):
    """And then the dense net is not even trained."""
    monkeypatch.setattr(Context, "dense", lambda *_: pytest.fail("the dense net was asked for"))
    found = measure(SLUG, small, "d")
    assert found["steps"] == 8


def test_every_granularity_can_be_measured(small):
    for granularity in method.AXES:
        found = measure(SLUG, replace(small, granularity=granularity), "d")
        assert sum(found["path"][-1]["hist"]) == found["structures"]
        assert found["small"]["params"] <= found["params"]
