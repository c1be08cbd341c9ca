r"""SeReNe and LOBSTER (Bragagnolo et al. 2021, bibliography key ``bragagnolo2021role``).

Both train on, and after each step of the optimiser (:math:`\tilde w`) shrink what is not sensitive,

.. math:: w \leftarrow \tilde w - \lambda \tilde w [1 - S]_+ ,

with a rate :math:`\lambda` of its own, not multiplied by the learning rate:

- ``lobster`` (``tartaglione2020lobster``): :math:`S_k = |\partial L / \partial w_k|` for each
  weight and bias, of the batch that the step was made with.
- ``serene`` (``tartaglione2021serene``): one :math:`S_i` for all weights that make neuron
  (channel) :math:`i`, of the net's *output*; biases are left alone.
- ``decay``, the control: :math:`S = 0`, decoupled weight decay.

When the validation loss no longer falls, the largest threshold T is sought by bisection at which
zeroing all :math:`|w| < T` raises that loss by at most ``twt``; then training goes on.

Faithful: both rules, biases, masks after the step, one T for all layers, its search. ``zeros``
is the authors' choice of what stays at zero: ``weights`` each one, ``neurons`` only those whose
whole row is zero (the others may grow again).

Differs: both return the end of the bracket that keeps the bound (LOBSTER's code its middle, which
may break it); S is averaged over single images, of one backward pass for
the lower bound (the code's full S is of the batch's mean, and so smaller by the batch size; its
lower bound reads one channel); training is the caller's recipe, from the net that is given; rounds
end with the first ``1 − settle`` of the steps, then the zeros stay, λ is off and the rest is spent.

Cost: the training; SeReNe one more backward pass, to activations only, in every step; a dozen
passes over the validation split a round.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from survey_lib.mechanics.masks import masks_table
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.role_of_structured.layers import Listener, layers_of
from survey_lib.methods.role_of_structured.thresholds import Zeros
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import evaluate, pass_steps, total_steps, training

STEERS = "outcome"
KIND = "weights"
CRITERIA = ("serene", "lobster", "decay")
FORMS = ("lower", "full", "local")
ROUND = ("step", "threshold", "before", "after", "tries", "zeros")


@dataclass(frozen=True)
class Config:
    """The papers' symbols; defaults of the public code, shortened where trainings are short."""

    criterion: str = "serene"
    """``serene``, ``lobster`` or ``decay``."""
    lam: float = 1e-4
    r"""λ, the share of an insensitive weight that goes in one step."""
    twt: float = 0.05
    """By how much, as a share, a threshold may raise the validation loss."""
    pwe: int = 1
    """Checks without progress after which the loss is on its plateau."""
    zeros: str = ""
    """What stays at zero: ``weights`` or ``neurons``; empty: as the criterion's authors do."""
    form: str = "lower"
    """SeReNe's S: ``lower`` (bound, one backward pass), ``full`` (one an output), ``local``."""
    check: float = 0.5
    """Passes over the training data from one look at the validation loss to the next."""
    settle: float = 0.25
    """Share of the steps, the last ones, in which zeros stay and λ is off."""

    def __post_init__(self) -> None:
        if self.criterion not in CRITERIA or self.form not in FORMS:
            raise ValueError(
                f"no criterion {self.criterion!r} of form {self.form!r}; use one of "
                f"{', '.join(CRITERIA)} and one of {', '.join(FORMS)}"
            )
        if self.zeros not in ("", "weights", "neurons"):
            raise ValueError(f"zeros are kept by weights or neurons, not by {self.zeros!r}")
        if not 0 <= self.lam < 1 or self.twt < 0 or self.pwe < 1:
            raise ValueError(f"need 0 ≤ λ < 1, TWT ≥ 0 and PWE ≥ 1, got {self}")
        if self.check <= 0 or not 0 <= self.settle < 1:
            raise ValueError(f"need check > 0 and 0 ≤ settle < 1, got {self}")

    @property
    def by_neuron(self) -> bool:
        """Whether only neurons whose whole row is zero stay at zero."""
        return (self.zeros or {"serene": "neurons"}.get(self.criterion)) == "neurons"

    @property
    def biases(self) -> bool:
        """Whether biases shrink too: LOBSTER's do, and those of the control that keeps weights."""
        return self.criterion == "lobster" or (self.criterion == "decay" and not self.by_neuron)


# ---- sensitivity


def sensitivity(y: Tensor, p: Sequence[Tensor], form: str = "lower") -> list[Tensor]:
    r"""SeReNe's :math:`S_i` of each layer's neurons.

    Args:
        y: (N, C) outputs of the net, with their graph; it is still there afterwards.
        p: pre-activations of each layer, (N, I) or (N, I, positions …).
        form: ``full`` :math:`\frac1C\sum_k |\partial y_k / \partial p_i|`, ``lower``
            :math:`\frac1C |\sum_k \partial y_k / \partial p_i|`, both of each image and position
            and then averaged; ``local`` 1 where the mean of :math:`p_i` is positive.

    Returns:
        (I,) for each layer.
    """
    if form == "local":
        return [q.detach().transpose(0, 1).flatten(1).mean(1).gt(0).to(q.dtype) for q in p]
    alpha, y = 1 / y.shape[-1], y.flatten(0, -2)  # α = 1/C
    # an image's outputs depend on its own pre-activations alone, so that the gradient of the sum
    # over images holds that of each
    tops = y.sum(0).unbind() if form == "full" else [y.sum()]
    found = [torch.zeros(q.shape[1], dtype=q.dtype, device=q.device) for q in p]
    for top in tops:
        grads = torch.autograd.grad(top, p, retain_graph=True, allow_unused=True)
        for s, g in zip(found, grads, strict=True):
            if g is not None:  # (N, I, …) → (I,)
                s += alpha * g.abs().transpose(0, 1).flatten(1).mean(1)
    return found


