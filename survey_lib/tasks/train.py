"""Train and evaluate: the one loop that every chapter's nets go through, and it is open."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib.tasks.data import Split
from survey_lib.tasks.modes import evaluating
from survey_lib.tasks.task import Task, Training

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(logits, targets, inputs) → mean loss of the batch, in nats."""
Groups = Sequence[Mapping[str, Any]]
"""Parameter groups: ``params``, and where they differ ``weight_decay`` and ``rate`` (a factor)."""
BATCH_NORM = nn.modules.batchnorm._BatchNorm


@dataclass
class Step:
    """One step of a training, its gradients there and the weights not yet moved."""

    number: int
    """From 0."""
    steps: float
    """Of the whole training; infinite where its end is the caller's."""
    loss: float
    """Nats of this batch, before the move."""
    rows: Tensor
    """(n,) indices of the examples."""
    lr: float
    optimizer: torch.optim.Optimizer
    clip: float = 0.0
    moved: bool = False

    @property
    def examples(self) -> int:
        """Examples of this step's batch."""
        return len(self.rows)

    def move(self) -> None:
        """Clip the gradients and move the weights, once; the loop does it where nobody did."""
        if not self.moved:
            if self.clip:
                nn.utils.clip_grad_norm_(_parameters(self.optimizer), self.clip)
            self.optimizer.step()
            self.moved = True


@dataclass
class History:
    """What happened during a training."""

    loss: list[float] = field(default_factory=list)
    """Training loss (nats) of each step's batch."""
    examples: int = 0
    """Examples seen, repeats counted."""
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """Steps made."""
        return len(self.loss)


def total_steps(task: Task, recipe: Training | None = None) -> int:
    """Number of optimiser steps of a recipe on a task.

    Raises:
        ValueError: the recipe has no end.
    """
    recipe = recipe or task.training
    if math.isinf(recipe.epochs):
        raise ValueError(f"{task.name}: a training of infinitely many epochs has no last step")
    return max(1, round(recipe.epochs * pass_steps(len(task.train), recipe.batch)))


def pass_steps(n: int, batch: int) -> int:
    """Number of batches in one pass over ``n`` examples."""
    return len(batch_sizes(n, batch))


