"""The common testbed's figures: drawn here, closed and told by the page."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from survey_lib.experiments.common_testbed.cells import FRESH, METRICS
from survey_lib.experiments.common_testbed.grid import FULL, MAGNITUDE, RANDOM
from survey_lib.show import style
from survey_lib.show.figure import band, keep_axis, label_ends, panels
from survey_lib.show.frames import over_seeds
from survey_lib.show.marks import forest
from survey_lib.show.testbed.frames import (
    BESIDE,
    FALLEN,
    FALLEN_NATS,
    FRESHNESS,
    NETS,
    OTHERS,
    TEXT,
    Frame,
    channel_methods,
    freshness,
    label,
    leads,
    look,
    pareto_points,
    shapes,
)


def lead_figure(df: Frame, net: str, keep: float) -> tuple[Any, Frame]:
    """Before tuning and after: every method's lead over ℓ1 with its interval, on one scale."""
    boards = [(title, net, epochs) for title, epochs in zip(TITLES, (0.0, FULL), strict=True)]
    return _leads(df, boards, keep, by=-1)


def nets_figure(df: Frame, nets: Sequence[str], keep: float) -> tuple[Any, Frame]:
    """The leads after full tuning, a panel a net, in the order of the first; on one scale.

    ℓ1 within equal shares of all layers stands among the methods. Methods that fell would press all
    others together, and stand at the edge as numbers.
    """
    boards = [(NETS[net], net, FULL) for net in nets]
    return _leads(df, boards, keep, by=0, least=-FALLEN, even=True)


TITLES = ("before tuning", "after full tuning")


def _leads(
    df: Frame, boards: Sequence[tuple[str, str, float]], keep: float, *, by: int,
    least: float = -math.inf, even: bool = False,
) -> tuple[Any, Frame]:  # fmt: skip
    """Leads over ℓ1, a panel a board (title, net, epochs), sorted as on board ``by``.

    Leads below ``least`` are not drawn but written; with ``even`` ℓ1 within equal shares is a row.
    """
    fig, axes = panels(len(boards), columns=3, height=5.2, sharex=True, sharey=True)
    found = [leads(df, net, keep, epochs, even=even) for _, net, epochs in boards]
    order = found[by].sort_values("mean", ascending=False).index
    names = [*order, *(n for n in pd.concat(found).index.unique() if n not in order)]
    looks = {name: (look(name), {"label": label(name)}) for name in names}
    drawn = []
    for ax, (title, net, epochs), one in zip(axes, boards, found, strict=True):
        forest(ax, one[one["mean"] >= least], looks, zero=True)
        for name, lead in one["mean"][one["mean"] < least].items():
            ax.text(
                0.02, names.index(name), f"← −{-lead:.0f}", transform=ax.get_yaxis_transform(),
                va="center", fontsize=8.5, color=style.MUTED,
            )  # fmt: skip
        ax.tick_params(axis="y", labelsize=8.5)  # a row a method, on a phone, too
        ax.set(title=title, xlabel="lead over ℓ1 (points)")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        named = [label(n) for n in one.index]
        drawn.append(one.assign(net=net, epochs=epochs, label=named))
    return fig, pd.concat(drawn)


def tuning_figure(df: Frame, net: str, keep: float) -> tuple[Any, Frame]:
    """Mean accuracy of every method against the length of its tuning; the opponents are named."""
    fig, axes = panels(1, height=4.2)
    (ax,) = axes
    some = channel_methods(df, net)
    some = some[(some.keep == keep) & ((some.method != FRESH) | (some.epochs > 0))]
    found = over_seeds(some, ["method", "epochs"], "score")
    lengths = sorted(found.epochs.unique())
    for name, line in found.groupby("method"):
        known = name in (RANDOM, MAGNITUDE, FRESH)
        look_ = style.line(look(str(name)) if known else OTHERS)
        look_ |= {"label": label(str(name)) if known else "_", "zorder": 3 if known else 2}
        if not known:
            look_ |= {"marker": "", "alpha": 0.75}
        at = [lengths.index(e) for e in line.epochs]
        ax.plot(at, 100 * line["mean"], **look_)
    own = df[(df.net == net) & df.arm.isin(["dense", "longer"])]
    own = own.groupby("epochs").score.mean()
    own = own[[e in lengths for e in own.index]]
    if len(own) > 1:
        at = [lengths.index(e) for e in own.index]
        ax.plot(at, 100 * own, **style.line("dense", marker="", label=BESIDE["longer"]))
    elif len(own):
        ax.axhline(100 * own.iloc[0], **style.line("dense", marker="", label="dense"))
    ax.set_xticks(range(len(lengths)), [f"{e:g}" for e in lengths])
    ax.set(xlabel="epochs of tuning", ylabel="test accuracy (%)")
    ax.set_xlim(-0.15, len(lengths) - 0.85)
    label_ends(ax)
    return fig, found


