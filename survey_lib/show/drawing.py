"""A method in three pictures: what is looked at, what is scored, what goes.

Every drawing of the book is put together from the parts below, in the book's colours, so that a
channel looks like a channel in each chapter. Nothing here depends on a run.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

from survey_lib.show import style
from survey_lib.show.markup import LIVE_STYLE, escape, lead

WIDTH, HEIGHT = 216, 150
"""Room of one picture, in px; a part's coordinates lie in it."""
LONGEST_TITLE = 29
"""Letters that a picture's heading may have."""
INK = "var(--pst-color-text-base, #222832)"
MUTED = "var(--pst-color-text-muted, #48566b)"
PAPER = "var(--pst-color-background, #fff)"
STATES = ("kept", "gone", "plain")
"""How a part stands: it stays, it goes (dashed and crossed), or nothing is said about it yet."""
_GAP, _HEAD, _LINE, _SIZE = 20, 20, 17, 13


@dataclass(frozen=True)
class Stage:
    """One of the pictures, with its heading and the sentence under it."""

    title: str
    words: str
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Drawing:
    """A method's drawing as a notebook shows it."""

    slug: str
    alt: str
    html: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": f"Drawing of {self.slug}: {self.alt}"}


def drawing(slug: str, stages: Sequence[Stage], *, alt: str, caption: str) -> Drawing:
    """Put a method's pictures side by side, and one above the other for a phone.

    Args:
        slug: the chapter.
        stages: two to four pictures.
        alt: what they show, in words.
        caption: first what to see, then how to read it.

    Raises:
        ValueError: alt or caption is empty, a heading is too long, or the number of pictures does
            not fit a page.
    """
    if not alt.strip() or not caption.strip():
        raise ValueError(f"the drawing of {slug} needs alt text and a caption")
    if not 2 <= len(stages) <= 4:
        raise ValueError(f"the drawing of {slug} has {len(stages)} pictures; use two to four")
    for stage in stages:
        if len(stage.title) > LONGEST_TITLE:
            raise ValueError(
                f"the drawing of {slug}: the heading {stage.title!r} is longer than "
                f"{LONGEST_TITLE} letters and would be cut"
            )
    wide = _row(slug, stages, alt)
    narrow = _column(f"{slug}-n", stages, alt)
    return Drawing(
        slug,
        alt,
        LIVE_STYLE + '<figure class="survey survey-figure survey-drawing">'
        f'<div class="survey-scroll" style="overflow-x:auto">{wide}</div>'
        f'<div class="survey-stacked" style="display:none">{narrow}</div>'
        f"<figcaption>{lead(caption)}</figcaption></figure>",
    )


def colour(key: str) -> str:
    """CSS colour of a series of the style (``thinet``), or of ``ink`` and ``muted``."""
    return {"ink": INK, "muted": MUTED}.get(key) or style.css(key)


def layer(
    x: float, y: float, width: float, height: float, label: str = "", *, below: bool = False
) -> str:
    """A layer: a frame, its name above it or below."""
    frame = (
        f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="none" '
        f'stroke="{MUTED}" stroke-width="1.2"/>'
    )
    place = y + height + 14 if below else y - 6
    return frame + (label and words(x + width / 2, place, label, muted=True))


def channel(
    x: float,
    y: float,
    state: str = "plain",
    *,
    key: str = "muted",
    size: float = 20,
    label: str = "",
) -> str:
    """A channel: a tile of ``size`` px with its upper left corner at (x, y), its name inside."""
    _known(state)
    kept, gone = state == "kept", state == "gone"
    line = ' stroke-dasharray="3 2.5"' if gone else ""
    tile = (
        f'<rect x="{x}" y="{y}" width="{size}" height="{size}" rx="3" '
        f'fill="{colour(key) if kept else PAPER}" stroke="{MUTED if gone else colour(key)}" '
        f'stroke-width="1.5"{line}/>'
    )
    if gone:
        tile += _line(x + 3, y + 3, x + size - 3, y + size - 3, MUTED, 1.2)
        tile += _line(x + size - 3, y + 3, x + 3, y + size - 3, MUTED, 1.2)
    fill = PAPER if kept else INK
    return tile + (label and words(x + size / 2, y + size / 2 + 4.5, label, fill=fill))


def weight(
    x1: float, y1: float, x2: float, y2: float, size: float = 1.5, state: str = "plain", *,
    key: str = "muted",
) -> str:  # fmt: skip
    """A weight: a line as thick as it is large; one that goes is dashed."""
    _known(state)
    gone = state == "gone"
    return _line(x1, y1, x2, y2, MUTED if gone else colour(key), 1.2 if gone else size, dashed=gone)


def unit(x: float, y: float, label: str = "", *, radius: float = 8, key: str = "muted") -> str:
    """A neuron or a sum: a circle around (x, y), its sign inside."""
    return (
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="{PAPER}" stroke="{colour(key)}" '
        'stroke-width="1.5"/>' + (label and words(x, y + 4.5, label))
    )


