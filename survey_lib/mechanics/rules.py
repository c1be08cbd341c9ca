"""The table of rules: what each operator does with the channel axis of its inputs.

A rule takes a :class:`Call` and returns the operator's result, with labels noted for it. Whatever
meets a labelled tensor and stands in no rule, an operator as well as a single argument of one, is
pinned by :func:`apply`: no label falls. Rules run on shapes; only tensors without labels have
contents.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from survey_lib.mechanics.groups import BATCH_NORM, CONV, GraphError
from survey_lib.mechanics.labels import (
    NOTHING,
    Amount,
    Extent,
    Labelling,
    Labels,
    axis_of,
    is_meta,
    numbers,
)

Rule = Callable[["Call"], Any]
WORD = {"mul": "scaled", "imul": "scaled", "multiply": "scaled", "div": "scaled"}


class Call:
    """One call of an operator."""

    def __init__(self, net: Labelling, func: Callable, name: str, args: tuple, kwargs: dict):
        self.net, self.func, self.name, self.args, self.kwargs = net, func, name, args, kwargs
        self.in_place = False
        self.tensors: list[Tensor] = []
        self.sizes: list[Any] = []
        self.seen: set[int] = set()  # ids of tensors and sizes that the rule has dealt with
        self.answered: set[int] = set()  # the same for labels of single elements
        self._scan(args)
        self._scan(kwargs.values())

    def _scan(self, values: Iterable) -> None:
        for v in values:
            if isinstance(v, Tensor):
                self.tensors.append(v)
            elif isinstance(v, (Extent, Amount)):
                self.sizes.append(v)
            elif isinstance(v, (list, tuple)):
                self._scan(v)
            elif isinstance(v, dict):
                self._scan(v.values())
            elif isinstance(v, slice):
                self._scan((v.start, v.stop, v.step))

    def get(self, position: int, *names: str, default: Any = None) -> Any:
        """An argument by position or by any of its names."""
        if len(self.args) > position:
            return self.args[position]
        return next((self.kwargs[n] for n in names if n in self.kwargs), default)

    @property
    def x(self) -> Any:
        """The first argument."""
        return self.get(0, "input", "self", "x", "tensor")

    def labels(self, t: Any) -> Labels | None:
        """Labels of an argument, which the rule answers for from now on."""
        self.seen.add(id(t))
        return self.net.of(t)

    def plain(self, sizes: Sequence[Any]) -> list[int]:
        """Sizes that the rule answers for."""
        self.seen.update(map(id, sizes))
        return numbers(sizes)

    def where(self) -> str:
        """Operator and module, for a reason."""
        return f"{self.name} in {self.net.where()}"

    def run(self, *replaced: Any) -> Any:
        """The operator's result; on shapes as soon as one input is a shape.

        ``replaced`` stand for the first arguments.
        """
        args = (*replaced, *self.args[len(replaced) :])
        kwargs = self.kwargs
        if any(is_meta(t) for t in self.tensors) or any(is_meta(r) for r in replaced):
            args, kwargs = shapes_only(args), shapes_only(kwargs)
        return self.func(*args, **kwargs)

    def pin(self, labels: Labels | np.ndarray | None, why: str) -> None:
        """Nothing that carries these labels may go."""
        self.net.pin(labels, why)

    def result(self, shape: Sequence[int], labels: Labels | None, like: Tensor) -> Tensor:
        """A result that is known by its shape."""
        out = torch.empty(shape, dtype=like.dtype, device="meta")
        return self.net.put(out, labels)

    def give(self, value: Any, labels: Labels | None) -> Any:
        """Note every tensor of a result with the same labels."""
        if isinstance(value, Tensor):
            fits = labels is not None and value.ndim > labels.axis
            fits = fits and value.shape[labels.axis] == len(labels.ids)  # type: ignore[union-attr]
            return self.net.put(value, labels if fits else None)
        if isinstance(value, (tuple, list)):
            for v in value:
                self.give(v, labels)
        return value


def shapes_only(value: Any) -> Any:
    """Arguments with every tensor that has contents replaced by its shape."""
    if isinstance(value, Tensor):
        return value if is_meta(value) else torch.empty_like(value, device="meta")
    if isinstance(value, dict):
        return {k: shapes_only(v) for k, v in value.items()}
    if isinstance(value, slice):
        return value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(shapes_only, value))  # type: ignore[call-arg]
    if isinstance(value, (list, tuple)):
        return type(value)(shapes_only(v) for v in value)
    return torch.device("meta") if isinstance(value, torch.device) else value


def apply(call: Call, rule: Rule) -> Any:
    """Run a rule; what it hasn't looked at is pinned."""
    result = rule(call)
    net = call.net
    for t in call.tensors:
        if id(t) not in call.seen:
            net.pin(net.of(t), f"read by {call.where()}")
        if id(t) not in call.answered and (id(t) in net.owners or id(t) in net.elements):
            elements = net.single(t)
            if elements is not None:
                net.pin(elements.ravel(), f"read by {call.where()}")
    for size in call.sizes:
        if id(size) not in call.seen:
            net.use(size, f"{call.where()} computes with their number")
    return result


# Rules that users name for their own layers and functions.


def follow(*parameters: str) -> Rule:
    """A layer that treats every channel alike and by itself: its output carries its input's.

    Args:
        parameters: names of its parameters and buffers with one entry for each channel.
    """

    def rule(call: Call) -> Any:
        x = next(t for t in call.tensors if call.net.of(t) is not None)
        labels = call.labels(x)
        assert labels is not None
        for name in parameters:
            owner = (call.net.stack[-1] if call.net.stack else "", name)
            call.net.carry(owner, 0, "through", labels.ids)
        return call.give(call.run(), labels)

    return rule


def pin(why: str) -> Rule:
    """A layer of whose inputs no channel may go."""

    def rule(call: Call) -> Any:
        for t in call.tensors:
            call.pin(call.labels(t), f"{why} in {call.net.where()}")
        return call.give(call.run(), None)

    return rule


def tie(call: Call) -> Any:
    """Element by element with broadcasting: channels that meet go together."""
    return pointwise(call)


# Layers, as modules or as functions.


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
    known = isinstance(call.net.modules.get(path), (*CONV, *_TRANSPOSED))
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
        net.repeats[(*owner, 1)] = groups
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


# Element by element.


