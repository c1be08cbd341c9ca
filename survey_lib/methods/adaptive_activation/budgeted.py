"""Adaptive activation-based pruning steered by a budget: the policies that a size limits.

The budget's metric is the policy: ``params`` is the paper's memory, ``macs`` its operations, and
``activations`` one of ours, so that it stands beside all methods that take one.
"""

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.methods.adaptive_activation import method
from survey_lib.methods.adaptive_activation.config import POLICIES
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task, Training

STEERS = "budget"
KIND = "channels"


@dataclass(frozen=True)
class Config:
    """The method's settings; its policy follows from the budget.

    The rate alone is rewound, as in the released code: a trained net that comes from elsewhere has
    no past to rewind to.
    """

    adaptive: method.Config = field(default_factory=lambda: method.Config(rewind="rate"))


def _of(budget: Budget, config: Config) -> method.Config:
    policies = {metric: name for name, metric in POLICIES.items() if metric}
    if budget.metric not in policies:
        raise ValueError(
            f"channels cannot be budgeted by {budget.metric!r}; use one of {', '.join(policies)}"
        )
    return replace(config.adaptive, policy=policies[budget.metric])


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> None:
    """Raise BudgetNotMet for a budget that no choice of units meets."""
    method.reach(graph, budget, _of(budget, config))


def compress(
    model: nn.Module, task: Task, budget: Budget, config: Config = Config(), *,
    tuning: Training | None, generator: torch.Generator,
) -> Compressed:  # fmt: skip
    """Prune a copy of ``model`` in rounds that come near the budget, then exactly to it.

    Args:
        model: the trained net.
        task: data and loss.
        budget: ``params``, ``macs`` or ``activations`` to keep.
        config: rounds, score, rewinding.
        tuning: dealt out over the rounds, the last one takes the rest; None trains nothing.
        generator: draws the score images and the order of the data.

    Raises:
        BudgetNotMet: the budget is out of reach.
    """
    chosen = _of(budget, config)
    return method.compress(model, task, budget, chosen, tuning=tuning, generator=generator)
