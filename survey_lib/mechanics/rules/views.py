"""Operators that shape a tensor anew: labels go where their positions go."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.labels import (
    Extent,
    Labels,
    axis_of,
    is_meta,
    numbers,
)
from survey_lib.mechanics.rules.call import Call, numbers_only, shapes_only
from survey_lib.mechanics.rules.elements import same_shape


def reshape(call: Call) -> Any:
    """View and reshape: labels go where their positions go."""
    x = call.x
    sizes = call.args[1:] or tuple(
        call.kwargs.get(k) for k in ("shape", "size") if k in call.kwargs
    )
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


def only_sizes(call: Call, sizes: Iterable[Any]) -> None:
    """Sizes that shape something else than the axis they were read from."""
    for s in sizes:
        call.net.use(s, f"{call.where()} shapes another tensor by their number")


def _sized(call: Call, sizes: Sequence[Any]) -> Any:
    """A view with sizes in it of a tensor without a channel axis: these sizes must not shrink."""
    result = moved(call, None)
    elements = call.net.elements.get(id(result))
    for axis, s in enumerate(sizes):
        tag = isinstance(s, Extent) and s.exact and len(s.tags) == 1 and not len(s.ids)
        if elements is None or not tag:
            call.net.use(s, f"{call.where()} shapes another tensor by their number")
        if elements is not None and int.__index__(s) > 1:
            call.net.sized.append(
                (elements, axis, next(iter(s.tags)) if tag else None, call.where())
            )
    return result


def moved(call: Call, labels: Labels | None) -> Any:
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
    """Which of several axes does shrink: heads by name, what follows by itself, others.

    ``head_dim`` and ``attention_head_size`` say how wide a head is, not how many there are.
    """
    tags = size.tags if isinstance(size, Extent) else ()
    names = [attribute for _, attribute in tags]
    if any("head" in n and not any(word in n for word in ("dim", "size")) for n in names):
        return 2
    return 0 if tags else 1


def own_size(size: Extent, ids: np.ndarray) -> bool:
    """Whether a size was read, or computed, from these channels alone."""
    return len(size.ids) > 0 and bool(np.isin(size.ids, ids).all())


def _adapts(call: Call, size: Any, ids: np.ndarray) -> bool:
    """Whether an axis of this size shrinks by itself when channels go."""
    if not isinstance(size, Extent):
        return size == -1
    if len(size.ids):
        return own_size(size, ids) and not size.tags
    return size.exact and len(size.tags) == 1


def _live_size(call: Call, size: Any, ids: np.ndarray, out: np.ndarray) -> None:
    net = call.net
    if isinstance(size, Extent) and not len(size.ids) and size.exact and len(size.tags) == 1:
        net.counts.append((next(iter(size.tags)), out))
    elif isinstance(size, Extent) and len(size.ids) and not size.tags:
        if not own_size(size, ids):
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
        if ids is not None and len(size.ids) and own_size(size, ids) and not size.exact:
            call.pin(ids, f"{call.where()} computes with their number")
        call.net.use(size, f"{call.where()} shapes another axis by their number")


def like_other(call: Call) -> Any:
    """``view_as``, ``reshape_as``, ``expand_as``: the other tensor's shape."""
    x, other = call.x, call.get(1, "other")
    labels, theirs = call.labels(x), call.labels(other)
    if labels is None:
        call.pin(theirs, f"{call.where()} shapes another tensor by their number")
        return moved(call, None)
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
        return moved(call, None)
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
    return call.net.put(result, regroup(call, labels, tuple(x.shape), tuple(result.shape), spec))
