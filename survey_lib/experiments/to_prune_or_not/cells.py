"""Zhu & Gupta (2017): what is measured. A net trained small, or trained large and cut on the way.

Three families, each a large net and narrower ones of the same shape. A pruned cell cuts the large
net, during one ordinary training, to exactly the parameter count of a narrower dense net
(``match``), so that pairs stand at equal non-zeros and equal training steps.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from safetensors.torch import load_file, save_file
from torch import nn

from survey_lib.experiments.context import Context
from survey_lib.measure.size import count_parameters
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.masks import MaskedWeights, fit_masked, prunable_weights
from survey_lib.methods import baselines
from survey_lib.methods import to_prune_or_not as method
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import fit

DATA = ("fashion_mnist.npz", "shakespeare.txt.gz")
INEXACT = ()
POINTS = 40
"""Points of a curve of training losses."""


@dataclass(frozen=True)
class Family:
    """A net that comes in widths, and how long it takes to converge."""

    model: str
    epochs: float
    options: dict[str, Any] = field(default_factory=dict)


FAMILIES = {
    "mlp": Family("mlp", 20.0),
    "cnn": Family("cnn_small", 16.0),
    "gpt": Family("char_gpt", 8.0, {"layers": 2}),
}
"""Epochs: as many again gain a large net less than half a point, or 0.01 nats (arm dense)."""


@dataclass(frozen=True)
class Cell:
    """One training: a net, and what is cut from it meanwhile."""

    arm: str
    """``dense``, ``gradual``, ``one_shot``, ``random`` (random masks, cut at once) or ``fresh``
    (the masks that ``gradual`` ended with, on a fresh net from the first step)."""
    seed: int
    family: str = "cnn"
    width: float = 1.0
    """Of the net that is trained."""
    match: float = 0.0
    """Keep as many parameters as the dense net of this width has …"""
    keep: float = 0.0
    """… or this share of the parameters."""
    exponent: float = 3.0
    begin: float = 0.15
    end: float = 0.6
    n: int = 20
    scope: str = "layerwise"
    longer: float = 1.0
    """Times the family's epochs."""
    lr: float = 0.0


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The cells whose masks a cell uses."""
    return (pattern(cell),) if cell.arm == "fresh" else ()


def pattern(cell: Cell) -> Cell:
    """The gradual run whose masks a ``fresh`` cell uses."""
    return replace(cell, arm="gradual")


def task_of(cell: Cell) -> Task:
    """The task a cell trains on, with its own training length and rate."""
    family = FAMILIES[cell.family]
    task = load_task(family.model, width=cell.width, **family.options)
    return task.with_training(epochs=family.epochs * cell.longer, lr=cell.lr)


@lru_cache(maxsize=64)
def dense_parameters(family: str, width: float) -> int:
    """Parameter count of the dense net of a family at a width."""
    task = load_task(FAMILIES[family].model, width=width, **FAMILIES[family].options)
    return count_parameters(task.build(seeded(0)))


def kept_share(cell: Cell) -> float:
    """Share of the parameters that a cell keeps."""
    if cell.match:
        return dense_parameters(cell.family, cell.match) / dense_parameters(cell.family, cell.width)
    return cell.keep or 1.0


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training."""
    task, generator = task_of(context.cell), seeded(context.cell.seed)
    model = task.build(generator)
    return measured(model, task, fit(model, task, generator=generator).loss)


def pruned(context: Context) -> dict[str, Any]:
    """The same training, cut on the way."""
    cell, generator = context.cell, seeded(context.cell.seed)
    task = task_of(cell)
    model, budget = task.build(generator), Budget("nonzeros", kept_share(cell))
    names = ("exponent", "begin", "end", "n", "scope")
    config = method.Config(**{name: getattr(cell, name) for name in names})
    result = method.compress(model, task, budget, config, tuning=task.training, generator=generator)
    if cell == pattern(cell):
        masks = {name: mask.contiguous() for name, mask in result.masks.items()}
        save_file(masks, context.keep("masks.safetensors"))
    return measured(result.model, task, result.trace["loss"]) | cuts(result)


def random(context: Context) -> dict[str, Any]:
    """Random masks from the first step on."""
    cell, generator = context.cell, seeded(context.cell.seed)
    task = task_of(cell)
    model, budget = task.build(generator), Budget("nonzeros", kept_share(cell))
    config = baselines.Config(criterion="random", scope=cell.scope)
    result = baselines.compress(
        model, task, budget, config, tuning=task.training, generator=generator
    )
    return measured(result.model, task, result.trace["loss"]) | cuts(result)


def fresh(context: Context) -> dict[str, Any]:
    """The pruned net's masks on fresh weights, for as many steps as the pruned net had."""
    cell, generator = context.cell, seeded(context.cell.seed, 1)
    task = task_of(cell)
    model = task.build(generator)
    masked = MaskedWeights(prunable_weights(model), readmit=False)
    masked.set(load_file(context.kept(pattern(cell), "masks.safetensors")))
    history = fit_masked(model, masked, task, task.training, generator=generator)
    return measured(model, task, history.loss)


ARMS = {"dense": dense, "gradual": pruned, "one_shot": pruned, "random": random, "fresh": fresh}


def measured(model: nn.Module, task: Task, losses: list[float]) -> dict[str, Any]:
    """The standard numbers, steps made, and the training loss in :data:`POINTS` means."""
    every = max(1, len(losses) // POINTS)
    curve = [losses[i : i + every] for i in range(0, len(losses), every)]
    return standard(model, task) | {
        "steps": len(losses),
        "loss_curve": [round(sum(part) / len(part), 4) for part in curve],
    }


def cuts(result: Compressed) -> dict[str, Any]:
    """Weights of each layer before and after, and the path of the sparsity."""
    trace = {k: [round(v, 5) for v in values] for k, values in result.trace.items() if k != "loss"}
    layers = {row["layer"]: [row["weights"], row["kept"]] for row in result.table}
    return {"layers": layers, "trace": trace}
