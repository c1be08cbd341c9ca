import numpy as np
import pytest

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.rethinking import study
from survey_lib.show import page
from survey_lib.show.explorers import rethinking as explorers


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    rows = []
    for cell in study.GRIDS["study"]():
        numbers = {
            "test_re": float(rng.random()),
            "test": 0.0,
            "macs_nonzero": int(rng.integers(9)),
        }
        if cell.arm != "dense":
            numbers["spent"] = float(rng.uniform(0.1, 0.2))
        rows.append(
            Record("rethinking", "study", runner.plain(cell), cell.seed, str(cell), "done", numbers)
        )
    return rows


def at(drawn, **wanted):
    for field, value in wanted.items():
        drawn = drawn[drawn[field] == value]
    return drawn.iloc[0]


def test_the_page_holds_means_and_intervals_of_the_records(recorded):
    drawn = explorers.explorer(recorded).inlined()
    for way, name in explorers.WAYS.items():
        for size, i in explorers.SIZES.items():
            keep = study.shares(name)[i]
            for net, arm, how in (("falling", "tuned", "falling"), ("Scratch-B", "scratch", "b")):
                method = name if arm == "tuned" else study.family(name)
                runs = [r.numbers for r in recorded if (r.config["arm"], r.config["method"],
                        r.config["how"], r.config["keep"]) == (arm, method, how, keep)]  # fmt: skip
                row = at(drawn, way=way, size=size, net=net, budget=1.0)
                interval = t_interval([n["test_re"] for n in runs])
                assert row.seeds == len(runs) >= study.FEW
                assert (row.accuracy, row.low) == pytest.approx(
                    (interval.mean, interval.low), abs=1e-5
                )
                spent = np.mean([n["spent"] for n in runs])
                assert row.cost == pytest.approx(spent + (arm == "tuned"), abs=1e-4)


def test_residual_nets_stand_beside_their_own_dense_net(recorded):
    drawn = explorers.grid(recorded)
    dense = {net: np.mean([r.numbers["test_re"] for r in recorded
                           if (r.config["arm"], r.config["net"]) == ("dense", net)])
             for net in ("vgg", "resnet")}  # fmt: skip
    for way, name in explorers.WAYS.items():
        row = at(drawn, way=way, size="small", net="dense", budget=1.0)
        assert row.accuracy == pytest.approx(dense[study.of(name)], abs=1e-5)
        assert row.cost == 1.0


def test_what_a_budget_pays_for(recorded):
    """A tuned net costs the dense net's training too."""
    drawn = explorers.grid(recorded)
    paid = {(r.net, r.budget): r.paid for r in drawn[drawn.way == "ThiNet"].itertuples()}
    assert not paid["constant", 1.0]
    assert paid["constant", 1.25]
    assert paid["Scratch-E", 0.25]
    assert paid["dense", 1.0]
    assert not paid["dense", 0.75]


@pytest.mark.parametrize("way", ["ThiNet", "whole branches", "single weights"])
def test_live_it_trains_the_chosen_shape_within_the_budget(tmp_path, monkeypatch, way):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    page.begin("rethinking", "smoke")
    seen = []
    made = explorers.train(way, "medium", 0.5, lambda done, total, _: seen.append((done, total)),
                           "smoke")  # fmt: skip
    done, total = seen[-1]
    assert done == total >= 1
    cost = float(made.text.split("\n")[-1].split()[-2])
    assert 0.2 < cost <= 0.5
    assert way in made.text
