r"""Outlier features by the three criteria of LLM.int8() (Dettmers et al. 2022, §4).

Bibliography key ``dettmers2022llmint8``. A feature is one index :math:`i` of the residual stream,
followed through all layers. Examined are the hidden states :math:`X_l \in \mathbb{R}^{s \times h}`
that linear layers read: after the norm before the attention projections, and after the one before
the feed-forward expansion. A feature is an outlier feature when

1. it has values :math:`|X_{l,ti}| \ge \alpha`, :math:`\alpha = 6`,
2. in at least 25 % of the layers, and
3. at at least 6 % of the positions :math:`(l, t)` of all hidden states together.

Faithful: the criteria and their numbers; the contraction and the products inside attention are not
examined; sizes are taken where the linears read, after the norm has rescaled the residual stream.

Differs: the input of attention's output projection is left out, because its features are those of
the heads and not of the residual stream. A layer counts when either of its two states has an
outlier there. Where the paper says that values are "larger than" 6 and its code has ≥, it is ≥.

Cost: one forward pass.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.decoder import decoder
from survey_lib.tasks.modes import evaluating

ALPHA = 6.0


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What one pass saw in the S hidden states (two a layer) of width h, at T positions each."""

    states: tuple[str, ...]
    """Paths of the norms whose outputs these are; S in the order of computation."""
    layer: Tensor
    """(S,) int64: the layer of each state."""
    positions: int
    """T: tokens seen."""
    alpha: float
    """Size from which single values were kept."""
    largest: Tensor
    """(S, h): largest absolute value."""
    state: Tensor
    """(n,) int64: the state of each kept value."""
    feature: Tensor
    """(n,) int64: its feature."""
    value: Tensor
    """(n,): the values with |x| ≥ alpha."""

    def counts(self, alpha: float = ALPHA, sign: int = 0) -> Tensor:
        """(S, h) int64: values with |x| ≥ ``alpha``; of one sign only when ``sign`` is ±1.

        Raises:
            ValueError: an ``alpha`` below the one the values were kept for.
        """
        if alpha < self.alpha:
            raise ValueError(
                f"outliers: values were kept from {self.alpha:g} on; for alpha={alpha:g} collect "
                "the statistics anew"
            )
        x = self.value if sign == 0 else sign * self.value
        hit = x.abs() >= alpha if sign == 0 else x >= alpha
        flat = self.state[hit] * self.largest.shape[1] + self.feature[hit]
        return torch.bincount(flat, minlength=self.largest.numel()).view_as(self.largest)

    def share(self, alpha: float = ALPHA) -> Tensor:
        """(S, h) float64: share of the positions with |x| ≥ ``alpha``."""
        return self.counts(alpha).double() / self.positions


@dataclass(frozen=True)
class OutlierFeature:
    """One outlier feature; the columns of the paper's Table 4."""

    feature: int
    layers: float
    """Share of the layers in which it reaches α."""
    positions: float
    """Share of the positions of all hidden states at which it does."""
    one_sided: bool
    """Whether its outliers never change sign."""
    quartiles: tuple[float, float, float]
    """Of its outlier values, signs kept."""
    largest: float
    """Largest absolute value."""


@torch.no_grad()
def feature_statistics(
    model: nn.Module, batches: Iterable[Tensor], *, alpha: float = ALPHA
) -> FeatureStatistics:
    """Sizes of all features at the inputs of the linears that read a norm, in eval mode.

    Args:
        model: ``char_gpt`` or a Hugging Face decoder with a gate/up/down MLP.
        batches: token tensors (B, T), e.g. ``windows.split(2)``.
        alpha: keep the values of at least this size, for counts and quartiles.

    Raises:
        GraphError: the model is built otherwise.
        ValueError: no batch.
    """
    plan = decoder(model)
    readings = [(i, r) for i, layer in enumerate(plan.layers) for r in layer.readings]
    largest = torch.zeros(len(readings), plan.width)
    kept: list[tuple[Tensor, Tensor, Tensor]] = []

    def watch(s: int):
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            x = args[0].detach().flatten(0, -2)  # (positions, h)
            largest[s] = torch.maximum(largest[s], x.abs().amax(0).float().cpu())
            at, feature = (x.abs() >= alpha).nonzero(as_tuple=True)
            value = x[at, feature].float().cpu()
            kept.append((torch.full_like(feature, s).cpu(), feature.cpu(), value))

        return hook

    handles = [
        model.get_submodule(r.readers[0]).register_forward_pre_hook(watch(s))
        for s, (_, r) in enumerate(readings)
    ]
    device, positions = next(model.parameters()).device, 0
    try:
        with evaluating(model):
            for tokens in batches:
                positions += tokens.numel()
                model(tokens.to(device))
    finally:
        for handle in handles:
            handle.remove()
    if positions == 0:
        raise ValueError("outliers: no tokens to look at; give at least one batch (B, T)")
    state, feature, value = (torch.cat(part) for part in zip(*kept, strict=True))
    return FeatureStatistics(
        tuple(r.norm for _, r in readings), torch.tensor([i for i, _ in readings]),
        positions, alpha, largest, state, feature, value,
    )  # fmt: skip


