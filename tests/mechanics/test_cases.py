"""What users of pruning tools report, as small nets: each exact, protected or refused, as named.

``EXACT`` means that every group from which something can go was pruned exactly; ``NOTHING`` that
all layers are there and protected, with a reason.
"""

import math
import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from survey_lib.mechanics.groups import GraphError
from survey_lib.mechanics.surgery import RecipeError, apply_recipe
from tests.mechanics.cases import (
    IMAGES,
    ROWS,
    TOKENS,
    Body,
    Case,
    check,
    free,
    maps,
    normal,
    read_by_b,
    refused,
    rows,
    silent,
    table,
    whole,
)  # fmt: skip
from tests.mechanics.judge import EXACT, NOTHING, REFUSED, judge, trace_groups
from tests.oracles.channels import randomised

pytestmark = pytest.mark.filterwarnings(
    "ignore:Implicit dimension choice", "ignore:.*weight_norm.*is deprecated",
    "ignore:.*torch.jit", "ignore:Initializing zero-element",
)  # fmt: skip


# A softmax over the channels, its axis left to torch (dim=None: 0 for 1 and 3 axes, else 1).

SOFTMAX = {
    "layer, rows": whole(
        lambda: rows(lambda m, y: m.s(y), s=nn.Softmax(dim=None)), ROWS, "(?i)softmax",
        by_hand=read_by_b),
    "function, rows": whole(lambda: rows(lambda m, y: F.softmax(y)), ROWS, "softmax",
                            by_hand=read_by_b),
    "log, rows": whole(lambda: rows(lambda m, y: F.log_softmax(y)), ROWS, "softmax"),
    "softmin, rows": whole(lambda: rows(lambda m, y: F.softmin(y, 1)), ROWS, "soft"),
    "softmin layer, rows": Case(lambda: rows(lambda m, y: m.s(y), s=nn.Softmin(1)), ROWS,
                                (NOTHING,),
        protected={"a": "normalised by softmin in s"}),
    "layer, images": whole(lambda: maps(lambda m, y: m.s(y), s=nn.Softmax(dim=None)), IMAGES,
                           "(?i)softmax", by_hand=read_by_b),
    "LogSoftmax": whole(lambda: maps(lambda m, y: m.s(y), s=nn.LogSoftmax(1)), IMAGES,
                        "(?i)softmax"),
    "Softmax2d": Case(lambda: maps(lambda m, y: m.s(y), s=nn.Softmax2d()), IMAGES,
                      (NOTHING,),
        protected={"a": "normalised by softmax in s"}),
    "dim=-1, rows": whole(lambda: rows(lambda m, y: torch.softmax(y, -1)), ROWS, "softmax"),
    "dim by keyword": whole(lambda: rows(lambda m, y: torch.softmax(input=y, dim=1)), ROWS,
                            "softmax"),
    "tokens: torch picks the batch": Case(
        lambda: rows(lambda m, y: F.softmax(y)), TOKENS, by_hand=read_by_b,
        free=("a",)),
    "over space": free(lambda: maps(lambda m, y: y.softmax(-1)), IMAGES, by_hand=read_by_b),
    "over tokens": free(lambda: rows(lambda m, y: m.s(y), s=nn.Softmax(dim=1)), TOKENS,
                        by_hand=read_by_b),
}  # fmt: skip


@table(SOFTMAX)
def test_softmax_takes_the_axis_that_torch_picks(case):
    check(case)


# Optional arguments.


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x, temperature=None):
        y = self.a(x)
        if temperature is None:
            return self.b(torch.softmax(y, 1))
        return self.b(y / temperature)


class Defaults(nn.Module):
    def __init__(self, flag):
        super().__init__()
        self.a, self.b, self.flag = nn.Linear(6, 8), nn.Linear(8, 2), flag

    def forward(self, x, scale=2.0, *, sharp=True, names=("one",)):
        y = self.a(x) * scale
        if sharp == self.flag and len(names) == 1:
            y = y / y.sum(1, keepdim=True)
        return self.b(y)


class Two(nn.Module):
    """Two inputs; the second may be left out."""

    def __init__(self):
        super().__init__()
        self.a, self.c, self.b = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x, other=None):
        y = self.a(x)
        return self.b(torch.tanh(y if other is None else y + self.c(other)))


def softmax_by_hand(net, x, kept):
    return net.b(silent(torch.softmax(net.a(x), 1), kept))


ARGUMENTS = {
    "absent": whole(Optional, ROWS, "softmax", by_hand=softmax_by_hand),
    "given by keyword": free(Optional, {"x": ROWS, "temperature": torch.tensor(0.5)}),
    "given by position": free(Optional, (ROWS, torch.tensor(0.5))),
    "a flag that divides": whole(lambda: Defaults(True), ROWS, "sum"),
    "a flag that doesn't": free(lambda: Defaults(False), ROWS),
    "two by position": free(Two, (ROWS, ROWS.flip(0))),
    "two by keyword": free(Two, {"x": ROWS, "other": ROWS.flip(0)}),
    "one of two: the other branch is unreached": refused(Two, ROWS, r"never reaches c\b"),
}


@table(ARGUMENTS)
def test_optional_arguments_are_what_they_are_by_default(case):
    check(case)


# The number of channels, used as a number.

SIZES = {
    "shape": whole(lambda: rows(lambda m, y: y / y.shape[1] ** 0.5), ROWS, by_hand=read_by_b),
    "size()": whole(lambda: maps(lambda m, y: y * (1 / y.size(1))), IMAGES, by_hand=read_by_b),
    "size(dim=)": whole(lambda: maps(lambda m, y: y + y.size(dim=1)), IMAGES, by_hand=read_by_b),
    "from the end": whole(lambda: rows(lambda m, y: y - y.shape[-1]), TOKENS, by_hand=read_by_b),
    "math": whole(lambda: rows(lambda m, y: y / math.sqrt(y.shape[-1])), ROWS, by_hand=read_by_b),
    "unpacked": whole(lambda: maps(unpacked), IMAGES, by_hand=read_by_b),
    "numel": whole(lambda: rows(lambda m, y: y * y.numel()), ROWS, by_hand=read_by_b),
    "a tensor of it": whole(lambda: rows(lambda m, y: y * torch.tensor(y.shape[1] / 2.0)), ROWS,
                            by_hand=read_by_b),
    "a comparison": whole(lambda: rows(lambda m, y: y * 2 if y.shape[1] > 4 else y), ROWS,
                          by_hand=read_by_b),
    "a loop": free(lambda: rows(lambda m, y: sum(y.roll(i, 0) for i in range(y.shape[1] % 3))),
                   TOKENS, by_hand=read_by_b),  # over five tokens, not over channels
    "len of a transposed one": whole(lambda: rows(lambda m, y: y / len(y.t())), ROWS,
                                     by_hand=read_by_b),
    "a later tensor's": whole(lambda: rows(lambda m, y: y.relu() / y.tanh().shape[1]), ROWS,
                              by_hand=read_by_b),
    "space": Case(lambda: maps(lambda m, y: y / y.shape[2]), IMAGES, by_hand=read_by_b,
        free=("a",)),
    "batch": Case(lambda: rows(lambda m, y: y / len(y)), ROWS, by_hand=read_by_b,
        free=("a",)),
    "as a shape only": free(lambda: maps(lambda m, y: y.flatten(2).view(y.shape)), IMAGES,
                            by_hand=read_by_b),
    "-1 in its place": free(
        lambda: maps(lambda m, y: y.flatten(2).view(y.shape[0], -1, *y.shape[2:])), IMAGES),
}  # fmt: skip


