"""Zhao et al. (2022): what is measured. A limit, a threshold that steps, and rivals at equal cost.

``dense`` trains a net for T epochs and leaves its weights of epoch k beside the last ones; all
other cells of a replicate start there. ``adaptive`` goes through the rounds of one policy and one
limit. Its rivals are told the size it ended with and all the steps it made, rounds that were
rejected included; they cut the dense net once to at most that size, by some score, and train for
as many steps, or for those of one round. ``scratch`` gives that shape fresh weights and the steps
of the dense net besides.
"""

import copy
import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from survey_lib.experiments.context import Context
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.selection import select
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods import channel_baselines
from survey_lib.methods.adaptive_activation import scores
from survey_lib.methods.adaptive_activation.config import POLICIES, Config
from survey_lib.methods.adaptive_activation.rounds import Round, Start, rounds, smallest
from survey_lib.methods.adaptive_activation.training import plan, trained
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit, recalibrate, total_steps

DATA = ("fashion_mnist.npz",)
INEXACT = ()
WIDTH, EXAMPLES, BATCH, EPOCHS = 0.5, 4000, 64, 6.0
"""The net of 16-32-64 filters, the training images, images a step, and T."""
K = 1 / 6
"""The rewinding point, one epoch of six."""
SCORED = {
    "fixed": "global", "l1": "local", "taylor": "global", "taylor_normalised": "global",
    "random": "local",
}  # fmt: skip
"""Rivals that cut once → whether one ranking goes over all layers, or each gives the same share.
``taylor`` is the raw score, ``taylor_normalised`` divides it by its norm in each layer."""
CHOSEN = tuple(name for name in SCORED if name != "taylor_normalised")
"""Criteria whose order inside a layer differs; a norm of the layer turns no such order."""
CHOICE_SHARES = (0.1, 0.3, 0.5)
"""Of the units, where choices are compared before any training."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """``dense``, ``longer`` (trained on), ``adaptive``, a rival of :data:`SCORED`, ``scratch``, or
    ``choice`` (who falls, before any training)."""
    seed: int
    policy: str = "accuracy"
    target: float = 1.0
    """Points of validation accuracy that may be lost (policy ``accuracy``)."""
    keep: float = 0.0
    """Share that may stay (policies ``memory`` and ``macs``)."""
    rewind: str = "weights"
    first: float = 0.1
    """Share of the units that the first threshold takes; gives λ."""
    rounds: int = 8
    images: int = 512
    epochs: float = EPOCHS
    """T"""
    dense_lr: float = 0.0
    """Peak rate of the dense net, and of all rounds, which repeat its schedule."""
    lr: float = 0.0
    """Peak rate of a rival's training."""
    length: str = "all"
    """A rival's training: as many steps as ``all`` rounds took, or as one ``round`` has."""


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The dense net; of a rival the adaptive run too, whose size and cost it is given."""
    if cell.arm == "dense":
        return ()
    dense = Cell("dense", cell.seed, epochs=cell.epochs, dense_lr=cell.dense_lr)
    told = cell.arm in (*SCORED, "scratch", "longer")
    return (dense, replace(cell, arm="adaptive", lr=0.0, length="all")) if told else (dense,)


def task_of(cell: Cell) -> Task:
    """The net, its images and its training."""
    task = load_task("cnn_small", width=WIDTH, examples=EXAMPLES)
    return task.with_training(epochs=cell.epochs, batch=BATCH, lr=cell.dense_lr)


def config_of(cell: Cell) -> Config:
    """The method's settings in a cell."""
    return Config(
        cell.policy, cell.target, rewind=cell.rewind, k=K, rounds=cell.rounds, first=cell.first,
        images=cell.images,
    )  # fmt: skip


def budget_of(cell: Cell) -> Budget | None:
    """Of the policies with a size."""
    metric = POLICIES[cell.policy]
    return Budget(metric, cell.keep) if metric else None


def start_of(context: Context, task: Task) -> Start:
    """The dense net and its early weights."""
    cell = needs(context.cell)[0]
    nets = []
    for name in ("last", "early"):
        net = task.build(seeded(0))
        net.load_state_dict(load_file(context.kept(cell, f"{name}.safetensors")))
        nets.append(net.eval())
    return Start(*nets)


def ended_of(context: Context) -> dict[str, Any]:
    """What the adaptive run ended with: share of the parameters, steps, units by group."""
    path = context.kept(needs(context.cell)[1], "ended.json")
    return json.loads(path.read_text(encoding="utf-8"))


def search(cell: Cell, start: Start, task: Task, generator: torch.Generator) -> Any:
    """The method's rounds in a cell, one after the other."""
    how = plan(task, task.training, K, cell.rounds)
    return rounds(start, task, config_of(cell), how, generator, budget_of(cell))


