"""Transformer blocks, declared: attention cannot be traced, so its ties are written down here.

For each supported block this file lists which rows and columns go together. A net that holds any
such block is described by these declarations alone; its other layers stay whole.

| block | units |
| --- | --- |
| ``char_gpt`` | neurons of each MLP; attention heads |
| Hugging Face MLPs with ``gate_proj``, ``up_proj``, ``down_proj`` | neurons |
| torchvision's ``MLPBlock`` (vision transformer, Swin) | neurons |
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops.misc import MLP

from survey_lib.mechanics.groups import (
    CONV,
    ChannelGraph,
    ChannelGroup,
    Layer,
    Slice,
    parameter_shapes,
    repeated_parameters,
)
from survey_lib.tasks.models import Attention, Block
from survey_lib.tasks.modes import evaluating

GATED = ("gate_proj", "up_proj", "down_proj")


def declared_groups(model: nn.Module, example: Tensor) -> ChannelGraph | None:
    """The groups of a net's declared blocks, or None for a net without any."""
    groups: list[ChannelGroup] = []
    for path, module in model.named_modules():
        dot = f"{path}." if path else ""
        if isinstance(module, Block):
            groups.append(_neurons(model, dot, ("up",), "down"))
        elif isinstance(module, Attention):
            groups.append(_heads(path, module))
        elif all(isinstance(getattr(module, name, None), nn.Linear) for name in GATED):
            counted = hasattr(module, "intermediate_size")
            counts = [(path, "intermediate_size", 1)] if counted else []
            groups.append(_neurons(model, dot, GATED[:2], GATED[2], counts))
        elif isinstance(module, MLP) and len(tuple(module.children())) == 5:
            groups.append(_neurons(model, dot, ("0",), "3"))
    if not groups:
        return None
    layers, unit_macs, other = _costs(model, example)
    return ChannelGraph(
        tuple(groups), layers, parameter_shapes(model), repeated_parameters(model),
        type(model).__name__, unit_macs, other,
    )  # fmt: skip


def _neurons(
    model: nn.Module,
    dot: str,
    makers: Sequence[str],
    reader: str,
    counts: Sequence[tuple[str, str, int]] = (),
) -> ChannelGroup:
    """Hidden neurons: rows (and biases) of the layers that make them, columns of the reader."""
    size: int = model.get_submodule(dot + reader).in_features  # type: ignore[assignment]
    each = np.arange(size)[:, None]
    slices = []
    for name in makers:
        slices.append(Slice(dot + name, "weight", 0, "out", each))
        if model.get_submodule(dot + name).bias is not None:
            slices.append(Slice(dot + name, "bias", 0, "out", each))
    slices.append(Slice(dot + reader, "weight", 1, "in", each))
    tie = f"scaled: {' multiplies '.join(makers)}" if len(makers) > 1 else "mlp: declared"
    return ChannelGroup(dot + makers[0], size, tuple(slices), (tie,), counts=tuple(counts))


def _heads(path: str, module: Attention) -> ChannelGroup:
    """Heads: a block of rows of query, key and value, the same columns of the output."""
    rows = np.arange(module.out.in_features).reshape(module.heads, -1)
    slices = [Slice(f"{path}.{n}", "weight", 0, "out", rows) for n in ("query", "key", "value")]
    slices.append(Slice(f"{path}.out", "weight", 1, "in", rows))
    tie = (f"heads: rows of query, key and value of {path}",)
    return ChannelGroup(path, module.heads, tuple(slices), tie, counts=((path, "heads", 1),))


def _costs(model: nn.Module, example: Tensor) -> tuple[tuple[Layer, ...], dict[str, int], int]:
    """Layers with their positions, MACs of the products in attention per head, all other MACs."""
    layers: dict[str, int] = {}
    unit_macs: dict[str, int] = {}
    handles = []

    def layer(path: str, channels: int):
        def note(_m: nn.Module, _x: object, y: Tensor) -> None:
            layers[path] = layers.get(path, 0) + y[0].numel() // channels

        return note

    def heads(path: str):
        def note(m: Attention, x: tuple[Tensor, ...], _y: object) -> None:
            t, d = x[0].shape[-2], m.query.out_features // m.heads
            unit_macs[path] = 2 * t * t * d  # q kᵀ and the weighted sum of v

        return note

    for path, m in model.named_modules():
        if isinstance(m, (*CONV, nn.Linear)):
            rows = m.out_features if isinstance(m, nn.Linear) else m.out_channels
            handles.append(m.register_forward_hook(layer(path, rows)))  # type: ignore[arg-type]
        elif isinstance(m, Attention):
            handles.append(m.register_forward_hook(heads(path)))
    try:
        # gradients on and the unfused path, else the counter misses attention on some versions
        with (
            evaluating(model),
            torch.enable_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            model(example[:1])
    finally:
        for handle in handles:
            handle.remove()
    inside = sum(n * model.get_submodule(p).weight.numel() for p, n in layers.items())  # type: ignore
    all_heads = sum(n * model.get_submodule(p).heads for p, n in unit_macs.items())  # type: ignore
    other = counter.get_total_flops() // 2 - int(inside) - int(all_heads)
    return tuple(Layer(p, n, 0) for p, n in layers.items()), unit_macs, other
