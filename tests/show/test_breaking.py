"""Break this verdict: the sentence, and the control against the judge in Python."""

import json
import re
import shutil
from html import unescape

import pytest

from survey_lib import files
from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.standing import word_of
from survey_lib.show.breaking import breaking
from survey_lib.show.verdicts import verdict_table

from .conftest import verdict
from .test_script import ARGUMENTS, CHROMIUM

VALUES = [0.012, 0.031, -0.006, 0.024, 0.018, 0.027, 0.009]


def words(html):
    return unescape(re.sub("<[^>]+>", "", re.findall("<p>(.*?)</p>", html)[0]))


def data(html):
    return json.loads(unescape(re.findall("data-break='([^']*)'", html)[0]))


def test_the_sentence_says_what_breaks_it():
    shown = verdict(VALUES, unit="share of images")
    interval = t_interval(VALUES)
    said = words(breaking(shown, "draws"))
    assert said.startswith("The word is the same from the first 6 draws on; ")
    assert "whichever one of them is left out" in said
    assert said.endswith(
        f"With an edge of up to +{100 * interval.low:.1f} points it is ✓ reproduced, "
        f"beyond +{100 * interval.high:.1f} points ✗ not reproduced."
    )


def test_a_margin_and_an_upper_edge():
    tie = verdict([0.1, -0.1, 0.2, 0.0, 0.1], region=(-1.0, 1.0))
    low, high = (
        t_interval([0.1, -0.1, 0.2, 0.0, 0.1]).low,
        t_interval([0.1, -0.1, 0.2, 0, 0.1]).high,
    )
    assert f"With a margin of {max(-low, high):.2f} or more it is ✓" in words(breaking(tie))
    assert "✗" not in words(breaking(tie)), "an interval around the middle is never outside"
    below = words(breaking(verdict(VALUES, region=(None, 0.05))))
    assert f"With an edge of {t_interval(VALUES).high:.3f} or more it is ✓" in below


def test_what_nothing_can_break_has_no_control(opened):
    assert breaking(verdict([0.01] * 5)) == ""
    assert breaking(verdict([], not_tested="too large")) == ""
    assert "survey-break" not in verdict_table([verdict([0.01] * 5)]).html
    assert verdict_table([verdict(VALUES)]).html.count("survey-breaking") == 1


def test_other_measurements_reach_the_page_and_no_markup_does(opened):
    way = {"<b>raw</b>": dict(enumerate(v + 0.1 for v in VALUES))}
    shown = verdict(VALUES, unit="share of images")
    html = verdict_table([shown], instead={shown.claim.id: way}).html
    assert "<b>raw" not in html
    facts = data(html)
    assert facts["values"]["<b>raw</b>"][1] == [1, pytest.approx(13.1)]
    assert facts["values"][""] == [[i, pytest.approx(100 * v)] for i, v in enumerate(VALUES)]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    api = pytest.importorskip("playwright.sync_api")
    where = tmp_path_factory.mktemp("breaking")
    shutil.copytree(files.PACKAGE.parent / "book" / "_static", where / "_static")
    way = {"raw": dict(enumerate(v - 0.05 for v in VALUES))}
    rows = breaking(verdict(VALUES, unit="share of images"), "seeds", way) + breaking(
        verdict(VALUES, ident="tie", region=(-0.01, 0.03))
    )
    (where / "page.html").write_text(
        '<!doctype html><html lang="en" data-theme="light"><meta charset="utf-8"><title>x</title>'
        f"<main><table><tbody>{rows}</tbody></table></main>"
        '<script src="_static/survey.js"></script></html>',
        encoding="utf-8",
    )
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        opened = browser.new_page(viewport={"width": 900, "height": 900})
        opened.goto((where / "page.html").as_uri())
        for summary in opened.locator("summary").all():
            summary.click()
        opened.wait_for_selector(".survey-breaking:not([hidden]) >> nth=1")
        yield opened
        browser.close()


def put(control, value):
    control.evaluate(
        "(c, v) => { c.value = v; c.dispatchEvent(new Event('input', {bubbles: true})); }",
        str(value),
    )


def test_the_script_judges_as_the_library_does(page):
    """Every number of replicates and several edges, against the judge in Python."""
    box = page.locator(".survey-breaking").nth(0)
    count, edge = box.locator("input").nth(0), box.locator("input").nth(1)
    said = box.locator(".survey-broken")
    seen = set()
    for at in (0.0, 0.7, 1.4, 3.0):
        put(edge, at)
        for n in range(2, len(VALUES) + 1):
            put(count, n)
            interval = t_interval([100 * v for v in VALUES[:n]])
            word = word_of([100 * v for v in VALUES[:n]], (at, None))
            seen.add(word)
            text = said.inner_text().replace("−", "-")
            assert text.split(":")[0].endswith(f" {word}"), (at, n, text)
            found = [float(x) for x in re.findall(r"[-+]?\d+\.\d+", text)]
            assert found == pytest.approx([interval.mean, interval.low, interval.high], abs=0.051)
            assert text.endswith(f"{n} seeds")
    assert seen == {"reproduced", "not reproduced", "inconclusive"}


def test_another_measurement_and_the_way_back(page):
    box = page.locator(".survey-breaking").nth(0)
    box.get_by_text("as it was judged").click()
    assert box.locator(".survey-broken").inner_text().startswith("✓ reproduced: +1.6 points")
    assert box.get_by_text("as it was judged").is_disabled()
    box.locator("select").select_option("raw")
    assert box.locator(".survey-broken").inner_text().startswith("✗ not reproduced: −3.4 points")
    box.get_by_text("as it was judged").click()
    assert box.locator("select").input_value() == ""
    assert box.locator(".survey-broken").inner_text().startswith("✓ reproduced: +1.6 points")


def test_a_margin_moves_both_edges(page):
    box = page.locator(".survey-breaking").nth(1)
    margin, told = box.locator("input").nth(1), box.locator("output").nth(1)
    assert told.inner_text() == "±0.020"
    for at in (0.005, 0.02, 0.03):
        put(margin, at)
        word = word_of(VALUES, (0.01 - at, 0.01 + at))
        assert word in box.locator(".survey-broken").inner_text(), at
