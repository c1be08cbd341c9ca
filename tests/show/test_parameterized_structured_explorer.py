import numpy as np
import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.parameterized_structured import cells, study
from survey_lib.show import page
from survey_lib.show.explorers import parameterized_structured as explorers

EPOCHS = 3


def noted(rng):
    hist = rng.multinomial(200, np.full(len(cells.BINS) - 1, 1 / (len(cells.BINS) - 1)))
    return {"val": float(rng.random()), "sparsity": float(rng.random()),
            "near": float(rng.random()), "hist": hist.tolist()}  # fmt: skip


def numbers(cell, rng):
    if cell.arm != "psp":
        return {"test_re": 0.5}
    path = [noted(rng) | {"step": i} for i in range(EPOCHS + 1)]
    left = {k: float(rng.random()) for k in ("sparsity", "weights_gone", "macs_gone", "test_re")}
    return left | {"structures": 200, "macs": 1000, "small": {"macs": 900}, "path": path}


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    return [
        Record("parameterized_structured", "study", runner.plain(c), c.seed, str(c), "done",
               numbers(c, rng))
        for c in study.GRIDS["study"]()
    ]  # fmt: skip


def test_every_granularity_and_pull_of_the_study_is_there(recorded):
    found = explorers.runs(recorded)
    pulls = {p for _, p in found}
    assert {g for g, _ in found} == {"column", *study.GRANULAR} == set(explorers.NAMES)
    assert pulls == {c.pull for c in study.explored()}
    assert len(found) == len(pulls) * len(explorers.NAMES)
    assert all(r.seed == 0 and r.config["penalty"] == "decay" for r in found.values())


def test_the_page_holds_the_records_of_every_epoch(recorded):
    drawn = explorers.explorer(recorded).inlined()
    found = explorers.runs(recorded)
    assert len(drawn) == len(found) * (EPOCHS + 1)
    for (granularity, pull), record in found.items():
        n = record.numbers
        mine = drawn[(drawn.structures == explorers.NAMES[granularity]) & (drawn.pull == pull)]
        for row in mine.itertuples():
            at = n["path"][row.epoch]
            assert row.val == at["val"]
            assert row.off == pytest.approx(at["sparsity"], abs=1e-4)
            assert row.share == pytest.approx([k / 200 for k in at["hist"]], abs=1e-4)
            assert sum(row.share) == pytest.approx(1, abs=1e-2)
            gone = [1 - left for left in row.left]
            wanted = [n["sparsity"], n["weights_gone"], n["macs_gone"], 0.1]
            assert gone == pytest.approx(wanted, abs=1e-4)


def test_the_histogram_has_an_edge_for_each_bar(recorded):
    row = explorers.grid(recorded).iloc[0]
    assert len(row.low) == len(row.high) == len(row.share) == len(cells.BINS) - 1
    assert all(a < b for a, b in zip(row.low, row.high, strict=True))
    assert min(row.low) < row.epsilon < max(row.high)


def test_live_it_trains_with_the_chosen_structures(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    page.begin("parameterized_structured", "smoke")
    seen = []
    made = explorers.explorer(recorded, "smoke").run(
        {"structures": "whole layers", "pull": study.PULLS[-1], "epoch": 1},
        lambda done, *_: seen.append(done),
    )
    assert seen == [0, 1]
    # as many layers as the residual net has behind its first convolution
    assert "of 8 structures ended below ε" in made.caption
