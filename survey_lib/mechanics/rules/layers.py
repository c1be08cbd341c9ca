"""Layers, as modules or as functions: they make channels, read them or carry them along."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from survey_lib.mechanics.groups import CONV, TRANSPOSED
from survey_lib.mechanics.labels import (
    Extent,
    Labels,
    numbers,
)
from survey_lib.mechanics.rules.call import Call


def _channels(call: Call, x: Tensor, axis: int) -> np.ndarray | None:
    """Labels that a layer reads on ``axis``; pinned where they lie on another."""
    labels = call.labels(x)
    if labels is None:
        return None
    if labels.axis != axis:
        call.pin(labels, f"channels lie on axis {labels.axis} of the input of {call.where()}, "
                 f"not on {axis}")  # fmt: skip
        return None
    return labels.ids


def _weight(call: Call, weight: Tensor) -> tuple[str, str] | None:
    """Owner of a layer's weight; noted as met."""
    call.seen.add(id(weight))
    call.answered.add(id(weight))
    return call.net.owner(weight)


def _bias(call: Call, bias: Tensor | None, role: str, ids: np.ndarray) -> None:
    if bias is None:
        return
    owner = _weight(call, bias)
    labels = call.net.of(bias)
    if owner is not None:
        call.net.carry(owner, 0, role, ids)
    elif labels is not None:
        call.net.tie(ids, labels.ids, f"shared: the bias of {call.where()}")
    else:
        call.net.meet(ids, bias, 0, call.name)


def _derived_weight(call: Call, weight: Tensor, labels: Labels | None, axis: int) -> np.ndarray:
    """Labels of the outputs of a layer whose weight was computed in the forward pass."""
    call.pin(labels, f"read by a weight that {call.net.where()} computes")
    out = call.net.fresh(weight.shape[axis])
    elements = call.net.single(weight)
    if elements is not None:
        call.pin(elements.ravel(), f"{call.net.where()} computes a weight from it")
    call.pin(call.net.of(weight), f"{call.net.where()} computes a weight from it")
    call.pin(out, f"made by a weight that {call.net.where()} computes")
    return out


