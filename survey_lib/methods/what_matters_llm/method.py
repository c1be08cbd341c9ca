r"""Gradual pruning of neurons, and GUM (Santacroce et al. 2023, key ``santacroce2023what``).

A net is tuned while its neurons go. Each neuron j has a gate :math:`M_j \in \{0, 1\}` on what it
puts out. The share kept falls by a cubic law, from 1 to :math:`v_f` between steps :math:`t_i` and
:math:`T - t_f`,

.. math:: v_t = v_f + (1 - v_f)\Big(1 - \frac{t - t_i}{T - t_i - t_f}\Big)^3,

and at each step the gates of the neurons with the largest scores are open, one ranking for all
layers (``scope="global"``). Where scores come from is the ``criterion``:

- ``random``: drawn once. ``magnitude``: :math:`\|W_{fc, j:}\|_2` as it is now.
- ``top_v``: movement. The gradient of the gate is handed to the score straight through, also where
  the gate is shut: :math:`\partial L/\partial S_j := \partial L/\partial M_j`, so that the score
  grows while training moves the neuron away from zero.
- ``gum``: movement, and a penalty on scores that grows with likeness to the neurons kept,

.. math:: R = \lambda_{mvp} \frac{v_t}{v_f}\, \mathrm{mean}_{layers} \frac1n \sum_j
          (1 + \lambda_{gum} U_j)\, \sigma(S_j), \qquad
          U_j = \frac{1}{n v_t} \sum_{i \ne j,\ M_i = 1} |\mathrm{sim}_{ij}| .

The paper's text was not at hand: formulas and defaults are those of its code. What is kept is cut
out in the end. With ``alpha`` > 0 the net also learns from the dense one (temperature T):
:math:`(1 - \alpha) L + \alpha T^2 KL(p^{dense}_T \| p_T)`.

Faithful: schedule, straight-through gates, one threshold for all layers, the penalty and its
weight :math:`v_t / v_f`, scores moved by Adam (0.01, ε 1e-4) along the training's schedule.

Differs: one gate a neuron, before :math:`W_{proj}`; the code masks :math:`W_{fc}` and
:math:`W_{proj}` by one score, which in our nets without biases would leave a shut neuron without
any gradient, so it could never return. Similarities are a running mean with a memory of about ten
steps over ``tokens`` of each batch (the code's mean forgets within one). A shut neuron stays
comparable with those kept. Every layer keeps a neuron. Magnitude ranks whole neurons; the code
ranks rows and columns apart. Works on any net whose channels can be followed.

Cost: one training; for ``gum`` n² products a token looked at; with ``alpha`` a forward pass of the
dense net a step.
"""

import copy
from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.filters import filters
from survey_lib.mechanics.gates import gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, check_reach, shrunk
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.what_matters_llm.choice import Plan, least_kept
from survey_lib.methods.what_matters_llm.measures import Moments, redundancy, similarity
from survey_lib.methods.what_matters_llm.scores import Scores, pace, walk
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import total_steps

STEERS = "budget"
KIND = "channels"
CRITERIA = ("gum", "top_v", "magnitude", "random")


