r"""ThiNet (Luo, Wu & Lin 2017, bibliography key ``luo2017thinet``).

A filter of layer :math:`i` is judged by what layer :math:`i+1` would miss without it. Layer by
layer, from shallow to deep: sample values :math:`\hat y` of layer :math:`i+1` and the part
:math:`\hat x_c` that each input channel adds to them, give up channels one by one, rescale the
rest by least squares, take the filters out, tune a little. A longer tuning ends it.

Faithful: rows of random (image, output filter, location) from the *current*, partly pruned net;
the bias is subtracted; the greedy algorithm 1; one scalar for each kept channel, folded into
layer :math:`i+1`; :math:`\lfloor C r \rfloor` channels are kept; filters are removed, not masked.

Differs: least squares finds the change from 1, so that a channel that is silent in the sample (a
dead ReLU, :math:`X^\top X` singular) keeps the scalar 1 instead of breaking the solution. The
rate of each tuning follows a cosine, the paper's falls in steps. The paper sets :math:`r` by hand
in each layer; here ``Config.r`` does so, or else a budget is turned into the largest :math:`r`,
equal in all pruned layers, whose net meets it. The tuning has a given length; the share
``between`` of its steps is dealt out evenly over the layers, the others are made at the end.

Cost: for each layer one forward pass over some hundred images, :math:`m C^2` for the products of
rows and :math:`C^2` for the greedy choice; then the tuning.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup
from survey_lib.mechanics.selection import channels_table, shrunk
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.sharing import for_steps, parts
from survey_lib.methods.thinet.rows import (
    CHUNK,
    Rows,
    calibration_images,
    check,  # noqa: F401 (part of the contract)
    reading_layer,
    sample_rows,
)
from survey_lib.methods.thinet.shares import Ratios, kept_numbers
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import fit, total_steps

STEERS = "budget"
KIND = "channels"


@dataclass(frozen=True)
class Config:
    """The paper's symbols; defaults are the paper's where our scale allows them."""

    r: Ratios = None
    """Share of filters *kept*: in every pruned layer, or by layer; None: from the budget."""
    layers: tuple[str, ...] = ()
    """Groups to prune; by default every convolution that another convolution reads."""
    images: int = 10
    """Calibration images of each class."""
    pairs: int = 10
    """(Output filter, location) pairs of each image; m = classes × images × pairs rows."""
    rescale: bool = True
    """Rescale the kept channels by least squares."""
    between: float = 0.5
    """Share of the tuning's steps that is made after the layers, in equal parts, each with the
    whole schedule; the rest ends it (the paper: one epoch after each of ten to thirteen layers,
    twelve at the end)."""

    def __post_init__(self) -> None:
        ratios = (
            self.r if isinstance(self.r, tuple) else (("r", 1.0 if self.r is None else self.r),)
        )
        if not all(0 < r <= 1 for _, r in ratios):
            raise ValueError(f"thinet: r is the share kept and lies in (0, 1], got {self.r}")
        if self.images < 1 or self.pairs < 1 or not 0 <= self.between <= 1:
            raise ValueError(f"thinet: need images and pairs ≥ 1 and between in [0, 1], got {self}")


@dataclass(frozen=True)
class Site:
    """What a choice of filters may look at: the current net, and the layer whose turn it is."""

    net: nn.Module
    group: ChannelGroup
    images: Tensor
    """Calibration images (n, channels, H, W)."""
    rows: Rows


Choice = Callable[[Site, int, torch.Generator], tuple[list[int], np.ndarray]]
"""(site, number to keep, generator) → kept channels S, sorted, and their scalars ŵ."""


def greedy(gram: np.ndarray, n: int) -> list[int]:
    """Algorithm 1: T of n channels, in the order they are given up.

    Each step adds the channel j that leaves Σ_i (Σ_{k ∈ T ∪ j} x̂_ik)² smallest. With G = XᵀX
    (C, C) that sum grows by G_jj + 2 Σ_{k ∈ T} G_kj, so a step costs C instead of m C. On ties
    the lower index goes.
    """
    growth = gram.diagonal().astype(np.float64)
    given_up: list[int] = []
    for _ in range(n):
        j = int(growth.argmin())
        given_up.append(j)
        growth += 2 * gram[j]
        growth[j] = np.inf
    return given_up


def greedy_running_sum(x: np.ndarray, n: int) -> list[int]:
    """The same choice, as the authors compute it: the sum over T is kept for each row."""
    total, given_up = np.zeros(len(x)), []
    for _ in range(n):
        cost = ((total[:, None] + x) ** 2).sum(0)  # (C,)
        cost[given_up] = np.inf
        j = int(cost.argmin())
        given_up.append(j)
        total += x[:, j]
    return given_up


def rescaling(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scalars ŵ = argmin_w Σ_i (ŷ_i − wᵀx̂*_i)², shape (C r,), of the kept channels x̂*.

    Solved for ŵ − 1, the shortest solution where several are as good.
    """
    return 1 + np.linalg.lstsq(x, y - x.sum(1), rcond=None)[0]


