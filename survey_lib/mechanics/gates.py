r"""Gates m on channels, at the input of every layer that reads them.

A gate multiplies a unit's channels where they are consumed, :math:`\tilde a = m\,a`. At
:math:`m = 0` the net computes what it computes without the unit, whatever norms lie between; that
would not hold for gates where channels are made. The gradient of one example's loss with respect
to a gate is the product of activation and gradient, summed over positions and over every reader:

.. math:: g_{nu} = \frac{\partial L_n}{\partial m_u}
          = \sum_{\text{readers}} \sum_{\text{positions}} a_n \odot \nabla_{a_n} L_n .

All of them come from one ordinary forward and backward pass.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from survey_lib.mechanics.groups import ChannelGraph

Readers = dict[str, list[tuple[str, Tensor]]]


def readers(graph: ChannelGraph) -> Readers:
    """Module path → [(group, positions (units, k) on its input's channel axis)]."""
    found: Readers = {}
    for group in graph.prunable:
        for s in group.consumers:
            found.setdefault(s.module, []).append((group.name, torch.from_numpy(s.positions)))
    return found


def channel_axis(module: nn.Module, x: Tensor) -> int:
    """Axis of a reader's input that holds its channels: the last for linear layers, else 1."""
    return x.ndim - 1 if isinstance(module, nn.Linear) else 1


@contextmanager
def gated(
    model: nn.Module, graph: ChannelGraph, gates: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Within the context the net computes with ``gates``: (units,), or (N, units) per example.

    The tensors are looked up at every forward pass, so they may be changed in place, or replaced
    in the mapping that is given back.
    """
    live = dict(gates)
    handles = []

    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = args[0]
        axis = channel_axis(module, x)
        rows = next((g.shape[0] for n, _ in of[module] if (g := live.get(n)) is not None
                     and g.ndim == 2), 1)  # fmt: skip
        m = torch.ones(rows, x.shape[axis], dtype=x.dtype, device=x.device)
        for name, at in of[module]:
            if name in live:
                gate = live[name].to(x.dtype).reshape(-1, at.shape[0], 1)
                m = m.index_copy(
                    1, at.flatten().to(x.device), gate.expand(rows, *at.shape).flatten(1)
                )
        shape = [rows] + [1] * (x.ndim - 1)
        shape[axis] = x.shape[axis]
        return (x * m.view(shape), *args[1:])

    of = {model.get_submodule(path): found for path, found in readers(graph).items()}
    try:
        for module in of:
            handles.append(module.register_forward_pre_hook(hook))
        yield live
    finally:
        for handle in handles:
            handle.remove()


class GateGradients:
    """Watches one or more backward passes and keeps each example's gate gradients.

    Use as a context around forward and backward. The gradients are those of the loss that is
    differentiated: for a mean over N examples multiply by N to have the examples' own.
    """

    def __init__(self, model: nn.Module, graph: ChannelGraph):
        self.model = model
        self.graph = graph
        self.seen: dict[str, Tensor] = {}  # reader → (N, channels of its input)
        self.roots: list[Tensor] = []  # readers' inputs behind which all weights are frozen
        self._handles: list = []

    def __enter__(self) -> "GateGradients":
        for path in readers(self.graph):
            module = self.model.get_submodule(path)
            self._handles.append(module.register_forward_pre_hook(self._watch(path)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def clear(self) -> None:
        """Forget what was seen; passes add up otherwise."""
        self.seen.clear()
        self.roots.clear()

    def _watch(self, path: str) -> Callable:
        def before(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            x = args[0]
            if not torch.is_grad_enabled():
                return None
            if not x.requires_grad:  # all before it is frozen: the graph of gradients starts here
                x = x.detach().requires_grad_()
                self.roots.append(x)
            # several layers may read one tensor: each gets its own alias, hence its own gradient
            alias = x.view_as(x)
            values, linear = x.detach(), isinstance(module, nn.Linear)

            def after(grad: Tensor) -> None:
                g = per_channel(values, grad, linear)  # (N, C)
                self.seen[path] = self.seen[path] + g if path in self.seen else g

            alias.register_hook(after)
            return (alias, *args[1:])

        return before

    def coupled(self) -> dict[str, Tensor]:
        """(N, units) by group: summed over all readers, as the chain rule has it."""
        total: dict[str, Tensor] = {}
        for name, parts in self.single().items():
            total[name] = torch.stack(list(parts.values())).sum(0)
        return total

    def single(self) -> dict[str, dict[str, Tensor]]:
        """(N, units) by group and reader."""
        found: dict[str, dict[str, Tensor]] = {g.name: {} for g in self.graph.prunable}
        for path, groups in readers(self.graph).items():
            if path not in self.seen:
                raise RuntimeError(f"gate gradients: no backward pass went through {path}")
            for name, at in groups:
                g = self.seen[path]
                part = g.index_select(1, at.flatten().to(g.device)).unflatten(1, at.shape).sum(2)
                found[name][path] = part
        return found


def per_channel(a: Tensor, grad: Tensor, linear: bool) -> Tensor:
    """A ⊙ ∇ₐL summed over everything but examples and channels: (N, C)."""
    product = a * grad
    if product.ndim == 2:
        return product
    return product.flatten(1, -2).sum(1) if linear else product.flatten(2).sum(2)
