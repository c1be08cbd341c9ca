"""Claims as rows and counts, alike in a chapter, in the ledger and on a planned paper's page."""

from collections import Counter
from collections.abc import Iterable, Sequence

from survey_lib.cards.card import CLAIM_KINDS, Card, CardError, Claim, Withdrawn, read_card
from survey_lib.evidence.verdicts import SIGNS, Verdict
from survey_lib.show.markup import (
    Safe,
    anchor,
    escape,
    mean_words,
    range_words,
    region_words,
    safe,
    unit_words,
)

OUR_OWN = "a question of this survey"
"""What a claim's ``where`` may say itself; nothing is added to it then."""
KIND_NOTES = {
    "paper": "",
    "ours": "a question of this survey, not the paper’s claim",
    "arithmetic": "follows from arithmetic",
}


def by_kind(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts, those on the paper's own claims first."""
    return sorted(verdicts, key=lambda v: CLAIM_KINDS.index(v.claim.kind))


def of_the_paper(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that count: those on claims of the papers."""
    return [v for v in verdicts if v.claim.kind == "paper"]


def tally(verdicts: Sequence[Verdict], whose: str) -> str:
    """``4 claims of the paper: 3 reproduced, 1 inconclusive; 2 of ours; 1 by arithmetic``.

    Args:
        verdicts: of any kind.
        whose: who makes the claims that count: "the paper" or "the papers". Where no paper makes
            any, all are counted, as questions of this survey.
    """
    counted = of_the_paper(verdicts)
    if verdicts and not counted:
        words = Counter(v.word for v in verdicts)
        told = ", ".join(f"{words[word]} {word}" for word in SIGNS if words[word])
        plural = "question" if len(verdicts) == 1 else "questions"
        return f"{len(verdicts)} {plural} of this survey: {told}"
    words = Counter(v.word for v in counted)
    told = ", ".join(f"{words[word]} {word}" for word in SIGNS if words[word])
    plural = "claim" if len(counted) == 1 else "claims"
    text = f"{len(counted)} {plural} of {whose}{': ' if told else ''}{told}"
    kinds = Counter(v.claim.kind for v in verdicts)
    for kind, name in (("ours", "of ours"), ("arithmetic", "by arithmetic")):
        text += f"; {kinds[kind]} {name}" if kinds[kind] else ""
    return text


def paper(slug: str) -> Card:
    """The card of a paper as pages take it: every text of it is HTML, see :func:`safe`.

    Raises:
        CardError: there is no such card, or it cannot be used.
    """
    return safe(read_card(slug))


def paper_name(slug: str) -> Safe:
    """HTML of a paper's title up to its colon; the slug where there is no card."""
    try:
        name = read_card(slug).title.split(":")[0]
    except CardError:
        name = slug
    return Safe(safe(name))


def claim_words(name: str) -> Safe:
    """HTML of a claim named ``slug/claim-id`` in words: its paper and its short title."""
    slug, claim_id = name.split("/")
    card = paper(slug)
    return Safe(f"{card.brief}: {card.claim(claim_id).title}")


def found(verdict: Verdict) -> str:
    """HTML of what was found: mean with unit, then the interval; why, where nothing was."""
    interval, unit = verdict.interval, verdict.claim.unit
    if interval is None:
        return small("not measured")
    return (
        f'<span class="mean">{mean_words(interval, unit)} {escape(unit_words(unit))}</span>'
        f'<span class="interval">{range_words(interval, unit=unit)}</span>'
    )


def signed_word(word: str) -> str:
    """HTML of a verdict's sign and word."""
    return f'<span class="sign" aria-hidden="true">{SIGNS[word]}</span> {word}'


def claims_table(rows: Iterable[str], caption: str, *, third: str = "Found", more: str = "") -> str:
    """HTML of a table of claims; no line of it is blank, so that Markdown takes it as one block.

    Args:
        rows: made by :func:`claim_row`.
        caption: HTML of the caption.
        third: heading of the third column.
        more: further classes of the block.
    """
    head = "".join(
        f'<th scope="col" role="columnheader">{words}</th>'
        for words in ("Claim", "It holds here if", third, "Verdict")
    )
    body = "\n".join(rows)
    return (
        f'<div class="survey survey-verdicts{more and " " + more}"><table role="table">'
        f"<caption><span>{caption}</span></caption>\n"
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{body}\n</tbody></table></div>'
    )


def claim_row(
    claim: Claim,
    word: str,
    third: str,
    verdict: str,
    *,
    ident: str = "",
    notes: Iterable[str] = (),
    label: str = "Found",
) -> str:
    """One row of :func:`claims_table`.

    Args:
        claim: the claim.
        word: the verdict's, for the class of the row.
        third: HTML of the third column.
        verdict: HTML of the last column.
        ident: id of the row; empty for none.
        notes: HTML of what stands under the sentence, after where it is and whose.
        label: heading of the third column.
    """
    claim = safe(claim)
    whose = "" if OUR_OWN in claim.where.lower() else KIND_NOTES[claim.kind]
    under = small(claim.where) + small(whose) + "".join(notes)
    open_ends = claim.region == (None, None)
    rule = "no rule" if open_ends else region_words(claim.region, claim.unit)
    name = ident and f' id="{ident}"'
    return (
        f'<tr role="row"{name} class="{anchor(word)}">'
        f'<th scope="row" role="rowheader">{claim.sentence}{under}</th>'
        '<td role="cell" data-label="It holds here if">'
        f'<span class="region">{rule}</span>{small(claim.measures)}</td>'
        f'<td role="cell" data-label="{label}">{third}</td>'
        f'<td role="cell" data-label="Verdict">{verdict}</td></tr>'
    )


def small(text: str) -> str:
    """HTML of a line in small print; empty for an empty one."""
    return text and f'<span class="survey-small">{text}</span>'


def withdrawn_list(claims: Sequence[Withdrawn]) -> str:
    """HTML of the claims that were judged once and replaced, folded; empty when there are none."""
    items = "".join(
        f"<li><strong>{old.title}.</strong> {old.sentence} "
        f'<span class="word">{signed_word(old.verdict)}</span>: {old.found}.'
        f"{small(old.reason)}</li>"
        for old in map(safe, claims)
    )
    many = "claim was" if len(claims) == 1 else "claims were"
    return items and (
        f'<details class="survey-withdrawn"><summary>{len(claims)} {many} judged before and '
        f"replaced</summary><ul>{items}</ul></details>"
    )
