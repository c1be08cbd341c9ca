"""What could have been trained instead: small nets of given size, with random weights.

``profile``: the widths that pruning found. ``uniform``: the same share of the channels inside
every block. ``narrow``: every layer thinner. All are drawn as the paper's code draws its nets:
a wide net is initialised and channels are dropped, so that weights keep the wide net's spread.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from survey_lib.mechanics.budget import BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.surgery import Recipe
from survey_lib.methods.closer_look.method import inside_blocks
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task


def profile(task: Task, widths: Mapping[str, int], *, generator: torch.Generator) -> nn.Module:
    """A fresh wide net of which each named group keeps its first so many channels."""
    return from_scratch(task, widths, generator=generator)


def widths_of(graph: ChannelGraph, recipe: Recipe) -> dict[str, int]:
    """Channels that each group keeps."""
    return {g.name: len(recipe.get(g.name, range(g.size))) for g in graph.groups}


def uniform(graph: ChannelGraph, metric: str, target: float) -> dict[str, int]:
    """The widest equal share of every group's channels that costs at most ``target``.

    Raises:
        BudgetNotMet: one channel a group is too much.
    """
    costs = Costs(graph, metric)
    # shares at which some group's rounded width changes
    steps = sorted({(k + 0.5) / n for n in costs.sizes for k in range(1, n)} | {0.0, 1.0})
    for share in reversed(steps):
        kept = np.clip(np.floor(share * costs.sizes + 0.5), 1, costs.sizes).astype(int)
        if costs(kept) <= target:
            return {g.name: int(k) for g, k in zip(graph.groups, kept, strict=True)}
    raise BudgetNotMet(f"{graph.model}: no equal share of channels has {metric} ≤ {target:,.0f}")


def shuffled(
    graph: ChannelGraph, widths: Mapping[str, int], target: float, generator: torch.Generator
) -> dict[str, int]:
    """The shares that blocks keep, dealt out anew at random, then scaled to the size allowed.

    Args:
        graph: the channels inside the dense net's blocks.
        widths: what each block keeps.
        target: parameters of the net, at most.
        generator: draws the deal.
    """
    costs = Costs(graph, "params")
    shares = np.array([widths[g.name] / g.size for g in graph.groups])
    shares = shares[torch.randperm(len(shares), generator=generator, device="cpu").numpy()]
    for factor in np.linspace(1 / shares.min(), 0, 1000, endpoint=False):
        kept = np.clip(np.round(factor * shares * costs.sizes), 1, costs.sizes).astype(int)
        if costs(kept) <= target:
            break
    return {g.name: int(k) for g, k in zip(graph.groups, kept, strict=True)}


def narrow(task: Task, metric: str, target: float, widths: Iterable[float]) -> Task:
    """The task of the widest net among ``widths`` (factors on the task's own) within ``target``.

    Raises:
        BudgetNotMet: none fits.
    """
    own = float(task.options.get("width", 1.0))
    for factor in sorted(widths, reverse=True):
        thin = replace(task, options=task.options | {"width": own * factor})
        net = thin.build(seeded(0))
        if Costs(trace_groups(net, task.example(1)), metric).dense <= target:
            return thin
    raise BudgetNotMet(f"{task.name}: no narrower net has {metric} ≤ {target:,.0f}")


def dense_costs(task: Task) -> tuple[ChannelGraph, dict[str, int]]:
    """The channels inside the dense net's blocks, and its MACs and parameters."""
    graph = inside_blocks(trace_groups(task.build(seeded(0)), task.example(1)))
    return graph, {metric: Costs(graph, metric).dense for metric in ("macs", "params")}
