"""Schindler et al. (2019): what is asked of the runs, and which runs that takes."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import (
    Role,
    Rows,
    instead,
    mean,
    smallest_step,
    statistics,
    tune_grid,
)
from survey_lib.experiments.parameterized_structured.cells import Cell

SEEDS = 5
DRAWN = 1
"""Replicates of the DenseNet, which is only drawn."""

PULLS = (0.0, 0.0033, 0.0055, 0.01)
"""λ η of the runs with weight decay, η the peak rate."""
MILD, HIGH = PULLS[1:3], PULLS[2:]
"""Those meant to end near 40 and 60 % sparsity, and those meant to end near 60 and 80 %."""
L1_PULLS = (6e-4, 1e-3, 1.5e-3)
"""λ η of the runs with an ℓ1 penalty."""
TUNED, L1_TUNED = 0.004, 6e-4
"""Those at which a rate is chosen: some 60 % at the rate of a first trial. The grids above are for
the rate that was chosen, at which a pull takes less."""
FRESH: dict[str, Any] = {"pull": 0.002, "start": "fresh", "epochs": 22.0, "frozen": 0.3}
"""The same from random weights, for as many steps as dense net and learning have together."""
STACKS = ("cnn", "cnn_plain")
STACK_PULLS, STACK_LR = (0.0015, 0.005), 0.05
"""λ η, and the rate, of a plain stack of convolutions with batch norm and without."""
SHARE = 0.7
"""Share of the structures that goes where a rival's rate is chosen."""
GRANULAR = ("channel", "filter", "shape", "layer")
"""Beside columns, in the explorer."""

RATES = {
    "dense longer": 0.3,
    "decay": 0.3,
    "l1 penalty": 0.3,
    "fixed": 0.1,
    "l1 norm": 0.3,
    "random": 0.3,
    "fresh": 0.3,
}
"""The best mean on validation of those tried (``survey run … --profile tune``)."""
TRIED = dict.fromkeys(RATES, (0.03, 0.1, 0.3, 0.9)) | {"fresh": (0.1, 0.3, 0.9, 2.7)}
MASK_LR = 0.1
"""Rate of the run whose mask is put on fresh weights while their rate is chosen."""
REPLICATES = (900, 901, 902)


def psp(seed: int, pull: float, penalty: str = "decay", **more: Any) -> Cell:
    """Learned structure parameters."""
    lr = RATES["decay" if penalty == "decay" else "l1 penalty"]
    knobs: dict[str, Any] = {"penalty": penalty, "pull": pull, "psp_lr": lr}
    return Cell("psp", seed, **(knobs | more))


ROLE_OF = {"fixed": "fixed", "l1_norm": "l1 norm", "random": "random", "fresh": "fresh"}


def rival(arm: str, seed: int, pull: float, **more: Any) -> Cell:
    """A rival of the run with that pull, cut as ``match`` says."""
    knobs: dict[str, Any] = {"lr": RATES[ROLE_OF[arm]] if arm in ROLE_OF else 0.0} | more
    return replace(psp(seed, pull), arm=arm, **knobs)


def alone(arm: str, seed: int, lr: float) -> Cell:
    """A rival with a share of its own, so that its rate hangs on no other run."""
    knobs: dict[str, Any] = {"pull": TUNED} if arm == "fixed" else {}
    return Cell(arm, seed, share=SHARE, lr=lr, **knobs)


def longer(seed: int, **more: Any) -> Cell:
    """The dense net, trained on."""
    knobs: dict[str, Any] = {"lr": RATES["dense longer"]} | more
    return Cell("dense_longer", seed, **knobs)


def _cells(name: str) -> Callable[[int, float], list[Cell]]:
    """Replicate and rate → the cells that decide a role's rate."""
    match name:
        case "dense longer":
            return lambda s, lr: [longer(s, lr=lr)]
        case "decay":
            return lambda s, lr: [psp(s, TUNED, psp_lr=lr)]
        case "l1 penalty":
            return lambda s, lr: [psp(s, L1_TUNED, "l1", psp_lr=lr)]
        case "fresh":
            return lambda s, lr: [rival("fresh", s, TUNED, lr=lr, psp_lr=MASK_LR)]
    arm = next(arm for arm, role in ROLE_OF.items() if role == name)
    return lambda s, lr: [alone(arm, s, lr)]


