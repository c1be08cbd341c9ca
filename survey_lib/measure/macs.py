"""MACs, counted where torch dispatches, so that no layer type can be forgotten.

What is a MAC, and what is counted, is said in :mod:`survey_lib.mechanics.counting`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from survey_lib.mechanics.counting import counting
from survey_lib.mechanics.groups import CONV, TRANSPOSED
from survey_lib.tasks.modes import evaluating

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A net's only input, or several, by position or by name."""


class MacsError(RuntimeError):
    """A model whose MACs cannot be counted fully; the message names the operators."""


def batch_size(example: Example) -> int:
    """Number of examples: the length of the first tensor.

    Raises:
        MacsError: there is no tensor, or it holds no example.
    """
    first = next((leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)), None)
    if first is None or first.ndim == 0 or not len(first):
        shape = "no tensor" if first is None else f"shape {tuple(first.shape)}"
        raise MacsError(f"cannot count per example: the input has {shape}; give at least one")
    return len(first)


def count_macs(model: nn.Module, example: Example) -> int:
    """MACs of one forward pass per example.

    Zeros count like any other weight: a dense kernel multiplies by them. What is computed once a
    pass, whatever the batch, is shared among the examples. Attention takes its unfused path,
    because not every version counts the fused one on a processor.

    Args:
        model: any net, run in eval mode; every module's own mode is as before in the end.
        example: its input; several in a tuple, or by name in a dict. The first dimension of the
            first tensor counts the examples.

    Raises:
        MacsError: an operator that multiplies matrices went uncounted, or the batch is empty.
    """
    examples = batch_size(example)
    with evaluating(model), counting() as counter:
        _call(model, example)
    if counter.uncounted:
        names = ", ".join(sorted(counter.uncounted))
        raise MacsError(
            f"MACs of {type(model).__name__}: operators went uncounted: {names}; give a formula by "
            "torch.utils.flop_counter.register_flop_formula"
        )
    return counter.macs // examples


def _call(model: nn.Module, example: Example) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def count_nonzero_macs(model: nn.Module, example: Example) -> int:
    """MACs per example that an ideal sparse kernel would make: each layer's × its non-zero share.

    Only convolutions (transposed ones too) and linear layers; what else multiplies, products of
    activations (attention) and recurrent layers among it, is left out.

    Raises:
        MacsError: the batch is empty.
    """
    examples = batch_size(example)
    total = 0
    handles = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict, output: Tensor) -> None:
        nonlocal total
        weight: Tensor = module.weight  # type: ignore[assignment]
        # a kernel is applied once at each place of the output, or of a transposed layer's input
        places = (inputs[0] if inputs else kwargs["input"]) if _transposed(module) else output
        total += places.numel() // weight.shape[0] * int(weight.count_nonzero())

    for module in model.modules():
        if isinstance(module, (*CONV, *TRANSPOSED, nn.Linear)):
            handles.append(module.register_forward_hook(count, with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad():
            _call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return round(total / examples)


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, TRANSPOSED)