def unpacked(_net, y):
    n, c, h, w = y.shape
    return y.view(n, c, h * w).view(n, c, h, w) / c


@table(SIZES)
def test_a_number_of_channels_in_arithmetic_pins_them(case):
    check(case)


class Shaped(nn.Module):
    """A size of one tensor shapes another."""

    def __init__(self, shape, after=16):
        super().__init__()
        self.a, self.g = nn.Conv2d(3, 8, 1), nn.Linear(3, 8)
        self.b, self.shape = nn.Conv2d(after, 2, 1), shape

    def forward(self, x):
        y = self.a(x)
        z = self.shape(y, self.g(x.mean((2, 3))))
        return self.b(torch.cat([y, z * torch.ones_like(x[:, :1])], 1))


def shaped(shape: Callable) -> Callable[[], nn.Module]:
    return lambda: Shaped(shape)


OTHERS = {
    "view": Case(shaped(lambda y, z: z.view(y.size(0), y.size(1), 1, 1)), IMAGES,
        words=(NOTHING,),
        protected={"a": "view in Shaped gives one axis the other's size"}),
    "reshape to a tuple": Case(shaped(lambda y, z: z.reshape((*y.shape[:2], 1, 1))), IMAGES,
        words=(NOTHING,),
        protected={"a": "reshape in Shaped gives one axis the other's size"}),
    "expand_as": Case(shaped(lambda y, z: z[:, :, None, None].expand_as(y)), IMAGES,
        free=("a",)),
    "expand": Case(shaped(lambda y, z: z[:, :, None, None].expand(-1, y.size(1), -1, -1)),
                     IMAGES,
        words=(NOTHING,),
        protected={"a": "expand in Shaped gives one axis the other's size"}),
    "view_as": Case(shaped(lambda y, z: z[:, :, None, None].expand(y.shape).reshape_as(y)),
                      IMAGES,
        words=(NOTHING,),
        protected={"a": "expand in Shaped gives one axis the other's size"}),
    "zeros of its shape": Case(shaped(lambda y, z: torch.zeros(y.shape, dtype=y.dtype)
                                        + z[:, :, None, None]), IMAGES,
        free=("a",)),
    "new_ones": Case(lambda: maps(lambda m, y: y + y.new_ones(y.size(1), 1, 1)), IMAGES,
        words=(NOTHING,),
        protected={"a": "new_ones in Body computes with their number"}),
    "arange": whole(lambda: maps(
        lambda m, y: y + torch.arange(y.size(1), dtype=y.dtype).view(-1, 1, 1)), IMAGES,
        by_hand=read_by_b),
    "interpolate to the other's space": free(
        lambda: maps(lambda m, y: F.interpolate(y, size=y.shape[2:])), IMAGES),
}  # fmt: skip


@table(OTHERS)
def test_a_size_that_shapes_another_tensor(case):
    check(case)


# Pooling and padding look at the axis they move over.


def over_rows(layer: nn.Module, after: int = 8) -> Case:
    make = lambda: rows(lambda m, y: m.p(y), after, p=layer)  # noqa: E731
    return whole(make, ROWS, by_hand=read_by_b if after == 8 else None)


POOLS = {
    "AvgPool1d on rows": over_rows(nn.AvgPool1d(3, 1, 1)),
    "MaxPool1d on rows": over_rows(nn.MaxPool1d(2), 4),
    "AdaptiveAvgPool1d on rows": over_rows(nn.AdaptiveAvgPool1d(4), 4),
    "AdaptiveMaxPool1d to as many": over_rows(nn.AdaptiveMaxPool1d(8)),
    "LPPool1d on rows": over_rows(nn.LPPool1d(2, 2), 4),
    "ReflectionPad1d on rows": over_rows(nn.ReflectionPad1d(1), 10),
    "ConstantPad1d on rows": over_rows(nn.ConstantPad1d((1, 0), 0.5), 9),
    "CircularPad1d on rows": over_rows(nn.CircularPad1d(1), 10),
    "avg_pool1d on rows": whole(lambda: rows(lambda m, y: F.avg_pool1d(y, 3, 1, 1)), ROWS,
                                by_hand=read_by_b),
    "pad on rows": whole(lambda: rows(lambda m, y: F.pad(y, (1, -1))), ROWS),
    "pad by keyword": whole(lambda: rows(lambda m, y: F.pad(input=y, pad=(0, 1)), 9), ROWS),
    "MaxPool3d on images": whole(
        lambda: maps(lambda m, y: m.p(y), 4, p=nn.MaxPool3d((2, 1, 1))), IMAGES),
    "AvgPool3d to as many": whole(
        lambda: maps(lambda m, y: m.p(y), p=nn.AvgPool3d((3, 1, 1), 1, (1, 0, 0))), IMAGES,
        by_hand=read_by_b),
    "AvgPool2d on sequences": whole(
        lambda: Body(lambda m, y: m.p(y), nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1),
                     p=nn.AvgPool2d((3, 1), 1, (1, 0))), normal(2, 3, 9), by_hand=read_by_b),
    "ZeroPad2d on sequences": whole(
        lambda: Body(lambda m, y: m.p(y), nn.Conv1d(3, 8, 1), nn.Conv1d(10, 2, 1),
                     p=nn.ZeroPad2d((0, 0, 1, 1))), normal(2, 3, 9)),
    "AvgPool1d on sequences": free(
        lambda: Body(lambda m, y: m.p(y), nn.Conv1d(3, 8, 1), nn.Conv1d(8, 2, 1),
                     p=nn.AvgPool1d(3, 1, 1)), normal(2, 3, 9), by_hand=read_by_b),
    "MaxPool2d on images": free(lambda: maps(lambda m, y: m.p(y), p=nn.MaxPool2d(2)), IMAGES),
    "AdaptiveMaxPool2d": free(lambda: maps(lambda m, y: m.p(y), p=nn.AdaptiveMaxPool2d(3)),
                              IMAGES),
    "pad of space": free(lambda: maps(lambda m, y: F.pad(y, (1, 1, 2, 0))), IMAGES),
    "pad of space, all by place": free(
        lambda: maps(lambda m, y: F.pad(y, (1, 1, 2, 0), "constant", 0.5)), IMAGES),
    "ReplicationPad2d": free(lambda: maps(lambda m, y: m.p(y), p=nn.ReplicationPad2d(1)),
                             IMAGES),
    "upsampling": free(lambda: maps(lambda m, y: m.p(y), p=nn.Upsample(scale_factor=2)), IMAGES),
    "a convolution over tokens as channels": Case(
        lambda: rows(lambda m, y: m.p(y), p=nn.Conv1d(5, 5, 3, padding=1)), TOKENS,
        (NOTHING,),
        protected={"a": "channels lie on axis 2 of the input of conv1d in p, not on 1"}),
    "a convolution over one image without a batch": Case(
        lambda: maps(lambda m, y: y), IMAGES[0], (EXACT,), says="batch",
        free=("a",)),
}  # fmt: skip


@table(POOLS)
def test_pooling_looks_at_its_axis(case):
    check(case)


# A layer that reads the input at one call and channels at another.


