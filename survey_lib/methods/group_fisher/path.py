"""Which units may go, and what is known of each step of the path."""

from dataclasses import dataclass

import numpy as np

from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup, internal_groups
from survey_lib.mechanics.surgery import Recipe


@dataclass(frozen=True)
class Removal:
    """One step of the path: a unit that went, and what is left."""

    group: str
    unit: int
    score: float
    """s / Δ^α of the unit, as it was compared."""
    kept: np.ndarray
    """(groups,) units left in each group of the graph."""
    recipe: Recipe
    """Units still there, by prunable group."""
    loss: list[float]
    """Loss of each of the d batches before."""
    examples: int
    """Examples in them."""


def shrinking(graph: ChannelGraph, coupled: bool) -> tuple[ChannelGroup, ...]:
    """The groups whose units may go: all, or those that no sum or concatenation ties together."""
    return graph.prunable if coupled else internal_groups(graph)


def least(graph: ChannelGraph, coupled: bool) -> np.ndarray:
    """(groups,) units that have to stay."""
    shrink = {g.name for g in shrinking(graph, coupled)}
    return np.array([1 if g.name in shrink else g.size for g in graph.groups])
