"""What the common testbed's page shows: methods against ℓ1, how far an order carries, the price.

Everything is made of the records and of the registry; no method is named by hand here but the
opponents, and those whose look the book knows.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from IPython.display import display
from matplotlib.axes import Axes
from scipy.stats import spearmanr

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.records import Record
from survey_lib.experiments.common_testbed import grid
from survey_lib.experiments.common_testbed.cells import (
    FRESH,
    Cell,
    budget_of,
    config_of,
    task_of,
)
from survey_lib.experiments.common_testbed.grid import FULL, MAGNITUDE, PIECES, RANDOM, RUN
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.contract import METHODS
from survey_lib.show import page, style
from survey_lib.show.figure import label_ends, panels
from survey_lib.show.frames import mean_over, over_seeds
from survey_lib.show.marks import forest
from survey_lib.show.markup import SHARE_OF_IMAGES, Html, escape, mean_words, range_words
from survey_lib.show.tables import table
from survey_lib.show.verdicts import say
from survey_lib.tasks.dense import dense_net, seeded

LOOKS = {
    RANDOM: "random", MAGNITUDE: "magnitude", FRESH: "scratch", "magnitude": "magnitude",
    "random_weights": "random", "thinet": "thinet", "group_fisher": "fisher", "fisher": "fisher",
    "closer_look": "fisher", "pruning_by_explaining": "lrp", "loss_modelling": "loss_models",
    "parameterized_structured": "psp", "role_of_structured": "serene", "lobster": "lobster",
    "adaptive_activation": "adaptive_activation", "adaptive_budget": "adaptive_activation",
    "pruning_adapters": "adapters", "llm_int8": "int8", "what_matters_llm": "gum",
    "to_prune_or_not": "magnitude",
}  # fmt: skip
"""Method → series of the style; all others look alike."""
OTHERS = "oneshot"
NETS = {
    "resnet_small": "residual net", "mobilenet_small": "depthwise net",
    "vgg_small": "VGG-like net", "char_gpt": "character model",
}  # fmt: skip
"""Net → what a reader calls it."""
Frame = Any
"""A data frame or a column of one; pandas' own hints know too little of what indexing gives."""
UNITS = {
    "MACs": "macs_nonzero", "parameters": "nonzeros", "bytes": "bytes", "milliseconds": "net_ms",
}  # fmt: skip
"""Unit a reader may care about → number of a record."""
FIELDS = ("arm", "seed", "net", "method", "keep", "knob", "how", "epochs", "lr")
NUMBERS = (
    "val", "val_re", "test", "test_re", "params", "nonzeros", "macs", "macs_nonzero", "bytes",
    "net_ms", "dense_ms", "seconds", "refused",
)  # fmt: skip


def look(name: str) -> str:
    """Series of the style that a method is drawn as."""
    return LOOKS.get(name, OTHERS)


BESIDE = {
    "longer": "dense, trained on", "inherited": "one shape, inherited weights",
    "e": "one shape, fresh weights, equal epochs", "b": "one shape, fresh weights, equal MACs",
}  # fmt: skip
"""What stands beside the methods → what a reader calls it."""


def label(name: str) -> str:
    """What tables and figures call a method, or what stands beside them."""
    return METHODS[name].label if name in METHODS else BESIDE.get(name, name)


def nets(records: Sequence[Record]) -> Frame:
    """Every net, a row each, with its share of the dense net in each unit (``of MACs`` …).

    ``score`` is test accuracy with statistics re-estimated, or the loss of a language model;
    ``raw`` is the same as the statistics were left.
    """
    rows = [
        {k: r.config.get(k) for k in FIELDS} | {k: r.numbers.get(k) for k in NUMBERS}
        for r in records if r.status == "done"
    ]  # fmt: skip
    df: Frame = pd.DataFrame(rows, columns=[*FIELDS, *NUMBERS])
    df = df[df.refused.isna()].drop(columns="refused")
    df["score"] = pd.to_numeric(df.test_re.fillna(df.test))
    df["raw"] = pd.to_numeric(df.test)
    df["kind"] = [METHODS[m].kind if m in METHODS else "" for m in df.method]
    df["steers"] = [METHODS[m].steers if m in METHODS else "" for m in df.method]
    # eight bits leave as many parameters as there were; they only count as none of torch's
    df.loc[df.kind == "bits", "nonzeros"] = math.nan
    dense: Frame = df[df.arm == "dense"].drop_duplicates(["net", "seed"]).set_index(["net", "seed"])
    at: Any = pd.MultiIndex.from_frame(df[["net", "seed"]])
    for unit, number in UNITS.items():
        # times are of one process, in turns; the rest is of the dense net of the same replicate
        whole: Frame = df.dense_ms
        if number != "net_ms":
            whole = dense[number].reindex(at).set_axis(df.index)
        df[f"of {unit}"] = df[number].astype(float) / whole.astype(float)
    return df.reset_index(drop=True)


