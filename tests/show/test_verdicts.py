import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from survey_lib.cards.card import Withdrawn
from survey_lib.show import page, verdicts
from survey_lib.show.verdicts import (
    VerdictChanged,
    fill_disputes,
    say,
    state_words,
    verdict_table,
)

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


def test_replicates_that_are_no_seeds_are_called_what_they_are(opened):
    shown = verdict(GOOD)
    html = verdict_table([shown], replicates={shown.claim.id: "draws"}, over="draws of a net").html
    assert "5 draws" in html
    assert "each draw<" in html
    assert "Student’s t over draws of a net." in html
    assert "seed" not in html.replace('class="seeds"', "")


def test_too_few_seeds_say_what_would_decide(opened):
    html = row(verdict_table([verdict(GOOD[:3])]).html, "small-is-fine")
    assert "≈</span> inconclusive" in html
    assert "about 5 seeds would decide" in html


def test_marks_for_claims_that_changed(opened):
    changed = replace(verdict(GOOD), changed=True)
    untested = verdict([], ident="no", not_tested="too large")
    html = verdict_table([changed, untested]).html
    assert "changed after the run" in row(html, "small-is-fine")
    assert "too large" in row(html, "no")
    assert "survey-flag" not in verdict_table([verdict(GOOD)]).html


def state(word, **changes):
    facts = {"cells": 0, "numbers": 0, "worst": 0.0, "commit": "abc123", "changed": None}
    return SimpleNamespace(word=word, **facts | changes)


SAMPLE = {"cells": 12, "numbers": 3400, "changed": ("survey_lib.tasks.train", "survey_lib.<x>")}


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (state("current"), "Made at commit abc123, with the code as it is today."),
        (
            state("attested", **SAMPLE),
            "The code has changed since the run (tasks.train, &lt;x&gt;). Re-run at commit abc123: "
            "12 cells, 3\u202f400 numbers, all equal.",
        ),
        (
            state("attested", **SAMPLE | {"cells": 1, "worst": 0.0004, "changed": None}),
            "The code has changed since the run. Re-run at commit abc123: 1 cell, 3\u202f400 "
            "numbers, which differ by at most 0.0004.",
        ),
        (
            state("unattested", changed=tuple(f"survey_lib.m{i}" for i in range(8))),
            "<strong>The code has changed since the run (m0, m1, m2, m3, m4, m5, 2 more), and "
            "nothing of it was run again with today’s.</strong>",
        ),
        (
            state("unattested", changed=("survey_lib.files",)),
            "<strong>The code has changed since the run (files), and nothing of it was run again "
            "with today’s.</strong>",
        ),
    ],
)
def test_the_table_says_how_the_study_stands_to_todays_code(opened, told, words):
    assert state_words(told) == words
    assert words in verdict_table([verdict(GOOD)], state=told).html


def test_the_open_page_finds_its_state_by_itself(opened, monkeypatch):
    from survey_lib.experiments import judging

    asked = []
    monkeypatch.setattr(judging, "state", lambda slug: asked.append(slug) or state("current"))
    monkeypatch.setattr(judging, "instead", lambda slug: {})
    page.remember([verdict(GOOD)])
    assert "Made at commit abc123" in verdict_table().html
    assert asked == ["a_paper"]
    assert "commit" not in verdict_table([verdict(GOOD)]).html  # verdicts from elsewhere


def test_the_papers_claims_come_first_and_others_say_whose_they_are(opened):
    made = [
        verdict(GOOD, ident="sum", kind="arithmetic"),
        verdict(GOOD, ident="mine", kind="ours"),
        verdict(GOOD, ident="theirs"),
    ]
    html = verdict_table(made).html
    assert re.findall(r'id="verdict-(\w+)"', html) == ["theirs", "mine", "sum"]
    assert "not the paper’s claim" in row(html, "mine")
    assert "follows from arithmetic" in row(html, "sum")
    own = replace(made[1], claim=replace(made[1].claim, where="Table 1; a question of this survey"))
    assert "not the paper’s claim" not in verdict_table([own]).html
    assert "claim</span>" not in row(html, "theirs")


def test_accuracy_is_told_in_points(opened):
    html = row(verdict_table([verdict(GOOD, unit="share of images")]).html, "small-is-fine")
    for part in ("≥ 0 points", "+1.20 points", "[+1.00, +1.40]", "<span>0</span> +1.000"):
        assert part in html, part
    assert "share of images" not in html


def test_a_disputed_claim_names_the_other_and_staging_fills_in_its_verdict(opened):
    html = verdict_table([verdict(GOOD, disputes=("thinet/tuned-beats-scratch",))]).html
    assert ": Pruned and tuned beats scratch</span>" in row(html, "small-is-fine")
    filled = fill_disputes(html, lambda name: f"<b>{name}</b>")
    assert "disputed by <b>thinet/tuned-beats-scratch</b></span>" in row(filled, "small-is-fine")
    page.begin("to_prune_or_not")  # whose own card names no pair
    html = verdict_table([verdict(GOOD, ident="large-sparse-cnn")]).html
    assert 'data-claim="closer_look/reduced-beats-pruned"' in html


def test_claims_that_were_replaced_stand_under_the_table(opened, card, monkeypatch):
    old = Withdrawn("x", "Old", "It <i>was</i>.", "inconclusive", "+0.1 points", "Too easy.")
    monkeypatch.setattr(verdicts, "slugs", lambda: ["a_paper"])
    monkeypatch.setattr(verdicts, "read_card", lambda slug: replace(card, withdrawn=(old, old)))
    html = verdict_table([verdict(GOOD)]).html
    assert "2 claims were judged before and replaced" in html
    for part in ("Old.", "It &lt;i&gt;was&lt;/i&gt;.", "+0.1 points", "Too easy.", "≈</span> inc"):
        assert part in html
    assert html.index("verdict-small-is-fine") < html.index("survey-withdrawn")


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
