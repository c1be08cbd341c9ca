"""What the cards say all together: the landing page's map and scoreboard, a page for each paper.

Everything here is made from cards and verdicts. A card is written by hand and may hold a
``<script>``; each function takes what it is given through ``safe`` first, so that the page shows
the word.
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import pandas as pd

from survey_lib.cards.card import GROUPS, SITUATIONS, Card, Claim, Reported, disputes
from survey_lib.evidence.verdicts import NOT_TESTED, SIGNS, Verdict
from survey_lib.publish.disputes import Judged, told
from survey_lib.publish.layout import PublishError
from survey_lib.publish.papers_map import map_figure
from survey_lib.show import tables
from survey_lib.show.claims import (
    claim_row,
    claims_table,
    of_the_paper,
    paper_name,
    signed_word,
    small,
)
from survey_lib.show.markup import LIVE_STYLE, anchor, escape, link, markdown, paragraphs, safe
from survey_lib.show.page import corrections, paper_facts, received_text

MAP = "<!-- survey: map -->"
SCOREBOARD = "<!-- survey: scoreboard -->"
WHICH = "<!-- survey: which -->"


def fill_landing(
    page: str,
    cards: Sequence[Card],
    verdicts_by_slug: Mapping[str, Sequence[Verdict]],
    built: Collection[str],
) -> str:
    """The landing page's Markdown with map, scoreboard and table of situations at their marks.

    Args:
        page: Markdown that holds each of ``<!-- survey: map -->``, ``<!-- survey: scoreboard -->``
            and ``<!-- survey: which -->`` once, on lines of their own.
        cards: all papers.
        verdicts_by_slug: verdicts of the built chapters that have an experiment.
        built: slugs of the chapters that have a page in this book.

    Raises:
        PublishError: a mark is missing or stands twice.
    """
    filled = {
        MAP: f"{map_figure(cards, built)}\n\n{map_markdown(cards, built)}",
        SCOREBOARD: scoreboard_markdown(verdicts_by_slug),
        WHICH: which_markdown(cards, built),
    }
    for mark, text in filled.items():
        if page.count(mark) != 1:
            raise PublishError(f"book/index.md must hold the line {mark} once: put it there")
        page = page.replace(mark, text)
    return page


def which_markdown(cards: Sequence[Card], built: Collection[str]) -> str:
    """The table from a reader's situation to chapters, from the cards; ready chapters first."""
    cards, rows = safe(list(cards)), []
    for key, situation in SITUATIONS.items():
        papers = [card for card in cards if key in card.helps]
        papers.sort(key=lambda card: (card.slug not in built, card.year))
        items = "".join(_which_item(card, key, card.slug in built) for card in papers)
        if items:
            rows.append(
                f'<tr><th scope="row">{escape(situation)}</th><td><ul>{items}</ul></td></tr>'
            )
    return (
        '<div class="survey survey-which"><table><thead><tr><th scope="col">Your situation</th>'
        f'<th scope="col">Read</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n'
    )


def _which_item(card: Card, key: str, is_built: bool) -> str:
    address = f"../notebooks/{card.slug}.html" if is_built else f"papers/{card.slug}.html"
    state = "" if is_built else ' <span class="state">planned</span>'
    kind = "ready" if is_built else "planned"
    told = card.helps[key]
    told = told[:1].lower() + told[1:]
    return f'<li class="{kind}">{link(address, card.brief)}{state}: {told}</li>'


def map_markdown(cards: Sequence[Card], built: Collection[str]) -> str:
    """The papers in their groups, oldest first; links are relative to a page in ``book/``.

    A built chapter is linked by its title. Any other paper says "planned" and links to its page
    under ``book/papers/``. "Ready" is said as long as not all are.
    """
    cards, blocks = safe(list(cards)), []
    some_planned = any(card.slug not in built for card in cards)
    for group in GROUPS:
        papers = sorted((c for c in cards if c.group == group), key=lambda c: (c.year, c.title))
        if papers:
            items = "\n".join(_map_item(c, c.slug in built, some_planned) for c in papers)
            blocks.append(
                f"### {group}\n\n"
                f'<ul class="survey survey-map" aria-label="{escape(group)}">\n{items}\n</ul>'
            )
    return "\n\n".join(blocks) + "\n"


