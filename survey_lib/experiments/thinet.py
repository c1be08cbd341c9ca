"""ThiNet (Luo et al. 2017) on a small VGG net: which filters go, and does it matter how.

Every pruned cell takes dense net s of its seed, walks through the first five of six convolutions
and keeps the share r of each. ``accuracy_before`` is measured after all five cuts without any
tuning; ``accuracy`` after a second walk that tunes on the way, with the same schedule and rate
for every way to choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import sizes
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.sharing import for_steps
from survey_lib.methods.thinet import method, variants
from survey_lib.methods.thinet.rows import Rows, calibration_images, sample_rows
from survey_lib.methods.thinet.shares import kept_numbers, read_by_convolutions
from survey_lib.tasks.dense import dense_net, seeded, shipped_net
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import evaluate, fit, total_steps

DATA = ("fashion_mnist.npz",)

SEEDS = 5
SHARES = (0.7, 0.5, 0.3)
"""The three shares kept, r."""
HALF = 0.5
DENSE_EPOCHS = 6.0
CLIP = 1.0
"""Largest gradient norm, in all trainings: without batch norm a rate that learns diverges else."""
LAYER_EPOCHS, FINAL_EPOCHS = 0.5, 2.0
TUNING_EPOCHS = 5 * LAYER_EPOCHS + FINAL_EPOCHS
"""All the tuning of a pruned net: after each of five layers, then at the end."""
IMAGES, PAIRS = 20, 20
"""Of each of ten classes, and places of each image: m = 4000 rows."""

LEARNING_RATES = {"dense": 0.2, "dense_bn": 0.2, "tuned": 0.1, "scratch": 0.2}
"""The best mean over :data:`TUNE_SEEDS` on validation, of :data:`TRIED_RATES` (``tune``)."""
TRIED_RATES = {
    "dense": (0.1, 0.2, 0.4),
    "dense_bn": (0.05, 0.1, 0.2),
    "tuned": (0.02, 0.05, 0.1),
    "scratch": (0.1, 0.2, 0.4),
}
TUNE_SEEDS = (900, 901, 902)

SELECTORS = ("thinet", "no_scalars", "forward", "weight_sum", "apoz", "random")
"""Ways to choose filters."""
NETS = ("gap", "tiny")
"""The paper's other nets: head averaged; and narrower still."""
EXPLORER_SAMPLES = ((1, 5), (2, 10), (10, 10), (20, 20))
"""Images of each class and pairs of each image: 50, 200, 1000 (the paper's scheme), 4000 rows."""
EXPLORED = "features.6"
"""Layer of the shipped net that the explorer opens with."""
EXPLORER_SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
CUT_TO, DRAWS = 14, 5
"""Greedy against every subset: layers are cut down to so many channels, by so many draws."""


@dataclass(frozen=True)
class Cell:
    """One run: a net, a way to make it smaller, the share kept."""

    arm: str
    """``dense``, ``dense_longer``, ``scratch``, one of :data:`SELECTORS` or :data:`NETS`,
    ``greedy`` (against every subset) or ``layer`` (one layer of the shipped net alone)."""
    seed: int
    r: float = 1.0
    bn: bool = False
    tune: bool = False
    layer: str = ""
    images: int = IMAGES
    pairs: int = PAIRS
    epochs: float = DENSE_EPOCHS
    """Of the dense net."""
    dense_lr: float = 0.0
    lr: float = 0.0
    """Peak rate of the tuning, or of the training from scratch."""


def _cell(arm: str, seed: int, r: float = 1.0, *, bn: bool = False, **more: Any) -> Cell:
    role = "scratch" if arm == "scratch" else "tuned"
    options: dict[str, Any] = {
        "dense_lr": LEARNING_RATES["dense_bn" if bn else "dense"],
        "lr": LEARNING_RATES[role],
    }
    if arm == "layer":
        options = {}
    return Cell(arm, seed, r, bn=bn, **(options | more))


def _claims(seed: int) -> list[Cell]:
    """One seed of the nets without batch norm."""
    tuned_everywhere = ("thinet", "weight_sum", "random")
    tuned_at_half = (*tuned_everywhere, "no_scalars", "apoz")
    return [
        _cell("dense", seed),
        _cell("scratch", seed, HALF),
        _cell("dense_longer", seed),
        *(
            _cell(arm, seed, r, tune=arm in (tuned_at_half if r == HALF else tuned_everywhere))
            for arm in SELECTORS
            for r in SHARES
        ),
        *(_cell(arm, seed, HALF, tune=True) for arm in NETS),
        _cell("greedy", seed),
    ]


