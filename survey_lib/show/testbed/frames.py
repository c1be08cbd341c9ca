"""The common testbed's records as frames: leads over ℓ1, shapes, how far an order carries.

Everything is made of the records and of the registry; no method is named by hand here but the
opponents, and those whose look the book knows.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from scipy.stats import spearmanr

from survey_lib.evidence.records import Record
from survey_lib.experiments.common_testbed import grid, study
from survey_lib.experiments.common_testbed.cells import FRESH
from survey_lib.experiments.common_testbed.grid import FULL, MAGNITUDE, RANDOM
from survey_lib.methods.contract import METHODS
from survey_lib.show.frames import mean_over

LOOKS = {
    RANDOM: "random", MAGNITUDE: "magnitude", FRESH: "scratch", "magnitude": "magnitude",
    "random_weights": "random", "thinet": "thinet", "group_fisher": "fisher", "fisher": "fisher",
    "closer_look": "fisher", "pruning_by_explaining": "lrp", "loss_modelling": "loss_models",
    "parameterized_structured": "psp", "role_of_structured": "serene", "lobster": "lobster",
    "adaptive_activation": "adaptive_activation", "adaptive_budget": "adaptive_activation",
    "pruning_adapters": "adapters", "llm_int8": "int8", "what_matters_llm": "gum",
    "to_prune_or_not": "serene", "inherited": "magnitude",
}  # fmt: skip
"""Method → series of the style; all others look alike."""
OTHERS = "oneshot"
NETS = {
    "resnet_small": "residual net", "mobilenet_small": "depthwise net",
    "vgg_small": "VGG-like net", "char_gpt": "character model",
}  # fmt: skip
"""Net → what a reader calls it."""
TEXT = "char_gpt"
"""The net whose score is a loss, in nats a character: less is better."""
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
    "longer": "dense, trained on", "inherited": "ℓ1 within equal shares",
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


def leads(
    df: Frame, net: str, keep: float, epochs: float, value: str = "score", *, even: bool = False
) -> Frame:
    """Replicate by replicate, each method minus ℓ1 in points: mean and interval by method.

    With ``even`` ℓ1 within equal shares of all layers stands among them, as ``inherited``.

    Returns:
        Indexed by method: ``mean``, ``low``, ``high``, ``seeds``, and ``word``: better, worse, or
        tie where the interval holds zero.
    """
    some: Frame = channel_methods(df, net)
    if even:
        shape: Frame = df[(df.net == net) & (df.how == "inherited")]
        both: Frame = pd.concat([some, shape.assign(method="inherited")])
        some = both
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


FALLEN = 100 * study.FALLEN
"""Points below the median after full tuning from which a net counts as fallen."""
FALLEN_NATS = 0.5
"""Nats a character above the median loss, for a language model."""


def shapes(df: Frame, net: str, keep: float) -> Frame:
    """What equal MACs leave of the parameters, and what accuracy comes of it after full tuning.

    Returns:
        Indexed by method, fewest parameters first: ``parameters`` (mean share of the dense net's,
        %), ``mean``, ``low``, ``high`` and ``seeds`` of the accuracy (%), and whether it has
        ``fallen``.
    """
    some = channel_methods(df, net)
    some = some[(some.keep == keep) & (some.epochs == FULL) & (some.method != FRESH)]
    rows = {name: mean_over(100 * one.score) for name, one in some.groupby("method")}
    found: Frame = pd.DataFrame(rows, index=["mean", "low", "high", "seeds"]).T
    found["parameters"] = 100 * some.groupby("method")["of parameters"].mean()
    found["fallen"] = found["mean"] < found["mean"].median() - FALLEN
    return found.sort_values("parameters")


def fallen(df: Frame, net: str, keep: float) -> list[str]:
    """Names of the methods that end far behind on a net at a size, fewest parameters first."""
    found = shapes(df, net, keep)
    return [str(name) for name in found.index[found.fallen.astype(bool)]]


FRESHNESS = {
    "best": "the best method on validation", MAGNITUDE: "ℓ1 norm across layers",
    "inherited": "one shape, kept weights", FRESH: "fresh weights, tuned as long",
    "e": "fresh weights, equal epochs", "b": "fresh weights, equal MACs",
}  # fmt: skip
"""Row of :func:`freshness` → what a reader calls it."""


def freshness(df: Frame, net: str, keep: float) -> Frame:
    """What kept weights are worth: accuracy (%) of one shape with kept and with fresh weights.

    Beside them stand ℓ1 and the method that is best on validation, picked in each replicate. All
    are fully tuned; fresh weights also get the dense net's epochs, or its multiply-accumulates.

    Returns:
        Indexed by the keys of :data:`FRESHNESS`, as far as they were run: ``mean``, ``low``,
        ``high`` and ``seeds``.
    """
    here = df[(df.net == net) & (df.keep == keep)]
    tuned = channel_methods(here, net)
    tuned = tuned[tuned.epochs == FULL]
    rivals = tuned[tuned.method != FRESH]
    scores = {
        "best": rivals.loc[rivals.groupby("seed").val_re.idxmax()].score,
        MAGNITUDE: tuned[tuned.method == MAGNITUDE].score,
        "inherited": here[(here.how == "inherited") & (here.epochs == FULL)].score,
        FRESH: tuned[tuned.method == FRESH].score,
        "e": here[here.how == "e"].score,
        "b": here[here.how == "b"].score,
    }
    return pd.DataFrame({k: mean_over(100 * v) for k, v in scores.items() if len(v)}).T


def scores(df: Frame, net: str, keep: float, epochs: float, value: str = "score") -> Frame:
    """The channel methods' scores on one board: a row a replicate, a column a method."""
    some = channel_methods(df, net)
    some = some[(some.keep == keep) & (some.epochs == epochs) & (some.method != FRESH)]
    return some.pivot_table(index="seed", columns="method", values=value)


