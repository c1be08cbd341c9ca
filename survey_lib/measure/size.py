"""Sizes: parameters, non-zeros, bytes, activations."""

import torch
from torch import Tensor, nn

from survey_lib.mechanics.sparse import model_bytes


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, zeros included."""
    return sum(p.numel() for p in model.parameters())


def count_nonzeros(model: nn.Module) -> int:
    """Number of parameters that are not exactly zero (the papers' NNZ)."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


@torch.no_grad()
def count_activations(model: nn.Module, example: Tensor) -> int:
    """Elements of all convolution and linear outputs per example (the papers' "memory")."""
    total = 0

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel()

    kinds = (nn.Conv2d, nn.Linear)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    was_training = model.training
    try:
        model.eval()
        model(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return total // len(example)


def sizes(model: nn.Module) -> dict[str, int]:
    """Parameters, non-zeros and bytes in three encodings."""
    return {
        "params": count_parameters(model),
        "nonzeros": count_nonzeros(model),
        "bytes_dense": model_bytes(model, "dense"),
        "bytes_bitmask": model_bytes(model, "bitmask"),
        "bytes_csr": model_bytes(model, "csr"),
    }
