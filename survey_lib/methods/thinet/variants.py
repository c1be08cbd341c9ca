r"""What ThiNet is compared with: other ways to choose, in the same layer-by-layer frame.

- ``weight_sum``: filters with the smallest :math:`\sum |W|` go (Li et al. 2017, key
  ``li2017pruning``; the paper's ThiNet-WS).
- ``apoz``: filters whose maps hold most zeros go (average percentage of zeros, Hu et al. 2016, key
  ``hu2016network``), counted where the next layer reads them.
- ``random``: any.
- ``forward``: the selection of the journal version, in code beside the paper's. It is another
  algorithm: it *adds* the channel that best explains what is still missing, with a scalar of its
  own, and refits all scalars after each step (orthogonal matching pursuit).

And the other nets of the paper's tables: an averaging head for ThiNet-GAP and ThiNet-Tiny.
"""

import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.thinet import method
from survey_lib.methods.thinet.method import Choice, Site
from survey_lib.methods.thinet.rows import reading_layer, seen_and_made
from survey_lib.tasks.task import Task, Training

STEERS = "budget"
KIND = "channels"


def _largest(scores: Tensor, keep: int) -> tuple[list[int], np.ndarray]:
    """The channels of the ``keep`` highest scores; on ties the lower index stays."""
    order = torch.argsort(scores, descending=True, stable=True)
    return sorted(order[:keep].tolist()), np.ones(keep)


def weight_sum(site: Site, keep: int, _: torch.Generator) -> tuple[list[int], np.ndarray]:
    """Σ |W| over each filter's own weights."""
    maker = site.group.producers[0]
    weight: Tensor = site.net.get_submodule(maker.module).weight  # type: ignore[assignment]
    return _largest(weight.detach().abs().flatten(1).sum(1), keep)


def apoz(site: Site, keep: int, _: torch.Generator) -> tuple[list[int], np.ndarray]:
    """The share of a filter's outputs that are not zero, over the calibration images."""
    layer, positions = reading_layer(site.net, site.group)
    seen, _made = seen_and_made(site.net, layer, site.images)
    alive = (seen > 0).double().mean(0)  # (C, H, W), or (C H W,) where maps are flattened
    alive = alive.flatten(1) if alive.ndim > 1 else alive[torch.from_numpy(positions)]
    return _largest(alive.mean(1), keep)


def random(site: Site, keep: int, generator: torch.Generator) -> tuple[list[int], np.ndarray]:
    """Any channels, equally likely."""
    return _largest(torch.rand(site.group.size, generator=generator, device="cpu"), keep)


def forward(site: Site, keep: int, _: torch.Generator) -> tuple[list[int], np.ndarray]:
    """The journal's selection: see :func:`matching_pursuit`."""
    kept, w = matching_pursuit(site.rows.x, site.rows.y, keep)
    order = np.argsort(kept)
    return [kept[i] for i in order], w[order]


def matching_pursuit(x: np.ndarray, y: np.ndarray, keep: int) -> tuple[list[int], np.ndarray]:
    r"""Add the channel with the largest :math:`(x_j^\top e)^2 / x_j^\top x_j`, refit, repeat.

    :math:`e` is what the channels chosen so far leave unexplained of ŷ. Returns the channels in
    the order they were added, with their scalars.
    """
    gram, target = x.T @ x, x.T @ y
    size = np.where(gram.diagonal() > 0, gram.diagonal(), np.inf)  # silent channels come last
    kept: list[int] = []
    w = np.zeros(0)
    for _ in range(keep):
        gain = (target - gram[:, kept] @ w) ** 2 / size
        gain[kept] = -1
        kept.append(int(gain.argmax()))
        w = np.linalg.lstsq(gram[np.ix_(kept, kept)], target[kept], rcond=None)[0]
    return kept, w


CHOICES: dict[str, Choice] = {
    "weight_sum": weight_sum,
    "apoz": apoz,
    "random": random,
    "forward": forward,
}


@dataclass(frozen=True)
class Config:
    """Which choice, and ThiNet's own settings for all the rest."""

    criterion: str = "weight_sum"
    """``weight_sum``, ``apoz``, ``random`` or ``forward``."""
    thinet: method.Config = field(default_factory=method.Config)

    def __post_init__(self) -> None:
        if self.criterion not in CHOICES:
            raise ValueError(f"no criterion {self.criterion!r}; use one of {', '.join(CHOICES)}")


def reach(graph: ChannelGraph, budget: Budget | None, config: Config) -> None:
    """As :func:`survey_lib.methods.thinet.method.reach`."""
    method.reach(graph, budget, config.thinet)


def check(model: nn.Module, graph: ChannelGraph, task: Task, config: Config) -> None:
    """As :func:`survey_lib.methods.thinet.rows.check`."""
    method.check(model, graph, task, config.thinet)


def compress(
    model: nn.Module,
    task: Task,
    budget: Budget | None,
    config: Config = Config(),
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """As :func:`survey_lib.methods.thinet.method.compress`, with another choice of filters."""
    choose = CHOICES[config.criterion]
    return method.layer_by_layer(model, task, budget, config.thinet, choose, tuning, generator)


def best_subset(gram: np.ndarray, n: int) -> tuple[list[int], float]:
    r"""The T of n channels with the smallest :math:`\sum_i (\sum_{k \in T} \hat x_{ik})^2`.

    By trying every one, so for some 16 channels at most; returns T and its objective.
    """
    channels = len(gram)
    every = np.array([*itertools.combinations(range(channels), n)], dtype=int)
    every = every.reshape(math.comb(channels, n), n)
    member = np.zeros((len(every), channels))
    np.put_along_axis(member, every, 1.0, axis=1)
    objective = ((member @ gram) * member).sum(1)
    best = int(objective.argmin())
    return every[best].tolist(), float(objective[best])


def averaging_head(model: nn.Module, classes: int, generator: torch.Generator) -> None:
    """Put global average pooling and one fresh linear layer in the place of ``model.classifier``.

    Raises:
        ValueError: the net isn't made of ``features`` and ``classifier``, as VGG nets are.
    """
    features = getattr(model, "features", None)
    if not isinstance(features, nn.Module) or not hasattr(model, "classifier"):
        raise ValueError(
            f"{type(model).__name__}: an averaging head replaces .classifier behind .features, "
            "and this net lacks one of them"
        )
    last = [m for m in features.modules() if isinstance(m, nn.Conv2d)][-1]
    linear = nn.utils.skip_init(nn.Linear, last.out_channels, classes, device=last.weight.device)
    bound = last.out_channels**-0.5  # torch's own default for linear layers
    with torch.no_grad():
        for p in linear.parameters():
            draw = torch.rand(p.shape, generator=generator, device="cpu")
            p.copy_((2 * draw - 1) * bound)
    model.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
