"""Bragagnolo et al. (2021): what is asked of the runs, and which runs that takes.

Nets are compared at equal accuracy. An arm's *curve* in a replicate is made of all its nets, at
each number of bits: validation picks those that no smaller file beats, test judges them, and the
bytes in between are interpolated.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, mean, statistics, tune_grid
from survey_lib.experiments.role_of_structured.cells import BITS, Cell

SEEDS = 5
MORE = 8
"""Replicates of the dense net, SeReNe, LOBSTER and their times: the pilot spread widely there."""
LAM = 0.002
TWTS = (0.1, 0.5, 2.0)
"""By how much a threshold may raise the loss: what draws the curves of shrunken nets."""
MIDDLE = 0.5
MOST = max(TWTS)
LEAST = min(TWTS)
SHARES = {"magnitude": (0.2, 0.06, 0.025), "l1": (0.8, 0.55, 0.3)}
"""Shares kept by the opponents."""
SHRUNK = {
    "serene": ("serene", "neurons"),
    "lobster": ("lobster", "weights"),
    "decay": ("decay", "weights"),
    "decay rows": ("decay", "neurons"),
}
"""Role → arm, and what stays at zero."""
CONVERGED = 3
"""Replicates whose dense net is trained on."""
NEAR = 0.005
"""Accuracy on validation that the quantised dense net may lose."""

RATES = {
    "dense": 0.1, "serene": 0.125, "lobster": 0.125, "decay": 0.125, "decay rows": 0.125,
    "magnitude": 0.125, "l1": 0.125,
}  # fmt: skip
"""The best of those tried (``survey run role_of_structured --profile tune``)."""
TRIED = {
    "dense": (0.05, 0.1, 0.2),
    "serene": (0.02, 0.05, 0.125, 0.3),
    "lobster": (0.02, 0.05, 0.125, 0.3),
    "decay": (0.02, 0.05, 0.125, 0.3),
    "decay rows": (0.02, 0.05, 0.125, 0.3),
    "magnitude": (0.02, 0.05, 0.125, 0.3),
    "l1": (0.02, 0.05, 0.125, 0.3),
}
"""Where a training diverges its merit counts as 0: at 0.3 five of the twelve that shrink do. At 0.2
none does; tried aside, it came within 0.002 of 0.125 for those that shrink and for magnitude, and
0.004 below it for ℓ1."""
REPLICATES = (900, 901, 902)


def cell(role: str, seed: int, setting: float = 0.0, **more: Any) -> Cell:
    """A cell of a role: at a TWT, or at a share kept; the dense net has no setting."""
    lr = {} if role == "dense" else {"lr": RATES[role]}
    knobs: dict[str, Any] = {"dense_lr": RATES["dense"]} | lr
    if role in SHRUNK:
        arm, zeros = SHRUNK[role]
        return Cell(arm, seed, **knobs | {"lam": LAM, "twt": setting, "zeros": zeros} | more)
    if role in SHARES:
        knobs["keep"] = setting
    return Cell(role, seed, **knobs | more)


def settings(role: str) -> Sequence[float]:
    """Settings of a role, the middle one in the middle."""
    return SHARES.get(role, TWTS)


def _role(name: str) -> Role:
    """A rate is chosen at the middle setting, the dense net's by accuracy, the others' by merit."""

    def cells(seed: int, lr: float) -> list[Cell]:
        if name == "dense":
            return [cell("dense", seed, dense_lr=lr)]
        return [cell(name, seed, settings(name)[1], lr=lr)]

    score = "val" if name == "dense" else "merit"
    return Role(name, cells, TRIED[name], "" if name == "dense" else "tuned", score)


ROLES = tuple(map(_role, TRIED))
TUNED = tuple(name for name in TRIED if name != "dense")


# ---- grids


def _of(role: str, seed: int) -> list[Cell]:
    return [cell(role, seed, setting) for setting in settings(role)]


def latency(seed: int) -> Cell:
    """The SeReNe net with most rows gone beside the LOBSTER net with fewest zeros."""
    own = cell("serene", seed, MOST)
    return replace(own, arm="latency", zeros="", other_twt=LEAST, other_lr=RATES["lobster"])


def fresh(seed: int) -> Cell:
    """Fresh weights in the shape that SeReNe left at the largest TWT."""
    return replace(cell("serene", seed, MOST), arm="fresh", zeros="")


def _study() -> list[Cell]:
    often = ("serene", "lobster")
    cells = [cell("dense", s) for s in range(MORE)]
    cells += [
        c for role in TUNED for s in range(MORE if role in often else SEEDS) for c in _of(role, s)
    ]
    cells += [fresh(s) for s in range(SEEDS)]
    cells += [
        Cell("longer", s, dense_lr=RATES["dense"], lr=RATES["magnitude"]) for s in range(CONVERGED)
    ]
    cells += [latency(s) for s in range(MORE)] + [arranged()]
    return cells


def arranged() -> Cell:
    """The controlled comparison, on the dense net of replicate 0."""
    return Cell("arranged", 0, dense_lr=RATES["dense"])


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0."""
    roles = ("serene", "lobster", "decay rows", "magnitude")
    return [cell("dense", 0), *(cell(r, 0, settings(r)[1]) for r in roles), arranged()]


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    return [replace(c, dense_epochs=0.25, epochs=0.25) for c in _quick()]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- curves: bytes at equal accuracy