def conv(call: Call) -> Tensor:
    """Convolution: reads axis 1 of its weight, makes axis 0; in groups it only carries."""
    x, weight = call.x, call.get(1, "weight")
    k = weight.ndim - 2
    stride, padding = call.get(3, "stride", default=1), call.get(4, "padding", default=0)
    dilation, groups = call.get(5, "dilation", default=1), call.get(6, "groups", default=1)
    axis = x.ndim - k - 1
    if x.shape[axis] != weight.shape[1] * numbers([groups])[0]:
        raise ValueError(f"{x.shape[axis]} channels meet a weight for {weight.shape[1] * groups}")
    spatial = []
    for d in range(k):
        s, di = _each(stride, d), _each(dilation, d)
        span = di * (weight.shape[2 + d] - 1)
        both = {"same": span, "valid": 0}.get(padding) if isinstance(padding, str) else None
        both = 2 * _each(padding, d) if both is None else both
        spatial.append((x.shape[axis + 1 + d] + both - span - 1) // s + 1)
    n_out = weight.shape[0]
    ids, labels = _channels(call, x, axis), call.net.of(x)
    owner = _weight(call, weight)
    shape = (*x.shape[:axis], n_out, *spatial)
    macs = math.prod(shape) * weight[0].numel()
    if owner is None:
        out = _derived_weight(call, weight, labels, 0)
        _bias(call, call.get(2, "bias"), "out", out)
        call.net.product(macs)
        return call.result(shape, Labels(axis, out), x)
    shrinks = labels if labels is not None and labels.axis != axis else None
    call.net.layer(owner, macs, math.prod(shape), weight, 0, shrinks)
    n_groups, tag = _groups(call, owner[0], groups)
    role = "out" if n_groups == 1 else "through"
    out = call.net.carry(owner, 0, role, call.net.made(owner, n_out))
    _bias(call, call.get(2, "bias"), role, out)
    if n_groups == 1:
        call.net.read(owner, 1, ids)
    elif ids is None:
        call.pin(out, f"made by the grouped convolution {owner[0]} from the net's input")
    else:
        _in_groups(call, owner, n_groups, ids, out, weight.shape[1], tag)
    return call.result(shape, Labels(axis, out), x)


def _each(value: Any, d: int) -> int:
    value = value[d if len(value) > 1 else 0] if isinstance(value, (tuple, list)) else value
    return numbers([value])[0]


def _groups(call: Call, path: str, groups: Any) -> tuple[int, tuple[str, str] | None]:
    """Number of groups of a convolution, and the attribute that says so."""
    call.seen.add(id(groups))
    n = numbers([groups])[0]
    if isinstance(groups, Extent):
        tag = next(iter(groups.tags)) if groups.exact and len(groups.tags) == 1 else None
        return n, tag
    known = isinstance(call.net.modules.get(path), (*CONV, *TRANSPOSED))
    return n, (path, "groups") if known else None


def _in_groups(
    call: Call, owner: tuple[str, str], groups: int, ids: np.ndarray, out: np.ndarray, n_in: int,
    tag: tuple[str, str] | None,
) -> None:  # fmt: skip
    """Channels of a grouped convolution: whole groups go, or an equal share of every group."""
    net, path = call.net, owner[0]
    ins, outs = ids.reshape(groups, -1), out.reshape(groups, -1)
    if net.grouped == "share" and n_in > 1 and outs.shape[1] > 1:
        for block in (ins, outs):  # the same place of every group
            joined = np.broadcast_to(block[:1], block.shape)
            net.tie(block.ravel(), joined.ravel(), f"grouped: an equal share of {path}")
        net.carry(owner, 1, "in", ins[0])
        return
    kind = "depthwise" if n_in == 1 else "grouped"
    head = outs[:, :1]
    for block in (ins, outs[:, 1:]):  # all of a group's channels hang on its first output
        joined = np.broadcast_to(head, block.shape)
        net.tie(block.ravel(), joined.ravel(), f"{kind}: {path}")
    if tag is None:
        net.pin(out, f"{path or owner[1]} is called with a fixed number of groups")
    else:
        net.counts.append((tag, outs[:, 0]))


def transposed(call: Call) -> Tensor:
    """Transposed convolution: axes 0 and 1 of the weight change places."""
    x, weight, groups = call.x, call.get(1, "weight"), call.get(6, "groups", default=1)
    k = weight.ndim - 2
    axis = x.ndim - k - 1
    labels = call.net.of(x)
    ids = _channels(call, x, axis)
    owner = _weight(call, weight)
    n_groups, tag = _groups(call, owner[0] if owner else "", groups)
    result = call.run()
    n_out = result.shape[axis]
    macs = math.prod(x.shape) * weight[0].numel()
    if owner is None:
        out = _derived_weight(call, weight, labels, 1)
        call.net.product(macs)
        return call.net.put(result, Labels(axis, out) if len(out) == n_out else None)
    shrinks = labels if labels is not None and labels.axis != axis else None
    call.net.layer(owner, macs, result.numel(), weight, 1, shrinks)
    if n_groups == 1:
        out = call.net.carry(owner, 1, "out", call.net.made(owner, n_out, 1))
        _bias(call, call.get(2, "bias"), "out", out)
        call.net.read(owner, 0, ids)
        return call.net.put(result, Labels(axis, out))
    out = call.net.fresh(n_out)
    _bias(call, call.get(2, "bias"), "through", out)
    if ids is None or tag is None:
        call.pin(out, f"made by the grouped transposed convolution {owner[0]}")
        call.pin(ids, f"read by the grouped transposed convolution {owner[0]}")
    else:
        ids = call.net.carry(owner, 0, "through", ids)
        ins, outs = ids.reshape(n_groups, -1), out.reshape(n_groups, -1)
        for block in (ins[:, 1:], outs):
            joined = np.broadcast_to(ins[:, :1], block.shape)
            call.net.tie(block.ravel(), joined.ravel(), f"grouped: {owner[0]}")
        call.net.counts.append((tag, ins[:, 0]))
    return call.net.put(result, Labels(axis, out))


def linear(call: Call) -> Tensor:
    """Linear layer on the last axis."""
    x, weight = call.x, call.get(1, "weight")
    last = x.ndim - 1
    if x.shape[last] != weight.shape[-1]:
        raise ValueError(f"{x.shape[last]} features meet a weight for {weight.shape[-1]}")
    labels = call.labels(x)
    owner = _weight(call, weight)
    shape = (*x.shape[:last], *weight.shape[:-1])
    macs = math.prod(shape) * weight.shape[-1]
    aside = labels if labels is not None and labels.axis != last else None
    if owner is None or weight.ndim != 2:
        out = _derived_weight(call, weight, labels, 0)
        _bias(call, call.get(2, "bias"), "out", out)
        call.net.product(macs)
        return call.result(shape, Labels(len(shape) - 1, out) if weight.ndim == 2 else None, x)
    call.net.layer(owner, macs, math.prod(shape), weight, 0, aside)
    out = call.net.carry(owner, 0, "out", call.net.made(owner, weight.shape[0]))
    _bias(call, call.get(2, "bias"), "out", out)
    if aside is not None:  # it mixes another axis and leaves the channels where they are
        call.pin(out, f"{owner[0]} mixes another axis than that of the channels")
        call.net.read(owner, 1, None)
        return call.result(shape, aside, x)
    call.net.read(owner, 1, labels.ids if labels is not None else None)
    return call.result(shape, Labels(last, out), x)


def embedding(call: Call) -> Tensor:
    """Embedding: each row makes all channels."""
    index, weight = call.get(0, "input"), call.get(1, "weight")
    owner = _weight(call, weight)
    shape = (*index.shape, weight.shape[1])
    if owner is None:
        return call.result(shape, None, weight)
    out = call.net.carry(owner, 1, "out", call.net.made(owner, weight.shape[1], 1))
    return call.result(shape, Labels(len(shape) - 1, out), weight)


def batch_norm(call: Call) -> Tensor:
    """Batch and instance norm: one entry for each channel."""
    x = call.x
    names = ((3, "weight"), (4, "bias"), (1, "running_mean"), (2, "running_var"))
    tensors = [t for i, n in names if (t := call.get(i, n)) is not None]
    unbatched = call.name == "instance_norm" and x.ndim == 2
    axis = 0 if unbatched else 1
    labels = call.net.of(x)
    ids = _channels(call, x, axis)
    for t in tensors:
        if x.ndim > axis and t.numel() != x.shape[axis]:
            raise ValueError(f"{x.shape[axis]} channels meet a norm of {t.numel()}")
        owner = _weight(call, t)
        if ids is None:
            if owner is not None:
                call.net.whole.setdefault((*owner, 0), call.net.where())
        elif owner is not None:
            call.net.carry(owner, 0, "through", ids)
        else:
            call.net.meet(ids, t, 0, call.name)
    return call.result(x.shape, labels, x)


def prelu(call: Call) -> Tensor:
    """One slope for all, or one for each channel."""
    x, weight = call.x, call.get(1, "weight")
    labels = call.net.of(x)
    owner = _weight(call, weight)
    if weight.numel() > 1:
        ids = _channels(call, x, 1)
        if ids is not None and owner is not None:
            call.net.carry(owner, 0, "through", ids)
        else:
            call.pin(ids, f"scaled by a slope that {call.net.where()} computes")
    call.labels(x)
    return call.result(x.shape, labels, x)


def channel_norm(call: Call) -> Tensor:
    """Norms over several channels; over other axes alone they leave channels where they are."""
    x = call.x
    labels = call.labels(x)
    for t in call.tensors[1:]:
        _weight(call, t)
    shape = call.get(1, "normalized_shape")
    over = range(x.ndim)
    if call.name in ("layer_norm", "rms_norm") and shape is not None:
        call.plain(shape)
        over = range(x.ndim - len(shape), x.ndim)
    if labels is not None and labels.axis in over:
        call.pin(labels, f"normalised by {call.where()}")
    return call.result(x.shape, labels, x)
