"""The protocol that every experiment keeps: equal tries, rates inside their grids, rows by name.

A *role* is what gets one learning rate of its own: the dense net, the pruned one, its rival. All
roles of a comparison try equally many rates on the same validation replicates, and the best of
each must lie inside its grid. *Rows* are one replicate's records, asked for by what they differ in.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from statistics import stdev
from typing import Any

from survey_lib.evidence.records import Record

LEAST_REPLICATES = 3
"""Validation replicates on which a rate is chosen, at least."""

Make = Callable[[int, float], Sequence[Any]]
"""(replicate, rate) → the cells that role runs there."""
Statistic = Callable[[Sequence[Record]], float]


class ProtocolError(ValueError):
    """An experiment that breaks the protocol; the message says where and what to do."""


class EdgeOfGrid(ProtocolError):
    """The best rate tried is the smallest or the largest one: the grid has to be widened."""


class MissingArm(LookupError):
    """No record of what was asked for."""


class Ambiguous(LookupError):
    """Several records fit what was asked for."""


@dataclass(frozen=True)
class Role:
    """What gets a learning rate of its own."""

    name: str
    cells: Make
    rates: tuple[float, ...]
    """Tried, ascending; at least three."""
    comparison: str = ""
    """Roles of one comparison try equally many rates."""
    score: str = "val"
    """The number that decides, on validation."""
    sign: int = 1
    """1 where higher is better, -1 where lower is (a loss)."""


# ---- rates


def tune_grid(roles: Sequence[Role], replicates: Sequence[int]) -> list[Any]:
    """The cells that try every rate of every role on every validation replicate, each once.

    Raises:
        ProtocolError: too few replicates, rates that don't ascend, roles of one comparison that
            try unequally many, or a name used twice.
    """
    if len(set(replicates)) < LEAST_REPLICATES:
        raise ProtocolError(
            f"rates are chosen on {len(set(replicates))} replicates; "
            f"give {LEAST_REPLICATES} at least"
        )
    names = [role.name for role in roles]
    tries: dict[str, dict[int, str]] = {}
    for role in roles:
        if names.count(role.name) > 1:
            raise ProtocolError(f"role {role.name!r} is there twice; give each its own name")
        if len(role.rates) < 3 or list(role.rates) != sorted(set(role.rates)):
            raise ProtocolError(
                f"role {role.name!r} tries {role.rates}; three ascending rates are the least"
            )
        others = tries.setdefault(role.comparison, {})
        others.setdefault(len(role.rates), role.name)
        if len(others) > 1:
            told = ", ".join(f"{name!r} tries {n}" for n, name in others.items())
            raise ProtocolError(f"unequal chances in {role.comparison!r}: {told} rates")
    cells = [
        cell
        for role in roles
        for rate in role.rates
        for replicate in replicates
        for cell in role.cells(replicate, rate)
    ]
    return list(dict.fromkeys(cells))


def scores(
    role: Role, replicates: Sequence[int], found: Mapping[Any, Mapping[str, Any]]
) -> dict[float, float]:
    """Mean validation score of each rate of a role.

    Args:
        role: the role.
        replicates: validation replicates; all of them have to be there.
        found: cell → its numbers.

    Raises:
        MissingArm: a cell of the role has no numbers.
    """
    return {rate: mean(_of_replicates(role, rate, replicates, found)) for rate in role.rates}


def _of_replicates(
    role: Role, rate: float, replicates: Sequence[int], found: Mapping[Any, Mapping[str, Any]]
) -> list[float]:
    """Validation score of one rate in each replicate."""
    cells = {replicate: role.cells(replicate, rate) for replicate in replicates}
    asked = list(itertools.chain(*cells.values()))
    absent = [c for c in asked if c not in found]
    if absent:
        raise MissingArm(
            f"role {role.name!r} at rate {rate:g}: {len(absent)} of {len(asked)} runs are "
            f"missing, first {absent[0]}; run the profile tune"
        )
    return [mean(found[c][role.score] for c in some) for some in cells.values()]


def best_rate(
    role: Role, replicates: Sequence[int], found: Mapping[Any, Mapping[str, Any]]
) -> float:
    """The rate of a role with the best mean on validation, at an end of its grid, too.

    An end that leads the rate beside it by no more than a standard error (of their difference,
    replicate by replicate) is flat and gives way to it, so that no grid is widened after noise. It
    is the one-standard-error rule of Breiman et al. (1984, §3.4.3), towards the inside.

    Raises:
        MissingArm: a run is missing.
    """
    means = scores(role, replicates, found)
    best = max(role.rates, key=lambda rate: role.sign * means[rate])
    beside = {role.rates[0]: role.rates[1], role.rates[-1]: role.rates[-2]}.get(best)
    if beside is None:
        return best
    one, other = (_of_replicates(role, rate, replicates, found) for rate in (best, beside))
    leads = [role.sign * (a - b) for a, b in zip(one, other, strict=True)]
    error = stdev(leads) / math.sqrt(len(leads))
    return beside if mean(leads) <= error else best


def best_rates(
    roles: Sequence[Role], replicates: Sequence[int], found: Mapping[Any, Mapping[str, Any]]
) -> dict[str, float]:
    """The rate of each role with the best mean on validation.

    Raises:
        EdgeOfGrid: one of them is the first or the last that was tried, and no flat end.
        MissingArm: a run is missing.
    """
    tune_grid(roles, replicates)  # holds the rules
    chosen = {}
    for role in roles:
        best = best_rate(role, replicates, found)
        if best in (role.rates[0], role.rates[-1]):
            means = scores(role, replicates, found)
            told = ", ".join(f"{rate:g}: {mean:.4f}" for rate, mean in means.items())
            raise EdgeOfGrid(
                f"role {role.name!r}: the best rate, {best:g}, is at the end of what was tried "
                f"({told}); widen its grid, and those it is compared with"
            )
        chosen[role.name] = best
    return chosen


def by_cell(records: Iterable[Record], cell: type) -> dict[Any, dict[str, Any]]:
    """Cell → numbers of finished records."""
    known = {f.name for f in fields(cell)}
    return {
        cell(**{k: _frozen(v) for k, v in r.config.items() if k in known}): r.numbers
        for r in records
        if r.status == "done"
    }


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


# ---- rows


class Rows:
    """Records of one replicate. What is not asked for stands at the cell's default.

    Args:
        records: of one replicate.
        cell: the experiment's ``Cell``, whose defaults count.
        free: fields that may be anything where they are not asked for.
    """

    def __init__(self, records: Sequence[Record], cell: type, free: Sequence[str] = ()):
        self._records = [r for r in records if r.status == "done"]
        self._defaults = {
            f.name: f.default
            for f in fields(cell)
            if f.name not in {"seed", *free} and f.default is not MISSING
        }
        self._known = {f.name for f in fields(cell)}

    def all(self, **wanted: Any) -> list[dict[str, Any]]:
        """Numbers of all records that fit, with their configuration under ``config``.

        Raises:
            MissingArm: there is none.
            TypeError: the cell has no such field.
        """
        if strange := wanted.keys() - self._known:
            raise TypeError(f"a cell has no field {', '.join(sorted(strange))}")
        asked = self._defaults | wanted
        found = [
            r.numbers | {"config": r.config}
            for r in self._records
            if all(_frozen(r.config.get(k, self._defaults.get(k))) == v for k, v in asked.items())
        ]
        if not found:
            raise MissingArm(f"no record with {wanted}")
        return found

    def one(self, **wanted: Any) -> dict[str, Any]:
        """Numbers of the one record that fits.

        Raises:
            MissingArm: there is none.
            Ambiguous: there are several.
        """
        found = self.all(**wanted)
        if len(found) > 1:
            raise Ambiguous(f"{len(found)} records with {wanted}; name the field they differ in")
        return found[0]

    def best(self, of: Iterable[Mapping[str, Any]], by: str = "val", sign: int = 1) -> dict:
        """Numbers of the record, among several questions, that is best on validation.

        Every question has to have its answer, so that no candidate is lost in silence.

        Raises:
            MissingArm: one of them has none.
        """
        return max((self.one(**wanted) for wanted in of), key=lambda n: sign * n[by])


def statistics(
    cell: type, *functions: Callable[[Rows], float], free: Sequence[str] = ("lr",)
) -> dict[str, Statistic]:
    """Name → function of one replicate's records, for functions of :class:`Rows`."""

    def wrapped(function: Callable[[Rows], float]) -> Statistic:
        return lambda records: float(function(Rows(records, cell, free)))

    return {function.__name__: wrapped(function) for function in functions}


