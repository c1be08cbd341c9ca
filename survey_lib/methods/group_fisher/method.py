r"""Group Fisher pruning (Liu et al. 2021, bibliography key ``liu2021group``).

Every layer has a mask :math:`m` on its *input* channels. Layers that must lose a channel together
share the mask. Removing unit :math:`i` changes the loss by about :math:`\frac12 H_{ii}` when the
gradient vanishes, and the Fisher information stands for :math:`H_{ii}` (equations 1–4):

.. math:: s_i \propto \sum_n \Big( \sum_{x \in X} \frac{\partial L_n}{\partial m_i^x} \Big)^2 ,

where :math:`X` holds the copies of :math:`m_i` in the layers that read the channel and in the
grouped or depthwise convolution that carries it. It is divided by what the removal saves now,
:math:`\Delta`. While the net trains on, every :math:`d` steps the one unit with the smallest
:math:`s_i / \Delta` gets :math:`m_i = 0` (algorithm 2). At the budget masked units are removed.

Faithful: masks on inputs, sum over coupled layers before squaring, grouped and depthwise
convolutions pruned a whole group at a time, :math:`\Delta` in activations or MACs of the net as it
is at the time, one unit over all layers each time, accumulators cleared after it, a small constant
learning rate meanwhile. The gradients are those of the training passes, batch norm in training
mode included.

Differs: each group keeps at least one unit (the paper's code has no lower bound; a later port has
this rule). Groups come from the channel engine, because algorithm 1 never merges groups (see
:mod:`.grouping`). :math:`\Delta^\alpha` with :math:`\alpha \ne 1`, squaring first, the first-order
score and random scores are for comparison. :func:`compress` has a training of given length to
spend: the share ``path`` of its steps is dealt out evenly over the units that may have to go, at
most :math:`d` before each, at a constant small rate; all the others are the tuning at the end.

Cost: :math:`d` training steps for each unit that goes, then the tuning.
"""

import copy
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.gates import GateGradients, gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, check_reach, shrunk
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.group_fisher.path import Removal, least, shrinking
from survey_lib.methods.sharing import endless, finished, most_removals, pace
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import total_steps

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
    """Training steps for each unit, at most."""
    path: float = 0.5
    """Share of the tuning's steps that is there for the time while units go."""
    rate: float = 0.04
    """The constant learning rate while units go, as a share of the tuning's peak rate."""

    def __post_init__(self) -> None:
        if self.per not in SAVINGS:
            raise ValueError(f"group_fisher: per is one of {', '.join(map(repr, SAVINGS))}")
        if self.score not in SCORES:
            raise ValueError(f"group_fisher: no score {self.score!r}; use {', '.join(SCORES)}")
        if self.d < 1 or self.alpha < 0 or not 0 < self.path <= 1 or self.rate < 0:
            raise ValueError(
                f"group_fisher: need d ≥ 1, alpha ≥ 0, 0 < path ≤ 1 and rate ≥ 0, got {self}"
            )


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
    model: nn.Module, graph: ChannelGraph, task: Task, config: Config, recipe: Training | None, *,
    generator: torch.Generator, due: Callable[[int], int] | None = None,
) -> Generator[Removal, None, None]:  # fmt: skip
    """Algorithm 2: train ``model`` in place and mask a unit every d steps, until none may go.

    Between two steps the net computes with the masks. Close the iterator to take them off.

    Args:
        model: trained on in place.
        graph: its groups.
        task: data and loss.
        config: score, normalisation, d.
        recipe: batch size, weight decay and rate, which stays at its peak; None: the net is only
            looked at, in eval mode, and no weight moves.
        generator: draws the data order, and random scores.
        due: units gone → steps made before the next goes; by default d for each.
    """
    device = next(model.parameters()).device
    groups = [g.name for g in shrinking(graph, config.coupled)]
    index = {g.name: i for i, g in enumerate(graph.groups)}
    masks = {g.name: torch.ones(g.size, device=device) for g in graph.prunable}
    kept = np.array([g.size for g in graph.groups])
    costs = Costs(graph, config.per) if config.per else None
    due = due or (lambda gone: config.d * (gone + 1))
    looks = recipe is None
    steps = endless(model, task, recipe, generator=generator)
    s: dict[str, Tensor] = {}
    gone = done = 0
    # masks first, so that what is watched is the masked input
    with gated(model, graph, masks) as m, GateGradients(model, graph) as watched:
        while True:
            model.train(not looks)
            number = 0 if looks and config.score == "random" else due(gone) - done
            s = {} if number else s  # forgotten after each removal, where others follow
            losses: list[float] = []
            examples = 0
            for step in islice(steps, number):
                for name, copies in watched.single().items():
                    # the loss is a mean over n
                    g = step.examples * torch.stack(list(copies.values()))
                    new = importance(g, config.score)
                    s[name] = s[name] + new if name in s else new
                watched.clear()
                step.move()
                losses.append(step.loss)
                examples += step.examples
            done += number
            if config.score == "random":
                s = {n: torch.rand(len(m[n]), generator=generator, device="cpu") for n in groups}
            delta = costs.savings(kept) if costs else np.ones(len(kept))
            allowed = {n: m[n].bool().cpu() for n in groups}
            found = choose(s, allowed, {n: delta[index[n]] for n in groups}, config.alpha)
            if found is None:
                return
            name, unit, score = found
            m[name][unit] = 0
            gone += 1
            kept[index[name]] -= 1
            left = {n: torch.nonzero(mask).flatten().tolist() for n, mask in m.items()}
            yield Removal(name, unit, score, kept.copy(), left, losses, examples)


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> Costs:
    """The costs of a net, of which one unit in each group has to stay.

    Raises:
        BudgetNotMet: that is still too much.
    """
    return check_reach(graph, budget, least(graph, config.coupled), "group_fisher")


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Prune a copy of a converged net down to ``budget``, then tune it.

    Args:
        model: the dense net, trained.
        task: its data and loss.
        budget: ``macs``, ``activations`` or ``params`` to keep.
        config: score, normalisation, d, and how the tuning is shared out.
        tuning: the share ``config.path`` of its steps at most while units go, all others after the
            removal, by its schedule. None looks at d batches before each removal, in eval mode,
            and trains nothing.
        generator: draws the order of the data.

    Raises:
        BudgetNotMet: the budget is out of reach with one unit left in each group.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    net = copy.deepcopy(model).eval()
    graph = trace_groups(net, task.example(1).to(next(net.parameters()).device))
    costs = reach(graph, budget, config)
    target = budget.allowed(costs.dense)
    due, meanwhile = None, None
    if tuning:
        steps = total_steps(task, tuning)
        most = max(1, most_removals(costs, least(graph, config.coupled), target))
        due = pace(max(1, round(config.path * steps)), most, config.d)
        meanwhile = replace(tuning, lr=config.rate * tuning.lr)
    recipe: Recipe = {}
    kept, share, examples = costs.sizes, [1.0], 0
    loss: list[float] = []
    path = one_by_one(net, graph, task, config, meanwhile, generator=generator, due=due)
    while costs(kept) > target:
        step = next(path)
        kept, recipe = step.kept, step.recipe
        loss += step.loss
        examples += step.examples
        share.append(costs(kept) / costs.dense)
    path.close()
    small = apply_recipe(net.eval(), graph, recipe).eval()
    return finished(
        small, task, tuning, generator=generator, start=start, loss=loss, examples=examples,
        table=channels_table(graph, recipe), recipe=shrunk(graph, recipe), trace={"share": share},
    )  # fmt: skip