def agreements(df: Frame, keep: float, net: str = "resnet_small") -> Frame:
    """How far an order of methods carries: rank correlations, a row for each pair of boards.

    The first rows, ``itself``, compare one replicate with the mean of the others at the same place:
    more than that no order can carry. Pairs of which a side was not run are left out.

    Returns:
        ``pair``, then ``mean``, ``low``, ``high`` and ``seeds``.
    """
    board = functools.partial(scores, df)
    rows: list[tuple[str, list[float]]] = []
    sizes = sorted(channel_methods(df, net).keep.unique(), reverse=True)
    others = [n for n in df.net.unique() if n not in (net, TEXT)]
    itself = [("untuned", board(net, keep, 0.0)), ("tuned", board(net, keep, FULL))]
    if sizes:
        least = f"{100 * sizes[-1]:g} %"
        if sizes[-1] != keep:
            itself.append((f"{least}, tuned", board(net, sizes[-1], FULL)))
        for n in others:
            itself.append((f"{NETS[n]}, tuned", board(n, keep, FULL)))
            if sizes[-1] != keep:
                itself.append((f"{NETS[n]}, {least}, tuned", board(n, sizes[-1], FULL)))
    for words, one in itself:
        values = [_rank(one.loc[s], one.drop(index=s).mean()) for s in one.index if len(one) > 1]
        rows.append((f"itself: {words}", values))
    lengths = sorted(channel_methods(df, net).epochs.unique())
    pairs: list[tuple[str, Frame, Frame]] = [
        ("statistics as left, and anew",
         board(net, keep, 0.0, "raw"), board(net, keep, 0.0)),
    ]  # fmt: skip
    pairs += [
        (f"{_epochs(a)}, and {_epochs(FULL)}", board(net, keep, a), board(net, keep, FULL))
        for a in lengths if a < FULL
    ]  # fmt: skip
    pairs += [
        (f"{100 * a:g} %, and {100 * b:g} %", board(net, a, FULL), board(net, b, FULL))
        for a, b in dict.fromkeys(
            [*itertools.pairwise(sizes), *zip(sizes[:1], sizes[-1:], strict=True)]
        )
        if a != b
    ]
    for other in others:
        pairs.append((f"{NETS[other]}: untuned, and {_epochs(FULL)}",
                      board(other, keep, 0.0), board(other, keep, FULL)))  # fmt: skip
        words = f"{NETS[net].removesuffix(' net')}, and {NETS[other]}"
        pairs.append((f"{words}: untuned", board(net, keep, 0.0), board(other, keep, 0.0)))
        for size in sizes:
            at = "" if size == keep else f"{100 * size:g} %, "
            pairs.append((f"{words}: {at}tuned",
                          board(net, size, FULL), board(other, size, FULL)))  # fmt: skip
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


