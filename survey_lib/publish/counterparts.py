"""The papers' numbers beside ours, claim by claim: one figure and one table for the ledger."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from survey_lib.cards.card import Claim
from survey_lib.evidence.verdicts import SIGNS, Verdict
from survey_lib.publish.disputes import Judged
from survey_lib.show.claims import paper
from survey_lib.show.markup import (
    amount,
    anchor,
    decimals_for,
    escape,
    in_unit,
    mean_words,
    range_words,
    safe,
    unit_words,
)

PANELS = {
    "points": "difference (points)",
    "nats": "difference of logarithms (nats)",
    "times": "ratio (times)",
}
"""Kind of unit → what its axis says; a share of something else than images stands in the table."""
_LINEAR = {"points": 1.0, "nats": 0.1}
"""Up to here an axis is linear, beyond it logarithmic: effects span two decades and change sign."""


@dataclass(frozen=True)
class Pair:
    """One claim with a number of the paper and one of ours."""

    slug: str
    verdict: Verdict

    @property
    def claim(self) -> Claim:
        """The claim."""
        return self.verdict.claim

    @property
    def kind(self) -> str:
        """Which panel it stands in; empty for none."""
        unit = self.claim.unit
        if unit in ("share of images", "share of points"):
            return "points"
        return {"nats": "nats", "log ratio": "nats", "ratio": "times"}.get(unit, "")

    @property
    def neutral(self) -> float:
        """The number that says nothing changed."""
        return 1.0 if self.claim.unit == "ratio" else 0.0

    @property
    def theirs(self) -> tuple[float, float]:
        """The ends of the paper's numbers, in the claim's unit."""
        given = self.claim.theirs
        assert given is not None
        return given if isinstance(given, tuple) else (given, given)

    @property
    def middle(self) -> float:
        """The middle of the paper's numbers."""
        return sum(self.theirs) / 2

    @property
    def ours(self) -> float:
        """The mean of ours."""
        assert self.verdict.interval is not None
        return self.verdict.interval.mean

    @property
    def inside(self) -> bool:
        """Whether our interval reaches the paper's number or range."""
        interval = self.verdict.interval
        assert interval is not None
        return interval.low <= self.theirs[1] and interval.high >= self.theirs[0]

    @property
    def same_way(self) -> bool:
        """Whether ours lies on the same side of no change as the middle of the paper's."""
        return (self.ours - self.neutral) * (self.middle - self.neutral) > 0

    def effect(self, value: float) -> float:
        """How far a number lies from no change; ratios by their logarithm."""
        return abs(math.log(value) if self.claim.unit == "ratio" else value)


def pairs(judged: Judged) -> list[Pair]:
    """All judged claims for which the paper has a number, the largest of theirs first."""
    found = [
        Pair(slug, verdict)
        for slug, verdicts in judged.items()
        for verdict in verdicts
        if verdict.claim.theirs is not None and verdict.interval is not None
    ]
    return sorted(found, key=lambda p: -p.effect(p.middle))


def counterparts(judged: Judged) -> str:
    """Markdown of the section: a sentence of counts, the figure, the table; empty without pairs."""
    found = pairs(judged)
    if not found:
        return ""
    return (
        "## The papers’ numbers beside ours\n\n"
        f"{_counted(found)}\n\n{_figure(found)}\n\n{_table(found)}"
    )


def _counted(found: Sequence[Pair]) -> str:
    same = sum(p.same_way for p in found)
    inside = sum(p.inside for p in found)
    smaller = sum(p.effect(p.ours) < p.effect(p.middle) for p in found if p.same_way)
    of = [p.effect(p.ours) / p.effect(p.middle) for p in found if p.same_way]
    middle = f", and the middle one is {median(of):.1f} times theirs" if of else ""
    return (
        f"For {len(found)} claims the paper has a number in the same unit, from larger nets and "
        f"other data. In {same} of them ours has the same direction; there {smaller} of our "
        f"effects are smaller than theirs{middle}. In {inside} our interval reaches theirs. A "
        "number that differs refutes nothing by itself: the claims ask for directions and bounds, "
        "and the last column says what lies between the two."
    )


def _figure(found: Sequence[Pair]) -> str:
    """An arrow a claim, from the paper's number to ours; a panel for each kind of unit."""
    import matplotlib.pyplot as plt

    from survey_lib.show import style
    from survey_lib.show.figure import inline_figure

    shown = {kind: [p for p in found if p.kind == kind] for kind in PANELS}
    shown = {kind: rows for kind, rows in shown.items() if rows}
    if not shown:
        return ""
    drawn = []
    with plt.rc_context():
        style.use_style()
        for width in (style.WIDE_INCHES, style.NARROW_INCHES):
            wide = width == style.WIDE_INCHES
            row = 0.27 if wide else 0.5
            heights = [row * len(rows) + 0.8 for rows in shown.values()]
            fig, axes = plt.subplots(
                len(shown), 1, figsize=(width, sum(heights)), squeeze=False,
                gridspec_kw={"height_ratios": heights},
            )  # fmt: skip
            for ax, (kind, rows) in zip(axes[:, 0], shown.items(), strict=True):
                _panel(ax, kind, rows, wide)
            drawn.append(fig)
    rows = [p for some in shown.values() for p in some]
    same = sum(p.same_way for p in rows)
    return inline_figure(
        drawn[0],
        drawn[1],
        "theirs-and-ours",
        alt=f"{len(rows)} claims, a row each, with the paper's number, ours and an arrow from one "
        f"to the other; {same} lie on the same side of no change. The table below holds them all.",
        caption=f"From the papers’ numbers to ours: {same} of {len(rows)} point the same way. "
        "Hollow: the paper, a line where it has several numbers. Filled: the mean here, with its "
        "95 % interval; the sign at the edge is the verdict. The papers’ largest come first. "
        "Axes are linear around no change and logarithmic beyond.",
    )


