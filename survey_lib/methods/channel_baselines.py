r"""Opponents of every channel method: score all units once, remove the lowest, then tune.

One score for each unit of each group, all from one pass or none:

- ``random``: drawn.
- ``l1``, ``l2``: norm of the filters that make the unit (Li et al. 2017, ``li2017pruning``); in a
  coupled group over all of them together.
- ``bn_scale``: :math:`|\gamma|` of the batch norms that carry it, averaged (Liu et al. 2017,
  ``liu2017slimming``), on a net trained without their penalty.
- ``taylor``: :math:`\Theta_u = \frac1N\sum_n |\partial L_n / \partial m_u|`, as it comes.
- ``taylor_normalised``: :math:`\Theta_u / \sqrt{\sum_v \Theta_v^2}`, over the units :math:`v` of
  the group: the criterion that Molchanov et al. (2017, section 2.2; ``molchanov2017pruning``)
  propose. They also average over the positions of a map, which cancels here.
- ``fisher``: :math:`\frac1{2N}\sum_n (\partial L_n / \partial m)^2` (Theis et al. 2018,
  ``theis2018fisher``), summed over coupled layers before squaring.

Both gradients have a mask on every map that goes with the unit: those that layers read, and the
input of a grouped or depthwise convolution that carries it.

Differs from the papers: they alternate removal and tuning; here all is removed at once.

Cost: one pass over ``examples`` training examples for the last three, then the tuning.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.filters import bn_scale, filters
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, check_reach, select, shrunk
from survey_lib.mechanics.statistics import fisher, taylor
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History, fit

STEERS = "budget"
KIND = "channels"
GRADIENTS = ("taylor", "taylor_normalised", "fisher")
"""Criteria that look at examples."""
CRITERIA = ("random", "l1", "l2", "bn_scale", *GRADIENTS)


@dataclass(frozen=True)
class Config:
    """What is scored, and how scores are compared."""

    criterion: str = "l1"
    """One of :data:`CRITERIA`."""
    scope: str = "global"
    """``global`` (one ranking) or ``local`` (the same share of each group)."""
    per: str = ""
    """Divide scores by what a removal saves: ``macs``, ``activations``, or nothing."""
    round_to: int = 1
    """Kept units of a group are a multiple of it."""
    examples: int = 1000
    """Training examples that :data:`GRADIENTS` look at."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"no criterion {self.criterion!r}; use one of {', '.join(CRITERIA)}")
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, got {self.examples}")


def batches(task: Task, examples: int, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """The first training examples, in batches of the task's size."""
    n = min(examples, len(task.train))
    for start in range(0, n, task.training.batch):
        rows = slice(start, min(start + task.training.batch, n))
        yield task.train.x[rows].to(device), task.train.y[rows].to(device)


def score(
    model: nn.Module, graph: ChannelGraph, task: Task, config: Config, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """(units,) by prunable group, higher = keep."""
    device = next(model.parameters()).device
    data = batches(task, config.examples, device)
    match config.criterion:
        case "random":
            return {
                g.name: torch.rand(g.size, generator=generator, device="cpu")
                for g in graph.prunable
            }
        case "l1":
            return {g.name: filters(model, g).abs().sum(1) for g in graph.prunable}
        case "l2":
            return {g.name: filters(model, g).square().sum(1).sqrt() for g in graph.prunable}
        case "bn_scale":
            return {g.name: bn_scale(model, g) for g in graph.prunable}
        case "taylor":
            return taylor(model, graph, task.loss, data)
        case "taylor_normalised":
            raw = taylor(model, graph, task.loss, data)
            # a group that the loss does not feel at all stays at 0
            return {name: s / s.norm().clamp_min(1e-30) for name, s in raw.items()}
        case _:
            return fisher(model, graph, task.loss, data)


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> None:
    """Raise BudgetNotMet for a budget that no choice of units meets."""
    least = np.array([min(g.size, g.size if g.protected else config.round_to)
                      for g in graph.groups])  # fmt: skip
    check_reach(graph, budget, least, "channel_baselines")


def check(model: nn.Module, graph: ChannelGraph, task: Task, config: Config) -> None:
    """Raise ScoreError for a group that has nothing to be scored by; nothing is trained."""
    del task
    for group in graph.prunable if config.criterion == "bn_scale" else ():
        bn_scale(model, group)


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Remove the lowest units of a copy of ``model`` until the budget is met, then tune it.

    Args:
        model: the trained net.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations`` to keep.
        config: what is scored, and how scores are compared.
        tuning: spent after the removal; None trains nothing.
        generator: draws random scores first, then the data order.

    Raises:
        BudgetNotMet: the budget is out of reach without emptying a layer.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    passes = -(-min(config.examples, len(task.train)) // task.training.batch)
    looked = passes if config.criterion in GRADIENTS else 0
    example = task.example(1).to(next(model.parameters()).device)
    graph = trace_groups(model, example)
    reach(graph, budget, config)
    scores = score(model, graph, task, config, generator=generator)
    recipe = select(
        graph, scores, budget, scope=config.scope, per=config.per, round_to=config.round_to
    )
    recipe = shrunk(graph, recipe)
    small = apply_recipe(model, graph, recipe).eval()
    spent = fit(small, task, tuning, generator=generator) if tuning else History()
    return Compressed(
        small,
        channels_table(graph, recipe),
        perf_counter() - start,
        forward_passes=spent.steps + looked,
        backward_passes=spent.steps + looked,
        steps=spent.steps,
        examples=spent.examples,
        recipe=recipe,
        trace={"loss": spent.loss},
    )
