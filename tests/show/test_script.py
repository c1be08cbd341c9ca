"""The page's script in a browser: sorting, and the explorer's controls."""

import shutil

import altair as alt
import pandas as pd
import pytest

from survey_lib import files
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer
from survey_lib.show.tables import table

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
GRID = pd.DataFrame(
    [{"keep": k, "method": m, "x": x, "y": x * k} for k in (1.0, 0.5, 0.1)
     for m in ("magnitude", "random") for x in (1, 2)]
)  # fmt: skip


def explorer():
    return Explorer(
        "keep",
        controls=[Control("keep", "Kept", (1.0, 0.5, 0.1), 0.5)],
        grid=GRID,
        chart=lambda df, p: (
            alt.Chart(df)
            .transform_filter(alt.datum.keep == p["keep"])
            .mark_point()
            .encode(x="x:Q", y="y:Q", **style.vega_method("method", ["magnitude", "random"]))
        ),
        live=lambda keep: keep,
        title="T",
        alt="A.",
        caption="C.",
    )


def resting():
    """α counts for one of two methods."""
    return Explorer(
        "rest",
        controls=[
            Control("kind", "Multiply", ("plain", "split"), "plain", kind="select"),
            Control("alpha", "α", (3.0, 6.0), 6.0, idle="Only split has a threshold."),
        ],
        grid=pd.DataFrame(
            [{"kind": k, "alpha": a, "y": a * (k == "split")} for k in ("plain", "split")
             for a in (3.0, 6.0)]
        ),
        chart=lambda df, p: alt.Chart(df).mark_bar().encode(y="y:Q"),
        live=lambda kind, alpha: kind,
        title="T",
        alt="A.",
        caption="C.",
    )  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """A page of the book's kind, opened from a file, with a table and an explorer."""
    static = tmp_path / "_static"
    shutil.copytree(files.PACKAGE.parent / "book" / "_static", static)
    (static / "vendor").mkdir()
    vl_convert = pytest.importorskip("vl_convert")
    bundle = vl_convert.javascript_bundle("window.surveyVega = {embed: vegaEmbed};")
    (static / "vendor" / "vega.js").write_text(f"(function () {{\n{bundle}\n}})();\n", "utf-8")
    df = pd.DataFrame({"name": ["b", "a", "c"], "value": [10.0, 9.5, None]})
    (tmp_path / "page.html").write_text(
        '<!doctype html><html lang="en" data-theme="light" data-content_root="./"><meta '
        'charset="utf-8"><title>x</title><link rel="stylesheet" href="_static/survey.css">'
        f"<main>{table(df, caption='T.').html}{explorer().html()}{resting().html()}</main>"
        '<script src="_static/survey.js"></script></html>',
        encoding="utf-8",
    )
    opened = browser.new_page(viewport={"width": 900, "height": 900})
    opened.goto((tmp_path / "page.html").as_uri())
    yield opened
    opened.close()


def points(page):
    """Value and colour of each point drawn, as its label for screen readers tells."""
    page.wait_for_selector("#explorer-keep .survey-chart[data-drawn]")
    return page.eval_on_selector_all(
        "#explorer-keep .survey-chart .mark-symbol.role-mark path",
        "all => all.map(p => [p.getAttribute('aria-label'), p.getAttribute('fill')])",
    )


def expected(keep, variable):
    rows = GRID[GRID.keep == keep]
    colours = {"magnitude": style.SERIES["magnitude"], "random": style.SERIES["random"]}
    return {
        (f"x: {r.x}; y: {r.y:g}; method: {r.method}", getattr(colours[r.method], variable))
        for r in rows.itertuples()
    }


def test_heads_sort_by_number_and_leave_gaps_last(page):
    buttons = page.locator("table.survey-table").first.locator("th button")
    heads = page.locator("table.survey-table").first.locator("thead th")
    names = page.locator("table.survey-table").first.locator("tbody th")
    buttons.nth(1).focus()
    page.keyboard.press("Enter")
    assert names.all_inner_texts() == ["a", "b", "c"]  # 9.5 before 10, no value last
    assert heads.nth(1).get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Enter")
    assert names.all_inner_texts() == ["b", "a", "c"]
    assert heads.nth(1).get_attribute("aria-sort") == "descending"
    buttons.nth(0).click()
    assert names.all_inner_texts() == ["a", "b", "c"]
    assert heads.nth(1).get_attribute("aria-sort") == "none"


def test_the_explorer_draws_the_records_and_follows_keys_and_theme(page):
    assert {tuple(p) for p in points(page)} == expected(0.5, "light")
    slider = page.locator("#explorer-keep input[type=range]")
    slider.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "document.querySelector('.survey-chart .mark-symbol.role-mark path')"
        ".getAttribute('aria-label').includes('y: 0.')"
    )
    assert {tuple(p) for p in points(page)} == expected(0.1, "light")
    assert slider.get_attribute("aria-valuetext") == "0.1"
    assert page.inner_text(".survey-control output") == "0.1"
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_selector("#explorer-keep .survey-chart[data-drawn='2']")
    assert {tuple(p) for p in points(page)} == expected(0.1, "dark"), "the theme resets nothing"


def test_a_control_that_changes_nothing_rests_and_says_why(page):
    page.wait_for_selector("#explorer-rest .survey-chart[data-drawn]")
    alpha = page.locator("#explorer-rest input[type=range]")
    reason = page.locator("#explorer-rest .survey-idle")
    assert alpha.is_disabled()
    assert reason.inner_text() == "Only split has a threshold."
    assert alpha.get_attribute("aria-describedby") == reason.get_attribute("id")
    page.select_option("#explorer-rest select", "1")
    assert alpha.is_enabled()
    assert not reason.is_visible()
    page.select_option("#explorer-rest select", "0")
    assert alpha.is_disabled()
    assert page.locator("#explorer-keep input[type=range]").is_enabled()


def test_without_the_chart_library_the_table_opens(page, tmp_path):
    (tmp_path / "_static" / "vendor" / "vega.js").unlink()
    page.reload()
    page.wait_for_selector("details[open]")
    assert "table holds the same numbers" in page.inner_text("#explorer-keep .survey-status")
    assert page.locator("#explorer-keep .survey-controls").is_hidden()
