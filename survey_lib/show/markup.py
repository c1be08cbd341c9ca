"""Small things all HTML of the book is made of: escaping, numbers in words, the shown object."""

import dataclasses
import html
import math
import re
from dataclasses import dataclass
from typing import Any, TypeVar

from survey_lib.evidence.intervals import Interval

MINUS = "−"
Made = TypeVar("Made")

# Notebooks outside the book (Colab shows each output in its own frame) have no style sheet of
# ours. These rules have no specificity (`:where`), so on the site every rule of survey.css wins.
LIVE_STYLE = (
    "<style>"
    ":where(.survey){max-width:60rem;line-height:1.5}"
    ":where(.survey table){border-collapse:collapse}"
    ":where(.survey caption){text-align:left;padding-bottom:.5em}"
    ":where(.survey th,.survey td){padding:.3em .8em;text-align:left;vertical-align:top;"
    "border-bottom:1px solid #8885}"
    ":where(.survey .num){text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    ":where(.survey .interval,.survey .survey-small){font-size:.85em;opacity:.8}"
    ":where(.survey .interval,.survey-small){display:block}"
    ":where(.survey tbody th){font-weight:400}"
    ":where(.survey-verdicts td:nth-child(3)){min-width:9em}"
    ":where(.survey-headline){font-size:1.4em}"
    ":where(.survey-scroll){overflow-x:auto}"
    ":where(.survey-strip,.survey-more){display:flex;flex-wrap:wrap;gap:.5em 2em;"
    "list-style:none;padding:0}"
    ":where(.survey-strip a,.survey-more a){color:inherit}"
    ":where(.survey .visually-hidden){position:absolute;clip-path:inset(50%);width:1px;"
    "height:1px;overflow:hidden}"
    ":where(.survey-badges,.survey .tags){display:flex;flex-wrap:wrap;gap:.3em 1.5em;"
    "list-style:none;padding:0}"
    ":where(.survey .word){font-weight:600}"
    ":where(.survey-chip .word,.survey-verdicts .word){display:block}"
    "</style>"
)


@dataclass(frozen=True)
class Html:
    """Something a notebook shows: HTML, and plain text for places that show none."""

    html: str
    text: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/html": self.html, "text/plain": self.text}

    def __str__(self) -> str:
        return self.text


class Safe(str):
    """Text that is HTML already: :func:`escape` leaves it as it is."""

    __slots__ = ()


def escape(value: Any) -> Safe:
    """``value`` as text that is safe inside HTML, attributes included; a second time, no change."""
    return value if isinstance(value, Safe) else Safe(html.escape(str(value), quote=True))


def safe(thing: Made) -> Made:
    """A card, a claim or a verdict whose every text is escaped: here what is read becomes markup.

    Whatever makes a page takes its cards through this function, once; no use of a text has to
    think of it again. A second time changes nothing. Ends of lines become characters of HTML: a
    blank line would end a block of HTML in Markdown, and what follows could be a directive.

    Args:
        thing: a dataclass, tuple, list or dictionary of such, a text, or any other value, which
            is given back as it is.
    """
    made: Any = thing
    if isinstance(thing, str):
        made = Safe(escape(thing).replace("\n", "&#10;"))
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = {f.name: safe(getattr(thing, f.name)) for f in dataclasses.fields(thing)}
        made = dataclasses.replace(thing, **parts)
    elif isinstance(thing, tuple | list):
        made = type(thing)(map(safe, thing))
    elif isinstance(thing, dict):
        made = {key: safe(value) for key, value in thing.items()}
    return made


def markdown(text: str) -> Safe:
    """``text`` as Markdown that shows it literally: no markup, no HTML, no formula, one line."""
    inert = text if isinstance(text, Safe) else html.escape(text, quote=False)
    line = " ".join(inert.split())
    return Safe(re.sub(r"([\\`*_{}\[\]$|~^])", r"\\\1", line))


def paragraphs(text: str) -> Safe:
    """HTML of plain paragraphs: blank lines part them, ``*words*`` are set off, all else is shown.

    No line of it is blank, so that Markdown takes it as one block of HTML.
    """
    parts = (" ".join(part.split()) for part in re.split(r"\n\s*\n", escape(text).strip()))
    told = (re.sub(r"\*(\w[^*]*?)\*", r"<em>\1</em>", part) for part in parts)
    return Safe("\n".join(f"<p>{part}</p>" for part in told))


