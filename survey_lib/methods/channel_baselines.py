r"""Opponents of every channel method: score all units once, remove the lowest, then tune.

One score for each unit of each group, all from one pass or none:

- ``random``: drawn.
- ``l1``, ``l2``: norm of the filters that make the unit (Li et al. 2017, ``li2017pruning``); in a
  coupled group over all of them together.
- ``bn_scale``: :math:`|\gamma|` of the batch norms that carry it, averaged (Liu et al. 2017,
  ``liu2017slimming``), on a net trained without their penalty.
- ``taylor``: :math:`\frac1N\sum_n |\partial L_n / \partial m|` (Molchanov et al. 2017,
  ``molchanov2017pruning``).
- ``fisher``: :math:`\frac1{2N}\sum_n (\partial L_n / \partial m)^2` (Theis et al. 2018,
  ``theis2018fisher``), summed over coupled layers before squaring.

Differs from the papers: they alternate removal and tuning; here all is removed at once.

Cost: one pass over ``examples`` training examples for the last two, then one training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import BATCH_NORM, ChannelGraph, ChannelGroup
from survey_lib.mechanics.selection import ScoreError, select
from survey_lib.mechanics.statistics import fisher, taylor
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task
from survey_lib.tasks.train import fit

STEERS = "budget"
KIND = "channels"
CRITERIA = ("random", "l1", "l2", "bn_scale", "taylor", "fisher")


@dataclass(frozen=True)
class Config:
    """What is scored, and how scores are compared."""

    criterion: str = "l1"
    """One of ``random``, ``l1``, ``l2``, ``bn_scale``, ``taylor``, ``fisher``."""
    scope: str = "global"
    """``global`` (one ranking) or ``local`` (the same share of each group)."""
    per: str = ""
    """Divide scores by what a removal saves: ``macs``, ``activations``, or nothing."""
    round_to: int = 1
    """Kept units of a group are a multiple of it."""
    examples: int = 1000
    """Training examples that ``taylor`` and ``fisher`` look at."""
    tune: bool = True
    """Train on after the removal, by the task's recipe."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"no criterion {self.criterion!r}; use one of {', '.join(CRITERIA)}")
        if self.examples < 1:
            raise ValueError(f"examples must be at least 1, got {self.examples}")


def filters(model: nn.Module, group: ChannelGroup) -> Tensor:
    """All weights that make each unit: (units, weights)."""
    rows = []
    for s in group.producers:
        weight = getattr(model.get_submodule(s.module), s.tensor).detach()
        at = torch.from_numpy(s.positions).to(weight.device)  # (units, k)
        picked = weight.index_select(s.axis, at.flatten()).movedim(s.axis, 0)
        rows.append(picked.reshape(group.size, -1))
    return torch.cat(rows, 1)


def bn_scale(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Mean |γ| over the batch norms that carry each unit: (units,).

    Raises:
        ScoreError: no batch norm carries this group.
    """
    found = []
    for s in group.slices:
        module = model.get_submodule(s.module)
        if isinstance(module, BATCH_NORM) and s.tensor == "weight":
            at = torch.from_numpy(s.positions).to(module.weight.device)
            found.append(module.weight.detach().abs()[at].mean(1))
    if not found:
        raise ScoreError(f"{group.name}: no batch norm carries it; use another criterion")
    return torch.stack(found).mean(0)


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
        case _:
            return fisher(model, graph, task.loss, data)


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    generator: torch.Generator,
) -> Compressed:
    """Remove the lowest units of a copy of ``model`` until the budget is met, then tune it.

    Raises:
        BudgetNotMet: the budget is out of reach without emptying a layer.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    passes = -(-min(config.examples, len(task.train)) // task.training.batch)
    looked = passes if config.criterion in ("taylor", "fisher") else 0
    example = task.example(1).to(next(model.parameters()).device)
    graph = trace_groups(model, example)
    scores = score(model, graph, task, config, generator=generator)
    recipe = select(
        graph, scores, budget, scope=config.scope, per=config.per, round_to=config.round_to
    )
    small = apply_recipe(model, graph, recipe)
    loss: list[float] = []
    if config.tune:
        loss = fit(small, task, generator=generator).loss
    return Compressed(
        small,
        [{"layer": g.name, "channels": g.size, "kept": len(recipe.get(g.name, range(g.size)))}
         for g in graph.prunable],
        perf_counter() - start,
        forward_passes=len(loss) + looked,
        backward_passes=len(loss) + looked,
        recipe=recipe,
        trace={"loss": loss},
    )  # fmt: skip
