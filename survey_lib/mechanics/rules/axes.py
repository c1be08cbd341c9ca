"""Operators that act along some axes: sums, norms, pools, padding."""

from typing import Any

import numpy as np
from torch import Tensor

from survey_lib.mechanics.labels import Labels
from survey_lib.mechanics.rules.call import Call, Rule, dims_of, shapes_only, unknown
from survey_lib.mechanics.rules.elements import pointwise
from survey_lib.mechanics.rules.views import moved, only_sizes


def along(position: int, default: Any = None, *names: str) -> Rule:
    """Operators that mix the entries of some axes and keep the shape."""

    def rule(call: Call) -> Any:
        x, labels = call.x, call.labels(call.x)
        if labels is None:
            return (
                moved(call, None) if call.name in ("flip", "roll") else call.give(call.run(), None)
            )
        dims = call.get(position, *(names or ("dim", "dims", "axis")), default=default)
        if call.name in ("softmax", "log_softmax", "softmin") and dims is None:
            dims = 0 if x.ndim in (0, 1, 3) else 1  # as torch picks it
        if call.name == "flip" and len(call.args) > 2:
            dims = call.args[1:]
        gone = set(range(x.ndim)) if dims is None else dims_of(dims, x.ndim)
        if labels.axis in gone:
            word = (
                "normalised by" if "soft" in call.name or call.name == "normalize" else "mixed by"
            )
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
        gone = set(range(x.ndim)) if dims is None else dims_of(dims, x.ndim)
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
    labels = call.labels(call.x)
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
    only_sizes(call, amounts)
    plain = call.plain(amounts)
    named = {k: v for k, v in call.kwargs.items() if k not in ("pad", "input")}
    result = call.func(shapes_only(x), plain, *call.args[2:], **named)
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
