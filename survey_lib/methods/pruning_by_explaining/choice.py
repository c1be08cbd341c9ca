"""One ranking over all layers: which units go, and when enough are gone."""

from collections.abc import Callable, Mapping

import numpy as np
from torch import Tensor

from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import check_scores

Enough = Callable[[np.ndarray], bool]
"""(groups,) units left → whether no more have to go."""


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


def enough_for(costs: Costs, target: float) -> Enough:
    """Whether a net of so many units costs no more than ``target``."""
    return lambda kept: costs(kept) <= target