def _panel(ax: Any, kind: str, rows: Sequence[Pair], wide: bool) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    from survey_lib.show import style

    ours = style.series("magnitude").light
    by = 100.0 if kind == "points" else 1.0
    values: list[float] = []
    for y, pair in enumerate(rows):
        interval = pair.verdict.interval
        assert interval is not None
        low, high = (by * end for end in pair.theirs)
        a, b = by * pair.middle, by * pair.ours
        values += [low, high, by * interval.low, by * interval.high]
        ax.plot([low, high], [y, y], color=style.MUTED, linewidth=3, alpha=0.45,
                solid_capstyle="round")  # fmt: skip
        ax.annotate("", (b, y), (a, y), arrowprops={
            "arrowstyle": "->", "color": style.MUTED, "linewidth": 0.9, "shrinkA": 4, "shrinkB": 4,
        })  # fmt: skip
        ax.plot([by * interval.low, by * interval.high], [y, y], color=ours, linewidth=1.6)
        ax.plot(a, y, marker="o", markersize=6, color=style.INK, markerfacecolor=style.PAPER)
        ax.plot(b, y, marker="o", markersize=6, color=ours)
        sign = SIGNS[pair.verdict.word]
        ax.text(1.015, y, sign, transform=ax.get_yaxis_transform(), va="center", color=style.INK)
    if kind == "times":
        ax.set_xscale("log")
        ticks = [0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0]
    else:
        ax.set_xscale("symlog", linthresh=_LINEAR[kind])
        decades = [_LINEAR[kind] * x for x in (1, 3, 10, 30)]
        ticks = [*(-x for x in decades), 0.0, *decades]
    least, most = min([*values, rows[0].neutral]), max([*values, rows[0].neutral])
    pad = 1.1 if kind == "times" else 1.25
    ends = (
        (least / pad, most * pad)
        if kind == "times"
        else (min(least * pad, -0.3 * _LINEAR[kind]), max(most * pad, 0.3 * _LINEAR[kind]))
    )
    ax.set_xlim(*ends)
    ax.xaxis.set_major_locator(FixedLocator([t for t in ticks if ends[0] <= t <= ends[1]]))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}".replace("-", "−")))
    ax.axvline(rows[0].neutral, color=style.INK, linestyle="--", linewidth=1)
    names = [f"{paper(p.slug).brief}: {safe(p.claim).title}" for p in rows]
    ax.set_yticks(range(len(rows)), names if wide else [""] * len(rows))
    if not wide:
        for y, name in enumerate(names):
            ax.text(0, y - 0.28, name, transform=ax.get_yaxis_transform(), va="bottom", fontsize=9,
                    color=style.INK)  # fmt: skip
    ax.set_ylim(len(rows) - 0.5, -0.5 if wide else -1.0)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.grid(axis="x", visible=True)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(PANELS[kind])


def _table(found: Sequence[Pair]) -> str:
    head = "".join(
        f'<th scope="col">{words}</th>'
        for words in ("Claim", "The paper", "Here", "Verdict", "What lies between")
    )
    rows = "\n".join(f"<tr>{''.join(_cells(p))}</tr>" for p in found)
    return (
        '<div class="survey survey-tablebox"><div class="survey-scroll" role="group" '
        'aria-label="The papers’ numbers beside ours"><table class="survey-table">'
        "<caption><span><strong>Every number with a counterpart.</strong> The paper’s, ours with "
        "its 95 % interval, and why they differ.</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table></div></div>"
    )


def _cells(pair: Pair) -> Iterator[str]:
    claim, interval = safe(pair.claim), pair.verdict.interval
    assert interval is not None
    unit = claim.unit
    places = decimals_for(in_unit(interval, unit))
    address = f"../notebooks/{pair.slug}.html#verdict-{anchor(claim.id)}"
    ends = dict.fromkeys(amount(end, unit) for end in pair.theirs)
    words = escape(unit_words(unit))
    yield (f'<th scope="row">{paper(pair.slug).brief}: <a href="{address}">{claim.title}</a></th>')
    yield f'<td data-value="{pair.middle!r}">{" to ".join(ends)} {words}</td>'
    yield (
        f'<td data-value="{pair.ours!r}">{mean_words(interval, unit)} {words} '
        f'<span class="interval">{range_words(interval, places, unit)}</span></td>'
    )
    yield f"<td>{SIGNS[pair.verdict.word]} {pair.verdict.word}</td>"
    yield f"<td>{claim.apart}</td>"
