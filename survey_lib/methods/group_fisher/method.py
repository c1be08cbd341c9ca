r"""Group Fisher pruning (Liu et al. 2021, bibliography key ``liu2021group``).

Every layer has a mask :math:`m` on its *input* channels. Layers that must lose a channel together
share the mask. Removing unit :math:`i` changes the loss by about :math:`\frac12 H_{ii}` when the
gradient vanishes, and the Fisher information stands for :math:`H_{ii}` (equations 1–4):

.. math:: s_i \propto \sum_n \Big( \sum_{x \in X} \frac{\partial L_n}{\partial m_i^x} \Big)^2 ,

where :math:`X` holds the copies of :math:`m_i` in the coupled layers. It is divided by what the
removal saves now, :math:`\Delta`. While the net trains on, every :math:`d` steps the one unit with
the smallest :math:`s_i / \Delta` gets :math:`m_i = 0` (algorithm 2). At the budget the masked units
are removed for good, and the net is tuned.

Faithful: masks on inputs, sum over coupled layers before squaring, grouped and depthwise
convolutions pruned a whole group at a time, :math:`\Delta` in activations or MACs of the net as it
is at the time, one unit over all layers each time, accumulators cleared after it, a small constant
learning rate meanwhile. The gradients are those of the training passes, batch norm in training
mode included.

Differs: each group keeps at least one unit (the paper's code has no lower bound; a later port has
this rule). Groups come from the channel engine, because algorithm 1 never merges groups (see
:mod:`.grouping`). :math:`\Delta^\alpha` with :math:`\alpha \ne 1`, squaring first, the first-order
score and random scores are for comparison.

Cost: :math:`d` training steps for each unit that goes, then one training.
"""

import copy
from collections.abc import Generator
from dataclasses import dataclass
from math import ceil
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.gates import GateGradients, gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task
from survey_lib.tasks.train import batches, fit, make_optimizer

STEERS = "budget"
KIND = "channels"
SCORES = ("fisher", "square_first", "first_order", "random")
SAVINGS = ("activations", "macs", "")


@dataclass(frozen=True)
class Config:
    """The paper's symbols; defaults are the paper's for classification."""

    per: str = "activations"
    """What Δ counts: ``activations`` (-M, the full method), ``macs`` (-F), nothing (-U)."""
    alpha: float = 1.0
    """Exponent of Δ."""
    coupled: bool = True
    """Prune coupled groups too; False prunes inside residual blocks only (-I)."""
    score: str = "fisher"
    """``fisher``, or to compare: ``square_first``, ``first_order``, ``random``."""
    d: int = 25
    """Training steps for each unit."""
    lr: float = 0.004
    """Constant learning rate while units go."""
    tune_epochs: float | None = None
    """Epochs of tuning at the end; by default as many as the task's training."""
    tune_lr: float = 0.1
    """Peak learning rate of the tuning."""

    def __post_init__(self) -> None:
        if self.per not in SAVINGS:
            raise ValueError(f"group_fisher: per is one of {', '.join(map(repr, SAVINGS))}")
        if self.score not in SCORES:
            raise ValueError(f"group_fisher: no score {self.score!r}; use {', '.join(SCORES)}")
        if self.d < 1 or self.alpha < 0:
            raise ValueError(f"group_fisher: need d ≥ 1 and alpha ≥ 0, got {self}")


@dataclass(frozen=True)
class Removal:
    """One step of the path: a unit that went, and what is left."""

    group: str
    unit: int
    score: float
    """s / Δ^α of the unit, as it was compared."""
    kept: np.ndarray
    """(groups,) units left in each group of the graph."""
    recipe: Recipe
    """Units still there, by prunable group."""
    loss: list[float]
    """Training loss of the d steps before."""


def is_internal(group: ChannelGroup) -> bool:
    """Whether a group lies inside one block: no sum ties it to others."""
    return "residual" not in group.kinds


def importance(g: Tensor, score: str) -> Tensor:
    """What one batch adds to the score of a group's units: (units,).

    Args:
        g: ∂Lₙ/∂mˣ, (copies x of the mask, N, units).
        score: one of :data:`SCORES`.
    """
    if score == "square_first":
        return g.square().sum((0, 1))
    if score == "first_order":
        return g.sum((0, 1))  # its size is taken when a unit is chosen
    return g.sum(0).square().sum(0)  # equation 4


def choose(
    s: dict[str, Tensor], allowed: dict[str, Tensor], delta: dict[str, float], alpha: float
) -> tuple[str, int, float] | None:
    """Group, unit and value of the smallest s / Δ^α; None when every group is down to one unit.

    Args:
        s: (units,) scores by group.
        allowed: (units,) units that are still there, by group.
        delta: what a unit's removal saves now, by group.
        alpha: the exponent.
    """
    best: tuple[str, int, float] | None = None
    for name, there in allowed.items():
        if int(there.sum()) <= 1:
            continue
        value = s[name].cpu().abs().double() / max(float(delta[name]), 1.0) ** alpha
        value = value.masked_fill(~there, torch.inf)
        unit = int(value.argmin())
        if best is None or float(value[unit]) < best[2]:
            best = (name, unit, float(value[unit]))
    return best


