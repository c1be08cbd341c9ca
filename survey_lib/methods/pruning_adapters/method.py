r"""Structured pruning adapters (Hedegaard et al. 2022, ``hedegaard2022structured``).

One net is trained once and frozen. A task that is to be served by it learns a small correction
beside each layer, and loses channels, in frozen weights and corrections alike:

.. math:: W_t = W_s \odot m_{row} m_{col}^\top
          + (W_{down} \odot m_{row} 1^\top)(W_{up} \odot 1 m_{col}^\top)

(:mod:`survey_lib.methods.pruning_adapters.adapter`). A round scores the channels of the *adapted*
net, ranks those of all layers together, takes the lowest out, and the adapter is trained again.
In the end the correction is added to the weights: what runs is an ordinary small net.

Faithful: W_down is Kaiming-uniform and W_up is drawn from U(−10⁻⁴, 10⁻⁴), as released; the product
of a convolution stands at the centre of its kernel; batch norm, biases and the new head are
trained as well; a share of the *original* filters goes each round; criteria and their
normalisation (:mod:`survey_lib.methods.pruning_by_explaining.criteria`), the same for all learners.

Differs: channels are removed, with all that is coupled to them, where the released code of the
residual nets masks outputs; at least one unit of each group stays; scores come from at most
``images`` training images of each class, the paper's from one pass over all of them. A layer whose
weight may not move (``requires_grad=False``) gets no adapter. The tuning has a given length: a
share ``first`` of its steps is made before the first cut, the rest is dealt out evenly over the
rounds. With ``tuning=None`` no adapter is made, because it would stay as it was drawn.

Cost: the training, and one pass forward and back over the scored images each round.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, check_reach
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.pruning_adapters.adapter import (
    LEARNERS,
    adapters,
    attach,
    frozen,
    fuse,
    joined,
)
from survey_lib.methods.pruning_by_explaining import method as explaining
from survey_lib.methods.pruning_by_explaining.choice import (
    Until,
    costs_at_most,
    cut,
    least_units,
    never,
)
from survey_lib.methods.sharing import finished, for_steps, most_removals, parts
from survey_lib.tasks.data import Split
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import fit, total_steps

STEERS = "budget"
KIND = "adapters"


@dataclass(frozen=True)
class Config:
    """The paper's settings."""

    learner: str = "splora"
    """``splora``, ``sppara``, ``head`` (batch norm, biases and head alone) or ``fine``."""
    rank: int = 4
    """r; the paper has 8 and 32 beside layers of up to 2048 channels."""
    init: float = 1e-4
    """W_up is drawn from U(−init, init)."""
    criterion: str = "taylor"
    """Any of :data:`survey_lib.methods.pruning_by_explaining.method.CRITERIA`."""
    images: int = 100
    """Training images of each class that channels are scored on, at most."""
    step: float = 0.1
    """Share of the source net's filters that goes in each round; the paper has 0.05."""
    first: float = 0.2
    """Share of the tuning's steps that is made before the first cut."""

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise ValueError(
                f"pruning_adapters: no learner {self.learner!r}; use one of {', '.join(LEARNERS)}"
            )
        if self.rank < 1 or self.init < 0 or not 0 <= self.first <= 1:
            raise ValueError(
                "pruning_adapters: need rank ≥ 1, init ≥ 0 and first in [0, 1], "
                f"got rank={self.rank}, init={self.init:g}, first={self.first:g}"
            )
        self.scoring()  # refuses a criterion, a number of images or a step that cannot be

    def scoring(self) -> explaining.Config:
        """The same choice as the chapter on explanations makes it."""
        return explaining.Config(self.criterion, self.images, self.step)


@dataclass(frozen=True)
class Stop:
    """After a round: the smaller net, its adapters on, which may be trained before the next one."""

    net: nn.Module
    recipe: Recipe
    """Units of the source net that are left, of every group."""
    scores: dict[str, Tensor]
    """(units,) by group, of those that were there before the cut."""


def start(net: nn.Module, config: Config, generator: torch.Generator) -> nn.Module:
    """A copy of the source net with the learner's adapters on."""
    return attach(net, config.learner, config.rank, config.init, generator)


def removed(net: nn.Module, graph: ChannelGraph, keep: Recipe) -> nn.Module:
    """A net with adapters without some units: rows and columns of W_s, W_down, W_up, W alike.

    Args:
        net: with adapters.
        graph: of the ordinary net, ``trace_groups(fuse(net), x)``.
        keep: kept units by group; groups it doesn't name stay whole.
    """
    small = apply_recipe(frozen(net), graph, keep)
    kept: dict[str, dict[int, Tensor]] = {}
    for name, units in keep.items():
        gone = np.setdiff1d(np.arange(graph[name].size), units)
        for s in graph[name].slices:
            if s.tensor != "weight" or s.axis > 1:
                continue
            axes = kept.setdefault(s.module, {})
            n = graph.shapes[s.module, s.tensor][s.axis]
            stays = axes.get(s.axis, torch.arange(n, device="cpu"))
            out = torch.from_numpy(s.positions[gone].ravel())
            axes[s.axis] = stays[~torch.isin(stays, out)]
    return joined(small, net, kept)


