"""Liu et al. (2019): what is measured. Six ways to prune, and their shapes trained from scratch.

A way to prune takes dense net s of its seed, or one that was trained to be sparse, and leaves a
small net or masks. That is tuned for a quarter of the dense net's epochs, at a constant rate or at
a falling one; or its shape is drawn anew and trained by the dense net's recipe, for as many steps
(Scratch-E) or for as many multiply-accumulates (Scratch-B). Predefined shapes are the same for
three ways to choose the filters, and so are their nets from scratch.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.macs import count_macs, count_nonzero_macs
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.masks import fit_masked
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.rethinking import method, variants
from survey_lib.methods.thinet import method as thinet
from survey_lib.methods.thinet.shares import kept_numbers
from survey_lib.methods.thinet.variants import forward
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import fit, total_steps

DATA = ("fashion_mnist.npz",)
INEXACT = ()

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "vgg": ("vgg_small", {"width": 0.5}),
    "resnet": ("resnet_small", {"width": 0.5, "blocks": 2}),
}
EPOCHS = 8.0
"""E: of the dense nets, of those trained to be sparse, and of Scratch-E."""
TUNED = 0.25
"""Share of E that a pruned net is tuned for, as the paper's 40 epochs are of 160."""
PREDEFINED = ("l1", "thinet", "regression")
"""Ways to choose filters within widths that are given; the others find a shape by themselves."""
MACS = (0.7, 0.45, 0.25)
"""Shares of the dense net's MACs that shapes keep."""
WEIGHTS = (0.5, 0.2, 0.05)
"""Shares of all convolution weights that masks keep."""
FOUND = (0.25,)
"""Shares of the dense net's parameters at which found widths are compared with designed ones."""
CAP = 2.0
"""Most epochs of a masked net's Scratch-B, in E: an ideal sparse kernel would allow for more."""
LAMBDA, STRENGTH = 0.003, 0.08
"""Weight of the penalties of network slimming and of sparse structure selection."""
ROWS = thinet.Config(images=20, pairs=20)
"""What ThiNet and the regression look at: as in ThiNet's own chapter."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """A key of :data:`ARMS`."""
    seed: int
    net: str = "vgg"
    method: str = ""
    """A way to prune; ``predefined`` for the nets from scratch that three ways share; ``found``,
    ``uniform`` or ``guided`` where the arm is ``designed``."""
    keep: float = 1.0
    """Of the MACs; of the convolution weights for masks; of the parameters for ``designed``."""
    how: str = ""
    """``constant`` or ``falling`` (tuned); ``e`` or ``b`` (scratch); ``own``, ``fresh`` or
    ``corrected`` weights (ticket)."""
    epochs: float = EPOCHS
    dense_lr: float = 0.0
    """Peak rate of the dense net, of its sparse twin, and of all nets under a ticket's mask."""
    lr: float = 0.0
    """Rate of the tuning or of the training from scratch."""


def sparse_of(cell: Cell) -> Cell:
    """The training with a penalty that a found shape comes from."""
    method_of = cell.method if cell.method in ("slimming", "structures") else "slimming"
    return replace(cell, arm="sparse", method=method_of, keep=1.0, how="", lr=0.0)


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The sparse training whose net a cell uses."""
    found = cell.method in ("slimming", "structures") and cell.arm != "sparse"
    return (sparse_of(cell),) if found or cell.arm == "designed" else ()


def task_of(cell: Cell) -> Task:
    """The cell's net and its dense training."""
    name, options = NETS[cell.net]
    return load_task(name, **options).with_training(epochs=cell.epochs, lr=cell.dense_lr)


def tuning_of(task: Task, cell: Cell) -> Training:
    """A quarter of the dense net's epochs, at a constant rate or at a falling one: equal cost."""
    constant = {"schedule": "constant", "warmup": 0.0} if cell.how == "constant" else {}
    return replace(task.training, epochs=TUNED * cell.epochs, lr=cell.lr, **constant)


# ---- shapes


def widths(task: Task, keep: float) -> dict[str, int]:
    """The predefined shape: the same share of five of six convolutions, the last stays whole."""
    graph = trace_groups(task.build(seeded(0)), task.example(1))
    return kept_numbers(graph, Budget("macs", keep), None)


