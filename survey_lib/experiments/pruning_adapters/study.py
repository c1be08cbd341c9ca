"""Hedegaard et al. (2022): what is asked of the runs, and which runs that takes."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, statistics, tune_grid
from survey_lib.experiments.pruning_adapters.cells import STEPS, Cell

CRITERIA = ("weight", "gradient", "taylor", "lrp")
"""The paper's four; ``random`` is the rival."""
RANKS = (1, 4, 16)
RANK = 4
"""r of the claims."""
FEWEST, FEW, MANY = 100, 500, 5000
"""Images of the target."""
SEEDS, FEWER_SEEDS, PILOT_SEEDS = 8, 5, 3
"""Replicates of what claims read, of what figures alone show, and of the trial."""
THIRTY, TEN = 2, 3
"""Places in a run's lists."""

RATES: dict[str, float] = {
    "fine": 0.2,
    "head": 0.8,
    "splora 1": 0.2,
    "splora 4": 0.2,
    "splora 16": 0.2,
    "sppara": 0.1,
    "fine, 100": 0.2,
    "splora 4, 100": 0.1,
    "fine, 5000": 0.2,
    "splora 4, 5000": 0.2,
    "dense": 0.05,
    "scratch": 0.2,
    "inherited": 0.1,
    "settled fine": 0.2,
    "settled splora 4": 0.025,
}
"""The best mean on validation of those tried (``survey run pruning_adapters --profile tune``): over
the four densities of a path, Taylor's criterion; *settled*: after as many steps again. A name tells
learner, rank and images."""
LOW, MIDDLE, HIGH = (tuple(r * f for f in (0.25, 0.5, 1, 2, 4)) for r in (0.05, 0.1, 0.4))
TRIED: dict[str, tuple[float, ...]] = {
    "fine": MIDDLE,
    "head": HIGH,
    "splora 1": MIDDLE,
    "splora 4": MIDDLE,
    "splora 16": MIDDLE,
    "sppara": MIDDLE,
    "fine, 100": MIDDLE,
    "splora 4, 100": MIDDLE,
    "fine, 5000": MIDDLE,
    "splora 4, 5000": MIDDLE,
    "dense": LOW,
    "scratch": MIDDLE,
    "inherited": LOW,
    "settled fine": MIDDLE,
    "settled splora 4": LOW,
}
SHOWN = ("splora 16", "sppara", "dense", "inherited")
"""Roles that no claim reads."""
SMALL_LR = 0.025
"""One rate for all learners, the smallest that all of them tried; the paper has one."""
REPLICATES = (900, 901, 902)
SHAPE_LR = 0.05
"""Rate of the run whose shape is taken while rates are chosen."""


def cell_of(role: str, seed: int, lr: float | None = None, **more: Any) -> Cell:
    """A run of a role, at its rate or another."""
    name, _, images = role.removeprefix("settled ").partition(", ")
    arm, _, rank = name.partition(" ")
    knobs: dict[str, Any] = {"lr": RATES[role] if lr is None else lr}
    if lr is not None and not role.startswith("settled"):
        knobs["settle"] = 0
    if rank:
        knobs["rank"] = int(rank)
    if images:
        knobs["images"] = int(images)
    if arm in ("scratch", "inherited"):
        knobs["shape_lr"] = RATES["fine"]
    return Cell(arm, seed, **knobs | more)


def _role(name: str) -> Role:
    shape = {"shape_lr": SHAPE_LR} if name in ("scratch", "inherited") else {}

    def cells(seed: int, lr: float) -> list[Cell]:
        return [cell_of(name, seed, lr, **shape)]

    whole = name in ("dense", "scratch", "inherited")
    score = "val" if whole else "settled_val" if name.startswith("settled") else "val_path"
    return Role(name, cells, TRIED[name], "tuned", score)


ROLES = tuple(_role(name) for name in RATES)


# ---- grids


def _study() -> list[Cell]:
    cells = [Cell("source", s) for s in range(SEEDS)]
    cells += [
        cell_of(role, s) for role in RATES for s in range(FEWER_SEEDS if role in SHOWN else SEEDS)
    ]
    for role in ("fine", "splora 4"):
        cells += [cell_of(role, s, criterion=c) for s in range(SEEDS) for c in CRITERIA]
        cells += [cell_of(role, s, criterion="random") for s in range(FEWER_SEEDS)]
        cells += [cell_of(role, s, lr=SMALL_LR, settle=STEPS) for s in range(PILOT_SEEDS)]
    others = (Cell("time", 0), Cell("smollm2", 0, rank=8))
    return list(dict.fromkeys([*cells, *explored(), *others]))


def explored() -> list[Cell]:
    """The grid behind the explorer: rank × criterion, replicate 0."""
    return [cell_of(f"splora {r}", 0, criterion=c) for r in RANKS for c in CRITERIA]


def _quick() -> list[Cell]:
    """A slice of the study: replicate 0, the learners with the paper's criterion."""
    return [cell_of(role, 0) for role in ("fine", "splora 4", "head")]


