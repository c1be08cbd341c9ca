r"""Two ways to be redundant: insensitive, or like another neuron (``santacroce2023what``).

A neuron j of a feed-forward net is row j of :math:`W_{fc}` (with its bias, and with a row of the
gate where there is one) and column j of :math:`W_{proj}`.

- *Sensitivity*: :math:`\frac1B\sum_b \big|\sum_{w \in j} w\,\partial L_b / \partial w\big|`, the
  absolute value of a batch's sum over all of the neuron's weights.
- *Similarity*: :math:`\mathrm{sim}_{ij} = \sum_x h_i h_j / (\|h_i\| \|h_j\|)` of what two neurons
  put out over all tokens x, not centred.
- *Uniqueness*: one minus the share of redundant neurons; i is redundant when a later j of the same
  layer has :math:`\mathrm{sim}_{ij} \ge 0.8`. Of a set of copies one so counts as unique, and a
  negated copy is none.
- *Redundancy* of a neuron among the kept ones, of which the penalty of GUM is made:
  :math:`U_j = \frac1{n v}\sum_{i \ne j} |\mathrm{sim}_{ij}|`; here a negated copy counts.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from survey_lib.mechanics.gates import Positions, at_readers
from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup
from survey_lib.mechanics.statistics import Batches, Loss
from survey_lib.tasks.modes import evaluating

ALIKE = 0.8
"""Similarity from which two neurons count as the same: the code's."""


def neurons(graph: ChannelGraph) -> tuple[ChannelGroup, ...]:
    """The groups that hold neurons: all that can go but attention heads."""
    return tuple(g for g in graph.prunable if "heads" not in g.kinds)


# ---- sensitivity


