"""The common testbed: what is asked of the runs; which runs that takes stands in ``grid``."""

import statistics as stats
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from scipy.stats import spearmanr

from survey_lib.evidence.protocol import MissingArm, Rows, instead, mean, statistics
from survey_lib.experiments.common_testbed.cells import FRESH, Cell
from survey_lib.experiments.common_testbed.grid import (  # noqa: F401 (a study has these names)
    FULL,
    GRIDS,
    HALF,
    MAGNITUDE,
    PIECES,
    RANDOM,
    RATES,
    REPLICATES,
    ROLES,
    RUN,
    SMALL,
    SPARSE,
)
from survey_lib.methods.contract import METHODS
from survey_lib.tasks.task import RECIPES

LEAST = 5
"""Methods that an order has at least."""
FALLEN = 0.1
"""How far below the median, in share of images, a method has to end to count as fallen: most often
a layer has been starved. Where several fall on two boards, the orders agree by that alone."""


def board(
    rows: Rows, net: str, length: float, keep: float, of: str = "test_re", kind: str = "channels"
) -> dict[str, float]:
    """Method → a number of its net, of one kind at one size; fresh weights are no criterion.

    Raises:
        MissingArm: fewer than five methods were run there.
    """
    found = {
        n["config"]["method"]: n[of]
        for n in rows.all(arm="method", net=net, keep=keep, epochs=length)
        if of in n
    }
    some = {
        name: value
        for name, value in found.items()
        if name != FRESH and (METHODS[name].kind, METHODS[name].steers) == (kind, "budget")
    }
    if kind == "channels" and len(some) < LEAST:
        raise MissingArm(f"{len(some)} methods on {net} at {keep:g} after {length:g} epochs")
    return some


def criteria(found: dict[str, float]) -> dict[str, float]:
    """Those that look at the net: all but the random choices."""
    return {n: value for n, value in found.items() if METHODS[n].criterion != RANDOM}


def spread(found: dict[str, float], without: str = "") -> float:
    """Standard deviation over methods, one left out where it is named."""
    return stats.stdev(value for name, value in criteria(found).items() if name != without)


def agreement(one: dict[str, float], other: dict[str, float]) -> float:
    """Rank correlation (Spearman) of the methods that stand on both boards."""
    both = [name for name in one if name in other]
    if len(both) < LEAST:
        raise MissingArm(f"{len(both)} methods stand on both boards")
    found: Any = spearmanr([one[n] for n in both], [other[n] for n in both])
    return float(found.statistic)


def standing(found: dict[str, float]) -> dict[str, float]:
    """Those that are not :data:`FALLEN`."""
    least = stats.median(found.values()) - FALLEN
    return {name: value for name, value in found.items() if value >= least}


def agreement_of_standing(one: dict[str, float], other: dict[str, float]) -> float:
    """The agreement of those that fell on neither board."""
    return agreement(standing(one), standing(other))


def picked(rows: Rows, net: str, length: float, keep: float, kind: str = "channels") -> str:
    """The method that is best on validation images."""
    val = board(rows, net, length, keep, "val_re", kind)
    return max(val, key=lambda name: val[name])


def _number(rows: Rows, name: str, keep: float, of: str, **more: Any) -> float:
    asked = {"net": "resnet_small", "epochs": FULL} | more
    return rows.one(arm="method", method=name, keep=keep, **asked)[of]


R, M, V, T = "resnet_small", "mobilenet_small", "vgg_small", "char_gpt"
SIZES = (HALF, SMALL)
THREE = 3.0
"""Epochs of half of the full tuning."""


def _left_of_spread(rows: Rows, net: str, length: float, of: str = "test_re") -> float:
    return spread(board(rows, net, length, HALF)) / spread(board(rows, net, 0.0, HALF, of))


def left_without_the_last(after: dict[str, float], before: dict[str, float]) -> float:
    """Share of the spread that is left, without the criterion that is last afterwards."""
    told = criteria(after)
    last = min(told, key=lambda name: told[name])
    return spread(after, last) / spread(before, last)


def left_of_standing(after: dict[str, float], before: dict[str, float]) -> float:
    """Share of the spread that is left, without all that are :data:`FALLEN` afterwards."""
    there = standing(criteria(after))
    return spread(there) / spread({name: before[name] for name in there})


def spread_left(rows: Rows) -> float:
    """Half of the MACs: spread of the criteria after full tuning, as a share of that before.

    At 15 % untuned nets guess, whoever chose their channels, so that there is no spread to lose.
    """
    return _left_of_spread(rows, R, FULL)


