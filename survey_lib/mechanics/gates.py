r"""Gates m on channels, at the input of every layer that holds a mask of them.

A gate multiplies a unit's channels where they are consumed, :math:`\tilde a = m\,a`. At
:math:`m = 0` the net computes what it computes without the unit, whatever norms lie between; that
would not hold for gates where channels are made. The gradient of one example's loss with respect
to a gate is the product of activation and gradient, summed over positions and over every layer
that holds a copy of the mask:

.. math:: g_{nu} = \frac{\partial L_n}{\partial m_u}
          = \sum_{\text{layers}} \sum_{\text{positions}} a_n \odot \nabla_{a_n} L_n .

All of them come from one ordinary forward and backward pass.

**Which layers.** As in Liu et al. 2021 (``liu2021group``), every convolution and linear layer has a
mask on its input. A unit's copies are those of the layers that *read* it, and those of the grouped
and depthwise convolutions that *carry* it, whose inputs go with their outputs ("the GConv layer
itself and layers in the same group including its children").

Layers are found by the weight they are called with, so ``F.conv2d(x, self.conv.weight)`` is the
same as ``self.conv(x)``, and a layer of one's own the same as torch's.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import (
    TorchFunctionMode,
    _get_current_function_mode_stack,
    _pop_mode,
    _push_mode,
)

from survey_lib.mechanics.groups import ChannelGraph, Slice

Positions = Mapping[str, Tensor]
"""Group → (units, k) positions of its units on the channel axis of a layer's input."""
Act = Callable[[str, Tensor, int, Positions], Tensor | None]

CONVOLUTION = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}  # → axes of space
TRANSPOSED = {torch.conv_transpose1d: 1, torch.conv_transpose2d: 2, torch.conv_transpose3d: 3}
SPACE = {**CONVOLUTION, **TRANSPOSED, F.linear: 0}


def readers(
    graph: ChannelGraph, *, carriers: bool = True
) -> dict[tuple[str, str], dict[str, Slice]]:
    """(module, tensor) of each weight whose layer holds masks on its input → group → its place.

    Args:
        graph: only groups whose units can go hold masks.
        carriers: grouped and depthwise convolutions too, which take the units through.
    """
    layers = {layer.module for layer in graph.layers}
    found: dict[tuple[str, str], dict[str, Slice]] = {}
    for group in graph.prunable:
        for s in group.slices:
            carried = s.role == "through" and s.tensor == "weight" and s.module in layers
            if s.role == "in" or (carriers and carried):
                found.setdefault((s.module, s.tensor), {})[group.name] = s
    return found


@contextmanager
def at_readers(
    model: nn.Module, graph: ChannelGraph, act: Act, *, carriers: bool = True
) -> Iterator[tuple[str, ...]]:
    """Within the context ``act`` sees, and may replace, what each layer reads.

    Args:
        model: the net that is called, as a whole: what is called beside it is not seen.
        graph: its groups.
        act: called at each call of a layer with its path, its input, the axis of the input's
            channels and the units on it, before the layer computes; gives the input that the layer
            shall read, or None for the same. Of contexts within each other the outer acts first.
        carriers: as for :func:`readers`.

    Yields:
        The paths of the layers: module, and ``module.tensor`` where the weight has another name.
        Layers that share one weight are one layer, the first.
    """
    mode = _Reading(model, graph, act, carriers)

    # Pushed while the net's forward runs and no longer: what else is computed within a context,
    # which may be that of a generator at rest, neither sees nor pays for it.
    def enter(*_: object) -> None:
        mode.__enter__()

    def leave(*_: object) -> None:
        mode.__exit__(None, None, None)

    before = model.register_forward_pre_hook(enter, prepend=True)
    after = model.register_forward_hook(leave, always_call=True)
    try:
        yield tuple(path for path, *_ in mode.layers.values())
    finally:
        before.remove()
        after.remove()
        _withdraw(mode)


class _Reading(TorchFunctionMode):
    """While the net runs, every convolution and linear layer is looked up by its weight."""

    def __init__(self, model: nn.Module, graph: ChannelGraph, act: Act, carriers: bool):
        super().__init__()
        self.act = act
        # id → (path, the weight, group → its place on it); holding the weight keeps the id its own
        self.layers: dict[int, tuple[str, Tensor, dict[str, Slice]]] = {}
        for (module, tensor), places in readers(graph, carriers=carriers).items():
            weight: Tensor = getattr(model.get_submodule(module), tensor)
            path = module if tensor == "weight" else f"{module}.{tensor}".lstrip(".")
            self.layers.setdefault(id(weight), (path, weight, places))
        self.on_input: dict[tuple[int, int], dict[str, Tensor]] = {}

    def __torch_function__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        kwargs = kwargs or {}
        if func in SPACE:
            weight: Tensor = args[1] if len(args) > 1 else kwargs["weight"]
            if id(weight) in self.layers:
                path, _, places = self.layers[id(weight)]
                x: Tensor = args[0] if args else kwargs["input"]
                axis = x.ndim - 1 - SPACE[func]
                key = id(weight), x.shape[axis]
                if key not in self.on_input:
                    shape, transposed = tuple(weight.shape), func in TRANSPOSED
                    self.on_input[key] = {
                        name: torch.from_numpy(input_positions(s, shape, key[1], transposed))
                        for name, s in places.items()
                    }
                new = self.act(path, x, axis, self.on_input[key])
                if new is not None and args:
                    args = (new, *args[1:])
                elif new is not None:
                    kwargs = {**kwargs, "input": new}
        return func(*args, **kwargs)