def _with_bn(seed: int) -> list[Cell]:
    """One seed of the nets with batch norm."""
    return [
        _cell("dense", seed, bn=True),
        *(_cell(arm, seed, HALF, bn=True, tune=True) for arm in ("thinet", *NETS)),
        *(_cell(arm, seed, HALF, bn=True) for arm in ("no_scalars", "weight_sum", "random")),
    ]


def explored_layers() -> tuple[str, ...]:
    """Layers of the shipped net that the explorer offers."""
    net = shipped_net("vgg_small")
    return read_by_convolutions(trace_groups(net, load_task("vgg_small").example(1)))


def _explorer() -> list[Cell]:
    return [
        _cell("layer", 0, bn=True, layer=name, images=images, pairs=pairs)
        for name in explored_layers()
        for images, pairs in EXPLORER_SAMPLES
    ]


def _study() -> list[Cell]:
    cells = [c for s in range(SEEDS) for c in (*_claims(s), *_with_bn(s))]
    return _dense_first(cells + _explorer())


def _dense_first(cells: list[Cell]) -> list[Cell]:
    """Dense nets first, so that no two workers train the same one; they are cached."""
    order = {"dense": 0, "scratch": 1, "layer": 2}
    return sorted(cells, key=lambda c: order.get(c.arm, 3))


def _quick() -> list[Cell]:
    """A slice of the study, seed 0: half the filters kept, by the three main ways to choose."""
    wanted = {(arm, HALF) for arm in ("scratch", "thinet", "weight_sum", "random")}
    wanted |= {("dense", 1.0), ("greedy", 1.0)}
    cut = [c for c in _explorer() if c.layer == EXPLORED and c.images == c.pairs == IMAGES]
    return _dense_first([c for c in _claims(0) if (c.arm, c.r) in wanted] + cut)


def _smoke() -> list[Cell]:
    """Half an epoch of everything the page draws from a fresh run."""
    short = {"epochs": 0.3, "images": 4, "pairs": 5}
    return [
        replace(_cell(arm, 0, r), **short)
        for arm, r in (("dense", 1.0), ("thinet", HALF), ("random", HALF), ("greedy", 1.0))
    ]


def _tune() -> list[Cell]:
    """Dense nets, a pruned net tuned after two ways to choose, and one trained from scratch."""
    cells = []
    for seed in TUNE_SEEDS:
        for role, bn in (("dense", False), ("dense_bn", True)):
            cells += [_cell("dense", seed, bn=bn, dense_lr=lr) for lr in TRIED_RATES[role]]
        cells += [_cell("scratch", seed, HALF, lr=lr) for lr in TRIED_RATES["scratch"]]
        for arm in ("thinet", "random"):
            cells += [_cell(arm, seed, HALF, tune=True, lr=lr) for lr in TRIED_RATES["tuned"]]
    return _dense_first(cells)


def best_rates(records: Sequence[Record]) -> dict[str, float]:
    """The choice :data:`LEARNING_RATES` rests on: the rate with the best mean on validation."""
    wanted: dict[str, tuple[str, dict[str, Any]]] = {
        "dense": ("dense_lr", {"arm": ("dense",), "bn": False}),
        "dense_bn": ("dense_lr", {"arm": ("dense",), "bn": True}),
        "tuned": ("lr", {"arm": ("thinet", "random"), "bn": False}),
        "scratch": ("lr", {"arm": ("scratch",), "bn": False}),
    }
    chosen = {}
    for role, (field, what) in wanted.items():
        means = {}
        for lr in TRIED_RATES[role]:
            values = [
                r.numbers["val"]
                for r in records
                if r.config["arm"] in what["arm"]
                and r.config["bn"] == what["bn"]
                and r.config[field] == lr
            ]
            means[lr] = sum(values) / len(values)
        chosen[role] = max(means, key=means.__getitem__)
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


# ---- what one cell does


def task_of(cell: Cell) -> Task:
    """The small VGG net with a fully connected head, and the dense net's training."""
    task = load_task("vgg_small", bn=cell.bn, head="fc")
    return task.with_training(epochs=cell.epochs, lr=cell.dense_lr, clip=CLIP)