class Again(nn.Module):
    def __init__(self, cell, head, tail=None):
        super().__init__()
        self.cell, self.h, self.tail = cell, head, tail or nn.Identity()

    def forward(self, x):
        y = self.tail(torch.tanh(self.cell(x)))
        return self.h(torch.tanh(self.cell(y)))


class NormTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.n, self.a, self.b = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.b(self.n(self.a(self.n(x))))


BOTH = {
    "linear": Case(lambda: Again(nn.Linear(6, 6), nn.Linear(6, 2)), ROWS, (NOTHING,),
                   {"cell": ""}),
    "convolution": Case(lambda: Again(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)), IMAGES,
                        (NOTHING,), {"cell": ""}),
    "with a layer between": Case(
        lambda: Again(nn.Linear(6, 6), nn.Linear(6, 2), nn.Linear(6, 6)), ROWS,
        (EXACT,),
        free=("cell",)),
    "depthwise": Case(lambda: Again(nn.Conv2d(3, 3, 3, padding=1, groups=3),
                                      nn.Conv2d(3, 2, 1), nn.Conv2d(3, 3, 1)), IMAGES,
        words=(NOTHING,),
        protected={"tail": "made by the grouped convolution cell from the net's input"}),
    "batch norm": whole(NormTwice, IMAGES),
    "prelu": Case(lambda: Again(nn.Conv2d(3, 3, 1), nn.Conv2d(3, 2, 1), nn.PReLU(3)), IMAGES,
        words=(NOTHING,),
        protected={"cell": "cell also reads a tensor that carries no channels"}),
}  # fmt: skip


@table(BOTH)
def test_a_layer_that_reads_input_and_channels_is_pinned(case):
    check(case)


# No operator lets labels fall.


