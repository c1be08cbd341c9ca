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
        found = self._of(op, r, sign=1)
        if self.beta:
            pairs = zip(found, self._of(op, r, sign=-1), strict=True)
            found = [self.alpha * p - self.beta * n for p, n in pairs]
        return found

    def _of(self, op: "Linear", r: Tensor, sign: int) -> list[Tensor]:
        """Σ_j (a_i w_ij)^± / Σ_i' (a_i' w_i'j)^± R_j for each input.

        (a w)⁺ = a⁺ w⁺ + a⁻ w⁻ and (a w)⁻ = a⁺ w⁻ + a⁻ w⁺: two products at most, and one where all
        inputs are of one sign, as behind a ReLU.
        """
        w = op.weight
        terms: Terms = []
        owners: list[int] = []
        for i, a in enumerate(op.inputs):
            for part, side in ((one, s * sign) for one, s in _by_sign(a)):
                if w is None and side < 0:
                    continue  # no weight of that sign
                signed = w if w is None else w.clamp(min=0) if side > 0 else w.clamp(max=0)
                terms.append((lambda v, i=i, signed=signed: op.apply(i, v, signed), part))
                owners.append(i)
        found = [torch.zeros_like(a) for a in op.inputs]
        for i, share in zip(owners, shared(terms, r) if terms else [], strict=True):
            found[i] = found[i] + share
        return found


def _by_sign(a: Tensor) -> list[tuple[Tensor, int]]:
    """a⁺ and a⁻ with their signs, those that are there; a itself where it has one sign."""
    low, high = (float(v) for v in a.aminmax()) if a.numel() else (0.0, 0.0)
    found = []
    if not high <= 0:  # so written for NaN, which stays to be seen
        found.append((a if low >= 0 else a.clamp(min=0), 1))
    if not low >= 0:
        found.append((a if high <= 0 else a.clamp(max=0), -1))
    return found


@dataclass(frozen=True)
class Epsilon:
    """In proportion to the contributions themselves; ε → 0 is LRP-0."""

    eps: float = 1e-6

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of each input (…) from R of the output."""
        terms: Terms = [
            (lambda v, i=i: op.apply(i, v, op.weight), a) for i, a in enumerate(op.inputs)
        ]
        return shared(terms, r, bias=op.bias, eps=self.eps)


@dataclass(frozen=True)
class Box:
    """For what reads the net's input, whose values lie in [low, high] (numbers, or (C, 1, 1))."""

    low: Any
    high: Any

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of the input (…) from R of the output."""
        (a,), w = op.inputs, op.weight
        assert w is not None
        low, high = (
            torch.as_tensor(v, dtype=a.dtype, device=a.device).expand_as(a).contiguous()
            for v in (self.low, self.high)
        )
        terms: Terms = [  # a w − l w⁺ − h w⁻ ≥ 0, each of them
            (lambda v: op.apply(0, v, w), a),
            (lambda v: -op.apply(0, v, w.clamp(min=0)), low),
            (lambda v: -op.apply(0, v, w.clamp(max=0)), high),
        ]
        return [torch.stack(shared(terms, r)).sum(0)]


@dataclass(frozen=True)
class Flat:
    """Every input that an output reads gets the same, whatever it holds."""

    def __call__(self, op: "Linear", r: Tensor) -> list[Tensor]:
        """R of each input (…) from R of the output."""
        one = None if op.weight is None else torch.ones_like(op.weight)
        terms: Terms = [
            (lambda v, i=i: op.apply(i, v, one), torch.ones_like(a))
            for i, a in enumerate(op.inputs)
        ]
        return shared(terms, r)


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


def shared(
    terms: Terms, r: Tensor, *, bias: Tensor | None = None, eps: float = 0.0
) -> list[Tensor]:
    """What each term's values v get of R when all terms share it by what they contribute.

    With z = Σ w v over all terms, v_i Σ_j w_ij R_j / (z_j + b_j ± ε): one pass forward through the
    terms, one back. Every rule above is this, with its own terms.
    """
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for _, v in terms]
        parts = [f(leaf) for (f, _), leaf in zip(terms, leaves, strict=True)]
        z = parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)
    total = z.detach() if bias is None else z.detach() + bias
    if eps:
        total = total + eps * (2 * (total >= 0).to(total.dtype) - 1)
    c = torch.autograd.grad(z, leaves, divided(r, total))
    return [v * pulled for (_, v), pulled in zip(terms, c, strict=True)]


def divided(r: Tensor, z: Tensor) -> Tensor:
    """R_j / z_j, and 0 where nothing contributed."""
    none = z == 0
    return (r / z.masked_fill(none, 1.0)).masked_fill(none, 0.0)