def freshness_figure(df: Frame, net: str, keeps: Sequence[float]) -> tuple[Any, Frame]:
    """One shape with kept and with fresh weights, beside ℓ1 and the best method; a panel a size."""
    fig, axes = panels(len(keeps), height=3.2, sharey=True)
    looks = {key: (_FRESHNESS[key], {"label": words}) for key, words in FRESHNESS.items()}
    dense = 100 * df[(df.arm == "dense") & (df.net == net)].score.mean()
    drawn = []
    for ax, keep in zip(axes, keeps, strict=True):
        found = freshness(df, net, keep)
        forest(ax, found, looks)
        ax.axvline(dense, **style.line("dense", marker="", label="_dense"))
        ax.set(title=f"{100 * keep:g} % of the MACs", xlabel="test accuracy (%)")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        drawn.append(found.assign(keep=keep, label=[FRESHNESS[key] for key in found.index]))
    return fig, pd.concat(drawn)


_FRESHNESS = {
    "best": OTHERS, MAGNITUDE: "magnitude", "inherited": "magnitude", FRESH: "scratch",
    "e": "scratch", "b": "scratch",
}  # fmt: skip


MOST = 5
"""Methods whose lines can be told apart, beside the dense net's."""


def sizes_figure(df: Frame, net: str, kind: str, lengths: Sequence[float]) -> tuple[Any, Frame]:
    """Accuracy against the share that is kept, a panel a length of tuning, a line a method.

    Where there are too many to tell apart, the opponents are named and the others drawn alike.
    """
    fig, axes = panels(len(lengths), height=4.0, sharey=True)
    some = df[(df.arm == "method") & (df.net == net) & (df.kind == kind) & (df.steers == "budget")]
    some = some[(some.method != FRESH) | (some.epochs > 0)]
    found = over_seeds(some, ["method", "epochs", "keep"], "score")
    named = set(found.method) if found.method.nunique() <= MOST else {RANDOM, MAGNITUDE, FRESH}
    dense = 100 * df[(df.arm == "dense") & (df.net == net)].score.mean()
    for ax, epochs in zip(axes, lengths, strict=True):
        for name, line in found[found.epochs == epochs].groupby("method"):
            mean, low, high = (list(100 * line[c]) for c in ("mean", "low", "high"))
            if name not in named:
                faint = style.line(OTHERS, marker="", alpha=0.75, label="_")
                ax.plot(list(line.keep), mean, **faint)
                continue
            called = label(str(name))
            band(ax, list(line.keep), mean, low, high, look(str(name)), label=called)
        ends = [some.keep.max(), some.keep.min()]
        ax.plot(ends, [dense, dense], **style.line("dense", marker="", label="dense"))
        unit = "MACs" if METRICS[kind] == "macs" else kind
        keep_axis(ax, sorted(some.keep.unique()), label=f"{unit} kept")
        ax.set(title="not tuned" if not epochs else f"{epochs:g} epochs of tuning")
    axes[0].set_ylabel("test accuracy (%)")
    label_ends(axes[-1])
    return fig, found


