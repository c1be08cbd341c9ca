"""Scores that learn beside the weights, and the steps of a net that learns from a larger one."""

import copy
import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.methods.sharing import Look, looking
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import Loss, Step, training


class Scores:
    """S by group, all zero at first, and the Adam that moves them."""

    def __init__(self, like: dict[str, Tensor], eps: float):
        self.of = {name: torch.zeros_like(gate) for name, gate in like.items()}
        self.eps, self.t = eps, 0
        self._m = {k: torch.zeros_like(s) for k, s in self.of.items()}
        self._s = {k: torch.zeros_like(s) for k, s in self.of.items()}

    def penalty(self, weight: float, U: dict[str, Tensor], lambda_gum: float) -> dict[str, Tensor]:
        """∂R/∂S_j = weight · (1 + λ_gum U_j) σ'(S_j) / (n · layers), with no U where none is."""
        found = {}
        for k, S in self.of.items():
            slope = torch.sigmoid(S) * torch.sigmoid(-S) / (len(S) * len(self.of))
            found[k] = weight * (1 + lambda_gum * U[k] if k in U else 1.0) * slope
        return found

    def follow(self, gates: dict[str, Tensor], R: dict[str, Tensor], eta: float) -> None:
        """Move by the slope of the loss, straight through the gates, and of the penalty, ``R``."""
        self.move({k: r + m.grad for k, r in R.items() if (m := gates[k]).grad is not None}, eta)
        for gate in gates.values():
            gate.grad = None

    def move(self, gradient: dict[str, Tensor], eta: float) -> None:
        """One step of Adam (0.9, 0.999), or of plain descent where ε is infinite."""
        self.t += 1
        for k, g in gradient.items():
            if self.eps == float("inf"):
                self.of[k] -= eta * g
                continue
            self._m[k].lerp_(g, 0.1)
            self._s[k].lerp_(g.square(), 0.001)
            m, s = self._m[k] / (1 - 0.9**self.t), self._s[k] / (1 - 0.999**self.t)
            self.of[k] -= eta * m / (s.sqrt() + self.eps)


def distilled(dense: nn.Module, task: Task, alpha: float, T: float) -> Loss:
    """(1 - α) L + α T² KL(p_T of the dense net ‖ p_T), nats a token."""

    def loss(z: Tensor, y: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            p = F.log_softmax(dense(x).flatten(0, -2) / T, -1)
        q = F.log_softmax(z.flatten(0, -2) / T, -1)
        kl = F.kl_div(q, p, reduction="batchmean", log_target=True)
        return (1 - alpha) * task.loss(z, y) + alpha * T**2 * kl

    return loss


def pace(step: Step | Look, tuning: Training | None) -> float:
    """Where the training's schedule stands: 1 at its peak, and where nothing is trained."""
    return step.lr / tuning.lr if tuning and tuning.lr and isinstance(step, Step) else 1.0


def walk(
    net: nn.Module, model: nn.Module, task: Task, tuning: Training | None, *,
    alpha: float, temperature: float, looks: int, generator: torch.Generator,
) -> Iterator[Step | Look]:  # fmt: skip
    """The steps of the tuning, learning from ``model`` too; without one, ``looks`` batches."""
    if not tuning:
        return itertools.islice(looking(net, task, generator=generator), looks)
    dense = copy.deepcopy(model).eval().requires_grad_(False)
    loss = distilled(dense, task, alpha, temperature) if alpha else None
    return training(net, task, tuning, generator=generator, loss=loss)
