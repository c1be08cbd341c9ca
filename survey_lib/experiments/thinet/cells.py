"""Luo et al. (2017): what is measured, on small VGG nets with batch norm and without.

A ``cut`` takes dense net s of its seed and walks through the first five of six convolutions, from
shallow to deep: each gives up filters by some choice, and what is left is repaired by least squares
or not. ``before`` is measured after all five cuts, as the net stands and with the statistics of
batch norm estimated anew; where the cell has a rate, a second walk tunes on the way and at the end.
"""

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from survey_lib.experiments.context import Context
from survey_lib.experiments.thinet import layers
from survey_lib.measure.standard import standard
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.sharing import for_steps
from survey_lib.methods.thinet import method, variants
from survey_lib.methods.thinet.shares import kept_numbers
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import evaluate, fit, recalibrate, total_steps

DATA = ("fashion_mnist.npz",)
INEXACT = ()

NETS: dict[str, dict[str, Any]] = {
    "plain": {"bn": False, "head": "fc", "width": 0.75},
    "averaged": {"bn": False, "head": "gap", "width": 0.75},
    "norm": {},
}
"""VGG nets: as VGG-16, without batch norm; that net with an averaging head; the shipped one, which
has batch norm and an averaging head and is trained by the standard recipe."""
EPOCHS = 12.0
"""Of the nets without batch norm: as many further epochs as a tuning takes gain them less than half
a point (arm ``longer``)."""
CLIP = 1.0
"""Largest gradient norm of these nets in all trainings: at the rates at which they learn they
diverge else."""
LAYER_EPOCHS, FINAL_EPOCHS = 0.4, 2.0
"""Of tuning, after each of five layers and at the end: a third of the dense net's training, a sixth
of it at the end, as the paper's 25 and 12 epochs are of the 74 that VGG-16 was trained for."""


@dataclass(frozen=True)
class Cell:
    """One run: a net, and what is done to it."""

    arm: str
    """``dense``, ``longer`` (the dense net, trained on), ``cut``, ``head`` (a cut net that gets an
    averaging head before its last tuning), ``scratch`` (the cut net's shape from random weights),
    ``greedy`` (against every subset) or ``layer`` (one layer of the shipped net alone)."""
    seed: int
    net: str = "plain"
    choice: str = "thinet"
    """Who stays: ``thinet``, ``weight_sum``, ``apoz``, ``random`` or ``forward``."""
    scaled: bool = True
    """Whether least squares scales what stays."""
    r: float = 1.0
    """Share of the filters kept in each of five layers."""
    layer: str = ""
    images: int = 20
    pairs: int = 20
    epochs: float = EPOCHS
    """Of the dense net, where it has no batch norm."""
    dense_lr: float = 0.0
    """Peak rate of its training; 0: the standard recipe."""
    lr: float = 0.0
    """Peak rate of the tuning, or of the training from scratch; 0: nothing is tuned."""


def task_of(cell: Cell) -> Task:
    """The net of a cell, and its dense training."""
    task = load_task("vgg_small", **NETS[cell.net])
    if not cell.dense_lr:
        return task
    return task.with_training(epochs=cell.epochs, lr=cell.dense_lr, clip=CLIP)


def config_of(cell: Cell) -> method.Config:
    """ThiNet's settings in a cell."""
    return method.Config(r=cell.r, images=cell.images, pairs=cell.pairs, rescale=cell.scaled)


def choice_of(cell: Cell) -> method.Choice:
    """How a cell chooses, and whether least squares repairs; forward selection brings its own."""
    if cell.choice == "thinet":
        return method.thinet(cell.scaled)
    choose = variants.CHOICES[cell.choice]
    return repaired(choose) if cell.scaled and cell.choice != "forward" else choose


def repaired(choose: method.Choice) -> method.Choice:
    """Another choice of filters with ThiNet's scalars for those that stay."""

    def both(
        site: method.Site, keep: int, generator: torch.Generator
    ) -> tuple[list[int], np.ndarray]:
        kept, _ = choose(site, keep, generator)
        return kept, method.rescaling(site.rows.x[:, kept], site.rows.y)

    return both


