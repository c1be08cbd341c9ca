"""Operators that make tensors, ask for their contents, or write into them."""

from typing import Any

import torch
from torch import Tensor

from survey_lib.mechanics.labels import Extent, Labels, is_meta
from survey_lib.mechanics.rules.call import Call
from survey_lib.mechanics.rules.elements import pointwise


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


def where(call: Call) -> Any:
    """``where(condition, a, b)`` element by element; ``where(condition)`` asks for indices."""
    if len(call.args) + len(call.kwargs) == 1:
        return truth(call)
    return pointwise(call)
