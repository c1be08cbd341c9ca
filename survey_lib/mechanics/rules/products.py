"""Products of activations: matrices, attention, Einstein sums."""

import math
from typing import Any

import numpy as np
from torch import Tensor

from survey_lib.mechanics.labels import (
    Labels,
)
from survey_lib.mechanics.rules.call import Call, macs_of


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
    operands = (
        tuple(operands[0])
        if len(operands) == 1 and isinstance(operands[0], (tuple, list))
        else operands
    )
    labels = [call.labels(t) for t in operands]
    result = call.run()
    plain = isinstance(equation, str) and "->" in equation and "." not in equation
    sides, out = equation.replace(" ", "").split("->") if plain else ("", "")
    terms = sides.split(",")
    if not plain or any(len(set(t)) < len(t) for t in terms):
        for lab in labels:
            call.pin(lab, f"{call.where()} is not followed")
        call.net.product(macs_of(call))
        return call.give(result, None)
    size = {c: n for term, t in zip(terms, operands, strict=True)
            for c, n in zip(term, t.shape, strict=True)}  # fmt: skip
    # a product over no letter is taken element by element, which is counted nowhere
    summed = any(c not in out for c in size)
    macs = math.prod(size.values()) if len(terms) > 1 and summed else 0
    found: dict[str, np.ndarray] = {}
    for term, lab in zip(terms, labels, strict=True):
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