def tuning_of(task: Task, cell: Cell, layers: int = 5) -> tuple[Training, float]:
    """The tuning of a cut net, and the share of its steps that is made after the layers."""
    each, final = (
        total_steps(task, replace(task.training, epochs=e)) for e in (LAYER_EPOCHS, FINAL_EPOCHS)
    )
    steps = layers * each + final
    return for_steps(task, replace(task.training, lr=cell.lr), steps), layers * each / steps


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training."""
    task = task_of(context.cell)
    return standard(context.dense(task), task)


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on for as long as the others are tuned."""
    task = task_of(context.cell)
    net = context.dense(task)
    history = fit(net, task, tuning_of(task, context.cell)[0], generator=context.generator())
    return standard(net, task) | {"steps": history.steps}


def scratch(context: Context) -> dict[str, Any]:
    """The cut shape from random weights, for as many steps as cut nets saw in all."""
    cell, task = context.cell, task_of(context.cell)
    graph = trace_groups(task.build(seeded(cell.seed)), task.example(1))
    keep, generator = kept_numbers(graph, None, cell.r), context.generator()
    small = from_scratch(task, keep, generator=generator, spread="own")
    whole = total_steps(task) + total_steps(task, tuning_of(task, cell)[0])
    recipe = for_steps(task, replace(task.training, lr=cell.lr), whole)
    history = fit(small, task, recipe, generator=generator)
    return standard(small, task) | {"steps": history.steps}


def cut(context: Context) -> dict[str, Any]:
    """Five layers cut, without tuning and, where the cell has a rate, with it."""
    cell, task = context.cell, task_of(context.cell)
    dense = context.dense(task)
    plain = walk(dense, task, cell, context.generator(), tune=False)
    numbers: dict[str, Any] = {
        "before": quality(plain.model, task),
        "reconstruction": float(np.mean(plain.trace["held_out"])),
        "layers": {
            row["layer"]: [row["channels"], row["kept"]]
            for row in plain.table
            if row["layer"] in plain.recipe
        },
    }
    if cell.scaled:  # the same channels, each as it was
        same = apply_recipe(dense, trace_groups(dense, task.example(1)), plain.recipe)
        numbers["same_channels"] = quality(same, task)
    if not cell.lr:
        return numbers
    tuned = walk(dense, task, cell, context.generator(), tune=True)
    return numbers | standard(tuned.model, task) | {"steps": tuned.steps}


def head(context: Context) -> dict[str, Any]:
    """ThiNet-GAP: cut with the old head, tuned at the end with a fresh, averaging one."""
    task = task_of(context.cell)
    generator = context.generator()
    tuned = walk(
        context.dense(task), task, context.cell, generator, tune=True,
        before_final=lambda net: variants.averaging_head(net, len(task.data.classes), generator),
    )  # fmt: skip
    return standard(tuned.model, task) | {"steps": tuned.steps}


def walk(
    dense: nn.Module, task: Task, cell: Cell, generator: torch.Generator, *, tune: bool, **more: Any
) -> Compressed:
    """One walk through the layers."""
    config, tuning = config_of(cell), None
    if tune:
        tuning, between = tuning_of(task, cell)
        config = replace(config, between=between)
    choose = choice_of(cell)
    return method.layer_by_layer(dense, task, None, config, choose, tuning, generator, **more)


def quality(model: nn.Module, task: Task) -> dict[str, float]:
    """Accuracy on validation and test; of nets with batch norm with statistics anew, too."""
    found = {"": model}
    again = copy.deepcopy(model)
    if recalibrate(again, task.train):
        found["_re"] = again
    return {
        f"{name}{of}": evaluate(net, split, task)["accuracy"]
        for of, net in found.items()
        for name, split in (("val", task.val), ("test", task.test))
    }


def greedy(context: Context) -> dict[str, Any]:
    """The greedy choice against every subset."""
    cell, task = context.cell, task_of(context.cell)
    net, generator = context.dense(task), context.generator()
    return layers.against_every_subset(net, task, cell.images, cell.pairs, generator)


def layer(context: Context) -> dict[str, Any]:
    """One layer of the shipped net, cut to every share."""
    cell, generator = context.cell, context.generator(2)
    found, _ = layers.one_layer(cell.layer, cell.images, cell.pairs, layers.SHARES, generator)
    return found


ARMS = {
    "dense": dense, "longer": longer, "scratch": scratch, "cut": cut, "head": head,
    "greedy": greedy, "layer": layer,
}  # fmt: skip
