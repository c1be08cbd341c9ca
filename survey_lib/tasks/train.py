"""Train and evaluate: one loop that every chapter's nets go through."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn

from survey_lib.tasks.task import Task, Training

Hook = Callable[[int], None]


@dataclass
class History:
    """What happened during a training."""

    loss: list[float] = field(default_factory=list)
    """Training loss (nats) of each step's batch."""
    seconds: float = 0.0


def total_steps(task: Task, training: Training | None = None) -> int:
    """Number of optimiser steps of a training recipe on a task."""
    training = training or task.training
    return max(1, round(training.epochs * math.ceil(len(task.train) / training.batch)))


def learning_rate(step: int, steps: int, training: Training) -> float:
    """Rate at ``step`` of ``steps``: linear warm-up, then a cosine to zero."""
    warm = max(1, round(training.warmup * steps))
    if step < warm:
        return training.lr * (step + 1) / warm
    return training.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def make_optimizer(model: nn.Module, training: Training) -> torch.optim.Optimizer:
    """The recipe's optimiser over all parameters.

    Raises:
        ValueError: an optimiser that isn't ``sgd`` or ``adamw``.
    """
    if training.optimizer == "sgd":
        return torch.optim.SGD(
            model.parameters(),
            training.lr,
            momentum=0.9,
            nesterov=True,
            weight_decay=training.weight_decay,
        )
    if training.optimizer == "adamw":
        return torch.optim.AdamW(
            model.parameters(),
            training.lr,
            betas=(0.9, 0.99),
            weight_decay=training.weight_decay,
        )
    raise ValueError(f"training: no optimizer {training.optimizer!r}; use sgd or adamw")


def batches(n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index batches: a new permutation of ``n`` examples each pass, last one shorter."""
    while True:
        yield from torch.randperm(n, generator=generator, device="cpu").split(batch)


def fit(
    model: nn.Module,
    task: Task,
    training: Training | None = None,
    *,
    generator: torch.Generator,
    before_step: Hook | None = None,
    after_backward: Hook | None = None,
    after_step: Hook | None = None,
    steps: int | None = None,
) -> History:
    """Train ``model`` in place on the task's training split.

    Args:
        model: a net on any device; batches follow it there.
        task: data and loss.
        training: the recipe, by default the task's own.
        generator: draws the data order (a CPU generator).
        before_step: called with the step's number before its forward pass.
        after_backward: called after gradients are there, before the optimiser moves.
        after_step: called after the optimiser moved.
        steps: stop after so many steps, the schedule unchanged.

    Raises:
        FloatingPointError: the loss is not finite; names the step.
    """
    training = training or task.training
    n_steps = total_steps(task, training)
    optimizer = make_optimizer(model, training)
    order = batches(len(task.train), training.batch, generator)
    device = next(model.parameters()).device
    history = History()
    start = perf_counter()
    model.train()
    for step in range(n_steps if steps is None else min(steps, n_steps)):
        if before_step:
            before_step(step)
        rows = next(order)
        x, y = task.train.x[rows].to(device), task.train.y[rows].to(device)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, n_steps, training)
        loss = task.loss(model(_layout(x)), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if after_backward:
            after_backward(step)
        if training.clip:
            nn.utils.clip_grad_norm_(model.parameters(), training.clip)
        optimizer.step()
        if after_step:
            after_step(step)
        history.loss.append(float(loss.detach()))
        if not math.isfinite(history.loss[-1]):
            raise FloatingPointError(
                f"{task.name}: the training loss is {history.loss[-1]} at step {step}; "
                "lower the learning rate"
            )
    model.eval()
    history.seconds = perf_counter() - start
    return history


def _layout(x: Tensor) -> Tensor:
    """Images in channels-last, which is about twice as fast for small convolutions on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@torch.no_grad()
def evaluate(
    model: nn.Module, task: Task, split: str = "test", batch: int = 500
) -> dict[str, float]:
    """Loss (nats) and the task's metric on a split.

    Returns:
        ``{"loss": …, "accuracy": …}`` with accuracy as a share in [0, 1], or
        ``{"loss": …, "perplexity": …}`` with perplexity per token.
    """
    part = getattr(task, split)
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    total = right = 0.0
    for start in range(0, len(part), batch):
        x, y = (t[start : start + batch].to(device) for t in (part.x, part.y))
        logits = model(_layout(x))
        total += float(task.loss(logits, y)) * y.numel()
        right += float((logits.argmax(-1) == y).sum())
    model.train(was_training)
    loss = total / part.y.numel()
    if task.metric == "perplexity":
        return {"loss": loss, "perplexity": math.exp(loss)}
    return {"loss": loss, "accuracy": right / part.y.numel()}
