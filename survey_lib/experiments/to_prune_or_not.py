"""Zhu & Gupta (2017) on small tasks: large-sparse against small-dense at equal non-zeros.

Three families, each a large net and narrower ones of the same shape. A sparse cell prunes the
large net, during one ordinary training, to exactly the parameter count of a narrower dense net
(``match``), so that pairs are compared at equal non-zeros and equal training steps.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import log
from typing import Any

import torch

from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.measure.macs import count_macs, count_nonzero_macs
from survey_lib.measure.size import count_parameters, sizes
from survey_lib.mechanics.budget import Budget
from survey_lib.methods import baselines, to_prune_or_not
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit

DATA = ("fashion_mnist.npz", "shakespeare.txt.gz")

DENSE_WIDTHS = {
    "cnn_small": (1.0, 0.71, 0.5, 0.32, 0.22, 0.16),
    "mlp": (1.0, 0.5, 0.25, 0.1, 0.05),
    "char_gpt": (0.5, 0.25, 0.125),
}
"""The first width of each family is the large net, the others set the budgets."""
MEDIUM = 0.5
"""The medium CNN: the other starting size, and the net of the schedule ablations."""
ABLATED = 0.16
"""Budget of the ablations: the parameter count of the CNN of this width (16.6 % of the medium)."""
EPOCHS = {"cnn_small": 8.0, "mlp": 15.0, "char_gpt": 1.0}
SEEDS = {"cnn_small": 5, "mlp": 8, "char_gpt": 5, "ablation": 6}

LEARNING_RATES: dict[str, dict[str, float]] = {
    "cnn_small": {"large": 0.05, "small": 0.1, "sparse": 0.1},
    "mlp": {"large": 0.05, "small": 0.05, "sparse": 0.1},
    "char_gpt": {"large": 0.012, "small": 0.024, "sparse": 0.012},
}
"""The best mean over :data:`TUNE_SEEDS` on validation, of :data:`TRIED_RATES` (``tune``)."""
TRIED_RATES = {
    "cnn_small": (0.025, 0.05, 0.1),
    "mlp": (0.02, 0.05, 0.1),
    "char_gpt": (0.006, 0.012, 0.024),
}
TUNE_SEEDS = (900, 901, 902)

EXPLORER_KEEP = (0.5, 0.25, 0.1, 0.05)
EXPLORER_EXPONENTS = (1.0, 3.0, 6.0)
EXPLORER_WINDOWS = ((0.05, 0.3), (0.15, 0.6), (0.5, 0.95))


@dataclass(frozen=True)
class Cell:
    """One run: a net, a budget and a way to meet it."""

    task: str
    width: float
    """Width of the net that is trained."""
    arm: str
    """``dense``, ``gradual``, ``one_shot`` or ``random``."""
    seed: int
    match: float | None = None
    """Prune to the parameter count of the dense net of this width …"""
    keep: float | None = None
    """… or to this share of the parameters."""
    exponent: float = 3.0
    begin: float = 0.15
    end: float = 0.6
    n: int = 20
    scope: str = "layerwise"
    epochs: float = 8.0
    lr: float = 0.1


def _cell(task: str, width: float, arm: str, seed: int, **more: Any) -> Cell:
    role = "sparse" if arm != "dense" else "large" if width == DENSE_WIDTHS[task][0] else "small"
    rate = LEARNING_RATES[task][role]
    options: dict[str, Any] = {"epochs": EPOCHS[task], "lr": rate} | more
    return Cell(task, width, arm, seed, **options)


def _pairs(task: str, seed: int) -> list[Cell]:
    """All dense widths of a family, and the large net pruned to each of the smaller ones."""
    large, *small = DENSE_WIDTHS[task]
    dense = [_cell(task, w, "dense", seed) for w in (large, *small)]
    return dense + [_cell(task, large, "gradual", seed, match=w) for w in small]


def _ablation(seed: int) -> list[Cell]:
    """The medium CNN at one small budget: the paper's schedule, and what differs from it."""
    base = _cell("cnn_small", MEDIUM, "gradual", seed, match=ABLATED)
    return [
        base,
        replace(base, arm="one_shot", n=1),
        replace(base, exponent=1.0),
        replace(base, n=5),
        replace(base, scope="global"),
        replace(base, arm="random", n=1),
    ]


