r"""Loss models for unstructured pruning (Laurent et al. 2020, key ``laurent2020revisiting``).

Removing the weights outside a mask m moves the net by :math:`\Delta\theta = -\theta \odot (1 - m)`.
A model of the loss around :math:`\theta` predicts what that costs, and
:math:`\frac\lambda2 \lVert\Delta\theta\rVert^2` penalises moving far, where no local model holds.
With a diagonal curvature every weight has its own score, and the smallest go. In :math:`\pi` steps
each step is short: the model is rebuilt at the masked weights.

Faithful: the scores, absolute values around each weight's own sum, as in the authors' code; the
exact Gauss–Newton diagonal; gradient of the cross-entropy alone, in eval mode, on 1,000 training
images; one ranking over all convolution and linear weights, first and last layer too, biases and
normalisation spared; no training between steps; masks fixed in tuning.

Differs: the schedule is that of the authors' code, an equal share of the survivors at each step,
because the formula printed in the paper prunes almost everything at once
(:func:`printed_sparsity`); the same images serve every step, where the authors' loader draws anew
(197 of 1,000 in common from one step to the next); ties go to the lower index; tuning ends where
its schedule does, where the authors keep the epoch that is best on validation.

Cost: :math:`\pi + 1` forward and backward passes over the 1,000 images; OBD and QM add a forward
pass and a backward pass per class each step. Then the tuning.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.curvature import all_free, check_layers, ggn_diagonal
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.masks import (
    MaskedWeights,
    final_sparsity,
    fit_masked,
    keep_largest,
    masks_table,
    prunable_weights,
)
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.data import Split
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History

STEERS = "budget"
KIND = "weights"

CRITERIA = ("MP", "OBD", "LM", "QM")
CURVED = ("OBD", "QM")
SCHEDULES = ("geometric", "linear")
BATCH = 250
"""Images in a pass; changes nothing but the memory it takes."""


@dataclass(frozen=True)
class Config:
    """The paper's symbols; defaults are the authors' where they name one."""

    criterion: str = "QM"
    """``MP`` (magnitude), ``OBD``, ``LM`` (linear model) or ``QM`` (quadratic model)."""
    pi: int = 14
    """π, the number of pruning steps; the model is rebuilt before each."""
    lam: float = 0.01
    """λ, the penalty on large changes; without effect on MP."""
    schedule: str = "geometric"
    """``geometric`` (an equal share of the survivors each step) or ``linear``."""
    examples: int = 1000
    """Training images the model of the loss is made from."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"no criterion {self.criterion!r}; use one of {', '.join(CRITERIA)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"no schedule {self.schedule!r}; use one of {', '.join(SCHEDULES)}")
        if self.pi < 1 or self.lam < 0 or self.examples < 1:
            raise ValueError(f"need pi ≥ 1, lam ≥ 0 and examples ≥ 1, got {self}")


def check(model: nn.Module, graph: ChannelGraph | None, task: Task, config: Config) -> None:
    """Raise ValueError for weights that have no curvature here, as an embedding's."""
    del graph, task
    if config.criterion in CURVED:
        check_layers(model, prunable_weights(model, spare_first_conv=False))


def sparsity_at(i: int, pi: int, kappa: float, schedule: str = "geometric") -> float:
    r""":math:`\kappa_i`, the share of all weights that is gone after step i of π.

    Geometric: :math:`\kappa_i = 1 - (1 - \kappa)^{i/\pi}`. Linear: :math:`\kappa_i = i\kappa/\pi`.
    """
    if i == pi:
        return kappa  # to the last bit
    return i * kappa / pi if schedule == "linear" else 1 - (1 - kappa) ** (i / pi)


def printed_sparsity(i: int, pi: int, kappa: float) -> float:
    r"""As printed: :math:`\kappa_i = \kappa_{i-1} + (\kappa - \kappa_0)^{i/\pi}`."""
    return sum(kappa ** (k / pi) for k in range(1, i + 1))


def modelled_change(criterion: str, theta: Tensor, g: Tensor, curvature: Tensor | float) -> Tensor:
    r"""What the model expects the loss to change by when θ_k alone goes to zero, signed.

    A Taylor series at :math:`\Delta\theta_k = -\theta_k`, cut after its first or second term:
    LM :math:`-g_k\theta_k`, OBD :math:`\frac12 G_{kk}\theta_k^2` (it takes the net to stand at a
    minimum, where g is zero), QM both. MP has no model: zeros.
    """
    change = -g * theta if criterion in ("LM", "QM") else torch.zeros_like(theta)
    if criterion in CURVED:
        change = change + 0.5 * curvature * theta**2
    return change


def saliency(criterion: str, change: Tensor, theta: Tensor, lam: float) -> Tensor:
    r"""Score s_k: :math:`|\text{modelled change}_k| + \frac\lambda2\theta_k^2`; MP: ½θ_k²."""
    if criterion == "MP":
        return 0.5 * theta**2
    return change.abs() + 0.5 * lam * theta**2


