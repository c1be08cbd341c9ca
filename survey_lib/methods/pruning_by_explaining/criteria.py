r"""Scores of filters, all at the same place: the map that a filter gives, batch norm included.

With :math:`a_{np}` the map (positions) of filter p for reference image n, before the ReLU, and
:math:`L` the cross-entropy:

- ``weight``: :math:`\sum |w|` over the filter's weights.
- ``gradient``: :math:`|\frac1N \sum_n \overline{\partial L_n/\partial a_{np}}|`, the bar a mean
  over positions. Signs cancel before the absolute value is taken, as in the authors' code.
- ``taylor``: :math:`|\frac1N \sum_n \overline{a_{np}\,\partial L_n/\partial a_{np}}|`, so too.
- ``taylor_each``: :math:`\frac1N \sum_n |\overline{a_{np}\,\partial L_n/\partial a_{np}}|`, the
  absolute value of each image (Molchanov et al. 2017, ``molchanov2017pruning``).
- ``fisher``: :math:`\frac1{2N} \sum_n (\sum a_{np}\,\partial L_n/\partial a_{np})^2`, the sum over
  positions (Theis et al. 2018, ``theis2018fisher``).

Each layer's scores are then divided by their sum or by their ℓ2 norm, as :data:`NORMS` says, so
that one ranking may go over all layers. Fisher's are left alone: they are changes of one loss.
"""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup
from survey_lib.mechanics.relevance.engine import Start, relevance
from survey_lib.mechanics.relevance.rules import Rules
from survey_lib.mechanics.relevance.table import MOVES
from survey_lib.mechanics.relevance.tape import record
from survey_lib.mechanics.selection import ScoreError

Loss = Callable[[Tensor, Tensor], Tensor]
Scores = dict[str, Tensor]
"""(channels,) by layer, or (units,) by group"""

NORMS = {
    "lrp": "sum", "weight": "sum", "gradient": "l2", "taylor": "l2", "taylor_each": "l2",
    "fisher": "", "random": "",
}  # fmt: skip
"""Criterion → what a layer's scores are divided by."""


def relevances(net: nn.Module, x: Tensor, start: Start, rules: Rules) -> Scores:
    """R_p = Σ_n Σ_hw |R_nphw| at what each layer gives: (channels,) by layer."""
    maps = relevance(net, x, start, rules).maps
    return {path: of_channels(r.abs(), path, net).sum(0) for path, r in maps.items()}


def weights(net: nn.Module, layers: list[str]) -> Scores:
    """Σ |w| of each filter."""
    return {path: net.get_parameter(f"{path}.weight").detach().abs().flatten(1).sum(1)
            for path in layers}  # fmt: skip


def of_gradients(net: nn.Module, x: Tensor, y: Tensor, loss: Loss, criterion: str) -> Scores:
    """The criteria that look at ∂L/∂a: (channels,) by layer, from one pass forward and back."""
    with torch.enable_grad():
        tape = record(net, x.detach().clone().requires_grad_(), grad=True, moves=MOVES)
        layers = tape.layers
        value = loss(tape.output, y) * len(x)  # Σ_n L_n: the images' own gradients
        found = torch.autograd.grad(value, [step.map for step in layers], allow_unused=True)
    scores: Scores = {}
    for step, g in zip(layers, found, strict=True):
        if g is None:
            continue
        a = step.map.detach()
        each = of_channels(g if criterion == "gradient" else a * g, step.path, net)  # (N, channels)
        positions = a[0].numel() // each.shape[1]
        mean = each / positions
        match criterion:
            case "gradient" | "taylor":
                s = mean.mean(0).abs()
            case "taylor_each":
                s = mean.abs().mean(0)
            case _:
                s = each.square().sum(0) / (2 * len(x))
        scores[step.path] = scores.get(step.path, 0) + s
    return scores


def of_channels(values: Tensor, path: str, net: nn.Module) -> Tensor:
    """Sum over positions: (N, channels). A linear layer's channels are its last axis."""
    if isinstance(net.get_submodule(path), nn.Linear):
        values = values.movedim(-1, 1)
    return values.flatten(2).sum(2) if values.ndim > 2 else values


def comparable(scores: Scores, norm: str) -> Scores:
    """Each layer's scores divided by their sum, their ℓ2 norm, or nothing; float64."""
    found = {path: s.detach().double() for path, s in scores.items()}
    if not norm:
        return found
    sizes = {path: float(s.sum() if norm == "sum" else s.norm()) for path, s in found.items()}
    return {path: s / sizes[path] if sizes[path] > 0 else s for path, s in found.items()}


def of_units(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> Scores:
    """(units,) by group: a unit that several layers make has the mean of their filters' scores.

    Raises:
        ScoreError: a group that no scored layer makes.
    """
    found: Scores = {}
    for group in graph.prunable:
        parts = [
            s[torch.from_numpy(at).to(s.device)].sum(1)
            for path, at in makers(graph, group).items()
            if (s := scores.get(path)) is not None
        ]
        if not parts:
            raise ScoreError(f"{group.name}: none of the layers that make it was scored")
        found[group.name] = torch.stack(parts).mean(0)
    return found


def makers(graph: ChannelGraph, group: ChannelGroup) -> dict[str, np.ndarray]:
    """Layer → (units, k) output channels of each unit; grouped layers that carry it included."""
    layers = {layer.module for layer in graph.layers}
    return {
        s.module: s.positions
        for s in group.slices
        if s.axis == 0 and s.tensor == "weight" and s.role in ("out", "through")
        and s.module in layers
    }  # fmt: skip