def shape_figure(df: Frame, net: str, keep: float) -> tuple[Any, Frame]:
    """Share of the parameters at equal MACs, and accuracy after full tuning, a row a method."""
    fig, (left, right) = panels(2, height=4.6, sharey=True)
    found = shapes(df, net, keep)
    looks = {name: (look(str(name)), {"label": label(str(name))}) for name in found.index}
    bars = left.barh(range(len(found)), found.parameters, height=0.6, color=style.GRID)
    for bar, fallen in zip(bars, found.fallen, strict=True):
        if fallen:
            bar.set(color=style.series("lobster").light)
    forest(right, found, looks)
    left.set_yticks(range(len(looks)), [label(str(name)) for name in found.index])
    left.set(title="what is left", xlabel="share of the parameters (%)")
    right.set(title="what comes of it", xlabel="test accuracy (%)")
    for ax in (left, right):
        ax.tick_params(axis="y", labelsize=8.5)
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
    return fig, found.assign(label=[label(str(name)) for name in found.index])


def agreement_figure(found: Frame) -> Any:
    """The rank correlations with their intervals, and the lines of chance and of one order."""
    fig, axes = panels(1, height=0.42 * len(found) + 1.2)
    (ax,) = axes
    looks = {row.pair: ("magnitude", {}) for row in found.itertuples()}
    forest(ax, found.set_index("pair"), looks, zero=True)
    ax.axvline(1, color=style.MUTED, linewidth=0.8)
    ax.set(xlabel="rank correlation (0: chance)", xlim=(-1.05, 1.05))
    ax.grid(axis="y", visible=False)
    ax.grid(axis="x", visible=True)
    return fig


KINDS = {"channels": "magnitude", "weights": "psp", "adapters": "adapters", "bits": "int8"}
"""Kind of a method → series of the style, where kinds are compared."""


def pareto_figure(
    df: Frame, net: str, units: Sequence[str], epochs: float = FULL
) -> tuple[Any, Frame]:
    """Accuracy against the share of the dense net, a panel a unit, and the best at each share.

    Nets that have fallen (see :func:`shapes`) stand as triangles at the lower edge. Of a language
    model the loss is drawn, upside down, so that better is up there, too.
    """
    text = net == TEXT
    by, fall = (-1, FALLEN_NATS) if text else (100, FALLEN)  # score → height, more is better
    fig, axes = panels(len(units), height=3.9, sharey=True)
    drawn = []
    dense = by * df[(df.arm == "dense") & (df.net == net)].score.mean()
    low = (by * pareto_points(df, net, units[0], epochs).score).median() - fall
    for ax, unit in zip(axes, units, strict=True):
        found = pareto_points(df, net, unit, epochs)
        for kind, key in KINDS.items():
            mine = found[(found.kind == kind) & (by * found.score >= low)]
            if len(mine):
                look_ = style.line(key, linestyle="none", label=kind, alpha=0.8)
                ax.plot(mine.share, by * mine.score, **look_)
        below = found[by * found.score < low]
        if len(below):  # an empty line that isn't clipped would take all room
            fallen = style.line("lobster", linestyle="none", marker="v", label="_below")
            ax.plot(below.share, [low] * len(below), **fallen, markersize=9, clip_on=False)
        front = found[found.front & (by * found.score >= low)].sort_values("share")
        ax.step(front.share, by * front.score, where="post", color=style.MUTED, linewidth=1.2,
                label="_front")  # fmt: skip
        ax.axhline(dense, **style.line("dense", marker="", label="_dense"))
        ax.set_xscale("log")
        _percent_axis(ax, found.share)
        ax.set(title=unit, xlabel="share of the dense net")
        drawn.append(found)
    axes[0].set_ylabel("test loss (nats a character)" if text else "test accuracy (%)")
    if text:
        axes[0].yaxis.set_major_formatter(lambda height, _: f"{-height:.2f}")
    axes[0].set_ylim(bottom=min(low, dense))
    if found_kinds := {k for d in drawn for k in d.kind} - {"channels"}:
        axes[0].legend(loc="lower left", ncols=1 + len(found_kinds) // 3)
    return fig, pd.concat(drawn)


def _percent_axis(ax: Axes, values: Frame) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = 0.9 * min(values, default=0.1)
    places = (
        (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0) if low < 0.3 else (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 2.0)
    )
    ticks = [t for t in places if low <= t]
    ax.set_xlim(1.1 * max(1.0, *values), low)  # the dense net stands at the left
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{100 * t:g} %"))
