"""Which channels may go, how far that reaches, and what is known between two removals."""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.groups import ChannelGraph, internal_groups
from survey_lib.mechanics.selection import check_reach
from survey_lib.mechanics.surgery import Recipe


@dataclass(frozen=True)
class Removal:
    """One channel that went."""

    group: str
    unit: int
    score: float
    """What it was ranked by: Δ, the norm, or a draw, less β δC."""


@dataclass(frozen=True)
class Stop:
    """The long run between two removals, after the interval's training."""

    removed: tuple[Removal, ...]
    recipe: Recipe
    """Kept channels of the groups that lost some."""
    kept: np.ndarray
    """(groups,) as :class:`Costs` takes them."""
    delta: dict[str, Tensor]
    """(channels,) Fisher signal Δ by group, from the last interval that had steps."""
    loss: list[float]
    """Loss of each batch of this interval."""
    examples: int
    """Examples in them."""


def inside_blocks(graph: ChannelGraph) -> ChannelGraph:
    """The same graph with only the channels inside a block, as :func:`internal_groups` knows them.

    No residual sum and no concatenation shares them, and one branch alone reads them: a stem before
    a first block with a shortcut of its own is none.
    """
    return replace(graph, groups=internal_groups(graph))


def reach(graph: ChannelGraph, budget: Budget, config: object) -> Costs:
    """The costs of a net, of which one channel in each block has to stay.

    Raises:
        BudgetNotMet: that is still too much.
    """
    del config
    inside = {g.name for g in inside_blocks(graph).groups}
    least = np.array([1 if g.name in inside else g.size for g in graph.groups])
    return check_reach(graph, budget, least, "closer_look, inside blocks")