def pointwise(call: Call) -> Any:
    """Element by element with broadcasting: labels that meet are joined."""
    net, tensors = call.net, call.tensors
    labelled = [t for t in tensors if call.labels(t) is not None]
    if not labelled:
        return _elements(call)
    if len(tensors) == 1:
        return tensors[0]
    shape = torch.broadcast_shapes(*(t.shape for t in tensors))
    why = f"{WORD.get(call.name, 'residual')}: {call.where()}"
    shift = {id(t): len(shape) - t.ndim for t in tensors}
    full = []
    for t in labelled:
        lab = net.of(t)
        assert lab is not None
        if t.shape[lab.axis] == shape[lab.axis + shift[id(t)]]:
            full.append((t, lab))
        else:
            net.pin(lab, f"one channel spread over others by {call.where()}")
    labels = None
    if full:
        axis = full[0][1].axis + shift[id(full[0][0])]
        if any(lab.axis + shift[id(t)] != axis for t, lab in full):
            for _, lab in full:
                net.pin(lab, f"channels on different axes meet in {call.where()}")
        else:
            ids = full[0][1].ids
            for t in tensors:
                lab = net.of(t)
                if lab is None:
                    net.meet(ids, t, axis - shift[id(t)], call.name)
                    call.answered.add(id(t))
                elif t.shape[lab.axis] == len(ids):
                    net.tie(ids, lab.ids, why)
            labels = Labels(axis, ids)
    target = tensors[0] if call.in_place else call.kwargs.get("out")
    if target is None:
        return call.result(shape, labels, labelled[0])
    if net.of(target) is None and labels is not None:
        if target._base is not None:  # a part of another tensor is written
            net.pin(labels, f"written into a part of a tensor by {call.where()}")
        else:
            net.put(target, labels)
    return target


def _elements(call: Call) -> Any:
    """Pointwise without channels: parameters keep the labels of their elements."""
    result = call.run()
    if not isinstance(result, Tensor) or any(is_meta(t) for t in call.tensors):
        return call.give(result, None)
    call.answered.update(map(id, call.tensors))
    if any(result is t for t in call.tensors):
        return result
    own = [(t, e) for t in call.tensors if (e := call.net.single(t)) is not None]
    whole = [(t, e) for t, e in own if e.shape == tuple(result.shape)]
    for t, e in own:
        if whole and e.ndim == whole[0][1].ndim and all(
            n in (1, m) for n, m in zip(e.shape, whole[0][1].shape, strict=True)
        ):
            there = np.broadcast_to(e, whole[0][1].shape)
            # an entry that serves many elements of another tensor ties them all: only where
            # both vary along the same axis is that what broadcasting says
            if e.shape == whole[0][1].shape:
                call.net.tie(whole[0][1].ravel(), there.ravel(), f"scaled: {call.where()}")
                continue
        if t is not (whole[0][0] if whole else None):
            call.net.pin(e.ravel(), f"read by {call.where()}")
    if whole and result is not whole[0][0]:
        call.net.elements[id(result)] = whole[0][1]
        call.net.known[id(result)] = result
    return result


def same_shape(call: Call) -> Any:
    """One tensor in, the same channels out: activations, casts, dropout."""
    x = call.x
    if call.net.of(x) is None:
        return _elements(call)
    call.labels(x)
    return x


# Shapes.


def reshape(call: Call) -> Any:
    """View and reshape: labels go where their positions go."""
    x = call.x
    sizes = call.args[1:] or tuple(call.kwargs.get(k) for k in ("shape", "size") if k in call.kwargs)
    if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
        sizes = tuple(sizes[0])
    if sizes and isinstance(sizes[0], torch.dtype):
        return same_shape(call)
    plain = call.plain(sizes)
    labels = call.labels(x)
    if labels is None:
        return _sized(call, sizes)
    result = x.reshape(plain) if is_meta(x) else torch.empty(x.shape, device="meta").reshape(plain)
    spec = [s if isinstance(s, Extent) else n for s, n in zip(sizes, plain, strict=True)]
    return call.net.put(result, regroup(call, labels, tuple(x.shape), tuple(result.shape), spec))


def _only_sizes(call: Call, sizes: Iterable[Any]) -> None:
    for s in sizes:
        call.net.use(s, f"{call.where()} shapes another tensor by their number")


def _sized(call: Call, sizes: Sequence[Any]) -> Any:
    """A view with sizes in it of a tensor without a channel axis: these sizes must not shrink."""
    result = _moved(call, None)
    elements = call.net.elements.get(id(result))
    for axis, s in enumerate(sizes):
        tag = isinstance(s, Extent) and s.exact and len(s.tags) == 1 and not len(s.ids)
        if elements is None or not tag:
            call.net.use(s, f"{call.where()} shapes another tensor by their number")
        if elements is not None and int.__index__(s) > 1:
            call.net.sized.append((elements, axis, next(iter(s.tags)) if tag else None, call.where()))
    return result


def _moved(call: Call, labels: Labels | None) -> Any:
    """Result of a shape operator on a tensor without a channel axis."""
    result = call.run()
    t = call.x
    if isinstance(result, Tensor) and not is_meta(result) and isinstance(t, Tensor):
        elements = call.net.single(t)
        call.answered.add(id(t))
        if elements is not None:
            args, kwargs = numbers_only(call.args[1:]), numbers_only(call.kwargs)
            ids = call.func(torch.from_numpy(elements), *args, **kwargs)
            call.net.elements[id(result)] = ids.numpy()
            call.net.known[id(result)] = result
            return result
    return call.give(result, labels)


def numbers_only(value: Any) -> Any:
    """Arguments whose sizes are plain numbers."""
    if isinstance(value, Extent):
        return int.__index__(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(numbers_only, value))
    return {k: numbers_only(v) for k, v in value.items()} if isinstance(value, dict) else value


def _blocks(old: Sequence[int], new: Sequence[int]) -> Iterable[tuple[range, range]]:
    """Smallest runs of axes, before and after, that hold the same elements."""
    i = j = 0
    while i < len(old) or j < len(new):
        i0, j0, a, b = i, j, 1, 1
        if i < len(old):
            a, i = old[i], i + 1
        if j < len(new):
            b, j = new[j], j + 1
        while a != b:
            if a < b:
                a, i = a * old[i], i + 1
            else:
                b, j = b * new[j], j + 1
        yield range(i0, i), range(j0, j)


