"""Zhao et al. (2022): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable, Sequence
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
from survey_lib.experiments.adaptive_activation.cells import SCORED, Cell

SEEDS, CHOICES = 8, 12
"""Replicates; and those of the choice before any training, which costs little and spreads much."""
LIMITS = (0.0, 1.0, 3.0)
"""Points of validation accuracy that may be lost."""
MAIN = 1.0
"""The limit at which rivals are measured."""
KEEPS = (0.5, 0.3)
"""Shares that may stay, of parameters (policy memory) and of multiply-accumulates."""
SIZES = ("memory", "macs")
"""Policies whose limit is a size."""
EXPLORED_LIMITS, EXPLORED_KEEPS = (0.0, 1.0, 2.0, 3.0), (0.7, 0.5, 0.3)
EXPLORED_STEPS = (0.05, 0.1, 0.2)
"""The explorer's limits and shares that its first threshold takes."""
RIVALS = tuple(SCORED)
FOUR = tuple(name for name in RIVALS if name != "taylor_normalised")
"""The cuts that the claim on the strongest one was declared on."""
LENGTHS = ("all", "round")
"""A rival's training: the steps of all rounds, or those of one."""

RATES = {
    "dense": 0.05, "fixed": 0.5, "l1": 0.2, "taylor": 0.5, "random": 0.002, "scratch": 0.2,
    "taylor_normalised": 0.5,
    "fixed, one round": 0.03, "l1, one round": 0.08,
    "taylor, one round": 0.08, "taylor_normalised, one round": 0.2, "random, one round": 0.2,
}  # fmt: skip
"""Each the best mean on validation of those tried. The rounds of the method repeat the dense net's
schedule, so that they have its rate."""
_RIVAL = (0.0005, 0.002, 0.005, 0.0125, 0.03, 0.08, 0.2, 0.5, 1.2)
TRIED = {
    "dense": (0.003125, 0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    "fixed": _RIVAL, "l1": _RIVAL, "taylor": _RIVAL, "random": _RIVAL,
    "taylor_normalised": _RIVAL,
    "scratch": (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6),
}  # fmt: skip
REPLICATES = (900, 901, 902)


def cell(arm: str, seed: int, **more: Any) -> Cell:
    """A run whose dense net has its own rate."""
    knobs: dict[str, Any] = {"dense_lr": RATES["dense"]} | more
    return Cell(arm, seed, **knobs)


def tuned(arm: str, seed: int, **more: Any) -> Cell:
    """A rival at the main limit, at the rate of its role; the dense net trained on has fixed's."""
    role = f"{arm}, one round" if more.get("length") == "round" else arm
    knobs: dict[str, Any] = {"lr": RATES["fixed" if arm == "longer" else role]} | more
    return cell(arm, seed, target=MAIN, **knobs)


ROLES = (
    Role("dense", lambda s, lr: [Cell("dense", s, dense_lr=lr)], TRIED["dense"], "equal cost"),
    *(
        Role(arm, lambda s, lr, a=arm: [tuned(a, s, lr=lr)], TRIED[arm], "equal cost")
        for arm in (*RIVALS, "scratch")
    ),
    *(
        Role(f"{arm}, one round", lambda s, lr, a=arm: [tuned(a, s, lr=lr, length="round")],
             _RIVAL, "equal cost")
        for arm in RIVALS
    ),
)  # fmt: skip


# ---- grids


def adaptive(seed: int) -> list[Cell]:
    """All policies and limits, and the released code's rewinding at the main limit."""
    cells = [cell("adaptive", seed, target=limit) for limit in LIMITS]
    cells += [cell("adaptive", seed, policy=p, keep=k) for p in SIZES for k in KEEPS]
    return [*cells, cell("adaptive", seed, target=MAIN, rewind="rate")]


def beside(seed: int) -> list[Cell]:
    """What stands beside them."""
    cells = [tuned(arm, seed) for arm in (*RIVALS, "scratch", "longer")]
    return cells + [tuned(arm, seed, length="round") for arm in RIVALS]


def explored() -> list[Cell]:
    """The grid behind the explorer: policy × limit × first step, replicate 0."""
    return [
        run
        for first in EXPLORED_STEPS
        for run in (
            *(cell("adaptive", 0, target=limit, first=first) for limit in EXPLORED_LIMITS),
            *(
                cell("adaptive", 0, policy=policy, keep=keep, first=first)
                for policy in SIZES
                for keep in EXPLORED_KEEPS
            ),
        )
    ]


def _study() -> list[Cell]:
    # dense nets first, then what others are told by: no two workers make the same one
    seeds = range(SEEDS)
    cells = [cell("dense", s) for s in seeds]
    cells += [cell("adaptive", s, target=MAIN) for s in seeds]
    cells += [c for s in seeds for c in adaptive(s)]
    cells += [c for s in seeds for c in beside(s)] + explored()
    cells += [c for s in range(CHOICES) for c in (cell("dense", s), cell("choice", s))]
    return list(dict.fromkeys(cells))


def _quick() -> list[Cell]:
    """A slice of the study: replicate 0, the main limit and two rivals."""
    cells = [cell("dense", 0), cell("adaptive", 0, target=MAIN)]
    cells += [cell("adaptive", 0, target=MAIN, rewind="rate"), cell("choice", 0)]
    return [*cells, cell("adaptive", 0, policy="memory", keep=KEEPS[1]), tuned("fixed", 0)]


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    cells = [c for c in _quick() if c.rewind == "weights" and c.policy == "accuracy"]
    shorter = {"epochs": 0.5, "rounds": 2, "images": 64, "target": 30.0}
    return [replace(c, **({"epochs": 0.5} if c.arm == "dense" else shorter)) for c in cells]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def _run(rows: Rows, limit: float, **more: Any) -> dict[str, Any]:
    return rows.one(arm="adaptive", target=limit, **more)


def _overshoot(rows: Rows, of: str, limits: Sequence[float] = LIMITS) -> list[float]:
    """Loss of accuracy minus what was allowed, a share, for each limit."""
    whole = rows.one(arm="dense")[of]
    return [whole - _run(rows, limit)[of] - limit / 100 for limit in limits]


def limits_broken(rows: Rows) -> float:
    """Share of the limits that the search's last net breaks on validation, beyond rounding."""
    return mean(over > 1e-9 for over in _overshoot(rows, "val"))


def overshoot_on_test(rows: Rows) -> float:
    """Loss of test accuracy minus the limit, mean over the limits."""
    return mean(_overshoot(rows, "test"))


def _removed(rows: Rows, limit: float, **more: Any) -> float:
    return 1 - _run(rows, limit, **more)["params"] / rows.one(arm="dense")["params"]


def removed_for_nothing(rows: Rows) -> float:
    """Share of the parameters gone under a limit of 0 points."""
    return _removed(rows, 0.0)


def smallest_size_step(rows: Rows) -> float:
    """Smallest rise of the share gone from one limit to the next."""
    return smallest_step([_removed(rows, limit) for limit in LIMITS])


def memory_gain(rows: Rows) -> float:
    """Test accuracy of policy memory, three tenths kept, minus the dense net's."""
    small = rows.one(arm="adaptive", policy="memory", keep=KEEPS[1])["test"]
    return small - rows.one(arm="dense")["test"]


def activation_over_random(rows: Rows) -> float:
    """Before training, statistics anew: least active units gone minus random ones, three shares."""
    found = rows.one(arm="choice")
    pairs = zip(found["fixed"], found["random"], strict=True)
    return mean(a["test_re"] - b["test_re"] for a, b in pairs)


def _over(rows: Rows, rival: str, length: str = "all") -> float:
    """Test accuracy of the adaptive net minus a rival's of its size, by default of its cost."""
    return _run(rows, MAIN)["test"] - rows.one(arm=rival, target=MAIN, length=length)["test"]


def over_fixed(rows: Rows) -> float:
    """Equal size and cost: adaptive rounds minus one fixed threshold."""
    return _over(rows, "fixed")


def over_l1(rows: Rows) -> float:
    """Equal size and cost: adaptive rounds minus one cut by ℓ1."""
    return _over(rows, "l1")


def over_taylor(rows: Rows) -> float:
    """Equal size and cost: adaptive rounds minus one cut by Taylor's raw score."""
    return _over(rows, "taylor")


def over_taylor_normalised(rows: Rows) -> float:
    """Equal size and cost: adaptive rounds minus one cut by Taylor on one scale for all layers."""
    return _over(rows, "taylor_normalised")


def over_random(rows: Rows) -> float:
    """Equal size and cost: adaptive rounds minus one random cut."""
    return _over(rows, "random")


def over_strongest(rows: Rows) -> float:
    """Equal size: adaptive rounds minus the cut and length of training best on validation."""
    return _over_strongest(rows, FOUR)


def _over_strongest(rows: Rows, cuts: Sequence[str]) -> float:
    rivals = [rows.one(arm=a, target=MAIN, length=how) for a in cuts for how in LENGTHS]
    return _run(rows, MAIN)["test"] - max(rivals, key=lambda n: n["val"])["test"]


def over_scratch(rows: Rows) -> float:
    """Equal cost: adaptive rounds minus their last shape from fresh weights."""
    return _over(rows, "scratch")


def weights_over_rate(rows: Rows) -> float:
    """Same limit: share of parameters gone with weights rewound minus with the rate alone."""
    return _removed(rows, MAIN) - _removed(rows, MAIN, rewind="rate")


STATISTICS = statistics(
    Cell, limits_broken, overshoot_on_test, removed_for_nothing, smallest_size_step, memory_gain,
    activation_over_random, over_fixed, over_l1, over_taylor, over_random,
    over_taylor_normalised, over_strongest, over_scratch, weights_over_rate,
    free=("lr", "dense_lr"),
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        f"over_{rival}": {
            "the rival trained for one round": lambda r, rival=rival: _over(r, rival, "round"),
        }
        for rival in RIVALS
    }
    | {
        "over_strongest": {
            "Taylor on one scale among the cuts": lambda r: _over_strongest(r, RIVALS),
        },
    },
    free=("lr", "dense_lr"),
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
