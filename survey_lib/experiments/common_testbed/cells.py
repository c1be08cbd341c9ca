"""The common testbed: what is measured. Every method of the registry, from the same dense nets.

A cell takes dense net s, hands it to one method with a budget and a tuning, and measures what comes
back. Which methods there are stands in :data:`survey_lib.methods.contract.METHODS`, and nowhere
here. A method that refuses a net or a budget leaves its sentence in place of numbers.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs, count_nonzero_macs
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.graph import GraphError
from survey_lib.mechanics.sparse import ENCODINGS, model_bytes
from survey_lib.methods import contract
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.rethinking.method import scratch_b
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import evaluate, fit, recalibrate

DATA = ("fashion_mnist.npz", "shakespeare.txt.gz")
INEXACT = ("seconds", "*_ms")
MODULES = tuple(sorted({f"{contract.PACKAGE}.{e.module}" for e in contract.METHODS.values()}))
"""The methods are looked up by name; the numbers rest on their code all the same."""

OPTIONS: dict[str, dict[str, Any]] = {"char_gpt": {"width": 0.5}}
"""Options of the nets: the language model is half as wide as the shipped one, for its price."""
METRICS = {"channels": "macs", "adapters": "macs", "weights": "nonzeros"}
"""Kind of a method → what its budget counts."""
SETTINGS: dict[str, dict[str, Any]] = {
    "closer_look": {"interval": 8}, "group_fisher": {"d": 8}, "loss_modelling": {"pi": 5},
    "role_of_structured": {"lam": 0.002}, "lobster": {"lam": 0.002}, "shrink": {"lam": 0.002},
}  # fmt: skip
"""Settings that differ from a method's defaults, where these look at more data before a cut than a
full tuning does. The first two are limits that such a tuning does not reach; the last three shrink
as fast as in their chapter, for at their default rate a full tuning takes four percent off a
weight that no output needs."""
FRESH = "rethinking"
"""The method whose shapes are filled with fresh weights, or with inherited ones."""
HALVING = 0.01
"""Accuracy that half the size is worth where a rate is chosen for a method that finds its own size;
by accuracy alone the rate would win at which it takes least."""
BATCH = {"accuracy": 32, "perplexity": 8}
"""Inputs in a timed pass, by the metric of the task."""


@dataclass(frozen=True)
class Cell:
    """One net."""

    arm: str
    """A key of :data:`ARMS`."""
    seed: int
    net: str = "resnet_small"
    method: str = ""
    """A key of the registry."""
    keep: float = 1.0
    """Share of the MACs that may stay (channels, adapters) or of all parameters (weights)."""
    knob: float = 0.0
    """The setting of a method that is steered by its outcome, in defaults of its knob."""
    how: str = ""
    """Of the arm ``shape``: ``inherited`` weights, or fresh ones for equal epochs (``e``) or equal
    MACs (``b``)."""
    epochs: float = 0.0
    """Of tuning, or of the training from fresh weights; 0 trains nothing."""
    lr: float = 0.0
    """Peak rate of that training."""
    brief: bool = False
    """Measure validation alone: choosing a rate takes no more."""


def task_of(cell: Cell) -> Task:
    """The cell's net by its standard recipe, on the data that it is shipped for."""
    return load_task(cell.net, **OPTIONS.get(cell.net, {}))


def tuning_of(task: Task, cell: Cell) -> Training | None:
    """The dense net's recipe for other epochs at another rate; None where nothing is trained."""
    return replace(task.training, epochs=cell.epochs, lr=cell.lr) if cell.epochs else None


def config_of(cell: Cell) -> Any:
    """The method's settings, its knob turned where it is steered by its outcome."""
    entry, given = contract.find(cell.method), SETTINGS.get(cell.method, {})
    if entry.steers == "budget":
        return entry.config(**given)
    default = getattr(entry.config(), entry.knob)
    return entry.config(**given, **{entry.knob: default * cell.knob})


