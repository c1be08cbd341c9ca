"""Several tensors from one, one from several."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.labels import NOTHING, Extent, Labels, axis_of, is_meta, numbers
from survey_lib.mechanics.rules.call import Call, numbers_only, shapes_only
from survey_lib.mechanics.rules.views import moved, own_size


def chunk(call: Call) -> Any:
    """``chunk`` into equal parts: one channel of every part goes at a time."""
    x, labels = call.x, call.labels(call.x)
    parts, dim = (
        call.get(1, "chunks", "sections", "indices_or_sections"),
        call.get(2, "dim", default=0),
    )
    if labels is None:
        return moved(call, None)
    result = call.func(shapes_only(x), numbers_only(parts), numbers_only(dim))
    return _pieces(call, labels, axis_of(dim, x.ndim), result, isinstance(parts, int))


def split(call: Call) -> Any:
    """``split`` by a size: as ``chunk`` where the size is a share of the channels' number."""
    x, labels = call.x, call.labels(call.x)
    size, dim = call.get(1, "split_size_or_sections", "split_size"), call.get(2, "dim", default=0)
    if labels is None:
        return moved(call, None)
    result = call.func(shapes_only(x), numbers_only(size), numbers_only(dim))
    listed = size if isinstance(size, (tuple, list)) else (size,)
    own = all(isinstance(s, Extent) and not s.tags and own_size(s, labels.ids) for s in listed)
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
        return moved(call, None)
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
