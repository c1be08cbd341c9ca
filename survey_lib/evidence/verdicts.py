"""Verdicts: what the records say about a claim, by a rule fixed before the run."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from survey_lib.cards.card import Claim
from survey_lib.evidence.intervals import Interval, seeds_needed, t_interval
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, RecordError

REPRODUCED = "reproduced"
NOT_REPRODUCED = "not reproduced"
INCONCLUSIVE = "inconclusive"
NOT_TESTED = "not tested here"
SIGNS = {REPRODUCED: "✓", NOT_REPRODUCED: "✗", INCONCLUSIVE: "≈", NOT_TESTED: "–"}
MINIMUM_SEEDS = 5

Statistic = Callable[[Sequence[Record]], float]


@dataclass(frozen=True)
class Verdict:
    """The word for a claim, and the interval it rests on."""

    claim: Claim
    word: str
    interval: Interval | None = None
    values: Mapping[int, float] = field(default_factory=dict)
    """The statistic per seed."""
    reason: str = ""
    seeds_needed: int | None = None
    """For an inconclusive claim: seeds at which the interval would clear the region's edge."""
    changed: bool = False
    """True when the claim was edited after the run."""

    @property
    def sign(self) -> str:
        """The verdict's sign, so that it never rests on colour alone."""
        return SIGNS[self.word]


def limits(unit: str) -> tuple[float, float]:
    """Smallest and largest number that a claim's unit allows; it may be that of a difference."""
    if unit.startswith("share of "):
        return -1.0, 1.0
    if unit == "correlation":
        return -2.0, 2.0
    return (0.0, math.inf) if unit == "ratio" else (-math.inf, math.inf)


def _measured(claim: Claim, seed: int, rows: Sequence[Record], statistic: Statistic) -> float:
    where = f"claim {claim.id!r}, records of seed {seed}"
    try:
        value = float(statistic(rows))
    except MissingArm:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as why:
        said = " ".join(str(why).split())
        raise RecordError(
            f"{where}: {claim.statistic} cannot be computed ({type(why).__name__}: {said}); "
            "restore the records or run them anew"
        ) from why
    low, high = limits(claim.unit)
    if not (math.isfinite(value) and low <= value <= high):
        raise RecordError(
            f"{where}: {claim.statistic} is {value:g}, which is no {claim.unit or 'finite number'}"
            "; restore the records or run them anew"
        )
    return value


def decide(interval: Interval, region: tuple[float | None, float | None]) -> str:
    """Inside the region → reproduced; disjoint from it → not reproduced; else inconclusive."""
    low = -math.inf if region[0] is None else region[0]
    high = math.inf if region[1] is None else region[1]
    if low <= interval.low and interval.high <= high:
        return REPRODUCED
    if interval.high < low or interval.low > high:
        return NOT_REPRODUCED
    return INCONCLUSIVE


def measured(
    claim: Claim, records: Sequence[Record], statistic: Statistic
) -> tuple[dict[int, list[Record]], dict[int, float]]:
    """Finished records by seed, and the statistic of each seed that has all arms it compares.

    Raises:
        RecordError: as :func:`judge` says.
    """
    by_seed: dict[int, list[Record]] = {}
    for record in records:
        if record.status == "done":
            by_seed.setdefault(record.seed, []).append(record)
    values: dict[int, float] = {}
    for seed, rows in sorted(by_seed.items()):
        try:
            values[seed] = _measured(claim, seed, rows, statistic)
        except MissingArm:
            continue
    return by_seed, values


def judge(claim: Claim, records: Sequence[Record], statistic: Statistic) -> Verdict:
    """Judge a claim by its statistic over the seeds of ``records``.

    A seed that lacks an arm the statistic compares (:class:`MissingArm`) is left out.
    Fewer than five seeds never give ``reproduced``, unless the claim is deterministic, where
    one run decides and runs that differ are an error.

    Raises:
        RecordError: the statistic cannot be computed from the records of a seed, is not finite or
            lies outside of what the claim's unit allows.
        ValueError: a deterministic statistic differs between seeds.
    """
    if claim.not_tested:
        return Verdict(claim, NOT_TESTED, reason=claim.not_tested)
    by_seed, values = measured(claim, records, statistic)
    if not values:
        return Verdict(claim, NOT_TESTED, reason="no recorded run has the arms this claim compares")
    changed = any(
        r.provenance.get("claims", {}).get(claim.id, claim.hash) != claim.hash
        for seed in values
        for r in by_seed[seed]
    )
    numbers = list(values.values())
    if claim.deterministic:
        if len(set(numbers)) > 1:
            raise ValueError(f"claim {claim.id!r} is called deterministic but gave {values}")
        point = Interval(numbers[0], numbers[0], numbers[0], len(numbers))
        return Verdict(claim, decide(point, claim.region), point, values, "", None, changed)
    interval = t_interval(numbers)
    word = decide(interval, claim.region)
    reason = ""
    if len(numbers) < MINIMUM_SEEDS and word == REPRODUCED:
        word, reason = INCONCLUSIVE, f"{len(numbers)} seeds; at least {MINIMUM_SEEDS} are needed"
    needed = None
    if word == INCONCLUSIVE:
        ends = [end for end in claim.region if end is not None]
        needed = seeds_needed(numbers, min(abs(interval.mean - end) for end in ends))
        reason = reason or "the interval crosses the edge"
    return Verdict(claim, word, interval, values, reason, needed, changed)
