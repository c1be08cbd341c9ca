r"""Shapes that pruning finds by itself, shapes that are designed from them, and lottery tickets.

- *Network slimming* (Liu et al. 2017, key ``liu2017slimming``): the net is trained with
  :math:`L + \lambda \sum |\gamma|` over the scales of batch norm; channels with the smallest
  :math:`|\gamma|` go, ranked over all layers.
- *Sparse structure selection* (Huang & Wang 2018, key ``huang2018data``), for residual nets: each
  branch is multiplied by a scale :math:`\lambda_i`, kept sparse by a proximal step; branches with
  the smallest :math:`|\lambda_i|` go, and their shortcuts stay. The paper takes an accelerated
  proximal step; here it follows the ordinary momentum step.
- *Regression* (He et al. 2017, key ``he2017channel``): layer by layer, keep the channels that
  explain the next layer's output best, each with a factor of its own. The paper finds them by
  LASSO and refits all weights; here they are added greedily (ThiNet's ``forward``).
- *Guided design*: the shares that pruned nets keep, averaged over the layers of a stage and over
  the nets, become a new shape. *Uniform* is the same share everywhere.

Both thresholds are set by a budget of MACs or parameters, where the papers set a percentage of
channels, or none.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.filters import bn_scale
from survey_lib.mechanics.groups import BATCH_NORM, ChannelGraph
from survey_lib.mechanics.selection import select
from survey_lib.mechanics.surgery import Recipe
from survey_lib.tasks.models import BasicBlock
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History, training

# ---- network slimming


def gammas(model: nn.Module) -> list[Tensor]:
    """The scales γ of all batch norms."""
    return [m.weight for m in model.modules() if isinstance(m, BATCH_NORM) and m.affine]


def slimming_training(
    model: nn.Module, task: Task, recipe: Training, lam: float, *, generator: torch.Generator
) -> History:
    """Train ``model`` in place on L + λ Σ |γ|, by its subgradient."""
    history, scales = History(), gammas(model)
    for step in training(model, task, recipe, generator=generator):
        for gamma in scales:
            if gamma.grad is not None:
                gamma.grad += lam * gamma.detach().sign()  # ∂L/∂γ + λ sign γ
        step.move()
        history.loss.append(step.loss)
        history.examples += step.examples
    return history


def slimmed(model: nn.Module, graph: ChannelGraph, budget: Budget) -> Recipe:
    """The channels with the largest |γ|, over all layers, that meet a budget."""
    scores = {g.name: bn_scale(model, g) for g in graph.prunable}
    return select(graph, scores, budget, scope="global")


# ---- sparse structure selection


def branches(model: nn.Module) -> dict[str, BasicBlock]:
    """Residual blocks by path; each has one branch beside its shortcut."""
    return {name: m for name, m in model.named_modules() if isinstance(m, BasicBlock)}


def soft_threshold(x: Tensor, t: float) -> Tensor:
    """S_t(x) = sign x · max(|x| − t, 0), the proximal step of t |x|."""
    return x.sign() * (x.abs() - t).clamp(min=0)


@contextmanager
def scaled(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Each branch times a scale λ_i, 1 at first; in the end folded into its last batch norm."""
    scales, handles = {}, []
    for name, block in branches(model).items():
        weight = block.bn2.weight
        scales[name] = torch.ones((), device=weight.device, dtype=weight.dtype, requires_grad=True)
        handles.append(block.bn2.register_forward_hook(lambda m, i, y, s=scales[name]: s * y))
    try:
        yield scales
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for name, block in branches(model).items():
                block.bn2.weight *= scales[name]
                block.bn2.bias *= scales[name]


def selection_training(
    model: nn.Module, task: Task, recipe: Training, strength: float, *, generator: torch.Generator
) -> tuple[History, dict[str, float]]:
    """Train ``model`` in place with a sparse scale on each branch; the scales λ, folded in."""
    history = History()
    with scaled(model) as scales:
        groups = [
            {"params": list(model.parameters())},
            {"params": list(scales.values()), "weight_decay": 0.0},
        ]
        for step in training(model, task, recipe, generator=generator, groups=groups):
            step.move()
            with torch.no_grad():
                for s in scales.values():
                    s.copy_(soft_threshold(s, step.lr * strength))
            history.loss.append(step.loss)
            history.examples += step.examples
        found = {name: float(s.detach()) for name, s in scales.items()}
    return history, found


def without(model: nn.Module, gone: Sequence[str]) -> nn.Module:
    """A copy without some branches: exact where a branch adds nothing, since maps are never < 0."""
    small = copy.deepcopy(model)
    for name in gone:
        block = small.get_submodule(name)
        assert isinstance(block, BasicBlock)
        whole = isinstance(block.shortcut, nn.Identity)
        left = nn.Identity() if whole else nn.Sequential(block.shortcut, nn.ReLU())
        parent, _, last = name.rpartition(".")
        setattr(small.get_submodule(parent), last, left)
    return small


def selected(
    model: nn.Module, scales: Mapping[str, float], keep: float, example: Tensor
) -> list[str]:
    """The branches with the smallest |λ| that have to go for a share ``keep`` of the MACs.

    Raises:
        BudgetNotMet: with one branch left the net still has more.
    """
    dense = count_macs(model, example)
    order = sorted(scales, key=lambda name: abs(scales[name]))
    for n in range(len(order)):
        if count_macs(without(model, order[:n]), example) <= Budget("macs", keep).allowed(dense):
            return order[:n]
    raise BudgetNotMet(f"rethinking: one branch alone has more than {keep:.4g} of the MACs")


# ---- shapes by design


def stages(graph: ChannelGraph) -> list[list[str]]:
    """Prunable groups by the size of the maps they make, from input to output."""
    size = {layer.module: layer.outputs for layer in graph.layers}
    found: dict[float, list[str]] = {}
    for g in graph.prunable:
        found.setdefault(size[g.producers[0].module], []).append(g.name)
    return list(found.values())


def stage_shares(graph: ChannelGraph, nets: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """Share of channels that pruned nets keep, one number for all layers of a stage."""
    shares = {}
    for names in stages(graph):
        mean = np.mean([net[name] / graph[name].size for net in nets for name in names])
        shares |= dict.fromkeys(names, float(mean))
    return shares


def designed(
    graph: ChannelGraph, shares: Mapping[str, float], metric: str, target: float, *, above: bool
) -> dict[str, int]:
    """Widths in these proportions whose cost is next to ``target``.

    Args:
        graph: of the dense net.
        shares: by prunable group; all equal for a uniform net.
        metric: ``params`` or ``macs``.
        target: what the net is to cost.
        above: the narrowest net that costs at least that; else the widest that costs at most that.

    Raises:
        ValueError: there is no such net.
    """
    free = replace(graph, groups=graph.prunable)
    costs = Costs(free, metric)
    share = np.array([shares[g.name] for g in free.groups])
    below = None
    for factor in np.linspace(0, 1 / share.min(), 2001):
        kept = np.clip(np.round(factor * share * costs.sizes), 1, costs.sizes).astype(int)
        found = {g.name: int(k) for g, k in zip(free.groups, kept, strict=True)}
        if above and costs(kept) >= target:
            return found
        if not above and costs(kept) > target:
            break
        below = found
    if above or below is None:
        side = "least" if above else "most"
        raise ValueError(f"rethinking: no such net has at {side} {target:,.0f} {metric}")
    return below
