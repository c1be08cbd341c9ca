import re

import pytest

from survey_lib.show import page
from survey_lib.show.verdicts import VerdictChanged, say, verdict_table

from .conftest import verdict

GOOD = [0.010, 0.012, 0.011, 0.013, 0.014]


def row(html, ident):
    return re.search(rf'<tr role="row" id="verdict-{ident}".*?</tr>', html, flags=re.DOTALL)[0]


def test_a_row_says_all_there_is_to_say(opened):
    html = row(verdict_table([verdict(GOOD, unit="share")]).html, "small-is-fine")
    for part in ("Half the weights can go.", "Table 2", "≥ 0 share", "accuracy pruned minus dense",
                 "0.0120", "[0.0100, 0.0140]", "5 seeds", "✓</span> reproduced"):  # fmt: skip
        assert part in html, part
    seeds = re.findall(r"<li><span>(\d)</span> ([\d.]+)</li>", html)
    assert [(int(s), float(v)) for s, v in seeds] == list(enumerate(GOOD))


def test_too_few_seeds_say_what_would_decide(opened):
    html = row(verdict_table([verdict(GOOD[:3])]).html, "small-is-fine")
    assert "≈</span> inconclusive" in html
    assert "about 5 seeds would decide" in html


def test_marks_for_claims_and_code_that_changed(opened):
    from dataclasses import replace

    changed = replace(verdict(GOOD), changed=True)
    untested = verdict([], ident="no", not_tested="too large")
    html = verdict_table([changed, untested], code_changed_since="abc123").html
    assert "changed after the run" in row(html, "small-is-fine")
    assert html.count("Made at commit abc123; the code has changed since.") == 1
    assert "code has changed since" not in row(html, "no")
    assert "too large" in row(html, "no")
    assert "survey-flag" not in verdict_table([verdict(GOOD)]).html


def test_a_deterministic_claim_needs_no_seeds(opened):
    html = row(verdict_table([verdict([3.0], deterministic=True)]).html, "small-is-fine")
    assert "one run decides" in html
    assert "<details>" not in html


def test_cards_are_escaped_in_the_table(opened):
    html = verdict_table([verdict(GOOD, sentence="<script>x</script>", unit="<b>")]).html
    assert "<script" not in html
    assert "<b>" not in html


def test_say_prints_the_verdicts_own_numbers(opened):
    shown = say(verdict(GOOD), "reproduced", "ahead by {mean} {interval}, {n} seeds & all")
    assert "ahead by 0.0120 [0.0100, 0.0140], 5 seeds &amp; all" in shown.html
    assert 'href="#verdict-small-is-fine"' in shown.html
    assert shown.text == "✓ ahead by 0.0120 [0.0100, 0.0140], 5 seeds & all"


def test_say_fails_when_the_verdict_is_another_one(opened):
    page.remember([verdict([-v for v in GOOD])])
    with pytest.raises(
        VerdictChanged, match=r"'small-is-fine'.*expects 'reproduced'.*is 'not reproduced'"
    ):
        say("small-is-fine", "reproduced", "it holds")
    assert issubclass(VerdictChanged, AssertionError)
    assert "✗" in say("small-is-fine", expected="not reproduced", text="it does not").html


def test_say_refuses_what_it_cannot_know(opened):
    page.remember([verdict(GOOD)])
    with pytest.raises(ValueError, match="no verdict on claim 'other'"):
        say("other", "reproduced", "x")
    with pytest.raises(ValueError, match="expected must be one of"):
        say("small-is-fine", "green", "x")
    with pytest.raises(ValueError, match="asks for 'median'"):
        say("small-is-fine", "reproduced", "{median}")
