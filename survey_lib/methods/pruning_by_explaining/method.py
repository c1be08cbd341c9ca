r"""Pruning by explaining (Yeom et al. 2021, bibliography key ``yeom2021pruning``).

A filter that takes no part in the explanation of the net's decisions goes. On a few reference
images, relevance starts at the true class and is handed back layer by layer
(:mod:`survey_lib.mechanics.relevance`); filter p of layer l is worth what arrives at its map,

.. math:: R_p = \sum_n \sum_{h,w} |R^{(l)}_{n,p,h,w}|, \qquad
          \text{score}_p = R_p \Big/ \sum_{p'} R_{p'} .

All filters of all layers are ranked together, the lowest go, and it begins again.

Faithful: the true class starts with one unit, whatever its logit; α = 1, β = 0 in convolutions, the
box rule in the first, ε in linear layers, sums and averages, as the released code has it
(``rules="equation"``: α = 1, β = 0 in all of them, as the paper's equation); batch norm folded;
a share ``step`` of the *original* number of filters goes each round; scores are taken in eval mode.

Differs: filters are removed, with all that is coupled to them, where the released code for
residual nets masks the outputs of single layers; a unit that several layers make has the mean of
their scores. One unit of each group stays. The tuning has a given length: ``between`` of its steps
is dealt out evenly over the rounds, the rest is spent at the end. The rivals
(:mod:`survey_lib.methods.pruning_by_explaining.criteria`) go through the same rounds.

Cost: one pass forward and about two more for the way back each round; then the tuning.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.relevance.engine import true_class
from survey_lib.mechanics.relevance.rules import AlphaBeta, Box, Epsilon, Rules
from survey_lib.mechanics.selection import channels_table, check_reach
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.pruning_by_explaining import criteria
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
from survey_lib.tasks.train import fit, layout, total_steps

STEERS = "budget"
KIND = "channels"
CRITERIA = tuple(criteria.NORMS)


@dataclass(frozen=True)
class Config:
    """The paper's settings."""

    criterion: str = "lrp"
    """One of ``lrp``, ``weight``, ``gradient``, ``taylor``, ``taylor_each``, ``fisher``,
    ``random``."""
    images: int = 10
    """Reference images of each class."""
    step: float = 0.05
    """Share of the dense net's filters that goes in each round."""
    rules: str = "released"
    """``released`` (box, αβ and ε by kind of layer) or ``equation`` (αβ everywhere)."""
    alpha: float = 1.0
    """α; β = α − 1."""
    start: str = "one"
    """Relevance at the true class: ``one`` unit, or its ``logit``."""
    between: float = 0.8
    """Share of the tuning's steps that is made after the rounds, in equal parts."""

    def __post_init__(self) -> None:
        for name, known in (("criterion", CRITERIA), ("rules", ("released", "equation")),
                            ("start", ("one", "logit"))):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"pruning_by_explaining: no {name} {getattr(self, name)!r}; "
                    f"use one of {', '.join(known)}"
                )
        if (
            self.images < 1
            or not 0 < self.step <= 1
            or self.alpha < 1
            or not 0 <= self.between <= 1
        ):
            raise ValueError(
                "pruning_by_explaining: need images ≥ 1, step in (0, 1], alpha ≥ 1 and between in "
                f"[0, 1], got {self}"
            )


@dataclass(frozen=True)
class Stop:
    """After a round: the smaller net, which may be trained before the next one."""

    net: nn.Module
    recipe: Recipe
    """Units of the dense net that are left, of every group."""
    scores: dict[str, Tensor]
    """(units,) by group, of those that were there before the cut."""


def reference(task: Task, images: int, generator: torch.Generator) -> Split:
    """So many random training images of each class, or all there are."""
    y = task.train.y
    drawn = torch.randperm(len(y), generator=generator, device="cpu")
    rows = torch.cat([drawn[y[drawn] == c][:images] for c in range(len(task.data.classes))])
    return Split(task.train.x[rows], y[rows])


def check(model: nn.Module, graph: ChannelGraph, task: Task, config: Config) -> None:
    """Raise ValueError for a task without classes; nothing is trained."""
    del model, graph, config
    if task.metric != "accuracy":
        raise ValueError(
            "pruning_by_explaining: relevance starts at the class of an input, and "
            f"{task.name} has none; take another method"
        )


def rules_of(config: Config, x: Tensor) -> Rules:
    """Which rule where; the box is the range of the reference images."""
    alpha_beta = AlphaBeta(config.alpha, config.alpha - 1)
    if config.rules == "equation":
        return Rules(conv=alpha_beta, linear=alpha_beta)
    box = Box(float(x.min()), float(x.max()))
    return Rules(alpha_beta, Epsilon(1e-6), box, Epsilon(1e-6), Epsilon(1e-6))


