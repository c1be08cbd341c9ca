"""The claims ledger: every judged claim of every card, with its verdict and what it rests on."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from survey_lib.cards.card import Card, disputes, read_card, slugs
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
from survey_lib.show.markup import Safe, anchor, markdown, safe
from survey_lib.show.verdicts import state_words

if TYPE_CHECKING:
    from survey_lib.experiments.judging import State


def ledger_page(judged: Judged, states: Mapping[str, "State"]) -> str:
    """The ledger as Markdown for ``book/ledger.md``.

    Args:
        judged: verdicts of each chapter that has an experiment.
        states: how the study of a chapter stands to today's code; a chapter may lack one.
    """
    every = [verdict for verdicts in judged.values() for verdict in verdicts]
    sections = []
    for slug, verdicts in judged.items():
        card = paper(slug)
        state = f"{state_words(states[slug])}\n\n" if slug in states else ""
        sections.append(
            f"## {markdown(card.title)}\n\n{markdown(Safe(', '.join(card.authors)))}, {card.year}. "
            f"[To the chapter](../notebooks/{slug}.ipynb)\n\n{state}"
            f"{_table(card, verdicts, judged)}"
        )
    if judged:
        disputed = pairs_table([read_card(slug) for slug in slugs()], judged)
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


def _table(card: Card, verdicts: Sequence[Verdict], judged: Judged) -> str:
    rows = [_row(card.slug, verdict, judged) for verdict in by_kind(safe(list(verdicts)))]
    table = claims_table(rows, "Claims of this chapter. Intervals are 95 %, over seeds.")
    return table.removesuffix("</div>") + withdrawn_list(card.withdrawn) + "</div>"


def _row(slug: str, verdict: Verdict, judged: Judged) -> str:
    claim = verdict.claim
    address = f"../notebooks/{slug}.html#verdict-{anchor(claim.id)}"
    word = f'<a class="word" href="{address}">{signed_word(verdict.word)}</a>'
    why = verdict.reason if verdict.interval is None else ""
    changed = "changed after the run" if verdict.changed else ""
    return claim_row(
        claim,
        verdict.word,
        found(verdict),
        word + small(why) + small(changed),
        notes=[
            small(f"disputed by {told(other, judged, 'book')}") for other in disputes(slug, claim)
        ],
    )
