"""Rewinding: a training that remembers epoch k, and its tail, again and again."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from survey_lib.methods.sharing import constant, for_steps
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import (
    History,
    check_finite,
    learning_rate,
    total_steps,
    training,
)


@dataclass(frozen=True)
class Plan:
    """How much each round trains, in steps."""

    rounds: int
    """That are trained, at most."""
    recipe: Training | None = None
    """The whole training of T epochs, whose tail every round repeats; None trains nothing."""
    k: int = 0
    """Steps before the point that is rewound to."""
    each: int = 0
    """Of a round: from k to the end."""
    last: int = 0
    """Of the round that meets a budget exactly."""
    whole: int = 0
    """Of round 0, where it is trained."""
    total: int = 0
    """Of all together, where the last round takes what the others leave over."""


def plan(task: Task, recipe: Training, k: float, rounds: int) -> Plan:
    """Each round has all of the recipe from the share ``k`` of it on."""
    n = total_steps(task, recipe)
    each = n - int(k * n)
    return Plan(rounds, recipe, n - each, each, each, n)


def shared_out(
    task: Task, tuning: Training | None, k: float, rounds: int, *, whole: bool, closing: bool
) -> Plan:
    """A tuning dealt out over the rounds: T so long that round 0 and all others fit.

    Args:
        task: data.
        tuning: all steps there are; None trains nothing.
        k: share of T that is rewound to.
        rounds: at most.
        whole: whether round 0 is a training of T epochs, or the net that was given.
        closing: whether a last round takes all steps that the others left over.
    """
    if tuning is None:
        return Plan(rounds)
    steps = total_steps(task, tuning)
    n = min(steps, max(1, int(steps / (whole + rounds * (1 - k)))))  # T, in steps
    at = int(k * n)
    first = n if whole else 0
    fit_in = min(rounds, (steps - first) // (n - at))
    return Plan(
        max(0, fit_in - 1) if closing else fit_in, for_steps(task, tuning, n), at, n - at, 0,
        first, steps if closing else 0,
    )  # fmt: skip


def trained(
    model: nn.Module, task: Task, recipe: Training, k: int, *, generator: torch.Generator
) -> tuple[nn.Module, History]:
    """Train in place, and give a copy of the net after k steps: W_k beside W_T."""
    early, history = copy.deepcopy(model), History()
    for step in training(model, task, recipe, generator=generator):
        step.move()
        history.loss.append(step.loss)
        history.examples += step.examples
        if step.number + 1 == k:
            early = copy.deepcopy(model)
    return early.eval(), history


def retrained(
    model: nn.Module, task: Task, recipe: Training, k: int, steps: int, *,
    generator: torch.Generator,
) -> History:  # fmt: skip
    """Train in place from step k of a schedule to its end, ``steps`` later; momentum starts anew.

    Raises:
        FloatingPointError: the training diverged.
    """
    n, history = k + steps, History()
    if not steps:
        return history
    for step in training(model, task, constant(recipe), generator=generator):
        rate = learning_rate(k + step.number, n, recipe)
        for group in step.optimizer.param_groups:
            group["lr"] = rate
        step.move()
        history.loss.append(step.loss)
        history.examples += step.examples
        if step.number + 1 == steps:
            break
    check_finite(model, task)
    return history