def _smoke() -> list[Cell]:
    """One path."""
    return [cell_of("splora 4, 100", 0, epochs=0.3, settle=0)]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def run_of(rows: Rows, role: str, **knobs: Any) -> dict[str, Any]:
    """The numbers of a role's run, at its rate unless told otherwise."""
    wanted = asdict(cell_of(role, 0)) | knobs
    return rows.one(**{k: v for k, v in wanted.items() if k != "seed"})


def tenth(rows: Rows, role: str, **knobs: Any) -> float:
    """Accuracy with 10 % of the filters, the statistics of batch norm estimated anew."""
    return run_of(rows, role, **knobs)["test_re"]


def lead(rows: Rows, images: str = "") -> float:
    """10 % of the filters: accuracy of SPLoRA minus that of fine-pruning."""
    return tenth(rows, "splora 4" + images) - tenth(rows, "fine" + images)


def adapter_gain_at_ten(rows: Rows) -> float:
    """500 images, 10 % of the filters: SPLoRA − fine-pruning."""
    return lead(rows)


def gain_with_hundred(rows: Rows) -> float:
    """100 images, 10 % of the filters: SPLoRA − fine-pruning."""
    return lead(rows, f", {FEWEST}")


def gain_with_many(rows: Rows) -> float:
    """5,000 images, 10 % of the filters: SPLoRA − fine-pruning."""
    return lead(rows, f", {MANY}")


def adapter_loss_at_thirty(rows: Rows) -> float:
    """500 images, 30 % of the filters: SPLoRA − fine-pruning."""
    ours, theirs = (run_of(rows, role)["test_at"][THIRTY] for role in ("splora 4", "fine"))
    return ours - theirs


def gain_settled(rows: Rows) -> float:
    """500 images, 10 % of the filters, and as many steps again: SPLoRA − fine-pruning."""
    ours, theirs = (run_of(rows, f"settled {r}")["settled"] for r in ("splora 4", "fine"))
    return ours - theirs


def rank_gain_at_ten(rows: Rows) -> float:
    """500 images, 10 % of the filters: SPLoRA of rank 4 − of rank 1."""
    return tenth(rows, "splora 4") - tenth(rows, "splora 1")


def spread(rows: Rows, role: str) -> float:
    """Best minus worst of the paper's criteria at 10 % of the filters."""
    found = [tenth(rows, role, criterion=c) for c in CRITERIA]
    return max(found) - min(found)


def spread_difference(rows: Rows) -> float:
    """How much further the criteria lie apart for fine-pruning than for SPLoRA."""
    return spread(rows, "fine") - spread(rows, "splora 4")


def over_batch_norm(rows: Rows) -> float:
    """10 % of the filters: SPLoRA − batch norm and head alone."""
    return tenth(rows, "splora 4") - tenth(rows, "head")


def over_fresh(rows: Rows) -> float:
    """10 % of the filters, settled: SPLoRA − the shape of fine-pruning, from fresh weights."""
    return run_of(rows, "settled splora 4")["settled"] - run_of(rows, "scratch")["test"]


def learned_ratio(rows: Rows, place: int) -> float:
    """Learned parameters of fine-pruning over those of SPLoRA."""
    fine, ours = (run_of(rows, role)["learned_at"] for role in ("fine", "splora 4"))
    return fine[place] / ours[place]


def learned_ratio_at_thirty(rows: Rows) -> float:
    """30 % of the filters."""
    return learned_ratio(rows, THIRTY)


def saving_change(rows: Rows) -> float:
    """Log of the ratio at 30 % minus that at 10 %."""
    return math.log(learned_ratio(rows, THIRTY) / learned_ratio(rows, TEN))


def fused_difference(rows: Rows) -> float:
    """Largest difference of a logit at any density."""
    return max(run_of(rows, "splora 4")["gap_at"])


def fused_macs_ratio(rows: Rows) -> float:
    """MACs of the fused net over those of a net cut by the same masks; that furthest from 1."""
    found = run_of(rows, "splora 4")
    ratios = [a / b for a, b in zip(found["macs_at"], found["macs_cut_at"], strict=True)]
    return max(ratios, key=lambda r: abs(r - 1))


def tasks_to_pay(rows: Rows) -> float:
    """Tasks from which one frozen net and adapters take fewer bytes than fine-pruned nets, 10 %."""
    fine, ours = (run_of(rows, role) for role in ("fine", "splora 4"))
    return ours["source_bytes"] / (fine["bytes_at"][TEN] - ours["bytes_at"][TEN])


STATISTICS = statistics(
    Cell, adapter_gain_at_ten, gain_with_hundred, gain_with_many, adapter_loss_at_thirty,
    gain_settled, rank_gain_at_ten, spread_difference, over_batch_norm, over_fresh,
    learned_ratio_at_thirty, saving_change, fused_difference, fused_macs_ratio, tasks_to_pay,
    free=(),
)  # fmt: skip
