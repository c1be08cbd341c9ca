import numpy as np
import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.closer_look import cells, study
from survey_lib.show import page
from survey_lib.show.explorers import closer_look as explorers

SIZES = {"stages.0.conv1": 16, "stages.1.conv1": 32, "stages.2.conv1": 64}


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    rows = []
    for cell in study.explored():
        steps = []
        for removed in range(0, 109, cells.EVERY):
            kept = [max(1, n - removed // 3) for n in SIZES.values()]
            score = float(rng.random()) if removed else None
            steps.append({"removed": removed, "kept": kept, "score": score,
                          "macs": int(1e6 * rng.random()), "parameters": int(1e4 * rng.random()),
                          "val": float(rng.random()),
                          "val_re": float(rng.random())})  # fmt: skip
        numbers = {"groups": SIZES, "macs_dense": 2_000_000, "parameters_dense": 20_000,
                   "order": [], "steps": steps}  # fmt: skip
        rows.append(
            Record("closer_look", "study", runner.plain(cell), 0, str(cell), "done", numbers)
        )
    return [*rows, Record("closer_look", "study", {"arm": "dense"}, 0, "d", "done", {})]


def test_every_rank_is_recorded_and_only_those():
    assert sorted(explorers.RANKS.values()) == sorted(study.EXPLORED)


def test_the_page_holds_every_recorded_stop(recorded):
    drawn = explorers.explorer(recorded).inlined()
    assert len(drawn) == sum(len(r.numbers["steps"]) for r in recorded[:-1])
    for record in recorded[:-1]:
        what = (record.config["criterion"], record.config["beta"])
        name = next(n for n, w in explorers.RANKS.items() if w == what)
        for step in record.numbers["steps"]:
            row = drawn[(drawn["rank"] == name) & (drawn.removed == step["removed"])].iloc[0]
            assert list(row.kept) == step["kept"]
            assert (row.accuracy, row.stale) == (step["val_re"], step["val"])
            assert row.macs == pytest.approx(step["macs"] / 2_000_000, abs=1e-4)
            assert row.score == step["score"] or (step["score"] is None and row.score != row.score)


def test_live_it_prunes_the_shipped_net_as_the_recorded_cell_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("closer_look", "smoke")
    seen = []
    figure = explorers.remove("Δ less β δC, β = 1", 5, lambda done, *_: seen.append(done))
    assert seen == [0, 1, 2, 3, 4, 5]
    (cell,) = (c for c in study.GRIDS["study"]() if (c.arm, c.beta) == ("explore", 1.0))
    net, task = cells.shipped_net("resnet_small"), cells.load_task("resnet_small")
    last = cells.walked(net, task, cell, total=5)["steps"][-1]
    data = next(p for p in figure.files if p.suffix == ".csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[2]) for line in data] == last["kept"]
    assert f"{last['val_re']:.1%} with statistics re-estimated" in figure.caption
    assert f"{last['val']:.1%} as it is" in figure.caption
