"""The common testbed's sentences, each chosen by what the records say."""

from collections.abc import Callable, Sequence
from contextlib import suppress

from IPython.display import display

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.experiments.common_testbed import study
from survey_lib.experiments.common_testbed.grid import FULL, MAGNITUDE, RANDOM
from survey_lib.methods.contract import METHODS
from survey_lib.show import page
from survey_lib.show.markup import SHARE_OF_IMAGES, Html, escape, mean_words, range_words
from survey_lib.show.testbed.frames import (
    FALLEN,
    NETS,
    Frame,
    label,
    leads,
    scores,
    shapes,
    word,
)
from survey_lib.show.verdicts import say


def shape_words(df: Frame, net: str, keep: float) -> Html:
    """What the shapes come to, in numbers: who has fallen, and what equal shares of layers do."""
    found = shapes(df, net, keep)
    fallen, rest = found[found.fallen], found[~found.fallen]
    told = []
    if len(fallen):
        names = _listed([_named(str(name)) for name in fallen.index])
        told.append(
            f"{names} end more than {FALLEN:g} points below the median method. They keep at most "
            f"{fallen.parameters.max():.0f} % of the parameters, the others at least "
            f"{rest.parameters.min():.0f} %, at the same MACs."
        )
    for rival, words in (
        (MAGNITUDE, "The ℓ1 norm within equal shares of all layers, against the ℓ1 norm with one "
         "budget for all"),
        (RANDOM, "Against random channels"),
    ):  # fmt: skip
        told.append(f"{words}: {_equal_shares(df, net, keep, rival)}.")
    said = " ".join(told)
    return Html(f'<p class="survey">{escape(said)}</p>', said)


def shares_words(df: Frame, net: str, keeps: Sequence[float]) -> Html:
    """What equal shares of all layers are worth over one budget by ℓ1 on a net, size by size."""
    at = "; ".join(f"at {100 * k:g} % {_equal_shares(df, net, k, MAGNITUDE)}" for k in keeps)
    said = f"Size by size on the {NETS[net]}: {at}."
    return Html(f'<p class="survey">{escape(said)}</p>', said)


def _equal_shares(df: Frame, net: str, keep: float, rival: str) -> str:
    """One shape with kept weights minus a method, both tuned in full: points, and what they are."""
    here = df[(df.net == net) & (df.keep == keep) & (df.epochs == FULL)]
    shape, own = (
        one.set_index("seed").score for one in (here[here.how == "inherited"],
                                                here[here.method == rival])
    )  # fmt: skip
    gap = t_interval([float(d) for d in (shape - own).dropna()])
    return (
        f"{mean_words(gap, SHARE_OF_IMAGES)} points {range_words(gap, unit=SHARE_OF_IMAGES)}, "
        f"which is {_CALLED[word(gap.low, gap.high)]}"
    )


def straggler_words(df: Frame, net: str, keep: float, epochs: float) -> Html | None:
    """How much of the spread after a tuning is of those that end more than ten points behind.

    Returns:
        None where no method does, or where a board was not run.
    """
    before, after = (scores(df, net, keep, n) for n in (0.0, epochs))
    if before.empty or after.empty:
        return None
    means = 100 * after[[n for n in after if METHODS[n].criterion != RANDOM]].mean()
    behind = (means.median() - means).sort_values(ascending=False)
    fallen = behind[behind > FALLEN]
    if fallen.empty:
        return None
    alone = len(fallen) == 1
    without = study.left_without_the_last if alone else study.left_of_standing
    left = t_interval([without(dict(after.loc[s]), dict(before.loc[s])) for s in after.index])
    names = _listed([_named(str(name)) for name in fallen.index])
    points = _listed([f"{x:.0f}" for x in fallen])
    said = (
        f"Much of it is {'one method' if alone else 'a few methods'}: {names} "
        f"{'is' if alone else 'are'} {points} points behind the median there. Without "
        f"{'the last' if alone else 'those that fell'} in each replicate "
        f"{mean_words(left, 'ratio')} of the spread is left, {range_words(left, unit='ratio')}."
    )
    return Html(f'<p class="survey">{escape(said)}</p>', said)