def patches(f: Callable) -> Callable[[], nn.Module]:
    """Images in patches → tokens by ``f`` → a layer that must still read channels of ``a``."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.h = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5), nn.Linear(5, 2)

        def forward(self, x):
            return self.h(F.relu(self.b(f(self.a(x)))).mean(1))

    return Net


def tokens(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


OPERATORS = {
    "mT": lambda y: y.flatten(2).mT,
    "mH": lambda y: y.flatten(2).mH,
    "T of two axes": lambda y: y.mean((2, 3)).t().T[:, None],
    "data": lambda y: tokens(y.data),
    "detach": lambda y: tokens(y.detach()),
    "real": lambda y: tokens(y.real),
    "!=": lambda y: tokens((y != 0).double()),
    "eq": lambda y: tokens(torch.eq(y, y.roll(1, 2)).to(y)),
    ">": lambda y: tokens((y > 0).to(y.dtype)) + tokens(y),
    "where": lambda y: tokens(torch.where(y > 0, y, -y)),
    "masked_fill": lambda y: tokens(y.masked_fill(y > 0, 0.3)),
    "//": lambda y: tokens(y // 0.5),
    "%": lambda y: tokens(y % 0.5),
    "remainder": lambda y: tokens(torch.remainder(y, 0.5)),
    "round": lambda y: tokens(y.round()),
    "sign": lambda y: tokens(y.sign()),
    "~": lambda y: tokens((~(y > 0)).to(y)),
    "&": lambda y: tokens(((y > 0) & (y < 1)).to(y)),
    "unbind": lambda y: tokens(y).unbind(1)[0][:, None],
    "unbind of the channels": lambda y: torch.stack(y.flatten(2).unbind(1), -1),
    "split over space": lambda y: torch.cat(tokens(y).split(2, 1), 1),
    "split by keyword": lambda y: torch.cat(
        torch.split(tokens(y), split_size_or_sections=2, dim=1)),
    "tensor_split": lambda y: tokens(y).tensor_split(2, dim=1)[1],
    "narrow": lambda y: tokens(y).narrow(1, 0, 2),
    "select": lambda y: tokens(y).select(1, 0)[:, None],
    "stack": lambda y: torch.stack([tokens(y)[:, 0], tokens(y)[:, 1]], 1),
    "iteration": lambda y: torch.stack(list(tokens(y).transpose(0, 1)), 1),
    "roll over space": lambda y: tokens(y.roll(1, -1)),
    "roll over everything": lambda y: tokens(y.roll(1)),
    "flip of the channels": lambda y: tokens(y.flip(1)),
    "sort": lambda y: tokens(y).sort(1)[0],
    "sort over channels": lambda y: tokens(y).sort(-1).values,
    "topk over channels": lambda y: tokens(y).topk(8, -1)[0],
    "max with indices": lambda y: tokens(y).max(1, keepdim=True)[0],
    "cumsum over channels": lambda y: tokens(y).cumsum(-1),
    "cumsum over tokens": lambda y: tokens(y).cumsum(1),
    "einsum": lambda y: torch.einsum("nchw->nhwc", y).flatten(1, 2),
    "einsum with itself": lambda y: torch.einsum("ntc,nsc->nts", tokens(y), tokens(y)) @ tokens(y),
    "swapaxes": lambda y: y.flatten(2).swapaxes(1, 2),
    "moveaxis": lambda y: torch.moveaxis(y.flatten(2), 1, 2),
    "permute by keyword": lambda y: torch.permute(input=y.flatten(2), dims=(0, 2, 1)),
    "ravel": lambda y: y.permute(0, 2, 3, 1).ravel().view(len(y), -1, y.shape[1]),
    "unfold": lambda y: tokens(y).unfold(1, 2, 2).flatten(2)[..., ::2],
    "pixel shuffle": lambda y: F.pixel_shuffle(y.repeat(1, 4, 1, 1), 2).flatten(2).mT,
    "repeat of the channels": lambda y: tokens(y.repeat(1, 2, 1, 1)[:, 4:12]),
    "tile": lambda y: tokens(y.tile(1, 1, 2, 1)),
    "repeat_interleave": lambda y: tokens(y.repeat_interleave(2, 2)),
    "numpy": lambda y: tokens(torch.from_numpy(y.detach().numpy())),
    "tolist": lambda y: torch.tensor(tokens(y).tolist(), dtype=y.dtype),
    "in place": lambda y: tokens(y.mul_(2).add_(1).relu_()),
    "an item set": lambda y: tokens(set_item(y)),
    "copy_": lambda y: tokens(torch.empty_like(y).copy_(y)),
    "out=": lambda y: tokens(torch.add(y, 1, out=torch.empty_like(y))),
    "clamp by keyword": lambda y: tokens(torch.clamp(input=y, min=0.1)),
    "lerp": lambda y: tokens(torch.lerp(y, y.flip(2), 0.3)),
    "addcmul": lambda y: tokens(torch.addcmul(y, y, y, value=0.5)),
    "addcdiv": lambda y: tokens(torch.addcdiv(y, y, 1 + y * y)),
    "complex": lambda y: tokens(torch.fft.fft2(y).real),
    "fft over channels": lambda y: tokens(torch.fft.fft(y, dim=1).real),
    "var over channels": lambda y: tokens(y) / tokens(y).var(-1, keepdim=True),
    "norm of everything": lambda y: tokens(y) / y.norm(),
    "logsumexp": lambda y: tokens(y) - torch.logsumexp(y, (1, 2, 3))[:, None, None],
    "any": lambda y: tokens(y) * tokens(y).any(-1, keepdim=True),
    "item": lambda y: tokens(y) * y.sum().item(),
    "where of one": lambda y: tokens(y) + torch.where(y > 0)[0].sum(),
    "where of one by keyword": lambda y: tokens(y) + torch.where(condition=y > 0)[0].sum(),
    "argwhere": lambda y: tokens(y) + torch.argwhere(y > 0).sum(),
    "nonzero": lambda y: tokens(y) + (y > 0).nonzero().sum(),
    "outer": lambda y: tokens(y) + torch.outer(y[:, 0, 0, 0], y[0, :, 0, 0])[:, None],
    "triu": lambda y: tokens(y).triu(),
    "diagonal": lambda y: tokens(y) + y.diagonal(dim1=2, dim2=3).mT[:, :1],
    "grid_sample": lambda y: tokens(F.grid_sample(
        y, y.new_zeros(len(y), 2, 2, 2), align_corners=False)),
    "scaled dot product": lambda y: F.scaled_dot_product_attention(*[tokens(y)] * 3),
    "layer_norm": lambda y: F.layer_norm(tokens(y), (8,)),
    "instance_norm": lambda y: tokens(F.instance_norm(y)),
    "normalize": lambda y: F.normalize(tokens(y), dim=-1),
    "normalize over tokens": lambda y: F.normalize(tokens(y), dim=1),
    "glu": lambda y: F.glu(tokens(torch.cat([y, y], 1))),
    "as_strided": lambda y: y.contiguous().as_strided((len(y), 4, 8), (32, 1, 4)),
    "vmap": lambda y: torch.vmap(lambda t: t.flatten(1).t())(y),
}  # fmt: skip
FOLLOWED = {
    "!=", "%", "//", ">", "T of two axes", "addcdiv", "addcmul", "clamp by keyword", "copy_",
    "cumsum over tokens", "data", "detach", "einsum", "glu", "grid_sample", "in place",
    "instance_norm", "iteration", "lerp", "mT", "masked_fill", "max with indices", "moveaxis",
    "narrow", "normalize over tokens", "out=", "permute by keyword", "ravel", "real",
    "remainder", "repeat_interleave", "roll over space", "round", "select", "sign", "sort",
    "split by keyword", "split over space", "stack", "swapaxes", "tensor_split", "tile",
    "unbind", "where", "~",
}  # fmt: skip
"""Where nothing but the path of the labels is asked: there the engine must follow, not pin."""
PINNED = {
    "mH": "mH in Net stands in no rule",
    "eq": "read by to in Net",
    "&": "read by to in Net",
    "unbind of the channels": "unbind in Net takes the channels apart",
    "roll over everything": "mixed by roll in Net",
    "flip of the channels": "mixed by flip in Net",
    "sort over channels": "mixed by sort in Net",
    "topk over channels": "topk in Net stands in no rule",
    "cumsum over channels": "mixed by cumsum in Net",
    "einsum with itself": "einsum in Net runs over the channels",
    "unfold": "unfold in Net stands in no rule",
    "pixel shuffle": "pixel_shuffle in Net stands in no rule",
    "repeat of the channels": "indexing in Net picks some of the channels",
    "an item set": "written into or read by setitem in Net",
    "complex": "fft_fft2 in Net stands in no rule",
    "fft over channels": "fft_fft in Net stands in no rule",
    "var over channels": "var in Net runs over the channels",
    "norm of everything": "norm in Net runs over the channels",
    "logsumexp": "logsumexp in Net runs over the channels",
    "any": "any in Net runs over the channels",
    "outer": "indexing in Net picks some of the channels",
    "triu": "triu in Net stands in no rule",
    "diagonal": "diagonal in Net stands in no rule",
    "scaled dot product": "scaled_dot_product_attention in Net runs over the channels",
    "layer_norm": "normalised by layer_norm in Net",
    "normalize": "normalised by normalize in Net",
    "as_strided": "as_strided in Net stands in no rule",
}
"""Where channels of ``a`` are mixed, picked or lost from sight: they stay, and say why."""
UNFOLLOWED = {
    "numpy": "Net: control flow that depends on the data",
    "tolist": "Net: control flow that depends on the data",
    **dict.fromkeys(
        ("item", "where of one", "where of one by keyword", "argwhere", "nonzero"),
        "Net: control flow that depends on the data",
    ),
    "vmap": "Net: flatten reads a tensor of unseen origin (made by compiled or scripted code)",
}
"""Where contents are asked for, or the operator goes round the table."""


def set_item(y: Tensor) -> Tensor:
    y = y.clone()
    y[:, 0] = 0.5
    return y


@pytest.mark.parametrize("name", OPERATORS)
def test_no_operator_lets_labels_fall(name):
    if name in FOLLOWED:
        check(Case(patches(OPERATORS[name]), IMAGES, free=("a", "b")))
    elif name in PINNED:
        why = {"a": re.escape(PINNED[name])}
        check(Case(patches(OPERATORS[name]), IMAGES, protected=why, free=("b",)))
    else:
        check(refused(patches(OPERATORS[name]), IMAGES, re.escape(UNFOLLOWED[name])))


# Inputs by keyword, and channels that come second.


class ByKeyword(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.a, self.b, self.f = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), f

    def forward(self, x):
        return self.f(self, self.a(x))


KEYWORDS = {
    "a layer": lambda m, y: m.b(input=y),
    "a function": lambda m, y: F.conv2d(input=y, weight=m.b.weight, bias=m.b.bias),
    "weights by position": lambda m, y: F.conv2d(y, m.b.weight, m.b.bias),
    "mean": lambda m, y: m.b(y) + torch.mean(input=y, dim=(2, 3), keepdim=True)[:, :2],
    "flatten": lambda m, y: m.b(torch.flatten(input=y, start_dim=2).unflatten(2, (8, 8))),
    "chunk": lambda m, y: m.b(torch.cat(torch.chunk(input=y, chunks=2, dim=2), dim=2)),
    "cat": lambda m, y: m.b(torch.cat(tensors=(y[:, :4], y[:, 4:]), dim=1)),
    "add": lambda m, y: m.b(torch.add(input=y, other=y.flip(2), alpha=2)),
    "relu": lambda m, y: m.b(F.relu(input=y)),
    "where": lambda m, y: m.b(torch.where(y > 0, y, other=-y)),
    "dropout": lambda m, y: m.b(F.dropout(input=y, p=0.5, training=False)),
    "pool": lambda m, y: m.b(F.max_pool2d(input=y, kernel_size=2)),
    "batch norm": lambda m, y: m.b(F.batch_norm(input=y, running_mean=torch.zeros(8).to(y),
                                                running_var=torch.ones(8).to(y))),
    "sum over channels": lambda m, y: m.b(y) * torch.sum(input=y, dim=1, keepdim=True),
}  # fmt: skip
KEYWORD_FREE = {"a layer", "a function", "weights by position", "flatten", "chunk", "add", "relu",
                "where", "dropout", "pool"}  # fmt: skip
KEYWORD_WHOLE = {
    "mean": "indexing in ByKeyword picks some of the channels",
    "cat": "indexing in ByKeyword picks some of the channels",
    "batch norm": "read by to in ByKeyword",
    "sum over channels": "sum in ByKeyword runs over the channels",
}


@pytest.mark.parametrize("name", KEYWORDS)
def test_inputs_by_keyword(name):
    make = lambda: ByKeyword(KEYWORDS[name])  # noqa: E731
    if name in KEYWORD_FREE:
        check(free(make, IMAGES))
    else:
        check(whole(make, IMAGES, re.escape(KEYWORD_WHOLE[name])))


SECOND = {
    "cosine similarity, layer": lambda m, y: m.f(m.p, y)[:, None] + 0 * y[:, :1],
    "cosine similarity": lambda m, y: F.cosine_similarity(m.p, y, dim=1)[:, None],
    "pairwise distance": lambda m, y: F.pairwise_distance(m.p, y, keepdim=True),
    "cdist": lambda m, y: torch.cdist(m.p, y).t(),
    "matmul": lambda m, y: m.p @ y.t(),
    "linear with a parameter for weight": lambda m, y: F.linear(y, m.p),
    "linear with channels for weight": lambda m, y: F.linear(m.p, y),
    "where": lambda m, y: m.b(torch.where(y > 0, m.p, y)),
    "where, channels last": lambda m, y: m.b(torch.where(m.p > 0, m.p, y)),
    "lerp": lambda m, y: m.b(torch.lerp(m.p, y, 0.5)),
    "addcmul": lambda m, y: m.b(torch.addcmul(m.p, y, y)),
    "rsub": lambda m, y: m.b(torch.rsub(m.p, y)),
    "sub": lambda m, y: m.b(m.p - y),
    "pow": lambda m, y: m.b(1.1**y),
    "atan2": lambda m, y: m.b(torch.atan2(m.p, y)),
    "maximum": lambda m, y: m.b(torch.maximum(m.p, y)),
    "einsum": lambda m, y: torch.einsum("ic,nc->ni", m.p, y),
    "tensordot": lambda m, y: torch.tensordot(m.p, y, dims=([1], [1])).t(),
    "mse": lambda m, y: F.mse_loss(m.p.expand(len(y), -1), y, reduction="none").mean(1),
    "embedding by argmax": lambda m, y: m.p.t()[y.argmax(1)],
}


SECOND_WHOLE = {
    "cosine similarity, layer": "cosine_similarity in f stands in no rule",
    "cosine similarity": "cosine_similarity in Second stands in no rule",
    "pairwise distance": "pairwise_distance in Second stands in no rule",
    "cdist": "cdist in Second stands in no rule",
    "matmul": "matmul in Second runs over the channels",
    "linear with channels for weight": "Second computes a weight from it",
    "einsum": "einsum in Second runs over the channels",
    "tensordot": "tensordot in Second stands in no rule",
    "mse": "mse_loss in Second stands in no rule",
    "embedding by argmax": "argmax in Second runs over the channels",
}


class Second(nn.Module):
    """The channels stand second, beside a parameter of their length."""

    def __init__(self, f):
        super().__init__()
        self.a, self.b, self.h = nn.Linear(6, 8), nn.Linear(8, 2), f
        self.p, self.f = nn.Parameter(torch.randn(1, 8)), nn.CosineSimilarity(dim=1)

    def forward(self, x):
        y = self.a(x)
        return self.h(self, y), self.b(y)


@pytest.mark.parametrize("name", SECOND)
def test_all_arguments_are_looked_at(name):
    make = lambda: Second(SECOND[name])  # noqa: E731
    if name in SECOND_WHOLE:
        check(whole(make, ROWS, re.escape(SECOND_WHOLE[name])))
    elif name == "pow":  # whose forward has no use for the parameter
        check(refused(make, ROWS, "never reaches"))
    else:
        check(free(make, ROWS))


# A weight that is read beside its layer.


class Beside(nn.Module):
    def __init__(self, f, bias=False):
        super().__init__()
        self.a, self.b, self.f = nn.Linear(6, 8, bias=bias), nn.Linear(8, 2), f

    def forward(self, x):
        return self.b(self.f(self, self.a(x)))


class Dilated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(10, 2, 1)

    def forward(self, x):
        again = F.conv2d(x, self.a.weight, self.a.bias, padding=2, dilation=2)
        return self.b(torch.cat([self.a(x), again], 1))


class Decoder(nn.Module):
    """An autoencoder that reads its own weights backwards."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, x):
        y = torch.tanh(self.a(x))
        return (
            F.linear(torch.tanh(self.b(y)), self.b.weight.t())
            + F.linear(y, self.a.weight.t())[:, :1]
        )


