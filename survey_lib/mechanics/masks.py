"""Masks over weights: which tensors may be pruned, and how many entries stay."""

import torch
from torch import Tensor, nn


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