def outlier_features(
    stats: FeatureStatistics,
    *,
    alpha: float = ALPHA,
    layers: float = 0.25,
    positions: float = 0.06,
) -> list[OutlierFeature]:
    """The features that meet the three criteria (§4), the most common first.

    Args:
        stats: of :func:`feature_statistics`.
        alpha: criterion 1, smallest absolute value of an outlier.
        layers: criterion 2, smallest share of the layers.
        positions: criterion 3, smallest share of the positions of all hidden states.

    Raises:
        ValueError: an ``alpha`` below the one the statistics were collected for.
    """
    count = stats.counts(alpha)  # (S, h)
    n_layers = int(stats.layer.max()) + 1
    per_layer = torch.zeros(n_layers, count.shape[1], dtype=torch.int64)
    per_layer.index_add_(0, stats.layer, count)  # (L, h)
    of_layers = (per_layer > 0).double().mean(0)  # (h,)
    of_positions = count.sum(0).double() / (len(stats.states) * stats.positions)  # (h,)
    positive, negative = (stats.counts(alpha, sign).sum(0) for sign in (1, -1))
    found = []
    for i in ((of_layers >= layers) & (of_positions >= positions)).nonzero().flatten().tolist():
        x = stats.value[(stats.feature == i) & (stats.value.abs() >= alpha)]
        low, middle, high = np.quantile(x.double().numpy(), [0.25, 0.5, 0.75]).tolist()
        found.append(
            OutlierFeature(
                i, float(of_layers[i]), float(of_positions[i]),
                one_sided=bool(positive[i] == 0 or negative[i] == 0),
                quartiles=(low, middle, high), largest=float(stats.largest[:, i].max()),
            )
        )  # fmt: skip
    return sorted(found, key=lambda f: (-f.positions, f.feature))


@contextmanager
def without_features(
    model: nn.Module,
    features: Sequence[int],
    *,
    layers: Collection[int] | None = None,
    mlp: bool = False,
) -> Iterator[nn.Module]:
    """Within the context these features are 0 at the inputs of the attention projections (§4).

    With ``layers=None`` it is so in all layers of one pass: what the removal does to a layer
    propagates to the next ones (the paper's perplexities). With a single layer its input comes
    from the intact net (the paper's "independently"); ``attention.top_attention`` looks at all
    layers that way.

    Args:
        model: the net, in place while the context lasts.
        features: indices of the residual stream.
        layers: in which layers; all by default.
        mlp: zero them at the inputs of the feed-forward expansion too, which the paper does not.

    Raises:
        ValueError: a feature or layer that is not there.
        GraphError: the model is built otherwise.
    """
    plan = decoder(model)
    check(features, plan.width, "feature")
    chosen = range(len(plan.layers)) if layers is None else layers
    check(chosen, len(plan.layers), "layer")
    paths = []
    for i in sorted(set(chosen)):
        paths += plan.layers[i].attention.readers + (plan.layers[i].mlp.readers if mlp else ())
    handles = [
        model.get_submodule(path).register_forward_pre_hook(
            lambda _module, args: (zeroed(args[0], features), *args[1:])
        )
        for path in paths
    ]
    try:
        yield model
    finally:
        for handle in handles:
            handle.remove()


def zeroed(x: Tensor, features: Sequence[int]) -> Tensor:
    """A copy of x (..., h) with ``features`` at 0."""
    if not len(features):
        return x
    x = x.clone()
    x[..., list(features)] = 0
    return x


def check(indices: Iterable[int], n: int, what: str) -> None:
    """Refuse an index outside 0 … n - 1."""
    for i in indices:
        if not 0 <= i < n:
            raise ValueError(f"outliers: no {what} {i}; there are 0 … {n - 1}")
