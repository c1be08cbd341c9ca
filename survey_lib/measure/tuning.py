"""What tuning a net costs: bytes beside the weights, and the time of a step.

Training needs, beside the weights, a gradient for each parameter that moves and whatever the
optimiser keeps for it: one number with momentum, two with Adam. What is frozen needs neither. A
step's time is another matter, because the backward pass still goes through what is frozen.
"""

import copy
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter, thread_time

import torch
from torch import Tensor, nn

from survey_lib.measure.latency import one_thread
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import layout, make_optimizer

LEAST_ROUNDS = 9


@dataclass(frozen=True)
class Tuning:
    """What one net costs while it is tuned."""

    weight_bytes: int
    """Of all parameters, frozen ones included; no buffers."""
    gradient_bytes: int
    """Of the gradients after a backward pass."""
    optimizer_bytes: int
    """Of what the optimiser keeps after a step, its counters left out."""
    step_ms: float
    """Fastest step in milliseconds: forward, loss, backward, and the weights moved."""
    median_ms: float


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes that an optimiser keeps for its parameters; single numbers (counters) are left out."""
    kept = [v for state in optimizer.state.values() for v in state.values()]
    return sum(v.nbytes for v in kept if isinstance(v, Tensor) and v.ndim > 0)


def gradient_bytes(model: nn.Module) -> int:
    """Bytes of the gradients that lie at the parameters."""
    return sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)


def compare_tuning(
    models: Mapping[str, nn.Module], task: Task, recipe: Training, *, rounds: int = 15
) -> dict[str, Tuning]:
    """Take the same training step with several nets in turns; the nets given stay as they are.

    Args:
        models: by name; what is frozen in one (``requires_grad=False``) is not tuned.
        task: its first examples are the batch, its loss the loss.
        recipe: optimiser, batch and rate.
        rounds: steps that each net takes, the first one (not timed) left out.

    Raises:
        ValueError: too few rounds, or a net in which nothing may move.
    """
    if rounds < LEAST_ROUNDS:
        raise ValueError(f"tuning: {rounds} rounds say nothing; take at least {LEAST_ROUNDS}")
    nets = {name: copy.deepcopy(model).train() for name, model in models.items()}
    optimizers = {name: make_optimizer(net, recipe) for name, net in nets.items()}
    x, y = layout(task.train.x[: recipe.batch]), task.train.y[: recipe.batch]
    times: dict[str, list[float]] = {name: [] for name in nets}
    with one_thread():
        for turn in range(rounds + 1):
            order = list(nets.items())
            for name, net in order if turn % 2 else reversed(order):
                seconds = _step(net, optimizers[name], task, x, y)
                if turn:  # the first one warms up
                    times[name].append(seconds)
    return {
        name: Tuning(
            sum(p.nbytes for p in net.parameters()), gradient_bytes(net),
            optimizer_bytes(optimizers[name]), 1000 * min(times[name]),
            1000 * statistics.median(times[name]),
        )
        for name, net in nets.items()
    }  # fmt: skip


def _step(
    net: nn.Module, optimizer: torch.optim.Optimizer, task: Task, x: Tensor, y: Tensor
) -> float:
    """Seconds of one step, by the clock of the thread that makes it."""
    device = next(net.parameters()).device
    x, y = x.to(device), y.to(device)
    # a backward pass runs on a thread of its own on a graphics card only
    clock = perf_counter if x.is_cuda else thread_time
    _wait(x)
    start = clock()
    optimizer.zero_grad(set_to_none=True)
    task.loss(net(x), y).backward()
    optimizer.step()
    _wait(x)
    return clock() - start


def _wait(x: Tensor) -> None:
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def bytes_for_tasks(tasks: int, each: float, shared: float = 0.0) -> float:
    """Bytes that serve so many tasks: what they share once, and each one's own.

    Raises:
        ValueError: a negative number.
    """
    if min(tasks, each, shared) < 0:
        raise ValueError(f"bytes_for_tasks: a number is negative: {tasks}, {each}, {shared}")
    return shared + tasks * each


def break_even(each: float, shared: float, rival: float) -> float:
    """Number of tasks from which a shared net and small parts take fewer bytes than whole nets.

    Args:
        each: bytes of a small part.
        shared: bytes of the net that they share.
        rival: bytes of a whole net.

    Returns:
        N at which ``shared`` + N · ``each`` = N · ``rival``; infinite where a part is no smaller.
    """
    return shared / (rival - each) if rival > each else float("inf")