def batch_sizes(n: int, batch: int) -> list[int]:
    """Sizes of the batches of one pass over ``n`` examples: ``batch`` each, the last one shorter.

    A last batch of a single example joins the one before, since batch norm makes nothing of it but
    noise or an error. Only where a single example is all there is, or all that is asked for, is it
    a batch.
    """
    sizes = [batch] * (n // batch) + ([n % batch] if n % batch else [])
    if len(sizes) > 1 and sizes[-1] == 1 < batch:
        sizes[-2:] = [batch + 1]
    return sizes


def learning_rate(step: int, steps: float, recipe: Training) -> float:
    """Rate at ``step`` of ``steps``: linear warm-up, then a cosine to zero; or constant."""
    if recipe.schedule == "constant":
        return recipe.lr
    warm = max(1, round(recipe.warmup * steps))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def make_optimizer(
    model: nn.Module, recipe: Training, groups: Groups | None = None
) -> torch.optim.Optimizer:
    """The recipe's optimiser over the parameters that may move, or over ``groups`` of them.

    Raises:
        ValueError: an optimiser that isn't ``sgd`` or ``adamw``, or nothing that may move.
    """
    if groups is None:
        groups = [{"params": [p for p in model.parameters() if p.requires_grad]}]
    made: list[dict[str, Any]] = [dict(g) | {"params": list(g["params"])} for g in groups]
    if not any(g["params"] for g in made):
        raise ValueError(
            f"{type(model).__name__}: no parameter may move; unfreeze some (requires_grad_) "
            "or train nothing (tuning=None)"
        )
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(
            made, recipe.lr, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay
        )
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(
            made, recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
        )
    raise ValueError(f"training: no optimizer {recipe.optimizer!r}; use sgd or adamw")


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def batches(n: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index batches: a new permutation of ``n`` examples each pass.

    The last batch of a pass is shorter, but never a single example: see :func:`batch_sizes`.
    """
    sizes = batch_sizes(n, batch)
    while True:
        yield from torch.randperm(n, generator=generator, device="cpu").split(sizes)


def training(
    model: nn.Module,
    task: Task,
    recipe: Training | None = None,
    *,
    generator: torch.Generator,
    loss: Loss | None = None,
    groups: Groups | None = None,
) -> Iterator[Step]:
    """Train ``model`` in place, and stop once a step where the gradients are there.

    The weights move when the loop goes on, or when :meth:`Step.move` is called, so that a caller
    may look at gradients, change them, and see the weights after they moved::

        for step in training(net, task, recipe, generator=generator):
            masks.mask_gradients()
            step.move()
            masks.apply()

    A step that was not moved when the caller breaks off leaves the weights where they were. The
    net is in train mode meanwhile and in eval mode at the end, also after a break.

    Args:
        model: a net on any device; batches follow it there.
        task: data and loss.
        recipe: how, by default the task's own; infinitely many ``epochs`` with a constant
            ``schedule`` make a training that the caller ends.
        generator: draws the data order (a CPU generator).
        loss: (logits, targets, inputs) → mean loss in nats, by default the task's.
        groups: parameter groups of the optimiser; a ``rate`` in one is a factor on the
            recipe's. Parameters in none stay as they are. By default all that may move.

    Yields:
        A :class:`Step` after each backward pass.

    Raises:
        FloatingPointError: the loss is not finite, or weights are not after the last step; names
            the step.
        ValueError: no such optimiser or schedule, or nothing that may move.
    """
    recipe = recipe or task.training
    if recipe.schedule not in ("cosine", "constant"):
        raise ValueError(f"training: no schedule {recipe.schedule!r}; use cosine or constant")
    endless = math.isinf(recipe.epochs) and recipe.schedule == "constant"
    n_steps = math.inf if endless else total_steps(task, recipe)
    optimizer = make_optimizer(model, recipe, groups)
    order = batches(len(task.train), recipe.batch, generator)
    device = next(model.parameters()).device
    model.train()
    try:
        for number in itertools.count():
            if number >= n_steps:
                check_finite(model, task)
                return
            rows = next(order)
            x, y = task.train.x[rows].to(device), task.train.y[rows].to(device)
            rate = learning_rate(number, n_steps, recipe)
            for group in optimizer.param_groups:
                group["lr"] = rate * group.get("rate", 1.0)
            logits = model(layout(x))
            value = loss(logits, y, x) if loss else task.loss(logits, y)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            found = float(value.detach())
            if not math.isfinite(found):
                raise FloatingPointError(
                    f"{task.name}: the training loss is {found} at step {number}; "
                    "lower the learning rate"
                )
            step = Step(number, n_steps, found, rows, rate, optimizer, recipe.clip)
            yield step
            step.move()
    finally:
        model.eval()


def check_finite(model: nn.Module, task: Task) -> None:
    """Raise FloatingPointError where the last step of a training left weights that are no numbers.

    A step that goes too far shows in the loss of the next one, and the last has none.
    """
    if not all(torch.isfinite(p).all() for p in model.parameters()):
        raise FloatingPointError(
            f"{task.name}: weights are not finite after the last step; lower the learning rate"
        )


def fit(
    model: nn.Module,
    task: Task,
    recipe: Training | None = None,
    *,
    generator: torch.Generator,
    loss: Loss | None = None,
    groups: Groups | None = None,
) -> History:
    """Train ``model`` in place on the task's training split: :func:`training` to its end.

    Raises:
        FloatingPointError: the loss is not finite; names the step.
        ValueError: no such optimiser or schedule, or nothing that may move.
    """
    history, start = History(), perf_counter()
    for step in training(model, task, recipe, generator=generator, loss=loss, groups=groups):
        history.loss.append(step.loss)
        history.examples += step.examples
    history.seconds = perf_counter() - start
    return history


def layout(x: Tensor) -> Tensor:
    """Images in channels-last, which is about twice as fast for small convolutions on a CPU."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, task: Task, batch: int = 500) -> dict[str, float]:
    """Loss (nats) and the task's metric on a split; the net's modes stay as they are.

    Args:
        model: the net.
        split: examples and targets, e.g. ``task.val``.
        task: gives loss and metric.
        batch: examples at once; changes nothing but the memory it takes.

    Returns:
        ``{"loss": …, "accuracy": …}`` with accuracy as a share in [0, 1], or
        ``{"loss": …, "perplexity": …}`` with perplexity per token.
    """
    device = next(model.parameters()).device
    total = right = 0.0
    with evaluating(model):
        for x, y in zip(split.x.split(batch), split.y.split(batch), strict=True):
            x, y = x.to(device), y.to(device)
            logits = model(layout(x))
            total += float(task.loss(logits, y)) * y.numel()
            right += float((logits.argmax(-1) == y).sum())
    loss = total / split.y.numel()
    if task.metric == "perplexity":
        return {"loss": loss, "perplexity": math.exp(loss)}
    return {"loss": loss, "accuracy": right / split.y.numel()}


@torch.no_grad()
def recalibrate(model: nn.Module, split: Split, batches: int = 40, batch: int = 128) -> int:
    """Estimate batch-norm statistics anew, in place; no weight changes.

    Removing channels, or weights, shifts what the layers behind see; the running means and
    variances are then those of another net. Here they become the plain averages over the first
    ``batches`` batches of ``split`` (fewer where it ends before). Everything but batch norm is in
    eval mode meanwhile, and modes are as before in the end.

    Returns:
        Number of batch norms estimated anew; a net without any is left as it is.
    """
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORM) and m.track_running_stats]
    if not norms:
        return 0
    device = next(model.parameters()).device
    momenta = [m.momentum for m in norms]
    with evaluating(model):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over the batches
            norm.training = True
        x = split.x[: batches * batch]
        for part in x.split(batch_sizes(len(x), batch)):
            model(layout(part.to(device)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return len(norms)
