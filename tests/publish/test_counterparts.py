"""The papers' numbers beside ours."""

import math
import re

import pytest

from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import NOT_REPRODUCED, REPRODUCED, Verdict
from survey_lib.publish.counterparts import counterparts, pairs
from survey_lib.publish.ledger import ledger_page

from .test_overview import claim


def made(claim_id, theirs, mean, half=0.001, word=REPRODUCED, **changes):
    facts = {"unit": "share of images", "theirs": theirs, "apart": f"Why <{claim_id}>."} | changes
    return Verdict(claim(claim_id, **facts), word, Interval(mean, mean - half, mean + half, 5))


JUDGED = {
    "thinet": [
        made("near", 0.010, 0.0105),
        made("other-way", (0.02, 0.03), -0.01, word=NOT_REPRODUCED),
        made("none", None, 0.3, apart=""),
    ],
    "group_fisher": [
        made("less", 2.0, 1.1, 0.05, unit="ratio", region=(1.0, None)),
        made("more", 0.5, 0.4, 0.05, unit="ratio", region=(None, 1.0)),
    ],
}


def test_pairs_are_those_with_a_number_of_the_paper_the_largest_first():
    found = pairs(JUDGED)
    assert [p.claim.id for p in found] == ["less", "more", "other-way", "near"]
    by_name = {p.claim.id: p for p in found}
    assert [p.claim.id for p in found if p.same_way] == ["less", "more", "near"]
    assert [p.claim.id for p in found if p.inside] == ["near"]
    assert by_name["less"].effect(2.0) == pytest.approx(math.log(2))
    assert by_name["more"].effect(0.5) == pytest.approx(math.log(2)), "a half is as far as double"
    assert by_name["other-way"].middle == 0.025


def test_the_sentence_counts_what_the_pairs_are():
    words = counterparts(JUDGED).split("\n\n")[1]
    assert words.startswith("For 4 claims the paper has a number")
    assert "In 3 of them ours has the same direction" in words
    assert "there 1 of our effects are smaller" in words
    ratio = sorted([math.log(1.1) / math.log(2), math.log(0.4) / math.log(0.5), 1.05])[1]
    assert f"the middle one is {ratio:.1f} times theirs" in words
    assert "In 1 our interval reaches theirs" in words


def test_the_table_has_both_numbers_and_why_and_no_markup_of_a_card():
    page = ledger_page(JUDGED, {})
    section = page.split("## The papers’ numbers beside ours")[1].split("\n## ")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", section.split("<tbody>")[1], flags=re.DOTALL)
    assert len(rows) == 4
    assert "+2 to +3 points" in rows[2]
    assert "−1.0" in rows[2]
    assert "✗ not reproduced" in rows[2]
    assert "Why &lt;other-way&gt;." in rows[2]
    assert 'href="../notebooks/thinet.html#verdict-other-way"' in rows[2]
    assert "<other-way>" not in page


def test_the_figure_draws_each_pair_once_in_both_widths():
    html = counterparts(JUDGED)
    figure = html.split("<figure", 1)[1].split("</figure>")[0]
    wide, narrow = figure.split("survey-stacked")
    for part in (wide, narrow):
        assert "difference (points)" in part
        assert "ratio (times)" in part
        assert "difference of logarithms" not in part, "no claim has that unit"
    assert "3 of 4 point the same way" in figure
    assert "\n\n" not in figure


def test_a_book_without_counterparts_has_no_such_section():
    assert counterparts({"thinet": [made("none", None, 0.3, apart="")]}) == ""
    assert "numbers beside ours" not in ledger_page({"thinet": []}, {})
