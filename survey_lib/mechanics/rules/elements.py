"""Operators that work element by element."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.labels import Labels, is_meta
from survey_lib.mechanics.rules.call import WORD, Call


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
        if (
            whole
            and e.ndim == whole[0][1].ndim
            and all(n in (1, m) for n, m in zip(e.shape, whole[0][1].shape, strict=True))
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