def _map_item(card: Card, is_built: bool, some_planned: bool) -> str:
    if is_built:
        title = link(f"../notebooks/{card.slug}.html", card.title)
        state = '<span class="state built">ready</span>' if some_planned else ""
    else:
        title = card.title
        address = f"papers/{card.slug}.html"
        label = f"planned: the facts and claims of {card.title}"
        state = (
            f'<span class="state"><a href="{escape(address)}" aria-label="{label}">'
            "planned</a></span>"
        )
    tags = "".join(f"<li>{tag}</li>" for tag in card.tags)
    kind = "ready" if is_built else "planned"
    return (
        f'<li id="paper-{anchor(card.slug)}" class="{kind}"><p class="title">{title} '
        f'<span class="year">{card.year}</span> {state}</p>'
        f'<p class="survey-headline">{card.headline}</p>'
        f'<ul class="tags" aria-label="Tags">{tags}</ul></li>'
    )


def scoreboard_markdown(verdicts_by_slug: Mapping[str, Sequence[Verdict]]) -> str:
    """How many claims hold: totals, then a row for each chapter with a sign for each claim.

    The papers' own claims are counted; the others are named apart and have no sign. Every sign
    links to the claim's row in the chapter's table of verdicts; links are relative to a page in
    ``book/``.
    """
    verdicts_by_slug = {slug: safe(list(found)) for slug, found in verdicts_by_slug.items()}
    shown = {slug: of_the_paper(found) for slug, found in verdicts_by_slug.items()}
    shown = {slug: found for slug, found in shown.items() if found}  # the testbed has no paper
    if not shown:
        return "No chapter has verdicts yet.\n"
    words = [verdict.word for found in shown.values() for verdict in found]
    totals = "".join(
        f'<li class="{anchor(word)}"><span class="word">'
        f'<span class="sign" aria-hidden="true">{sign}</span> {words.count(word)} {word}'
        "</span></li>"
        for word, sign in SIGNS.items()
    )
    chapters = "1 chapter" if len(shown) == 1 else f"{len(shown)} chapters"
    claims = "1 claim" if len(words) == 1 else f"{len(words)} claims"
    kinds = Counter(v.claim.kind for found in verdicts_by_slug.values() for v in found)
    apart = [f"{kinds['ours']} of ours"] * bool(kinds["ours"])
    apart += [f"{kinds['arithmetic']} by arithmetic"] * bool(kinds["arithmetic"])
    told = f"<p>Judged too, and not counted: {' and '.join(apart)}.</p>\n" if apart else ""
    head = "".join(
        f'<th scope="col"{kind}>{label}</th>'
        for label, kind in [
            ("Chapter", ""),
            *[
                # the totals above say the words in full; here there is no room for them
                (
                    f'<span aria-hidden="true">{sign}</span>'
                    f'<span class="visually-hidden">{word}</span>',
                    ' class="num"',
                )
                for word, sign in SIGNS.items()
            ],
            ("Claim by claim", ""),
        ]
    )
    rows = "\n".join(_score_row(slug, found) for slug, found in shown.items())
    return (
        '<div class="survey survey-scoreboard">\n'
        f"<p><strong>{claims} of the papers in {chapters}:</strong></p>\n"
        f'<ul class="survey-totals">{totals}</ul>\n{told}'
        '<div class="survey-scroll" role="group" tabindex="0" aria-label="Verdicts by chapter">'
        '<table class="survey-table"><caption><span>Each sign is one claim and leads to its row '
        "in the chapter.</span></caption>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>\n</div>\n"
    )


def _score_row(slug: str, found: Sequence[Verdict]) -> str:
    counts = "".join(f'<td class="num">{sum(v.word == word for v in found)}</td>' for word in SIGNS)
    signs = "".join(
        f'<li class="{anchor(v.word)}"><a class="word" '
        f'href="../notebooks/{slug}.html#verdict-{anchor(v.claim.id)}" '
        f'title="{v.claim.sentence}" '
        f'aria-label="{v.word}: {v.claim.title}">{v.sign}</a></li>'
        for v in sorted(found, key=lambda v: list(SIGNS).index(v.word))
    )
    title = link(f"../notebooks/{slug}.html", paper_name(slug))
    return (
        f'<tr><th scope="row">{title}</th>{counts}'
        f'<td><ul class="survey-signs">{signs}</ul></td></tr>'
    )


