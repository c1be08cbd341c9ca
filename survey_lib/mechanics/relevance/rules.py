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

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from survey_lib.mechanics.relevance.tape import (
    BATCH_NORM,
    LAYERS,
    RelevanceError,
    Step,
    again,
    argument,
)

Parts = list[tuple[Tensor, Tensor]]
"""(input, its relevance, in its shape)"""
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


# ---- the table: what each operator is


Handler = Callable[[Step, list[Tensor], Rules], Parts]
"""(step, R of each output, rules) → R of each input."""


def layer(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """Convolution or linear layer, with the batch norm behind it folded in."""
    names = ("input", "weight", "bias")
    a, w, b = (argument(step, i, name) for i, name in enumerate(names))
    if any(t is w or t is b for t in step.inputs):
        raise RelevanceError(f"{step}: its weight is computed from the input; no rule knows how")
    rest = step.args[3:]
    more = {k: v for k, v in step.kwargs.items() if k not in names}
    if step.norm is not None:
        w, b = folded(step, w, b)
    axes = 0 if step.name == "linear" else a.ndim - 2

    def apply(_: int, values: Tensor, weight: Tensor | None) -> Tensor:
        return step.func(values, weight, None, *rest, **more)

    bias = None if b is None else b.reshape(-1, *[1] * axes)
    return [(a, rules.of(step)(Linear((a,), apply, w, bias), rs[0])[0])]


def folded(step: Step, w: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor]:
    """w γ/σ and (b − μ) γ/σ + β: a layer and its batch norm as one linear map."""
    assert step.norm is not None
    scale, shift = affine(step.norm)
    groups = argument(step, 6, "groups", 1) if "transpose" in step.name else 1
    if "transpose" in step.name:  # (inputs, outputs of a group, …)
        if groups != 1:
            raise RelevanceError(f"{step}: grouped and transposed, with a batch norm behind it")
        factors = scale.reshape(1, -1, *[1] * (w.ndim - 2))
    else:
        factors = scale.reshape(-1, *[1] * (w.ndim - 1))
    return w * factors, shift if b is None else b * scale + shift


def affine(norm: Step) -> tuple[Tensor, Tensor]:
    """γ/σ and β − μ γ/σ of a batch norm in eval mode, (channels,) each."""
    names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
    x, mean, var, gamma, beta, training = (argument(norm, i, n) for i, n in enumerate(names[:6]))
    if training or mean is None:
        raise RelevanceError(f"{norm} has no running statistics; relevance needs them fixed")
    eps = argument(norm, 7, "eps", 1e-5)
    scale = (var + eps).rsqrt().to(x.dtype) * (1 if gamma is None else gamma)
    return scale, (0 if beta is None else beta) - mean * scale


def unchanged(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """One value in, one out: relevance stays where it is."""
    del rules
    x, r = step.inputs[0], rs[0]
    if len(step.inputs) > 1 or x.shape != r.shape:
        raise RelevanceError(f"{step}: more than one value in for each that comes out")
    return [(x, r)]


def moved(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """Values moved about, dropped or repeated: relevance goes back the way they came."""
    del rules
    with torch.enable_grad():
        leaves = {id(t): t.detach().requires_grad_() for t in step.inputs}
        out = again(step, leaves)
        outs = [out] if isinstance(out, Tensor) else [t for t in out if isinstance(t, Tensor)]
        found = torch.autograd.grad(outs[: len(rs)], list(leaves.values()), rs)
    return list(zip(step.inputs, found, strict=True))


def average(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """Averages, sums along an axis, interpolation: linear, all weights fixed and positive."""
    (x,) = step.inputs

    def apply(_: int, values: Tensor, _w: Tensor | None) -> Tensor:
        return again(step, {id(x): values})

    return [(x, rules.pools(Linear((x,), apply), rs[0])[0])]


def winner(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """A maximum: all to the one that won."""
    return moved(step, rs[:1], rules)


def added(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """Two branches that are summed; a constant beside one gets nothing, as a bias does."""
    r = rs[0]
    terms = {id(v): v for v in step.args[:2] if isinstance(v, Tensor)}
    mine = [t for t in step.inputs if id(t) in terms]
    factor = step.kwargs.get("alpha", 1)
    if step.name in ("sub", "rsub") or factor != 1 or len(mine) != len(step.inputs):
        raise RelevanceError(f"{step}: only plain sums are known; give a rule for it")
    if len(step.args) > 1 and step.args[0] is step.args[1]:
        return [(mine[0], r)]  # x + x
    if len(mine) == 1:
        return [(mine[0], r.sum_to_size(mine[0].shape))]

    def apply(_: int, values: Tensor, _w: Tensor | None) -> Tensor:
        return values.expand_as(r)

    found = rules.sums(Linear(tuple(mine), apply), r)
    return list(zip(mine, found, strict=True))


def scaled(step: Step, rs: list[Tensor], rules: Rules) -> Parts:
    """A product with a constant, or of a map with a gate on its channels: the map takes all."""
    del rules
    r = rs[0]
    largest = [t for t in step.inputs if t.shape == r.shape]
    if len(largest) != 1:
        raise RelevanceError(f"{step}: a product of two maps; give a rule that says who takes what")
    return [(largest[0], r)] + [(t, torch.zeros_like(t)) for t in step.inputs if t is not largest[0]]


BY_HANDLER: tuple[tuple[Handler, str], ...] = (
    (layer, " ".join(sorted(LAYERS))),
    (unchanged,
     f"{BATCH_NORM} relu relu6 leaky_relu elu celu selu gelu silu mish sigmoid tanh softplus "
     "hardswish hardsigmoid hardtanh prelu threshold clamp clamp_min dropout dropout1d dropout2d "
     "dropout3d alpha_dropout feature_dropout contiguous clone float double to type alias detach "
     "div truediv"),
    (moved,
     "view reshape flatten ravel unflatten permute transpose swapaxes movedim squeeze unsqueeze T "
     "mT t getitem narrow select chunk split split_with_sizes tensor_split unbind cat concat "
     "concatenate stack pad expand repeat roll flip pixel_shuffle channel_shuffle"),
    (average,
     "mean sum interpolate upsample "
     + " ".join(f"avg_pool{d}d adaptive_avg_pool{d}d" for d in (1, 2, 3))),
    (winner,
     " ".join(f"max_pool{d}d max_pool{d}d_with_indices adaptive_max_pool{d}d" for d in (1, 2, 3))
     + " amax"),
    (added, "add radd sub rsub"),
    (scaled, "mul rmul multiply"),
)  # fmt: skip
TABLE: dict[str, Handler] = {name: handler for handler, names in BY_HANDLER for name in names.split()}
"""Operator → how it hands relevance back."""
MOVES = frozenset(
    name
    for name, handler in TABLE.items()
    if handler is moved or name in ("contiguous", "clone", "float", "double", "to", "alias")
)
"""Operators behind which the net's input is still the input."""


def with_epsilon(rules: Rules, eps: float) -> Rules:
    """The same rules with this ε wherever one is."""
    changes = {
        name: Epsilon(eps)
        for name in ("conv", "linear", "first", "sums", "pools")
        if isinstance(getattr(rules, name), Epsilon)
    }
    return replace(rules, **changes)


def handler_of(step: Step, own: Mapping[str, Handler]) -> Handler:
    """The table's entry for a step.

    Raises:
        RelevanceError: there is none.
    """
    found = own.get(step.name) or TABLE.get(step.name)
    if found is None:
        raise RelevanceError(
            f"{step}: no rule says how it hands relevance back; give one by name, "
            f"relevance(…, own={{{step.name!r}: rule}})"
        )
    return found
