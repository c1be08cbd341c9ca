"""One ranking over all layers: which units go, and when enough are gone."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import check_scores

Enough = Callable[[np.ndarray], bool]
"""(groups,) units left → whether no more have to go."""
Until = Callable[[ChannelGraph], Enough]
"""A net's groups → when enough of its units are gone."""


def cut(
    graph: ChannelGraph, scores: Mapping[str, Tensor], number: int, enough: Enough
) -> dict[str, list[int]]:
    """Units kept by group when the ``number`` lowest of all go, or fewer where that is enough.

    The last units of a group stay; of equal scores the earlier layer's goes, the lower index first.
    """
    values = check_scores(graph, scores)
    order = sorted(
        (float(v), g, u) for g, group in enumerate(graph.groups) if group.name in values
        for u, v in enumerate(values[group.name])
    )  # fmt: skip
    kept = np.array([g.size for g in graph.groups])
    gone: dict[int, set[int]] = {}
    for _, g, u in order:
        if number == 0 or enough(kept):
            break
        if kept[g] > graph.groups[g].least:
            gone.setdefault(g, set()).add(u)
            kept[g] -= 1
            number -= 1
    return {graph.groups[g].name: [u for u in range(graph.groups[g].size) if u not in units]
            for g, units in gone.items()}  # fmt: skip


def least_units(graph: ChannelGraph) -> np.ndarray:
    """(groups,) units that stay."""
    return np.array([g.size if g.protected else min(g.size, g.least) for g in graph.groups])


def costs_at_most(metric: str, target: float) -> Until:
    """Until the net costs no more than ``target``, counted on the groups that it has then.

    A net that was cut may have other groups than before: a depthwise convolution of which one
    channel is left is an ordinary one, and no longer ties what it reads to what it makes.
    """

    def of(graph: ChannelGraph) -> Enough:
        costs = Costs(graph, metric)
        return lambda kept: costs(kept) <= target

    return of


def never(graph: ChannelGraph) -> Enough:
    """Until nothing can go."""
    del graph
    return lambda kept: False
