r"""How one operator hands relevance back: the rules of propagation, and the table that names them.

A linear operator makes :math:`z_j = \sum_i a_i w_{ij} + b_j`. What its output j was found relevant
for, :math:`R_j`, goes to its inputs in proportion to what they contributed, by one of

- ``AlphaBeta``: :math:`R_i = \sum_j \big(\alpha \frac{(a_i w_{ij})^+}{\sum_{i'} (a_{i'} w_{i'j})^+}
  - \beta \frac{(a_i w_{ij})^-}{\sum_{i'} (a_{i'} w_{i'j})^-}\big) R_j`; biases get nothing.
- ``Epsilon``: :math:`R_i = \sum_j \frac{a_i w_{ij}}{z_j + \varepsilon\,\mathrm{sign} z_j} R_j`; a
  bias keeps what it contributed.
- ``Box``: inputs in :math:`[l, h]`, :math:`R_i = \sum_j \frac{a_i w_{ij} - l_i w_{ij}^+ - h_i
  w_{ij}^-}{\sum_{i'} (\ldots)} R_j`.
- ``Flat``: every input of j alike, :math:`R_i = \sum_j R_j / |\{i'\}|`.

Sums and averages are linear operators whose weights are positive; everything that only moves
values about hands relevance back the same way; a maximum hands all of it to the winner. Where
:math:`\sum_{i'}` is zero nothing is handed on, and the ledger of the pass shows it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from survey_lib.mechanics.relevance.tape import Step

Terms = list[tuple[Callable[[Tensor], Tensor], Tensor]]
"""Parts of a linear operator's output: (linear function, what it is applied to)."""


@dataclass(frozen=True)
class AlphaBeta:
    """α − β = 1; the paper's α = 1, β = 0 hands on what spoke for the output, and nothing else."""

    alpha: float = 1.0
    beta: float = 0.0

    def __post_init__(self) -> None:
        if abs(self.alpha - self.beta - 1) > 1e-9 or self.beta < 0:
            raise ValueError(f"AlphaBeta: α − β must be 1 and β ≥ 0, got {self}")

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of each input (…) from R of the output."""
        found = op.messages(r, sign=1)
        if self.beta:
            against = op.messages(r, sign=-1)
            pairs = zip(found, against, strict=True)
            return [self.alpha * p - self.beta * n for p, n in pairs]
        return [self.alpha * p for p in found] if self.alpha != 1 else found


@dataclass(frozen=True)
class Epsilon:
    """In proportion to the contributions themselves; ε → 0 is LRP-0."""

    eps: float = 1e-6

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of each input (…) from R of the output."""
        terms: Terms = [(lambda a, i=i: op.apply(i, a, op.weight), a)
                        for i, a in enumerate(op.inputs)]  # fmt: skip
        z = sum(f(a) for f, a in terms) + (0 if op.bias is None else op.bias)
        sign = torch.where(z < 0, -1.0, 1.0).to(z.dtype)
        return [a * c for (_, a), c in zip(terms, pulled(terms, r / (z + self.eps * sign)),
                                           strict=True)]  # fmt: skip


@dataclass(frozen=True)
class Box:
    """For what reads the net's input, whose values lie in [low, high] (numbers, or (C, 1, 1))."""

    low: Any
    high: Any

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of the input (…) from R of the output."""
        (a,), w = op.inputs, op.weight
        assert w is not None
        low, high = (torch.as_tensor(v, dtype=a.dtype, device=a.device).expand_as(a).contiguous()
                     for v in (self.low, self.high))  # fmt: skip
        terms: Terms = [
            (lambda v: op.apply(0, v, w), a),
            (lambda v: -op.apply(0, v, w.clamp(min=0)), low),
            (lambda v: -op.apply(0, v, w.clamp(max=0)), high),
        ]
        z = sum(f(v) for f, v in terms)  # ≥ 0, term by term
        found = pulled(terms, divided(r, z))  # type: ignore[arg-type]
        return [sum(v * c for (_, v), c in zip(terms, found, strict=True))]  # type: ignore[list-item]


@dataclass(frozen=True)
class Flat:
    """Every input that an output reads gets the same, whatever it holds."""

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of each input (…) from R of the output."""
        one = None if op.weight is None else torch.ones_like(op.weight)
        terms: Terms = [(lambda a, i=i: op.apply(i, a, one), torch.ones_like(a))
                        for i, a in enumerate(op.inputs)]  # fmt: skip
        z = sum(f(a) for f, a in terms)
        return pulled(terms, divided(r, z))  # type: ignore[arg-type]


Rule = AlphaBeta | Epsilon | Box | Flat


@dataclass(frozen=True)
class Rules:
    """Which rule where."""

    conv: Rule = AlphaBeta()
    linear: Rule = AlphaBeta()
    first: Rule | None = None
    """For layers that read the net's input itself; None: as the others of their kind."""
    sums: Rule = Epsilon()
    """Additions of two branches: where both are negative, nothing speaks for their sum."""
    pools: Rule = Epsilon()
    """Averages."""

    def of(self, step: Step) -> Rule:
        """The rule of a layer."""
        if step.raw and self.first is not None:
            return self.first
        return self.linear if step.name == "linear" else self.conv


EQUATION = Rules()
"""α = 1, β = 0 in every layer, as the paper's equation has it."""


@dataclass(frozen=True)
class Linear:
    """A linear operator as the rules see it."""

    inputs: tuple[Tensor, ...]
    """a"""
    apply: Callable[[int, Tensor, Tensor | None], Tensor]
    """(number of the input, values, weights) → its part of z, without bias."""
    weight: Tensor | None = None
    """w; None where all weights are fixed and positive."""
    bias: Tensor | None = None
    """b, in a shape that adds to z."""

    def messages(self, r: Tensor, sign: int) -> list[Tensor]:
        """Σ_j (a_i w_ij)^± / Σ_i' (a_i' w_i'j)^± R_j for each input.

        (a w)⁺ = a⁺ w⁺ + a⁻ w⁻ and (a w)⁻ = a⁺ w⁻ + a⁻ w⁺: two products at most, and one where all
        inputs are of one sign, as behind a ReLU.
        """
        w = self.weight
        terms: Terms = []
        owner: list[int] = []
        for i, a in enumerate(self.inputs):
            for part, side in ((a.clamp(min=0), sign), (a.clamp(max=0), -sign)):
                if w is None and side < 0:
                    continue  # no weight is negative
                weight = w if w is None else w.clamp(min=0) if side > 0 else w.clamp(max=0)
                if part.any():
                    terms.append((lambda v, i=i, weight=weight: self.apply(i, v, weight), part))
                    owner.append(i)
        found = [torch.zeros_like(a) for a in self.inputs]
        if terms:
            z = sum(f(v) for f, v in terms)
            for i, (_, v), c in zip(owner, terms, pulled(terms, divided(r, z)), strict=True):
                found[i] = found[i] + v * c
        return found


def divided(r: Tensor, z: Tensor) -> Tensor:
    """R_j / z_j, and 0 where nothing contributed."""
    return torch.where(z == 0, 0.0, r / torch.where(z == 0, 1.0, z)).to(r.dtype)


def pulled(terms: Terms, s: Tensor) -> list[Tensor]:
    """c_i = Σ_j w_ij s_j for each term: its transposed function applied to s."""
    found = []
    for f, v in terms:
        with torch.enable_grad():
            leaf = v.detach().requires_grad_()
            (c,) = torch.autograd.grad(f(leaf), leaf, s)
        found.append(c)
    return found