def regroup(
    call: Call, labels: Labels, old: Sequence[int], new: Sequence[int], spec: Sequence[Any]
) -> Labels | None:
    """Labels after axes were merged or split.

    A split keeps one axis *live*: whole slices along it can go, so labels are tied across the
    others. The live axis must adapt by itself: its size is -1, is computed from the axis it was
    read from, or is an attribute of the module that shrinks with it.
    """
    net, ids = call.net, labels.ids
    before, after = next((b, a) for b, a in _blocks(old, new) if labels.axis in b)
    for k, s in enumerate(spec):
        if k not in after:
            _other_size(call, s)
    inner = [new[k] for k in after]
    if not inner or math.prod(inner) == 0:
        net.pin(labels, f"{call.where()} takes the axis of their channel away")
        return None
    shape = [old[k] for k in before]
    view = [len(ids) if k == labels.axis else 1 for k in before]
    m = np.broadcast_to(ids.reshape(view), shape).reshape(inner)
    varies = [d for d, n in enumerate(inner) if n > 1 and (m != m.take([0], d)).any()]
    if not varies:  # one label: the axis that has its size, else the largest
        same = [d for d, n in enumerate(inner) if n == len(ids)]
        varies = [same[0] if same else int(np.argmax(inner))]
    if len(varies) == 1:
        live = varies[0]
    else:
        able = [d for d in varies if _adapts(call, spec[after[d]], ids)]
        if not able:
            net.pin(labels, f"{call.where()} splits the channels over two axes")
            for d in range(len(inner)):
                _other_size(call, spec[after[d]])
            return None
        live = max(able, key=lambda d: _rank(spec[after[d]]))
    moved = np.moveaxis(m, live, 0).reshape(inner[live], -1)
    if len(varies) > 1:
        head = np.broadcast_to(moved[:, :1], moved.shape)
        net.tie(moved[:, 1:].ravel(), head[:, 1:].ravel(), f"split: {call.where()}")
    out = np.ascontiguousarray(moved[:, 0])
    for d in range(len(inner)):
        if d != live:
            _other_size(call, spec[after[d]], ids)
    _live_size(call, spec[after[live]], ids, out)
    return Labels(after[live], out)


def _rank(size: Any) -> int:
    """Which of several axes that could shrink does: heads by name, what follows by itself, others."""
    tags = size.tags if isinstance(size, Extent) else ()
    if any("head" in attribute for _, attribute in tags):
        return 2
    return 0 if tags else 1


def _own(size: Extent, ids: np.ndarray) -> bool:
    return len(size.ids) > 0 and bool(np.isin(size.ids, ids).all())


def _adapts(call: Call, size: Any, ids: np.ndarray) -> bool:
    """Whether an axis of this size shrinks by itself when channels go."""
    if not isinstance(size, Extent):
        return size == -1
    if len(size.ids):
        return _own(size, ids) and not size.tags
    return size.exact and len(size.tags) == 1


def _live_size(call: Call, size: Any, ids: np.ndarray, out: np.ndarray) -> None:
    net = call.net
    if isinstance(size, Extent) and not len(size.ids) and size.exact and len(size.tags) == 1:
        net.counts.append((next(iter(size.tags)), out))
    elif isinstance(size, Extent) and len(size.ids) and not size.tags:
        if not _own(size, ids):
            if size.exact:
                net.alike(out, size.ids, f"{call.where()} gives one axis the other's size")
            else:
                net.use(size, f"{call.where()} shapes another tensor by their number")
                net.pin(out, f"{call.where()} shapes them by another number")
    elif isinstance(size, Extent):
        net.use(size, f"{call.where()} computes with their number")
        net.pin(out, f"{call.where()} shapes them by another number")
    elif size not in (-1, 1):
        net.pin(out, f"{call.where()} names their number; write -1 instead")


def _other_size(call: Call, size: Any, ids: np.ndarray | None = None) -> None:
    """A size that must stay as it is while channels go."""
    if isinstance(size, Extent):
        if ids is not None and len(size.ids) and _own(size, ids) and not size.exact:
            call.pin(ids, f"{call.where()} computes with their number")
        call.net.use(size, f"{call.where()} shapes another axis by their number")


def like_other(call: Call) -> Any:
    """``view_as``, ``reshape_as``, ``expand_as``: the other tensor's shape."""
    x, other = call.x, call.get(1, "other")
    labels, theirs = call.labels(x), call.labels(other)
    if labels is None:
        call.pin(theirs, f"{call.where()} shapes another tensor by their number")
        return _moved(call, None)
    net = call.net
    spec: list[Any] = list(other.shape)
    if theirs is not None:
        spec[theirs.axis] = Extent(spec[theirs.axis], net, theirs.ids, frozenset(), True)
    if call.name == "expand_as":
        return _expanded(call, labels, spec)
    return net.put(call.run(), regroup(call, labels, tuple(x.shape), tuple(other.shape), spec))


def expand(call: Call) -> Any:
    """Expansion along axes of size one."""
    sizes = call.args[1:] or (call.kwargs.get("size"),)
    sizes = tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)) else sizes
    labels = call.labels(call.x)
    call.plain(sizes)
    return _sized(call, sizes) if labels is None else _expanded(call, labels, sizes)


def _expanded(call: Call, labels: Labels, sizes: Sequence[Any]) -> Any:
    x = call.x
    plain = numbers(sizes)
    result = shapes_only(x).expand(plain)
    axis = labels.axis + len(plain) - x.ndim
    for k, s in enumerate(sizes):
        if k != axis:
            _other_size(call, s)
    if result.shape[axis] != len(labels.ids):
        call.pin(labels, f"one channel spread over others by {call.where()}")
        _other_size(call, sizes[axis])
        return call.net.put(result, None)
    s = sizes[axis]
    if call.name == "expand_as" and isinstance(s, Extent):
        call.net.tie(labels.ids, s.ids, f"residual: {call.where()}")
    elif not (isinstance(s, int) and plain[axis] == -1):
        _live_size(call, s, labels.ids, labels.ids)
    return call.net.put(result, Labels(axis, labels.ids))


def flatten(call: Call) -> Any:
    """Flatten: several axes become one."""
    x, labels = call.x, call.labels(call.x)
    if labels is None:
        return _moved(call, None)
    start, end = call.get(1, "start_dim", default=0), call.get(2, "end_dim", default=-1)
    result = shapes_only(x).flatten(start, end)
    return call.net.put(
        result, regroup(call, labels, tuple(x.shape), tuple(result.shape), [-1] * result.ndim)
    )


