r"""Soft movement (Sanh et al. 2020, ``sanh2020movement``), as Santacroce et al. compare with it.

A gate is open while :math:`\sigma(S_j) > \tau_t`, where the threshold rises by the cubic law from 0
to :math:`\tau`, and the penalty :math:`\lambda_{mvp}\,\frac1n\sum_j \sigma(S_j)` pushes scores
down. How many neurons are left follows from :math:`\lambda_{mvp}`; no budget is met.

Differs from the code as :mod:`.method` does. A layer's best neuron stays.

Cost: one training.
"""

import copy
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from survey_lib.mechanics.gates import gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, shrunk
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.what_matters_llm.measures import neurons
from survey_lib.methods.what_matters_llm.method import kept_at
from survey_lib.methods.what_matters_llm.scores import Scores, pace, walk
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import total_steps

STEERS = "outcome"
KIND = "channels"


@dataclass(frozen=True)
class Config:
    """The code's defaults, but for the knob."""

    lambda_mvp: float = 2.0
    """Weight of the penalty: the larger, the fewer neurons are left."""
    tau: float = 0.1
    """Threshold on σ(S) in the end."""
    t_i: float = 0.1
    t_f: float = 0.3
    eta: float = 0.05
    """Rate of the scores; the code's 0.01 needs more steps than a small net's tuning has."""
    eps: float = 1e-4
    alpha: float = 0.0
    temperature: float = 2.0
    looks: int = 8

    def __post_init__(self) -> None:
        if self.lambda_mvp < 0 or not 0 < self.tau < 0.5 or self.looks < 1:
            raise ValueError("need lambda_mvp ≥ 0, 0 < tau < 0.5 and looks ≥ 1")
        if not (0 <= self.t_i <= 1 - self.t_f <= 1 and 0 <= self.alpha <= 1):
            raise ValueError("need 0 ≤ t_i ≤ 1 - t_f ≤ 1 and 0 ≤ alpha ≤ 1")


def reach(graph: ChannelGraph, budget: None, config: Config) -> None:
    """No budget is met, so none can be out of reach.

    Raises:
        ValueError: a budget all the same.
    """
    del graph, config
    if budget is not None:
        raise ValueError("soft_movement takes no budget: set lambda_mvp, and give budget=None")


def compress(
    model: nn.Module,
    task: Task,
    budget: None = None,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Tune a copy of ``model`` while its neurons' scores fall, then cut out what is left.

    Args:
        model: the dense net, and the teacher.
        task: data and loss.
        budget: None: what is left follows from ``lambda_mvp``.
        config: penalty, threshold, schedule.
        tuning: the whole training; None looks at ``looks`` batches, then cuts at once.
        generator: draws the data order.

    Raises:
        ValueError: a budget.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    net = copy.deepcopy(model)
    one = next(net.parameters())
    graph = trace_groups(net, task.example(1).to(one.device))
    reach(graph, budget, config)
    groups = neurons(graph)
    gates = {
        g.name: torch.ones(g.size, dtype=one.dtype, device=one.device, requires_grad=True)
        for g in groups
    }
    S = Scores(gates, config.eps)
    T = total_steps(task, tuning) if tuning else 0
    trace: dict[str, list[float]] = {"loss": [], "kept": [1.0] if tuning else []}

    def choose(gone: float) -> None:  # the threshold has gone so far
        for g in groups:
            open_ = torch.sigmoid(S.of[g.name]) > config.tau * gone
            best = S.of[g.name].argsort(descending=True, stable=True)[: min(g.least, g.size)]
            open_[best] = True
            gates[g.name].data.copy_(open_)
        left = sum(float(m.detach().sum()) for m in gates.values())
        trace["kept"].append(left / sum(g.size for g in groups))

    examples = passes = 0
    with gated(net, graph, gates):
        steps = walk(
            net, model, task, tuning, alpha=config.alpha, temperature=config.temperature,
            looks=config.looks, generator=generator,
        )  # fmt: skip
        for t, step in enumerate(steps):
            trace["loss"].append(step.loss)
            examples, passes = examples + step.examples, passes + 1
            R = S.penalty(config.lambda_mvp, {}, 0.0)
            S.follow(gates, R, config.eta * pace(step, tuning))
            step.move()
            if t + 1 < T:
                choose(1 - kept_at(t + 1, T, 0.0, config.t_i * T, config.t_f * T))
        choose(1.0)
    recipe = shrunk(graph, {k: m.detach().nonzero().flatten().tolist() for k, m in gates.items()})
    small = apply_recipe(net, graph, recipe).eval()
    return Compressed(
        small,
        channels_table(graph, recipe),
        perf_counter() - start,
        forward_passes=passes,
        backward_passes=passes,
        steps=passes if tuning else 0,
        examples=examples if tuning else 0,
        recipe=recipe,
        trace=trace,
    )
