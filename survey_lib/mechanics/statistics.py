r"""Statistics of channels from one pass over data: activations, gate gradients, Fisher.

Everything is measured at the inputs of layers (see :mod:`survey_lib.mechanics.gates`): activations
where channels are read, gradients at every copy of their mask, which a grouped or depthwise
convolution that carries them holds too. Curvature of single weights is in
:mod:`survey_lib.mechanics.curvature`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from survey_lib.mechanics.gates import GateGradients, Positions, at_readers
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.tasks.modes import evaluating

Batches = Iterable[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Activations:
    """What a group's channels carry, over all examples and positions, averaged over readers."""

    mean: Tensor
    """(units,)"""
    mean_abs: Tensor
    """(units,)"""
    apoz: Tensor
    """(units,) average percentage of zeros (Hu et al. 2016), as a share in [0, 1]."""
    map: Tensor
    """(units, positions) mean over examples at each position, as the first reader sees it."""

    def attention(self, p: float = 1.0) -> Tensor:
        r"""(units,) mean over positions of (mean over examples)\ :sup:`p` (Zhao et al. 2023)."""
        return self.map.pow(p).mean(1)


@torch.no_grad()
def activations(
    model: nn.Module, graph: ChannelGraph, inputs: Iterable[Tensor]
) -> dict[str, Activations]:
    """Activation statistics by group, in eval mode, from one forward pass over ``inputs``.

    What is measured is the map that layers read; inside a unit that a grouped or depthwise
    convolution carries, its own input is another map and does not count.

    Raises:
        ValueError: no inputs.
    """
    sums: dict[str, dict[str, Tensor]] = {}  # reader → statistic → sums over examples
    count: dict[str, int] = {}  # reader → examples it has seen, once for each call
    on_input: dict[str, Positions] = {}

    def watch(path: str, x: Tensor, axis: int, at: Positions) -> None:
        # (N, C, positions) with all other axes as positions
        x = x.movedim(axis, 1)
        x = x.reshape(*x.shape[:2], -1).double()
        new = {"map": x.sum(0), "abs": x.abs().sum(0), "zeros": (x == 0).double().sum(0)}
        old = sums.setdefault(path, {})
        count[path] = count.get(path, 0) + len(x)
        on_input[path] = at
        for key, value in new.items():
            old[key] = old[key] + value if key in old else value

    with at_readers(model, graph, watch, carriers=False) as paths, evaluating(model):
        for x in inputs:
            model(x)
    if not count:
        raise ValueError("activations: no inputs were given")
    parts: dict[str, list[dict[str, Tensor]]] = {}
    for path in paths:
        for name, at in on_input[path].items():
            # each unit's positions on the axis join its positions in space
            rows = {
                k: v.index_select(0, at.flatten().to(v.device)).reshape(len(at), -1) / count[path]
                for k, v in sums[path].items()
            }
            parts.setdefault(name, []).append(rows)

    def mean(rows: list[dict[str, Tensor]], key: str) -> Tensor:
        return torch.stack([r[key].mean(1) for r in rows]).mean(0)

    return {
        name: Activations(mean(r, "map"), mean(r, "abs"), mean(r, "zeros"), r[0]["map"])
        for name, r in parts.items()
    }


def gate_gradients(
    model: nn.Module, graph: ChannelGraph, loss: Loss, x: Tensor, y: Tensor
) -> GateGradients:
    """One forward and backward pass in eval mode; the examples' own gradients of ``loss``.

    The masks it holds are those of Liu et al. 2021: on the input of each layer that reads a unit,
    and of each grouped or depthwise convolution that carries it. Their gradients come apart by
    layer (``.single()``) or summed (``.coupled()``).

    Args:
        model: its parameters' ``.grad`` is left as it was.
        graph: its groups.
        loss: mean over the batch, as :meth:`survey_lib.tasks.task.Task.loss`.
        x: inputs (N, …).
        y: targets (N, …).
    """
    with evaluating(model), torch.enable_grad(), GateGradients(model, graph, keep=True) as gates:
        value = loss(model(x), y)
        if gates.inputs:  # a layer that the loss does not reach is named when it is asked for
            torch.autograd.grad(value, gates.inputs, allow_unused=True)
    gates.inputs.clear()
    for path in gates.seen:
        gates.seen[path] = gates.seen[path] * len(x)  # a mean over N divides by N
    return gates


def fisher(
    model: nn.Module, graph: ChannelGraph, loss: Loss, batches: Batches, *, coupled: bool = True
) -> dict[str, Tensor]:
    r"""Fisher scores of all units: :math:`\Delta_u = \frac{1}{2N} \sum_n g_{nu}^2`.

    Coupled: the gradients of all copies of a mask, those of readers and of the grouped convolution
    that carries the unit, are summed before squaring (Liu et al. 2021, equation 4). Single: each
    copy's score on its own, then summed (Theis et al. 2018, applied to each feature map). For
    groups with one copy both are the same.

    Returns:
        (units,) by group, float64.

    Raises:
        ValueError: no batches.
    """
    total: dict[str, Tensor] = {}
    n = 0
    for x, y in batches:
        gates = gate_gradients(model, graph, loss, x, y)
        if coupled:
            new = {k: g.double().square().sum(0) for k, g in gates.coupled().items()}
        else:
            new = {
                k: torch.stack([g.double().square().sum(0) for g in parts.values()]).sum(0)
                for k, parts in gates.single().items()
            }
        total = {k: total[k] + v if k in total else v for k, v in new.items()}
        n += len(x)
    if not n:
        raise ValueError("fisher: no batches were given")
    return {k: v / (2 * n) for k, v in total.items()}


def taylor(
    model: nn.Module, graph: ChannelGraph, loss: Loss, batches: Batches
) -> dict[str, Tensor]:
    r"""First-order scores :math:`\frac1N \sum_n |g_{nu}|` (Molchanov et al. 2017).

    Their gates stand on every feature map, so a unit's gradient is summed over all maps that go
    with it: those that layers read, and the input of a grouped convolution that carries it.

    Raises:
        ValueError: no batches.
    """
    total: dict[str, Tensor] = {}
    n = 0
    for x, y in batches:
        for k, g in gate_gradients(model, graph, loss, x, y).coupled().items():
            total[k] = total.get(k, 0) + g.double().abs().sum(0)
        n += len(x)
    if not n:
        raise ValueError("taylor: no batches were given")
    return {k: v / n for k, v in total.items()}