def budget_of(cell: Cell) -> Budget | None:
    """What the method may keep; None where it is steered by its outcome."""
    entry = contract.find(cell.method)
    return None if entry.steers == "outcome" else Budget(METRICS[entry.kind], cell.keep)


# ---- what is measured of a net


def measured(cell: Cell, task: Task, net: nn.Module) -> dict[str, Any]:
    """The standard numbers; or validation alone, statistics re-estimated where there are any."""
    if not cell.brief:
        return standard(net, task)
    recalibrate(net, task.train)
    found = evaluate(net, task.val, task)
    if cell.knob and task.metric == "accuracy":
        size = count_nonzero_macs(net, task.example(1))
        merit = found["accuracy"] - HALVING * math.log2(max(size, 1))
        return {"val_re": found["accuracy"], "macs_nonzero": size, "merit": merit}
    if task.metric == "accuracy":
        return {"val_re": found["accuracy"]}
    return {"val": found["loss"], "val_loss": found["loss"]}  # as the standard numbers have it


def timed(cell: Cell, task: Task, dense: nn.Module, net: nn.Module) -> dict[str, float]:
    """Milliseconds of the net and of the dense one, in turns on one thread."""
    if cell.brief:
        return {}
    batch: Tensor = task.example(BATCH[task.metric])
    found = compare_latency({"dense": dense, "net": net}, batch, inner=0.005)
    return {f"{name}_ms": 1000 * t.minimum for name, t in found.items()}


def bytes_of(result: Compressed, whole: int) -> int:
    """Bytes of the net stored in the way that suits it.

    Masks take the smaller of a bit for each weight and of row indices; layers that store bits take
    what they say, and the rest of the net is dense.
    """
    if result.bits:
        return whole - sum(row["bytes"] - row["kept"] for row in result.table)
    return min(model_bytes(result.model, how) for how in ENCODINGS)


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """The net that all others start from."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    return measured(cell, task, net) | timed(cell, task, net, net) | {"bytes": model_bytes(net)}


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on for as long as the others are tuned."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    spent = fit(net, task, tuning_of(task, cell), generator=context.generator())
    own = {"steps": spent.steps, "bytes": model_bytes(net)}
    return measured(cell, task, net.eval()) | own


def method(context: Context) -> dict[str, Any]:
    """A method of the registry, at its budget or knob, with the cell's tuning."""
    cell, task = context.cell, task_of(context.cell)
    entry, net = contract.find(cell.method), context.dense(task)
    try:
        result = entry.compress(
            net, task, budget_of(cell), config_of(cell),
            tuning=tuning_of(task, cell), generator=context.generator(),
        )  # fmt: skip
    except (GraphError, BudgetNotMet) as why:  # it cannot work here, and says so
        return {"refused": " ".join(str(why).split())}
    own = {
        "steps": result.steps,
        "passes": result.forward_passes + result.backward_passes,
        "seconds": result.seconds,
        "bytes": bytes_of(result, model_bytes(net)),
    }
    times = timed(cell, task, net, result.model)
    return measured(cell, task, result.model) | times | own


def shape(context: Context) -> dict[str, Any]:
    """One shape for all: the same share of each layer by ℓ1, with inherited or fresh weights."""
    cell, task = context.cell, task_of(context.cell)
    entry, net = contract.find(FRESH), context.dense(task)
    tuning, budget = tuning_of(task, cell), Budget(METRICS[entry.kind], cell.keep)
    if cell.how == "b":  # what the dense net's training cost, at this shape's price
        cut = entry.compress(net, task, budget, tuning=None, generator=context.generator())
        assert tuning is not None
        macs = [count_macs(n, task.example(1)) for n in (net, cut.model)]
        tuning = scratch_b(task, tuning, *macs)
    weights = "inherited" if cell.how == "inherited" else "fresh"
    result = entry.compress(
        net, task, budget, entry.config(weights=weights),
        tuning=tuning, generator=context.generator(),
    )  # fmt: skip
    own = {"steps": result.steps, "bytes": model_bytes(result.model)}
    return measured(cell, task, result.model) | own


ARMS = {"dense": dense, "longer": longer, "method": method, "shape": shape}