def refusals(records: Sequence[Record]) -> Frame:
    """Methods that said no: net, size and the sentence, once each."""
    rows = [
        {"method": label(r.config["method"]), "net": NETS[r.config["net"]],
         "kept": r.config["keep"], "why": r.numbers["refused"]}
        for r in records if "refused" in r.numbers
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "net", "kept", "why"]).drop_duplicates()


def channel_methods(df: Frame, net: str) -> Frame:
    """The rows of methods that remove channels within a budget, on one net."""
    return df[(df.arm == "method") & (df.net == net) & (df.kind == "channels")
              & (df.steers == "budget")]  # fmt: skip


def leads(df: Frame, net: str, keep: float, epochs: float, value: str = "score") -> Frame:
    """Replicate by replicate, each method minus ℓ1 in points: mean and interval by method.

    Returns:
        Indexed by method: ``mean``, ``low``, ``high``, ``seeds``, and ``word``: better, worse, or
        tie where the interval holds zero.
    """
    some = channel_methods(df, net)
    some = some[(some.keep == keep) & (some.epochs == epochs)]
    if not epochs:  # untuned there are no fresh weights
        some = some[some.method != FRESH]
    wide = 100 * some.pivot_table(index="seed", columns="method", values=value)
    if MAGNITUDE not in wide:
        return pd.DataFrame(columns=["mean", "low", "high", "seeds", "word"])
    gaps = wide.drop(columns=MAGNITUDE).sub(wide[MAGNITUDE], axis=0)
    found: Frame = pd.DataFrame({name: mean_over(gaps[name].dropna()) for name in gaps}).T
    return found.assign(word=[word(r.low, r.high) for r in found.itertuples()])


def word(low: float, high: float) -> str:
    """What an interval of differences says."""
    if low > 0:
        return "better"
    return "worse" if high < 0 else "tie"


# ---- figures: drawn here, closed and told by the page


def lead_figure(df: Frame, net: str, keep: float) -> tuple[Any, Frame]:
    """Before tuning and after: every method's lead over ℓ1 with its interval, on one scale."""
    fig, axes = panels(2, height=5.2, sharex=True, sharey=True)
    after = leads(df, net, keep, FULL).sort_values("mean", ascending=False)
    looks = {name: (look(name), {"label": label(name)}) for name in after.index}
    drawn = []
    for ax, epochs, title in zip(axes, (0.0, FULL), TITLES, strict=True):
        found = leads(df, net, keep, epochs)
        forest(ax, found, looks, zero=True)
        ax.tick_params(axis="y", labelsize=8.5)  # a row a method, on a phone, too
        ax.set(title=title, xlabel="lead over ℓ1 (points)")
        ax.grid(axis="y", visible=False)
        ax.grid(axis="x", visible=True)
        drawn.append(found.assign(epochs=epochs, label=[label(n) for n in found.index]))
    return fig, pd.concat(drawn)


TITLES = ("before tuning", "after full tuning")


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


FALLEN = 10.0
"""Points below the median after full tuning from which a net counts as fallen."""


