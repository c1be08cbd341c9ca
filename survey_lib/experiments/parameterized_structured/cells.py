"""Schindler et al. (2019): what is measured. Structures that a net learns to do without.

Every arm starts from the dense net of its seed and is given the same further training. The learned
structure parameters (``psp``) have a mask that is free at first and then frozen; their rivals cut
at the start, as many structures, or MACs, as a ``psp`` run of the same seed lost.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.compare import compare
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_parameters
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods import channel_baselines
from survey_lib.methods.parameterized_structured import columns, method, variants
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import evaluate, fit, pass_steps, recalibrate, total_steps

DATA = ("fashion_mnist.npz",)
INEXACT = tuple(
    f"timed.*.{name}"
    for name in ("median_ms", "min_ms", "speed_up", "efficiency", "noisy", "device")
)

NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet_small", {"width": 0.5}),
    "densenet": ("densenet_small", {"width": 0.5, "layers": 3}),
    "cnn": ("cnn_small", {"width": 0.5}),
    "cnn_plain": ("cnn_small", {"width": 0.5, "bn": False}),
}
BINS = tuple(float(f"{e:.4g}") for e in np.geomspace(1e-3, 4.0, 37))
"""Edges of the histogram of |α|; what lies outside counts in the outer ones."""
FACTORS = (0.125, 0.25, 0.5, 0.71, 1.0, 1.41, 2.0, 4.0, 8.0)
"""Thresholds that are tried on the net whose mask is about to be frozen, as multiples of ε."""
NEAR = 2.0
"""A structure is near the threshold when |α| lies between ε / 2 and 2 ε."""
LOOK = 20
"""Batches on which batch-norm statistics are estimated anew for each of these thresholds."""
BATCHES = (64, 1)
"""Sizes of the batches that are timed."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """A key of :data:`ARMS`."""
    seed: int
    net: str = "resnet"
    granularity: str = "column"
    penalty: str = "decay"
    pull: float = 0.0
    """λ η with η the peak rate, of the ``psp`` run that the cell is or is compared with: another
    rate so changes the steps, not how far the penalty pulls."""
    epsilon: float = 0.1
    rate: float = 1.0
    """Learning rate of the structure parameters, as a multiple."""
    frozen: float = 0.5
    wd: float = 5e-4
    """Weight decay on the weights where structure parameters are learned."""
    start: str = "dense"
    """Where a ``psp`` run starts: ``dense``, or ``fresh`` weights."""
    epochs: float = 6.0
    """Of the training after the dense net's."""
    share: float = 0.0
    """Share of the structures that a rival cuts; 0: as ``match`` says."""
    match: str = "structures"
    """Cut as many ``structures`` as the ``psp`` run, as many ``macs``, or as many in each of its
    ``layers``."""
    scope: str = "layer"
    """How ℓ1 norms are ranked: the same share of each ``layer``, or mean sizes in one ``global``
    ranking."""
    psp_lr: float = 0.0
    """Peak rate of the ``psp`` run."""
    lr: float = 0.0
    """Peak rate of every other training."""


RIVALS = ("fixed", "l1_norm", "random", "fresh", "latency")


def psp_of(cell: Cell) -> Cell:
    """The run of learned structure parameters that a cell is compared with."""
    own = {f: Cell.__dataclass_fields__[f].default for f in ("share", "match", "scope", "lr")}
    return replace(cell, arm="psp", **own)


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The run whose masks a cell uses."""
    return (psp_of(cell),) if cell.arm in RIVALS and not cell.share else ()


def task_of(cell: Cell) -> Task:
    """The cell's net, with its standard training."""
    name, options = NETS[cell.net]
    return load_task(name, **options)


def recipe_of(cell: Cell, task: Task) -> Training:
    """What follows the dense training."""
    wd = cell.wd if cell.arm in ("psp", "fixed") else task.training.weight_decay
    return replace(task.training, epochs=cell.epochs, lr=rate_of(cell), weight_decay=wd)


def rate_of(cell: Cell) -> float:
    """Peak rate of the training that a cell makes."""
    return cell.psp_lr if cell.arm == "psp" else cell.lr


def config_of(cell: Cell, share: float = 0.0) -> method.Config:
    """The method's settings in a cell."""
    return method.Config(
        granularity=cell.granularity, decay=cell.pull / rate_of(cell), penalty=cell.penalty,
        epsilon=cell.epsilon, share=share, rate=cell.rate, frozen=cell.frozen,
    )  # fmt: skip


# ---- what is noted of a cut net


def counts(masks: Mapping[str, Tensor], granularity: str) -> dict[str, tuple[int, int]]:
    """Structures, and how many of them have a weight that is kept, by weight."""
    found = variants.norms({n: m.float() for n, m in masks.items()}, granularity)
    return {n: (s.numel(), int((s > 0).sum())) for n, s in found.items()}


