r"""Parameterized structured pruning (Schindler et al. 2019, key ``schindler2019parameterized``).

Every structure :math:`i` of a weight tensor has one more number, its *dense structure parameter*
:math:`\alpha_i`. The forward pass uses the *sparse* one and multiplies all weights of the structure
by it:

.. math:: \nu_i = \begin{cases} 0 & |\alpha_i| < \epsilon \\ \alpha_i & \text{otherwise}
   \end{cases} , \qquad q_{ij} = \nu_i w_{ij} .

The backward pass ignores the threshold (straight-through), so that a structure that is off still
feels whether it is missed and can come back; the weights feel :math:`\nu_i`:

.. math:: \frac{\partial E}{\partial \alpha_i} := \frac{\partial E}{\partial \nu_i}
   = \sum_j \frac{\partial E}{\partial q_{ij}} w_{ij} , \qquad
   \frac{\partial E}{\partial w_{ij}} = \nu_i \frac{\partial E}{\partial q_{ij}} .

Both are trained together. Weight decay :math:`\lambda` pulls on the structure parameters (equation
6): :math:`\Delta\alpha_i \leftarrow \mu\,\Delta\alpha_i - \eta\,\partial E / \partial\alpha_i -
\lambda\eta\,\alpha_i`. In the end :math:`q` becomes the weight, and zero structures may go.

Faithful: threshold on :math:`|\alpha|` in the forward pass, straight-through gradient, weight decay
on :math:`\alpha` in a parameter group of its own, momentum, weights trained along, sparsity that
nobody prescribes. The variants of figure 3: an ℓ1 penalty in place of the decay, and a fixed share
of the smallest :math:`|\alpha|` in place of the threshold.

Not verified, chosen here: what a column and a shape are (:data:`AXES`), that :math:`\alpha` starts
at 1, :math:`\epsilon`, which layers are structured, that a fixed share is that of each layer.

Differs: momentum is Nesterov's, as in all trainings of this library; structure parameters may have
a learning rate of their own, a multiple of the weights'; for the last steps the mask stays as it is
and the penalty ends, since structures cross the threshold back and forth.

Cost: one ordinary training, and a product per weight and step.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from survey_lib.mechanics.masks import keep_largest, masks_table
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.parameterized_structured.layers import fold, sparsity, structured_weights
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import Step, total_steps, training

STEERS = "outcome"
KIND = "weights"
AXES = {"column": (1, 2, 3), "channel": (1,), "filter": (0,), "shape": (2, 3), "layer": ()}
"""Granularity → axes of a weight (K, C, R, S) along which structures differ.

A *column* is one of the C · R · S columns of the weight as a matrix of K rows, a *channel* all that
reads one input channel, a *filter* all that makes one output channel, a *shape* one place (r, s) of
the kernel for all channels and filters, a *layer* the whole tensor.
"""
PENALTIES = ("decay", "l1")


@dataclass(frozen=True)
class Config:
    """The paper's symbols; values chosen here, since the paper's are not verified."""

    granularity: str = "column"
    """A key of :data:`AXES`."""
    decay: float = 0.04
    r"""λ, the strength of the penalty on :math:`\alpha`: the knob."""
    penalty: str = "decay"
    r"""``decay`` (:math:`\frac\lambda2 \alpha^2`) or ``l1`` (:math:`\lambda |\alpha|`)."""
    epsilon: float = 0.1
    """ε."""
    share: float = 0.0
    """Not 0: in place of ε, this share of the smallest |α| of each layer is zero."""
    rate: float = 1.0
    """Learning rate of the structure parameters, as a multiple of that of the weights."""
    frozen: float = 0.5
    """Share of the steps, the last ones, for which the mask stays as it is."""

    def __post_init__(self) -> None:
        if self.granularity not in AXES:
            raise ValueError(f"no granularity {self.granularity!r}; use one of {', '.join(AXES)}")
        if self.penalty not in PENALTIES:
            raise ValueError(f"no penalty {self.penalty!r}; use one of {', '.join(PENALTIES)}")
        if not 0 <= self.epsilon < 1 or self.decay < 0:
            raise ValueError(
                f"need 0 ≤ epsilon < 1, where α starts, and decay ≥ 0; got {self.epsilon} "
                f"and {self.decay}"
            )
        if not 0 <= self.share < 1 or not 0 <= self.frozen < 1:
            raise ValueError(
                f"share and frozen must lie in [0, 1), got {self.share} and {self.frozen}"
            )


class Threshold(torch.autograd.Function):
    """ν(α), with the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, alpha: Tensor, epsilon: float) -> Tensor:  # pyright: ignore
        """ν = α where |α| ≥ ε, else 0."""
        del ctx
        return alpha * (alpha.abs() >= epsilon)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore
        """∂E/∂α := ∂E/∂ν."""
        del ctx
        return grad, None