def shapes(df: Frame, net: str, keep: float) -> Frame:
    """What equal MACs leave of the parameters, and what accuracy comes of it after full tuning.

    Returns:
        Indexed by method, fewest parameters first: ``parameters`` (mean share of the dense net's,
        %), ``mean``, ``low``, ``high`` and ``seeds`` of the accuracy (%), and whether it has
        ``fallen``.
    """
    some = channel_methods(df, net)
    some = some[(some.keep == keep) & (some.epochs == FULL) & (some.method != FRESH)]
    found: Frame = pd.DataFrame(
        {name: mean_over(100 * one.score) for name, one in some.groupby("method")}
    ).T
    found["parameters"] = 100 * some.groupby("method")["of parameters"].mean()
    found["fallen"] = found["mean"] < found["mean"].median() - FALLEN
    return found.sort_values("parameters")


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


def widths_table(net: str, keep: float, names: Sequence[str]) -> Html:
    """Channels that methods leave in each layer of dense net 0, cut here and not tuned."""
    task = task_of(Cell("dense", 0, net))
    whole = dense_net(task, 0)
    groups = trace_groups(whole, task.example(1)).prunable
    rows = [{"layer": g.name, "dense": g.size} for g in groups]
    for name in names:
        cell = Cell("method", 0, net, name, keep=keep)
        cut = METHODS[name].compress(
            whole, task, budget_of(cell), config_of(cell), tuning=None, generator=seeded(0, 1)
        )
        for row, g in zip(rows, groups, strict=True):
            row[label(name)] = len(cut.recipe.get(g.name, range(g.size)))
    return table(
        pd.DataFrame(rows),
        name="widths",
        caption=f"Channels left in each layer at {100 * keep:g} % of the MACs. Dense net 0, cut "
        "for this page.",
    )


def shape_words(df: Frame, net: str, keep: float) -> Html:
    """What the shapes come to, in numbers: who has fallen, and what equal shares of layers do."""
    found = shapes(df, net, keep)
    fallen, rest = found[found.fallen], found[~found.fallen]
    told = []
    if len(fallen):
        names = _listed([label(str(name)) for name in fallen.index])
        told.append(
            f"{names} end more than {FALLEN:g} points below the median method. They keep at most "
            f"{fallen.parameters.max():.0f} % of the parameters, the others at least "
            f"{rest.parameters.min():.0f} %, at the same MACs."
        )
    shape = df[(df.net == net) & (df.how == "inherited") & (df.keep == keep) & (df.epochs == FULL)]
    some = channel_methods(df, net)
    some = some[(some.keep == keep) & (some.epochs == FULL)]
    for rival, words in (
        (MAGNITUDE, "The ℓ1 norm within equal shares of all layers, against the ℓ1 norm with one "
         "budget for all"),
        (RANDOM, "Against random channels"),
    ):  # fmt: skip
        own = some[some.method == rival].set_index("seed").score
        gap = t_interval([float(d) for d in (shape.set_index("seed").score - own).dropna()])
        told.append(
            f"{words}: {mean_words(gap, SHARE_OF_IMAGES)} points "
            f"{range_words(gap, unit=SHARE_OF_IMAGES)}, which is "
            f"{_CALLED[word(gap.low, gap.high)]}."
        )
    said = " ".join(told)
    return Html(f'<p class="survey">{escape(said)}</p>', said)