def arrow(x1: float, y1: float, x2: float, y2: float, *, key: str = "ink", head: float = 6) -> str:
    """An arrow from the first point to the second."""
    length = hypot(x2 - x1, y2 - y1)
    along, up = (x2 - x1) / length, (y2 - y1) / length
    bx, by = x2 - head * along, y2 - head * up
    half = head * 0.5
    points = f"{x2:.1f},{y2:.1f} {bx - half * up:.1f},{by + half * along:.1f} "
    points += f"{bx + half * up:.1f},{by - half * along:.1f}"
    return (
        _line(x1, y1, bx, by, colour(key), 1.4)
        + f'<polygon points="{points}" fill="{colour(key)}"/>'
    )


def score(
    x: float, base: float, height: float, state: str = "plain", *, key: str = "muted",
    width: float = 14, label: str = "", value: str = "",
) -> str:  # fmt: skip
    """A score: a bar from ``base`` up (down if negative), its name below and its value above."""
    _known(state)
    top, gone = min(base, base - height), state == "gone"
    line = ' stroke-dasharray="3 2.5"' if gone else ""
    bar = (
        f'<rect x="{x}" y="{top:.1f}" width="{width}" height="{abs(height):.1f}" '
        f'fill="{PAPER if gone else colour(key)}" stroke="{MUTED if gone else colour(key)}" '
        f'stroke-width="1.2"{line}/>'
    )
    middle = x + width / 2
    over = top - 5 if height >= 0 else base - height + 13
    return (
        bar
        + (label and words(middle, (base if height >= 0 else base - height) + 15, label))
        + (value and words(middle, over, value, muted=gone))
    )


def rule(x1: float, y1: float, x2: float, y2: float, *, dashed: bool = False) -> str:
    """A thin line: an axis, or a threshold when dashed."""
    return _line(x1, y1, x2, y2, MUTED, 1.1, dashed=dashed)


def curve(points: Sequence[tuple[float, float]], *, key: str = "ink", dashed: bool = False) -> str:
    """A line through points."""
    told = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    line = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<polyline points="{told}" fill="none" stroke="{colour(key)}" stroke-width="1.6"{line}/>'
    )


def words(
    x: float, y: float, text: str, *, anchor: str = "middle", muted: bool = False,
    bold: bool = False, fill: str = "",
) -> str:  # fmt: skip
    """Words with their base line at (x, y); ``anchor`` is start, middle or end."""
    weight = ' font-weight="600"' if bold else ""
    return (
        f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="{_SIZE}"{weight} '
        f'fill="{fill or (MUTED if muted else INK)}">{escape(text)}</text>'
    )


def _known(state: str) -> None:
    if state not in STATES:
        raise ValueError(f"no state {state!r} of a part; use one of {', '.join(STATES)}")


def _line(
    x1: float, y1: float, x2: float, y2: float, stroke: str, width: float, *, dashed: bool = False
) -> str:
    line = ' stroke-dasharray="3 2.5"' if dashed else ""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}" '
        f'stroke-width="{width:g}"{line}/>'
    )


def _row(slug: str, stages: Sequence[Stage], alt: str) -> str:
    lines = [textwrap.wrap(stage.words, 31) for stage in stages]
    deep = _HEAD + HEIGHT + 8 + _LINE * max(map(len, lines))
    inside = ""
    for i, (stage, told) in enumerate(zip(stages, lines, strict=True)):
        inside += _stage(stage, told, i * (WIDTH + _GAP), 0, WIDTH)
        if i:
            x = i * (WIDTH + _GAP) - _GAP / 2
            inside += (
                f'<g opacity=".55">{arrow(x - 7, _HEAD - 9, x + 7, _HEAD - 9, key="muted")}</g>'
            )
    return _svg(slug, len(stages) * (WIDTH + _GAP) - _GAP, deep, inside, alt)


def _column(slug: str, stages: Sequence[Stage], alt: str) -> str:
    width, y, inside = 300, 0, ""
    for stage in stages:
        told = textwrap.wrap(stage.words, 43)
        inside += _stage(stage, told, 0, y, width)
        y += _HEAD + HEIGHT + 8 + _LINE * len(told) + 22
    return _svg(slug, width, y - 16, inside, alt)


def _stage(stage: Stage, told: Sequence[str], x: float, y: float, width: float) -> str:
    head = words(0, 13, stage.title, anchor="start", bold=True)
    below = "".join(
        words(0, _HEAD + HEIGHT + 8 + 12 + _LINE * i, line, anchor="start", muted=True)
        for i, line in enumerate(told)
    )
    picture = (
        f'<g transform="translate({(width - WIDTH) / 2:g} {_HEAD})">{"".join(stage.parts)}</g>'
    )
    return f'<g transform="translate({x:g} {y:g})">{head}{picture}{below}</g>'


def _svg(slug: str, width: float, height: float, inside: str, alt: str) -> str:
    first, _, rest = alt.strip().partition(". ")
    prefix = f"drawing-{slug}"
    ids = f"{prefix}-title" + (f" {prefix}-desc" if rest else "")
    told = f'<title id="{prefix}-title">{escape(first.rstrip("."))}</title>'
    told += f'<desc id="{prefix}-desc">{escape(rest)}</desc>' if rest else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{ids}" font-family="var(--pst-font-family-base, system-ui, sans-serif)" '
        f'style="width:100%;max-width:{width:g}px;height:auto;background:{PAPER}">{told}{inside}</svg>'
    )
