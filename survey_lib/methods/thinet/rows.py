r"""ThiNet's data: what layer :math:`i+1` computes at sampled places, split by input channel.

At a random image, output filter and location the layer computes :math:`y = \sum_c \sum_k W_{ck}
x_{ck} + b`, where :math:`x` is the window of its input there. A row holds the parts
:math:`\hat x_c = \sum_k W_{ck} x_{ck}` and the whole :math:`\hat y = y - b = \sum_c \hat x_c`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.mechanics.groups import ChannelGraph, ChannelGroup
from survey_lib.tasks.modes import evaluating
from survey_lib.tasks.task import Task

CHUNK = 256
"""Images that are run forward at once."""


@dataclass(frozen=True)
class Rows:
    """Parts and wholes at m sampled places, in float64."""

    x: np.ndarray
    """x̂ (m, C): the part of each input channel."""
    y: np.ndarray
    """ŷ (m,): the layer's own output there, its bias subtracted."""

    def error(self, kept: list[int], w: np.ndarray) -> float:
        """Σ (ŷ − ŵᵀx̂*)² / Σ ŷ²: the share of the layer's output that is lost.

        Of a layer that is silent at all places nothing is lost, or without bound.
        """
        lost, whole = ((self.y - self.x[:, kept] @ w) ** 2).sum(), (self.y**2).sum()
        return float(lost / whole) if whole else 0.0 if not lost else float("inf")


def calibration_images(
    task: Task, per_class: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two disjoint draws of ``per_class`` training images of each class: to fit, and to check.

    Raises:
        ValueError: a class has too few images.
    """
    first, second = [], []
    for label in task.train.y.unique().tolist():
        of_class = (task.train.y == label).nonzero().flatten()
        if len(of_class) < 2 * per_class:
            raise ValueError(
                f"thinet: class {label} has {len(of_class)} training images; {2 * per_class} are "
                "needed, half of them to check: lower Config.images"
            )
        order = torch.randperm(len(of_class), generator=generator, device="cpu")
        first.append(of_class[order[:per_class]])
        second.append(of_class[order[per_class : 2 * per_class]])
    return task.train.x[torch.cat(first)], task.train.x[torch.cat(second)]


def check(model: nn.Module, graph: ChannelGraph, task: Task, config: Any) -> None:
    """Raise ValueError for data with too few images of a class; nothing is trained or drawn."""
    del model, graph
    calibration_images(task, config.images, torch.Generator())


def sample_rows(
    net: nn.Module, group: ChannelGroup, images: Tensor, pairs: int, generator: torch.Generator
) -> Rows:
    """Rows at ``pairs`` random (output filter, location) pairs of each image (n, channels, H, W).

    A linear layer that reads flattened maps has one location; a channel's whole map is its window.
    """
    layer, positions = reading_layer(net, group)
    weight, bias = layer.weight.detach().double(), layer.bias
    at = torch.from_numpy(positions).to(images.device)  # (C, 1), or (C, H W)
    xs, ys = [], []
    for chunk in images.split(CHUNK):
        inputs, outputs = seen_and_made(net, layer, chunk)
        m = len(chunk) * pairs
        image = torch.arange(len(chunk), device="cpu").repeat_interleave(pairs)
        # output filter and, behind a convolution, row and column: (m,) each
        place = [
            torch.randint(n, (m,), generator=generator, device="cpu") for n in outputs.shape[1:]
        ]
        filters = weight[place[0]]  # W: (m, C, K, K), or (m, C H W)
        products = filters * _windows(layer, inputs, image, place[1:])
        if products.ndim == 4:
            products = products.sum((2, 3))
        xs.append(products[:, at].sum(2))
        y = outputs[(image, *place)].double()
        ys.append(y if bias is None else y - bias.detach().double()[place[0]])
    return Rows(torch.cat(xs).cpu().numpy(), torch.cat(ys).cpu().numpy())


def reading_layer(net: nn.Module, group: ChannelGroup) -> tuple[Any, np.ndarray]:
    """The one layer that reads a group, and where in its input each unit lies: (C, p).

    Raises:
        ValueError: it isn't read by one ordinary convolution or linear layer, all of whose
            inputs it is.
    """
    if len(group.consumers) == 1:
        reader = group.consumers[0]
        layer: Any = net.get_submodule(reader.module)
        plain = isinstance(layer, nn.Linear) or (
            isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.padding_mode == "zeros"
            and not isinstance(layer.padding, str)
        )  # fmt: skip
        if plain and reader.positions.size == layer.weight.shape[1]:
            return layer, reader.positions
    readers = ", ".join(s.module for s in group.consumers) or "no layer"
    raise ValueError(
        f"thinet: {group.name} is read by {readers}; the method needs one convolution (or linear "
        "layer) that reads this group and nothing else: name the others in Config.layers"
    )


@torch.no_grad()
def seen_and_made(net: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Input and output of ``layer`` when the net sees ``images``, in eval mode."""
    found: list[Any] = []
    handle = layer.register_forward_hook(lambda _, x, y: found.extend((x[0], y)))
    try:
        with evaluating(net):
            net(images)
    finally:
        handle.remove()
    return found[0], found[1]


def _windows(layer: Any, inputs: Tensor, image: Tensor, at: list[Tensor]) -> Tensor:
    """What the layer looks at: (m, C, K, K) around each location, zero-padded; (m, F) if linear."""
    if isinstance(layer, nn.Linear):
        return inputs[image].double()
    (ph, pw), (sh, sw), (dh, dw) = layer.padding, layer.stride, layer.dilation
    padded = F.pad(inputs, (pw, pw, ph, ph))
    kh, kw = (torch.arange(k, device="cpu") for k in layer.kernel_size)
    u = at[0][:, None] * sh + kh * dh  # (m, K)
    v = at[1][:, None] * sw + kw * dw
    # the channel axis stays a slice, so it comes last: (m, K, K, C)
    return (
        padded[image[:, None, None], :, u[:, :, None], v[:, None, :]].permute(0, 3, 1, 2).double()
    )
