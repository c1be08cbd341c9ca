"""Rivals of learned structure parameters: structures cut by ℓ1 norm or at random, then retrained.

Also what both sides are compared at: the same number of structures, or the same MACs.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.masks import MaskedWeights, fit_masked, keep_largest
from survey_lib.methods.parameterized_structured.layers import structured_weights
from survey_lib.methods.parameterized_structured.method import AXES
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History

SCOPES = ("global", "layer")


def norms(
    weights: Mapping[str, Tensor], granularity: str, *, mean: bool = False
) -> dict[str, Tensor]:
    """ℓ1 norm of each structure, of the shape its parameters would have; by weight.

    Args:
        weights: (K, C, R, S) or (K, C), by name.
        granularity: a key of :data:`AXES`.
        mean: divided by the number of the structure's weights, so that layers of unequal height
            can be ranked together.
    """
    found = {}
    for name, w in weights.items():
        others = tuple(axis for axis in range(w.ndim) if axis not in AXES[granularity])
        size = w.detach().abs().sum(others, keepdim=True) if others else w.detach().abs()
        found[name] = size / (w.numel() / size.numel()) if mean else size
    return found


def drawn(scores: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Random scores in the place of others."""
    return {n: torch.rand(s.shape, generator=generator, device="cpu") for n, s in scores.items()}


def cut_shares(scores: Mapping[str, Tensor], kept: Mapping[str, int]) -> dict[str, Tensor]:
    """Masks that keep the best structures of each layer, so many as ``kept`` says."""
    return {name: keep_largest(s, kept[name]) for name, s in scores.items()}


def cut_lowest(
    scores: Mapping[str, Tensor], costs: Mapping[str, float], target: float, scope: str = "global"
) -> dict[str, Tensor]:
    """Masks without the lowest structures, the fewest with which the cost is at most ``target``.

    Args:
        scores: one for each structure, higher = keep, by weight.
        costs: of one structure, by weight: 1, or its MACs.
        target: what all kept structures may cost together.
        scope: ``global`` ranks all together; ``layer`` takes the same share of each layer.

    Raises:
        ValueError: no such scope.
    """
    if scope not in SCOPES:
        raise ValueError(f"no scope {scope!r}; use one of {', '.join(SCOPES)}")
    names = list(scores)
    flat = [scores[n].flatten().double().cpu() for n in names]
    if scope == "layer":  # the rank within its layer, from 0 for the lowest to below 1
        flat = [s.argsort(stable=True).argsort() / len(s) for s in flat]
    value = torch.cat(flat)
    cost = torch.cat([torch.full((len(s),), float(costs[n]), dtype=torch.float64)
                      for n, s in zip(names, flat, strict=True)])  # fmt: skip
    order = value.argsort(stable=True)
    left = cost.sum() - cost[order].cumsum(0)
    gone = 0 if float(cost.sum()) <= target else int((left > target + 1e-9).sum()) + 1
    keep = torch.ones(len(value), dtype=torch.bool)
    keep[order[:gone]] = False
    parts = keep.split([len(s) for s in flat])
    return {n: p.view(scores[n].shape) for n, p in zip(names, parts, strict=True)}


def structure_macs(model: nn.Module, task: Task, granularity: str) -> dict[str, float]:
    """MACs per image of one structure, by weight: its weights times the places they are used at."""
    graph = trace_groups(model, task.example(1))
    places = {f"{layer.module}.{layer.tensor}": layer.positions for layer in graph.layers}
    weights = structured_weights(model)
    number = {n: s.numel() for n, s in norms(weights, granularity).items()}
    return {n: places[n] * w.numel() / number[n] for n, w in weights.items()}


def fit_cut(
    model: nn.Module, masks: Mapping[str, Tensor], task: Task, recipe: Training, *,
    generator: torch.Generator,
) -> History:  # fmt: skip
    """Train ``model`` in place without the structures that the masks cut, from the first step on.

    Args:
        model: the dense net, or a fresh one.
        masks: boolean, by weight, of its shape or one that broadcasts to it.
        task: data and loss.
        recipe: the training.
        generator: draws the data order.
    """
    weights = structured_weights(model)
    masked = MaskedWeights(weights, readmit=False)
    masked.set({n: masks[n].expand_as(w).contiguous() for n, w in weights.items()})
    return fit_masked(model, masked, task, recipe, generator=generator)