def config_of(cell: Cell) -> method.Config:
    """ThiNet's settings in a cell."""
    return method.Config(
        r=cell.r, images=cell.images, pairs=cell.pairs, rescale=cell.arm != "no_scalars"
    )


def tuning_of(task: Task, cell: Cell, layers: int) -> tuple[Training, float]:
    """The tuning of a pruned net, and the share of it that is spent after the layers."""
    each, final = (
        total_steps(task, replace(task.training, epochs=e)) for e in (LAYER_EPOCHS, FINAL_EPOCHS)
    )
    whole = replace(task.training, lr=cell.lr)
    steps = layers * each + final
    return for_steps(task, whole, steps), layers * each / steps


def run(cell: Cell) -> dict[str, Any]:
    """Make one net smaller, or train one, and measure it."""
    if cell.arm == "layer":
        return one_layer(cell)
    task, generator = task_of(cell), seeded(cell.seed, 1)
    if cell.arm == "scratch":
        return measured(scratch(task, cell, generator), task)
    dense = dense_net(task, cell.seed)
    if cell.arm == "dense":
        return measured(dense, task)
    if cell.arm == "dense_longer":
        fit(dense, task.with_training(epochs=TUNING_EPOCHS, lr=cell.lr), generator=generator)
        return measured(dense, task)
    if cell.arm == "greedy":
        return against_every_subset(dense, task, cell, generator)
    if cell.arm in NETS:
        return measured(other_net(dense, task, cell, generator).model, task)
    cut = choose_and_prune(dense, task, cell, generator, tune=False)
    numbers: dict[str, Any] = {
        "accuracy_before": evaluate(cut.model, task.test, task)["accuracy"],
        "reconstruction": float(np.mean(cut.trace["held_out"])),
        "layers": {
            row["layer"]: [row["channels"], row["kept"]]
            for row in cut.table
            if row["layer"] in cut.recipe
        },
        "held_out": dict(zip(cut.trace["layer"], cut.trace["held_out"], strict=True)),
    }
    if cell.arm == "thinet":  # the same channels, each as it was
        plain = apply_recipe(dense, trace_groups(dense, task.example(1)), cut.recipe)
        numbers["accuracy_same_channels"] = evaluate(plain, task.test, task)["accuracy"]
    if not cell.tune:
        return numbers | size_of(cut.model, task)
    tuned = choose_and_prune(dense, task, cell, seeded(cell.seed, 1), tune=True)
    return numbers | measured(tuned.model, task) | {"steps": tuned.steps}


def choose_and_prune(
    dense: nn.Module, task: Task, cell: Cell, generator: torch.Generator, *, tune: bool
) -> Compressed:
    """One walk through the layers by the cell's way to choose."""
    config, tuning = config_of(cell), None
    if tune:
        layers = read_by_convolutions(trace_groups(dense, task.example(1)))
        tuning, between = tuning_of(task, cell, len(layers))
        config = replace(config, between=between)
    if cell.arm in variants.CHOICES:
        other = variants.Config(cell.arm, config)
        return variants.compress(dense, task, None, other, tuning=tuning, generator=generator)
    return method.compress(dense, task, None, config, tuning=tuning, generator=generator)


def other_net(dense: nn.Module, task: Task, cell: Cell, generator: torch.Generator) -> Compressed:
    """ThiNet-GAP and ThiNet-Tiny: pruned with their old head, tuned at the end with a new one.

    GAP keeps the share r as ThiNet-Conv does; Tiny keeps half of that, and r of the last layer.
    """
    graph = trace_groups(dense, task.example(1))
    layers = read_by_convolutions(graph)
    ratios = tuple((name, cell.r) for name in layers)
    if cell.arm == "tiny":
        last = [g.name for g in graph.prunable if g.name.startswith("features.")][-1]
        ratios = (*((name, cell.r / 2) for name in layers), (last, cell.r))
    tuning, between = tuning_of(task, cell, len(ratios))
    config = replace(config_of(cell), r=ratios, between=between)
    classes = len(task.data.classes)
    return method.layer_by_layer(
        dense, task, None, config, method.thinet(config.rescale), tuning, generator,
        before_final=lambda net: variants.averaging_head(net, classes, generator),
    )  # fmt: skip


def scratch(task: Task, cell: Cell, generator: torch.Generator) -> nn.Module:
    """The pruned shape from random weights, for as many epochs as pruned nets saw in all."""
    graph = trace_groups(task.build(seeded(cell.seed)), task.example(1))
    keep = kept_numbers(graph, None, cell.r)
    small = from_scratch(task, keep, generator=generator, spread="own")
    epochs = cell.epochs + TUNING_EPOCHS
    fit(small, task.with_training(epochs=epochs, lr=cell.lr), generator=generator)
    return small


