import dataclasses
import re
from types import SimpleNamespace

import pytest

from survey_lib.cards.card import Withdrawn, read_card, slugs
from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import INCONCLUSIVE, NOT_REPRODUCED, REPRODUCED, Verdict
from survey_lib.publish import disputes, ledger
from survey_lib.show.markup import escape, safe

from .test_overview import claim, parsed

STATE = SimpleNamespace(
    word="attested",
    cells=12,
    numbers=3400,
    worst=0.0,
    commit="abc123",
    changed=["survey_lib.files"],
)


def on(name, word=REPRODUCED):
    """A verdict on a real claim, named slug/claim-id."""
    slug, claim_id = name.split("/")
    return Verdict(read_card(slug).claim(claim_id), word, Interval(0.011, 0.0076, 0.0144, 5))


def test_each_claim_has_its_interval_and_is_escaped():
    made = [
        Verdict(claim(sentence="Small <script> wins"), REPRODUCED, Interval(1.1, 0.76, 1.44, 5)),
        Verdict(claim("b", kind="arithmetic"), REPRODUCED, Interval(1.1, 0.76, 1.44, 5)),
        Verdict(claim("c", kind="ours"), NOT_REPRODUCED, Interval(1.1, 0.76, 1.44, 5)),
    ]
    page = ledger.ledger_page({"thinet": made}, {"thinet": STATE})
    assert "**1 claim of the papers: 1 reproduced; 1 of ours; 1 by arithmetic.**" in page
    assert "../notebooks/thinet.html#verdict-a-claim" in page
    for part in ("[0.76, 1.44]", "1.10 points", "≥ 0 points", "Small &lt;script&gt; wins"):
        assert part in page
    assert "<script>" not in page
    assert page.index("verdict-a-claim") < page.index("verdict-c") < page.index("verdict-b")
    assert "not the paper’s claim" in page.split("verdict-a-claim")[1].split("verdict-c")[0]
    assert "(files). Re-run at commit abc123: 12 cells, 3\u202f400 numbers, all equal." in page


def test_a_chapter_without_a_state_says_nothing_of_it():
    page = ledger.ledger_page({"thinet": [on("thinet/rescaling-helps")]}, {})
    assert "commit" not in page
    assert "+1.10 points" in page


def test_disputed_claims_stand_side_by_side():
    judged = {
        "thinet": [on("thinet/tuned-beats-scratch", INCONCLUSIVE)],
        "closer_look": [on("closer_look/scratch-beats-pruned")],
    }
    page = ledger.ledger_page(judged, {})
    assert page.index("## Disputed") < page.index("## ThiNet")  # no reader scrolls for it
    page = page.split("## Disputed")[1].split("\n## ")[0]
    parsed(page)
    [row] = [r for r in re.findall(r"<tr>(.*?)</tr>", page) if "scratch-beats-pruned" in r]
    assert "../notebooks/thinet.html#verdict-tuned-beats-scratch" in row
    assert "</span> reproduced" in row
    assert "</span> inconclusive" in row
    assert row.count("[+0.76, +1.44]") == 2
    for slug, name in (("thinet", "tuned-beats-scratch"), ("closer_look", "scratch-beats-pruned")):
        assert escape(read_card(slug).claim(name).sentence) in row
    [planned] = [r for r in re.findall(r"<tr>(.*?)</tr>", page) if "scratch-b-not-worse" in r]
    left, right = planned.split("</td><td")
    assert "tuned-beats-scratch" in left  # the side that is judged
    assert 'href="papers/rethinking.html#claim-scratch-b-not-worse"' in right
    assert "planned" in right
    assert "planned" not in left


def test_each_pair_stands_once():
    found = disputes.pairs([read_card(slug) for slug in slugs()])
    assert len(found) >= 4
    assert len({frozenset(pair) for pair in found}) == len(found)
    named = {f"{s}/{c.id}" for s in slugs() for c in read_card(s).claims if c.disputes}
    assert named <= {side for pair in found for side in pair}


def test_a_ledger_row_tells_how_the_other_side_stands():
    judged = {
        "thinet": [on("thinet/tuned-beats-scratch", INCONCLUSIVE)],
        "closer_look": [on("closer_look/scratch-beats-pruned")],
    }
    page = ledger.ledger_page(judged, {}).split("</table>", 1)[1]  # after the disputed pairs
    row = page.split("Pruning and tuning gives")[1].split("</tr>")[0]
    assert "disputed by <a" in row
    assert "Fresh weights beat pruned ones</a>: <span" in row
    assert re.search(r"Scratch-B is no worse than tuning</a>: planned", row)