Point = tuple[float, float, float]
"""(bytes, accuracy on validation, accuracy on test) of a coded net."""


class NoOverlap(ValueError):
    """Two curves that share no accuracy: nothing can be compared at equal accuracy."""


def points(rows: Rows, role: str, coder: str = "bytes") -> list[Point]:
    """Every coded net of a role in one replicate."""
    if role == "dense":
        found = [rows.one(arm="dense")]
    elif role in SHRUNK:
        arm, zeros = SHRUNK[role]
        found = [rows.one(arm=arm, zeros=zeros, lam=LAM, twt=t) for t in TWTS]
    else:
        found = [rows.one(arm=role, keep=k) for k in SHARES[role]]
    return [
        (net["coded"][str(b)][coder], net["coded"][str(b)]["val"], net["coded"][str(b)]["test"])
        for net in found
        for b in BITS
    ]


def front(nets: Iterable[Point]) -> list[Point]:
    """Those that no smaller file beats on validation, by size."""
    best, found = -math.inf, []
    for point in sorted(nets, key=lambda p: (p[0], -p[1])):
        if point[1] > best:
            best = point[1]
            found.append(point)
    return found


def curve(nets: Iterable[Point]) -> list[tuple[float, float]]:
    """(log bytes, accuracy on test) of the front, the closest that never falls.

    The closest in squares: neighbours out of order share their mean (pool adjacent violators).
    """
    found = front(nets)
    pools: list[list[float]] = []
    for _, _, test in found:
        pools.append([test])
        while len(pools) > 1 and mean(pools[-2]) >= mean(pools[-1]):
            last = pools.pop()
            pools[-1] += last
    heights = [mean(pool) for pool in pools for _ in pool]
    return [(math.log(p[0]), h) for p, h in zip(found, heights, strict=True)]


def log_bytes(line: Sequence[tuple[float, float]], accuracy: float) -> float:
    """Log of the least bytes at which a curve has an accuracy, linear between its nets.

    Raises:
        NoOverlap: it never has it.
    """
    if abs(line[0][1] - accuracy) < 1e-12:
        return line[0][0]
    for (x0, y0), (x1, y1) in itertools.pairwise(line):
        if y0 < accuracy <= y1 + 1e-12:
            return x0 + (x1 - x0) * min(1.0, (accuracy - y0) / (y1 - y0))
    raise NoOverlap(
        f"accuracy {accuracy:.4f} is not on a curve {line[0][1]:.4f} … {line[-1][1]:.4f}"
    )


STEPS = 21
"""Accuracies at which two curves are read."""


def overlap(
    a: Sequence[tuple[float, float]], b: Sequence[tuple[float, float]]
) -> tuple[float, float]:
    """The accuracies that both curves have.

    Raises:
        NoOverlap: there is none.
    """
    low, high = max(a[0][1], b[0][1]), min(a[-1][1], b[-1][1])
    if low > high:
        raise NoOverlap(
            f"curves from {a[0][1]:.4f} to {a[-1][1]:.4f} and {b[0][1]:.4f} to {b[-1][1]:.4f}"
        )
    return low, high


def log_ratio(rows: Rows, one: str, other: str, coder: str = "bytes") -> float:
    """Mean of ln(bytes of ``one`` / bytes of ``other``) over the accuracies that both have."""
    a, b = curve(points(rows, one, coder)), curve(points(rows, other, coder))
    low, high = overlap(a, b)
    levels = [low + (high - low) * i / (STEPS - 1) for i in range(STEPS)]
    return mean(log_bytes(a, y) - log_bytes(b, y) for y in levels)


