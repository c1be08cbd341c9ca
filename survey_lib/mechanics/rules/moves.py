"""Operators that move the channel axis, or take a part of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.labels import Extent, Labels, axis_of, is_meta, numbers
from survey_lib.mechanics.rules.call import Call, dims_of, numbers_only, shapes_only
from survey_lib.mechanics.rules.views import moved, only_sizes


def rearrange(call: Call) -> Any:
    """Transpositions, permutations, axes of size one: the channel axis moves and stays whole."""
    x, labels = call.x, call.labels(call.x)
    call.plain(call.sizes)
    if labels is None:
        return moved(call, None)
    if isinstance(x, Tensor) and call.name == "squeeze" and x.shape[labels.axis] == 1:
        dims = call.get(1, "dim")
        gone = range(x.ndim) if dims is None else dims_of(dims, x.ndim)
        if labels.axis in gone:
            call.pin(labels, f"{call.where()} takes the axis of their channel away")
            return call.net.put(call.run(), None)
    if call.name == "squeeze" and labels.axis in (
        range(x.ndim) if call.get(1, "dim") is None else dims_of(call.get(1, "dim"), x.ndim)
    ):
        call.net.least.append(labels.ids)  # a lone channel would lose its axis
    # the channel axis alone gets a stride of its own: where does it go?
    view = [1] * x.ndim
    view[labels.axis] = len(labels.ids)
    strides = [0] * x.ndim
    strides[labels.axis] = 1
    probe = torch.empty(len(labels.ids), device="meta").as_strided(x.shape, strides)
    result, n = call.run(probe), len(labels.ids)
    where = [d for d in range(result.ndim) if result.stride(d) == 1 and result.shape[d] == n]
    if n == 1 or len(where) != 1:
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


def index(call: Call) -> Any:
    """Indexing: whole axes are followed; on the channel axis anything but all of it pins."""
    net, x, labels = call.net, call.x, call.labels(call.x)
    items = call.get(1, "index")
    full = _every_axis(items if isinstance(items, tuple) else (items,), x.ndim)
    for t in call.tensors:
        if t is not x:
            net.pin(call.labels(t), f"used as an index in {net.where()}")
    if labels is None:
        for item in full:
            only_sizes(call, _parts(item))
        call.seen.update(id(part) for item in full for part in _parts(item))
        return moved(call, None)
    own = _on_axis(call, full, labels.axis)
    plain = tuple(
        slice(*numbers_only(_parts(i))) if isinstance(i, slice) else numbers_only(i) for i in full
    )
    if any(is_meta(t) and t.dtype in (torch.bool, torch.uint8) for t in call.tensors[1:]):
        raise net.refuse("an index that depends on the data", "take it out of forward")
    fancy = any(isinstance(i, (Tensor, list, bool, np.ndarray)) for i in full)
    if fancy and not any(is_meta(i) for i in plain if isinstance(i, Tensor)):
        like = torch.empty(1).expand(x.shape)[tuple(_on_cpu(i) for i in plain)]
        result = shapes_only(like)
    else:
        result = call.func(shapes_only(x), shapes_only(plain))
    if not isinstance(own, slice):
        net.pin(labels, f"indexing in {net.where()} picks some of the channels")
        return net.put(result, None)
    start, stop, step = numbers_only(_parts(own))
    ids = labels.ids[start:stop:step]
    if len(ids) < len(labels.ids) or step not in (None, 1):
        net.pin(labels, f"indexing in {net.where()} picks some of the channels")
    if fancy:
        axis = _after_fancy(x, labels, plain, slice(start, stop, step))
        if axis is None:
            net.pin(labels, f"indexing in {net.where()} moves their axis out of sight")
        return net.put(result, None if axis is None else Labels(axis, ids))
    before = full[: _item_of(full, labels.axis)]
    axis = sum(1 for i in before if i is None or isinstance(i, slice))
    return net.put(result, Labels(axis, ids))


def narrow(call: Call) -> Any:
    """``narrow``, ``select``, ``index_select``: on the channel axis they pick, elsewhere not."""
    net, x, labels = call.net, call.x, call.labels(call.x)
    if labels is None or x is None:
        return moved(call, None)
    axis = axis_of(call.get(1, "dim"), x.ndim)
    only_sizes(call, call.sizes)
    call.seen.update(map(id, call.sizes))
    result = call.run()
    if axis == labels.axis:
        net.pin(labels, f"{call.where()} picks some of the channels")
        return net.put(result, None)
    after = labels.axis - (call.name == "select" and axis < labels.axis)
    return net.put(result, Labels(after, labels.ids))


def _on_cpu(item: Any) -> Any:
    return item.cpu() if isinstance(item, Tensor) else item


def _parts(item: Any) -> tuple:
    return (item.start, item.stop, item.step) if isinstance(item, slice) else (item,)


def _width(item: Any) -> int:
    """Axes that an item of an index stands for."""
    if item is None:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype == torch.bool else 1


def _every_axis(items: tuple, ndim: int) -> list[Any]:
    """An index with the axes that it leaves out."""
    at = next((k for k, i in enumerate(items) if i is Ellipsis), len(items))
    rest = [i for k, i in enumerate(items) if k != at]
    spread = [slice(None)] * (ndim - sum(map(_width, rest)))
    return [*items[:at], *spread, *items[at + 1 :]]


def _item_of(full: Sequence[Any], axis: int) -> int:
    """Number of the item that stands for an axis."""
    at = 0
    for k, item in enumerate(full):
        if at <= axis < at + _width(item):
            return k
        at += _width(item)
    return len(full)


def _on_axis(call: Call, full: Sequence[Any], axis: int) -> Any:
    """The item on the channel axis; sizes in the others are numbers, that of all channels isn't."""
    mine = _item_of(full, axis)
    labels = call.net.of(call.x)
    for k, item in enumerate(full):
        for part in _parts(item):
            call.seen.add(id(part))
            whole = k == mine and isinstance(item, slice) and part is item.stop
            own = isinstance(part, Extent) and part.exact and labels is not None
            if not (whole and own and np.array_equal(part.ids, labels.ids)):  # type: ignore[union-attr]
                only_sizes(call, (part,))
    return full[mine]


def _after_fancy(x: Tensor, labels: Labels, plain: tuple, own: slice) -> int | None:
    """Where the channel axis lies after an index with tensors: marks on it go the same way."""
    if any(is_meta(i) for i in plain if isinstance(i, Tensor)):
        return None
    n = len(labels.ids)
    strides = [0] * x.ndim
    strides[labels.axis] = 1
    there = torch.arange(n).as_strided(x.shape, strides)[tuple(_on_cpu(i) for i in plain)]
    want = torch.arange(n)[own]
    for d in range(there.ndim):
        view = [-1 if k == d else 1 for k in range(there.ndim)]
        if there.shape[d] == len(want) and bool((there == want.view(view)).all()):
            return d
    return None


def repeat(call: Call) -> Any:
    """``repeat`` and ``tile``: whole copies beside each other."""
    x, labels = call.x, call.labels(call.x)
    if labels is None:
        return moved(call, None)
    times = call.args[1:] or (call.get(1, "repeats", "dims"),)
    times = tuple(times[0]) if len(times) == 1 and isinstance(times[0], (tuple, list)) else times
    plain = call.plain(times)
    only_sizes(call, times)
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
