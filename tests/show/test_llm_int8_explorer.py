import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments import llm_int8 as experiment
from survey_lib.experiments import runner
from survey_lib.show import page
from survey_lib.show.explorers import llm_int8 as explorers


@pytest.fixture(scope="module")
def recorded():
    cell = experiment.Cell("explore", 0)
    numbers = experiment.run(cell)
    other = Record("llm_int8", "study", {"arm": "bytes"}, 0, "b", "done", {"int8": 1})
    return [Record("llm_int8", "study", runner.plain(cell), 0, "x", "done", numbers), other]


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


def test_every_method_of_the_explorer_is_a_row_of_the_table():
    assert tuple(explorers.WORDS) == experiment.EXPLORED_KINDS


def test_live_it_computes_what_is_recorded(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("llm_int8", "smoke")
    (setting,) = [
        s for s in recorded[0].numbers["settings"]
        if (s["scale"], s["kind"], s["alpha"]) == (32, experiment.LLM, 12.0)
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
