"""Which weights have structure parameters, and how they become ordinary weights again."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from survey_lib.mechanics.masks import prunable_weights


class Masking(Protocol):
    """What is known here of a weight's structure parameters."""

    def kept(self) -> Tensor:
        """Boolean, of their shape."""
        ...

    def freeze(self) -> None:
        """The mask stays as it is."""
        ...


def structured_weights(model: nn.Module) -> dict[str, Tensor]:
    """Weights that get structure parameters, by name: those of all layers but the outer ones.

    Convolutions but the first one and depthwise ones, and linear layers but the last, which makes
    the logits. Frozen weights have none: they could not be trained along.
    """
    last = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)][-1:]
    embeddings = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    outer = {f"{name}.weight" for name in (*last, *embeddings)}
    return {n: w for n, w in prunable_weights(model).items() if n not in outer and w.requires_grad}


def fold(model: nn.Module, structures: Mapping[str, Masking]) -> dict[str, Tensor]:
    """The weight becomes q, in place, and no structure parameter is left: keep-masks by weight."""
    masks = {}
    for name, s in structures.items():
        module = model.get_submodule(name.removesuffix(".weight"))
        s.freeze()
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
        masks[name] = s.kept().expand_as(module.get_parameter("weight")).contiguous()
    return masks


def sparsity(structures: Mapping[str, Masking]) -> float:
    """Share of all structures that are zero."""
    if not structures:
        return 0.0
    kept = torch.cat([s.kept().flatten() for s in structures.values()])
    return 1 - float(kept.double().mean())