def fallen_words(df: Frame, nets: Sequence[str], keep: float) -> Html | None:
    """How far two nets' orders agree after full tuning, without the methods that fell on one.

    Returns:
        None where none did, or where a board was not run.
    """
    one, other = (scores(df, net, keep, FULL) for net in nets)
    if one.empty or other.empty:
        return None
    fallen = [
        {name for name in board if name not in study.standing(dict(board.mean()))}
        for board in (one, other)
    ]
    if not fallen[0] | fallen[1]:
        return None
    found = t_interval([
        study.agreement_of_standing(dict(one.loc[s]), dict(other.loc[s]))
        for s in one.index if s in other.index
    ])  # fmt: skip
    both, either = (sorted(map(_named, f)) for f in (fallen[0] & fallen[1], fallen[0] | fallen[1]))
    told = (
        f"{_listed(both)} end{'s' * (len(both) == 1)} more than {FALLEN:g} points below the median "
        "on both nets"
        if both
        else f"No method ends more than {FALLEN:g} points below the median on both nets"
    )
    if rest := [name for name in either if name not in both]:
        told += f"; on one of them {_listed(rest)} {'do' if len(rest) > 1 else 'does'}"
    said = (
        f"{told}. Among those that stand on both in a replicate, the orders agree with a rank "
        f"correlation of {mean_words(found, 'correlation')}, "
        f"{range_words(found, unit='correlation')}."
    )
    return Html(f'<p class="survey">{escape(said)}</p>', said)


def found_words(records: Sequence[Record]) -> Html | None:
    """The lead of told sizes over found ones, where no setting at which a net breaks counts much.

    Returns:
        None where it was not run.
    """
    told = [
        f"{words}, {points}"
        for words, way in study.INSTEAD["told_over_found"].items()
        # the mean is said of all rivals, and not of one alone
        if "alone" not in words and (points := _points(way, records))
    ]
    if not told:
        return None
    said = f"Settings at which a net breaks weigh much in that. The lead is, {'; '.join(told)}."
    return Html(f'<p class="survey">{escape(said)}</p>', said)


def over_shares_words(records: Sequence[Record]) -> Html | None:
    """What the best method is worth over ℓ1 within equal shares of all layers, net by net."""
    told = []
    for net, name in OVER_SHARES.items():
        (way,) = study.INSTEAD[name].values()
        if points := _points(way, records):
            told.append(f"{points} on the {NETS[net]}")
    if not told:
        return None
    said = (
        "Where ℓ1 is told to take the same share of every layer, which starves none, the best "
        f"method leads it by {_listed(told)}."
    )
    return Html(f'<p class="survey">{escape(said)}</p>', said)


OVER_SHARES = {
    "resnet_small": "winner_gain", "mobilenet_small": "winner_gain_depthwise",
    "vgg_small": "winner_gain_vgg",
}  # fmt: skip
"""Net → the statistic that asks what its best method is worth over ℓ1."""


def _points(way: Callable[[list[Record]], float], records: Sequence[Record]) -> str:
    """Mean and interval over replicates in words; empty where fewer than two have the runs."""
    values = []
    for seed in sorted({r.seed for r in records}):
        with suppress(MissingArm):
            values.append(way([r for r in records if r.seed == seed]))
    if len(values) < 2:
        return ""
    gap = t_interval(values)
    return f"{mean_words(gap, SHARE_OF_IMAGES)} points, {range_words(gap, unit=SHARE_OF_IMAGES)}"


_CALLED = {"better": "a lead", "worse": "a loss", "tie": "a tie"}


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _named(name: str) -> str:
    """A method's label as it can stand in a list."""
    words = label(name)
    return f"“{words}”" if "," in words else words


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


def counted_on(df: Frame, net: str, keep: float) -> Html:
    """How many methods the intervals tell from ℓ1 on a net after full tuning; which lead."""
    found = leads(df, net, keep, FULL).sort_values("mean", ascending=False)
    n = {w: int((found.word == w).sum()) for w in ("better", "worse", "tie")}
    first = found.head(3)
    # an interval so wide that it holds zero, with a mean so low: it fell on some replicates only
    torn = found[(found.word == "tie") & (found["mean"] < -FALLEN)].index
    apart = (
        f" (with {_listed(list(map(_named, torn)))}, fallen on some replicates)"
        if len(torn)
        else ""
    )
    low, high = (f"{x:.1f}".replace("-", "−") for x in (first["mean"].min(), first["mean"].max()))
    said = (
        f"On the {NETS[net]}, at {100 * keep:g} % of the MACs, {n['better']} of {len(found)} "
        f"methods end better than ℓ1, {n['worse']} worse, and {n['tie']} tie{apart}. In front are "
        f"{_listed([_named(str(name)) for name in first.index])}, by {low} to "
        f"{high} points."
    )
    return Html(f'<p class="survey">{escape(said)}</p>', said)


def counted_over(df: Frame, nets: Sequence[str], keeps: Sequence[float]) -> list[Html]:
    """The same of every net and size that was run."""
    return [counted_on(df, net, k) for net in nets for k in keeps if len(shapes(df, net, k))]


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