def loss_and_gradient(
    model: nn.Module, task: Task, images: Split, weights: Mapping[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """Mean cross-entropy over ``images`` and its gradient g, in the mode the net is in.

    Weights that are frozen have a gradient too: being frozen is no reason to stay.
    """
    loss, total = 0.0, {name: torch.zeros_like(w) for name, w in weights.items()}
    for x, y in zip(images.x.split(BATCH), images.y.split(BATCH), strict=True):
        with all_free(weights), torch.enable_grad():
            part = task.loss(model(x), y) * len(y) / len(images)
            found = torch.autograd.grad(part, list(weights.values()))
        for name, g in zip(total, found, strict=True):
            total[name] += g
        loss += float(part.detach())
    return loss, total


def prune(
    model: nn.Module, task: Task, images: Split, kappa: float, config: Config
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Algorithm 1 without its tuning: set the weights it cuts to zero in ``model`` itself.

    Args:
        model: pruned in place; left in eval mode.
        task: gives the loss.
        images: what loss, gradient and curvature are averaged over, the same at every step.
        kappa: κ, the share of the D prunable weights to remove: round(κ D).
        config: criterion, π, λ and schedule.

    Returns:
        The masks, and the path before the first and after each step: ``sparsity``, ``loss``, and
        ``predicted``, the first loss plus all modelled changes so far.
    """
    weights = prunable_weights(model.eval(), spare_first_conv=False)
    images = Split(*(t.to(next(model.parameters()).device) for t in (images.x, images.y)))
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    total = sum(w.numel() for w in weights.values())  # D
    loss, g = loss_and_gradient(model, task, images, weights)
    path = {"sparsity": [0.0], "loss": [loss], "predicted": [loss]}
    for i in range(1, config.pi + 1):
        curved = config.criterion in CURVED
        with all_free(weights):
            curvature = ggn_diagonal(model, images.x, weights, batch=BATCH) if curved else {}
        kappa_i = sparsity_at(i, config.pi, kappa, config.schedule)
        with torch.no_grad():
            # the survivors in one row: what is gone stays gone
            theta, grad = _alive(weights, masks), _alive(g, masks)
            g_kk = _alive(curvature, masks) if curvature else 0.0
            change = modelled_change(config.criterion, theta, grad, g_kk)
            score = saliency(config.criterion, change, theta, config.lam)
            keep = keep_largest(score, total - round(kappa_i * total))
            parts = keep.split([int(m.sum()) for m in masks.values()])
            for (name, mask), part in zip(masks.items(), parts, strict=True):
                mask[mask.clone()] = part
                weights[name].mul_(mask)  # θ ← θ ⊙ m
        loss, g = loss_and_gradient(model, task, images, weights)  # anew, at θ ⊙ m
        expected = path["predicted"][-1] + float(change[~keep].sum())
        for key, value in zip(path, (kappa_i, loss, expected), strict=True):
            path[key].append(value)
    return masks, path


def _alive(tensors: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name][mask] for name, mask in masks.items()])


def tune(
    model: nn.Module, masks: Mapping[str, Tensor], task: Task, recipe: Training, *,
    generator: torch.Generator,
) -> History:  # fmt: skip
    """Train ``model`` in place, masked weights held at zero."""
    masked = MaskedWeights(prunable_weights(model, spare_first_conv=False), readmit=False)
    masked.set(dict(masks))
    return fit_masked(model, masked, task, recipe, generator=generator)


def saliency_images(task: Task, examples: int, generator: torch.Generator) -> tuple[Split, Split]:
    """Draw the training images the model of the loss is made from; also returns the others."""
    rows = torch.randperm(len(task.train), generator=generator, device="cpu")
    seen, rest = rows[:examples], rows[examples:]
    x, y = task.train.x, task.train.y
    return Split(x[seen], y[seen]), Split(x[rest], y[rest])


def compress(
    model: nn.Module, task: Task, budget: Budget, config: Config = Config(), *,
    tuning: Training | None, generator: torch.Generator,
) -> Compressed:  # fmt: skip
    """Prune a copy of a trained ``model`` to the budget, then tune it.

    Args:
        model: the trained net.
        task: its data and its loss.
        budget: ``nonzeros``, of all parameters.
        config: criterion, π, λ and the rest.
        tuning: spent after the last pruning step; None trains nothing.
        generator: draws the images first, then the data order of the tuning.

    Raises:
        BudgetNotMet: biases and normalisation alone exceed the budget.
        ValueError: a weight has no curvature here, see :func:`check`.
    """
    check(model, None, task, config)
    start = perf_counter()
    model = copy.deepcopy(model)
    weights = prunable_weights(model, spare_first_conv=False)
    kappa = final_sparsity(model, weights, budget, "loss_modelling")
    images, _ = saliency_images(task, config.examples, generator)
    masks, path = prune(model, task, images, kappa, config)
    batches = -(-len(images) // BATCH)
    curved = config.pi if config.criterion in CURVED else 0
    spent = History()
    if tuning:
        spent = tune(model, masks, task, tuning, generator=generator)
    return Compressed(
        model.eval(),
        masks_table(masks),
        perf_counter() - start,
        forward_passes=batches * (config.pi + 1 + curved) + spent.steps,
        backward_passes=batches * (config.pi + 1 + curved * len(task.data.classes)) + spent.steps,
        steps=spent.steps,
        examples=spent.examples,
        masks=masks,
        trace=path | {"tuning": spent.loss},
    )
