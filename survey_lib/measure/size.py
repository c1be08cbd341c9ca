"""Sizes: parameters, non-zeros, bytes of a file, activations."""

import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from survey_lib.measure.macs import batch_size
from survey_lib.mechanics.groups import CONV, TRANSPOSED
from survey_lib.mechanics.sparse import model_bytes
from survey_lib.tasks.modes import evaluating
from survey_lib.tasks.states import distinct


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, zeros included."""
    return sum(p.numel() for p in model.parameters())


def count_nonzeros(model: nn.Module) -> int:
    """Number of parameters that are not exactly zero (the papers' NNZ)."""
    return sum(int(p.count_nonzero()) for p in model.parameters())


@torch.no_grad()
def count_activations(model: nn.Module, example: Tensor) -> int:
    """Elements of all convolution and linear outputs per example (the papers' "memory").

    The same number as ``Costs(graph, "activations")`` has for a net that is traced.

    Raises:
        MacsError: the batch is empty.
    """
    examples = batch_size(example)
    total = 0

    def count(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel()

    kinds = (*CONV, *TRANSPOSED, nn.Linear)
    handles = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, kinds)]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return total // examples


def file_bytes(model: nn.Module) -> int:
    """Bytes of the safetensors file of a net: weights, running statistics, header.

    A tensor that modules share is written once.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        save_file(distinct(model)[0], path)
        return path.stat().st_size


def sizes(model: nn.Module) -> dict[str, int]:
    """Parameters, non-zeros and bytes in three encodings."""
    return {
        "params": count_parameters(model),
        "nonzeros": count_nonzeros(model),
        "bytes_dense": model_bytes(model, "dense"),
        "bytes_bitmask": model_bytes(model, "bitmask"),
        "bytes_csr": model_bytes(model, "csr"),
    }
