"""What the figures of several chapters draw alike: intervals, the dense net, runs of this page."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from survey_lib.show import style

Looks = Mapping[Any, tuple[str, Mapping[str, Any]]]
"""Row or line → series of the style, and what is drawn otherwise; ``label`` names it."""


def forest(
    ax: Axes,
    found: pd.DataFrame,
    looks: Looks,
    *,
    dots: pd.Series | None = None,
    shift: float = 0.0,
    label: str = "_",
    zero: bool = False,
) -> None:
    """Means with their intervals, one row below the other in the order of ``looks``.

    Args:
        ax: where to draw; rows are named at its y axis by their ``label``, else by their key.
        found: columns ``mean``, ``low`` and ``high``, indexed by row, as
            :func:`survey_lib.show.frames.over_seeds` gives them; a row that is not in it keeps
            its place and stays empty.
        looks: how each row is drawn.
        dots: single values behind the means, indexed by row.
        shift: of the rows, where two kinds share one axis.
        label: of all that is drawn, for a legend of two kinds.
        zero: draw the line of no change.
    """
    for at, (row, (key, changes)) in enumerate(looks.items()):
        if dots is not None and row in dots.index:
            values = dots.loc[[row]]
            ax.plot(
                values, [at + shift] * len(values), linestyle="none", marker="o", markersize=3.5,
                color=style.MUTED, alpha=0.5, label="_dots",
            )  # fmt: skip
        if row in found.index:
            look = style.line(key) | dict(changes) | {"linestyle": "none", "label": label}
            _errorbar(ax, found.loc[row], at + shift, look, across=True)
            label = "_"  # once is enough for a legend
    ax.set_yticks(range(len(looks)), [str(c.get("label", row)) for row, (_, c) in looks.items()])
    ax.set_ylim(len(looks) - 0.5, -0.5)
    if zero:
        ax.axvline(0, **style.line("dense", marker="", label="_zero"))


def whisker(ax: Axes, x: float, row: Mapping[Hashable, Any], key: str, **changes: Any) -> None:
    """One net's mean and interval at ``x``; ``row`` has ``mean``, ``low`` and ``high``."""
    look: dict[str, Any] = style.line(key) | {"linestyle": "none"} | changes
    # the interval apart, so that a label at the line's end finds a line
    _errorbar(ax, row, x, look | {"label": "_", "marker": ""}, across=False)
    ax.plot([x], [row["mean"]], **look)


def _errorbar(
    ax: Axes, row: Mapping[Hashable, Any], at: float, look: dict[str, Any], *, across: bool
) -> None:
    mean = row["mean"]
    ends = [[mean - row["low"]], [row["high"] - mean]]
    if across:
        ax.errorbar(mean, at, xerr=ends, capsize=3, **look)
    else:
        ax.errorbar(at, mean, yerr=ends, capsize=3, **look)


def crosses(ax: Axes, x: Sequence[float] | pd.Series, y: Sequence[float] | pd.Series) -> None:
    """Runs made for this page, as grey crosses over what was recorded."""
    ax.plot(
        x, y, linestyle="none", marker="x", color=style.MUTED, zorder=5, label="_run for this page"
    )


def dense_line(ax: Axes, value: float, *, below: bool = False) -> None:
    """The dense net: a dashed line across, named at its left end, above it or ``below``."""
    ax.axhline(value, **style.line("dense", marker="", label="_dense"))
    ax.annotate(
        "dense", (0, value), xycoords=ax.get_yaxis_transform(), color=style.INK,
        xytext=(4, -3 if below else 3), textcoords="offset points",
        va="top" if below else "bottom",
    )  # fmt: skip