@torch.no_grad()
def shrink(w: Tensor, s: Tensor | float, lam: float) -> None:
    r"""In place: :math:`w \leftarrow w - \lambda w [1 - S]_+`.

    Args:
        w: (I, …) weights after the optimiser's step.
        s: one number for all, (I,) one for each row, or of w's own shape.
        lam: λ.
    """
    if isinstance(s, Tensor):
        s = s.view(-1, *[1] * (w.ndim - 1)) if s.ndim < w.ndim else s
        w.sub_(lam * w * (1 - s).clamp(min=0))
    else:
        w.sub_(lam * w * max(0.0, 1 - s))


# ---- the method


def compress(
    model: nn.Module,
    task: Task,
    budget: None,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Train a copy of ``model`` by ``tuning``, shrink what is not sensitive, cut what is small.

    Args:
        model: where to start from.
        task: data and loss; its validation split finds plateaus and thresholds.
        budget: None; λ and TWT steer, and what they reach is reported.
        config: the regulariser and the rounds.
        tuning: the whole training. None: one threshold, for the weights as they are.
        generator: draws the data order.

    Returns:
        The net with its zeros; in ``trace`` the ``loss`` of each step, and of each round its step,
        threshold, loss before and after, tries and zeros; of each check (``checked``, in steps)
        the validation loss and the mean of S.

    Raises:
        ValueError: a budget was given.
    """
    if budget is not None:
        raise ValueError(
            f"role_of_structured takes no budget, got {budget}; steer by lam and twt (budget=None)"
        )
    start = perf_counter()
    model = copy.deepcopy(model)
    layers = layers_of(model)
    zeros = Zeros(layers, config.by_neuron)
    rounds: list[dict[str, float]] = []
    trace: dict[str, list[float]] = {"loss": [], "checked": [], "val_loss": [], "mean_s": []}
    examples = 0

    def cut(number: int) -> None:
        found = zeros.threshold(model, task, config.twt)
        rounds.extend([{"step": number} | found] if found else [])

    listener = Listener(layers if config.criterion == "serene" and tuning else {})
    s_of: dict[str, Tensor] = {}  # S by parameter

    def loss(y: Tensor, target: Tensor, _x: Tensor) -> Tensor:
        p = {n: q for n, q in listener.p.items() if q.requires_grad}
        if p and len(trace["loss"]) < until:
            found = sensitivity(y, list(p.values()), config.form)
            s_of.update({f"{n}.weight": s for n, s in zip(p, found, strict=True)})
        return task.loss(y, target)

    if tuning is None:
        cut(0)
    steps = total_steps(task, tuning) if tuning else 0
    until = max(1, round((1 - config.settle) * steps))
    every = max(1, round(config.check * pass_steps(len(task.train), tuning.batch if tuning else 1)))
    shrunk = {n: w for n, w in zeros.weights.items() if config.biases or n.endswith("weight")}
    best, bad, state = float("inf"), 0, copy.deepcopy(model.state_dict())
    try:
        for step in training(model, task, tuning, generator=generator, loss=loss) if tuning else ():
            if config.criterion == "lobster":  # S_k of the gradient before the step
                s_of = {n: w.grad.abs() for n, w in shrunk.items() if w.grad is not None}
            step.move()
            number = step.number + 1
            if number <= until:
                for n, w in shrunk.items():
                    if w.requires_grad:
                        shrink(w, s_of.get(n, 0.0), config.lam)
            zeros.apply()
            trace["loss"].append(step.loss)
            examples += step.examples
            if number > until or (number % every and number != until):
                continue
            value = evaluate(model, task.val, task)["loss"]
            trace["checked"].append(number)
            trace["val_loss"].append(value)
            trace["mean_s"].append(mean_of(s_of, shrunk))
            bad = 0 if value < 1.01 * best else bad + 1
            if value < best:
                best, state = value, copy.deepcopy(model.state_dict())
            if bad >= config.pwe or number == until:
                model.load_state_dict(state)
                cut(number)
                best, bad = float("inf"), 0
    finally:
        listener.close()
    masks = {n: w.detach() != 0 for n, w in zeros.weights.items()}
    backward = steps + (until if listener.p else 0)
    return Compressed(
        model.eval(), masks_table(masks), perf_counter() - start, steps, backward, steps, examples,
        masks=masks, trace=trace | {k: [r[k] for r in rounds] for k in ROUND},
    )  # fmt: skip


def mean_of(s_of: Mapping[str, Tensor], shrunk: Mapping[str, Tensor]) -> float:
    """Mean of S over the parameters that shrink, each one counted."""
    total = sum(float(s.mean()) * shrunk[n].numel() for n, s in s_of.items() if n in shrunk)
    return total / max(1, sum(w.numel() for w in shrunk.values()))
