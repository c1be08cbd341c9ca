"""A user's own net and images: what is measured. The dense net, and every method from it."""

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from survey_lib.experiments.context import Context
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import save_compressed
from survey_lib.methods import contract
from survey_lib.methods.asked import asked
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.own import load_weights, own_splits, own_task
from survey_lib.tasks.states import distinct
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import fit

DATA = ()
INEXACT = ("seconds",)
MODULES = tuple(sorted({
    f"{contract.PACKAGE}.{e.module}" for e in contract.METHODS.values()
    if (e.kind, e.steers) == ("channels", "budget")
}))  # fmt: skip
"""The methods are looked up by name; results of other versions of them are not these."""


@dataclass(frozen=True)
class Cell:
    """One net: the dense one, that trained on, or one made smaller by a method."""

    arm: str
    """``dense``, ``longer`` (the dense net, trained on for the tuning) or ``method``."""
    seed: int
    spec: str = ""
    """The net, see :func:`survey_lib.tasks.own.constructor`."""
    data: str = ""
    """``imagefolder:PATH`` or ``cifar10``."""
    given: str = ""
    """A hash of the images, the net's file and its weights: results of others are not these."""
    weights: str = ""
    """A safetensors file of the trained net; empty: it is trained here, one a seed."""
    size: int = 64
    train_epochs: float = 8.0
    train_lr: float = 0.02
    batch: int = 64
    method: str = ""
    """As :func:`survey_lib.methods.asked.asked` reads it."""
    metric: str = "macs"
    keep: float = 0.5
    epochs: float = 0.0
    """Of tuning; 0 tunes nothing."""
    lr: float = 0.0


def dense_of(cell: Cell) -> Cell:
    """The dense net that a cell starts from."""
    plain = {f: Cell.__dataclass_fields__[f].default for f in ("method", "metric", "keep")}
    return replace(cell, arm="dense", epochs=0.0, lr=0.0, **plain)


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The dense net comes first."""
    return () if cell.arm == "dense" else (dense_of(cell),)


@lru_cache(maxsize=2)
def _splits(data: str, size: int, given: str) -> Any:
    del given  # other images under the same name are read anew
    return own_splits(data, size=size)


def task_of(cell: Cell) -> Task:
    """The user's net on the user's images, with the dense net's training."""
    training = Training(epochs=cell.train_epochs, batch=cell.batch, lr=cell.train_lr)
    return own_task(cell.spec, _splits(cell.data, cell.size, cell.given), training)


def _start(context: Context) -> tuple[Task, nn.Module]:
    task = task_of(context.cell)
    net = task.build(seeded(context.cell.seed))
    path = context.kept(dense_of(context.cell), "dense.safetensors")
    return task, load_weights(net, path).eval()


def dense(context: Context) -> dict[str, Any]:
    """The net as it was given, or trained here."""
    cell, task = context.cell, task_of(context.cell)
    net = task.build(seeded(cell.seed))
    if cell.weights:
        load_weights(net, Path(cell.weights))
    else:
        fit(net, task, generator=seeded(cell.seed))
    net.eval()
    save_file(distinct(net)[0], context.keep("dense.safetensors"))
    return standard(net, task)


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on for as long as the others are tuned."""
    task, net = _start(context)
    tuning = _tuning(context.cell)
    history = fit(net, task, tuning, generator=context.generator())
    return standard(net.eval(), task) | {"steps": history.steps}


def method(context: Context) -> dict[str, Any]:
    """A method at the budget, then the tuning; what is kept can be loaded as ``survey prune``'s."""
    cell = context.cell
    task, net = _start(context)
    one = asked(cell.method)
    result = one.entry.compress(
        net, task, Budget(cell.metric, cell.keep), one.config,
        tuning=_tuning(cell) if cell.epochs else None, generator=context.generator(),
    )  # fmt: skip
    graph = trace_groups(net, task.example(1))
    folder = context.keep("net")
    save_compressed(result.model, graph, result.recipe, folder, constructor=cell.spec)
    return standard(result.model, task) | {
        "steps": result.steps,
        "passes": result.forward_passes + result.backward_passes,
        "seconds": result.seconds,
        "layers": result.table,
    }


def _tuning(cell: Cell) -> Training:
    return Training(epochs=cell.epochs, batch=cell.batch, lr=cell.lr)


ARMS = {"dense": dense, "longer": longer, "method": method}
