import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure, plain
from survey_lib.experiments.llm_int8 import cells
from survey_lib.show import page
from survey_lib.show.explorers import llm_int8 as explorers


@pytest.fixture(scope="module")
def recorded():
    cell = cells.Cell("explore", 0)
    numbers = measure("llm_int8", cell, "digest")
    other = Record("llm_int8", "study", {"arm": "bytes"}, 0, "b", "done", {"int8": 1})
    return [Record("llm_int8", "study", plain(cell), 0, "x", "done", numbers), other]


def test_the_page_holds_every_recorded_setting(recorded):
    drawn = explorers.explorer(recorded).inlined()
    settings = recorded[0].numbers["settings"]
    assert len(drawn) == len(settings) == 7 * 5 * 4
    for setting in settings:
        row = drawn[
            (drawn.kind == explorers.WORDS[setting["kind"]])
            & (drawn.scale == setting["scale"]) & (drawn.alpha == setting["alpha"])
        ].iloc[0]  # fmt: skip
        assert list(row.value) == setting["value"]
        assert list(row.rounded) == setting["rounded"]
        assert row.error == setting["error"]
        assert row.zeros == sum(v == 0 for v in setting["rounded"])


def test_it_opens_on_a_staircase_and_says_how_many_values_are_zero(recorded):
    """Not most of them."""
    drawn = explorers.explorer(recorded)
    (opening,) = [
        s for s in recorded[0].numbers["settings"]
        if (s["scale"], s["kind"], s["alpha"]) == (64, cells.VECTOR, 6.0)
    ]  # fmt: skip
    assert 4 < opening["levels"] < 10
    assert opening["zeros"] < cells.SHOWN / 2
    assert f"{opening['levels']} steps" in drawn.caption
    assert f"{opening['zeros']} of {cells.SHOWN} values are zero" in drawn.caption


def test_every_method_of_the_explorer_is_a_row_of_the_table():
    assert tuple(explorers.WORDS) == cells.EXPLORED_KINDS


def test_live_it_computes_what_is_recorded(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("llm_int8", "smoke")
    (setting,) = [
        s for s in recorded[0].numbers["settings"]
        if (s["scale"], s["kind"], s["alpha"]) == (32, cells.LLM, 12.0)
    ]  # fmt: skip
    figure = explorers.multiply(32, "LLM.int8()", 12.0)
    assert f"off by {setting['error']:.2%}" in figure.caption
    assert f"{setting['outliers']} of 128 features" in figure.caption


def test_the_stairs_get_coarser_with_the_outliers_and_not_without_them(recorded):
    rows = explorers.grid(recorded)
    one = rows[(rows.kind == "vector-wise") & (rows.alpha == 6)].sort_values("scale")
    assert one.levels.iloc[-1] < 0.4 * one.levels.iloc[0]
    assert one["error"].is_monotonic_increasing
    two = rows[(rows.kind == "LLM.int8()") & (rows.alpha == 6) & (rows.scale >= 8)]
    assert two["error"].max() < 0.01
