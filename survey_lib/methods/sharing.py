"""How a method shares out the training it is given: in parts, between removals, and at the end."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.surgery import Recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import (
    History,
    Step,
    batches,
    check_finite,
    fit,
    layout,
    pass_steps,
    total_steps,
    training,
)


def for_steps(task: Task, recipe: Training, steps: int) -> Training:
    """The recipe over exactly ``steps`` steps, with its whole schedule in them."""
    return replace(recipe, epochs=steps / pass_steps(len(task.train), recipe.batch))


def constant(recipe: Training) -> Training:
    """The recipe at its peak rate, without an end: whoever trains by it breaks off."""
    return replace(recipe, epochs=math.inf, schedule="constant", warmup=0.0)


def parts(steps: int, between: float, layers: int) -> list[int]:
    """Training steps after each layer, then those at the end; ``steps`` in all."""
    marks = [round(between * steps * i / layers) for i in range(layers + 1)]
    return [*(b - a for a, b in itertools.pairwise(marks)), steps - marks[-1]]


@dataclass(frozen=True)
class Look:
    """A batch that was looked at: a :class:`~survey_lib.tasks.train.Step` that moves nothing."""

    loss: float
    """Nats of this batch."""
    examples: int

    def move(self) -> None:
        """Nothing moves."""


def looking(model: nn.Module, task: Task, *, generator: torch.Generator) -> Iterator[Look]:
    """The task's training batches without an end, in eval mode; stops after each backward pass.

    What :func:`~survey_lib.tasks.train.training` is where nothing may be trained: the gradients are
    there, and no weight and no statistic of batch norm changes.
    """
    device = next(model.parameters()).device
    for rows in batches(len(task.train), task.training.batch, generator):
        x, y = task.train.x[rows].to(device), task.train.y[rows].to(device)
        model.eval()
        model.zero_grad(set_to_none=True)
        loss = task.loss(model(layout(x)), y)
        loss.backward()
        yield Look(float(loss.detach()), len(rows))


def endless(
    model: nn.Module, task: Task, recipe: Training | None, *, generator: torch.Generator
) -> Iterator[Step] | Iterator[Look]:
    """Steps without an end, at the recipe's peak rate; None: looks, in eval mode."""
    if recipe is None:
        return looking(model, task, generator=generator)
    return training(model, task, constant(recipe), generator=generator)


def most_removals(costs: Costs, least: np.ndarray, target: float) -> int:
    """How many units go until the cost is at most ``target`` when those that save least go first.

    Args:
        costs: of the net.
        least: (groups,) units that each group keeps at least.
        target: has to be within reach.
    """
    kept, gone = costs.sizes.copy(), 0
    while costs(kept) > target:
        kept[np.where(kept > least, costs.savings(kept), np.inf).argmin()] -= 1
        gone += 1
    return gone


def pace(steps: int, parts: int, most: int) -> Callable[[int], int]:
    """Removals so far → training steps that are made before the next one.

    The steps are dealt out evenly over ``parts``, at least one before the first removal, and at
    most ``most`` before each. Where parts outnumber steps some removals have none of their own;
    when all steps are made, none follows.
    """
    return lambda removed: min(steps, most * (removed + 1), -(-steps * (removed + 1) // parts))


def finished(
    small: nn.Module, task: Task, tuning: Training | None, *, generator: torch.Generator,
    start: float, loss: list[float], examples: int, table: list[dict[str, Any]], recipe: Recipe,
    trace: dict[str, list[Any]],
) -> Compressed:  # fmt: skip
    """Tune a small net, in place, for the steps that were not made on the way to it.

    Args:
        small: the net without the units that went.
        task: data and loss.
        tuning: of all steps, those on the way included; None: the batches were only looked at.
        generator: draws the data order.
        start: when the method began, by ``perf_counter``.
        loss: of each batch on the way; it goes first into the trace.
        examples: in them.
        table: as :class:`Compressed` takes it.
        recipe: units kept by the groups that lost some.
        trace: what else happened on the way.

    Raises:
        FloatingPointError: the training diverged.
    """
    rest = History()
    steps = total_steps(task, tuning) if tuning else 0
    if tuning and len(loss) < steps:
        rest = fit(small, task, for_steps(task, tuning, steps - len(loss)), generator=generator)
    elif tuning:
        check_finite(small, task)
    loss = loss + rest.loss
    return Compressed(
        small,
        table,
        perf_counter() - start,
        forward_passes=len(loss),
        backward_passes=len(loss),
        steps=len(loss) if tuning else 0,
        examples=examples + rest.examples if tuning else 0,
        recipe=recipe,
        trace={"loss": loss} | trace,
    )