@dataclass(frozen=True)
class Config:
    """The paper's symbols; defaults are those of its code."""

    criterion: str = "gum"
    """``gum``, ``top_v`` (movement), ``magnitude`` or ``random``."""
    scope: str = "global"
    """``global`` (one ranking) or ``local`` (the same share of each layer)."""
    lambda_mvp: float = 2.0
    """Weight of the penalty on scores, of movement as well."""
    lambda_gum: float = 16.0
    """How much likeness adds to it; 0 is movement. Our choice, as the tables' value is not known:
    U differs by some 0.04 within a layer, so that one unit of λ would move nothing."""
    t_i: float = 0.1
    """Share of the steps before anything goes …"""
    t_f: float = 0.3
    """… and of those at the end with all gone."""
    eta: float = 0.01
    """Rate of the scores, at the peak of the schedule."""
    eps: float = 1e-4
    """ε of their Adam; infinite: S ← S - η ∂L/∂S, the plain sum that defines movement."""
    memory: float = 0.9
    """Of the running similarities."""
    tokens: int = 512
    """Tokens of each batch they look at."""
    alpha: float = 0.0
    """Share of distillation in the loss; the code's is 0.5."""
    temperature: float = 2.0
    looks: int = 8
    """Batches that movement looks at where nothing is trained."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA:
            raise ValueError(f"no criterion {self.criterion!r}; use one of {', '.join(CRITERIA)}")
        if self.scope not in ("global", "local"):
            raise ValueError(f"no scope {self.scope!r}; use global or local")
        if not (0 <= self.t_i <= 1 - self.t_f <= 1 and 0 <= self.alpha <= 1):
            raise ValueError("need 0 ≤ t_i ≤ 1 - t_f ≤ 1 and 0 ≤ alpha ≤ 1")
        if self.looks < 1 or not 0 <= self.memory < 1:
            raise ValueError("need looks ≥ 1 and 0 ≤ memory < 1")


def kept_at(t: float, T: float, v_f: float, t_i: float, t_f: float) -> float:
    """v_t, the share kept before step ``t`` of ``T``; ``t_i`` and ``t_f`` in steps too."""
    if t <= t_i:
        return 1.0
    if t >= T - t_f:
        return v_f
    return v_f + (1 - v_f) * (1 - (t - t_i) / (T - t_i - t_f)) ** 3


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> None:
    """Raise BudgetNotMet for a budget that no choice of neurons meets."""
    del config
    check_reach(graph, budget, least_kept(graph), "what_matters_llm")


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Tune a copy of ``model`` while neurons go, then cut out what is left.

    Args:
        model: the dense net, and the teacher.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations`` to keep.
        config: where scores come from, and the schedule.
        tuning: the whole training; None: ``looks`` batches are looked at, then all goes at once.
        generator: draws random scores first, then the data order.

    Returns:
        The small net; in ``trace`` the share of neurons kept at each step.

    Raises:
        BudgetNotMet: the budget is out of reach without emptying a layer.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    net = copy.deepcopy(model)
    one = next(net.parameters())
    graph = trace_groups(net, task.example(1).to(one.device))
    reach(graph, budget, config)
    plan = Plan(graph, budget, config.scope)
    gates = {g.name: torch.ones(g.size, dtype=one.dtype, device=one.device) for g in plan.groups}
    moves = config.criterion in ("gum", "top_v")
    S = Scores(gates, config.eps)
    if config.criterion == "random":
        S.of = {k: torch.rand(len(m), generator=generator, device="cpu") for k, m in gates.items()}
    likeness = config.lambda_gum if config.criterion == "gum" else 0.0
    C = Moments(net, graph, config.memory, config.tokens)
    T = total_steps(task, tuning) if tuning else 0
    trace: dict[str, list[float]] = {"loss": [], "kept": []}

    def choose(v: float) -> None:  # open the gates of the top v
        if config.criterion == "magnitude":
            S.of = {g.name: filters(net, g).square().sum(1).sqrt() for g in plan.groups}
        for name, mask in plan.top(S.of, v).items():
            gates[name].data.copy_(mask)
        trace["kept"].append(float(sum(m.detach().sum() for m in gates.values())) / plan.size)

    examples = passes = 0
    with ExitStack() as stack:
        if moves:
            for gate in gates.values():
                gate.requires_grad_()
        if likeness:
            stack.enter_context(C.watching())
        stack.enter_context(gated(net, graph, gates))
        steps = walk(
            net, model, task, tuning, alpha=config.alpha, temperature=config.temperature,
            looks=config.looks if moves else 0, generator=generator,
        )  # fmt: skip
        v = 1.0
        if tuning:
            trace["kept"].append(v)
        for t, step in enumerate(steps):
            trace["loss"].append(step.loss)
            examples, passes = examples + step.examples, passes + 1
            if moves:
                U = {
                    k: redundancy(similarity(c), gates[k].detach() > 0, v) for k, c in C.of.items()
                }
                weight = v / plan.v_f if tuning else 1.0  # untrained, scores know no budget
                R = S.penalty(config.lambda_mvp * weight, U, likeness)
                S.follow(gates, R, config.eta * pace(step, tuning))
            step.move()
            if t + 1 < T:
                v = kept_at(t + 1, T, plan.v_f, config.t_i * T, config.t_f * T)
                choose(v)
        choose(plan.v_f)
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