def unflatten(call: Call) -> Any:
    """Unflatten: one axis becomes several."""
    x, labels = call.x, call.labels(call.x)
    dim, sizes = call.get(1, "dim"), call.get(2, "sizes", "unflattened_size")
    plain = call.plain(sizes)
    at = axis_of(dim, x.ndim)
    spec = [-1] * at + list(sizes) + [-1] * (x.ndim - at - 1)
    if labels is None:
        return _sized(call, spec)
    result = shapes_only(x).unflatten(at, plain)
    return call.net.put(
        result, regroup(call, labels, tuple(x.shape), tuple(result.shape), spec)
    )


def rearrange(call: Call) -> Any:
    """Transpositions, permutations, axes of size one: the channel axis moves and stays whole."""
    x, labels = call.x, call.labels(call.x)
    call.plain(call.sizes)
    if labels is None:
        return _moved(call, None)
    if isinstance(x, Tensor) and call.name == "squeeze" and x.shape[labels.axis] == 1:
        dims = call.get(1, "dim")
        gone = range(x.ndim) if dims is None else _dims(dims, x.ndim)
        if labels.axis in gone:
            call.pin(labels, f"{call.where()} takes the axis of their channel away")
            return call.net.put(call.run(), None)
    # the channel axis alone gets a stride of its own: where does it go?
    view = [1] * x.ndim
    view[labels.axis] = len(labels.ids)
    strides = [0] * x.ndim
    strides[labels.axis] = 1
    probe = torch.empty(len(labels.ids), device="meta").as_strided(x.shape, strides)
    result = call.run(probe) if is_meta(probe) else None
    where = [d for d in range(result.ndim) if result.stride(d) == 1 and result.shape[d] == len(labels.ids)]
    if len(labels.ids) == 1 or len(where) != 1:
        return call.net.put(call.run(), _by_marks(call, x, labels))
    return call.net.put(call.run(), Labels(where[0], labels.ids))


def _by_marks(call: Call, x: Tensor, labels: Labels) -> Labels | None:
    """Where the channel axis goes, told by giving every axis a size of its own."""
    sizes = [2 + d if n != 1 else 1 for d, n in enumerate(x.shape)]
    sizes[labels.axis] = 2 + x.ndim
    probe = torch.empty(sizes, device="meta")
    result = call.run(probe)
    where = [d for d in range(result.ndim) if result.shape[d] == 2 + x.ndim]
    if len(where) != 1:
        call.pin(labels, f"{call.where()} moves their axis out of sight")
        return None
    return Labels(where[0], labels.ids)


def _dims(dims: Any, ndim: int) -> set[int]:
    listed = dims if isinstance(dims, (tuple, list)) else (dims,)
    return {axis_of(d, ndim) for d in listed}


def index(call: Call) -> Any:
    """Indexing: whole axes are followed; on the channel axis anything but all of it pins."""
    x, labels = call.x, call.labels(call.x)
    items = call.get(1, "index")
    items = items if isinstance(items, tuple) else (items,)
    for t in call.tensors:
        if t is not x:
            call.pin(call.labels(t), f"used as an index in {call.net.where()}")
    if labels is None:
        for item in items:
            for s in (item.start, item.stop, item.step) if isinstance(item, slice) else (item,):
                call.seen.add(id(s))
                call.net.use(s, f"{call.where()} computes with their number")
        return _moved(call, None)
    net = call.net
    used = sum(1 for i in items if i is not None and i is not Ellipsis and not isinstance(i, bool))
    used += sum(i.ndim - 1 for i in items if isinstance(i, Tensor) and i.dtype == torch.bool)
    spread = [slice(None)] * (x.ndim - used)
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    full = [*items[:at], *spread, *items[at + 1 :]]
    axis, position, fancy = 0, None, any(isinstance(i, (Tensor, list, bool, np.ndarray)) for i in full)
    own: Any = None
    for item in full:
        if item is None:
            continue
        width = item.ndim if isinstance(item, Tensor) and item.dtype == torch.bool else 1
        if axis <= labels.axis < axis + width:
            own = item
        elif isinstance(item, (Extent, slice)):
            _only_sizes(call, (item.start, item.stop) if isinstance(item, slice) else (item,))
        axis += width
    for item in full:
        parts = (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)
        call.seen.update(map(id, parts))
    plain = tuple(numbers_only((i.start, i.stop, i.step)) if isinstance(i, slice) else i for i in full)
    plain = tuple(slice(*p) if isinstance(i, slice) else numbers_only(p)
                  for p, i in zip(plain, full, strict=True))  # fmt: skip
    if not isinstance(own, slice):
        net.pin(labels, f"indexing in {net.where()} picks some of the channels")
        return net.put(call.func(shapes_only(x), shapes_only(plain)), None)
    start, stop, step = numbers_only((own.start, own.stop, own.step))
    ids = labels.ids[start:stop:step]
    whole = len(ids) == len(labels.ids) and step in (None, 1)
    named = isinstance(own.stop, int) and not isinstance(own.stop, Extent) and own.stop >= 0
    if isinstance(own.stop, Extent) and not (own.stop.exact and np.array_equal(own.stop.ids, labels.ids)):
        net.use(own.stop, f"{call.where()} computes with their number")
        named = True
    if not whole or (named and own.stop <= len(ids)):
        net.pin(labels, f"indexing in {net.where()} picks some of the channels")
    # marks: every axis has a size of its own, and the index says which of them is left where
    result = call.func(shapes_only(x), shapes_only(plain))
    if not fancy:
        position = sum(1 for i in _before(full, labels.axis) if i is None or isinstance(i, slice))
        return net.put(result, Labels(position, ids))
    strides = [0] * x.ndim
    strides[labels.axis] = 1
    marks = torch.arange(len(labels.ids)).as_strided(x.shape, strides)
    if any(is_meta(i) for i in plain if isinstance(i, Tensor)):
        net.pin(labels, f"indexing in {net.where()} depends on the channels")
        return net.put(result, None)
    moved = call.func(marks, tuple(i.cpu() if isinstance(i, Tensor) else i for i in plain))
    where = [d for d, n in enumerate(moved.shape) if n == len(ids)
             and moved.numel() and torch.equal(moved.movedim(d, -1).reshape(-1, n)[0],
                                               torch.arange(len(labels.ids))[start:stop:step])]  # fmt: skip
    where = [d for d in where if (moved == moved.movedim(d, -1)[(0,) * (moved.ndim - 1)].view(
        [-1 if k == d else 1 for k in range(moved.ndim)])).all()]  # fmt: skip
    if len(where) != 1:
        net.pin(labels, f"indexing in {net.where()} moves their axis out of sight")
        return net.put(result, None)
    return net.put(result, Labels(where[0], ids))