WEIGHTS = {
    "its norm": whole(lambda: Beside(lambda m, y: y / m.a.weight.norm()), ROWS,
                      by_hand=lambda m, x, kept: m.b(silent(m.f(m, m.a(x)), kept))),
    "its reader's norm": whole(lambda: Beside(lambda m, y: y / m.b.weight.norm()), ROWS),
    "its bias": whole(lambda: Beside(lambda m, y: y + m.a.bias.sum(), True), ROWS,
                      by_hand=lambda m, x, kept: m.b(silent(m.f(m, m.a(x)), kept))),
    "its rows' norms": Case(lambda: Beside(lambda m, y: y / m.a.weight.norm(dim=1)), ROWS,
                              by_hand=lambda m, x, kept: m.b(silent(m.f(m, m.a(x)), kept)),
        words=(NOTHING,),
        protected={"a": "div in Beside with a tensor that carries no channels"}),
    "its bias, one by one": Case(lambda: Beside(lambda m, y: y * m.a.bias, True), ROWS,
        words=(NOTHING,),
        protected={"a": "bias of a is read beside its layer in Beside"}),
    "the number of its rows": whole(lambda: Beside(lambda m, y: y / len(m.a.weight)), ROWS,
                                    by_hand=lambda m, x, kept: m.b(silent(m.f(m, m.a(x)), kept))),
    "its layer's own number": Case(
        lambda: Beside(lambda m, y: y / m.a.out_features), ROWS, (NOTHING,),
        by_hand=lambda m, x, kept: m.b(silent(m.f(m, m.a(x)), kept)),
        protected={"a": "its number serves another purpose: div in Beside"}),
    "a second convolution": Case(Dilated, IMAGES,
        free=("a",)),
    "tied encoder and decoder": Case(Decoder, ROWS, (NOTHING,),
        protected={"a": "read by a weight that Decoder computes"}),
}  # fmt: skip


@table(WEIGHTS)
def test_a_weight_read_beside_its_layer_is_pinned(case):
    check(case)


# Indices.