def pareto_points(df: Frame, net: str, unit: str, epochs: float = FULL) -> Frame:
    """Mean score and share of the dense net in a unit, of every method at every size.

    Masks save no time here, so single weights are left out of the milliseconds. Eight bits train
    nothing and stand beside every length.
    """
    some = df[(df.arm == "method") & (df.net == net)]
    some = some[(some.epochs == epochs) | (some.kind == "bits")]
    if unit == "milliseconds":
        some = some[some.kind.isin(["channels", "adapters", "bits"])]
    some = some.dropna(subset=[f"of {unit}"])
    found = some.groupby(["method", "kind", "keep", "knob"], as_index=False).agg(
        share=(f"of {unit}", "mean"), score=("score", "mean"), seeds=("seed", "nunique")
    )
    sign = -1 if net == TEXT else 1
    found["front"] = [
        not any((found.share <= p.share) & (sign * found.score > sign * p.score))
        for p in found.itertuples()
    ]
    return found.assign(unit=unit)


def within_int8(df: Frame) -> Frame:
    """The language model's pruned nets of no more bytes than eight bits leave, tuned.

    Of each method the size that is best on validation, by its mean over replicates.

    Returns:
        A row a method: ``method``, ``keep``, ``share`` (of the dense net's bytes), and ``gap``,
        ``gap_low``, ``gap_high`` of the loss minus that of eight bits (nats a character), replicate
        by replicate.
    """
    here = df[df.net == TEXT]
    int8 = here[here.kind == "bits"].set_index("seed")
    tuned = here[(here.kind.isin(["channels", "weights"]) | (here.arm == "shape"))
                 & (here.epochs > 0)]  # fmt: skip
    tuned = tuned.assign(method=tuned.method.where(tuned.arm == "method", tuned.how))
    rows = []
    for method, mine in tuned.groupby("method") if len(int8) else ():
        sizes = mine.groupby("keep").agg(val=("val", "mean"), share=("of bytes", "mean"))
        sizes = sizes[sizes.share <= int8["of bytes"].mean()]
        if sizes.empty:
            continue
        keep = sizes.val.idxmin()
        gap = mean_over((mine[mine.keep == keep].set_index("seed").score - int8.score).dropna())
        rows.append({"method": method, "keep": keep, "share": sizes.share[keep],
                     "gap": gap["mean"], "gap_low": gap.low, "gap_high": gap.high})  # fmt: skip
    return pd.DataFrame(rows, columns=["method", "keep", "share", "gap", "gap_low", "gap_high"])


def found_sizes(df: Frame, net: str = "resnet_small") -> Frame:
    """Nets of methods that find their own size, after full tuning, beside the best told one.

    The rival is, in each replicate, the best on validation of those of the same kind that were told
    a size and have no more MACs (channels) or non-zeros (weights).

    Returns:
        A row a method and a setting of its knob: ``method``, ``kind``, ``knob``, ``share`` (of the
        dense net's size), ``score``, ``told`` (both %) and ``gap``, ``gap_low``, ``gap_high``
        (points, told minus found), nan where a replicate has no such rival, or lost nothing.
    """
    here = df[(df.arm == "method") & (df.net == net) & (df.epochs == FULL)]
    rows = []
    for (method, kind, knob), one in here[here.steers == "outcome"].groupby(
        ["method", "kind", "knob"]
    ):
        count = study.COUNTS[kind]
        size = "of MACs" if kind == "channels" else "of parameters"
        told = here[(here.kind == kind) & (here.steers == "budget")]
        rivals = {}
        for mine in one[one[size] < 1].itertuples():
            some = told[(told.seed == mine.seed) & (told[count] <= getattr(mine, count))]
            if len(some):
                rivals[mine.seed] = some.loc[some.val_re.idxmax()].score
        own = 100 * one.set_index("seed").score
        row = {"method": method, "kind": kind, "knob": knob, "share": 100 * one[size].mean(),
               "score": own.mean()}  # fmt: skip
        if len(rivals) == len(one):
            rival = 100 * pd.Series(rivals)
            gap = mean_over((rival - own).dropna())
            row |= {"told": rival.mean(), "gap": gap["mean"], "gap_low": gap.low,
                    "gap_high": gap.high}  # fmt: skip
        rows.append(row)
    columns = ["method", "kind", "knob", "share", "score", "told", "gap", "gap_low", "gap_high"]
    return pd.DataFrame(rows, columns=columns)


def to_come(records: Sequence[Record]) -> list[str]:
    """Names of methods that have joined the registry since the pieces were run."""
    there = {r.config["method"] for r in records}
    wanted = [name for piece in grid.pieces() for name in grid.methods(piece)]
    return [name for name in dict.fromkeys(wanted) if there and name not in there]