def sparsity_of(layers: Mapping[str, tuple[int, int]]) -> float:
    """Share of all structures that are gone."""
    return 1 - sum(kept for _, kept in layers.values()) / sum(n for n, _ in layers.values())


def cuts(net: nn.Module, task: Task, masks: Mapping[str, Tensor], granularity: str) -> dict:
    """Shares of structures, weights and MACs that are gone, and what surgery takes out."""
    cost = variants.structure_macs(net, task, granularity)
    layers = counts(masks, granularity)
    gone_macs = math.fsum(cost[name] * (n - kept) for name, (n, kept) in layers.items())
    graph = trace_groups(net, task.example(1))
    dead = columns.dead_channels(net, graph)
    small = apply_recipe(net, graph, dead).eval()
    weights_gone = sum(int((~m).sum()) for m in masks.values())
    return {
        "structures": sum(n for n, _ in layers.values()),
        "sparsity": sparsity_of(layers),
        "weights_gone": weights_gone / sum(m.numel() for m in masks.values()),
        "macs_gone": gone_macs / count_macs(net, task.example(1)),
        "layers": {name: list(found) for name, found in layers.items()},
        "dead": {g.name: g.size - len(dead[g.name]) for g in graph.prunable},
        "small": {"params": count_parameters(small), "macs": count_macs(small, task.example(1))},
    }


def sizes(structures: Mapping[str, method.Structures]) -> Tensor:
    """|α| of all structures."""
    return torch.cat([s.alpha.detach().abs().flatten() for s in structures.values()])


def noted(structures: Mapping[str, method.Structures], epsilon: float) -> dict[str, Any]:
    """How the structure parameters are spread now."""
    size = sizes(structures).numpy().astype(np.float64)
    near = (size >= epsilon / NEAR) & (size <= epsilon * NEAR)
    return {
        "sparsity": method.sparsity(structures),
        "near": float(near.mean()),
        "hist": np.histogram(size.clip(BINS[0], BINS[-1]), BINS)[0].tolist(),
    }


def thresholds(net: nn.Module, task: Task, epsilon: float) -> list[dict[str, Any]]:
    """The net with other thresholds: sparsity and accuracy, statistics estimated anew."""
    found = []
    for factor in FACTORS:
        twin = copy.deepcopy(net)
        own = {n: m for n, m in twin.named_modules() if isinstance(m, method.Structures)}
        for s in own.values():
            s.mask, s.epsilon = None, factor * epsilon
        recalibrate(twin, task.train, batches=LOOK)
        row = {"factor": factor, "sparsity": method.sparsity(own),
               "val_re": evaluate(twin, task.val, task)["accuracy"]}  # fmt: skip
        if 1 / NEAR <= factor <= NEAR:
            row["test_re"] = evaluate(twin, task.test, task)["accuracy"]
        found.append(row)
    return found


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """The dense net, by its standard training."""
    task = task_of(context.cell)
    return standard(context.dense(task), task)


def dense_longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    history = fit(net, task, recipe_of(cell, task), generator=seeded(cell.seed, 2))
    return standard(net, task) | {"steps": history.steps}


