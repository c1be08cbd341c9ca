"""Which units may go, and what is known of each step of the path."""

from dataclasses import dataclass
from typing import Protocol

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


class Scope(Protocol):
    """What a config says about the groups that may shrink."""

    @property
    def coupled(self) -> bool:
        """Whether groups that a sum ties together may shrink too."""
        ...


def shrinking(graph: ChannelGraph, config: Scope) -> tuple[ChannelGroup, ...]:
    """The groups whose units may go."""
    return graph.prunable if config.coupled else internal_groups(graph)


def least(graph: ChannelGraph, config: Scope) -> np.ndarray:
    """(groups,) units that have to stay."""
    shrink = {g.name for g in shrinking(graph, config)}
    return np.array([1 if g.name in shrink else g.size for g in graph.groups])
