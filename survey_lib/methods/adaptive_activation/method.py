r"""Adaptive activation-based pruning (Zhao, Jain & Zhao 2022, key ``zhao2022adaptive``).

Train a net, and keep its weights of epoch k. Then, round by round: filters whose activations are
weak fall to a threshold :math:`T[r]` (:mod:`.scores`), what is left goes back to epoch k and is
trained again to the end, and a limit decides (:mod:`.controller`). Kept: the round counts, the
threshold rises by a step. Broken: an earlier round is taken up again, with a shorter step.

Three policies have a limit each: ``accuracy`` (points that may be lost; the net gets as small as it
can), ``memory`` (share of the parameters that may stay) and ``macs`` (of the multiply-accumulates).

Faithful: algorithm 1 with its rewinding of weights and of the learning rate to epoch k
(``rewind="weights"``), the tail of the same schedule in every round; one threshold for the net,
scaled by each layer's share; the controller's three misses.

Differs: the released code has no call that rewinds weights; it rewinds the rate alone, and so does
``rewind="rate"``. Filters are removed with all that reads them, not masked. The scores look at a
fixed number of training images in eval mode, the code at its last batch of the test set. The
limit is judged on validation. λ is so chosen that the first threshold takes a share ``first`` of
the units, since its printed value hangs on the scale of the activations. A cut that broke the
limit once is not trained a second time. What a cut leaves of parameters or MACs is known before it
is trained, so a round that oversteps such a limit costs nothing, and after three of them the last
stretch is cut exactly, in the order in which units fall, because a budget here is the most that
may stay; the code comes near from the other side. One unit of each group stays.

Cost: each round one pass over the score images and one over validation, and the training.
"""

import copy
from time import perf_counter

import numpy as np
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, check_reach, shrunk
from survey_lib.methods.adaptive_activation.config import POLICIES, Config
from survey_lib.methods.adaptive_activation.rounds import Round, Start, accuracy, rounds, smallest
from survey_lib.methods.adaptive_activation.scores import CHUNK
from survey_lib.methods.adaptive_activation.training import shared_out, trained
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import fit, total_steps

STEERS = "outcome"
KIND = "channels"


def reach(graph: ChannelGraph, budget: Budget | None, config: Config) -> None:
    """Raise BudgetNotMet for a budget out of reach, ValueError for one that the policy lacks."""
    wanted = POLICIES[config.policy]
    if (budget.metric if budget else "") != wanted:
        raise ValueError(
            f"adaptive_activation: policy {config.policy} takes "
            + (f"a budget of {wanted}" if wanted else "no budget, its limit is target")
            + f", got {f'{budget.metric}={budget.keep:g}' if budget else 'none'}"
        )
    if budget:
        least = np.array([g.size if g.protected else min(g.size, g.least) for g in graph.groups])
        check_reach(graph, budget, least, "adaptive_activation")


def compress(
    model: nn.Module, task: Task, budget: Budget | None, config: Config = Config(), *,  # noqa: B008 (frozen)
    tuning: Training | None, generator: torch.Generator,
) -> Compressed:  # fmt: skip
    """Prune a copy of ``model`` in rounds; a limit decides which of them count.

    To rewind weights, a past is needed. ``model`` is therefore taken as W_0 and trained for T
    epochs first; where the rate alone is rewound it is W_T.

    Args:
        model: a net, trained or not.
        task: data and loss.
        budget: None for policy ``accuracy``; for ``memory`` the ``params``, for ``macs`` the
            ``macs`` that may stay.
        config: policy, limit, rounds, score.
        tuning: dealt out over the rounds. What the rounds leave over trains the net that they end
            with; under policy ``accuracy`` the longer trained net is returned where validation
            finds it no worse. None trains nothing.
        generator: draws the score images and the order of the data.

    Raises:
        BudgetNotMet: a budget out of reach.
        ValueError: a budget that the policy does not take, or a task not measured by accuracy
            under policy ``accuracy``.
    """
    began = perf_counter()
    graph = trace_groups(model, task.example(1).to(next(model.parameters()).device))
    reach(graph, budget, config)
    if budget is None and task.metric != "accuracy":
        raise ValueError(
            f"adaptive_activation: {task.name} is measured by {task.metric}; policy accuracy "
            "needs a task that is measured by accuracy"
        )
    rewinds = config.rewind == "weights" and tuning is not None
    plan = shared_out(
        task, tuning, config.k, config.rounds, whole=rewinds, closing=budget is not None
    )
    net, early = copy.deepcopy(model).eval(), None
    loss: list[float] = []
    examples, left = 0, total_steps(task, tuning) if tuning else 0
    if rewinds and plan.recipe:
        early, spent = trained(net, task, plan.recipe, plan.k, generator=generator)
        loss, examples = spent.loss, spent.examples
    found: list[Round] = []
    start = Start(net, early)
    for r in rounds(start, task, config, plan, generator, budget):
        found.append(r)
        loss += r.loss
        examples += r.examples
    best = smallest(found)
    out = best.net
    if tuning and len(loss) < left:  # the rounds ended before the tuning did
        longer = copy.deepcopy(out)
        rest = fit(longer, task, for_steps(task, tuning, left - len(loss)), generator=generator)
        loss, examples = loss + rest.loss, examples + rest.examples
        if budget is not None or accuracy(longer, task) >= best.val:
            out = longer
    recipe = shrunk(graph, best.recipe)
    looks = -(-min(config.images, len(task.train)) // CHUNK)
    return Compressed(
        out.eval(), channels_table(graph, recipe), perf_counter() - began,
        forward_passes=len(loss) + looks * len(found), backward_passes=len(loss),
        steps=len(loss), examples=examples, recipe=recipe, trace={"loss": loss} | told(found),
    )  # fmt: skip


def told(found: list[Round]) -> dict[str, list]:
    """The rounds in columns."""
    return {
        "round": [r.number for r in found],
        "base": [r.base for r in found],
        "threshold": [r.threshold for r in found],
        "step": [r.step for r in found],
        "reduction": [r.reduction for r in found],
        "val": [r.val for r in found],
        "size": [r.size for r in found],
        "good": [r.good for r in found],
        "steps": [len(r.loss) for r in found],
    }