@pytest.mark.parametrize(
    ("room", "judged", "address"),
    [
        ("book", True, "../notebooks/thinet.html#verdict-rescaling-helps"),
        ("papers", True, "../../notebooks/thinet.html#verdict-rescaling-helps"),
        ("notebooks", True, "thinet.html#verdict-rescaling-helps"),
        ("book", False, "papers/thinet.html#claim-rescaling-helps"),
        ("papers", False, "thinet.html#claim-rescaling-helps"),
        ("notebooks", False, "../book/papers/thinet.html#claim-rescaling-helps"),
    ],
)
def test_a_claim_is_linked_from_every_room(room, judged, address):
    shown = {"thinet": []} if judged else {}
    words = disputes.claim_link("thinet/rescaling-helps", shown, room)
    assert f'href="{address}"' in words
    assert "ThiNet" in words
    assert "Rescaling helps before tuning" in words


def test_withdrawn_claims_are_told_and_not_counted(monkeypatch):
    old = Withdrawn("x", "Old <b>", "It was so.", INCONCLUSIVE, "+0.1 points", "Too easy a task.")
    card = dataclasses.replace(read_card("thinet"), withdrawn=(old,))
    monkeypatch.setattr(ledger, "paper", lambda slug: safe(card))
    page = ledger.ledger_page({"thinet": [on("thinet/rescaling-helps")]}, {})
    assert "**1 claim of the papers: 1 reproduced.**" in page
    assert "1 claim was judged before and replaced" in page
    for part in ("Old &lt;b&gt;", "It was so.", "+0.1 points", "Too easy a task.", "inconclusive"):
        assert part in page


def test_each_row_says_profile_replicates_and_run():
    name = "thinet/rescaling-helps"
    verdict = dataclasses.replace(on(name), values=dict.fromkeys(range(5), 0.011))
    runs = {("thinet", "study"): ledger.Run(120, "abc1234", "2026-11-27T08:00:00+00:00")}
    row = ledger.ledger_page({"thinet": [verdict]}, {}, runs).split("## ThiNet")[1]
    assert "study, 5 replicates; of" in row
    assert 'href="../_static/records/study/thinet.jsonl"' in row
    assert "120 runs</a>, commit abc1234, 2026-11-27" in row
    untested = dataclasses.replace(verdict, interval=None)
    assert "replicates; of" not in ledger.ledger_page({"thinet": [untested]}, {}, runs)
    assert "replicates; of" not in ledger.ledger_page({"thinet": [verdict]}, {})


def test_the_run_behind_a_verdict_is_the_committed_one():
    judged = {"thinet": [on("thinet/rescaling-helps")], "common_testbed": []}
    [(place, run)] = ledger.runs_of(judged).items()
    records = ledger.study("thinet")
    assert place == ("thinet", "study")
    assert run.records == len(records)
    assert run.made == max(r.provenance["made"] for r in records)
    assert run.commit in {r.provenance["commit"][:12] for r in records}


def test_the_testbeds_questions_stand_in_the_ledger_and_in_no_count():
    own = [on(f"common_testbed/{c.id}") for c in read_card("common_testbed").claims]
    page = ledger.ledger_page({"thinet": [on("thinet/rescaling-helps")], "common_testbed": own}, {})
    assert f"**1 claim of the papers: 1 reproduced; {len(own)} of ours.**" in page
    assert "## The common testbed" in page
    pairs = page.split("## Disputed")[1].split("\n## ")[0]
    [row] = [r for r in re.findall(r"<tr>(.*?)</tr>", pairs) if "fresh-reaches-the-best" in r]
    assert "../notebooks/common_testbed.html#verdict-fresh-reaches-the-best" in row
    assert "tuned-beats-scratch" in row


def test_a_planned_question_of_the_testbed_is_words_and_leads_nowhere():
    words = disputes.claim_link("common_testbed/fresh-reaches-the-best", {}, "notebooks")
    assert words == "The common testbed: Fresh weights reach the best method"
    page = ledger.ledger_page({"thinet": [on("thinet/tuned-beats-scratch")]}, {})
    assert "common_testbed.html" not in page
