"""From scores to open gates: which neurons stay when so much of their cost may stay."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.methods.what_matters_llm.measures import neurons


def least_kept(graph: ChannelGraph) -> np.ndarray:
    """(groups,) units that stay whatever the budget: one neuron a layer, all of the rest."""
    own = {g.name for g in neurons(graph)}
    return np.array([min(g.size, g.least) if g.name in own else g.size for g in graph.groups])


def share_of_neurons(graph: ChannelGraph, v: float, metric: str = "macs") -> Budget:
    """The budget of a whole net that keeps a share ``v`` of its neurons.

    Where neurons cost the same, as in a transformer's feed-forward nets, ``v`` counts neurons.
    """
    costs = Costs(graph, metric)
    rest = _rest(graph, costs)
    return Budget(metric, (rest + v * (costs.dense - rest)) / costs.dense)


def _rest(graph: ChannelGraph, costs: Costs) -> int:
    """What the net costs without any neuron."""
    own = {g.name for g in neurons(graph)}
    return costs(np.array([0 if g.name in own else g.size for g in graph.groups]))


class Plan:
    """What a budget leaves for neurons, and the choice of those with the largest scores.

    Args:
        graph: of the dense net.
        budget: of the whole net.
        scope: ``global``: one ranking; ``local``: ranked within each layer, by rank ÷ size.
    """

    def __init__(self, graph: ChannelGraph, budget: Budget, scope: str):
        self.groups = neurons(graph)
        self.scope = scope
        self.costs = Costs(graph, budget.metric)
        self.target = budget.allowed(self.costs.dense)
        self.rest = _rest(graph, self.costs)
        place = {g.name: i for i, g in enumerate(graph.groups)}
        self.sizes = [g.size for g in self.groups]
        self.size = sum(self.sizes)
        self.group_of = np.repeat([place[g.name] for g in self.groups], self.sizes)
        self.v_f = max(0.0, self.target - self.rest) / (self.costs.dense - self.rest)
        """Share of the neurons' own cost that may stay in the end; at most 1 + 1e-12."""

    def top(self, scores: Mapping[str, Tensor], v: float) -> dict[str, Tensor]:
        """Open gates (units,) bool by group: the largest scores at share ``v`` of the cost.

        Exactly as few go as must; ties go by number, the lower first. A layer's best stays.

        Args:
            scores: (units,) by group, higher = keep.
            v: of the law, not below ``v_f``.
        """
        parts = []
        for g in self.groups:
            score = scores[g.name].detach().cpu().double().numpy()
            rank = np.argsort(np.argsort(score, kind="stable"), kind="stable")
            value = score if self.scope == "global" else (rank + 0.5) / g.size
            parts.append(np.where(rank >= g.size - min(g.least, g.size), np.inf, value))
        value = np.concatenate(parts)
        order = np.argsort(value, kind="stable")
        order = order[np.isfinite(value[order])]
        target = max(self.target, self.rest + v * (self.costs.dense - self.rest))

        def cost(gone: int) -> int:
            each = np.bincount(self.group_of[order[:gone]], minlength=len(self.costs.sizes))
            return self.costs(self.costs.sizes - each)

        low, high = 0, len(order)  # the fewest that must go lie in between
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if cost(middle) <= target else (middle + 1, high)
        mask = np.ones(self.size, bool)
        mask[order[:low]] = False
        return {
            g.name: torch.from_numpy(part)
            for g, part in zip(self.groups, np.split(mask, np.cumsum(self.sizes)[:-1]), strict=True)
        }