def sparse_net(context: Context, task: Task) -> tuple[nn.Module, dict[str, float]]:
    """The net that was trained with a penalty, and the scales of its branches, if it has any."""
    cell = sparse_of(context.cell)
    net = task.build(seeded(0))
    net.load_state_dict(load_file(context.kept(cell, "net.safetensors")))
    return net.eval(), json.loads(context.kept(cell, "scales.json").read_text(encoding="utf-8"))


def pruned(context: Context, task: Task) -> tuple[nn.Module, dict[str, Tensor]]:
    """The cell's pruned net with inherited weights, and its masks where single weights went."""
    cell = context.cell
    if cell.method in ("slimming", "structures"):
        net, scales = sparse_net(context, task)
        if cell.method == "structures":
            gone = variants.selected(net, scales, cell.keep, task.example(1))
            return variants.without(net, gone), {}
        graph = trace_groups(net, task.example(1))
        recipe = variants.slimmed(net, graph, Budget("macs", cell.keep))
        return apply_recipe(net, graph, recipe), {}
    net = context.dense(task)
    if cell.method == "magnitude":
        return net, method.magnitude(net, cell.keep)
    graph, given = trace_groups(net, task.example(1)), widths(task, cell.keep)
    if cell.method == "l1":
        return apply_recipe(net, graph, method.by_norm(net, graph, given)), {}
    choose = thinet.thinet(True) if cell.method == "thinet" else forward
    shares = tuple((name, k / graph[name].size) for name, k in given.items())
    config = replace(ROWS, r=shares)
    done = thinet.layer_by_layer(net, task, None, config, choose, None, context.generator(1))
    return done.model, {}


def fresh_shape(context: Context, task: Task) -> tuple[nn.Module, dict[str, Tensor]]:
    """The same shape, or the same masks, with random weights."""
    cell, generator = context.cell, context.generator(3)
    if cell.method == "predefined":
        return from_scratch(task, widths(task, cell.keep), generator=generator, spread="own"), {}
    small, masks = pruned(context, task)
    if cell.method == "magnitude":
        return method.corrected(task.build(generator), masks), masks
    return method.fresh(small, generator), {}


# ---- trainings


def cost(net: nn.Module, masks: Mapping[str, Tensor], task: Task) -> int:
    """MACs of one image; under masks those of an ideal sparse kernel."""
    return (count_nonzero_macs if masks else count_macs)(net, task.example(1))


def trained(
    net: nn.Module, masks: dict[str, Tensor], task: Task, recipe: Training, cell: Cell
) -> dict[str, Any]:
    """The standard numbers after a training, and what it cost in trainings of the dense net."""
    generator = seeded(cell.seed, 2)
    if masks:
        masked = method.under_masks(net, masks)
        history = fit_masked(net, masked, task, recipe, generator=generator)
    else:
        history = fit(net, task, recipe, generator=generator)
    whole = total_steps(task) * count_macs(task.build(seeded(0)), task.example(1))
    spent = history.steps * cost(net, masks, task) / whole
    return standard(net, task) | {"steps": history.steps, "spent": spent}