def _before(items: Sequence[Any], axis: int) -> Iterable[Any]:
    at = 0
    for item in items:
        if item is not None:
            if at == axis:
                return
            at += 1
        yield item


def repeat(call: Call) -> Any:
    """``repeat`` and ``tile``: whole copies beside each other."""
    x, labels = call.x, call.labels(call.x)
    if labels is None:
        return _moved(call, None)
    times = call.args[1:] or (call.get(1, "repeats", "dims"),)
    times = tuple(times[0]) if len(times) == 1 and isinstance(times[0], (tuple, list)) else times
    plain = call.plain(times)
    _only_sizes(call, times)
    plain = [1] * (x.ndim - len(plain)) + plain
    result = shapes_only(x).repeat(plain)
    axis = labels.axis + result.ndim - x.ndim
    return call.net.put(result, Labels(axis, np.tile(labels.ids, plain[axis])))


def repeat_interleave(call: Call) -> Any:
    """Every position several times."""
    x, labels = call.x, call.labels(call.x)
    times, dim = call.get(1, "repeats"), call.get(2, "dim")
    if labels is None or dim is None or not isinstance(times, int):
        call.pin(labels, f"{call.where()} moves their axis out of sight")
        return call.give(call.run(), None)
    call.seen.add(id(times))
    call.net.use(times, f"{call.where()} computes with their number")
    n = numbers([times])[0]
    axis = axis_of(dim, x.ndim)
    result = shapes_only(x).repeat_interleave(n, axis)
    ids = np.repeat(labels.ids, n) if axis == labels.axis else labels.ids
    return call.net.put(result, Labels(labels.axis, ids))


# Several tensors from one, one from several.


def chunk(call: Call) -> Any:
    """``chunk`` into equal parts: one channel of every part goes at a time."""
    x, labels = call.x, call.labels(call.x)
    parts, dim = call.get(1, "chunks", "sections", "indices_or_sections"), call.get(2, "dim", default=0)
    if labels is None:
        return _moved(call, None)
    result = call.func(shapes_only(x), numbers_only(parts), numbers_only(dim))
    return _pieces(call, labels, axis_of(dim, x.ndim), result, isinstance(parts, int))


def split(call: Call) -> Any:
    """``split`` by a size: as ``chunk`` where the size is a share of the channels' number."""
    x, labels = call.x, call.labels(call.x)
    size, dim = call.get(1, "split_size_or_sections", "split_size"), call.get(2, "dim", default=0)
    if labels is None:
        return _moved(call, None)
    result = call.func(shapes_only(x), numbers_only(size), numbers_only(dim))
    listed = size if isinstance(size, (tuple, list)) else (size,)
    own = all(isinstance(s, Extent) and not s.tags and _own(s, labels.ids) for s in listed)
    if axis_of(dim, x.ndim) == labels.axis and own:
        call.plain(listed)
    return _pieces(call, labels, axis_of(dim, x.ndim), result, own)


def _pieces(call: Call, labels: Labels, axis: int, result: Any, adapts: bool) -> Any:
    if axis != labels.axis:
        return call.give(result, labels)
    sizes = [t.shape[axis] for t in result]
    if not adapts or len(set(sizes)) > 1:
        call.pin(labels, f"{call.where()} cuts the channels into fixed pieces")
    parts = np.split(labels.ids, np.cumsum(sizes)[:-1])
    for t, ids in zip(result, parts, strict=True):
        if adapts and len(set(sizes)) == 1:
            call.net.tie(parts[0], ids, f"split: {call.where()}")
        call.net.put(t, Labels(axis, ids))
    return result


def glu(call: Call) -> Any:
    """Gated linear unit: one half scales the other."""
    x, labels = call.x, call.labels(call.x)
    if labels is None:
        return call.give(call.run(), None)
    axis = axis_of(call.get(1, "dim", default=-1), x.ndim)
    result = call.run()
    ids = labels.ids
    if axis == labels.axis:
        half = len(ids) // 2
        call.net.tie(ids[:half], ids[half:], f"scaled: {call.where()}")
        ids = ids[:half]
    return call.net.put(result, Labels(labels.axis, ids))


def unbind(call: Call) -> Any:
    """One tensor for each position of an axis."""
    x, labels = call.x, call.labels(call.x)
    if labels is None:
        return _moved(call, None)
    axis = axis_of(call.get(1, "dim", default=0), x.ndim)
    result = shapes_only(x).unbind(axis)
    if axis == labels.axis:
        call.pin(labels, f"{call.where()} takes the channels apart")
        return call.give(result, None)
    after = Labels(labels.axis - (axis < labels.axis), labels.ids)
    for t in result:
        call.net.put(t, after)
    return iter(result) if call.name == "iter" else result


def concatenate(call: Call) -> Tensor:
    """Along the channel axis: labels side by side. Along another: joined."""
    nodes = call.get(0, "tensors")
    dim = numbers([call.get(1, "dim", "axis", default=0)])[0]
    net = call.net
    nodes = [t for t in nodes if not (t.ndim == 1 and t.numel() == 0)]
    stacked = call.name == "stack"
    parts = [call.labels(t) for t in nodes]
    if not any(parts):
        return _elements_beside(call, nodes)
    result = torch.stack(shapes_only(nodes), dim) if stacked else torch.cat(shapes_only(nodes), dim)
    dim = axis_of(dim, result.ndim)
    if stacked:
        parts = [p and Labels(p.axis + (p.axis >= dim), p.ids) for p in parts]
    first = next(p for p in parts if p is not None)
    if first.axis == dim:
        ids = []
        for p, t in zip(parts, nodes, strict=True):
            if p is not None and p.axis != dim:
                net.pin(p, f"channels on different axes meet in {call.where()}")
            own = p.ids if p is not None and p.axis == dim else np.full(t.shape[dim], NOTHING)
            ids.append(own)
        return net.put(result, Labels(dim, np.concatenate(ids)))
    for p, t in zip(parts, nodes, strict=True):
        if p is None:
            net.meet(first.ids, t, first.axis - (stacked and first.axis > dim), call.name)
            call.answered.add(id(t))
        elif p.axis != first.axis:
            net.pin(first, f"channels on different axes meet in {call.where()}")
            net.pin(p, f"channels on different axes meet in {call.where()}")
        else:
            net.tie(first.ids, p.ids, f"residual: {call.where()}")
    return net.put(result, first)