def measured(model: nn.Module, task: Task) -> dict[str, Any]:
    """Accuracy on validation and test, sizes and MACs."""
    return {
        "val": evaluate(model, task.val, task)["accuracy"],
        "accuracy": evaluate(model, task.test, task)["accuracy"],
    } | size_of(model, task)


def size_of(model: nn.Module, task: Task) -> dict[str, Any]:
    """Parameters, bytes of the file, MACs per image."""
    found = sizes(model)
    return {
        "params": found["params"],
        "bytes": found["bytes_dense"],
        "macs": count_macs(model, task.example(1)),
    }


def against_every_subset(
    dense: nn.Module, task: Task, cell: Cell, generator: torch.Generator
) -> dict[str, Any]:
    """Greedy objective over the best subset's, in each layer cut down to few channels.

    And, for the first layer whole, the error at every number of filters given up.
    """
    graph = trace_groups(dense, task.example(1))
    images, others = calibration_images(task, cell.images, generator)
    ratios: dict[str, dict[str, list[float]]] = {}
    curves: dict[str, list[float]] = {}
    for name in read_by_convolutions(graph):
        rows, held_out = (
            sample_rows(dense, graph[name], x, cell.pairs, generator) for x in (images, others)
        )
        if not curves:
            curves = error_curves(rows, held_out, generator)
        for _ in range(DRAWS):
            some = torch.randperm(rows.x.shape[1], generator=generator)[:CUT_TO].numpy()
            gram = rows.x[:, some].T @ rows.x[:, some]
            for r in SHARES:
                n = CUT_TO - int(CUT_TO * r + 1e-9)
                ratio = greedy_over_best(gram, n)
                ratios.setdefault(name, {}).setdefault(str(r), []).append(ratio)
    return {"ratios": ratios, "curves": curves}


def greedy_over_best(gram: np.ndarray, n: int) -> float:
    """Objective of the greedy choice over that of the best subset; 1 where both are nothing."""
    chosen = method.greedy(gram, n)
    best = variants.best_subset(gram, n)[1]
    found = float(gram[np.ix_(chosen, chosen)].sum())
    nothing = 1e-12 * gram.sum()
    return 1.0 if found <= nothing else found / max(best, nothing)


def error_curves(rows: Rows, held_out: Rows, generator: torch.Generator) -> dict[str, list[float]]:
    """Relative error against the number of filters given up, 0 … C − 1, by way to choose."""
    gram, channels = rows.x.T @ rows.x, rows.x.shape[1]
    order = method.greedy(gram, channels)
    shuffled = torch.randperm(channels, generator=generator).tolist()
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(round(value, 6))

    for n in range(channels):
        kept = sorted(order[n:])
        ones, w = np.ones(len(kept)), method.rescaling(rows.x[:, kept], rows.y)
        note("greedy", rows.error(kept, ones))
        note("greedy_held_out", held_out.error(kept, ones))
        note("scaled", rows.error(kept, w))
        note("scaled_held_out", held_out.error(kept, w))
        best = variants.best_subset(gram, n)[0]
        note("best", rows.error(sorted(set(range(channels)) - set(best)), ones))
        note("random", rows.error(sorted(shuffled[n:]), ones))
        forward, v = variants.matching_pursuit(rows.x, rows.y, len(kept))
        note("forward", rows.error(forward, v))
        note("forward_held_out", held_out.error(forward, v))
    return found


def one_layer(cell: Cell) -> dict[str, Any]:
    """One layer of the shipped net at every share kept: who goes, the error, the accuracy."""
    task, net = load_task("vgg_small"), shipped_net("vgg_small")
    graph, generator = trace_groups(net, task.example(1)), seeded(cell.seed, 2)
    images, others = calibration_images(task, cell.images, generator)
    rows, held_out = (
        sample_rows(net, graph[cell.layer], x, cell.pairs, generator) for x in (images, others)
    )
    found = [cut_one_layer(net, task, cell.layer, rows, held_out, r) for r in EXPLORER_SHARES]
    return {"m": len(rows.y), "val_dense": evaluate(net, task.val, task)["accuracy"], "cuts": found}


