r"""Which filters a threshold takes: attention of their activations, and each layer's share.

:math:`A^{(l)}` (B, C, H, W) is the map behind the activation function of layer l, as the next
layer reads it. A filter's attention is taken over the map of the *mean image*,

.. math:: s_{l,c} = \frac{1}{HW} \sum_{h,w} \Big( \frac1B \sum_b A^{(l)}_{b,c,h,w} \Big)^p ,

and it falls where :math:`s_{l,c} \le \tau_l = T[r] \, n_l / \sum_j n_j`: one number T[r] for the
whole net, scaled by the layer's share of what is to be saved, :math:`n_l` weights, MACs or
activations.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import check_scores
from survey_lib.mechanics.statistics import activations
from survey_lib.tasks.train import layout

ATTENTION = ("mean", "max", "sum")
CHUNK = 256
"""Images that go through the net at once."""


def attention(
    model: nn.Module, graph: ChannelGraph, x: Tensor, p: float = 1.0, kind: str = "mean"
) -> dict[str, Tensor]:
    """s_lc by group: (units,), float64, in eval mode.

    Args:
        model: the net.
        graph: its groups.
        x: images (B, channels, H, W); the mean image of each map is taken over all of them.
        p: power, taken after the mean over images.
        kind: over space ``mean``, ``max`` or ``sum``.
    """
    found = activations(model, graph, (layout(part) for part in x.split(CHUNK)))
    powered = {name: a.map.pow(p) for name, a in found.items()}  # (units, positions)
    match kind:
        case "mean":
            return {name: a.mean(1) for name, a in powered.items()}
        case "max":
            return {name: a.amax(1) for name, a in powered.items()}
        case _:
            return {name: a.sum(1) for name, a in powered.items()}


def shares(graph: ChannelGraph, metric: str) -> dict[str, float]:
    """n_l / Σ_j n_j by prunable group: what the layers that make it hold of ``metric`` now.

    Args:
        graph: groups of the net as it is.
        metric: ``params`` (weights), ``macs`` (weights × positions) or ``activations``.
    """
    layers = {(layer.module, layer.tensor): layer for layer in graph.layers}
    n: dict[str, float] = {}
    for group in graph.prunable:
        n[group.name] = 0.0
        for s in group.producers:
            key = (s.module, s.tensor)
            weights = float(np.prod(graph.shapes[key]))
            layer = layers.get(key)
            match metric:
                case "params":
                    n[group.name] += weights
                case "macs":
                    n[group.name] += weights * (layer.positions if layer else 1)
                case _:
                    n[group.name] += group.size * (layer.outputs if layer else 1)
    total = sum(n.values())
    return {name: value / total for name, value in n.items()}


def fall_at(
    scores: Mapping[str, Tensor], graph: ChannelGraph, metric: str
) -> dict[str, np.ndarray]:
    """s_lc / (n_l / Σ n): the threshold T at which each unit falls, (units,) by group."""
    share = shares(graph, metric)
    return {name: s / share[name] for name, s in check_scores(graph, scores).items()}


def above(graph: ChannelGraph, at: Mapping[str, np.ndarray], threshold: float) -> dict:
    """Units that stay, by group, of those groups that lose some; the last ones always stay."""
    keep = {}
    for group in graph.prunable:
        stay = np.flatnonzero(at[group.name] > threshold)  # s > τ_l
        least = min(group.least, group.size)
        if len(stay) < least:
            stay = np.sort(np.argsort(-at[group.name], kind="stable")[:least])
        if len(stay) < group.size:
            keep[group.name] = stay.tolist()
    return keep


def first_step(at: Mapping[str, np.ndarray], share: float) -> float:
    """λ such that the first threshold takes about this share of all units; above 0."""
    every = np.sort(np.concatenate(list(at.values())))
    number = max(1, round(share * len(every)))
    positive = every[number - 1 :]
    positive = positive[positive > 0]
    return float(positive[0]) if len(positive) else 1.0


def score_images(x: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """So many random ones of ``x``, or all there are."""
    rows = torch.randperm(len(x), generator=generator, device="cpu")[:images]
    return x[rows]