def instead(
    cell: type,
    ways: Mapping[str, Mapping[str, Callable[[Rows], float]]],
    free: Sequence[str] = ("lr",),
) -> dict[str, dict[str, Statistic]]:
    """Name of a statistic → words for another way to measure the same → that as a function.

    A reader may put them in the statistic's place on the page; no verdict rests on them.
    """

    def wrapped(function: Callable[[Rows], float]) -> Statistic:
        return lambda records: float(function(Rows(records, cell, free)))

    return {name: {w: wrapped(f) for w, f in found.items()} for name, found in ways.items()}


# ---- numbers of one replicate


def mean(values: Iterable[float]) -> float:
    """Plain mean.

    Raises:
        ValueError: there is nothing to average.
    """
    found = list(values)
    if not found:
        raise ValueError("a mean of nothing")
    return math.fsum(found) / len(found)


def smallest_step(values: Sequence[float]) -> float:
    """Smallest rise from one value to the next: positive where all rise."""
    return min(b - a for a, b in itertools.pairwise(values))


def interpolate(points: Iterable[tuple[float, float]], x: float) -> float:
    """Value at ``x`` of points (x, y), linear in log x between neighbours.

    Raises:
        ValueError: ``x`` lies outside the points.
    """
    ordered = sorted(points)
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * math.log(x / x0) / math.log(x1 / x0)
    raise ValueError(f"{x} lies outside {ordered[0][0]} … {ordered[-1][0]}")
