from dataclasses import asdict, replace

import pytest

from survey_lib.evidence.reading import study as recorded_study
from survey_lib.evidence.records import Record
from survey_lib.experiments.adaptive_activation import study
from survey_lib.experiments.adaptive_activation.cells import Cell
from survey_lib.show import page
from survey_lib.show.explorers import adaptive_activation as chapter


def made_up():
    """Records of the explorer's grid, and some that it leaves out."""
    found = []
    run = study.explored()[0]
    for k, cell in enumerate([*study.explored(), replace(run, rewind="rate"), replace(run, seed=1),
                              study.cell("dense", 0)]):  # fmt: skip
        rounds = [
            {"number": i, "base": max(0, i - 1), "threshold": 0.1 * i + 0.001 * k, "step": 0.1,
             "reduction": 0.2 * i, "val": 0.9 - 0.002 * i, "size": 1 - 0.1 * i, "good": i != 3,
             "steps": 10 * (i > 0), "left": [16, 32 - 2 * i, 64 - 4 * i - k % 7]}
            for i in range(5)
        ]  # fmt: skip
        numbers = {"test": 0.88 - 0.001 * k, "ended": 4, "rounds": rounds}
        found.append(Record("adaptive_activation", "study", asdict(cell), cell.seed, str(k),
                            "done", numbers))  # fmt: skip
    return found


@pytest.fixture
def recorded():
    return recorded_study("adaptive_activation") or made_up()


def test_the_explorer_holds_all_recorded_settings_and_their_real_numbers(recorded):
    runs = chapter.grid(recorded)
    settings = runs[["policy", "limit", "keep", "first"]].drop_duplicates()
    assert len(settings) == 3 * 4 * 3 * 3
    record = next(
        r for r in recorded
        if Cell(**r.config) == study.cell("adaptive", 0, policy="macs", keep=0.3, first=0.2)
    )  # fmt: skip
    own = runs[(runs.policy == "operations") & (runs.keep == 0.3) & (runs["first"] == 0.2)]
    told = record.numbers["rounds"]
    for limit in study.EXPLORED_LIMITS:
        rows = own[own.limit == limit]
        for field in chapter.NUMBERS:
            assert rows[field].tolist() == pytest.approx([r[field] for r in told], rel=5e-4)
        assert rows.held.tolist() == ["yes" if r["good"] else "no" for r in told]
        assert [list(map(int, left.split())) for left in rows.left] == [r["left"] for r in told]
        assert rows[rows.ended]["round"].tolist() == [record.numbers["ended"]]


def test_a_limit_that_the_policy_does_not_have_is_idle(recorded):
    made = chapter.explorer(recorded)
    accuracy = {"policy": "accuracy", "limit": 1.0, "keep": 0.5, "first": 0.1}
    size = accuracy | {"policy": "parameters"}
    assert [made.idle(f, accuracy) for f in ("limit", "keep", "first")] == [False, True, False]
    assert [made.idle(f, size) for f in ("limit", "keep")] == [True, False]


def test_the_explorer_inlines_its_grid_and_is_light_enough(recorded):
    made = chapter.explorer(recorded)
    assert len(made.inlined()) == len(made.grid)
    names = {p["name"] for p in made.spec()["params"]}
    assert {"c_policy", "c_limit", "c_keep", "c_first"} <= names
    assert len(made.html().encode()) < 700_000


def test_a_live_search_draws_its_trace(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("adaptive_activation", "smoke")
    drawn = chapter.search("accuracy", 3.0, 0.5, 0.2, lambda *_: None, "smoke")
    assert "rounds end with" in drawn.caption


def test_limits_in_words():
    assert [chapter.points_words(v) for v in (0.0, 1.0, 2.0)] == ["0 points", "1 point", "2 points"]
    assert chapter.share_words(0.05) == "5 %"
