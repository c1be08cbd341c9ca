"""The map of papers as a figure: year × what is taken away × when, every mark a link."""

from collections.abc import Collection, Sequence

from survey_lib.cards.card import GROUPS, WHEN, Card
from survey_lib.show.drawing import INK, MUTED, PAPER, rule, words
from survey_lib.show.markup import escape

SIGNS: dict[str, str] = dict(zip(WHEN, "●▲■◆", strict=True))
"""How the caption shows the mark of each time."""
_READY = "var(--s-magnitude, #4477aa)"
_ROW, _HEAD, _TOP, _BOTTOM, _SIDE = 25, 27, 26, 4, 22


def map_figure(cards: Sequence[Card], built: Collection[str]) -> str:
    """HTML of the figure; addresses are relative to a page in ``book/``.

    Args:
        cards: all papers; one without ``when`` is left out.
        built: slugs of the chapters that have a page in this book.
    """
    shown = [card for card in cards if card.when]
    if not shown:
        return ""
    wide, narrow = (_svg(shown, built, width) for width in (700, 343))
    # a blank line would end the block of HTML
    wide, narrow = (picture.replace("\n", " ") for picture in (wide, narrow))
    key = ", ".join(f"{sign} {when}" for when, sign in SIGNS.items())
    planned = any(card.slug not in built for card in shown)
    states = " Filled: the chapter is ready; hollow: it is planned." if planned else ""
    return (
        '<figure class="survey survey-figure survey-papers"><div class="survey-scroll">'
        f'{wide}</div><div class="survey-stacked" style="display:none">{narrow}</div><figcaption>'
        "<strong>What is taken away, when, and in which year.</strong> The net gets smaller: "
        f"{key}.{states} Each name leads to its page."
        "</figcaption></figure>"
    )


def _svg(cards: Sequence[Card], built: Collection[str], width: int) -> str:
    first, last = min(c.year for c in cards), max(c.year for c in cards)
    step = (width - 2 * _SIDE) / max(1, last - first)
    inside, y = "", _TOP
    for group in GROUPS:
        papers = sorted((c for c in cards if c.group == group), key=lambda c: (c.year, c.brief))
        if not papers:
            continue
        inside += words(0, y + 17, group, anchor="start", bold=True)
        y += _HEAD
        for card in papers:
            x = _SIDE + step * (card.year - first)
            inside += _paper(card, x, y + _ROW / 2, card.slug in built, left=x > width / 2)
            y += _ROW
    axis = ""
    for year in range(first, last + 1):
        x = _SIDE + step * (year - first)
        axis += f'<g opacity=".35">{rule(x, _TOP - 6, x, y, dashed=True)}</g>'
        axis += words(x, 13, str(year), muted=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y + _BOTTOM}" role="group" '
        'aria-label="Map of the papers" '
        'font-family="var(--pst-font-family-base, system-ui, sans-serif)" '
        f'style="width:100%;max-width:{width}px;height:auto;background:{PAPER}">{axis}{inside}</svg>'
    )


def _paper(card: Card, x: float, y: float, ready: bool, *, left: bool) -> str:
    address = f"../notebooks/{card.slug}.html" if ready else f"papers/{card.slug}.html"
    told = f"{card.year}, {card.when}{'' if ready else ', planned'}: {card.headline}"
    name = words(
        x - 13 if left else x + 13,
        y + 4.5,
        card.brief,
        anchor="end" if left else "start",
        fill=INK if ready else MUTED,
    )
    # the grid's lines must not run through the name
    name = name.replace("<text", f'<text paint-order="stroke" stroke="{PAPER}" stroke-width="5"', 1)
    label = f"{card.brief}, {card.year}, {card.when}" + ("" if ready else ", planned")
    return (
        f'<a href="{escape(address)}" class="{"ready" if ready else "planned"}" '
        f'aria-label="{escape(label)}"><title>{escape(told)}</title>'
        f"{name}{_mark(card.when, x, y, ready)}</a>"
    )


def _mark(when: str, x: float, y: float, ready: bool) -> str:
    look = f'fill="{_READY}" stroke="{_READY}"' if ready else f'fill="{PAPER}" stroke="{MUTED}"'
    look += ' stroke-width="1.6"' + ("" if ready else ' stroke-dasharray="2.5 1.8"')
    corners = {
        "▲": [(0, -7), (7, 6), (-7, 6)],
        "■": [(-6, -6), (6, -6), (6, 6), (-6, 6)],
        "◆": [(0, -8), (7, 0), (0, 8), (-7, 0)],
    }.get(SIGNS[when])
    if corners is None:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6.5" {look}/>'
    points = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {look}/>'
