r"""Rethinking the value of network pruning (Liu et al. 2019, key ``liu2019rethinking``).

No new way to prune but a comparison. Pruning turns a large net :math:`A`, trained for :math:`T`
steps, into a small shape :math:`A'`. Its inherited weights are tuned; or the same shape gets fresh
random weights and is trained by the large net's own recipe, twice:

.. math:: \text{Scratch-E: } T_E = T, \qquad
          \text{Scratch-B: } T_B = \Bigl\lfloor T\,\frac{C(A)}{C(A')} \Bigr\rfloor ,

with :math:`C` the multiply-accumulates (MACs) of one forward pass, so that Scratch-B spends as many
as the training of :math:`A` did. The whole schedule is stretched over the longer training.

The shape is *predefined* where the user sets the widths (here: the same share of each layer, the
filters with the smallest :math:`\sum |W|` go, Li et al. 2017, ``li2017pruning``), *automatic* where
pruning finds them (:mod:`survey_lib.methods.rethinking.variants`), and a *mask* where single
weights go: one threshold for all convolution weights, the rest stay where they are
(Han et al. 2015, ``han2015learning``).

Faithful: the budget of Scratch-B leaves the cost of tuning out, as the paper does; masked nets
start with a spread that is corrected for the weights they lack; masks are kept, not derived again
from zeros.

Differs: :math:`T` is counted in steps, the paper's in epochs; exactly the number asked for is
masked, where the published code keeps what lies strictly above a sorted entry and so masks one more
(:func:`above_threshold`). A frozen parameter is neither tuned nor drawn anew.

Cost: the tuning.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from time import perf_counter

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.filters import filters
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.masks import MaskedWeights, keep_largest_global
from survey_lib.mechanics.scratch import redrawn
from survey_lib.mechanics.selection import channels_table, check_reach, select, shrunk
from survey_lib.mechanics.surgery import Recipe, apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import History, fit, total_steps

STEERS = "budget"
KIND = "channels"
WEIGHTS = ("fresh", "inherited")


@dataclass(frozen=True)
class Config:
    """What the small net starts from."""

    weights: str = "fresh"
    """``fresh``: random weights in the pruned shape; ``inherited``: those that pruning left."""

    def __post_init__(self) -> None:
        if self.weights not in WEIGHTS:
            raise ValueError(f"rethinking: no weights {self.weights!r}; use fresh or inherited")


# ---- how long a net from scratch is trained


def longer(length: int, dense: int, small: int, cap: float = inf) -> int:
    """⌊length · min(C(A) / C(A'), cap)⌋, the paper's E_B where ``length`` counts epochs.

    Args:
        length: steps, or epochs, of the large net's training.
        dense: C(A), MACs of the large net.
        small: C(A'), MACs of the small one.
        cap: largest ratio; 2 in part of the paper's ImageNet runs.

    Raises:
        ValueError: a net without MACs, or a cap below 1.
    """
    if dense <= 0 or small <= 0 or cap < 1:
        raise ValueError(f"rethinking: need MACs > 0 and a cap ≥ 1, got {dense}, {small}, {cap}")
    return length * dense // small if dense <= cap * small else int(length * cap)


def scratch_b(task: Task, recipe: Training, dense: int, small: int, cap: float = inf) -> Training:
    """The large net's recipe, its whole schedule stretched to equal cost."""
    return for_steps(task, recipe, longer(total_steps(task, recipe), dense, small, cap))


# ---- predefined shapes: whole filters


def norms(model: nn.Module, graph: ChannelGraph) -> dict[str, Tensor]:
    """s_k = Σ_cij |W_kcij| of each filter: (channels,) by group."""
    return {g.name: filters(model, g).abs().sum(1) for g in graph.prunable}


def by_norm(model: nn.Module, graph: ChannelGraph, widths: Mapping[str, int]) -> Recipe:
    """In each group the given number of filters with the largest norms; ties: the lower index."""
    s = norms(model, graph)
    return {
        name: sorted(torch.argsort(s[name], descending=True, stable=True)[:k].tolist())
        for name, k in widths.items()
    }


def fresh(small: nn.Module, generator: torch.Generator) -> nn.Module:
    """The same net, in place, drawn anew layer by layer; frozen parameters stay as they are."""
    frozen = [(p, p.detach().clone()) for p in small.parameters() if not p.requires_grad]
    redrawn(small, generator)
    with torch.no_grad():
        for p, was in frozen:
            p.copy_(was)
    return small


# ---- masks: single weights


def conv_weights(model: nn.Module) -> dict[str, Tensor]:
    """Kernels of all convolutions by name; linear layers and norms stay whole."""
    return {
        f"{name}.weight": m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d)
    }


def magnitude(model: nn.Module, keep: float) -> dict[str, Tensor]:
    """Masks of the share ``keep`` of all convolution weights that is largest in |W|."""
    size = {name: w.detach().abs() for name, w in conv_weights(model).items()}
    total = sum(s.numel() for s in size.values())
    return keep_largest_global(size, total - round((1 - keep) * total))


def above_threshold(weights: Sequence[float], p: float) -> list[bool]:
    """The published rule: keep what is strictly above the sorted entry with index ⌊p N⌋."""
    sizes = sorted(map(abs, weights))
    threshold = sizes[int(p * len(sizes))]
    return [abs(w) > threshold for w in weights]


def corrected(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    r"""The same net, in place, each masked kernel's weights spread wider for those that are gone.

    The published code draws them with :math:`\sigma = \sqrt{2/n}`, :math:`n = \mathrm{nnz}(W) /
    C_{in}`, where a whole kernel has :math:`n = k^2 C_{out}`: wider by :math:`\sqrt{N /
    \mathrm{nnz}(W)}` for a kernel of N weights. Here that factor multiplies torch's own draw.
    """
    with torch.no_grad():
        for name, mask in masks.items():
            model.get_parameter(name).mul_((mask.numel() / max(1, int(mask.sum()))) ** 0.5)
    return model


def under_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> MaskedWeights:
    """The model's kernels, cut in place; ``mechanics.masks.fit_masked`` trains it."""
    masked = MaskedWeights(conv_weights(model))
    masked.set(dict(masks))
    return masked


# ---- the contract


def reach(graph: ChannelGraph, budget: Budget, config: Config) -> None:
    """Raise BudgetNotMet for a budget that one channel in each layer does not meet."""
    del config
    least = np.array([g.size if g.protected else g.least for g in graph.groups])
    check_reach(graph, budget, least, "rethinking")


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """The predefined shape within a budget, trained from fresh or from inherited weights.

    Args:
        model: the trained net; with fresh weights only its shape and its norms count.
        task: data and loss.
        budget: ``macs``, ``params`` or ``activations`` to keep: the same share of each layer.
        config: fresh or inherited weights.
        tuning: of the small net: the large net's own recipe for Scratch-E, :func:`scratch_b` of
            it for Scratch-B. None cuts and trains nothing, so that weights are the inherited ones.
        generator: draws fresh weights first, then the data order.

    Raises:
        BudgetNotMet: one channel in each layer is still too much.
        GraphError: the net cannot be followed.
    """
    start = perf_counter()
    graph = trace_groups(model, task.example(1).to(next(model.parameters()).device))
    recipe = shrunk(graph, select(graph, norms(model, graph), budget, scope="local"))
    small = apply_recipe(model, graph, recipe).eval()
    spent = History()
    if tuning:
        if config.weights == "fresh":
            fresh(small, generator)
        spent = fit(small, task, tuning, generator=generator)
    return Compressed(
        small,
        channels_table(graph, recipe),
        perf_counter() - start,
        forward_passes=spent.steps,
        backward_passes=spent.steps,
        steps=spent.steps,
        examples=spent.examples,
        recipe=recipe,
        trace={"loss": spent.loss},
    )