def score(
    net: nn.Module, graph: ChannelGraph, task: Task, images: Split, config: Config,
    generator: torch.Generator,
) -> dict[str, Tensor]:  # fmt: skip
    """(units,) by prunable group, higher = keep."""
    device = next(net.parameters()).device
    x, y = layout(images.x.to(device)), images.y.to(device)
    match config.criterion:
        case "random":
            return {g.name: torch.rand(g.size, generator=generator, device="cpu")
                    for g in graph.prunable}  # fmt: skip
        case "lrp":  # R^(L) = one-hot(y), or f(x) ⊙ one-hot(y)
            start = true_class(y, logit=config.start == "logit")
            found = criteria.relevances(net, x, start, rules_of(config, x))
        case "weight":
            layers = {path for g in graph.prunable for path in criteria.makers(graph, g)}
            found = criteria.weights(net, sorted(layers))
        case _:
            found = criteria.of_gradients(net, x, y, task.loss, config.criterion)
    return criteria.of_units(graph, criteria.comparable(found, criteria.NORMS[config.criterion]))


def rounds(
    model: nn.Module, task: Task, images: Split, config: Config, generator: torch.Generator,
    until: Until = never,
) -> Iterator[Stop]:  # fmt: skip
    """Algorithm 1: score, rank, remove, as long as not enough are gone and some can go.

    Whoever takes a :class:`Stop` may train its net, in place, before asking for the next.
    """
    net = copy.deepcopy(model).eval()
    example = task.example(1).to(next(net.parameters()).device)
    graph = trace_groups(net, example)
    number = max(1, round(config.step * sum(g.size for g in graph.prunable)))
    left = {g.name: list(range(g.size)) for g in graph.prunable}
    while not (enough := until(graph))(np.array([g.size for g in graph.groups])):
        scores = score(net, graph, task, images, config, generator)
        if not all(torch.isfinite(s).all() for s in scores.values()):
            raise FloatingPointError(f"{task.name}: scores are not finite; lower the learning rate")
        keep = cut(graph, scores, number, enough)
        if not keep:
            return
        net = apply_recipe(net, graph, keep).eval()
        left |= {name: [left[name][u] for u in units] for name, units in keep.items()}
        yield Stop(net, dict(left), scores)
        graph = trace_groups(net, example)


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> None:
    """Raise BudgetNotMet for a budget that no choice of units meets."""
    del config
    check_reach(graph, budget, least_units(graph), "pruning_by_explaining")


def compress(
    model: nn.Module, task: Task, budget: Budget, config: Config = Config(), *,
    tuning: Training | None, generator: torch.Generator,
) -> Compressed:  # fmt: skip
    """Prune a copy of ``model`` in rounds until the budget is met.

    Args:
        model: the trained net.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations`` to keep.
        config: criterion, reference images, rounds.
        tuning: spent after the rounds and at the end; None trains nothing.
        generator: draws the reference images, then random scores and the order of the data.

    Raises:
        BudgetNotMet: the budget is out of reach without emptying a layer.
        RelevanceError: the net has an operator that hands relevance back by no known rule.
        ValueError: the task has no classes.
    """
    began = perf_counter()
    graph = trace_groups(model, task.example(1).to(next(model.parameters()).device))
    check(model, graph, task, config)
    least = least_units(graph)
    costs = check_reach(graph, budget, least, "pruning_by_explaining")
    target = budget.allowed(costs.dense)
    images = reference(task, config.images, generator)
    number = max(1, round(config.step * sum(g.size for g in graph.prunable)))
    most = -(-most_removals(costs, least, target) // number) or 1  # rounds
    steps = total_steps(task, tuning) if tuning else 0
    after = iter(parts(steps, config.between, most)[:-1])
    stop = Stop(copy.deepcopy(model).eval(), {}, {})
    until = costs_at_most(budget.metric, target)
    losses: list[float] = []
    examples = 0
    trace: dict[str, list] = {"units": []}
    for stop in rounds(model, task, images, config, generator, until):
        trace["units"].append(sum(map(len, stop.recipe.values())))
        if tuning and (some := next(after, 0)):
            spent = fit(stop.net, task, for_steps(task, tuning, some), generator=generator)
            losses += spent.loss
            examples += spent.examples
    recipe = {n: u for n, u in stop.recipe.items() if len(u) < graph[n].size}
    found = finished(
        stop.net, task, tuning, generator=generator, start=began, loss=losses, examples=examples,
        table=channels_table(graph, recipe), recipe=recipe, trace=trace,
    )  # fmt: skip
    found.forward_passes += len(trace["units"])
    found.backward_passes += len(trace["units"])
    return found
