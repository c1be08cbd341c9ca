"""The claims ledger: every judged claim of every card, with its verdict and what it rests on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survey_lib.cards.card import Card, disputes, own_slugs, read_card, slugs
from survey_lib.evidence.reading import study
from survey_lib.evidence.verdicts import Verdict
from survey_lib.publish.counterparts import counterparts
from survey_lib.publish.disputes import Judged, pairs_table, told
from survey_lib.show.claims import (
    by_kind,
    claim_row,
    claims_table,
    found,
    paper,
    signed_word,
    small,
    tally,
    withdrawn_list,
)
from survey_lib.show.markup import Safe, anchor, escape, link, markdown, safe
from survey_lib.show.verdicts import state_words

if TYPE_CHECKING:
    from survey_lib.experiments.judging import State


@dataclass(frozen=True)
class Run:
    """The recorded runs that a chapter's claims of one profile are judged from."""

    records: int
    commit: str
    """At which the last of them were made …"""
    made: str
    """… and when, an ISO date and time."""


Runs = Mapping[tuple[str, str], Run]
"""Runs by chapter and profile."""


def runs_of(judged: Judged) -> dict[tuple[str, str], Run]:
    """The committed runs behind every claim that was judged."""
    found = {}
    for slug, verdicts in judged.items():
        for profile in {v.claim.profile for v in verdicts}:
            if records := study(slug, profile):
                made = [r.provenance for r in records]
                last = max(made, key=lambda m: m.get("made", ""))
                found[slug, profile] = Run(
                    len(records), last.get("commit", "")[:12], last.get("made", "")
                )
    return found


def ledger_page(judged: Judged, states: Mapping[str, "State"], runs: Runs | None = None) -> str:
    """The ledger as Markdown for ``book/ledger.md``.

    Args:
        judged: verdicts of each chapter that has an experiment.
        states: how the study of a chapter stands to today's code; a chapter may lack one.
        runs: what each verdict rests on, see :func:`runs_of`; a chapter may lack it.
    """
    every = [verdict for verdicts in judged.values() for verdict in verdicts]
    sections = []
    for slug, verdicts in judged.items():
        card = paper(slug)
        state = f"{state_words(states[slug])}\n\n" if slug in states else ""
        sections.append(
            f"## {markdown(card.title)}\n\n{markdown(Safe(', '.join(card.authors)))}, {card.year}. "
            f"[To the chapter](../notebooks/{slug}.ipynb)\n\n{state}"
            f"{_table(card, verdicts, judged, runs or {})}"
        )
    if judged:
        cards = [read_card(s) for s in [*slugs(), *(s for s in own_slugs() if s in judged)]]
        disputed = pairs_table(cards, judged)
        sections.insert(
            0,
            "## Disputed\n\nTwo papers, two opposite sentences. Each pair stands side by side, "
            f"with what came out here.\n\n{disputed}",
        )
        sections.insert(1, counterparts(judged))
    return (
        "# The claims ledger\n\n"
        "Which of the papers' claims hold here? Each line is one claim. Its rule was fixed in the "
        "card before anything was run, and the word follows from the interval alone. "
        "[How to read a verdict](how_to_read.md) explains the words.\n\n"
        f"**{tally(every, 'the papers')}.**\n\n" + "\n\n".join(filter(None, sections)) + "\n"
    )


def _table(card: Card, verdicts: Sequence[Verdict], judged: Judged, runs: Runs) -> str:
    rows = [_row(card.slug, verdict, judged, runs) for verdict in by_kind(safe(list(verdicts)))]
    table = claims_table(rows, "Claims of this chapter. Intervals are 95 %, over seeds.")
    return table.removesuffix("</div>") + withdrawn_list(card.withdrawn) + "</div>"


def _rests_on(slug: str, verdict: Verdict, runs: Runs) -> str:
    """HTML of one line: profile, replicates, and the file, commit and day of the runs."""
    profile = verdict.claim.profile
    run = runs.get((slug, profile))
    if verdict.interval is None or run is None:
        return ""
    n = len(verdict.values)
    told = "one run decides" if verdict.claim.deterministic else f"{n} replicates"
    file = link(f"../_static/records/{profile}/{slug}.jsonl", f"{run.records} runs", download="")
    where = f", commit {escape(run.commit)}" if run.commit else ""
    day = f", {escape(run.made[:10])}" if run.made else ""
    return small(f"{escape(profile)}, {told}; of {file}{where}{day}")


def _row(slug: str, verdict: Verdict, judged: Judged, runs: Runs) -> str:
    claim = verdict.claim
    address = f"../notebooks/{slug}.html#verdict-{anchor(claim.id)}"
    word = f'<a class="word" href="{address}">{signed_word(verdict.word)}</a>'
    why = verdict.reason if verdict.interval is None else ""
    changed = "changed after the run" if verdict.changed else ""
    return claim_row(
        claim,
        verdict.word,
        found(verdict) + _rests_on(slug, verdict, runs),
        word + small(why) + small(changed),
        notes=[
            small(f"disputed by {told(other, judged, 'book')}") for other in disputes(slug, claim)
        ],
    )
