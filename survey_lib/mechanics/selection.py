"""From scores and a budget to a recipe: the only place that ranks.

Units are removed in the order of their scores, lowest first, until the net costs no more than the
budget. A step is one unit, or ``round_to`` units of one group.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.budget import Budget, BudgetNotMet, reachable
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.surgery import Recipe

SCOPES = ("global", "local")


class ScoreError(ValueError):
    """Scores that do not fit the groups; names the group and what is wrong."""


def check_scores(graph: ChannelGraph, scores: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Scores as float64 arrays, one finite number for each unit.

    Raises:
        ScoreError: no scores, an unknown or protected group, a wrong shape, NaN or infinity.
    """
    if not scores:
        raise ScoreError(f"{graph.model}: no group was scored; nothing can be removed")
    prunable = {g.name: g for g in graph.prunable}
    checked = {}
    for name, score in scores.items():
        if name not in prunable:
            raise ScoreError(f"{graph.model} has no prunable channel group {name!r}")
        size = prunable[name].size
        if tuple(score.shape) != (size,) or not torch.isfinite(score).all():
            raise ScoreError(
                f"{name}: need {size} finite scores, got shape {tuple(score.shape)}"
                + ("" if torch.isfinite(score).all() else " with NaN or infinity")
            )
        checked[name] = score.detach().cpu().double().numpy()
    return checked


def select(
    graph: ChannelGraph,
    scores: Mapping[str, Tensor],
    budget: Budget,
    *,
    scope: str = "global",
    per: str = "",
    min_keep: int = 1,
    round_to: int = 1,
) -> Recipe:
    """The recipe that meets a budget by removing the units of lowest score.

    Args:
        graph: groups of the net.
        scores: (units,) by group, higher = keep; groups without scores stay whole.
        budget: ``macs``, ``params`` or ``activations``.
        scope: ``global`` ranks all units by score; ``local`` removes about the same share of
            each group, lowest scores first.
        per: ``macs`` or ``activations`` divides each score by what the unit's removal saves in
            the dense net; empty divides by nothing. Without effect on ``local``.
        min_keep: units that each group keeps at least; a layer is never emptied.
        round_to: the number kept is a multiple of it, in groups that have that many.

    Raises:
        BudgetNotMet: even the smallest net allowed exceeds the budget; says what is reachable.
        ScoreError: scores that do not fit.
        ValueError: an unknown scope, metric or normalisation.
    """
    if scope not in SCOPES:
        raise ValueError(f"select: no scope {scope!r}; use one of {', '.join(SCOPES)}")
    if min_keep < 1 or round_to < 1:
        raise ValueError("select: min_keep and round_to must be at least 1")
    checked = check_scores(graph, scores)
    costs = Costs(graph, budget.metric)
    saved = Costs(graph, per).savings(costs.sizes) if per else np.ones(len(graph.groups))
    steps: list[tuple[float, int, int]] = []  # (score, group, units removed)
    order: dict[int, np.ndarray] = {}
    for g, group in enumerate(graph.groups):
        if group.name not in checked:
            continue
        value = checked[group.name]
        order[g] = np.argsort(value, kind="stable")
        value = value[order[g]] / max(saved[g], 1)
        removable = group.size - min(group.size, max(min_keep, round_to, group.least))
        at = 0
        for block in _blocks(removable, group.size, round_to):
            inside = slice(at, at + block)
            share = (at + block / 2) / group.size
            steps.append((share if scope == "local" else float(value[inside].mean()), g, block))
            at += block
    # a group's own steps stay in order: sorting is stable and block means never fall
    steps.sort(key=lambda s: s[0])
    kept = costs.sizes.copy()
    target = budget.allowed(costs.dense)
    path = [costs.dense]
    taken = dict.fromkeys(order, 0)
    for _, g, block in steps:
        if path[-1] <= target:
            break
        kept[g] -= block
        taken[g] += block
        path.append(costs(kept))
    if path[-1] > target:
        raise BudgetNotMet(
            f"{graph.model}: {budget.metric}={budget.keep:.4g} is out of reach with these groups; "
            f"down to {reachable(path[-1] / costs.dense)} is reachable"
        )
    return {graph.groups[g].name: sorted(int(u) for u in order[g][n:]) for g, n in taken.items()}


def check_reach(graph: ChannelGraph, budget: Budget, least: np.ndarray, method: str) -> Costs:
    """The costs of a net whose groups may shrink to ``least`` (groups,) units.

    Raises:
        BudgetNotMet: even then it exceeds the budget; says what is reachable.
        ValueError: channels cannot be budgeted by this metric.
    """
    costs = Costs(graph, budget.metric)
    if costs(least) > budget.allowed(costs.dense):
        raise BudgetNotMet(
            f"{method}: {budget.metric}={budget.keep:.4g} is out of reach for {graph.model}; "
            f"down to {reachable(costs(least) / costs.dense)} is reachable"
        )
    return costs


def channels_table(graph: ChannelGraph, recipe: Mapping[str, Sequence[int]]) -> list[dict]:
    """One row per prunable group: its units, and how many of them are kept."""
    return [
        {"layer": g.name, "channels": g.size, "kept": len(recipe.get(g.name, range(g.size)))}
        for g in graph.prunable
    ]


def shrunk(graph: ChannelGraph, recipe: Recipe) -> Recipe:
    """The recipe without the groups that lost nothing."""
    return {name: units for name, units in recipe.items() if len(units) < graph[name].size}


def _blocks(removable: int, size: int, round_to: int) -> list[int]:
    """Sizes of the steps in which a group shrinks: after the first, multiples of ``round_to``."""
    blocks = []
    first = size % round_to
    if first and first <= removable:
        blocks.append(first)
        removable -= first
    return blocks + [round_to] * (removable // round_to)