ORDER = [3, 0, 2, 1, 7, 6, 5, 4]
INDICES = {
    "a list": whole(lambda: maps(lambda m, y: y[:, ORDER]), IMAGES),
    "a tuple": whole(lambda: maps(lambda m, y: y[:, tuple(ORDER)]), IMAGES),
    "an array": whole(lambda: maps(lambda m, y: y[:, np.array(ORDER)]), IMAGES),
    "fewer": whole(lambda: maps(lambda m, y: y[:, [1, 1, 4]], 3), IMAGES),
    "the first few": whole(lambda: maps(lambda m, y: y[:, :4], 4), IMAGES),
    "backwards by a step": whole(lambda: maps(lambda m, y: y[:, ::2], 4), IMAGES),
    "a number": whole(lambda: maps(lambda m, y: y[:, 3][:, None], 1), IMAGES),
    "index_select": Case(
        lambda: maps(lambda m, y: torch.index_select(y, 1, m.i), i=torch.tensor(ORDER)), IMAGES,
        words=(NOTHING,),
        protected={"a": "index_select in Body picks some of the channels"}),
    "a buffer": Case(lambda: maps(lambda m, y: y[:, m.i], i=torch.tensor(ORDER)), IMAGES,
        words=(NOTHING,),
        protected={"a": "indexing in Body picks some of the channels"}),
    "a mask": Case(lambda: maps(lambda m, y: y[:, m.i], 5,
                                  i=torch.tensor([1, 1, 0, 1, 0, 1, 1, 0]).bool()), IMAGES,
        words=(NOTHING,),
        protected={"a": "indexing in Body picks some of the channels"}),
    "gather": Case(lambda: maps(
        lambda m, y: y.gather(1, m.i.view(1, -1, 1, 1).expand_as(y)), i=torch.tensor(ORDER)),
        IMAGES, (NOTHING,),
        protected={"a": "expand_as in Body shapes another tensor by their number"}),
    "take_along_dim": Case(lambda: maps(
        lambda m, y: torch.take_along_dim(y, m.i.view(1, -1, 1, 1), 1), i=torch.tensor(ORDER)),
        IMAGES, (NOTHING,),
        protected={"a": "take_along_dim in Body stands in no rule"}),
    "made in forward": Case(lambda: maps(lambda m, y: y[:, torch.arange(7, -1, -1)]), IMAGES,
        words=(NOTHING,),
        protected={"a": "indexing in Body picks some of the channels"}),
    "by its own values": Case(lambda: rows(lambda m, y: y.gather(1, y.argsort(1))), ROWS,
                              (NOTHING,),
        protected={"a": "mixed by argsort in Body"}),
    "everything": free(lambda: maps(lambda m, y: y[:, :]), IMAGES),
    "up to their number": free(lambda: maps(lambda m, y: y[:, : y.shape[1]]), IMAGES),
    "space up to their number": Case(lambda: maps(lambda m, y: y[:, :, : y.shape[1]]), IMAGES,
                                     (NOTHING,),
        protected={"a": "getitem in Body shapes another tensor by their number"}),
    "an ellipsis": free(lambda: maps(lambda m, y: y[..., 1:, ::2]), IMAGES),
    "space by a list": Case(lambda: maps(lambda m, y: y[:, :, [1, 0, 5]]), IMAGES,
        free=("a",)),
    "examples by a list": Case(lambda: maps(lambda m, y: y[[1, 0]]), IMAGES,
        free=("a",)),
    "a new axis": free(lambda: maps(lambda m, y: y[:, :, None].squeeze(2)), IMAGES),
}  # fmt: skip


@table(INDICES)
def test_an_index_on_the_channels(case):
    check(case)


def test_an_index_by_a_tensor_gives_the_same_groups_every_time():
    torch.manual_seed(0)
    model = Body(lambda m, y: y[:, m.i], nn.Conv2d(3, 64, 1), nn.Conv2d(64, 2, 1),
                 i=torch.randperm(64))  # fmt: skip
    found = {
        str(
            [
                (g.name, g.size, g.protected)
                for g in trace_groups(model, normal(1, 3, 32, 32)).groups
            ]
        )
        for _ in range(4)
    }
    assert len(found) == 1
    assert judge(model, normal(1, 3, 32, 32)).word in (EXACT, NOTHING)


# Axes of equal length are not the same axis.


class OneOf(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.a(x)
        return self.c(y[:, 3:4]) + self.b(y)


def one_by_hand(net, x, kept):
    y = net.a(x)
    kept = {"a": kept.get("a", [*range(3), *range(4, 8)])} if "a#2" in kept or "a" in kept else {}
    if len(kept.get("a", [])) and max(kept["a"]) < 7:  # units of the group without channel 3
        kept = {"a": [3, *(u + (u >= 3) for u in kept["a"])]}
    return net.c(y[:, 3:4]) + net.b(silent(y, kept))


@pytest.mark.parametrize("size", [1, 4, 7, 8])
def test_axes_as_long_as_the_channels(size):
    found = judge(OneOf(), normal(2, 3, size, size))
    assert found.word in (EXACT, NOTHING), str(found)
    assert any(name.partition("#")[0] == "a" for name in found.protected)


@pytest.mark.parametrize("size", [7, 8])
def test_the_answer_does_not_hang_on_the_size_of_the_image(size):
    torch.manual_seed(0)
    graph = trace_groups(OneOf(), normal(2, 3, size, size))
    other = trace_groups(OneOf(), normal(2, 3, 9, 5))
    told = [(g.name, g.size, g.protected) for g in graph.groups]
    assert told == [(g.name, g.size, g.protected) for g in other.groups]


EQUAL = {
    "transposed and back": free(
        lambda: maps(lambda m, y: y.transpose(1, 2).relu().transpose(1, 2)), IMAGES,
        by_hand=read_by_b),
    "space turned": free(lambda: maps(lambda m, y: y.transpose(2, 3)), IMAGES, by_hand=read_by_b),
    "one channel": Case(lambda: Body(lambda m, y: y.transpose(1, 3), nn.Conv2d(3, 1, 1),
                                       nn.Conv2d(8, 2, 1)), IMAGES,
        words=(NOTHING,),
        protected={"a": "channels lie on axis 3 of the input of conv2d in b, not on 1"}),
    "channels as rows": Case(lambda: maps(lambda m, y: y.transpose(1, 2)), IMAGES,
                             (NOTHING,),
        protected={"a": "channels lie on axis 2 of the input of conv2d in b, not on 1"}),
}  # fmt: skip


@table(EQUAL)
def test_axes_of_equal_length_are_kept_apart(case):
    check(case)


# Frozen norms, plain tensors, norms without weights.


class Frozen(nn.Module):
    """Batch norm whose four tensors are buffers."""

    def __init__(self, n):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0),
                            ("running_var", 1.0)):  # fmt: skip
            self.register_buffer(name, torch.full((n,), value))

    def forward(self, x):
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var + 1e-5).rsqrt().reshape(
            1, -1, 1, 1
        )
        return x * scale + (
            self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale
        )


def frozen_of_torchvision() -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d

    return maps(lambda m, y: torch.relu(m.n(y)), n=FrozenBatchNorm2d(8))


