"""How many filters each layer keeps: r, set by hand as in the paper, or found from a budget."""

from collections.abc import Mapping
from math import floor

import numpy as np

from survey_lib.mechanics.budget import Budget, BudgetNotMet, reachable
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup

Ratios = float | tuple[tuple[str, float], ...] | None
"""The share kept: of every pruned layer, by layer, or None where a budget decides."""


def read_by_convolutions(graph: ChannelGraph) -> tuple[str, ...]:
    """Groups the paper prunes: one convolution's channels, all that one other convolution reads."""
    shapes = {module: shape for (module, name), shape in graph.shapes.items() if name == "weight"}

    def alone(g: ChannelGroup) -> bool:
        if not len(g.producers) == len(g.consumers) == 1:
            return False
        maker, reader = g.producers[0], g.consumers[0]
        return (
            len(shapes[maker.module]) == len(shapes[reader.module]) == 4
            and reader.positions.size == shapes[reader.module][1]
        )

    return tuple(g.name for g in graph.prunable if alone(g))


def kept_numbers(
    graph: ChannelGraph, budget: Budget | None, ratios: Ratios, layers: tuple[str, ...] = ()
) -> dict[str, int]:
    """⌊C r⌋ filters of each layer to prune (at least one), from shallow to deep.

    Raises:
        BudgetNotMet: ``ratios`` keep more than the budget, or one filter in each layer does.
        ValueError: neither budget nor r is given, or there is nothing to prune.
    """
    layers = layers or read_by_convolutions(graph)
    if isinstance(ratios, tuple):
        layers = tuple(name for name, _ in ratios)
    if not layers:
        raise ValueError(
            f"thinet: {graph.model} has no convolution whose channels one other convolution alone "
            "reads"
        )
    if budget is None and ratios is None:
        raise ValueError("thinet: give a budget, or the share r that the layers keep")
    sizes = {name: graph[name].size for name in layers}

    def kept(share: Mapping[str, float]) -> dict[str, int]:
        return {n: max(1, floor(c * share[n] + 1e-9)) for n, c in sizes.items()}

    if isinstance(ratios, tuple):
        tried = [kept(dict(ratios))]
    elif ratios is not None:
        tried = [kept(dict.fromkeys(layers, ratios))]
    else:  # every r at which a layer loses one more filter, largest first
        steps = {k / c for c in sizes.values() for k in range(1, c + 1)}
        tried = [kept(dict.fromkeys(layers, r)) for r in sorted(steps, reverse=True)]
    if budget is None:
        return tried[0]
    costs = Costs(graph, budget.metric)
    left = [costs(np.array([k.get(g.name, g.size) for g in graph.groups])) for k in tried]
    for keep, cost in zip(tried, left, strict=True):
        if cost <= budget.allowed(costs.dense):
            return keep
    raise BudgetNotMet(
        f"thinet: {budget.metric}={budget.keep:.4g} is not met by these layers "
        f"({', '.join(layers)}); {reachable(left[-1] / costs.dense)} is left"
        + (f" at r = {ratios}" if ratios is not None else " with one filter in each")
    )