ROLES = tuple(Role(name, _cells(name), TRIED[name], "after", "val_re") for name in TRIED)


# ---- grids


def _claims(seed: int) -> list[Cell]:
    cells = [Cell("dense", seed), longer(seed)]
    cells += [psp(seed, pull) for pull in PULLS]
    cells += [psp(seed, pull, "l1") for pull in L1_PULLS]
    cells += [psp(seed, **FRESH), rival("fresh", seed, HIGH[0])]
    for pull in HIGH:
        cells += [rival("fixed", seed, pull), rival("random", seed, pull, match="layers")]
        cells += [rival("l1_norm", seed, pull, match=m) for m in ("structures", "macs", "layers")]
    return [*cells, rival("latency", seed, HIGH[0]), *_stacks(seed)]


def _stacks(seed: int) -> list[Cell]:
    """The same plain stack with batch norm and without."""
    return [
        cell for net in STACKS for cell in (
            Cell("dense", seed, net=net),
            *(psp(seed, pull, net=net, psp_lr=STACK_LR) for pull in STACK_PULLS),
        )
    ]  # fmt: skip


def _densenet(seed: int) -> list[Cell]:
    """Only drawn, at the residual net's settings and rates."""
    cells = [Cell("dense", seed), longer(seed)]
    for pull in (MILD[0], HIGH[0]):
        cells += [psp(seed, pull), rival("l1_norm", seed, pull)]
    return [replace(c, net="densenet") for c in cells]


def explored() -> list[Cell]:
    """Other granularities, of replicate 0: the explorer's."""
    return [psp(0, pull, granularity=g) for g in GRANULAR for pull in PULLS[1:]]