NORMS = {
    "torchvision's frozen": Case(frozen_of_torchvision, IMAGES,
        free=("a",)),
    "frozen by hand": Case(lambda: maps(lambda m, y: m.n(y), n=Frozen(8)), IMAGES,
        free=("a",)),
    "a function on buffers": Case(
        lambda: maps(lambda m, y: F.batch_norm(y, m.mean, m.var, m.w, m.b0),
                     mean=torch.zeros(8), var=torch.ones(8), w=torch.ones(8), b0=torch.zeros(8)),
        IMAGES,
        free=("a",)),
    "a function on a layer's tensors": free(
        lambda: maps(lambda m, y: F.batch_norm(y, m.n.running_mean, m.n.running_var, m.n.weight,
                                               m.n.bias, False), n=nn.BatchNorm2d(8)), IMAGES),
    "without weights": free(lambda: maps(lambda m, y: m.n(y), n=nn.BatchNorm2d(8, affine=False)),
                            IMAGES),
    "without statistics": free(
        lambda: maps(lambda m, y: m.n(y), n=nn.BatchNorm2d(8, track_running_stats=False)), IMAGES),
    "instance norm": free(lambda: maps(lambda m, y: m.n(y), n=nn.InstanceNorm2d(8)), IMAGES),
    "instance norm with weights": free(
        lambda: maps(lambda m, y: m.n(y), n=nn.InstanceNorm2d(8, affine=True)), IMAGES),
    "instance norm with statistics": free(
        lambda: maps(lambda m, y: m.n(y),
                     n=nn.InstanceNorm2d(8, affine=True, track_running_stats=True)), IMAGES),
    "rows": free(lambda: rows(lambda m, y: m.n(y), n=nn.BatchNorm1d(8)), ROWS),
    "group norm": whole(lambda: maps(lambda m, y: m.n(y), n=nn.GroupNorm(2, 8)), IMAGES,
                        "GroupNorm|group_norm"),
    "layer norm": whole(lambda: rows(lambda m, y: m.n(y), n=nn.LayerNorm(8)), TOKENS,
                        "LayerNorm|layer_norm"),
    "rms norm": whole(lambda: rows(lambda m, y: m.n(y), n=nn.RMSNorm(8)), TOKENS,
                      "RMSNorm|rms_norm"),
    "layer norm over tokens' axis": Case(
        lambda: rows(lambda m, y: m.n(y.transpose(1, 2)).transpose(1, 2), n=nn.LayerNorm(5)),
        TOKENS,
        free=("a",)),
}  # fmt: skip


@table(NORMS)
def test_norms(case):
    check(case)


def test_a_norm_without_weights_knows_its_size():
    model = randomised(maps(lambda m, y: m.n(y), n=nn.BatchNorm2d(8, affine=False)))
    x = IMAGES.double()
    small = apply_recipe(model, trace_groups(model, x), {"a": [0, 1, 2]})
    assert small.n.num_features == 3
    assert trace_groups(small, x)["a"].size == 3


class PlainTensor(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)
        self.k = torch.rand(1, 8, 1, 1, dtype=torch.float64)  # neither parameter nor buffer

    def forward(self, x):
        return self.b(self.a(x) * self.k)


def test_a_plain_tensor_in_place_is_treated_as_in_a_copy():
    torch.manual_seed(0)
    model = PlainTensor()
    found = judge(model, IMAGES)
    assert found.word in (EXACT, NOTHING), str(found)
    model, x = randomised(PlainTensor()), IMAGES.double()
    graph = trace_groups(model, x)
    recipe = {g.name: list(range(g.size // 2)) for g in graph.prunable}
    copy = apply_recipe(model, graph, recipe)(x)
    assert torch.equal(copy, apply_recipe(model, graph, recipe, inplace=True)(x))


chain = nn.Sequential

# Nets that are wrapped, masked, parametrised, lazy: told what to do first.


def conv_net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3))


def masked(at: int) -> nn.Module:
    net = conv_net()
    prune.l1_unstructured(net[at], "weight", amount=0.3)
    return net


def parametrised(how: Callable, at: int) -> nn.Module:
    net = conv_net()
    how(net[at])
    return net


class Keeping(nn.Module):
    """Keeps the activations of its last call."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        self.seen = self.a(x)
        return self.b(self.seen)


def kept() -> nn.Module:
    net = Keeping().double()
    net(IMAGES.double())
    return net


class Shuffled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.b(self.a(F.pad(x, (0, 1)) if x.shape[-1] % 2 else x))


class OnValues(Shuffled):
    def forward(self, x):
        y = self.a(x)
        return self.b(y if y.sum() > 0 else -y)


class OwnConv(nn.Conv2d):
    pass


class OwnNorm(nn.BatchNorm2d):
    pass


class SameConv(nn.Conv2d):
    """As timm's: its own forward, the function with its own weights."""

    def forward(self, x):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), self.weight, self.bias, self.stride)


class NormAct(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias,
                                   self.training, 0.1, self.eps))  # fmt: skip


class Standardised(nn.Conv2d):
    """Weights standardised in forward, each filter by itself."""

    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.b(torch.cat(list(self.a(x).chunk(2, 1)), 1))


def averaged() -> nn.Module:
    return torch.optim.swa_utils.AveragedModel(conv_net())


WRAPPED = {
    "a mask on the maker": refused(lambda: masked(0), IMAGES, r"remove"),
    "a mask on the reader": refused(lambda: masked(2), IMAGES, r"remove"),
    "weight norm, old": refused(lambda: parametrised(weight_norm, 2), IMAGES, r"remove"),
    "weight norm, new": refused(
        lambda: parametrised(parametrizations.weight_norm, 2), IMAGES, r"remove_parametrizations"),
    "weight norm on the maker": refused(
        lambda: parametrised(parametrizations.weight_norm, 0), IMAGES, r"remove_parametrizations"),
    "spectral norm, old": refused(lambda: parametrised(spectral_norm, 2), IMAGES, r"remove"),
    "spectral norm, new": refused(
        lambda: parametrised(parametrizations.spectral_norm, 0), IMAGES,
        r"remove_parametrizations"),
    "kept activations": Case(kept, IMAGES, (EXACT,), says=r"seen|detach|keeps",
        free=("a",)),
    "DataParallel": refused(lambda: nn.DataParallel(conv_net()), IMAGES, r"\.module"),
    "compiled": refused(lambda: torch.compile(conv_net(), backend="eager"), IMAGES,
                        r"\._orig_mod"),
    "averaged": refused(averaged, IMAGES, r"\.module"),
    "scripted": refused(lambda: torch.jit.script(conv_net()), IMAGES, r"script"),
    "traced by jit": refused(lambda: torch.jit.trace(conv_net(), IMAGES), IMAGES, r"script|jit"),
    "control flow on shapes": Case(Shuffled, IMAGES, (EXACT,), says="shape",
        free=("a",)),
    "control flow on values": Case(OnValues, IMAGES, (REFUSED,), says="(?i)value|data"),
    "a convolution's subclass": Case(lambda: chain(nn.Conv2d(3, 6, 1), OwnConv(6, 2, 1)), IMAGES,
                                     free=("0",)),
    "a norm's subclass": Case(
        lambda: chain(nn.Conv2d(3, 6, 1), OwnNorm(6), nn.Conv2d(6, 2, 1)), IMAGES, free=("0",)),
    "a convolution with its own forward": Case(
        lambda: chain(SameConv(3, 6, 3), SameConv(6, 5, 3), nn.Conv2d(5, 2, 1)), IMAGES,
        free=("0", "1")),
    "norm and activation in one": Case(
        lambda: chain(nn.Conv2d(3, 6, 1), NormAct(6), nn.Conv2d(6, 2, 1)), IMAGES, free=("0",)),
    "a standardised reader": Case(
        lambda: chain(nn.Conv2d(3, 6, 1), Standardised(6, 2, 3)), IMAGES, (NOTHING,),
        protected={"0": "read by a weight that 1 computes"}),
    "a standardised maker": Case(
        lambda: chain(Standardised(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1)), IMAGES,
        (NOTHING,),
        protected={"0": "made by a weight that 0 computes"}),
    "pieces in a list": free(Listed, IMAGES),
    "nothing that is trained": Case(lambda: chain(nn.ReLU()), IMAGES, (NOTHING,)),
}  # fmt: skip


@table(WRAPPED)
def test_refusals_name_the_remedy_and_subclasses_are_followed(case):
    check(case)