def inner_products(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Σ_{w ∈ j} w ∂L/∂w of each neuron (units,), float64, from the gradients that are there."""
    total = torch.zeros(group.size, dtype=torch.float64)
    for s in group.slices:
        w = getattr(model.get_submodule(s.module), s.tensor)
        if w.grad is None:
            continue
        rows = (w.detach() * w.grad).movedim(s.axis, 0).flatten(1).double().sum(1)  # (axis,)
        at = torch.from_numpy(s.positions).to(w.device)  # (units, k)
        total = total.to(w.device) + rows[at].sum(1)
    return total


def sensitivity(
    model: nn.Module, graph: ChannelGraph, loss: Loss, batches: Batches
) -> dict[str, Tensor]:
    """Sensitivity of each neuron by group, (units,) float64, in nats; in eval mode.

    Args:
        model: its gradients and flags are left as they were.
        graph: its groups.
        loss: mean over a batch, of the net's output and targets.
        batches: (x, y) pairs; each gives one absolute value.

    Raises:
        ValueError: no batches.
    """
    groups = neurons(graph)
    total: dict[str, Tensor] = {}
    number = 0
    with evaluating(model), _own_gradients(model, groups), torch.enable_grad():
        for x, y in batches:
            for p in model.parameters():
                p.grad = None
            loss(model(x), y).backward()
            for g in groups:
                total[g.name] = total.get(g.name, 0) + inner_products(model, g).abs()
            number += 1
    if not number:
        raise ValueError("sensitivity: no batches were given")
    return {name: value / number for name, value in total.items()}


@contextmanager
def _own_gradients(model: nn.Module, groups: Sequence[ChannelGroup]) -> Iterator[None]:
    """The neurons' weights alone have gradients meanwhile; afterwards all is as before."""
    before = [(p, p.grad, p.requires_grad) for p in model.parameters()]
    wanted = {
        id(getattr(model.get_submodule(s.module), s.tensor)) for g in groups for s in g.slices
    }
    try:
        for p, _, _ in before:
            p.requires_grad_(id(p) in wanted)
        yield
    finally:
        for p, grad, flag in before:
            p.grad = grad
            p.requires_grad_(flag)


# ---- similarity


class Moments:
    """Second moments Σ_x h hᵀ (n, n) of what each group's neurons put out, before any gate.

    Args:
        model: the net, called as a whole within :meth:`watching`.
        graph: its groups.
        memory: ρ of the running mean C ← ρ C + (1 - ρ) h hᵀ / tokens; None adds up.
        tokens: of each batch that are looked at, at most; 0: all.
    """

    def __init__(
        self, model: nn.Module, graph: ChannelGraph, memory: float | None = None, tokens: int = 0
    ):
        self.model, self.graph, self.memory, self.tokens = model, graph, memory, tokens
        self.of: dict[str, Tensor] = {}
        wanted = {g.name: g.consumers[0].module for g in neurons(graph)}
        self._reads = {(path, name) for name, path in wanted.items()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Passes made within are counted; a context of gates must lie inside this one."""
        with at_readers(self.model, self.graph, self._see, carriers=False):
            yield

    @torch.no_grad()
    def _see(self, path: str, x: Tensor, axis: int, at: Positions) -> None:
        for name, positions in at.items():
            if (path, name) not in self._reads:
                continue
            h = x.detach().movedim(axis, -1).flatten(0, -2)  # (tokens, channels)
            h = h[: self.tokens or None][:, positions.flatten().to(x.device)]
            h = h.unflatten(1, positions.shape).movedim(2, 1).flatten(0, 1)  # (tokens · k, n)
            new = h.T @ h
            if self.memory is None:
                self.of[name] = self.of.get(name, 0) + new.double()
            elif name in self.of:
                self.of[name].lerp_(new / len(h), 1 - self.memory)
            else:
                self.of[name] = new / len(h)


def second_moments(
    model: nn.Module, graph: ChannelGraph, inputs: Iterable[Tensor]
) -> dict[str, Tensor]:
    """Σ_x h hᵀ by group, float64, over all tokens of ``inputs``, in eval mode."""
    moments = Moments(model, graph)
    with moments.watching(), evaluating(model), torch.no_grad():
        for x in inputs:
            model(x)
    return moments.of


def similarity(C: Tensor) -> Tensor:
    """sim_ij (n, n) of second moments C (n, n); 0 for a neuron that is silent."""
    norm = C.diagonal().clamp_min(0).sqrt()
    one = torch.where(norm > 0, 1 / norm.clamp_min(torch.finfo(C.dtype).tiny), 0.0)
    return C * one[:, None] * one[None, :]


def redundancy(sim: Tensor, kept: Tensor, v: float) -> Tensor:
    """U_j = Σ_{i ≠ j, i kept} |sim_ij| / (n v) of all n neurons, kept or not: (n,).

    Args:
        sim: (n, n).
        kept: (n,) bool.
        v: share of neurons that is to be kept now.
    """
    others = sim.abs() * kept.to(sim.dtype)[None, :]
    return (others.sum(1) - others.diagonal()) / (len(sim) * v)


def redundant(sim: Tensor, alike: float = ALIKE) -> Tensor:
    """(n,) bool: whether a later neuron is at least so similar."""
    return (sim.triu(1) >= alike).any(1)


def uniqueness(sims: Mapping[str, Tensor] | Sequence[Tensor], alike: float = ALIKE) -> float:
    """One minus the share of redundant neurons, all layers together."""
    found = list(sims.values()) if isinstance(sims, Mapping) else list(sims)
    return 1 - sum(int(redundant(s, alike).sum()) for s in found) / sum(len(s) for s in found)


def likeness(sims: Mapping[str, Tensor] | Sequence[Tensor]) -> float:
    """Mean |sim_ij| over the pairs of each layer, then over layers with two neurons or more."""
    found = list(sims.values()) if isinstance(sims, Mapping) else list(sims)
    parts = [
        (s.abs().sum() - s.diagonal().abs().sum()) / (len(s) * (len(s) - 1))
        for s in found
        if len(s) > 1
    ]
    return float(sum(parts) / len(parts)) if parts else 0.0
