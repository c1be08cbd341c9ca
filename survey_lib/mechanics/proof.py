"""The engine checks itself: a smaller net against the dense net whose readers see zeros.

Readers are found where torch computes with their weight, whatever module called it.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from survey_lib.mechanics.gates import Act, Positions, at_readers
from survey_lib.mechanics.groups import ChannelGraph, GraphError
from survey_lib.tasks.modes import evaluating

LARGEST = 2 << 30  # bytes of parameters in float64 up to which the check is made in float64
Smaller = Callable[[nn.Module], nn.Module]


def check_removal(
    model: nn.Module, graph: ChannelGraph, removed: Mapping[str, np.ndarray], smaller: Smaller
) -> None:
    """Compare, on the graph's example, the smaller net with the dense net whose readers see zeros.

    In float64, except where that would take more than 2 GiB; nothing is changed.

    Args:
        model: the dense net.
        graph: its groups.
        removed: removed units by group.
        smaller: makes the smaller net of a copy of the dense one.

    Raises:
        GraphError: another output, another shape, or an exception; names the groups.
    """
    why = _difference(model, graph, removed, smaller)
    if why is None:
        return
    named = ", ".join(list(removed)[:6]) + (", …" if len(removed) > 6 else "")
    raise GraphError(
        f"{graph.model}: removing units of {named} is not exact ({why}); nothing was changed: "
        "keep these groups whole, or give trace_groups a rule for the layers between them"
    )


def _difference(
    model: nn.Module, graph: ChannelGraph, removed: Mapping[str, np.ndarray], smaller: Smaller
) -> str | None:
    count = sum(p.numel() for p in model.parameters())
    double = 8 * count <= LARGEST
    twin = copied(model)
    twin = twin.double() if double else twin

    def cast(t: Any) -> Any:
        floating = double and isinstance(t, Tensor) and t.is_floating_point()
        return t.double() if floating else t.clone() if isinstance(t, Tensor) else t

    def outputs(net: nn.Module) -> list[Tensor]:
        args, kwargs = tree_map(cast, graph.inputs)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return list(tensors_of(net(*args, **kwargs)))

    with torch.no_grad(), evaluating(twin):
        try:
            dense = outputs(twin)
        except RuntimeError:
            if not double:
                raise
            double, twin = False, copied(model).eval()  # its forward names a type of its own
            dense = outputs(twin)
        with at_readers(twin, graph, _silence(removed), carriers=False):
            zeroed = outputs(twin)
        try:
            small = outputs(smaller(twin).eval())
        except Exception as error:
            return f"the smaller net fails: {(str(error).splitlines() or [''])[0]}"
    if [t.shape for t in small] != [t.shape for t in zeroed]:
        return "its output has another shape"
    for got, want, was in zip(small, zeroed, dense, strict=True):
        if not want.is_floating_point() or not want.numel():
            continue
        scale = float(want.abs().nan_to_num().max())
        moved = float((want - was).abs().nan_to_num().max())
        off = float((got - want).abs().nan_to_num().max())
        bound = 1e-8 * scale + 1e-4 * moved if double else 1e-4 * scale + 1e-2 * moved
        if off > bound or not torch.equal(got.isnan(), want.isnan()):
            return f"its output is off by {off:.2g} of {scale:.2g}"
    return None


def _silence(removed: Mapping[str, np.ndarray]) -> Act:
    """What sets removed units to zero where a layer reads them."""

    def act(_path: str, x: Tensor, axis: int, positions: Positions) -> Tensor | None:
        gone = [positions[name][units].flatten() for name, units in removed.items()
                if name in positions]  # fmt: skip
        return x.index_fill(axis, torch.cat(gone).to(x.device), 0.0) if gone else None

    return act


def copied(model: nn.Module, memo: dict | None = None) -> nn.Module:
    """A copy of a net; a net that holds activations is refused in one sentence."""
    try:
        return copy.deepcopy(model, memo or {})
    except RuntimeError as error:
        for path, module in model.named_modules():
            for key, value in (*module.__dict__.items(), *module._buffers.items()):
                if isinstance(value, Tensor) and not value.is_leaf:
                    raise GraphError(
                        f"{path or type(model).__name__} keeps a computed tensor in {key}, so it "
                        "cannot be copied; set it to None first"
                    ) from None
        why = str(error).splitlines()[0]
        raise GraphError(f"{type(model).__name__} cannot be copied: {why}") from None


def forget(model: nn.Module) -> None:
    """What modules computed from their weights and keep, they drop, as when moved or converted.

    A module that keeps such a thing (timm: biases of attention) says so by an ``_apply`` of its
    own, without which it would be wrong after ``.to()`` as well.
    """
    for module in model.modules():
        kind = type(module)
        if kind._apply is not nn.Module._apply and not kind.__module__.startswith("torch."):
            module._apply(lambda t: t)


def tensors_of(value: Any, depth: int = 0) -> Iterator[Tensor]:
    """Every tensor in whatever a net returns."""
    if isinstance(value, Tensor):
        yield value
    elif depth < 8:
        if isinstance(value, Mapping):
            parts = list(value.values())
        elif isinstance(value, (list, tuple, set, frozenset)):
            parts = list(value)
        else:
            parts = list(getattr(value, "__dict__", {}).values())
        for part in parts:
            yield from tensors_of(part, depth + 1)