def _elements_beside(call: Call, nodes: Sequence[Tensor]) -> Tensor:
    """Parameters side by side keep the labels of their elements."""
    result = call.run()
    found = [call.net.single(t) for t in nodes]
    call.answered.update(map(id, nodes))
    if any(e is not None for e in found) and not is_meta(result):
        blank = [
            torch.from_numpy(e) if e is not None else torch.full(t.shape, NOTHING)
            for e, t in zip(found, nodes, strict=True)
        ]
        ids = call.func(blank, *numbers_only(call.args[1:]), **{
            k: numbers_only(v) for k, v in call.kwargs.items() if k != "tensors"})  # fmt: skip
        call.net.elements[id(result)] = ids.numpy()
        call.net.known[id(result)] = result
        return result
    return call.give(result, None)


# Along axes.


def along(position: int, default: Any = None, *names: str) -> Rule:
    """Operators that mix the entries of some axes and keep the shape."""

    def rule(call: Call) -> Any:
        x, labels = call.x, call.labels(call.x)
        if labels is None:
            return _moved(call, None) if call.name in ("flip", "roll") else call.give(call.run(), None)
        dims = call.get(position, *(names or ("dim", "dims", "axis")), default=default)
        if call.name in ("softmax", "log_softmax", "softmin") and dims is None:
            dims = 0 if x.ndim in (0, 1, 3) else 1  # as torch picks it
        if call.name == "flip" and len(call.args) > 2:
            dims = call.args[1:]
        gone = set(range(x.ndim)) if dims is None else _dims(dims, x.ndim)
        if labels.axis in gone:
            word = "normalised by" if "soft" in call.name or call.name == "normalize" else "mixed by"
            call.pin(labels, f"{word} {call.where()}")
        return call.give(call.run(), labels)

    return rule


def reduce(position: int, *names: str) -> Rule:
    """Sums and means: over space they leave channels alone, over channels they pin them."""

    def rule(call: Call) -> Any:
        x, labels = call.x, call.labels(call.x)
        second = call.get(1, "other")
        if call.name in ("max", "min") and isinstance(second, Tensor):
            return pointwise(call)
        if labels is None:
            return call.give(call.run(), None)
        dims = call.get(position, *(names or ("dim", "axis")))
        if isinstance(dims, bool):
            dims = None
        gone = set(range(x.ndim)) if dims is None else _dims(dims, x.ndim)
        if dims is not None and isinstance(dims, (tuple, list)) and not dims:
            gone = set(range(x.ndim))
        result = call.run()
        first = result if isinstance(result, Tensor) else result[0]
        if labels.axis in gone:
            call.pin(labels, f"{call.where()} runs over the channels")
            return call.give(result, None)
        kept = first.ndim == x.ndim
        axis = labels.axis if kept else labels.axis - sum(d < labels.axis for d in gone)
        return call.give(result, Labels(axis, labels.ids))

    return rule


def pooled(call: Call) -> Any:
    """Pooling acts on the last axes and leaves channels alone."""
    x, labels = call.x, call.labels(call.x)
    dims = next(int(c) for c in call.name if c.isdigit())
    result = call.run()
    if labels is not None and labels.axis >= x.ndim - dims:
        call.pin(labels, f"{call.where()} pools over the channels")
        labels = None
    return call.give(result, labels)


def on_space(call: Call) -> Any:
    """Resampling: everything behind the first two axes."""
    x, labels = call.x, call.labels(call.x)
    result = call.run()
    if labels is not None and labels.axis > 1:
        call.pin(labels, f"{call.where()} pools over the channels")
        labels = None
    return call.give(result, labels)


def pad(call: Call) -> Any:
    """Padding of space leaves channels alone; padding of channels pins them."""
    x, labels = call.x, call.labels(call.x)
    if labels is None:
        return call.give(call.run(), None)
    amounts = call.get(1, "pad")
    _only_sizes(call, amounts)
    plain = call.plain(amounts)
    result = call.func(shapes_only(x), plain, *call.args[2:],
                       **{k: v for k, v in call.kwargs.items() if k not in ("pad", "input")})  # fmt: skip
    back = x.ndim - 1 - labels.axis
    if any(plain[2 * back : 2 * back + 2]):
        call.pin(labels, f"{call.where()} adds a fixed number of channels")
        return call.net.put(result, None)
    return call.net.put(result, labels)


def unfold(call: Call) -> Any:
    """``unfold`` (im2col): each channel becomes a run of rows."""
    x, labels = call.x, call.labels(call.x)
    if call.func is Tensor.unfold:
        return unknown(call)
    result = call.run()
    if labels is None or labels.axis != x.ndim - 3:
        call.pin(labels, f"{call.where()} pools over the channels")
        return call.give(result, None)
    each = result.shape[-2] // len(labels.ids)
    return call.net.put(result, Labels(result.ndim - 2, np.repeat(labels.ids, each)))


# Products of activations.