def shape_of(net: nn.Module, masks: Mapping[str, Tensor], task: Task) -> dict[str, list[int]]:
    """Layer → what it had in the dense net and what is left: filters, or weights under masks."""
    if masks:
        return {name: [m.numel(), int(m.sum())] for name, m in masks.items()}
    left = {n: m.out_channels for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    whole = task.build(seeded(0)).named_modules()
    return {n: [m.out_channels, left.get(n, 0)] for n, m in whole if isinstance(m, nn.Conv2d)}


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training."""
    task = task_of(context.cell)
    return standard(context.dense(task), task) | {"steps": total_steps(task)}


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on as long as pruned ones are tuned."""
    cell, task = context.cell, task_of(context.cell)
    return trained(context.dense(task), {}, task, tuning_of(task, cell), cell)


def sparse(context: Context) -> dict[str, Any]:
    """A training with the penalty of network slimming or of sparse structure selection."""
    cell, task = context.cell, task_of(context.cell)
    generator, scales = seeded(cell.seed), {}
    net, recipe = task.build(generator), task.training  # as dense net s starts
    if cell.method == "structures":
        _, scales = variants.selection_training(net, task, recipe, STRENGTH, generator=generator)
        told: Any = scales
    else:
        variants.slimming_training(net, task, recipe, LAMBDA, generator=generator)
        told = [gamma.detach().abs().tolist() for gamma in variants.gammas(net)]
    state = {name: t.contiguous() for name, t in net.state_dict().items()}
    save_file(state, context.keep("net.safetensors"))
    context.keep("scales.json").write_text(json.dumps(scales), encoding="utf-8")
    return standard(net, task) | {"steps": total_steps(task), "scales": told}


def tuned(context: Context) -> dict[str, Any]:
    """A pruned net with its inherited weights, before its tuning and after."""
    cell, task = context.cell, task_of(context.cell)
    net, masks = pruned(context, task)
    if masks:
        method.under_masks(net, masks)
    before = standard(net, task)
    found = trained(net, masks, task, tuning_of(task, cell), cell)
    return found | {"before": before["test"], "before_re": before["test_re"],
                    "shape": shape_of(net, masks, task)}  # fmt: skip


def scratch(context: Context) -> dict[str, Any]:
    """The pruned shape with random weights: as many epochs, or as many MACs, as the dense net."""
    cell, task = context.cell, task_of(context.cell)
    net, masks = fresh_shape(context, task)
    recipe = replace(task.training, lr=cell.lr)
    if cell.how == "b":
        if masks:  # cut before they are counted
            method.under_masks(net, masks)
        whole = count_macs(task.build(seeded(0)), task.example(1))
        cap = CAP if masks else inf
        recipe = method.scratch_b(task, recipe, whole, cost(net, masks, task), cap)
    return trained(net, masks, task, recipe, cell) | {"shape": shape_of(net, masks, task)}


def design(context: Context, task: Task) -> dict[str, int]:
    """Widths within a share of the parameters: found by slimming, or designed of equal size.

    The uniform net has no fewer parameters than the others.
    """
    cell = context.cell
    net, _ = sparse_net(context, task)
    graph = trace_groups(net, task.example(1))

    def found(budget: Budget) -> dict[str, int]:
        recipe = variants.slimmed(net, graph, budget)
        return {g.name: len(recipe.get(g.name, range(g.size))) for g in graph.prunable}

    own = found(Budget("params", cell.keep))
    if cell.method == "found":
        return own
    size = Costs(graph, "params")(np.array([own.get(g.name, g.size) for g in graph.groups]))
    same = dict.fromkeys(own, 1.0)
    uniform = variants.designed(graph, same, "params", size, above=True)
    if cell.method == "uniform":
        return uniform
    shares = variants.stage_shares(graph, [found(Budget("macs", keep)) for keep in MACS])
    size = Costs(graph, "params")(np.array([uniform.get(g.name, g.size) for g in graph.groups]))
    return variants.designed(graph, shares, "params", size, above=False)


def designed(context: Context) -> dict[str, Any]:
    """A shape of given size, from random weights, for as many epochs as the dense net."""
    cell, task = context.cell, task_of(context.cell)
    given = design(context, task)
    net = from_scratch(task, given, generator=context.generator(3), spread="own")
    found = trained(net, {}, task, replace(task.training, lr=cell.lr), cell)
    return found | {"shape": shape_of(net, {}, task)}


def ticket(context: Context) -> dict[str, Any]:
    """The dense net's masks over its own first weights, or over others, trained in full."""
    cell, task = context.cell, task_of(context.cell)
    masks = method.magnitude(context.dense(task), cell.keep)
    # dense net s starts from the first draws of its seed
    net = task.build(seeded(cell.seed) if cell.how == "own" else context.generator(3))
    if cell.how == "corrected":
        method.corrected(net, masks)
    return trained(net, masks, task, task.training, cell)


ARMS = {
    "dense": dense, "longer": longer, "sparse": sparse, "tuned": tuned, "scratch": scratch,
    "designed": designed, "ticket": ticket,
}  # fmt: skip