def learned(context: Context, share: float = 0.0) -> dict[str, Any]:
    """Structure parameters, by threshold or with a share fixed; noted once an epoch."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task) if cell.start == "dense" else task.build(seeded(cell.seed, 3))
    config, recipe = config_of(cell, share), recipe_of(cell, task)
    structures = method.attach(net, config)
    steps, every = total_steps(task, recipe), pass_steps(len(task.train), recipe.batch)
    path = [{"step": 0, "val": evaluate(net.eval(), task.val, task)["accuracy"]}
            | noted(structures, cell.epsilon)]  # fmt: skip
    kept = {n: s.kept() for n, s in structures.items()}
    was_off = {n: torch.zeros_like(k) for n, k in kept.items()}
    crossings, more = 0, {}
    for step in method.train(net, structures, task, recipe, config,
                             generator=seeded(cell.seed, 2)):  # fmt: skip
        number = step.number + 1
        if not more:
            for name, s in structures.items():
                now = s.kept()
                crossings += int((now & ~kept[name]).sum())
                was_off[name] |= ~now
                kept[name] = now
        if not more and all(s.mask is not None for s in structures.values()):
            back = sum(int((kept[n] & was_off[n]).sum()) for n in kept)
            more = {"frozen_at": number, "at_freeze": noted(structures, cell.epsilon),
                    "crossings": crossings, "back": back}  # fmt: skip
            if not share:
                more["thresholds"] = thresholds(net, task, cell.epsilon)
        if number % every == 0 or number == steps:
            found = evaluate(net, task.val, task)["accuracy"]
            path.append({"step": number, "val": found} | noted(structures, cell.epsilon))
    masks = method.fold(net, structures)
    if cell.arm == "psp":
        save_file(masks, context.keep("masks.safetensors"))
        state = {k: v.contiguous() for k, v in net.state_dict().items()}
        save_file(state, context.keep("net.safetensors"))
    found = standard(net.eval(), task) | cuts(net, task, masks, cell.granularity)
    return found | more | {"decay": config.decay, "steps": steps, "path": path}


def psp(context: Context) -> dict[str, Any]:
    """Learned structure parameters with a threshold."""
    return learned(context)


def masks_of(context: Context) -> dict[str, Tensor]:
    """The masks that the run compared with ended with."""
    return load_file(context.kept(psp_of(context.cell), "masks.safetensors"))


def fixed(context: Context) -> dict[str, Any]:
    """Structure parameters with the share of zeros fixed, the same in each layer and all along."""
    cell = context.cell
    share = cell.share or sparsity_of(counts(masks_of(context), cell.granularity))
    return learned(context, share)


def choice(context: Context, net: nn.Module, task: Task, scores: dict[str, Tensor]) -> dict:
    """Masks of a rival: what it keeps by its scores."""
    cell = context.cell
    one = dict.fromkeys(scores, 1.0)
    total = sum(s.numel() for s in scores.values())
    if cell.share:
        return variants.cut_lowest(scores, one, (1 - cell.share) * total, cell.scope)
    kept = {n: k for n, (_, k) in counts(masks_of(context), cell.granularity).items()}
    if cell.match == "layers":
        return variants.cut_shares(scores, kept)
    cost = one if cell.match == "structures" else variants.structure_macs(
        net, task, cell.granularity
    )  # fmt: skip
    target = math.fsum(cost[n] * kept[n] for n in scores)
    return variants.cut_lowest(scores, cost, target, cell.scope)


def cut_and_trained(context: Context, scores: dict[str, Tensor]) -> dict[str, Any]:
    """The dense net without the structures of lowest score, retrained."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    masks = choice(context, net, task, scores)
    whole = {n: masks[n].expand_as(w).contiguous()
             for n, w in method.structured_weights(net).items()}  # fmt: skip
    history = variants.fit_cut(
        net, whole, task, recipe_of(cell, task), generator=seeded(cell.seed, 2)
    )
    found = standard(net, task) | cuts(net, task, whole, cell.granularity)
    return found | {"steps": history.steps}


def scores_of(context: Context) -> dict[str, Tensor]:
    """ℓ1 norms of the dense net's structures, as the cell ranks them."""
    cell = context.cell
    weights = method.structured_weights(context.dense(task_of(cell)))
    return variants.norms(weights, cell.granularity, mean=cell.scope == "global")


def l1_norm(context: Context) -> dict[str, Any]:
    """Structures of the smallest ℓ1 norm go, then retraining."""
    return cut_and_trained(context, scores_of(context))


def random(context: Context) -> dict[str, Any]:
    """Random structures go, then retraining."""
    drawn = variants.drawn(scores_of(context), seeded(context.cell.seed, 4))
    return cut_and_trained(context, drawn)


def fresh(context: Context) -> dict[str, Any]:
    """The masks of the run on fresh weights, for as many steps as dense net and run had."""
    cell, task = context.cell, task_of(context.cell)
    net = task.build(seeded(cell.seed, 3))
    masks = masks_of(context)
    recipe = recipe_of(cell, task)
    recipe = replace(recipe, epochs=recipe.epochs + task.training.epochs)
    history = variants.fit_cut(net, masks, task, recipe, generator=seeded(cell.seed, 2))
    return standard(net, task) | cuts(net, task, masks, cell.granularity) | {"steps": history.steps}


def latency(context: Context) -> dict[str, Any]:
    """The pruned net three ways beside a net with as many MACs that lost whole channels."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    cut = task.build(seeded(0))
    cut.load_state_dict(load_file(context.kept(psp_of(cell), "net.safetensors")))
    gone = cuts(cut, task, masks_of(context), cell.granularity)["macs_gone"]
    thinner = channel_baselines.compress(
        net, task, Budget("macs", 1 - gone), tuning=None, generator=seeded(cell.seed, 4)
    ).model
    nets = {
        "dense": net,
        "zeros left in": cut,
        "all columns, im2col": columns.with_columns(cut, all_columns=True),
        "fewer columns, im2col": columns.with_columns(cut),
        "fewer channels": thinner,
    }
    nets = {name: n.eval() for name, n in nets.items()}
    fields = ("name", "params", "macs", "min_ms", "median_ms", "mac_ratio", "speed_up",
              "efficiency", "noisy")  # fmt: skip
    found = {}
    for batch in BATCHES:
        done = compare(nets, task.example(batch))
        rows = [{f: row[f] for f in fields} for row in done.dicts()]
        found[str(batch)] = {"device": done.device_line, "rows": rows}
    return {"macs_gone": gone, "timed": found}


ARMS = {
    "dense": dense, "dense_longer": dense_longer, "psp": psp, "fixed": fixed, "l1_norm": l1_norm,
    "random": random, "fresh": fresh, "latency": latency,
}  # fmt: skip