def fold(layer: Any, positions: np.ndarray, w: np.ndarray) -> None:
    """W[:, c] ← ŵ_c W[:, c] in layer i + 1, for all its output filters alike."""
    factors = torch.ones(layer.weight.shape[1], dtype=torch.float64, device="cpu")
    factors[positions.ravel()] = torch.from_numpy(w).repeat_interleave(positions.shape[1])
    shape = [1, -1] + [1] * (layer.weight.ndim - 2)
    with torch.no_grad():
        layer.weight.mul_(factors.to(layer.weight).reshape(shape))


def thinet(rescale: bool) -> Choice:
    """The paper's choice: the greedy algorithm, then the scalars."""

    def choose(site: Site, keep: int, _: torch.Generator) -> tuple[list[int], np.ndarray]:
        x, y = site.rows.x, site.rows.y
        given_up = greedy(x.T @ x, x.shape[1] - keep)
        kept = sorted(set(range(x.shape[1])) - set(given_up))
        return kept, rescaling(x[:, kept], y) if rescale else np.ones(keep)

    return choose


def reach(graph: ChannelGraph, budget: Budget | None, config: Config) -> None:
    """Raise BudgetNotMet for a budget that these layers, or ``config.r``, cannot meet."""
    kept_numbers(graph, budget, config.r, config.layers)


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget | None,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Prune a copy of a trained ``model`` layer by layer.

    Args:
        model: a trained net.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations``; None only where ``config.r`` is given.
        config: shares kept, rows, and how the tuning is shared out.
        tuning: spent after each layer and at the end; None trains nothing.
        generator: draws images, rows and the order of the data.

    Raises:
        BudgetNotMet: one filter in each layer is still too much, or ``config.r`` keeps too much.
    """
    choose = thinet(config.rescale)
    return layer_by_layer(model, task, budget, config, choose, tuning, generator)


def layer_by_layer(
    model: nn.Module,
    task: Task,
    budget: Budget | None,
    config: Config,
    choose: Choice,
    tuning: Training | None,
    generator: torch.Generator,
    *,
    before_final: Callable[[nn.Module], None] | None = None,
) -> Compressed:
    """Choose, rescale, remove, tune, in one layer after another; ``choose`` is what differs."""
    start = perf_counter()
    example = task.example(1).to(next(model.parameters()).device)
    graph = trace_groups(model, example)
    keep = kept_numbers(graph, budget, config.r, config.layers)
    images, others = (
        x.to(example.device) for x in calibration_images(task, config.images, generator)
    )
    net, recipe = copy.deepcopy(model).eval(), {}
    trace: dict[str, list] = {"layer": [], "error": [], "held_out": [], "loss": []}
    *after, final = parts(total_steps(task, tuning) if tuning else 0, config.between, len(keep))
    examples = 0

    def tune(steps: int) -> None:
        nonlocal examples
        if tuning and steps:
            spent = fit(net, task, for_steps(task, tuning, steps), generator=generator)
            trace["loss"] += spent.loss
            examples += spent.examples

    for (name, number), steps in zip(keep.items(), after, strict=True):
        now = trace_groups(net, example)
        rows = sample_rows(net, now[name], images, config.pairs, generator)
        held_out = sample_rows(net, now[name], others, config.pairs, generator)
        kept, w = choose(Site(net, now[name], images, rows), number, generator)
        net = apply_recipe(net, now, {name: kept})
        fold(*reading_layer(net, trace_groups(net, example)[name]), w)
        recipe[name] = kept
        errors = rows.error(kept, w), held_out.error(kept, w)
        for key, value in zip(trace, (name, *errors), strict=False):
            trace[key].append(value)
        tune(steps)
    if before_final:
        before_final(net)
    tune(final)
    made = len(trace["loss"])
    return Compressed(
        net.eval(),
        channels_table(graph, recipe),
        perf_counter() - start,
        forward_passes=made + 2 * len(keep) * ceil(len(images) / CHUNK),
        backward_passes=made,
        steps=made,
        examples=examples,
        recipe=shrunk(graph, recipe),
        trace=trace,
    )