def spread_left_after_one(rows: Rows) -> float:
    """The same after one epoch."""
    return _left_of_spread(rows, R, 1.0)


def spread_left_after_three(rows: Rows) -> float:
    """The same after three epochs."""
    return _left_of_spread(rows, R, THREE)


def spread_left_vgg(rows: Rows) -> float:
    """The same on the VGG-like net, after full tuning."""
    return _left_of_spread(rows, V, FULL)


def spread_left_depthwise(rows: Rows) -> float:
    """The same on the depthwise net, after full tuning."""
    return _left_of_spread(rows, M, FULL)


def order_before_and_after(rows: Rows) -> float:
    """Half of the MACs: rank correlation of the methods before any tuning and after it in full."""
    return agreement(board(rows, R, 0.0, HALF), board(rows, R, FULL, HALF))


def order_of_sizes(rows: Rows) -> float:
    """Rank correlation of the methods at 50 % and at 15 %, after full tuning."""
    return agreement(board(rows, R, FULL, HALF), board(rows, R, FULL, SMALL))


def order_after_one(rows: Rows) -> float:
    """15 %: rank correlation after one epoch and after full tuning."""
    return agreement(board(rows, R, 1.0, SMALL), board(rows, R, FULL, SMALL))


def order_after_three(rows: Rows) -> float:
    """15 %: rank correlation after three epochs and after full tuning."""
    return agreement(board(rows, R, THREE, SMALL), board(rows, R, FULL, SMALL))


def order_of_nets(rows: Rows) -> float:
    """15 %: rank correlation on the residual and on the depthwise net, after full tuning."""
    return agreement(board(rows, R, FULL, SMALL), board(rows, M, FULL, SMALL))


def order_of_nets_untuned(rows: Rows) -> float:
    """Half of the MACs: the same before any tuning, statistics re-estimated."""
    return agreement(board(rows, R, 0.0, HALF), board(rows, M, 0.0, HALF))


def random_gap(rows: Rows) -> float:
    """Median of the criteria minus random, after full tuning, mean over two sizes."""
    boards = [board(rows, R, FULL, keep) for keep in SIZES]
    return mean(stats.median(criteria(b).values()) - b[RANDOM] for b in boards)


def magnitude_place(rows: Rows) -> float:
    """Share of the other criteria that ℓ1 is no worse than, after full tuning, two sizes."""
    boards = [criteria(board(rows, R, FULL, keep)) for keep in SIZES]
    return mean(
        mean(float(b[MAGNITUDE] >= value) for name, value in b.items() if name != MAGNITUDE)
        for b in boards
    )


def winner_gain(rows: Rows) -> float:
    """The method that is best on validation minus ℓ1, on test, after full tuning, two sizes."""
    return mean(_gain(rows, R, keep) for keep in SIZES)


def longer_over_better(rows: Rows) -> float:
    """Median criterion after full tuning minus the best method after three epochs, two sizes."""
    found = []
    for keep in SIZES:
        best = picked(rows, R, THREE, keep)
        median = stats.median(criteria(board(rows, R, FULL, keep)).values())
        found.append(median - board(rows, R, THREE, keep)[best])
    return mean(found)


def winner_gain_depthwise(rows: Rows) -> float:
    """The same on the depthwise net, at half of the MACs."""
    return _gain(rows, M, HALF)


def winner_gain_vgg(rows: Rows) -> float:
    """The same on the VGG-like net, at half of the MACs."""
    return _gain(rows, V, HALF)


def winner_over_shares_vgg(rows: Rows) -> float:
    """There, over ℓ1 within equal shares of all layers."""
    return _gain_over_shares(rows, V, HALF)


def _gain(rows: Rows, net: str, keep: float) -> float:
    found = board(rows, net, FULL, keep)
    return found[picked(rows, net, FULL, keep)] - found[MAGNITUDE]


def _gain_over_shares(rows: Rows, net: str, *sizes: float) -> float:
    """The same over ℓ1 within equal shares of all layers, which starves none."""
    return mean(
        board(rows, net, FULL, keep)[picked(rows, net, FULL, keep)]
        - rows.one(arm="shape", net=net, keep=keep, how="inherited", epochs=FULL)["test_re"]
        for keep in sizes
    )


