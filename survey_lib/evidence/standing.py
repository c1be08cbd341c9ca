"""How firmly a verdict stands: with fewer replicates, and without any one of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.verdicts import (
    INCONCLUSIVE,
    MINIMUM_SEEDS,
    REPRODUCED,
    Verdict,
    decide,
)

Region = tuple[float | None, float | None]


@dataclass(frozen=True)
class Standing:
    """What it takes to break a verdict."""

    since: int
    """The word is the same with the first so many replicates and with every larger number."""
    carried_by: tuple[int, ...]
    """Replicates without any one of which the interval alone gives another word."""


def word_of(values: Sequence[float], region: Region) -> str:
    """The word that a claim gets from these replicates.

    Raises:
        ValueError: there is none, or a value is not finite.
    """
    word = decide(t_interval(values), region)
    return INCONCLUSIVE if word == REPRODUCED and len(values) < MINIMUM_SEEDS else word


def standing(verdict: Verdict) -> Standing | None:
    """How firmly a verdict stands; None where one run decides or nothing was measured.

    Replicates are taken in the order of their numbers, the order in which they were meant to be
    run. Leaving one out is judged by the interval alone, so that five replicates are not broken
    by the rule that four are too few.
    """
    values = [value for _, value in sorted(verdict.values.items())]
    if verdict.interval is None or verdict.claim.deterministic or len(set(values)) < 2:
        return None
    region, numbers = verdict.claim.region, sorted(verdict.values)
    words = [word_of(values[:n], region) for n in range(1, len(values) + 1)]
    since = next(n for n in range(1, len(words) + 1) if set(words[n - 1 :]) == {words[-1]})
    whole = decide(t_interval(values), region)
    without = [values[:i] + values[i + 1 :] for i in range(len(values))]
    carried = tuple(
        seed
        for seed, rest in zip(numbers, without, strict=True)
        if decide(t_interval(rest), region) != whole
    )
    return Standing(since, carried)
