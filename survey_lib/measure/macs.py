"""MACs, counted where torch dispatches, so that no layer type can be forgotten.

One MAC is one multiply-accumulate of a convolution or matrix product; biases, normalisation and
activation functions are not counted. torch's counter gives FLOPs, two for each MAC.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

# Any operator whose name holds one of these multiplies and accumulates.
_MATMUL_LIKE = ("mm", "conv", "attention", "linear", "einsum", "matmul", "dot", "gru", "lstm")
_HARMLESS = ("backward", "bilinear", "common", "trilinear")


class MacsError(RuntimeError):
    """A model whose MACs cannot be counted fully; the message names the operators."""


class _Watch(TorchDispatchMode):
    """Collects operators that look like products and that the counter doesn't know."""

    def __init__(self) -> None:
        super().__init__()
        self.uncounted: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        name = func._overloadpacket._qualified_op_name.split("::")[-1].strip("_")
        product = any(word in name for word in _MATMUL_LIKE)
        harmless = any(word in name for word in _HARMLESS)
        if product and not harmless and func._overloadpacket not in flop_registry:
            self.uncounted.add(name)
        return func(*args, **(kwargs or {}))


def count_macs(model: nn.Module, example: Tensor) -> int:
    """MACs of one forward pass per example.

    Zeros count like any other weight: a dense kernel multiplies by them. Gradients stay on,
    because torch's fused inference paths hide their products from the counter, and attention
    takes its unfused path, because not every version counts the fused one on a CPU.

    Raises:
        MacsError: an operator that multiplies matrices went uncounted.
    """
    was_training = model.training
    model.eval()
    try:
        with (
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
            _Watch() as watch,
        ):
            model(example)
    finally:
        model.train(was_training)
    if watch.uncounted:
        names = ", ".join(sorted(watch.uncounted))
        raise MacsError(f"MACs of {type(model).__name__}: operators went uncounted: {names}")
    return counter.get_total_flops() // 2 // len(example)


def count_nonzero_macs(model: nn.Module, example: Tensor) -> int:
    """MACs that an ideal sparse kernel would make: each layer's MACs × its share of non-zeros.

    Only convolutions and linear layers; products of activations (attention) are left out.
    """
    total = 0.0
    handles = []

    def count(module: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        weight: Tensor = module.weight  # type: ignore[assignment]
        positions = output[0].numel() / weight.shape[0]
        total += positions * int(weight.count_nonzero())

    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            handles.append(module.register_forward_hook(count))
    was_training = model.training
    try:
        model.eval()
        with torch.no_grad():
            model(example)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    return round(total)
