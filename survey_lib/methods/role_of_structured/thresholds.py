"""Where SeReNe and LOBSTER cut: a threshold found by bisection, and the zeros that stay.

One threshold T for all convolutions and linear layers, biases included: the largest at which the
validation loss without all smaller weights is at most (1 + TWT) times what it was.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from survey_lib.tasks.task import Task
from survey_lib.tasks.train import evaluate

CLOSE = 0.05
"""Bisection stops when the losses at both ends differ by less than this share of the bound."""


def bisect(loss: Callable[[float], float], low: float, mean: float, high: float, twt: float):
    r"""The largest T with :math:`L(T) \le (1 + \mathrm{TWT}) L(low)`, by bisection.

    Args:
        loss: threshold → validation loss (nats) of the net without all smaller weights.
        low: smallest |w| that isn't zero, below which nothing goes.
        mean: tried first: the mean over layers of the mean |w| that isn't zero.
        high: largest |w|.
        twt: the share by which the loss may rise.

    Returns:
        ``(T, L(T), L(low), tries)``; T is the end of the bracket that keeps the bound.
    """
    start = loss(low)
    bound = (1 + twt) * start
    a, loss_a, b, loss_b = low, start, high, float("inf")
    centre, tries = mean, 0
    while True:
        tries += 1
        found = loss(centre)
        if found <= bound:
            a, loss_a = centre, found
        else:  # not a number counts as too much
            b, loss_b = centre, found
        last, centre = centre, (a + b) / 2
        if abs(loss_a - loss_b) < CLOSE * bound or abs(centre - last) <= 1e-10:
            return a, loss_a, start, tries


class Zeros:
    """The zeros of a net's layers: cut at a threshold, and what of them stays."""

    def __init__(self, layers: dict[str, nn.Module], by_neuron: bool):
        self.weights = {
            f"{n}.{k}": w for n, m in layers.items() for k, w in m.named_parameters(recurse=False)
        }
        self.by_neuron = by_neuron
        self.kept = {n: torch.ones_like(w, dtype=torch.bool) for n, w in self.weights.items()}

    @torch.no_grad()
    def cut(self, threshold: float) -> None:
        """Zero all |w| < T; of these stay all, or those of neurons whose whole row is zero."""
        for name, w in self.weights.items():
            w.mul_(w.abs() >= threshold)
            stays = w != 0
            if self.by_neuron:
                stays = stays.flatten(1).any(1) if w.ndim > 1 else torch.ones_like(stays)
                stays = stays.view(-1, *[1] * (w.ndim - 1)).expand_as(w)
            self.kept[name] = self.kept[name] & stays

    @torch.no_grad()
    def apply(self) -> None:
        """Undo what a step did to weights that stay zero."""
        for name, w in self.weights.items():
            w.mul_(self.kept[name])

    def threshold(self, model: nn.Module, task: Task, twt: float) -> dict[str, float]:
        """Search T, cut there; what was found."""
        sizes = {n: w.detach().abs() for n, w in self.weights.items()}
        there = {n: s[s > 0] for n, s in sizes.items() if (s > 0).any()}
        if not there:
            return {}
        layers: dict[str, list[Tensor]] = {}
        for n, s in there.items():
            layers.setdefault(n.rpartition(".")[0], []).append(s)
        means = [float(torch.cat(parts).mean()) for parts in layers.values()]
        every = torch.cat(list(there.values()))
        before = {n: w.detach().clone() for n, w in self.weights.items()}
        if not torch.isfinite(every).all():
            raise FloatingPointError(
                f"{task.name}: weights are not finite at a threshold; lower the learning rate"
            )

        @torch.no_grad()
        def loss(threshold: float) -> float:
            for n, w in self.weights.items():
                w.copy_(before[n] * (sizes[n] >= threshold))
            return evaluate(model, task.val, task)["loss"]

        t, after, start, tries = bisect(
            loss, float(every.min()), sum(means) / len(means), float(every.max()), twt
        )
        with torch.no_grad():
            for n, w in self.weights.items():
                w.copy_(before[n])
        self.cut(t)
        zeros = sum(int((w == 0).sum()) for w in self.weights.values())
        return {"threshold": t, "before": start, "after": after, "tries": tries, "zeros": zeros}