def matmul(call: Call) -> Tensor:
    """Matrix product: rows, columns and batch axes are followed, what is summed over is pinned."""
    a, b = call.tensors[:2]
    if call.name == "rmatmul":
        a, b = b, a
    net = call.net
    labelled = {id(t): call.labels(t) for t in (a, b)}
    result = call.run()
    macs = math.prod(result.shape) * a.shape[-1]
    if a.ndim < 2 or b.ndim < 2:
        for t in (a, b):
            net.pin(labelled[id(t)], f"{call.where()} runs over the channels")
        net.product(macs)
        return call.give(result, None)
    found: list[tuple[int, np.ndarray]] = []
    for t, over, free in ((a, -1, -2), (b, -2, -1)):
        lab = labelled[id(t)]
        if lab is None:
            continue
        back = lab.axis - t.ndim
        if back == over:
            net.pin(lab, f"{call.where()} runs over the channels")
        elif back == free or result.shape[back] == len(lab.ids):
            found.append((back, lab.ids))
        else:
            net.pin(lab, f"one channel spread over others by {call.where()}")
    if len({back for back, _ in found}) > 1:
        for _, ids in found:
            net.pin(ids, f"channels on different axes meet in {call.where()}")
        found = []
    if not found:
        net.product(macs)
        return call.give(result, None)
    back, ids = found[0]
    net.product(macs, ids)
    for _, other in found[1:]:
        net.tie(ids, other, f"heads: {call.where()}")
    if back < -2:
        for t in (a, b):
            if labelled[id(t)] is None:
                net.meet(ids, t, back + t.ndim, call.name)
                call.answered.add(id(t))
    return net.put(result, Labels(result.ndim + back, ids))


def attention(call: Call) -> Tensor:
    """Scaled dot-product attention: heads go whole, queries with the keys they ask."""
    q, k, v = call.get(0, "query"), call.get(1, "key"), call.get(2, "value")
    mask = call.get(3, "attn_mask")
    net = call.net
    labels = [call.labels(t) for t in (q, k, v)]
    if mask is not None:
        call.pin(call.labels(mask), f"they mask attention in {net.where()}")
    shape = (*q.shape[:-1], v.shape[-1])
    scores = math.prod(q.shape[:-1]) * k.shape[-2] * q.shape[-1]
    values = math.prod(shape) * k.shape[-2]
    backs = [lab and lab.axis - t.ndim for lab, t in zip(labels, (q, k, v), strict=True)]
    if all(lab is not None for lab in labels) and len(set(backs)) == 1 and backs[0] <= -3:  # type: ignore
        ids = labels[0].ids  # type: ignore[union-attr]
        for lab in labels[1:]:
            each = len(ids) // len(lab.ids)  # type: ignore[union-attr]
            if each * len(lab.ids) != len(ids):  # type: ignore[union-attr]
                net.pin(ids, f"heads of different numbers meet in {call.where()}")
                break
            net.tie(ids, np.repeat(lab.ids, each), f"heads: {call.where()}")  # type: ignore
        if mask is not None:
            net.meet(ids, mask, backs[0] + mask.ndim, call.name)  # type: ignore[operator]
            call.answered.add(id(mask))
        net.product(scores + values, ids)
        return call.result(shape, Labels(len(shape) + backs[0], ids), q)  # type: ignore[operator]
    out = None
    for i, lab in enumerate(labels):
        if lab is None:
            continue
        if i == 2 and backs[2] == -1:  # tokens are mixed, features are not
            out = Labels(len(shape) - 1, lab.ids)
        else:
            net.pin(lab, f"{call.where()} runs over the channels")
    net.product(scores)
    net.product(values, out.ids if out is not None else None)
    return call.result(shape, out, q)


def einsum(call: Call) -> Any:
    """Einstein sum: a letter that stays is followed, one that is summed over is pinned."""
    equation, operands = call.args[0], call.args[1:]
    operands = tuple(operands[0]) if len(operands) == 1 and isinstance(operands[0], (tuple, list)) else operands
    labels = [call.labels(t) for t in operands]
    result = call.run()
    plain = isinstance(equation, str) and "->" in equation and "." not in equation
    sides, out = equation.replace(" ", "").split("->") if plain else ("", "")
    terms = sides.split(",")
    if not plain or any(len(set(t)) < len(t) for t in terms):
        for lab in labels:
            call.pin(lab, f"{call.where()} is not followed")
        call.net.product(_macs(call))
        return call.give(result, None)
    size = {c: n for term, t in zip(terms, operands, strict=True)
            for c, n in zip(term, t.shape, strict=True)}  # fmt: skip
    macs = math.prod(size.values()) if len(terms) > 1 else 0
    found: dict[str, np.ndarray] = {}
    for term, t, lab in zip(terms, operands, labels, strict=True):
        if lab is None:
            continue
        letter = term[lab.axis]
        if letter not in out:
            call.pin(lab, f"{call.where()} runs over the channels")
        elif letter in found:
            call.net.tie(found[letter], lab.ids, f"heads: {call.where()}")
        else:
            found[letter] = lab.ids
    if len(found) != 1:
        for ids in found.values():
            call.pin(ids, f"channels on different axes meet in {call.where()}")
        call.net.product(macs)
        return call.give(result, None)
    letter, ids = next(iter(found.items()))
    for term, t, lab in zip(terms, operands, labels, strict=True):
        if letter in term and lab is None:
            call.net.meet(ids, t, term.index(letter), call.name)
            call.answered.add(id(t))
    call.net.product(macs, ids)
    return call.net.put(result, Labels(out.index(letter), ids))


# What makes tensors, asks, or writes.


def like(call: Call) -> Any:
    """``zeros_like`` and the like: the same shape, without contents that matter."""
    labels = call.labels(call.x)
    return call.give(call.run(), labels) if labels is not None else call.give(call.run(), None)


def factory(call: Call) -> Any:
    """A tensor of a given shape: an axis as long as the channels carries their labels."""
    result = call.run()
    sizes = next((a for a in call.args if isinstance(a, (tuple, list))), call.args)
    sizes = call.kwargs.get("size", sizes)
    sizes = sizes if isinstance(sizes, (tuple, list)) else (sizes,)
    owned = [
        (d, s) for d, s in enumerate(sizes)
        if isinstance(s, Extent) and s.exact and len(s.ids) and not s.tags
    ]  # fmt: skip
    x = call.x
    if isinstance(x, Tensor):  # new_zeros and the like
        call.seen.add(id(x))
    if len(owned) == 1 and len(sizes) == result.ndim:
        axis, s = owned[0]
        call.seen.add(id(s))
        result = result if is_meta(result) else torch.empty_like(result, device="meta")
        return call.net.put(result, Labels(axis, s.ids))
    return call.give(result, None)


def write(call: Call) -> Any:
    """Writing into a part of a tensor: what meets there stays."""
    for t in call.tensors:
        call.pin(call.labels(t), f"written into or read by {call.where()}")
    target = call.tensors[0]
    if any(is_meta(t) for t in call.tensors) and not is_meta(target):
        return None if call.name == "setitem" else target  # its contents no longer matter
    return call.run()