def _withdraw(mode: TorchFunctionMode) -> None:
    """Take a mode off the stack: an interrupted forward pass may have left it there."""
    stack = _get_current_function_mode_stack()
    if mode in stack:
        above = stack[stack.index(mode) :]
        for _ in above:
            _pop_mode()
        for other in above:
            if other is not mode:
                _push_mode(other)


def input_positions(
    s: Slice, weight: tuple[int, ...], channels: int, transposed: bool = False
) -> np.ndarray:
    """Where a slice's units lie on the channel axis of the input of its layer: (units, k).

    Args:
        s: units on the weight: on the axis that reads, or on that of the outputs of a grouped
            convolution, whose inputs then go with them.
        weight: its shape.
        channels: length of the input's channel axis.
        transposed: whether the layer is a transposed convolution, which reads axis 0.
    """
    if transposed:
        return s.positions
    groups, each = channels // weight[1], weight[1]  # groups, and inputs of each
    if s.axis == 1:
        return np.concatenate([s.positions + g * each for g in range(groups)], axis=1)
    # all outputs of a group are one unit's: one of them says which group it is
    rows = weight[0] // groups
    group = s.positions[:, ::rows] // rows  # (units, groups of each)
    return (group[:, :, None] * each + np.arange(each)).reshape(len(group), -1)


@contextmanager
def gated(
    model: nn.Module, graph: ChannelGraph, gates: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Within the context the net computes with ``gates``: (units,), or (N, units) per example.

    A gate stands at the input of each layer that reads its unit, and of each grouped or depthwise
    convolution that carries it. The tensors are looked up at every forward pass, so they may be
    changed in place, or replaced in the mapping that is given back.
    """
    live = dict(gates)

    def multiply(path: str, x: Tensor, axis: int, at: Positions) -> Tensor:
        rows = next((g.shape[0] for n in at if (g := live.get(n)) is not None and g.ndim == 2), 1)
        m = torch.ones(rows, x.shape[axis], dtype=x.dtype, device=x.device)
        for name, positions in at.items():
            if name in live:
                gate = live[name].to(x.dtype).reshape(-1, positions.shape[0], 1)
                m = m.index_copy(
                    1,
                    positions.flatten().to(x.device),
                    gate.expand(rows, *positions.shape).flatten(1),
                )
        shape = [rows] + [1] * (x.ndim - 1)
        shape[axis] = x.shape[axis]
        return x * m.view(shape)

    with at_readers(model, graph, multiply):
        yield live


class GateGradients:
    """Watches one or more backward passes and keeps each example's gate gradients.

    Use as a context around forward and backward. The gradients are those of the loss that is
    differentiated: for a mean over N examples multiply by N to have the examples' own.

    The masks that are held: one on the input of every layer that reads a unit, and one on that of
    every grouped or depthwise convolution that carries it, as :func:`gated` has them.

    Args:
        model: the net, called as a whole.
        graph: its groups.
        keep: keep the layers' inputs until :meth:`clear`, so that the loss can be differentiated
            with respect to ``inputs`` alone, which spares the weights' gradients.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph, *, keep: bool = False):
        self.model = model
        self.graph = graph
        self.keep = keep
        self.seen: dict[str, Tensor] = {}  # layer → (N, channels of its input)
        self.inputs: list[Tensor] = []
        self.at: dict[str, Positions] = {}  # layer → where units lie on its input
        self.paths: tuple[str, ...] = ()

    def __enter__(self) -> "GateGradients":
        self._context = at_readers(self.model, self.graph, self._watch)
        self.paths = self._context.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(None, None, None)

    def clear(self) -> None:
        """Forget what was seen; passes add up otherwise."""
        self.seen.clear()
        self.inputs.clear()

    def _watch(self, path: str, x: Tensor, axis: int, at: Positions) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        self.at[path] = at
        if not x.requires_grad:  # all before it is frozen: the graph of gradients starts here
            x = x.detach().requires_grad_()
        # several layers may read one tensor: each gets its own alias, hence its own gradient
        alias = x.view_as(x)
        values, last = x.detach(), axis == x.ndim - 1

        def after(grad: Tensor) -> None:
            g = per_channel(values, grad, last)  # (N, C)
            self.seen[path] = self.seen[path] + g if path in self.seen else g

        alias.register_hook(after)
        if self.keep:
            self.inputs.append(alias)
        return alias

    def coupled(self) -> dict[str, Tensor]:
        """(N, units) by group: summed over all copies of the mask, as the chain rule has it."""
        total: dict[str, Tensor] = {}
        for name, parts in self.single().items():
            total[name] = torch.stack(list(parts.values())).sum(0)
        return total

    def single(self) -> dict[str, dict[str, Tensor]]:
        """(N, units) by group and layer: the copies of each mask.

        Layers that share one weight, and calls of one layer, are one copy.
        """
        found: dict[str, dict[str, Tensor]] = {g.name: {} for g in self.graph.prunable}
        for path in self.paths:
            if path not in self.seen:
                raise RuntimeError(f"gate gradients: no backward pass went through {path}")
            g = self.seen[path]
            for name, at in self.at[path].items():
                part = g.index_select(1, at.flatten().to(g.device)).unflatten(1, at.shape).sum(2)
                found[name][path] = part
        return found


def per_channel(a: Tensor, grad: Tensor, linear: bool) -> Tensor:
    """A ⊙ ∇ₐL summed over everything but examples and channels: (N, C)."""
    product = a * grad
    if product.ndim == 2:
        return product
    return product.flatten(1, -2).sum(1) if linear else product.flatten(2).sum(2)
