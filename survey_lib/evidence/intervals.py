"""Intervals over seeds: Student's t, because five numbers are what a study can afford."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import t as student


@dataclass(frozen=True)
class Interval:
    """A mean and its two-sided interval; all in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int
    level: float = 0.95

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Student's t interval of the mean of independent values (one per seed).

    When all values agree to the last bit the interval is the point; with a single value that
    may vary, it is the whole line.

    Raises:
        ValueError: no values, or one that is not finite.
    """
    n = len(values)
    if n == 0:
        raise ValueError("an interval needs at least one value")
    if not all(math.isfinite(v) for v in values):
        raise ValueError(f"an interval needs finite values, got {list(values)}")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(mean, -math.inf, math.inf, 1, level)
    if len(set(values)) == 1:
        return Interval(values[0], values[0], values[0], n, level)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1))
    half = float(student.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, level)


def seeds_needed(values: Sequence[float], half_width: float, level: float = 0.95) -> int | None:
    """Smallest number of seeds whose expected t half-width is at most ``half_width``.

    The spread is taken from ``values``; None when it cannot be told (fewer than two values)
    or when 10,000 seeds would not do.
    """
    if len(values) < 2 or half_width <= 0:
        return None
    mean = math.fsum(values) / len(values)
    sd = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    for n in range(2, 10_001):
        if float(student.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n) <= half_width:
            return n
    return None