def normalised_over_magnitude(rows: Rows) -> float:
    """Taylor on one scale for all layers minus ℓ1, after full tuning, where raw Taylor fell."""
    boards = [board(rows, R, FULL, SMALL), board(rows, M, FULL, HALF)]
    if not all("taylor_normalised" in b for b in boards):
        raise MissingArm("normalised Taylor has not been run")
    return mean(b["taylor_normalised"] - b[MAGNITUDE] for b in boards)


def _shape(rows: Rows, how: str, **more: Any) -> float:
    epochs = {"epochs": float(RECIPES[R].epochs)} | more
    return rows.one(arm="shape", net=R, keep=SMALL, how=how, **epochs)["test_re"]


def fresh_over_winner(rows: Rows) -> float:
    """15 %: fresh weights for equal MACs minus the best method on validation, fully tuned."""
    return _shape(rows, "b") - board(rows, R, FULL, SMALL)[picked(rows, R, FULL, SMALL)]


def inherited_over_fresh(rows: Rows) -> float:
    """15 %, one shape, equal tuning: inherited weights minus fresh ones."""
    return _shape(rows, "inherited", epochs=FULL) - _number(rows, FRESH, SMALL, "test_re")


def shares_over_budget(rows: Rows) -> float:
    """Depthwise net: ℓ1 within equal shares minus ℓ1 across layers, tuned, mean over two sizes."""
    return mean(
        rows.one(arm="shape", net=M, keep=keep, how="inherited", epochs=FULL)["test_re"]
        - board(rows, M, FULL, keep)[MAGNITUDE]
        for keep in SIZES
    )


def statistics_gain(rows: Rows) -> float:
    """Half of the MACs, untuned: what re-estimated statistics add, mean over the criteria."""
    fresh, stale = (criteria(board(rows, R, 0.0, HALF, of)) for of in ("test_re", "test"))
    return mean(fresh[name] - stale[name] for name in fresh)


def time_for_macs(rows: Rows) -> float:
    """15 %: speed-up divided by the ratio of MACs, mean over the criteria."""
    dense = rows.one(arm="dense", net=R)
    found = [
        n["dense_ms"] / n["net_ms"] * n["macs"] / dense["macs"]
        for n in rows.all(arm="method", net=R, keep=SMALL, epochs=FULL)
        if "net_ms" in n and METHODS[n["config"]["method"]].kind == "channels"
    ]
    return mean(found)


def weights_over_random(rows: Rows) -> float:
    """5 % of the weights, after full tuning: magnitude minus random."""
    return _number(rows, "magnitude", SPARSE, "test_re") - _number(
        rows, "random_weights", SPARSE, "test_re"
    )


def gradual_over_at_once(rows: Rows) -> float:
    """5 % of the weights, equal tuning: gradual magnitude minus magnitude at once."""
    return _number(rows, "to_prune_or_not", SPARSE, "test_re") - _number(
        rows, "magnitude", SPARSE, "test_re"
    )


def _smaller(rows: Iterable[dict[str, Any]], most: float) -> list[dict[str, Any]]:
    found = [n for n in rows if n.get("bytes", most + 1) <= most]
    if not found:
        raise MissingArm(f"no net of at most {most:g} bytes")
    return found


def _of_kinds(rows: Rows, kinds: tuple[str, ...], **asked: Any) -> list[dict[str, Any]]:
    found = []
    for keep in sorted({k for p in PIECES for k in p.sizes}):
        try:
            found += rows.all(arm="method", keep=keep, **asked)
        except MissingArm:
            continue
    return [n for n in found if METHODS[n["config"]["method"]].kind in kinds]


def weights_over_channels(rows: Rows) -> float:
    """Best masked net within the bytes of ℓ1's 15 % net, minus the best one by channels."""
    most = _number(rows, MAGNITUDE, SMALL, "bytes")
    masked = _smaller(_of_kinds(rows, ("weights",), net=R, epochs=FULL), most)
    best = max(masked, key=lambda n: n["val_re"])
    return best["test_re"] - board(rows, R, FULL, SMALL)[picked(rows, R, FULL, SMALL)]


def _winner_on_text(rows: Rows, rival: str = "") -> float:
    """Half of the MACs, character model: loss of a rival minus that of the best on validation.

    Without a name the rival is ℓ1 within equal shares of all layers.
    """
    length = max(n for p in PIECES if p.net == T for n in p.lengths)
    val, test = (board(rows, T, length, HALF, of) for of in ("val", "test"))
    even = {"arm": "shape", "net": T, "keep": HALF, "how": "inherited", "epochs": length}
    against = test[rival] if rival else rows.one(**even)["test"]
    return against - test[min(val, key=lambda name: val[name])]