_CALLED = {"better": "a lead", "worse": "a loss", "tie": "a tie"}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def agreements(df: Frame, keep: float, net: str = "resnet_small") -> Frame:
    """How far an order of methods carries: rank correlations, a row for each pair of boards.

    The first rows compare one replicate with the mean of the others at the same place: more than
    that no order can carry. Pairs of which a side was not run are left out.

    Returns:
        ``pair``, then ``mean``, ``low``, ``high`` and ``seeds``.
    """

    def board(net: str, keep: float, epochs: float, value: str = "score") -> Frame:
        some = channel_methods(df, net)
        some = some[(some.keep == keep) & (some.epochs == epochs) & (some.method != FRESH)]
        return some.pivot_table(index="seed", columns="method", values=value)

    here, rows = NETS[net], []
    for epochs, when in ((0.0, "before tuning"), (FULL, "after full tuning")):
        one = board(net, keep, epochs)
        values = [_rank(one.loc[s], one.drop(index=s).mean()) for s in one.index if len(one) > 1]
        rows.append((f"{when}: a replicate and the others", values))
    lengths = sorted(channel_methods(df, net).epochs.unique())
    pairs: list[tuple[str, Frame, Frame]] = [
        ("statistics as left and re-estimated, untuned",
         board(net, keep, 0.0, "raw"), board(net, keep, 0.0)),
    ]  # fmt: skip
    pairs += [
        (f"{_epochs(a)} and {_epochs(FULL)}", board(net, keep, a), board(net, keep, FULL))
        for a in lengths if a < FULL
    ]  # fmt: skip
    sizes = sorted(channel_methods(df, net).keep.unique(), reverse=True)
    pairs += [
        (f"{100 * a:g} % and {100 * b:g} % of the MACs", board(net, a, FULL), board(net, b, FULL))
        for a, b in itertools.pairwise(sizes)
    ]
    for other in df.net.unique():
        if other != net and not channel_methods(df, other).empty and other != "char_gpt":
            for epochs, when in ((0.0, "untuned"), (FULL, "fully tuned")):
                pairs.append((f"{here} and {NETS[other]}, {when}",
                              board(net, keep, epochs), board(other, keep, epochs)))  # fmt: skip
    for words, one, other in pairs:
        seeds = [s for s in one.index if s in other.index]
        rows.append((words, [_rank(one.loc[s], other.loc[s]) for s in seeds]))
    made = []
    for words, values in rows:
        known = [v for v in values if not math.isnan(v)]
        if known:
            made.append({"pair": words} | mean_over(known).to_dict())
    return pd.DataFrame(made, columns=["pair", "mean", "low", "high", "seeds"])


def _epochs(n: float) -> str:
    return "untuned" if not n else f"{n:g} epoch{'' if n == 1 else 's'}"


def _rank(one: Frame, other: Frame) -> float:
    both: Frame = pd.concat([one, other], axis=1).dropna()
    found: Any = spearmanr(both.iloc[:, 0], both.iloc[:, 1])
    return float(found.statistic)


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


def pareto_points(df: Frame, net: str, unit: str, epochs: float = FULL) -> Frame:
    """Mean score and share of the dense net in a unit, of every method at every size.

    Masks save no time here, so single weights are left out of the milliseconds.
    """
    some = df[(df.arm == "method") & (df.net == net) & (df.epochs == epochs)]
    if unit == "milliseconds":
        some = some[some.kind.isin(["channels", "adapters", "bits"])]
    some = some.dropna(subset=[f"of {unit}"])
    found = some.groupby(["method", "kind", "keep", "knob"], as_index=False).agg(
        share=(f"of {unit}", "mean"), score=("score", "mean"), seeds=("seed", "nunique")
    )
    sign = -1 if net == "char_gpt" else 1
    found["front"] = [
        not any((found.share <= p.share) & (sign * found.score > sign * p.score))
        for p in found.itertuples()
    ]
    return found.assign(unit=unit)