def cut_one_layer(
    net: nn.Module, task: Task, name: str, rows: Rows, held_out: Rows, r: float
) -> dict[str, Any]:
    """Cut one layer to the share r: kept filters, held-out errors, accuracy before tuning."""
    graph = trace_groups(net, task.example(1))
    keep = kept_numbers(graph, None, ((name, r),))[name]
    channels = graph[name].size
    order = method.greedy(rows.x.T @ rows.x, channels - keep)
    kept = sorted(set(range(channels)) - set(order))
    other = method.greedy(held_out.x.T @ held_out.x, channels - keep)
    as_kept = set(range(channels)) - set(other)
    w = method.rescaling(rows.x[:, kept], rows.y)
    plain = apply_recipe(net, graph, {name: kept})
    numbers = {"accuracy_plain": evaluate(plain, task.val, task)["accuracy"]}
    method.fold(*method.reading_layer(plain, trace_groups(plain, task.example(1))[name]), w)
    return numbers | {
        "r": r,
        "channels": channels,
        "kept": kept,
        "error": held_out.error(kept, w),
        "error_plain": held_out.error(kept, np.ones(keep)),
        "accuracy": evaluate(plain, task.val, task)["accuracy"],
        "overlap": len(as_kept & set(kept)) / len(as_kept | set(kept)),
    }


# ---- the statistic of each claim: one seed's records → a number; MissingArm when an arm is missing


def pick(rows: Sequence[Record], **wanted: Any) -> dict[str, Any]:
    """Numbers of the one record whose configuration has these values.

    Raises:
        MissingArm: there is none.
        ValueError: there is more than one.
    """
    wanted = {"bn": False} | wanted
    found = [r.numbers for r in rows if all(r.config[k] == v for k, v in wanted.items())]
    if not found:
        raise MissingArm(f"no record with {wanted}")
    if len(found) > 1:
        raise ValueError(f"{len(found)} records with {wanted}")
    return found[0]


def _over_shares(rows: Sequence[Record], difference: Callable[[float], float]) -> float:
    return sum(difference(r) for r in SHARES) / len(SHARES)


def _before(rows: Sequence[Record], arm: str, r: float) -> float:
    return pick(rows, arm=arm, r=r)["accuracy_before"]


def over_weight_sum(rows: Sequence[Record]) -> float:
    """Mean over three shares of accuracy before tuning, ThiNet's minus weight sum's."""
    return _over_shares(rows, lambda r: _before(rows, "thinet", r) - _before(rows, "weight_sum", r))


def over_random(rows: Sequence[Record]) -> float:
    """Mean over three shares of accuracy before tuning, ThiNet's minus a random choice's."""
    return _over_shares(rows, lambda r: _before(rows, "thinet", r) - _before(rows, "random", r))


def rescaling_gain(rows: Sequence[Record]) -> float:
    """Mean over three shares of accuracy before tuning, with the scalars minus without them."""

    def gain(r: float) -> float:
        numbers = pick(rows, arm="thinet", r=r)
        return numbers["accuracy_before"] - numbers["accuracy_same_channels"]

    return _over_shares(rows, gain)


def greedy_ratio(rows: Sequence[Record]) -> float:
    """Median over layers and draws, half the channels given up, of greedy over best objective."""
    ratios = pick(rows, arm="greedy")["ratios"]
    return median(v for by_share in ratios.values() for v in by_share[str(HALF)])


def averaging_head_cost(rows: Sequence[Record]) -> float:
    """Accuracy of ThiNet-GAP minus that of the dense net with its fully connected head."""
    return pick(rows, arm="gap")["accuracy"] - pick(rows, arm="dense")["accuracy"]


def averaging_head_parameters(rows: Sequence[Record]) -> float:
    """Share of the dense net's parameters that ThiNet-GAP has not."""
    return 1 - pick(rows, arm="gap")["params"] / pick(rows, arm="dense")["params"]


def tuned_over_scratch(rows: Sequence[Record]) -> float:
    """Accuracy of the pruned and tuned net minus that of its shape from scratch, half kept."""
    tuned = pick(rows, arm="thinet", r=HALF)["accuracy"]
    return tuned - pick(rows, arm="scratch", r=HALF)["accuracy"]


STATISTICS: dict[str, Callable[[Sequence[Record]], float]] = {
    f.__name__: f
    for f in (
        over_weight_sum, over_random, rescaling_gain, greedy_ratio, averaging_head_cost,
        averaging_head_parameters, tuned_over_scratch,
    )
}  # fmt: skip