def winner_gain_text(rows: Rows) -> float:
    """Half of the MACs, character model: loss of ℓ1 minus that of the best method on validation."""
    return _winner_on_text(rows, MAGNITUDE)


def winner_over_shares_text(rows: Rows) -> float:
    """The same over ℓ1 within equal shares of all layers, which takes heads as well as neurons."""
    return _winner_on_text(rows)


COUNTS = {"channels": "macs", "weights": "nonzeros"}
"""Kind → what its size is counted in."""


def told_over_found(rows: Rows) -> float:
    """Best net of no more size that was told it, minus the net of a method that found it; mean.

    Of all nets of outcome-steered methods after full tuning, at every setting of their knobs that
    lost something and is not smaller than all that were told; sizes of channels are MACs, of
    weights non-zeros. The rival is best on validation of the same kind.
    """
    return mean(told_gaps(rows))


def told_gaps(
    rows: Rows, *, among: Sequence[str] = (), settings: Sequence[float] = ()
) -> list[float]:
    """The differences that :func:`told_over_found` takes the mean of, over methods and settings.

    Args:
        rows: one replicate.
        among: names of the rivals; all where nothing is said.
        settings: of the knobs, in their defaults; all where nothing is said.
    """
    dense, gaps, every = rows.one(arm="dense", net=R), [], []
    places = [{"keep": k} for p in PIECES for k in p.sizes]
    knobs = [k for p in PIECES for k in p.knobs if not settings or k in settings]
    for at in [*places, *({"knob": k} for k in knobs)]:
        with suppress(MissingArm):
            every += [n for n in rows.all(arm="method", net=R, epochs=FULL, **at) if n not in every]
    for net in every:
        entry = METHODS[net["config"]["method"]]
        if entry.steers == "budget" or net[COUNTS[entry.kind]] >= dense[COUNTS[entry.kind]]:
            continue
        if rivals := _told(every, entry.kind, net[COUNTS[entry.kind]], among):
            gaps.append(max(rivals, key=lambda n: n["val_re"])["test_re"] - net["test_re"])
    if not gaps:
        raise MissingArm("no method that finds its own size")
    return gaps


def _told(nets: Sequence[Any], kind: str, size: float, among: Sequence[str]) -> list[Any]:
    """Nets that were told their size, of a kind and of no more than a size."""
    names = [n for n, e in METHODS.items() if (e.kind, e.steers) == (kind, "budget")]
    names = [n for n in names if not among or n in among]
    return [n for n in nets if n["config"]["method"] in names and n[COUNTS[kind]] <= size]


def int8_over_pruned(rows: Rows) -> float:
    """Loss of the best pruned net within int8's bytes, minus int8's: nats a character."""
    bits = [
        n for n in rows.all(arm="method", net=T, knob=1.0)
        if METHODS[n["config"]["method"]].kind == "bits" and "val" in n
    ]  # fmt: skip
    if not bits:
        raise MissingArm("no net of eight bits")
    int8 = min(bits, key=lambda n: n["val"])
    length = max(n for p in PIECES if p.net == T for n in p.lengths)
    pruned = _smaller(_of_kinds(rows, ("channels", "weights"), net=T, epochs=length), int8["bytes"])
    return min(pruned, key=lambda n: n["val"])["test"] - int8["test"]


