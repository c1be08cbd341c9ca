"""Which units may go, and what is known of each step of the path."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup
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


def is_internal(group: ChannelGroup) -> bool:
    """Whether a group lies inside one block: no sum ties it to others."""
    return "residual" not in group.kinds


class Scope(Protocol):
    """What a config says about the groups that may shrink."""

    @property
    def coupled(self) -> bool:
        """Whether groups that a sum ties together may shrink too."""
        ...


def least(graph: ChannelGraph, config: Scope) -> np.ndarray:
    """(groups,) units that have to stay."""
    return np.array([
        1 if not g.protected and (config.coupled or is_internal(g)) else g.size
        for g in graph.groups
    ])  # fmt: skip