def _explorer(seed: int) -> list[Cell]:
    """The grid behind the explorer: final size × exponent × pruning window, medium CNN."""
    return [
        _cell("cnn_small", MEDIUM, "gradual", seed, keep=k, exponent=e, begin=b, end=f)
        for k in EXPLORER_KEEP
        for e in EXPLORER_EXPONENTS
        for b, f in EXPLORER_WINDOWS
    ]


def _study() -> list[Cell]:
    cells = [c for s in range(SEEDS["cnn_small"]) for c in _pairs("cnn_small", s)]
    cells += [
        _cell("cnn_small", MEDIUM, "gradual", s, match=w)
        for s in range(SEEDS["cnn_small"])
        for w in (0.32, 0.22)
    ]
    for task in ("mlp", "char_gpt"):
        cells += [c for s in range(SEEDS[task]) for c in _pairs(task, s)]
    cells += [_cell("char_gpt", 0.5, "gradual", s, keep=0.5) for s in range(SEEDS["char_gpt"])]
    cells += [c for s in range(SEEDS["ablation"]) for c in _ablation(s)]
    cells += _explorer(0)
    return _longest_first(list(dict.fromkeys(cells)))


def _longest_first(cells: list[Cell]) -> list[Cell]:
    """Long cells first, so that no straggler is left for the end."""
    order = {"char_gpt": 0, "cnn_small": 1, "mlp": 2}
    return sorted(cells, key=lambda c: (order[c.task], -c.width))


def _quick() -> list[Cell]:
    """A slice of the study, seed 0: the CNN's dense line and smallest budget, all of the MLP."""
    keep = {("dense", w) for w in (1.0, 0.5, 0.32, 0.22, 0.16)}
    cnn = [c for c in _pairs("cnn_small", 0) if c.match == 0.16 or (c.arm, c.width) in keep]
    return cnn + _ablation(0)[:2] + _pairs("mlp", 0)


def _smoke() -> list[Cell]:
    short = [c for c in _pairs("mlp", 0) if 0.1 in (c.width, c.match)]
    ablation = [replace(c, width=0.16, match=0.1) for c in _ablation(0)[:2]]
    dense = _cell("cnn_small", 0.16, "dense", 0)
    return [replace(c, epochs=1.0) for c in (*short, *ablation, dense)]


def _tune() -> list[Cell]:
    """Each family's large dense, small dense and sparse net at three learning rates."""
    cells = []
    for task, rates in TRIED_RATES.items():
        large, small = DENSE_WIDTHS[task][0], DENSE_WIDTHS[task][-1]
        for lr in rates:
            for seed in TUNE_SEEDS:
                cells += [_cell(task, w, "dense", seed, lr=lr) for w in (large, small)]
                cells += [_cell(task, large, "gradual", seed, match=small, lr=lr)]
    return _longest_first(cells)


def best_rates(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """The choice :data:`LEARNING_RATES` rests on: the rate with the best mean on validation."""
    chosen: dict[str, dict[str, float]] = {}
    for task, widths in DENSE_WIDTHS.items():
        sign = -1 if task == "char_gpt" else 1  # perplexity is better when lower
        roles = {"large": ("dense", widths[0]), "small": ("dense", widths[-1])}
        for role, (arm, width) in (roles | {"sparse": ("gradual", widths[0])}).items():
            means = {}
            for lr in TRIED_RATES[task]:
                wanted = {"task": task, "arm": arm, "width": width, "lr": lr}
                values = [
                    r.numbers["val"]
                    for r in records
                    if all(r.config[k] == v for k, v in wanted.items())
                ]
                means[lr] = sign * sum(values) / len(values)
            chosen.setdefault(task, {})[role] = max(means, key=means.__getitem__)
    return chosen


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": _tune,
}


def grid(profile: str) -> list[Cell]:
    """The cells of a profile; every quick cell is one of the study's."""
    return GRIDS[profile]()


def task_of(cell: Cell) -> Task:
    """The task a cell trains on, with its own training length and rate."""
    return load_task(cell.task, width=cell.width).with_training(epochs=cell.epochs, lr=cell.lr)


@lru_cache(maxsize=64)
def dense_parameters(task: str, width: float) -> int:
    """Parameter count of the dense net of a family at a width."""
    return count_parameters(load_task(task, width=width).build(seeded(0)))


def kept_share(cell: Cell) -> float:
    """Share of the parameters that a sparse cell keeps."""
    if cell.keep is not None:
        return cell.keep
    if cell.match is None:
        return 1.0
    return dense_parameters(cell.task, cell.match) / dense_parameters(cell.task, cell.width)


