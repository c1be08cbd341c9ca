"""Masks over weights: which tensors may be pruned, how many entries stay, training under masks."""

import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget, BudgetNotMet, reachable
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History, training


def prunable_weights(model: nn.Module, *, spare_first_conv: bool = True) -> dict[str, Tensor]:
    """Weight matrices and kernels by name, in module order.

    Convolution, linear and embedding weights; never biases or normalisation. Depthwise
    convolutions are left out, and with ``spare_first_conv`` the first convolution too: together
    they hold about one percent of a net's weights and cannot spare any.
    """
    found: dict[str, Tensor] = {}
    first_conv = spare_first_conv
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups == module.in_channels > 1
            if not depthwise and not first_conv:
                found[f"{name}.weight"] = module.weight
            first_conv = False
        elif isinstance(module, (nn.Linear, nn.Embedding)):
            found[f"{name}.weight"] = module.weight
    return found


def keep_largest(score: Tensor, keep: int) -> Tensor:
    """Boolean mask of ``score``'s shape with exactly ``keep`` entries True: the largest.

    Ties go to the lower index.

    Raises:
        ValueError: ``keep`` outside [0, number of entries], or a score that is not finite.
    """
    flat = score.flatten()
    if not 0 <= keep <= flat.numel():
        raise ValueError(f"keep_largest: cannot keep {keep} of {flat.numel()} entries")
    if not torch.isfinite(flat).all():
        raise ValueError("keep_largest: the score holds NaN or infinity")
    mask = torch.zeros_like(flat, dtype=torch.bool)
    mask[torch.argsort(flat, descending=True, stable=True)[:keep]] = True
    return mask.view_as(score)


def keep_largest_global(scores: dict[str, Tensor], keep: int) -> dict[str, Tensor]:
    """One threshold for all tensors: masks whose True entries number exactly ``keep`` together."""
    flat = keep_largest(torch.cat([s.flatten() for s in scores.values()]), keep)
    parts = flat.split([s.numel() for s in scores.values()])
    return {name: part.view_as(scores[name]) for name, part in zip(scores, parts, strict=True)}


class MaskedWeights:
    """The masks M of a net's prunable weights W; the net computes with M ⊙ W.

    The net's own parameters hold M ⊙ W. ``held`` keeps the last value of masked entries, from
    which a later update may readmit them.
    """

    def __init__(self, weights: dict[str, Tensor], readmit: bool = True):
        self.weights = weights
        self.masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
        self.held = {name: torch.zeros_like(w) for name, w in weights.items()}
        self.readmit = readmit
        self.readmitted = 0

    def magnitudes(self) -> dict[str, Tensor]:
        """|W| by name, masked entries with the value they had when they were cut."""
        return {
            name: torch.where(self.masks[name], w, self.held[name]).detach().abs()
            for name, w in self.weights.items()
        }

    @torch.no_grad()
    def set(self, masks: dict[str, Tensor]) -> None:
        """Cut what the new masks cut, bring back what they readmit."""
        for name, w in self.weights.items():
            old, new = self.masks[name], masks[name]
            full = torch.where(old, w, self.held[name])
            self.readmitted += int((new & ~old).sum())
            self.held[name] = full * ~new if self.readmit else torch.zeros_like(w)
            w.copy_(full * new)
            self.masks[name] = new

    def prune_to(self, s_t: float, scope: str) -> None:
        """Sort |W|, mask the smallest until each layer's (or the net's) sparsity is s_t.

        Exactly round(s_t · N) of N entries are masked.
        """
        size = self.magnitudes()
        if scope == "global":
            total = sum(s.numel() for s in size.values())
            self.set(keep_largest_global(size, total - round(s_t * total)))
        else:
            self.set({k: keep_largest(s, s.numel() - round(s_t * s.numel()))
                      for k, s in size.items()})  # fmt: skip

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """∂L/∂W = M ⊙ ∂L/∂(M ⊙ W): masked weights get no gradient."""
        for name, w in self.weights.items():
            if w.grad is not None:
                w.grad.mul_(self.masks[name])

    @torch.no_grad()
    def apply(self) -> None:
        """Undo what momentum or weight decay did to masked weights."""
        for name, w in self.weights.items():
            w.mul_(self.masks[name])


def fit_masked(
    model: nn.Module,
    masked: MaskedWeights,
    task: Task,
    recipe: Training,
    *,
    generator: torch.Generator,
) -> History:
    """Train ``model`` in place with the masks of its weights fixed."""
    history = History()
    for step in training(model, task, recipe, generator=generator):
        masked.mask_gradients()
        step.move()
        masked.apply()
        history.loss.append(step.loss)
        history.examples += step.examples
    return history


def final_sparsity(
    model: nn.Module, weights: dict[str, Tensor], budget: Budget, method: str = "to_prune_or_not"
) -> float:
    """The share of ``weights`` to cut so that the net keeps ``budget.keep`` of its parameters.

    Args:
        model: the dense net; all of its parameters count.
        weights: those that may be cut, of :func:`prunable_weights`.
        budget: ``nonzeros``.
        method: whose budget it is, for messages.

    Raises:
        BudgetNotMet: the parameters that are spared alone hold more than the budget.
        ValueError: a budget of another metric, or nothing that may be cut.
    """
    if budget.metric != "nonzeros":
        raise ValueError(f"{method} removes weights: give nonzeros=…, not {budget.metric}=…")
    total = sum(p.numel() for p in model.parameters())
    prunable = sum(w.numel() for w in weights.values())
    if not prunable:
        raise ValueError(f"{method}: {type(model).__name__} has no weight that may be cut")
    share = (1 - budget.keep) * total / prunable
    if share >= 1:
        raise BudgetNotMet(
            f"{method}: keeping {budget.keep:.4g} of {total} parameters would empty every "
            f"pruned layer; more than {reachable((total - prunable) / total)} is reachable"
        )
    return share


def masks_table(masks: dict[str, Tensor]) -> list[dict[str, object]]:
    """One row per pruned tensor: its entries, and how many of them are kept."""
    return [{"layer": k, "weights": m.numel(), "kept": int(m.sum())} for k, m in masks.items()]