def test_a_lazy_layer_is_to_be_run_first():
    lazy = nn.Sequential(nn.LazyConv2d(4, 1), nn.Conv2d(4, 2, 1))
    with pytest.raises(GraphError, match=r"(?i)lazy|run it once"):
        trace_groups(lazy, IMAGES)
    assert isinstance(lazy[0].weight, nn.parameter.UninitializedParameter)  # left as it was


# Raw errors of the tracer.

TRACER = {
    "split by half their number and by four": whole(
        lambda: maps(lambda m, y: torch.cat(y.split([y.size(1) // 2, 4], 1), 1)), IMAGES,
        "split in Body cuts the channels into fixed pieces"),
    "tokens summed by a vector": whole(
        lambda: rows(lambda m, y: y.mT @ m.v, v=nn.Parameter(torch.ones(5))), TOKENS,
        "matmul in Body runs over the channels"),
    "cat of chunks over space": free(
        lambda: maps(lambda m, y: torch.cat(y.chunk(2, 2), 2)), IMAGES),
    "a pool that also gives indices": Case(
        lambda: maps(lambda m, y: m.p(y)[0], p=nn.MaxPool2d(2, return_indices=True)), IMAGES,
        (EXACT,),
        free=("a",)),
    "unpooled": Case(lambda: maps(unpooled, p=nn.MaxPool2d(2, return_indices=True),
                                  u=nn.MaxUnpool2d(2)), IMAGES, (NOTHING,),
        protected={"a": "read by max_unpool2d in u"}),
    "norm(2)": whole(lambda: maps(lambda m, y: y / y.norm(2)), IMAGES, by_hand=read_by_b),
    "norm('fro')": whole(lambda: maps(lambda m, y: y / y.norm("fro")), IMAGES,
                         by_hand=read_by_b),
    "vector_norm": whole(lambda: maps(
        lambda m, y: y / torch.linalg.vector_norm(y, dim=1, keepdim=True)), IMAGES,
        by_hand=read_by_b),
    "norm over space": Case(lambda: maps(lambda m, y: y / y.norm(dim=(2, 3), keepdim=True)),
                              IMAGES, by_hand=read_by_b,
        free=("a",)),
    "two images where one is taken": refused(conv_net, (IMAGES, IMAGES), r"."),
    "another name": refused(conv_net, {"x": IMAGES}, r"."),
    "no image": refused(conv_net, IMAGES[:0], r"."),
    "other channels": refused(conv_net, normal(2, 5, 8, 8), r"."),
    "text for an image": refused(conv_net, torch.zeros(2, 5, dtype=torch.long), r"."),
    "a net of dictionaries": Case(lambda: Answers(dict), IMAGES, free=("a",)),
    "a net of tuples": Case(lambda: Answers(tuple), IMAGES, free=("a",)),
}  # fmt: skip


def unpooled(net, y):
    pooled, at = net.p(y)
    return net.u(pooled, at)


class Answers(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.a, self.b, self.form = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), form

    def forward(self, x):
        y = self.b(F.relu(self.a(x)))
        return self.form([("map", y), ("mean", y.mean((2, 3)))])


@table(TRACER)
def test_no_raw_error(case):
    check(case)


# Costs in closed form; the judge holds them against the count.


class Mixing(nn.Module):
    """A layer that mixes tokens: it runs once a channel."""

    def __init__(self):
        super().__init__()
        self.a, self.t, self.b = nn.Conv2d(3, 16, 4, 4), nn.Linear(4, 5), nn.Linear(16, 2)

    def forward(self, x):
        return self.b(F.gelu(self.t(self.a(x).flatten(2))).mean(2))


class Folded(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(12, 16), nn.Linear(16, 3)

    def forward(self, x):
        y = F.relu(self.a(x.reshape(-1, 12)))
        return self.b(y.view(x.size(0), -1, y.size(-1)).mean(1))


class Named(Folded):
    def forward(self, x):
        return self.b(F.relu(self.a(x.reshape(-1, 12))).view(x.size(0), -1, 16).mean(1))


COSTS = {
    "transposed": Case(lambda: chain(nn.ConvTranspose2d(3, 8, 4, 2, 1), nn.Conv2d(8, 2, 1)),
                       IMAGES, free=("0",)),
    "transposed after a layer": Case(
        lambda: chain(nn.Conv2d(3, 6, 1), nn.ConvTranspose2d(6, 5, 3, 2), nn.Conv2d(5, 2, 1)),
        IMAGES, free=("0", "1")),
    "transposed, 1d": Case(
        lambda: chain(nn.Conv1d(3, 6, 1), nn.ConvTranspose1d(6, 5, 3, 2), nn.Conv1d(5, 2, 1)),
        normal(2, 3, 7), free=("0", "1")),
    "convolution in three dimensions": Case(
        lambda: chain(nn.Conv3d(2, 6, 3), nn.BatchNorm3d(6), nn.Conv3d(6, 2, 1)),
        normal(2, 2, 5, 5, 4), free=("0",)),
    "examples folded into rows": free(Folded, normal(3, 9, 12)),
    "the number in the code": whole(Named, normal(2, 9, 12), "number"),
    "a layer that mixes tokens": free(Mixing, normal(2, 3, 8, 8)),
    "called twice": Case(lambda: Again(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1),
                                         nn.Conv2d(3, 3, 1)), IMAGES,
        free=("cell",)),
    "one layer on more axes": free(
        lambda: rows(lambda m, y: torch.tanh(y)), normal(2, 3, 4, 6)),
}  # fmt: skip


@table(COSTS)
def test_costs_in_closed_form(case):
    check(case)


# One example, one channel.


class Squeezed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 6, 1), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.n(F.adaptive_avg_pool2d(self.a(x), 1).squeeze()))


def test_squeeze_on_the_batch_that_is_given():
    check(free(Squeezed, normal(4, 3, 8, 8)))


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.m, self.b = nn.Conv2d(3, 8, 1), nn.Linear(3, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.b(self.a(x) * self.m(x.mean((2, 3)))[:, :, None, None])


ONE = {
    "a gate of one channel": Case(Gate, IMAGES, free=("a",), protected={"m": ""}),
    "one channel flattened": Case(
        lambda: chain(nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(64, 12), nn.ReLU(),
                      nn.Linear(12, 7), nn.Linear(7, 2)), IMAGES, free=("2", "4")),
    "one channel all along": Case(
        lambda: chain(nn.Conv2d(3, 1, 1), nn.BatchNorm2d(1), nn.Conv2d(1, 5, 1),
                      nn.Conv2d(5, 2, 1)), IMAGES, free=("2",)),
    "one pixel": Case(lambda: chain(nn.Conv2d(3, 6, 1), nn.Flatten(), nn.Linear(6, 2)),
                      normal(2, 3, 1, 1), free=("0",)),
}  # fmt: skip


@table(ONE)
def test_single_labels_keep_their_axis(case):
    check(case)


# Folding constants.


class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.b(torch.relu(self.a(x) + x.mean(1, keepdim=True)))


@pytest.mark.parametrize("examples", [1, 5])
def test_what_is_no_constant_is_not_folded_even_from_one_example(examples):
    torch.manual_seed(0)
    model, x = randomised(Shifted()), normal(5, 6).double()
    graph = trace_groups(model, x)
    with pytest.raises(RecipeError, match=r"constant|two examples"):
        apply_recipe(model, graph, {"a": [0, 1, 2]}, fold=x[:examples])