def _study() -> list[Cell]:
    claims = [c for s in range(SEEDS) for c in _claims(s)]
    return [*claims, *explored(), *(c for s in range(DRAWN) for c in _densenet(s))]


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0: learned, with both penalties, and its first rival."""
    pull = HIGH[0]
    return [Cell("dense", 0), psp(0, pull), psp(0, L1_PULLS[1], "l1"), rival("l1_norm", 0, pull)]


def _smoke() -> list[Cell]:
    """A fifth of an epoch of the same."""
    short: dict[str, Any] = {"epochs": 0.2}
    return [Cell("dense", 0), *(replace(c, **short) for c in _quick()[1:])]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def run(rows: Rows, pull: float, penalty: str = "decay", **more: Any) -> dict[str, Any]:
    """Numbers of the learned structure parameters with that pull."""
    return rows.one(arm="psp", penalty=penalty, pull=pull, **more)


def accuracy(rows: Rows, arm: str, pull: float, of: str = "test_re", **more: Any) -> float:
    """Accuracy of a rival of that run, by default with statistics re-estimated."""
    return rows.one(arm=arm, pull=pull, **more)[of]


def lead(
    rows: Rows, arm: str, pulls: Iterable[float] = HIGH, of: str = "test_re", **more: Any
) -> float:
    """Mean over the pulls of accuracy, learned structure parameters minus a rival."""
    return mean(run(rows, p)[of] - accuracy(rows, arm, p, of, **more) for p in pulls)


def at(points: Iterable[tuple[float, float]], x: float) -> float:
    """Value at ``x`` of points (sparsity, accuracy), linear between neighbours.

    Raises:
        ValueError: ``x`` lies outside the points.
    """
    ordered = sorted(points)
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    raise ValueError(f"{x} lies outside {ordered[0][0]} … {ordered[-1][0]}")


def psp_over_l1_norm(rows: Rows) -> float:
    """Equal numbers of columns: accuracy, learned minus cut by ℓ1 norm, mean of two pulls."""
    return lead(rows, "l1_norm", match="structures")


def psp_over_l1_norm_macs(rows: Rows) -> float:
    """The same at equal MACs."""
    return lead(rows, "l1_norm", match="macs")


def psp_over_l1_norm_layers(rows: Rows) -> float:
    """The same with as many columns in every layer: which ones, and nothing else."""
    return lead(rows, "l1_norm", match="layers")


def psp_over_random(rows: Rows) -> float:
    """The same with random columns, as many in every layer."""
    return lead(rows, "random", match="layers")


def learned_over_fixed(rows: Rows) -> float:
    """Accuracy, threshold minus fixed share at equal numbers of columns, mean of two pulls."""
    return lead(rows, "fixed")


def inherited_over_fresh(rows: Rows) -> float:
    """Accuracy, learned net minus its columns with fresh weights, equal steps in all."""
    return lead(rows, "fresh", HIGH[:1])


def decay_over_l1_penalty(rows: Rows) -> float:
    """Mean over the mild pulls of accuracy, decay minus ℓ1 penalty at the same sparsity.

    The accuracy of the ℓ1 penalty there lies on the line between its neighbouring runs; the first
    point of both is the run without a penalty.
    """
    curve = [run(rows, PULLS[0]), *(run(rows, p, "l1") for p in L1_PULLS)]
    points = [(n["sparsity"], n["test_re"]) for n in curve]
    mild = [run(rows, p) for p in MILD]
    return mean(n["test_re"] - at(points, n["sparsity"]) for n in mild)


def from_scratch_over_l1_norm(rows: Rows) -> float:
    """Accuracy, learned from random weights minus cut by ℓ1 norm at the same sparsity.

    The latter's accuracy there lies on the line between its runs and the dense net trained on.
    """
    found = run(rows, **FRESH)
    cut = [rows.one(arm="l1_norm", pull=p, match="structures") for p in HIGH]
    points = [(0.0, rows.one(arm="dense_longer")["test_re"])]
    points += [(n["sparsity"], n["test_re"]) for n in cut]
    return found["test_re"] - at(points, found["sparsity"])


def batch_norm_blurs(rows: Rows) -> float:
    """Share of factors near ε, a stack of layers with batch norm minus without, mean of two."""
    near = {
        net: mean(run(rows, pull, net=net)["at_freeze"]["near"] for pull in STACK_PULLS)
        for net in STACKS
    }
    with_norm, without = STACKS
    return near[with_norm] - near[without]


def share_near_threshold(rows: Rows) -> float:
    """Share of factors between half and twice ε when the mask is frozen, mean of two."""
    return mean(run(rows, p)["at_freeze"]["near"] for p in HIGH)


def threshold_effect(rows: Rows) -> float:
    """Largest change of accuracy when the threshold is halved or doubled before it is frozen."""
    found = []
    for pull in HIGH:
        by = {r["factor"]: r["test_re"] for r in run(rows, pull)["thresholds"] if "test_re" in r}
        found += [abs(by[f] - by[1.0]) for f in (0.5, 2.0)]
    return max(found)


def smallest_sparsity_step(rows: Rows) -> float:
    """Smallest change of sparsity from one pull to the next."""
    return smallest_step([run(rows, p)["sparsity"] for p in PULLS])


def column_time(rows: Rows) -> float:
    """Milliseconds of the product with fewer columns over those of fewer channels, batch of 64."""
    found = rows.one(arm="latency", pull=HIGH[0])["timed"]["64"]["rows"]
    by = {row["name"]: row["min_ms"] for row in found}
    return by["fewer columns, im2col"] / by["fewer channels"]


FREE = ("psp_lr", "lr")
STATISTICS = statistics(
    Cell, psp_over_l1_norm, psp_over_l1_norm_macs, psp_over_l1_norm_layers, psp_over_random,
    learned_over_fixed, inherited_over_fresh, decay_over_l1_penalty, share_near_threshold,
    from_scratch_over_l1_norm, batch_norm_blurs,
    threshold_effect, smallest_sparsity_step, column_time, free=FREE,
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        "psp_over_l1_norm": {
            "statistics not re-estimated": lambda r: lead(r, "l1_norm", of="test"),
            "the weaker pull alone": lambda r: lead(r, "l1_norm", HIGH[:1]),
            "the stronger pull alone": lambda r: lead(r, "l1_norm", HIGH[1:]),
        },
        "learned_over_fixed": {
            "statistics not re-estimated": lambda r: lead(r, "fixed", of="test"),
            "the weaker pull alone": lambda r: lead(r, "fixed", HIGH[:1]),
            "the stronger pull alone": lambda r: lead(r, "fixed", HIGH[1:]),
        },
        "share_near_threshold": {
            "the ℓ1 penalty, at its two strongest": lambda r: mean(
                run(r, p, "l1")["at_freeze"]["near"] for p in L1_PULLS[1:]
            ),
            "from random weights": lambda r: run(r, **FRESH)["at_freeze"]["near"],
        },
    },
    free=FREE,
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