# ---- what is asked: rows of one replicate → a number


def scattered_over_structured_bytes(rows: Rows) -> float:
    """ln(bytes of LOBSTER / bytes of SeReNe) at equal accuracy."""
    return log_ratio(rows, "lobster", "serene")


def single_over_rows_bytes(rows: Rows) -> float:
    """The same for plain decay: ln(bytes, zeros kept one by one / kept in whole rows)."""
    return log_ratio(rows, "decay", "decay rows")


def magnitude_over_lobster_bytes(rows: Rows) -> float:
    """ln(bytes of magnitude pruning / bytes of LOBSTER) at equal accuracy."""
    return log_ratio(rows, "magnitude", "lobster")


def l1_over_serene_bytes(rows: Rows) -> float:
    """ln(bytes of channel ℓ1 / bytes of SeReNe) at equal accuracy."""
    return log_ratio(rows, "l1", "serene")


def dense_over_coded(rows: Rows) -> float:
    """Bytes of the dense net in fp32 over its coded bytes.

    At the fewest bits that cost it less than half a point on validation.
    """
    net = rows.one(arm="dense")
    fit = [b for b in BITS if net["coded"][str(b)]["val"] >= net["val"] - NEAR]
    return 4 * net["params"] / net["coded"][str(min(fit, default=max(BITS)))]["bytes"]


def _serene(rows: Rows, twt: float = MOST) -> dict[str, Any]:
    return rows.one(arm="serene", zeros="neurons", lam=LAM, twt=twt)


def _lobster(rows: Rows, twt: float = LEAST) -> dict[str, Any]:
    return rows.one(arm="lobster", zeros="weights", lam=LAM, twt=twt)


def structured_removable(rows: Rows) -> float:
    """SeReNe, largest TWT: share of parameters that can go over the share that is zero."""
    net = _serene(rows)
    return net["removable"] / net["ratio"]


def scattered_removable(rows: Rows) -> float:
    """LOBSTER, smallest TWT: share of parameters that can go over the share that is zero."""
    net = _lobster(rows)
    return net["removable"] / net["ratio"]


def _speed_up(rows: Rows, name: str) -> float:
    times = rows.one(arm="latency", lam=LAM, twt=MOST, other_twt=LEAST)["timed"]["1 thread, 64"]
    return math.log(times["dense"] / times[name])


def structured_speedup(rows: Rows) -> float:
    """ln(milliseconds of the dense net / of the simplified SeReNe net), batch of 64."""
    return _speed_up(rows, "serene")


def scattered_speedup(rows: Rows) -> float:
    """ln(milliseconds of the dense net / of the simplified LOBSTER net), batch of 64."""
    return _speed_up(rows, "lobster")


def lobster_sensitivity(rows: Rows) -> float:
    """Mean of S over LOBSTER's weights, over the checks of a training, and over the three TWT."""
    return mean(mean(_lobster(rows, t)["trace"]["mean_s"]) for t in TWTS)


def rows_of_sensitivity(rows: Rows) -> float:
    """Share of parameters that can go with SeReNe minus that with plain decay and the same rule.

    Mean over the three TWT.
    """
    plain = [rows.one(arm="decay", zeros="neurons", lam=LAM, twt=t)["removable"] for t in TWTS]
    return mean(_serene(rows, t)["removable"] - p for t, p in zip(TWTS, plain, strict=True))


def over_fresh_weights(rows: Rows) -> float:
    """Largest TWT: accuracy of the SeReNe net minus that of its shape with fresh weights."""
    fresh = rows.one(arm="fresh", lam=LAM, twt=MOST)
    return _serene(rows)["test"] - fresh["test"]


def grouped_over_scattered_bytes(rows: Rows) -> float:
    """Bytes with half of the weights zero in whole rows over bytes with these zeros scattered."""
    grid = {(g["rho"], g["q"]): g["bytes"] for g in rows.one(arm="arranged")["grid"]}
    return grid[0.5, 1.0] / grid[0.5, 0.0]


STATISTICS = statistics(
    Cell, scattered_over_structured_bytes, single_over_rows_bytes, magnitude_over_lobster_bytes,
    l1_over_serene_bytes, dense_over_coded, structured_removable, scattered_removable,
    structured_speedup, scattered_speedup, lobster_sensitivity, rows_of_sensitivity,
    over_fresh_weights, grouped_over_scattered_bytes,
    free=("lr", "dense_lr", "other_lr"),
)  # fmt: skip
