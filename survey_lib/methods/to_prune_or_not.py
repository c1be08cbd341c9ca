r"""Gradual magnitude pruning (Zhu & Gupta 2017, bibliography key ``zhu2017prune``).

Every :math:`\Delta t` training steps the smallest weights of each layer are masked until the
layer's sparsity equals :math:`s_t`, which rises by a cubic law (equation 1) from :math:`s_i` to
:math:`s_f`; then the masks stay and training goes on. The net trains on all the while,
by the one recipe that is given.

Faithful: the law, magnitude per layer with the same :math:`s_t` in every pruned layer, masks that
are recomputed from all weights (a masked weight keeps its last value and returns when a survivor
shrinks below it), no gradient for masked weights, first and depthwise convolutions spared as in
the paper's MobileNet.

Differs: the window of pruning is given as shares of the training, because our trainings have
hundreds of steps where the paper's have 10⁵; momentum and weight decay act on survivors only
(TensorFlow's masked weights could still be moved by momentum); the exponent is a parameter.
The paper's layer-by-layer scheme for translation models is left out.

Cost: one ordinary training (one forward and backward pass a step) and :math:`n` sorts.
"""

import copy
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.masks import (
    MaskedWeights,
    final_sparsity,
    masks_table,
    prunable_weights,
)
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import total_steps, training

STEERS = "budget"
KIND = "weights"


@dataclass(frozen=True)
class Config:
    """The paper's symbols; defaults are the paper's where it names one."""

    s_i: float = 0.0
    """Initial sparsity, usually 0."""
    exponent: float = 3.0
    """Power of the law; 3 in the paper, 1 is a straight ramp."""
    begin: float = 0.15
    """t₀ as a share of all training steps."""
    end: float = 0.6
    """t₀ + n Δt as a share of all training steps."""
    n: int = 20
    """Number of pruning updates after t₀; 1 is one-shot pruning."""
    scope: str = "layerwise"
    """``layerwise`` (same sparsity in each layer) or ``global`` (one threshold for all)."""
    readmit: bool = True
    """A masked weight keeps its value and may return; False sets it to zero for good."""

    def __post_init__(self) -> None:
        if not 0 <= self.begin <= self.end <= 1:
            raise ValueError(f"need 0 ≤ begin ≤ end ≤ 1, got {self.begin} and {self.end}")
        if self.n < 1 or self.exponent <= 0 or not 0 <= self.s_i < 1:
            raise ValueError(f"need n ≥ 1, exponent > 0 and 0 ≤ s_i < 1, got {self}")
        if self.scope not in ("layerwise", "global"):
            raise ValueError(f"no scope {self.scope!r}; use layerwise or global")


def sparsity_at(t: float, s_i: float, s_f: float, t_0: float, n_dt: float, exponent: float = 3.0):
    r"""Equation 1: :math:`s_t = s_f + (s_i - s_f)(1 - (t - t_0) / (n \Delta t))^3`.

    ``n_dt`` is :math:`n \Delta t`, the window's length in steps. Before t₀ it is ``s_i``, after
    the window ``s_f``. The 3 is ``exponent``.
    """
    if n_dt <= 0:
        return s_f if t >= t_0 else s_i
    progress = min(max((t - t_0) / n_dt, 0.0), 1.0)
    return s_f + (s_i - s_f) * (1 - progress) ** exponent


def update_steps(config: Config, steps: int) -> dict[int, float]:
    """Training step → progress (t − t₀) / (n Δt) of each update t₀, t₀ + Δt, …, t₀ + n Δt.

    Updates happen before the step of that number; with more updates than steps in the window
    the last one of a step counts.
    """
    t_0, end = config.begin * steps, config.end * steps
    last = steps - 1
    return {
        min(round(t_0 + (end - t_0) * k / config.n), last): k / config.n
        for k in range(config.n + 1)
    }


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Train a copy of ``model`` by ``tuning`` and prune it on the way.

    Args:
        model: where to start from: a fresh net, or a trained one.
        task: data and loss.
        budget: ``nonzeros``, of all parameters of the net.
        config: the schedule.
        tuning: the training that is pruned in; all of its steps are made. None cuts at once, by
            the weights as they are, and trains nothing.
        generator: draws the data order.

    Returns:
        The net with zeros in place of pruned weights, its masks, and the path of s_t.

    Raises:
        BudgetNotMet: the spared layers alone exceed the budget.
    """
    start = perf_counter()
    model = copy.deepcopy(model)
    weights = prunable_weights(model)
    s_f = final_sparsity(model, weights, budget)
    if config.s_i > s_f:
        raise ValueError(f"s_i = {config.s_i} exceeds the final sparsity {s_f:.4g}")
    masked = MaskedWeights(weights, config.readmit)
    # without a training there is nothing to be gradual in: the end of the law, at once
    updates = update_steps(config, total_steps(task, tuning)) if tuning else {0: 1.0}
    trace: dict[str, list[float]] = {"step": [], "sparsity": [], "readmitted": []}

    def update(number: int) -> None:  # the masks of step ``number``, before its forward pass
        if number in updates:
            s_t = sparsity_at(updates[number], config.s_i, s_f, 0.0, 1.0, config.exponent)
            masked.prune_to(s_t, config.scope)
            for key, value in zip(trace, (number, s_t, masked.readmitted), strict=True):
                trace[key].append(value)

    losses: list[float] = []
    examples = 0
    update(0)
    for step in training(model, task, tuning, generator=generator) if tuning else ():
        masked.mask_gradients()
        step.move()
        masked.apply()
        losses.append(step.loss)
        examples += step.examples
        update(step.number + 1)
    steps = len(losses)
    return Compressed(
        model.eval(),
        masks_table(masked.masks),
        perf_counter() - start,
        forward_passes=steps,
        backward_passes=steps,
        steps=steps,
        examples=examples,
        masks=masked.masks,
        trace=trace | {"loss": losses},
    )
