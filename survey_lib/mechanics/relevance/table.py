"""The table: operator → how it hands relevance back.

As in the channel engine's, every operator stands in a table or is refused by name, and a rule that
does not know what a call of it does refuses too.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from survey_lib.mechanics.relevance.rules import Linear, Rules
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
    """Weight w γ/σ and bias (b − μ) γ/σ + β: a layer and its batch norm as one linear map."""
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
    if norm.func is not F.batch_norm:
        raise RelevanceError(f"{norm}: called otherwise than by F.batch_norm, which is not known")
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
    first = not step.args or step.args[0] is x
    if len(step.inputs) > 1 or not first or x.shape != r.shape:
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
    """Averages and sums along an axis: linear, all weights fixed and positive."""
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
    return [(largest[0], r)] + [
        (t, torch.zeros_like(t)) for t in step.inputs if t is not largest[0]
    ]


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
     "mean sum "
     + " ".join(f"avg_pool{d}d adaptive_avg_pool{d}d" for d in (1, 2, 3))),
    (winner,
     " ".join(f"max_pool{d}d max_pool{d}d_with_indices adaptive_max_pool{d}d" for d in (1, 2, 3))
     + " amax"),
    (added, "add radd sub rsub"),
    (scaled, "mul rmul multiply"),
)  # fmt: skip
TABLE: dict[str, Handler] = {
    name: handler for handler, names in BY_HANDLER for name in names.split()
}
"""Operator → how it hands relevance back."""
MOVES = frozenset(
    name
    for name, handler in TABLE.items()
    if handler is moved or name in ("contiguous", "clone", "float", "double", "to", "alias")
)
"""Operators behind which the net's input is still the input."""


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
