"""Liu et al. (2021): what is measured, on three nets whose channels are coupled.

All arms start from dense net s of their seed, and all that are trained on make equally many steps.
A ``path`` masks one unit every d of them and passes through every budget: at each mark of
:data:`MARKS` it notes who is left and what the net costs. At half of the MACs, and at a quarter, a
copy is cut for real and has the steps that are left as its tuning. Opponents are cut at once and
have all of them.

A ``ranking`` takes units out of the dense net one at a time and compares the rise of the loss with
what each score said.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.gates import gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.statistics import gate_gradients
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods import channel_baselines
from survey_lib.methods.group_fisher import method
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.modes import evaluating
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit, recalibrate, total_steps

DATA = ("fashion_mnist.npz",)
INEXACT = ()

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet_small", {}),
    "mobilenet": ("mobilenet_small", {}),
    "resnext": ("resnet_small", {"groups": 4}),
}
EPOCHS = 16.0
"""Of the dense net: the standard recipe."""
AFTER = 5.0
"""Epochs that every arm is trained for after that, on the path and in the tuning together."""
HALF, QUARTER = 0.5, 0.25
MARKS = (0.9, 0.8, 0.7, 0.6, HALF, 0.4, 0.3, QUARTER)
"""Shares of the MACs at which a path is looked at."""
PATH_LR = 0.004
"""The paper's rate while units go."""
SCORED, REMOVALS = 1000, 224
"""Training images that scores and true losses rest on; units taken out, at most."""
SCORES = ("fisher", "square_first", "taylor", "first_order")


@dataclass(frozen=True)
class Cell:
    """One run: a net, and how it is made smaller."""

    arm: str
    """``dense``, ``longer`` (the dense net trained on), ``l1``, ``random`` (cut at once), ``path``
    or ``ranking``."""
    seed: int
    net: str = "resnet"
    per: str = ""
    """What a path's scores are divided by …"""
    alpha: float = 1.0
    """… to this power."""
    coupled: bool = True
    score: str = "fisher"
    """Of a path: ``fisher``, or ``random``."""
    to: float = HALF
    """Where a path ends, as a share of the MACs."""
    d: int = 1
    """Steps before each unit of a path."""
    epochs: float = EPOCHS
    dense_lr: float = 0.0
    """Peak rate of the dense net's training; 0: the recipe's own."""
    lr: float = 0.0
    """Peak rate of the tuning; 0: nothing is tuned."""


def task_of(cell: Cell) -> Task:
    """The net of a cell, and its dense training."""
    name, options = NETS[cell.net]
    task = load_task(name, **options).with_training(epochs=cell.epochs)
    return task.with_training(lr=cell.dense_lr) if cell.dense_lr else task


def config_of(cell: Cell) -> method.Config:
    """The method's settings in a cell."""
    names = ("per", "alpha", "coupled", "score", "d")
    return method.Config(**{name: getattr(cell, name) for name in names})


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training."""
    task = task_of(context.cell)
    return standard(context.dense(task), task)


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on for as long as the others."""
    task = task_of(context.cell)
    net = context.dense(task)
    history = fit(net, tuning(task, context.cell), generator=context.generator())
    return standard(net, task) | {"steps": history.steps}


def at_once(context: Context) -> dict[str, Any]:
    """Units by the norm of their filters, or drawn, the same share of each group; then tuned."""
    cell, task = context.cell, task_of(context.cell)
    result = channel_baselines.compress(
        context.dense(task), task, Budget("macs", cell.to),
        channel_baselines.Config(cell.arm, scope="local"),
        tuning=tuning(task, cell).training, generator=context.generator(),
    )  # fmt: skip
    return standard(result.model, task) | {"steps": result.steps}


def path(context: Context) -> dict[str, Any]:
    """A run through every budget."""
    task = task_of(context.cell)
    return along_the_path(context.dense(task), task, context.cell, context.generator())


def tuning(task: Task, cell: Cell, made: int = 0) -> Task:
    """The task with what is left of the steps that every arm has, at the cell's rate."""
    whole = replace(task.training, epochs=AFTER, lr=cell.lr)
    left = total_steps(task, whole) - made
    if left < 1:
        raise ValueError(f"{cell}: {made} steps are made and none is left for the tuning")
    return replace(task, training=for_steps(task, whole, left))


