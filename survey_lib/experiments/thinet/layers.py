"""One layer alone: the greedy choice against every subset, and the explorer's cuts."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.thinet import method, variants
from survey_lib.methods.thinet.rows import Rows, calibration_images, sample_rows
from survey_lib.methods.thinet.shares import kept_numbers, read_by_convolutions
from survey_lib.tasks.dense import shipped_net
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, recalibrate

CUT_TO, DRAWS = 14, 5
"""Greedy against every subset: layers are cut down to so many channels, by so many draws …"""
SUBSET_SHARES = (0.7, 0.5, 0.3)
"""… of which these shares are kept."""
SCHEMES = ((1, 5), (10, 10), (20, 20))
"""Images of each of ten classes and pairs of each image: 50, 1000 (the paper's), 4000 rows."""
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Kept of one layer, in the explorer."""
BATCHES = 10
"""Training batches on which statistics of batch norm are estimated anew there."""


# ---- greedy against every subset


def against_every_subset(
    net: nn.Module, task: Task, images_of_a_class: int, pairs: int, generator: torch.Generator
) -> dict[str, Any]:
    """Greedy objective over the best subset's, in each layer cut down to few channels.

    And, for the first layer whole, the error at every number of filters given up.
    """
    graph = trace_groups(net, task.example(1))
    images, others = calibration_images(task, images_of_a_class, generator)
    ratios: dict[str, dict[str, list[float]]] = {}
    curves: dict[str, list[float]] = {}
    for name in read_by_convolutions(graph):
        rows, held_out = (
            sample_rows(net, graph[name], x, pairs, generator) for x in (images, others)
        )
        if not curves:
            curves = error_curves(rows, held_out, generator)
        for _ in range(DRAWS):
            some = torch.randperm(rows.x.shape[1], generator=generator)[:CUT_TO].numpy()
            gram = rows.x[:, some].T @ rows.x[:, some]
            for r in SUBSET_SHARES:
                ratio = greedy_over_best(gram, len(some) - int(len(some) * r + 1e-9))
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


# ---- one layer of the shipped net


def explored_layers() -> tuple[str, ...]:
    """Layers of the shipped net that the explorer offers."""
    net = shipped_net("vgg_small")
    return read_by_convolutions(trace_groups(net, load_task("vgg_small").example(1)))


def one_layer(
    name: str, images: int, pairs: int, shares: Sequence[float], generator: torch.Generator
) -> tuple[dict[str, Any], Rows]:
    """One layer of the shipped net at some shares kept: who goes, the error, the accuracy.

    Returns:
        Numbers, and the rows that the choice rests on.
    """
    task, net = load_task("vgg_small"), shipped_net("vgg_small")
    group = trace_groups(net, task.example(1))[name]
    rows, held_out = (
        sample_rows(net, group, x, pairs, generator)
        for x in calibration_images(task, images, generator)
    )
    cuts = [cut_one_layer(net, task, name, rows, held_out, r) for r in shares]
    dense = evaluate(net, task.val, task)["accuracy"]
    return {"m": len(rows.y), "val_dense": dense, "cuts": cuts}, rows


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
    again = copy.deepcopy(plain)
    recalibrate(again, task.train, batches=BATCHES)
    numbers["accuracy_re"] = evaluate(again, task.val, task)["accuracy"]
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
