"""Claims that contradict each other: how the other side stands, told wherever one side is shown."""

from collections.abc import Mapping, Sequence
from typing import Literal

from survey_lib.cards.card import Card, own_slugs
from survey_lib.evidence.verdicts import Verdict
from survey_lib.show.claims import claim_words, found, paper, signed_word, small
from survey_lib.show.markup import anchor, link, safe

Room = Literal["book", "papers", "notebooks"]
# where the chapters and the pages of planned papers lie, seen from each room
_CHAPTERS = {"book": "../notebooks/", "papers": "../../notebooks/", "notebooks": ""}
_PAPERS = {"book": "papers/", "papers": "", "notebooks": "../book/papers/"}
Judged = Mapping[str, Sequence[Verdict]]
"""Verdicts of each chapter: slug → those of its claims; none for a chapter without experiment."""


def claim_link(name: str, judged: Judged, room: Room) -> str:
    """A claim (``slug/claim-id``) as a link to its verdict, or to its rule while it is planned.

    A planned claim of no paper stays words: it has no page yet.

    Args:
        name: the claim.
        judged: verdicts of the book's chapters.
        room: where the page lies that holds the link: in ``book/``, among the papers' pages or
            among the chapters.
    """
    slug, claim_id = name.split("/")
    words = claim_words(name)
    if slug in judged:
        return link(f"{_CHAPTERS[room]}{slug}.html#verdict-{anchor(claim_id)}", words)
    if slug in own_slugs():  # no paper's, so that there is no page of its rules
        return words
    return link(f"{_PAPERS[room]}{slug}.html#claim-{anchor(claim_id)}", words)


def verdict_on(name: str, judged: Judged) -> Verdict | None:
    """The verdict on a claim (``slug/claim-id``); None while its chapter is planned."""
    slug, claim_id = name.split("/")
    return next((v for v in judged.get(slug, ()) if v.claim.id == claim_id), None)


def told(name: str, judged: Judged, room: Room) -> str:
    """HTML of one line: the claim as a link, then its verdict's word or ``planned``."""
    verdict = verdict_on(name, judged)
    word = "planned" if verdict is None else signed_word(verdict.word)
    return f"{claim_link(name, judged, room)}: {word}"


def pairs(cards: Sequence[Card]) -> list[tuple[str, str]]:
    """Every pair of claims (``slug/claim-id``) that dispute each other, once, as the cards come."""
    seen: dict[frozenset[str], tuple[str, str]] = {}
    for card in cards:
        for claim in card.claims:
            own = f"{card.slug}/{claim.id}"
            for other in claim.disputes:
                seen.setdefault(frozenset((own, other)), (own, other))
    return list(seen.values())


def pairs_table(cards: Sequence[Card], judged: Judged) -> str:
    """HTML of the disputed pairs side by side, for a page in ``book/``; a judged side stands left.

    Pairs of which neither side is judged yet come last.
    """
    rows = []
    for one, other in pairs(cards):
        if verdict_on(one, judged) is None:
            one, other = other, one
        rows.append((verdict_on(one, judged) is None, _side(one, judged) + _side(other, judged)))
    body = "\n".join(f"<tr>{row}</tr>" for _, row in sorted(rows, key=lambda row: row[0]))
    head = '<th scope="col">Claim</th><th scope="col">The other paper’s claim</th>'
    return (
        '<div class="survey survey-pairs"><table class="survey-table">'
        "<caption><span>Claims that contradict each other, with what came out here."
        "</span></caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _side(name: str, judged: Judged) -> str:
    verdict = verdict_on(name, judged)
    stands = (
        '<span class="survey-small">planned</span>'
        if verdict is None
        else f'<span class="word">{signed_word(verdict.word)}</span> {found(safe(verdict))}'
    )
    word = "not-tested-here" if verdict is None else anchor(verdict.word)
    slug, claim_id = name.split("/")
    said = small(paper(slug).claim(claim_id).sentence)
    return f'<td class="{word}"><p>{claim_link(name, judged, "book")}</p>{said}{stands}</td>'
