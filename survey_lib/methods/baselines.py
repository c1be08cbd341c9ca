"""Opponents every method must beat: random and one-shot magnitude pruning, then tuning.

One-shot: all weights that have to go are cut at once from the net that is given; then the whole
tuning is spent with the masks fixed (Han et al. 2015, one round; key ``han2015learning``). The
random masks keep the same number of weights in each layer.

Cost: the tuning.
"""

import copy
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.masks import (
    MaskedWeights,
    final_sparsity,
    fit_masked,
    masks_table,
    prunable_weights,
)
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History

STEERS = "budget"
KIND = "weights"


@dataclass(frozen=True)
class Config:
    """What is cut, and where the threshold is drawn."""

    criterion: str = "magnitude"
    """``magnitude`` (smallest |w| first) or ``random``."""
    scope: str = "layerwise"
    """``layerwise`` or ``global``."""

    def __post_init__(self) -> None:
        if self.criterion not in ("magnitude", "random"):
            raise ValueError(f"no criterion {self.criterion!r}; use magnitude or random")
        if self.scope not in ("layerwise", "global"):
            raise ValueError(f"no scope {self.scope!r}; use layerwise or global")


class _RandomScores(MaskedWeights):
    """Masks that rank by numbers drawn once instead of by |W|."""

    def __init__(self, weights: dict[str, Tensor], generator: torch.Generator):
        super().__init__(weights)
        self.drawn = {
            k: torch.rand(w.shape, generator=generator, device="cpu").to(w.device)
            for k, w in weights.items()
        }

    def magnitudes(self) -> dict[str, Tensor]:
        """The drawn scores."""
        return self.drawn


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Cut a copy of ``model`` to the budget at once, then tune it.

    Args:
        model: the trained net.
        task: data and loss.
        budget: ``nonzeros``, of all parameters of the net.
        config: what goes first.
        tuning: spent after the cut; None trains nothing.
        generator: draws random scores first, then the data order.

    Raises:
        BudgetNotMet: the spared layers alone exceed the budget.
    """
    start = perf_counter()
    model = copy.deepcopy(model)
    weights = prunable_weights(model)
    s_f = final_sparsity(model, weights, budget, "baselines")
    random = config.criterion == "random"
    masked = _RandomScores(weights, generator) if random else MaskedWeights(weights)
    masked.prune_to(s_f, config.scope)
    spent = History()
    if tuning:
        spent = fit_masked(model, masked, task, tuning, generator=generator)
    return Compressed(
        model.eval(),
        masks_table(masked.masks),
        perf_counter() - start,
        forward_passes=spent.steps,
        backward_passes=spent.steps,
        steps=spent.steps,
        examples=spent.examples,
        masks=masked.masks,
        trace={"loss": spent.loss},
    )