def pareto_figure(
    df: Frame, net: str, units: Sequence[str], epochs: float = FULL
) -> tuple[Any, Frame]:
    """Accuracy against the share of the dense net, a panel a unit, and the best at each share.

    Nets that have fallen (see :func:`shapes`) stand as triangles at the lower edge.
    """
    fig, axes = panels(len(units), height=3.9, sharey=True)
    drawn = []
    dense = 100 * df[(df.arm == "dense") & (df.net == net)].score.mean()
    low = 100 * pareto_points(df, net, units[0], epochs).score.median() - FALLEN
    for ax, unit in zip(axes, units, strict=True):
        found = pareto_points(df, net, unit, epochs)
        for kind, key in KINDS.items():
            mine = found[(found.kind == kind) & (100 * found.score >= low)]
            if len(mine):
                look_ = style.line(key, linestyle="none", label=kind, alpha=0.8)
                ax.plot(mine.share, 100 * mine.score, **look_)
        below = found[100 * found.score < low]
        if len(below):  # an empty line that isn't clipped would take all room
            fallen = style.line("lobster", linestyle="none", marker="v", label="_below")
            ax.plot(below.share, [low] * len(below), **fallen, markersize=9, clip_on=False)
        front = found[found.front & (100 * found.score >= low)].sort_values("share")
        ax.step(front.share, 100 * front.score, where="post", color=style.MUTED, linewidth=1.2,
                label="_front")  # fmt: skip
        ax.axhline(dense, **style.line("dense", marker="", label="_dense"))
        ax.set_xscale("log")
        _percent_axis(ax, found.share)
        ax.set(title=unit, xlabel="share of the dense net")
        drawn.append(found)
    axes[0].set_ylabel("test accuracy (%)")
    axes[0].set_ylim(bottom=min(low, dense))
    if found_kinds := {k for d in drawn for k in d.kind} - {"channels"}:
        axes[0].legend(loc="lower left", ncols=1 + len(found_kinds) // 3)
    return fig, pd.concat(drawn)


def _percent_axis(ax: Axes, values: Frame) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low = 0.9 * min(values, default=0.1)
    places = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if low < 0.3 else (0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
    ticks = [t for t in places if low <= t]
    ax.set_xlim(1.1 * max(1.0, *values), low)  # the dense net stands at the left
    ax.xaxis.set_major_locator(FixedLocator(ticks))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{100 * t:g} %"))


# ---- tables


def board_table(df: Frame, net: str, name: str = "board") -> Html:
    """Every method at every size after full tuning, sortable: leads, sizes, times."""
    rows = []
    some = df[(df.arm == "method") & (df.net == net) & (df.epochs == FULL)]
    before: Frame = over_seeds(df[(df.arm == "method") & (df.net == net) & (df.epochs == 0)],
                        ["method", "keep", "knob"], "score")  # fmt: skip
    before = before.set_index(["method", "keep", "knob"])["mean"]
    for (method, keep, knob), one in some.groupby(["method", "keep", "knob"]):
        own = mean_over(100 * one.score)
        gap = leads(df, net, keep, FULL)
        row: dict[str, Any] = {
            "method": label(method), "takes": METHODS[method].kind,
            "kept": 100 * keep if METHODS[method].steers == "budget" else None,
            "before": 100 * before.get((method, keep, knob), float("nan")),
            "after": own["mean"], "low": own.low, "high": own.high,
            "lead": None, "lead low": None, "lead high": None, "says": "–",
        }  # fmt: skip
        if method in gap.index:
            lead = gap.loc[method]
            row |= {"lead": lead["mean"], "lead low": lead.low, "lead high": lead.high,
                    "says": lead.word}  # fmt: skip
        row |= {u: 100 * one[f"of {u}"].mean() for u in UNITS}
        rows.append(row)
    rows += _beside(df, net)
    frame = pd.DataFrame(rows)
    if not some.empty:
        frame = frame.sort_values(["takes", "kept", "after"], ascending=[True, False, False])
    return table(
        frame,
        name=name,
        caption=f"Every method on the {NETS[net]} after {FULL:g} epochs of tuning. Sizes are "
        "shares of the dense net; a lead is over ℓ1, replicate by replicate. Mean over replicates "
        "with 95 % t interval. Masks take their MACs and parameters by non-zeros.",
        units={"kept": "%", "before": "%", "after": "%", "lead": "points"}
        | dict.fromkeys(UNITS, "%"),
        decimals={"kept": 0, "before": 1, "after": 1, "lead": 2} | dict.fromkeys(UNITS, 0),
        interval_columns={"after": ("low", "high"), "lead": ("lead low", "lead high")},
        notes=[
            "A tie: the interval of the lead holds zero. Of twenty true ties one falls outside by "
            "chance.",
        ],
    )


def _beside(df: Frame, net: str) -> list[dict[str, Any]]:
    """Rows of what stands beside the methods: the dense net, and one shape for all."""
    here, rows = df[df.net == net], []
    some = here[
        here.arm.isin(["dense", "shape"]) | ((here.arm == "longer") & (here.epochs == FULL))
    ]
    for (arm, how, keep, _), one in some.groupby(["arm", "how", "keep", "epochs"]):
        own = mean_over(100 * one.score)
        row = {"method": label(how or arm), "takes": "–", "kept": 100 * keep, "after": own["mean"],
               "low": own.low, "high": own.high, "says": "–"}  # fmt: skip
        rival = here[(here.method == MAGNITUDE) & (here.keep == keep) & (here.epochs == FULL)]
        if arm == "shape" and len(rival):
            gap = one.set_index("seed").score - rival.set_index("seed").score
            lead = mean_over(100 * gap.dropna())
            row |= {"lead": lead["mean"], "lead low": lead.low, "lead high": lead.high,
                    "says": word(lead.low, lead.high)}  # fmt: skip
        rows.append(row | {u: 100 * one[f"of {u}"].mean() for u in UNITS})
    return rows


def to_come(records: Sequence[Record]) -> list[str]:
    """Names of methods that have joined the registry since the pieces were run."""
    there = {r.config["method"] for r in records}
    wanted = [name for piece in grid.pieces() for name in grid.methods(piece)]
    return [name for name in dict.fromkeys(wanted) if there and name not in there]


def pieces_table(records: Sequence[Record]) -> Html:
    """Which pieces of the grid have been run, and which are still to be."""
    done = bool(records)
    rows = [
        {
            "piece": p.name,
            "net": NETS[p.net],
            "takes": ", ".join(p.kinds) or "fresh weights",
            "epochs of tuning": ", ".join(f"{n:g}" for n in p.lengths) or "–",
            "kept": ", ".join(f"{100 * k:g} %" for k in p.sizes)
            or f"{len(p.knobs)} setting{'s' * (len(p.knobs) > 1)} of the knob",
            "state": "run" if p.name in RUN and done else "planned",
        }
        for p in PIECES
    ]
    return table(
        pd.DataFrame(rows),
        caption=f"The grid and its pieces: {sum(r['state'] == 'run' for r in rows)} of {len(rows)} "
        "have been run. What follows rests on those; claims about the others say that they are not "
        "tested here.",
        notes=[f"Joined since, and still to be run: {', '.join(map(label, new))}."]
        if (new := to_come(records))
        else [],
    )


def rates_table(found: Mapping[Any, Mapping[str, Any]]) -> Html:
    """The learning rates that were tried and chosen, a line for each method and length."""
    from survey_lib.evidence.protocol import scores

    rows = []
    for role in grid.ROLES:
        means = scores(role, grid.REPLICATES, found)
        net, who, *length = role.name.split(" ")
        by = 100 if role.sign == 1 else 1
        rows.append({
            "net": NETS[net], "method": label(who), "epochs": " ".join(length) or "–",
            "rate": f"{grid.RATES[role.name]:g}",
            "tried, with validation": ", ".join(f"{r:g}: {by * m:.2f}" for r, m in means.items()),
        })  # fmt: skip
    return table(
        pd.DataFrame(rows),
        name="rates",
        caption="Learning rates. The best on validation of equally many, each the mean of "
        f"{len(grid.REPLICATES)} further dense nets, chosen at the smallest size.",
    )


# ---- sentences


def counted(df: Frame, net: str, keep: float) -> str:
    """How many methods the intervals tell from ℓ1, before tuning and after it, in a sentence."""
    told = []
    for epochs, when in ((0.0, "Before any tuning"), (FULL, "after full tuning")):
        found = leads(df, net, keep, epochs)
        n = {w: int((found.word == w).sum()) for w in ("better", "worse", "tie")}
        reach = found["mean"].max() - found["mean"].min() if len(found) else float("nan")
        told.append(
            f"{when} {n['better']} of {len(found)} methods are better than ℓ1, {n['worse']} worse "
            f"and {n['tie']} tie, over a range of {reach:.1f} points"
        )
    return "; ".join(told) + "."


def tell(*said: Html | None) -> None:
    """Show the sentences that are there."""
    display(*[one for one in said if one])


def say_as_found(claim: str, **texts: str) -> Html | None:
    """The sentence that was written for the word a claim of the open page has got.

    All were written before the runs, so that none is bent to them.

    Args:
        claim: id of a claim of the open page.
        texts: ``reproduced``, ``not_reproduced`` and ``inconclusive``, with the places for numbers
            that :func:`survey_lib.show.verdicts.say` knows.

    Returns:
        The sentence; None where the runs that the claim needs are still to be made, which the
        table of pieces and the verdicts say.
    """
    verdict = page.page_verdicts()[claim]
    text = texts.get(verdict.word.replace(" ", "_"))
    return say(verdict, verdict.word, text) if text else None
