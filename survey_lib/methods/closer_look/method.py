r"""Fisher and ℓ1 prune-and-tune (Crowley et al. 2018, bibliography key ``crowley2018closer``).

A trained net is trained on at the last, small rate. After every ``interval`` steps the one
channel with the lowest score is masked, for good. No stop on the way: one long run passes through
every budget (:func:`long_run`). In the end the masked channels are taken out.

The Fisher signal (Theis et al. 2018, ``theis2018fisher``) costs no pass of its own. With a mask
:math:`\tilde a_{nkij} = m_k a_{nkij}`, :math:`m_k = 1`, and the examples' own losses :math:`L_n`,

.. math:: g_{nk} = \sum_{ij} a_{nkij} \frac{\partial L_n}{\partial a_{nkij}}, \qquad
          \Delta_k = \frac{1}{2N} \sum_{n=1}^{N} g_{nk}^2 :

summed over space, then squared, then averaged over the examples of the interval's own training
batches, in train mode.

Faithful: only channels inside a block can go (made and read there, after norm and ReLU); all of
them are ranked together; scores are forgotten after each removal; the rate is constant.

The paper's nets have no grouped convolution. Where a channel passes through one, it has a map on
either side, and the gradients of both masks are summed, as Liu et al. 2021 do.

Differs: the last channel of a block always stays, because a layer is never emptied; the gradients
are of the examples' own losses, where the published code takes those of the batch's mean loss and
so shrinks :math:`\Delta` by :math:`1/N^2`, which matters when batches differ in size. ``l1`` takes
absolute values, as its name says; the published code sums the signed weights (``l1_signed``).
``beta`` belongs to Theis et al.; the paper does not use it. :func:`compress` has a training of
given length to spend: its steps are dealt out evenly over the channels that may have to go, at most
``interval`` before each, and what is left is spent on the small net, all at the constant peak rate.

Cost: ``interval`` training steps a channel, and nothing else.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.filters import filters
from survey_lib.mechanics.gates import GateGradients, gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.closer_look.blocks import Removal, Stop, inside_blocks, reach
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.sharing import Look, endless, finished, most_removals, pace
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import Step, total_steps

STEERS = "budget"
KIND = "channels"
CRITERIA = ("fisher", "l1", "l1_signed", "random")


@dataclass(frozen=True)
class Config:
    """The paper's schedule for its wide residual net."""

    criterion: str = "fisher"
    """One of ``fisher``, ``l1``, ``l1_signed`` (a curiosity), ``random``."""
    interval: int = 100
    """Training steps before each removal, at most; the scores rest on their batches."""
    beta: float = 0.0
    """β of Theis et al.: nats of loss that all MACs of the dense net are worth."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(
                f"closer_look: no criterion {self.criterion!r}; use one of {', '.join(CRITERIA)}"
            )
        if self.interval < 1 or self.beta < 0:
            raise ValueError(f"closer_look: need interval ≥ 1 and beta ≥ 0, got {self}")


def scores(
    net: nn.Module, graph: ChannelGraph, delta: dict[str, Tensor], criterion: str,
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """(channels,) by group; the lowest goes first."""
    match criterion:
        case "fisher":
            return delta
        case "l1":  # s_k = Σ_cij |W_kcij|
            return {g.name: filters(net, g).abs().sum(1) for g in graph.groups}
        case "l1_signed":  # s_k = Σ_cij W_kcij, as the published code has it
            return {g.name: filters(net, g).sum(1) for g in graph.groups}
        case _:
            return {
                g.name: torch.rand(g.size, generator=generator, device="cpu") for g in graph.groups
            }


def smallest(
    graph: ChannelGraph, s: dict[str, Tensor], masks: dict[str, Tensor], beta: float, macs: Costs
) -> Removal | None:
    r"""Channel k with the smallest :math:`s_k - \beta\,\delta C_k` that is there; None at the end.

    :math:`\delta C_k` is the share of the dense net's MACs that its removal saves *now*. The last
    channel of a group stays.
    """
    kept = np.array([int(masks[g.name].sum()) for g in graph.groups])
    saved = macs.savings(kept) / macs.dense  # (groups,) δC
    best: Removal | None = None
    for group, left, share in zip(graph.groups, kept, saved, strict=True):
        if left <= 1:
            continue
        value = s[group.name].detach().double().cpu() - beta * float(share)
        value = value.masked_fill(masks[group.name].cpu() == 0, torch.inf)
        unit = int(value.argmin())
        if best is None or float(value[unit]) < best.score:
            best = Removal(group.name, unit, float(value[unit]))
    return best


def train_interval(
    net: nn.Module, graph: ChannelGraph, masks: dict[str, Tensor],
    steps: Iterator[Step] | Iterator[Look], interval: int,
) -> tuple[dict[str, Tensor], list[float], int]:  # fmt: skip
    """Ordinary training steps with masks on; Δ by group from their own backward passes.

    Returns:
        Δ, the loss of each batch, and the number of examples.
    """
    squares: dict[str, Tensor] = {}
    losses, n = [], 0
    net.train()
    with gated(net, graph, masks), GateGradients(net, graph) as gates:
        for step in islice(steps, interval):
            step.move()
            for name, of_mean in gates.coupled().items():
                g = step.examples * of_mean.double()  # (N, channels): Σ_ij a ∂L_n/∂a, of L_n itself
                new = g.square().sum(0)
                squares[name] = squares[name] + new if name in squares else new
            gates.clear()
            n += step.examples
            losses.append(step.loss)
    net.eval()
    return {name: total / (2 * n) for name, total in squares.items()}, losses, n


def long_run(
    net: nn.Module, task: Task, graph: ChannelGraph, config: Config, recipe: Training | None,
    generator: torch.Generator, *, due: Callable[[int], int] | None = None,
) -> Iterator[Stop]:  # fmt: skip
    """Train, stop, mask the smallest channel, again and again, down to one channel a block.

    Args:
        net: trained on in place; :func:`apply_recipe` makes the small net at any stop.
        task: data and loss.
        graph: the channels that may go, as :func:`inside_blocks` gives them.
        config: criterion and interval.
        recipe: batch size, weight decay and rate, which stays at its peak; None: the net is only
            looked at, in eval mode, and no weight moves.
        generator: draws the data order, and random scores.
        due: channels gone → steps made before the next goes; by default ``interval`` for each.
    """
    macs = Costs(graph, "macs")
    device = next(net.parameters()).device
    masks = {g.name: torch.ones(g.size, device=device) for g in graph.groups}
    due = due or (lambda gone: config.interval * (gone + 1))
    steps = endless(net, task, recipe, generator=generator)
    removed: list[Removal] = []
    delta: dict[str, Tensor] = {}
    done = 0
    while True:
        loss, examples = [], 0
        number = due(len(removed)) - done
        if number and (recipe or config.criterion == "fisher"):  # the others need no data
            delta, loss, examples = train_interval(net, graph, masks, steps, number)
            done += number
        left = {g: m.nonzero().flatten().tolist() for g, m in masks.items()}
        recipe_now = {g: units for g, units in left.items() if len(units) < len(masks[g])}
        kept = np.array([len(left[g.name]) for g in graph.groups])
        yield Stop(tuple(removed), recipe_now, kept, delta, loss, examples)
        s = scores(net, graph, delta, config.criterion, generator)
        worst = smallest(graph, s, masks, config.beta, macs)
        if worst is None:
            return
        masks[worst.group][worst.unit] = 0
        removed.append(worst)


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Prune and tune a copy of a trained ``model`` until it fits the budget.

    Args:
        model: the trained net.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations`` to keep.
        config: criterion, largest interval, β.
        tuning: spent between the removals, and what is left after the last one, at its peak rate
            throughout: of its schedule only the length counts. None looks at ``interval`` batches
            before each removal, in eval mode, and trains nothing.
        generator: draws the data order, and random scores.

    Raises:
        BudgetNotMet: one channel in each block is still too much.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    net = copy.deepcopy(model).eval()
    whole = trace_groups(net, task.example(1).to(next(net.parameters()).device))
    reach(whole, budget, config)
    graph = inside_blocks(whole)
    costs = Costs(graph, budget.metric)
    target, least = budget.keep * costs.dense, np.ones_like(costs.sizes)
    steps = total_steps(task, tuning) if tuning else 0
    parts = most_removals(costs, least, target) + 1 if tuning else 0
    due = pace(steps, parts, config.interval) if tuning else None
    losses: list[float] = []
    examples = 0
    for stop in long_run(net, task, graph, config, tuning, generator, due=due):
        losses += stop.loss
        examples += stop.examples
        if costs(stop.kept) <= target:
            break
    else:
        raise AssertionError("unreachable: the last stop of a long run has one channel a block")
    small = apply_recipe(net, graph, stop.recipe).eval()
    level = replace(tuning, schedule="constant") if tuning else None
    return finished(
        small, task, level, generator=generator, start=start, loss=losses, examples=examples,
        table=channels_table(whole, stop.recipe), recipe=stop.recipe,
        trace={"score": [r.score for r in stop.removed]},
    )  # fmt: skip
