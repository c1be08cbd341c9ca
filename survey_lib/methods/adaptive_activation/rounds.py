"""Algorithm 1: rounds of pruning, rewinding, training and judging."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import select, shrunk
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods.adaptive_activation import scores
from survey_lib.methods.adaptive_activation.config import Config
from survey_lib.methods.adaptive_activation.controller import Controller
from survey_lib.methods.adaptive_activation.training import Plan, retrained
from survey_lib.tasks.task import Task
from survey_lib.tasks.train import evaluate

FINEST = 2**6
"""The search ends when the step is so much shorter than the first one."""
LONGEST = 100
"""Judgements for each round that may be trained; a guard."""


@dataclass(frozen=True)
class Start:
    """Round 0: the trained net, and what it was at epoch k."""

    net: nn.Module
    """W_T^0"""
    early: nn.Module | None = None
    """W_k^0; not needed to rewind the rate alone."""


@dataclass
class Round:
    """A round, kept or not; round 0 is the net that was given."""

    number: int
    base: int
    """The good round it started from."""
    threshold: float
    """T[r]"""
    step: float
    """λ that led to it."""
    net: nn.Module
    recipe: Recipe
    """Units of the dense net that are left, of every group."""
    size: float
    """Share of the metric that is left."""
    val: float
    """Validation accuracy, a share."""
    reduction: float = 0.0
    """Points lost, or percent of the metric that is gone."""
    good: bool = True
    loss: list[float] = field(default_factory=list)
    """Of each training step."""
    examples: int = 0


def accuracy(net: nn.Module, task: Task) -> float:
    """On validation, a share; NaN where the task is measured otherwise."""
    return evaluate(net, task.val, task).get("accuracy", float("nan"))


def rounds(
    start: Start, task: Task, config: Config, plan: Plan, generator: torch.Generator,
    budget: Budget | None = None,
) -> Iterator[Round]:  # fmt: skip
    """Algorithm 1, from round 0 on, each round when it has been judged.

    Args:
        start: the trained net and its early weights.
        task: data and loss.
        config: policy, score, rewinding.
        plan: how each round trains; None in its recipe trains nothing.
        generator: draws the score images, then the data orders.
        budget: of the policies with a size; the last round then meets it.
    """
    example = task.example(1).to(next(start.net.parameters()).device)
    images = scores.score_images(task.train.x, config.images, generator).to(example)
    graph = trace_groups(start.net, example)
    costs, sized = Costs(graph, config.metric), budget is not None
    limit = config.target if budget is None else 100 * (1 - budget.keep) + 1e-9

    whole = {g.name: list(range(g.size)) for g in graph.prunable}

    def scored(net: nn.Module) -> tuple[ChannelGraph, dict[str, np.ndarray]]:
        now = trace_groups(net, example)
        # the width of an attention's last head is a group of its own in the cut net alone: it stays
        old = tuple(g for g in now.groups if g.protected or g.name in whole)
        now = replace(now, groups=old)
        s = scores.attention(net, now, images, config.p, config.attention)
        if not all(torch.isfinite(each).all() for each in s.values()):
            raise FloatingPointError(
                f"{task.name}: activations are not finite; lower the learning rate"
            )
        return now, scores.fall_at(s, now, config.metric)

    dense = Round(0, 0, 0.0, 0.0, start.net, whole, 1.0, accuracy(start.net, task))
    kept, seen = {0: dense}, {0: scored(start.net)}
    broken: dict[tuple, float] = {}
    controller = Controller(limit, scores.first_step(seen[0][1], config.first))
    finest = controller.step / FINEST

    def cut(base: int, keep: Recipe, steps: int, *, judged: bool = True) -> Round:
        old, (now, _) = kept[base], seen[base]
        recipe = old.recipe | {n: [old.recipe[n][u] for u in units] for n, units in keep.items()}
        size = costs(np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups]))
        r = Round(len(made) + 1, base, controller.threshold, controller.step, old.net, recipe,
                  size / costs.dense, old.val)  # fmt: skip
        r.reduction = 100 * (1 - r.size)
        if judged and sized and r.reduction > limit:
            return r  # known before it is trained
        if config.rewind == "weights" and plan.recipe and start.early is not None:
            r.net = apply_recipe(start.early, graph, recipe)  # W_k^0 ⊙ M^r
        else:
            r.net = apply_recipe(old.net, now, keep)  # W_T^{r-1} ⊙ M^r
        if plan.recipe and steps:
            spent = retrained(r.net, task, plan.recipe, plan.k, steps, generator=generator)
            r.loss, r.examples = spent.loss, spent.examples
        r.net.eval()
        r.val = accuracy(r.net, task)
        if not sized:
            r.reduction = 100 * (dense.val - r.val)
        return r

    made: list[Round] = []
    dense.good, base = controller.judge(0, dense.reduction)
    yield dense
    tried = 0
    for _ in range(LONGEST * plan.rounds):
        if base is None or tried >= plan.rounds or controller.step < finest:
            break
        now, at = seen[base]
        keep = scores.above(now, at, controller.threshold)
        if not keep:  # nothing falls: the round is the one before
            if all(g.size <= g.least for g in now.prunable):
                break
            _, base = controller.judge(base, kept[base].reduction)
            continue
        cuts = base, *((n, *units) for n, units in sorted(keep.items()))
        if cuts in broken:
            _, base = controller.judge(base, broken[cuts])
            continue
        r = cut(base, keep, plan.each)
        made.append(r)
        r.good, base = controller.judge(r.number, r.reduction)
        tried += bool(not sized or r.good)
        if r.good:
            kept[r.number], seen[r.number] = r, scored(r.net)
        else:
            broken[cuts] = r.reduction
        yield r
        if sized and not r.good and controller.misses == 0:
            break
    if budget is not None:
        last = smallest([*kept.values()])
        now, at = seen[last.number]
        left = min(1.0, budget.allowed(costs.dense) / Costs(now, config.metric).dense)
        exact = {name: torch.from_numpy(v) for name, v in at.items()}
        keep = shrunk(now, select(now, exact, Budget(config.metric, left)))
        used = plan.whole + sum(len(r.loss) for r in made)
        steps = plan.total - used if plan.total else plan.last
        if keep or steps:
            r = cut(last.number, keep, steps, judged=False)
            fallen = [
                at[n][u] for n, units in keep.items() for u in {*range(len(at[n]))} - {*units}
            ]
            r.threshold = float(max(fallen, default=r.threshold))
            yield r


def smallest(found: list[Round]) -> Round:
    """Of the rounds that kept the limit the smallest net, the latest of equals; else round 0."""
    return min((r for r in found if r.good or r.number == 0), key=lambda r: (r.size, -r.number))