def run(cell: Cell) -> dict[str, Any]:
    """Train one net, pruned or not, and measure it on validation and test."""
    task = task_of(cell)
    generator = seeded(cell.seed)
    model = task.build(generator)
    if cell.arm == "dense":
        loss = fit(model, task, generator=generator).loss
        layers, trace = {}, {}
    else:
        model, layers, trace = _prune(model, task, cell, generator)
        loss = trace.pop("loss")
    numbers: dict[str, Any] = {"val": _metric(model, task, "val")}
    numbers |= evaluate(model, task.test, task) | sizes(model)
    numbers["macs"] = count_macs(model, task.example(1))
    numbers["macs_nonzero"] = count_nonzero_macs(model, task.example(1))
    numbers["steps"] = len(loss)
    every = max(1, len(loss) // 40)
    numbers["loss_curve"] = [
        round(sum(loss[i : i + every]) / len(loss[i : i + every]), 4)
        for i in range(0, len(loss), every)
    ]
    return numbers | {"layers": layers, "trace": trace}


def _metric(model: torch.nn.Module, task: Task, split: str) -> float:
    return evaluate(model, getattr(task, split), task)[task.metric]


def _prune(
    model: torch.nn.Module, task: Task, cell: Cell, generator: torch.Generator
) -> tuple[torch.nn.Module, dict[str, list[int]], dict[str, list[float]]]:
    budget = Budget("nonzeros", kept_share(cell))
    if cell.arm == "random":
        config: Any = baselines.Config(criterion="random", scope=cell.scope)
        result = baselines.compress(model, task, budget, config, generator=generator)
    else:
        names = ("exponent", "begin", "end", "n", "scope")
        config = to_prune_or_not.Config(**{k: v for k, v in asdict(cell).items() if k in names})
        result = to_prune_or_not.compress(model, task, budget, config, generator=generator)
    layers = {row["layer"]: [row["weights"], row["kept"]] for row in result.table}
    trace = {k: [round(v, 5) for v in values] for k, values in result.trace.items()}
    return result.model, layers, trace


# ---- the statistic of each claim: one seed's records → a number; MissingArm when an arm is missing


def pick(rows: Sequence[Record], **wanted: Any) -> dict[str, Any]:
    """Numbers of the one record whose configuration has these values.

    Raises:
        MissingArm: there is none.
        ValueError: there is more than one.
    """
    found = [r.numbers for r in rows if all(r.config[k] == v for k, v in wanted.items())]
    if not found:
        raise MissingArm(f"no record with {wanted}")
    if len(found) > 1:
        raise ValueError(f"{len(found)} records with {wanted}")
    return found[0]


DEFAULT = {"exponent": 3.0, "begin": 0.15, "end": 0.6, "n": 20, "scope": "layerwise"}


def _dense(rows: Sequence[Record], task: str, width: float) -> dict[str, Any]:
    return pick(rows, task=task, width=width, arm="dense")


def _sparse(rows: Sequence[Record], task: str, match: float, width: float | None = None) -> Any:
    width = width or DENSE_WIDTHS[task][0]
    return pick(rows, task=task, width=width, arm="gradual", match=match, **DEFAULT)


def _gap(rows: Sequence[Record], task: str, width: float) -> float:
    """Accuracy of the large net pruned to the size of ``width``, minus that of the dense one."""
    return _sparse(rows, task, width)["accuracy"] - _dense(rows, task, width)["accuracy"]


def mlp_gap(rows: Sequence[Record]) -> float:
    """Mean over the MLP's four budgets of accuracy(large-sparse) − accuracy(small-dense)."""
    widths = DENSE_WIDTHS["mlp"][1:]
    return sum(_gap(rows, "mlp", w) for w in widths) / len(widths)


def cnn_gap(rows: Sequence[Record]) -> float:
    """Mean over the CNN's five budgets of accuracy(large-sparse) − accuracy(small-dense)."""
    widths = DENSE_WIDTHS["cnn_small"][1:]
    return sum(_gap(rows, "cnn_small", w) for w in widths) / len(widths)


def gpt_gap(rows: Sequence[Record]) -> float:
    """Mean over two budgets of ln perplexity(small-dense) − ln perplexity(large-sparse)."""
    widths = DENSE_WIDTHS["char_gpt"][1:]
    return sum(
        log(_dense(rows, "char_gpt", w)["perplexity"])
        - log(_sparse(rows, "char_gpt", w)["perplexity"])
        for w in widths
    ) / len(widths)


def gap_growth(rows: Sequence[Record]) -> float:
    """CNN: the gap at the smallest budget minus the gap at the largest."""
    widths = DENSE_WIDTHS["cnn_small"]
    return _gap(rows, "cnn_small", widths[-1]) - _gap(rows, "cnn_small", widths[1])


def half_is_free(rows: Sequence[Record]) -> float:
    """CNN: accuracy at half the parameters minus accuracy of the dense large net."""
    return _sparse(rows, "cnn_small", 0.71)["accuracy"] - _dense(rows, "cnn_small", 1.0)["accuracy"]


def half_is_free_gpt(rows: Sequence[Record]) -> float:
    """GPT: ln perplexity at half the parameters minus that of the dense large net."""
    half = pick(rows, task="char_gpt", width=0.5, arm="gradual", keep=0.5, **DEFAULT)
    return log(half["perplexity"]) - log(_dense(rows, "char_gpt", 0.5)["perplexity"])


def accelerating_loss(rows: Sequence[Record]) -> float:
    """CNN: accuracy lost from 14 % to 5 % of the parameters, minus that lost from all to 14 %."""
    full = _dense(rows, "cnn_small", 1.0)["accuracy"]
    middle, end = (_sparse(rows, "cnn_small", w)["accuracy"] for w in (0.32, 0.16))
    return (middle - end) - (full - middle)


def medium_start(rows: Sequence[Record]) -> float:
    """At the smallest budget: accuracy from the medium net minus accuracy from the large one."""
    medium = _sparse(rows, "cnn_small", 0.16, MEDIUM)["accuracy"]
    return medium - _sparse(rows, "cnn_small", 0.16)["accuracy"]


def gradual_over_one_shot(rows: Sequence[Record]) -> float:
    """Medium CNN at the smallest budget: accuracy(gradual) − accuracy(all cut at once)."""
    shot = pick(rows, task="cnn_small", width=MEDIUM, arm="one_shot", match=ABLATED)
    return _sparse(rows, "cnn_small", ABLATED, MEDIUM)["accuracy"] - shot["accuracy"]


def update_interval(rows: Sequence[Record]) -> float:
    """Medium CNN: accuracy with 5 pruning updates minus accuracy with 20."""
    few = pick(rows, task="cnn_small", width=MEDIUM, arm="gradual", match=ABLATED, n=5)
    return few["accuracy"] - _sparse(rows, "cnn_small", ABLATED, MEDIUM)["accuracy"]


def gap_at_equal_bytes(rows: Sequence[Record]) -> float:
    """MLP: as ``mlp_gap``, but against the dense net that weighs as much as the bit-mask file.

    The dense nets' accuracy is interpolated linearly in log bytes; budgets whose file is
    larger than the largest dense net's are left out.
    """
    dense = sorted(
        (d["bytes_dense"], d["accuracy"])
        for d in (_dense(rows, "mlp", w) for w in DENSE_WIDTHS["mlp"])
    )
    gaps = []
    for width in DENSE_WIDTHS["mlp"][1:]:
        sparse = _sparse(rows, "mlp", width)
        gaps.append(sparse["accuracy"] - interpolate(dense, sparse["bytes_bitmask"]))
    return sum(gaps) / len(gaps)


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """Value at ``x`` of points (x, y) sorted by x, linear in log x; ValueError outside them."""
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * log(x / x0) / log(x1 / x0)
    raise ValueError(f"{x} lies outside {points[0][0]} … {points[-1][0]}")


def mask_share(rows: Sequence[Record]) -> float:
    """Share of the large MLP's bit-mask file at 1/20 of the width that is mask, not values."""
    sparse = _sparse(rows, "mlp", 0.05)
    return 1 - 4 * sparse["nonzeros"] / sparse["bytes_bitmask"]


STATISTICS: dict[str, Callable[[Sequence[Record]], float]] = {
    f.__name__: f
    for f in (
        mlp_gap, cnn_gap, gpt_gap, gap_growth, half_is_free, half_is_free_gpt, accelerating_loss,
        medium_start, gradual_over_one_shot, update_interval, gap_at_equal_bytes, mask_share,
    )
}  # fmt: skip