def one_by_one(
    model: nn.Module, graph: ChannelGraph, task: Task, config: Config, *, generator: torch.Generator
) -> Generator[Removal, None, None]:
    """Algorithm 2: train ``model`` in place and mask a unit every d steps, until none may go.

    Between two steps the net computes with the masks. Close the iterator to take them off.
    """
    device = next(model.parameters()).device
    groups = [g.name for g in graph.prunable if config.coupled or is_internal(g)]
    index = {g.name: i for i, g in enumerate(graph.groups)}
    masks = {g.name: torch.ones(g.size, device=device) for g in graph.prunable}
    kept = np.array([g.size for g in graph.groups])
    costs = Costs(graph, config.per) if config.per else None
    optimizer = make_optimizer(model, task.with_training(lr=config.lr).training)
    order = batches(len(task.train), task.training.batch, generator)
    # masks first, so that what is watched is the masked input
    with gated(model, graph, masks) as m, GateGradients(model, graph) as watched:
        while True:
            model.train()
            s: dict[str, Tensor] = {}
            losses: list[float] = []
            for _ in range(config.d):
                rows = next(order)
                x, y = task.train.x[rows].to(device), task.train.y[rows].to(device)
                if x.ndim == 4:
                    x = x.contiguous(memory_format=torch.channels_last)
                watched.clear()
                optimizer.zero_grad(set_to_none=True)
                loss = task.loss(model(x), y)
                loss.backward()
                for name, copies in watched.single().items():
                    g = len(x) * torch.stack(list(copies.values()))  # the loss is a mean over n
                    new = importance(g, config.score)
                    s[name] = s[name] + new if name in s else new
                optimizer.step()
                losses.append(float(loss.detach()))
            if config.score == "random":
                s = {n: torch.rand(len(m[n]), generator=generator, device="cpu") for n in groups}
            delta = costs.savings(kept) if costs else np.ones(len(kept))
            allowed = {n: m[n].bool().cpu() for n in groups}
            found = choose(s, allowed, {n: delta[index[n]] for n in groups}, config.alpha)
            if found is None:
                return
            name, unit, score = found
            m[name][unit] = 0
            kept[index[name]] -= 1
            recipe = {n: torch.nonzero(mask).flatten().tolist() for n, mask in m.items()}
            yield Removal(name, unit, score, kept.copy(), recipe, losses)


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    generator: torch.Generator,
) -> Compressed:
    """Prune a copy of a converged net down to ``budget``, then tune it.

    Args:
        model: the dense net, trained.
        task: its data, loss and training recipe.
        budget: ``macs``, ``activations`` or ``params`` to keep.
        config: score, normalisation, d, rates.
        generator: draws the order of the data.

    Raises:
        BudgetNotMet: the budget is out of reach with one unit left in each group.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    net = copy.deepcopy(model)
    graph = trace_groups(net, task.example(1).to(next(net.parameters()).device))
    costs = Costs(graph, budget.metric)
    smallest = np.array([
        1 if not g.protected and (config.coupled or is_internal(g)) else g.size
        for g in graph.groups
    ])  # fmt: skip
    if costs(smallest) > budget.keep * costs.dense:
        raise BudgetNotMet(
            f"group_fisher: {budget.metric}={budget.keep:.4g} is out of reach for {graph.model}; "
            f"down to {ceil(1e4 * costs(smallest) / costs.dense) / 1e4:.4g} is reachable"
        )
    recipe: Recipe = {}
    loss: list[float] = []
    share = [1.0]
    path = one_by_one(net, graph, task, config, generator=generator)
    while share[-1] > budget.keep:
        step = next(path)
        recipe = step.recipe
        loss += step.loss
        share.append(costs(step.kept) / costs.dense)
    path.close()
    small = apply_recipe(net.eval(), graph, recipe)
    epochs = task.training.epochs if config.tune_epochs is None else config.tune_epochs
    if epochs:
        tuning = task.with_training(epochs=epochs, lr=config.tune_lr)
        loss += fit(small, tuning, generator=generator).loss
    left = {g.name: len(recipe.get(g.name, range(g.size))) for g in graph.prunable}
    return Compressed(
        small.eval(),
        [{"layer": g.name, "channels": g.size, "kept": left[g.name]} for g in graph.prunable],
        perf_counter() - start,
        forward_passes=len(loss),
        backward_passes=len(loss),
        recipe={n: r for n, r in recipe.items() if len(r) < graph[n].size},
        trace={"loss": loss, "share": share},
    )