def along_the_path(
    dense: nn.Module, task: Task, cell: Cell, generator: torch.Generator
) -> dict[str, Any]:
    """Who is left at every mark; where there is a rate, copies cut at half and quarter, tuned.

    Returns:
        ``path``: at each mark units by group, costs, steps, and validation accuracy as the net
        stands; ``removed``; the standard numbers of the copy at half, and under ``quarter`` those
        of the copy at a quarter, each with ``before``, its test accuracy before the tuning.
    """
    net, graph = copy.deepcopy(dense), trace_groups(dense, task.example(1))
    costs = {k: Costs(graph, k) for k in ("macs", "activations", "params")}
    marks = [k for k in MARKS if k >= cell.to]
    numbers: dict[str, Any] = {"path": [], "removed": []}
    tuned = {}
    meanwhile = replace(task.training, lr=PATH_LR)
    steps = method.one_by_one(net, graph, task, config_of(cell), meanwhile, generator=generator)
    for removal in steps:
        numbers["removed"].append(f"{removal.group} {removal.unit}")
        made = len(numbers["removed"]) * cell.d
        share = costs["macs"](removal.kept) / costs["macs"].dense
        while marks and share <= marks[0]:
            mark = marks.pop(0)
            left = zip(graph.groups, removal.kept, strict=True)
            point = {
                "mark": mark,
                "kept": {g.name: int(k) for g, k in left if not g.protected},
                "steps": made,
                "val": evaluate(net, task.val, task)["accuracy"],
                **{k: c(removal.kept) for k, c in costs.items()},
            }
            if cell.lr and mark in (HALF, QUARTER):
                plain = copy.deepcopy(dense)  # the net itself wears the masks' hooks
                plain.load_state_dict(net.state_dict())
                small = apply_recipe(plain, graph, removal.recipe).eval()
                tuned[mark] = tuned_on(small, task, cell, made)
            numbers["path"].append(point)
        if not marks:
            break
    steps.close()
    if marks:
        raise ValueError(f"{cell}: the path ended before {marks[0]} of the MACs")
    if tuned:
        numbers |= tuned[HALF] | ({"quarter": tuned[QUARTER]} if QUARTER in tuned else {})
    return numbers


def tuned_on(small: nn.Module, task: Task, cell: Cell, made: int) -> dict[str, Any]:
    """Standard numbers of a cut net after its tuning; ``before``, with statistics anew too."""
    again = copy.deepcopy(small)
    recalibrate(again, task.train)
    before = {
        name: evaluate(net, task.test, task)["accuracy"]
        for name, net in (("test", small), ("test_re", again))
    }
    history = fit(small, tuning(task, cell, made), generator=seeded(cell.seed, 2))
    return standard(small, task) | {"before": before, "steps": made + history.steps}


def ranking(context: Context) -> dict[str, Any]:
    """Scores of units of the dense net beside the true rise of the loss without each."""
    task = task_of(context.cell)
    net = context.dense(task)
    graph = trace_groups(net, task.example(1))
    x, y = task.train.x[:SCORED], task.train.y[:SCORED]
    scores, copies = all_scores(net, graph, task, x, y)
    units = [(g.name, u) for g in graph.prunable for u in range(g.size)]
    drawn = torch.randperm(len(units), generator=context.generator())[:REMOVALS].tolist()
    chosen = [units[i] for i in sorted(drawn)]
    rise = true_rises(net, graph, task, x, y, chosen)
    shared = np.array([copies[name] > 1 for name, _ in chosen])
    found: dict[str, Any] = {
        "units": [f"{name} {u}" for name, u in chosen],
        "rise": [float(f"{v:.5g}") for v in rise],
        "copies": copies,
        "shared": shared.tolist(),
    }
    for name in SCORES:
        values = np.array([float(scores[name][g][u]) for g, u in chosen])
        found[name] = [float(f"{v:.5g}") for v in values]
        found[f"rho_{name}"] = correlation(values, rise)
        found[f"rho_shared_{name}"] = correlation(values[shared], rise[shared])
    return found


ARMS = {
    "dense": dense, "longer": longer, "l1": at_once, "random": at_once, "path": path,
    "ranking": ranking,
}  # fmt: skip


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def all_scores(
    net: nn.Module, graph: ChannelGraph, task: Task, x: Tensor, y: Tensor
) -> tuple[dict[str, dict[str, Tensor]], dict[str, int]]:
    """Each score of all units, from one pass over the images, and the copies of their masks.

    ``taylor`` is the usual first-order score: the mean over examples of the size of the slope,
    summed over the copies. ``first_order`` is the size of the slope of the mean loss.

    Returns:
        (units,) by score and group; copies of the mask by group.
    """
    found: dict[str, dict[str, Tensor]] = {name: {} for name in SCORES}
    number = {}
    gates = gate_gradients(net, graph, task.loss, x, y)
    for name, copies in gates.single().items():
        g = torch.stack(list(copies.values())).double()  # (copies, N, units)
        number[name] = len(g)
        for score in ("fisher", "square_first", "first_order"):
            found[score][name] = method.importance(g, score).abs()
        found["taylor"][name] = g.sum(0).abs().mean(0)
    return found, number


@torch.no_grad()
def true_rises(
    net: nn.Module,
    graph: ChannelGraph,
    task: Task,
    x: Tensor,
    y: Tensor,
    units: Sequence[tuple[str, int]],
) -> np.ndarray:
    """L without the unit minus L, on the images, in eval mode: (units,)."""
    x = x.contiguous(memory_format=torch.channels_last)
    rises = []
    with evaluating(net):
        base = float(task.loss(net(x), y))
        for name, unit in units:
            mask = torch.ones(graph[name].size)
            mask[unit] = 0
            with gated(net, graph, {name: mask}):
                rises.append(float(task.loss(net(x), y)) - base)
    return np.array(rises)