def papers_markdown(card: Card, judged: Judged | None = None) -> str:
    """The page of a paper that has no chapter yet, as Markdown for ``book/papers/<slug>.md``.

    It holds the gist, the facts, the reported tables with a † on digits that could not be checked,
    the claims as rules, and the card as received with what was corrected.

    Args:
        card: the paper.
        judged: verdicts of the book's chapters; a claim that one of these disputes says so.
    """
    tables = "\n\n".join(_reported(table) for table in card.reported)
    gist, card = paragraphs(card.gist), safe(card)
    return (
        f"# {markdown(card.title)}\n\n"
        f'<div class="survey survey-card"><p class="survey-headline">{card.headline}</p>'
        f"{paper_facts(card, titled=False)}</div>\n\n"
        "This chapter is planned: nothing of it has been run yet. What follows is the paper in "
        "short, its own numbers, and the rules by which its claims will be judged.\n\n"
        f"## In short\n\n{gist}\n\n"
        f"## What the paper reports\n\n{tables or 'The card holds no table of the paper yet.'}\n\n"
        f"## Claims, as rules\n\n"
        "Each line was written before anything was run. [How to read a verdict]"
        "(../how_to_read.md) explains the rules.\n\n"
        f"{_claims(card, judged or {})}\n\n"
        f"## The card as received\n\n{_received(card)}\n"
    )


def _reported(table: Reported) -> str:
    unsure = list(table.columns) if "all" in table.unverified else list(table.unverified)
    notes = [f"Source: {table.source}."]
    if unsure:
        notes.insert(0, f"{tables.DAGGER} not checked against the paper itself.")
    df = pd.DataFrame(list(table.rows), columns=list(table.columns))
    shown = tables.table(
        df,
        caption=table.caption + ("" if table.caption[-1] in ".?!" else "."),
        # the first column names the row; the doubt is about the numbers
        marks={column: tables.DAGGER for column in unsure if column != table.columns[0]},
        # the paper's digits, all of them
        decimals={
            column: max(map(_decimals, df[column]))
            for column in df.columns
            if pd.api.types.is_numeric_dtype(df[column])
        },
        notes=notes,
    )
    return _block(shown.html.removeprefix(LIVE_STYLE))


def _decimals(value: float) -> int:
    return 0 if float(value).is_integer() or pd.isna(value) else len(repr(value).split(".")[1])


def _claims(card: Card, judged: Judged) -> str:
    if not card.claims:
        return "The card holds no claim yet."
    rows = [_claim_row(card.slug, claim, judged) for claim in card.claims]
    caption = "The claims of this paper, none of them run yet."
    return claims_table(rows, caption, third="Expected", more="survey-planned")


def _claim_row(slug: str, claim: Claim, judged: Judged) -> str:
    word = signed_word(NOT_TESTED) if claim.not_tested else "planned"
    note = small("one run decides") if claim.deterministic else ""
    others = disputes(slug, claim)
    return claim_row(
        claim,
        NOT_TESTED,
        claim.expected,
        f'<span class="word">{word}</span>{small(claim.not_tested)}{note}',
        ident=f"claim-{anchor(claim.id)}",
        notes=[small(f"disputed by {told(other, judged, 'papers')}") for other in others],
        label="Expected",
    )


def _received(card: Card) -> str:
    text = received_text(card.slug)
    if not text:
        return "This paper joined the survey later, so there is no card to compare with."
    changes = (
        f"<p>What this page says otherwise, and why:</p>{corrections(card)}"
        if card.corrections
        else "<p>Nothing in it had to be corrected.</p>"
    )
    # a blank line would end the block of HTML, so line ends are written as characters
    lines = text.strip().replace("\n", "&#10;")
    return _block(
        '<div class="survey survey-received"><details><summary>The survey’s text, word for word'
        f' (its pictures are left out)</summary><pre tabindex="0">{lines}</pre></details>'
        f"{changes}</div>"
    )


def _block(markup: str) -> str:
    """HTML that Markdown takes as one block: no line of it is blank."""
    return re.sub(r"\n\s*\n", "\n", markup)