class Structures(nn.Module):
    """The structure parameters of one weight; as a parametrization, it makes q of w."""

    def __init__(self, weight: Tensor, config: Config):
        super().__init__()
        axes = AXES[config.granularity]
        shape = [n if axis in axes else 1 for axis, n in enumerate(weight.shape)]
        self.alpha = nn.Parameter(torch.ones(shape, dtype=weight.dtype, device=weight.device))
        self.epsilon = config.epsilon
        self.share = config.share
        self.mask: Tensor | None = None
        """Once it is frozen."""

    @torch.no_grad()
    def kept(self) -> Tensor:
        """Boolean, of α's shape: which structures the forward pass uses now."""
        if self.mask is not None:
            return self.mask
        size = self.alpha.abs()
        if self.share:
            return keep_largest(size, size.numel() - round(self.share * size.numel()))
        return size >= self.epsilon

    @torch.no_grad()
    def rank(self) -> None:
        """Where a share is fixed, ε becomes the size of the smallest |α| that is kept."""
        if self.share:
            size = self.alpha.abs().flatten()
            number = min(round(self.share * size.numel()), size.numel() - 1)
            self.epsilon = float(size.sort().values[number])

    def freeze(self) -> None:
        """From now on the mask stays as it is."""
        self.mask = self.kept()

    def nu(self) -> Tensor:
        """The sparse structure parameters."""
        if self.mask is not None:
            return self.alpha * self.mask
        return Threshold.apply(self.alpha, self.epsilon)  # type: ignore[return-value]

    def forward(self, w: Tensor) -> Tensor:
        """The weight that the layer computes with: q = ν w, of w's shape."""
        return w * self.nu()


def attach(model: nn.Module, config: Config) -> dict[str, Structures]:
    """Give structure parameters to a net, in place: by name of the weight."""
    found = {}
    for name, weight in structured_weights(model).items():
        module = model.get_submodule(name.removesuffix(".weight"))
        found[name] = Structures(weight, config)
        parametrize.register_parametrization(module, "weight", found[name])
    return found


def groups(
    model: nn.Module, structures: Mapping[str, Structures], config: Config
) -> list[dict[str, Any]]:
    """The optimiser's groups: weights with the recipe's decay, structure parameters with λ."""
    alphas = [s.alpha for s in structures.values()]
    own = {id(a) for a in alphas}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in own]
    decay = config.decay if config.penalty == "decay" else 0.0
    return [{"params": rest}, {"params": alphas, "weight_decay": decay, "rate": config.rate}]


def train(
    model: nn.Module, structures: Mapping[str, Structures], task: Task, recipe: Training,
    config: Config, *, generator: torch.Generator,
) -> Iterator[Step]:  # fmt: skip
    """Train weights and structure parameters of ``model`` in place; stops after each move.

    The mask is frozen in time, and the iterator stops once more with it frozen.
    """
    steps = total_steps(task, recipe)
    last = steps - round(config.frozen * steps)
    made = groups(model, structures, config)
    for step in training(model, task, recipe, generator=generator, groups=made):
        for s in structures.values() if config.penalty == "l1" else ():
            if s.alpha.grad is not None and s.mask is None:
                s.alpha.grad += config.decay * s.alpha.detach().sign()
        step.move()
        for s in structures.values():
            if s.mask is None:
                s.rank()
        if step.number + 1 == last:
            for s in structures.values():
                s.freeze()
            step.optimizer.param_groups[1]["weight_decay"] = 0.0  # there is nothing left to choose
        yield step


def compress(
    model: nn.Module,
    task: Task,
    budget: None,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Train a copy of ``model`` with structure parameters; what ends below ε is zero.

    Args:
        model: where to start from: a fresh net, or a trained one.
        task: data and loss.
        budget: None; the sparsity comes out and is reported (``trace["sparsity"]``, of each step).
        config: granularity, λ, ε.
        tuning: the training in which it happens. None trains nothing, and all structures stay.
        generator: draws the data order.

    Raises:
        ValueError: a budget, or nothing that may move.
    """
    if budget is not None:
        raise ValueError("parameterized_structured takes no budget: steer it by decay=… (λ)")
    start = perf_counter()
    model = copy.deepcopy(model)
    weights = structured_weights(model)
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    losses: list[float] = []
    path: list[float] = []
    examples = 0
    if tuning:
        structures = attach(model, config)
        for step in train(model, structures, task, tuning, config, generator=generator):
            losses.append(step.loss)
            path.append(sparsity(structures))
            examples += step.examples
        masks = fold(model, structures)
    return Compressed(
        model.eval(), masks_table(masks), perf_counter() - start,
        forward_passes=len(losses), backward_passes=len(losses), steps=len(losses),
        examples=examples, masks=masks, trace={"loss": losses, "sparsity": path},
    )  # fmt: skip