def row(r: Round) -> dict[str, Any]:
    """A round in numbers."""
    return {
        "number": r.number, "base": r.base, "threshold": r.threshold, "step": r.step,
        "reduction": r.reduction, "val": r.val, "size": r.size, "good": r.good,
        "steps": len(r.loss), "left": [len(units) for units in r.recipe.values()],
    }  # fmt: skip


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training, which leaves two states behind."""
    cell, generator = context.cell, seeded(context.cell.seed)
    task = task_of(cell)
    net = task.build(generator)
    at = plan(task, task.training, K, 1).k
    early, spent = trained(net, task, task.training, at, generator=generator)
    for name, one in (("last", net), ("early", early)):
        state = {k: v.contiguous() for k, v in one.state_dict().items()}
        save_file(state, context.keep(f"{name}.safetensors"))
    return standard(net, task) | {"steps": spent.steps}


def adaptive(context: Context) -> dict[str, Any]:
    """All rounds of one policy and one limit, and the net they end with."""
    cell = context.cell
    task = task_of(cell)
    found = list(search(cell, start_of(context, task), task, context.generator()))
    best = smallest(found)
    steps = sum(len(r.loss) for r in found)
    params = Costs(trace_groups(best.net, task.example(1)), "params").dense
    whole = Costs(trace_groups(found[0].net, task.example(1)), "params").dense
    left = {name: len(units) for name, units in best.recipe.items()}
    ended = {"params": params / whole, "steps": steps, "left": left}
    context.keep("ended.json").write_text(json.dumps(ended), encoding="utf-8")
    numbers = standard(best.net, task) | {"ended": best.number, "steps": steps, "layers": left}
    rejected = sum(len(r.loss) for r in found if not r.good)
    return numbers | {"rejected_steps": rejected, "rounds": [row(r) for r in found]}


def scored(
    arm: str, net: nn.Module, graph: ChannelGraph, task: Task, images: int,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """(units,) by group, higher = keep: where each falls, or a baseline's score."""
    if arm == "fixed":
        x = scores.score_images(task.train.x, images, generator)
        at = scores.fall_at(scores.attention(net, graph, x), graph, "params")
        return {name: torch.from_numpy(values) for name, values in at.items()}
    config = channel_baselines.Config(arm, examples=images)
    return channel_baselines.score(net, graph, task, config, generator=generator)


def rival(context: Context) -> dict[str, Any]:
    """One cut to at most the adaptive net's size, then as many steps as it made in all."""
    cell = context.cell
    task = task_of(cell)
    start, ended, generator = start_of(context, task), ended_of(context), context.generator()
    graph = trace_groups(start.net, task.example(1))
    found = scored(cell.arm, start.net, graph, task, cell.images, generator)
    budget = Budget("params", ended["params"])
    small = apply_recipe(
        start.net, graph, select(graph, found, budget, scope=SCORED[cell.arm])
    ).eval()
    numbers: dict[str, Any] = {"before": both(small, task)}
    one = plan(task, task.training, K, 1).each
    steps = min(one, ended["steps"]) if cell.length == "round" else ended["steps"]
    return numbers | tuned(small, task, cell, steps, generator)


def scratch(context: Context) -> dict[str, Any]:
    """The adaptive net's shape from random weights, with the dense net's steps on top."""
    cell = context.cell
    task = task_of(cell)
    ended, generator = ended_of(context), context.generator()
    small = from_scratch(task, ended["left"], generator=generator, spread="own")
    return tuned(small, task, cell, ended["steps"] + total_steps(task), generator)


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on for as many steps as the adaptive run made."""
    cell = context.cell
    task = task_of(cell)
    ended = ended_of(context)
    return tuned(start_of(context, task).net, task, cell, ended["steps"], context.generator())


def tuned(
    net: nn.Module, task: Task, cell: Cell, steps: int, generator: torch.Generator
) -> dict[str, Any]:
    """Train in place by the whole schedule over so many steps, and measure."""
    if steps:
        recipe = for_steps(task, replace(task.training, lr=cell.lr), steps)
        fit(net, task, recipe, generator=generator)
    return standard(net, task) | {"steps": steps}


def both(net: nn.Module, task: Task) -> dict[str, float]:
    """Test accuracy as the net is, and with batch-norm statistics estimated anew."""
    again = copy.deepcopy(net)
    recalibrate(again, task.train)
    found = {"test": net, "test_re": again}
    return {name: evaluate(one, task.test, task)["accuracy"] for name, one in found.items()}


def choice(context: Context) -> dict[str, Any]:
    """Who falls first, before any training: as many units in each layer for all criteria."""
    cell = context.cell
    task, generator = task_of(cell), context.generator()
    net = start_of(context, task).net
    graph = trace_groups(net, task.example(1))
    found = {arm: scored(arm, net, graph, task, cell.images, generator) for arm in CHOSEN}
    at = {name: s.numpy() for name, s in found["fixed"].items()}
    numbers: dict[str, Any] = {arm: [] for arm in CHOSEN}
    numbers["left"] = []
    for share in CHOICE_SHARES:
        keep = scores.above(graph, at, scores.first_step(at, share))
        left = {name: len(units) for name, units in keep.items()}
        numbers["left"].append(left)
        for arm in CHOSEN:
            small = apply_recipe(net, graph, highest(found[arm], left)).eval()
            numbers[arm].append(both(small, task))
    return numbers


def highest(found: dict[str, torch.Tensor], left: dict[str, int]) -> Recipe:
    """So many units of each group, those of the highest scores."""
    order = {name: np.argsort(-found[name].numpy(), kind="stable") for name in left}
    return {name: sorted(order[name][:n].tolist()) for name, n in left.items()}


ARMS = {
    "dense": dense, "longer": longer, "adaptive": adaptive, "scratch": scratch, "choice": choice,
    **dict.fromkeys(SCORED, rival),
}  # fmt: skip