FREE = ("lr", "method")
STATISTICS = statistics(
    Cell, spread_left, order_before_and_after, random_gap, magnitude_place, winner_gain,
    fresh_over_winner, inherited_over_fresh, statistics_gain, order_of_sizes, time_for_macs,
    spread_left_after_one, order_after_one, order_of_nets, order_of_nets_untuned, spread_left_vgg,
    spread_left_depthwise, winner_gain_depthwise, winner_gain_vgg, shares_over_budget,
    weights_over_random, gradual_over_at_once, weights_over_channels, int8_over_pruned,
    spread_left_after_three, order_after_three, longer_over_better, normalised_over_magnitude,
    winner_gain_text, told_over_found, winner_over_shares_vgg, winner_over_shares_text,
    free=FREE,
)  # fmt: skip
WAITS = {
    "fresh": ("fresh_over_winner",),
    "one epoch": ("spread_left_after_one", "order_after_one"),
    "three epochs": ("spread_left_after_three", "order_after_three", "longer_over_better"),
    "mobilenet at 15 %": ("order_of_nets",),
    "mobilenet untuned": ("order_of_nets_untuned",),
    "mobilenet at half": (
        "spread_left_depthwise",
        "winner_gain_depthwise",
        "shares_over_budget",
        "normalised_over_magnitude",
    ),
    "vgg": ("spread_left_vgg", "winner_gain_vgg", "winner_over_shares_vgg"),
    "weights": ("weights_over_random", "gradual_over_at_once", "weights_over_channels"),
    "outcome": ("told_over_found",),
    "neurons": ("winner_gain_text", "winner_over_shares_text"),
    "bits": ("int8_over_pruned",),
}
"""Piece → statistics that need its runs; those that none names need the first piece alone."""
WAITING = tuple(name for piece, names in WAITS.items() if piece not in RUN for name in names)
"""Statistics whose claims cannot be judged yet."""
GROWS = True
"""Methods that join the registry join the grid; until they are run they are named on the page."""
_SHARES = "over ℓ1 within equal shares of all layers"
INSTEAD = instead(
    Cell,
    {
        "spread_left": {
            "statistics as they were left": lambda r: _left_of_spread(r, R, FULL, "test"),
        },
        "spread_left_after_one": {
            "without the last after one epoch": lambda r: left_without_the_last(
                board(r, R, 1.0, HALF), board(r, R, 0.0, HALF)
            ),
        },
        "spread_left_after_three": {
            "without the last after three epochs": lambda r: left_without_the_last(
                board(r, R, THREE, HALF), board(r, R, 0.0, HALF)
            ),
        },
        "spread_left_depthwise": {
            "without the last after full tuning": lambda r: left_without_the_last(
                board(r, M, FULL, HALF), board(r, M, 0.0, HALF)
            ),
            "without those that fell": lambda r: left_of_standing(
                board(r, M, FULL, HALF), board(r, M, 0.0, HALF)
            ),
        },
        "spread_left_vgg": {
            "without the last after full tuning": lambda r: left_without_the_last(
                board(r, V, FULL, HALF), board(r, V, 0.0, HALF)
            ),
        },
        "told_over_found": {
            "against magnitude alone": lambda r: mean(told_gaps(r, among=(MAGNITUDE, "magnitude"))),
            "at the default of each knob": lambda r: mean(told_gaps(r, settings=(1.0,))),
            "in the median of methods and settings": lambda r: stats.median(told_gaps(r)),
        },
        "order_before_and_after": {
            "statistics as they were left": lambda r: agreement(
                board(r, R, 0.0, HALF, "test"), board(r, R, FULL, HALF)
            ),
            "at 15 % of the MACs": lambda r: agreement(
                board(r, R, 0.0, SMALL), board(r, R, FULL, SMALL)
            ),
            "on the depthwise net": lambda r: agreement(
                board(r, M, 0.0, HALF), board(r, M, FULL, HALF)
            ),
        },
        "order_of_sizes": {
            "without those that fell": lambda r: agreement_of_standing(
                board(r, R, FULL, HALF), board(r, R, FULL, SMALL)
            ),
        },
        "order_after_one": {
            "without those that fell": lambda r: agreement_of_standing(
                board(r, R, 1.0, SMALL), board(r, R, FULL, SMALL)
            ),
        },
        "order_after_three": {
            "without those that fell": lambda r: agreement_of_standing(
                board(r, R, THREE, SMALL), board(r, R, FULL, SMALL)
            ),
        },
        "order_of_nets": {
            "without those that fell": lambda r: agreement_of_standing(
                board(r, R, FULL, SMALL), board(r, M, FULL, SMALL)
            ),
        },
        "normalised_over_magnitude": {
            "the raw score": lambda r: mean(
                board(r, net, FULL, keep)["taylor"] - board(r, net, FULL, keep)[MAGNITUDE]
                for net, keep in ((R, SMALL), (M, HALF))
            ),
        },
        "winner_gain": {_SHARES: lambda r: _gain_over_shares(r, R, *SIZES)},
        "winner_gain_depthwise": {_SHARES: lambda r: _gain_over_shares(r, M, HALF)},
        "winner_gain_vgg": {_SHARES: lambda r: _gain_over_shares(r, V, HALF)},
        "winner_gain_text": {
            "over random instead of ℓ1": lambda r: _winner_on_text(r, RANDOM),
            _SHARES: _winner_on_text,
        },
        "fresh_over_winner": {
            "fresh weights for equal epochs": lambda r: (
                _shape(r, "e") - board(r, R, FULL, SMALL)[picked(r, R, FULL, SMALL)]
            ),
        },
    },
    free=FREE,
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