def truth(call: Call) -> Any:
    """A decision that rests on the contents of a tensor."""
    if any(is_meta(t) for t in call.tensors):
        raise call.net.refuse(
            "control flow that depends on the data",
            "take it out of forward, or give trace_groups a rule for the module",
        )
    return call.func(*call.args, **call.kwargs)


def _macs(call: Call) -> float:
    """MACs of an operator that no formula here knows, counted on shapes."""
    with FlopCounterMode(display=False) as counter:
        call.run()
    return counter.get_total_flops() / 2


def unknown(call: Call) -> Any:
    """An operator that stands in no rule: its inputs stay whole."""
    net = call.net
    for t in call.tensors:
        net.pin(call.labels(t), f"{call.name} in {net.where()} stands in no rule")
        net.touched.add(id(t))
        elements = net.single(t)
        if elements is not None:
            net.pin(elements.ravel(), f"read by {call.where()}")
    for s in call.sizes:
        call.seen.add(id(s))
        net.use(s, f"{call.where()} computes with their number")
    try:
        with FlopCounterMode(display=False) as counter:
            result = call.run()
    except GraphError:
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise net.refuse(
            f"the operator {call.name} cannot be followed ({why})",
            "use layers of torch.nn, or give trace_groups a rule for it",
        ) from None
    net.product(counter.get_total_flops() / 2)
    return call.give(result, None)


_TRANSPOSED = (torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d)
UNARY = """relu relu6 leaky_relu rrelu elu celu selu gelu silu mish sigmoid logsigmoid tanh softplus
softsign softshrink hardshrink tanhshrink hardswish hardsigmoid hardtanh threshold dropout
dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout neg abs exp expm1
log log2 log1p log10 sqrt rsqrt square sin cos tan erf sign round floor ceil trunc reciprocal
contiguous clone float double half bfloat16 to type type_as cpu cuda detach data real
requires_grad stochastic_depth nan_to_num positive isnan isinf isfinite logical_not bitwise_not
invert bool int long alias logit deg2rad acos asin atan sinh cosh fill zero
bernoulli normal uniform""".split()
BINARY = """add iadd radd sub isub rsub subtract mul imul rmul multiply div idiv rdiv truediv
itruediv rtruediv divide true_divide floordiv ifloordiv rfloordiv floor_divide pow ipow rpow
remainder mod imod fmod maximum minimum fmax fmin atan2 eq ne lt le gt ge greater less
greater_equal less_equal not_equal logical_and logical_or logical_xor and or xor iand ior ixor rand
ror rxor clamp clip clamp_min clamp_max where masked_fill addcmul addcdiv lerp copysign hypot
float_power xlogy isclose copy""".split()
POINTWISE = {*UNARY, *BINARY}
RULES: dict[str, Rule] = {
    **dict.fromkeys(UNARY, same_shape),
    **dict.fromkeys(BINARY, pointwise),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), conv),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), transposed),
    **dict.fromkeys(("batch_norm", "instance_norm"), batch_norm),
    **dict.fromkeys(("layer_norm", "rms_norm", "group_norm", "local_response_norm"), channel_norm),
    "linear": linear, "embedding": embedding, "prelu": prelu,
    **dict.fromkeys(("view", "reshape"), reshape),
    **dict.fromkeys(("view_as", "reshape_as", "expand_as"), like_other),
    **dict.fromkeys(("expand", "broadcast_to"), expand),
    "flatten": flatten, "ravel": flatten, "unflatten": unflatten,
    **dict.fromkeys(("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "squeeze",
                     "unsqueeze", "T", "mT", "t"), rearrange),
    "getitem": index, "repeat": repeat, "tile": repeat, "repeat_interleave": repeat_interleave,
    **dict.fromkeys(("chunk", "tensor_split"), chunk),
    **dict.fromkeys(("split", "split_with_sizes"), split),
    "glu": glu, "unbind": unbind, "iter": unbind,
    **dict.fromkeys(("cat", "concat", "concatenate", "stack"), concatenate),
    **dict.fromkeys(("softmax", "log_softmax", "softmin"), along(1)),
    **dict.fromkeys(("cumsum", "cumprod", "flip", "logcumsumexp"), along(1)),
    "roll": along(2), "sort": along(1, -1), "argsort": along(1, -1),
    "normalize": along(2, 1), "gumbel_softmax": along(4, -1),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "std", "var", "max", "min", "argmax", "argmin",
                     "prod", "any", "all", "logsumexp", "var_mean", "std_mean", "median", "nansum",
                     "nanmean", "aminmax", "count_nonzero"), reduce(1)),
    "norm": reduce(2), "vector_norm": reduce(2),
    **{f"{kind}{d}d": pooled for d in (1, 2, 3) for kind in (
        "max_pool", "avg_pool", "adaptive_avg_pool", "adaptive_max_pool", "lp_pool",
        "fractional_max_pool", "max_unpool")},
    **{f"{kind}{d}d_with_indices": pooled for d in (1, 2, 3) for kind in (
        "max_pool", "adaptive_max_pool", "fractional_max_pool")},
    **dict.fromkeys(("interpolate", "upsample", "grid_sample", "affine_grid", "upsample_bilinear",
                     "upsample_nearest"), on_space),
    "pad": pad, "unfold": unfold,
    **dict.fromkeys(("matmul", "rmatmul", "bmm", "mm"), matmul),
    "scaled_dot_product_attention": attention, "einsum": einsum,
    **dict.fromkeys(("zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
                     "randn_like"), like),
    **dict.fromkeys(("zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones",
                     "new_empty", "new_full"), factory),
    **dict.fromkeys(("setitem", "index_put", "index_copy", "index_add", "scatter", "scatter_add",
                     "masked_scatter", "index_fill"), write),
    **dict.fromkeys(("item", "tolist", "nonzero", "numpy", "allclose", "equal", "is_nonzero",
                     "contains", "array"), truth),
}  # fmt: skip
LAYERS = {
    name for name, rule in RULES.items()
    if rule in (conv, transposed, linear, embedding, batch_norm, prelu, channel_norm, matmul,
                attention, einsum, truth)
}  # fmt: skip
"""Rules that are looked at whatever their inputs carry, because they bring labels or cost MACs."""
__all__ = ["BATCH_NORM", "Call", "LAYERS", "RULES", "Rule", "apply", "follow", "pin", "tie"]