def rounds(
    net: nn.Module, task: Task, images: Split, config: Config, generator: torch.Generator,
    until: Until = never,
) -> Iterator[Stop]:  # fmt: skip
    """Score, rank, remove, as long as not enough are gone and some can go.

    Whoever takes a :class:`Stop` may train its net, in place, before asking for the next.

    Args:
        net: with adapters, from :func:`start`.
        task: gives loss and an example.
        images: that channels are scored on.
        config: criterion and step.
        generator: draws random scores.
        until: a net's groups → units left → whether no more have to go.
    """
    example = task.example(1).to(next(net.parameters()).device)
    plain = fuse(net).eval()
    graph = trace_groups(plain, example)
    left = {g.name: list(range(g.size)) for g in graph.prunable}
    whole = now = sum(map(len, left.values()))
    done = 0  # rounds
    while not (enough := until(graph))(np.array([g.size for g in graph.groups])):
        done += 1
        number = max(1, now - round(whole * (1 - config.step * done)))
        # of W_s + ΔW: what the task's net is, not what it was made from
        scores = explaining.score(plain, graph, task, images, config.scoring(), generator)
        if not all(torch.isfinite(s).all() for s in scores.values()):
            raise FloatingPointError(f"{task.name}: scores are not finite; lower the learning rate")
        keep = cut(graph, scores, number, enough)
        if not keep:
            return
        net = removed(net, graph, keep).eval()
        left |= {name: [left[name][u] for u in units] for name, units in keep.items()}
        now = sum(map(len, left.values()))
        yield Stop(net, dict(left), scores)
        plain = fuse(net).eval()
        graph = trace_groups(plain, example)


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> None:
    """Raise BudgetNotMet for a budget that no choice of units meets."""
    del config
    check_reach(graph, budget, least_units(graph), "pruning_adapters")


def compress(
    model: nn.Module, task: Task, budget: Budget, config: Config = Config(), *,
    tuning: Training | None, generator: torch.Generator,
) -> Compressed:  # fmt: skip
    """Adapt and prune a copy of ``model`` in rounds, and fuse the adapters in the end.

    Args:
        model: the source net, its head that of the task.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations`` to keep.
        config: learner, rank, criterion, rounds.
        tuning: spent before the first cut, after the rounds and at the end; None trains nothing.
        generator: draws adapters and scored images, then random scores and the order of the data.

    Raises:
        BudgetNotMet: the budget is out of reach without emptying a layer.
        ValueError: a layer whose kernel has no centre.
    """
    began = perf_counter()
    graph = trace_groups(model, task.example(1).to(next(model.parameters()).device))
    least = least_units(graph)
    costs = check_reach(graph, budget, least, "pruning_adapters")
    target = budget.allowed(costs.dense)
    images = explaining.reference(task, config.images, generator)
    net = start(model, config, generator) if tuning else copy.deepcopy(model)
    steps = total_steps(task, tuning) if tuning else 0
    number = config.step * sum(g.size for g in graph.prunable)  # units a round
    most = math.ceil(most_removals(costs, least, target) / number) or 1  # rounds
    before = round(config.first * steps)
    shares = [before, *parts(steps - before, 1.0, most)[:-1]]
    stop, losses, examples = Stop(net.eval(), {}, {}), [], 0
    trace: dict[str, list] = {"units": []}
    until = costs_at_most(budget.metric, target)
    stops = rounds(net, task, images, config, generator, until)
    for some in shares:
        if tuning and some:
            spent = fit(stop.net, task, for_steps(task, tuning, some), generator=generator)
            losses += spent.loss
            examples += spent.examples
        if (following := next(stops, None)) is None:
            break
        stop = following
        trace["units"].append(sum(map(len, stop.recipe.values())))
    learned = {path: adapter for path, adapter in adapters(stop.net).items()}
    recipe = {n: u for n, u in stop.recipe.items() if len(u) < graph[n].size}
    table = [
        row | {"learned": learned[row["layer"]].size if row["layer"] in learned else 0}
        for row in channels_table(graph, recipe)
    ]
    found = finished(
        stop.net, task, tuning, generator=generator, start=began, loss=losses, examples=examples,
        table=table, recipe=recipe, trace=trace,
    )  # fmt: skip
    found.model = fuse(found.model).eval()
    found.forward_passes += len(trace["units"])
    found.backward_passes += len(trace["units"])
    return found