def link(address: str, words: str, **attributes: str) -> str:
    """A link; only http, https and addresses inside the site become one, others stay words."""
    if re.match(r"(?i)[a-z][a-z0-9+.-]*:", address) and not re.match(r"(?i)https?://", address):
        return escape(words)
    more = "".join(f' {name.rstrip("_")}="{escape(v)}"' for name, v in attributes.items())
    return f'<a href="{escape(address)}"{more}>{escape(words)}</a>'


def number(value: float, decimals: int | None = None) -> str:
    """A number as a reader sees it: a true minus sign, thousands set apart, ∞ for no bound.

    Without ``decimals``: integers as they are, others with four significant digits.
    """
    if isinstance(value, float) and math.isnan(value):
        return "–"
    if math.isinf(value):
        return MINUS + "∞" if value < 0 else "∞"
    if decimals is not None:
        words = f"{value:,.{decimals}f}"
        # −0.00 says nothing that 0.00 does not
        if float(words.replace(",", "")) == 0:
            words = words.lstrip("-")
    elif float(value).is_integer() and abs(value) < 1e15:
        words = f"{int(value):,}"
    else:
        words = f"{value:,.4g}" if abs(value) >= 1e-4 else f"{value:.2e}"
    return words.replace("-", MINUS).replace(",", "\u202f")


def decimals_for(interval: Interval) -> int:
    """Decimals that show two significant digits of the half-width, between 0 and 6."""
    half = interval.half_width
    if not math.isfinite(half) or half == 0:
        half = abs(interval.mean) / 20
    if half == 0:
        return 2
    return min(6, max(0, 1 - math.floor(math.log10(half))))


SHARE_OF_IMAGES = "share of images"
"""Unit of differences of accuracy; a reader sees them in points, with their sign."""
SIGNED = (SHARE_OF_IMAGES, "nats", "log ratio", "correlation")
"""Units in which claims measure a change: its sign is part of what was found."""


def unit_words(unit: str) -> str:
    """A claim's unit as a reader sees it: ``points``, ``% of bytes``, ``times``, ``nats``."""
    if unit == SHARE_OF_IMAGES:
        return "points"
    if unit.startswith("share of "):
        return type(unit)("%" + unit.removeprefix("share"))  # HTML already, or not
    return "times" if unit == "ratio" else unit


def _times(unit: str) -> int:
    return 100 if unit.startswith("share of ") else 1


def in_unit(interval: Interval, unit: str) -> Interval:
    """The interval in the unit that :func:`unit_words` names."""
    by = _times(unit)
    return Interval(by * interval.mean, by * interval.low, by * interval.high, interval.n)


def amount(value: float, unit: str, decimals: int | None = None) -> str:
    """One number of a claim's statistic in the unit of :func:`unit_words`; changes are signed."""
    if _times(unit) != 1:
        value = round(_times(unit) * value, 10)  # 100 × 0.07 is 7.000000000000001
    words = number(value, decimals)
    return f"+{words}" if unit in SIGNED and value > 0 and words.strip("0.") else words


def range_words(interval: Interval, decimals: int | None = None, unit: str = "") -> str:
    """The interval alone: ``[0.08, 0.16]``, or words where there is none."""
    if math.isinf(interval.half_width):
        return "one seed: no interval"
    if interval.low == interval.high:
        return f"the same in all {interval.n} runs" if interval.n > 1 else "one run decides"
    places = decimals_for(in_unit(interval, unit)) if decimals is None else decimals
    return f"[{amount(interval.low, unit, places)}, {amount(interval.high, unit, places)}]"


def mean_words(interval: Interval, unit: str = "") -> str:
    """The mean with the decimals its interval supports."""
    return amount(interval.mean, unit, decimals_for(in_unit(interval, unit)))


def region_words(region: tuple[float | None, float | None], unit: str = "") -> str:
    """A claim's region, as HTML: ``≥ 0``, ``≤ 0.02 nats``, ``between −1 and +1 points``."""
    low, high = (None if end is None else amount(end, unit) for end in region)
    if low is None and high is None:
        return "anything"
    if low is None:
        words = f"≤ {high}"
    elif high is None:
        words = f"≥ {low}"
    elif low == high:
        words = f"exactly {low}"
    else:
        words = f"between {low} and {high}"
    return f"{words} {escape(unit_words(unit))}".strip()


def lead(text: str) -> str:
    """Escaped text whose first sentence is set off: what to see, before what is drawn."""
    text = escape(text)
    match = re.match(r"(.+?[.!?])\s+(?=[A-ZÄÖÜ0-9(])", text, flags=re.DOTALL)
    if match is None:
        return f"<strong>{text}</strong>"
    return f"<strong>{match[1]}</strong> {text[match.end() :]}"


def anchor(name: str) -> str:
    """``name`` as an HTML id: letters, digits, ``-`` and ``_``."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")
