"""Laurent et al. (2020): what is measured. One pruning of a trained net, and its tuning.

A dense net is cut to the paper's sparsity by one of four criteria, in one step or in many, with a
penalty of some size; nothing is trained between the steps. The rise of the loss is measured on
images the criteria have not seen. Then the net is tuned, where the cell has a rate to tune it at.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.standard import standard
from survey_lib.mechanics.masks import keep_largest_global, prunable_weights
from survey_lib.methods import loss_modelling as method
from survey_lib.tasks.data import Split
from survey_lib.tasks.dense import dense_net, seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit

DATA = ("fashion_mnist.npz",)
INEXACT = ()
EXAMPLES = 1000
"""Training images the models of the loss are made from."""
PATH_POINTS = 20
"""Steps of a path that are recorded, at most."""


@dataclass(frozen=True)
class Family:
    """A net, how far it is cut, and how long it is tuned."""

    model: str
    options: dict[str, Any]
    kappa: float
    """κ, the share of all weights of convolutions and linear layers that goes: the paper's."""
    epochs: float
    """Of tuning; the dense nets are those of the standard recipe."""


FAMILIES = {
    "mlp": Family("mlp", {}, 0.98847, 5.0),
    "cnn": Family("cnn_small", {"bn": False}, 0.956, 4.0),
}
"""κ: 1 − 0.8²⁰ for the paper's fully connected net, 1 − 0.8¹⁴ for its convolutional ones."""


@dataclass(frozen=True)
class Cell:
    """One pruning of one dense net, and its tuning."""

    arm: str
    """A criterion (``LM``, ``QM``, ``OBD``, ``MP``), ``random`` or ``dense`` (nothing is cut)."""
    seed: int
    family: str = "mlp"
    pi: int = 1
    """π, steps of pruning."""
    lam: float = 0.0
    """λ, penalty."""
    longer: float = 1.0
    """Times the family's epochs of tuning."""
    lr: float = 0.0
    """Peak rate of the tuning; 0: none."""


def task_of(family: str) -> Task:
    """The task of a family, with the dense net's own training."""
    return load_task(FAMILIES[family].model, **FAMILIES[family].options)


def images_of(task: Task, seed: int) -> tuple[Split, Split]:
    """Training images that the criteria see, and the others."""
    return method.saliency_images(task, EXAMPLES, seeded(seed))


@lru_cache(maxsize=4)
def _dense(family: str, seed: int) -> tuple[nn.Module, dict[str, dict[str, float]]]:
    """A dense net and its quality, which many cells start from."""
    task = task_of(family)
    net = dense_net(task, seed)
    return net, quality(net, task, seed)


def quality(net: nn.Module, task: Task, seed: int) -> dict[str, dict[str, float]]:
    """Loss and accuracy on the images the criteria see, the other training ones, val and test."""
    seen, others = images_of(task, seed)
    parts = {"seen": seen, "train": others, "val": task.val, "test": task.test}
    return {name: evaluate(net, part, task) for name, part in parts.items()}


def measured(context: Context) -> dict[str, Any]:
    """Cut, measure the rise of the loss, tune, measure the net."""
    cell = context.cell
    task = task_of(cell.family)
    dense, before = _dense(cell.family, cell.seed)
    net = copy.deepcopy(dense)
    masks, path = cut(net, task, cell)
    after = quality(net, task, cell.seed) if masks else before
    numbers: dict[str, Any] = {
        name: after[part]["loss"] - before[part]["loss"]
        for name, part in (("rise", "train"), ("rise_seen", "seen"), ("rise_val", "val"))
    }
    numbers["dense_test"] = before["test"]["accuracy"]
    numbers["pruned_test"] = after["test"]["accuracy"]
    if cell.lr:
        epochs = FAMILIES[cell.family].epochs * cell.longer
        recipe = task.with_training(epochs=epochs, lr=cell.lr).training
        if masks:
            method.tune(net, masks, task, recipe, generator=context.generator())
        else:
            fit(net, task, recipe, generator=context.generator())
    numbers |= standard(net, task)
    numbers["layers"] = {k: [m.numel(), int(m.sum())] for k, m in masks.items()}
    numbers["path"] = path
    return numbers


ARMS = dict.fromkeys((*method.CRITERIA, "random", "dense"), measured)


def cut(net: nn.Module, task: Task, cell: Cell) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Prune ``net`` in place as the cell says: masks, and the path in a few of its steps."""
    if cell.arm == "dense":
        return {}, {}
    kappa = FAMILIES[cell.family].kappa
    if cell.arm == "random":
        return cut_at_random(net, kappa, seeded(cell.seed, purpose=2)), {}
    seen, _ = images_of(task, cell.seed)
    masks, path = method.prune(net, task, seen, kappa, method.Config(cell.arm, cell.pi, cell.lam))
    at = np.unique(np.linspace(0, cell.pi, PATH_POINTS + 1).round().astype(int))
    return masks, {k: [round(values[i], 4) for i in at] for k, values in path.items()}


def cut_at_random(net: nn.Module, kappa: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Cut a share κ of all weights of convolutions and linear layers, drawn at random."""
    weights = prunable_weights(net, spare_first_conv=False)
    scores = {k: torch.rand(w.shape, generator=generator) for k, w in weights.items()}
    total = sum(w.numel() for w in weights.values())
    masks = keep_largest_global(scores, total - round(kappa * total))
    with torch.no_grad():
        for name, w in weights.items():
            w.mul_(masks[name])
    return masks
