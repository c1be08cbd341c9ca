r"""Outlier features planted into a net without changing what it computes.

Small nets have no outlier features of their own (Dettmers et al. 2022, §4: they emerge with scale;
``dettmers2022llmint8``). A norm :math:`y = g \odot \hat x + b` and each of its readers
:math:`z = yA + a_0` leave room to make some: for :math:`i \in O`

.. math:: g_i \leftarrow s\,g_i, \quad b_i \leftarrow s\,(b_i + c), \quad
          A_{i:} \leftarrow A_{i:} / s, \quad a_0 \leftarrow a_0 - c\,A_{i:}

so that the readers' input is :math:`s\,(y_i + c)`, and :math:`z` what it was. With
:math:`c = 0` and :math:`s` a power of two floating point makes no difference at all; with
:math:`|c|` well above :math:`|y_i|` the outliers keep one sign, as most of the paper's do.

The shift needs a bias in the norm: LayerNorm has one, RMSNorm has not. Readers without a bias get
one when there is a shift.

Not the paper's: it finds outliers, it plants none. Confounder to state wherever this is used: the
planted rows :math:`A_{i:}` get small by the same factor, so int8 weights on a grid set by the rest
of their column become coarse as well; an outlier feature that training made need not have small
weights.
"""

import copy
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib.mechanics.decoder import Decoder, Reading, decoder


@torch.no_grad()
def plant(
    model: nn.Module,
    features: Sequence[int],
    scale: float,
    *,
    shift: float = 0.0,
    layers: Collection[int] | None = None,
) -> nn.Module:
    """A copy of the net in which ``features`` are ``scale`` times as large before all linears.

    Both norms of a layer are changed, with everything that reads them.

    Args:
        model: ``char_gpt`` or a Hugging Face decoder with a gate/up/down MLP; left as it is.
        features: O, indices of the residual stream.
        scale: s > 0; the logits are equal to the bit for powers of two without a shift.
        shift: c, added before scaling, so that the values lie around s · c.
        layers: in which layers; all by default.

    Raises:
        GraphError: the model is built otherwise.
        ValueError: no such feature or layer, a scale that is not positive and finite, a shift for a
            norm without a bias, or a norm that does not multiply by its weight.
    """
    net = copy.deepcopy(model)
    plan = decoder(net)
    chosen = _checked(plan, features, scale, layers)
    at = torch.tensor(sorted(set(features)), dtype=torch.int64)
    for i in chosen:
        for reading in plan.layers[i].readings:
            _plant(net, reading, at, scale, shift)
    return net


def _plant(net: nn.Module, reading: Reading, at: Tensor, s: float, c: float) -> None:
    norm: Any = net.get_submodule(reading.norm)
    g, b = norm.weight, getattr(norm, "bias", None)  # (h,), (h,) or None
    if c and b is None:
        raise ValueError(
            f"{reading.norm}: a {type(norm).__name__} without bias can be scaled, not shifted; "
            "use shift=0"
        )
    at = at.to(g.device)
    before = norm(_probe(g))  # (2, h)
    g[at] *= s
    if b is not None:
        b[at] = s * (b[at] + c)
    _confirm(reading.norm, norm, before, at, s, c)
    for path in reading.readers:
        reader: Any = net.get_submodule(path)
        a = reader.weight  # (out, h): A transposed
        if c:
            moved = c * a[:, at].double().sum(1)  # (out,)  c Σ_i A_i:
            old = torch.zeros_like(moved) if reader.bias is None else reader.bias.double()
            reader.bias = nn.Parameter((old - moved).to(a.dtype), requires_grad=a.requires_grad)
        a[:, at] /= s


def _probe(g: Tensor) -> Tensor:
    """(2, h): an input with different values everywhere."""
    ramp = torch.linspace(-1, 1, g.numel(), dtype=g.dtype, device=g.device)
    return torch.stack([ramp, ramp.flip(0) ** 2 + ramp])


def _confirm(path: str, norm: Any, before: Tensor, at: Tensor, s: float, c: float) -> None:
    """Some norms multiply by 1 + weight: what is planted must be s (y + c) and nothing else."""
    expected = before.clone()
    expected[:, at] = s * (expected[:, at] + c)
    if not torch.allclose(norm(_probe(norm.weight)), expected, rtol=1e-4, atol=1e-5 * s):
        raise ValueError(
            f"{path}: a {type(norm).__name__} that does not multiply by its weight; plant() takes "
            "LayerNorm and RMSNorm of the usual kind"
        )


def _checked(
    plan: Decoder, features: Sequence[int], scale: float, layers: Collection[int] | None
) -> list[int]:
    if not (scale > 0 and scale < float("inf")):
        raise ValueError(f"plant: need a positive, finite scale, got {scale}")
    for i in features:
        if not 0 <= i < plan.width:
            raise ValueError(f"plant: no feature {i}; there are 0 … {plan.width - 1}")
    chosen = sorted(set(range(len(plan.layers)) if layers is None else layers))
    for i in chosen:
        if not 0 <= i < len(plan.layers):
            raise ValueError(f"plant: no layer {i}; there are 0 … {len(plan.layers) - 1}")
    return chosen
