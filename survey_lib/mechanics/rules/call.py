"""One call of an operator, and what every rule is made of."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survey_lib.mechanics.counting import counting
from survey_lib.mechanics.groups import GraphError
from survey_lib.mechanics.labels import Amount, Extent, Labelling, Labels, axis_of, is_meta, numbers

Rule = Callable[["Call"], Any]
WORD = {"mul": "scaled", "imul": "scaled", "multiply": "scaled", "div": "scaled"}


FIRST = ("input", "tensors", "tensor")


class Call:
    """One call of an operator."""

    def __init__(self, net: Labelling, func: Callable, name: str, args: tuple, kwargs: dict):
        if not args:  # the first argument by its name is the first argument
            named = next((n for n in FIRST if n in kwargs), None)
            if named is not None:
                args, kwargs = (kwargs[named],), {k: v for k, v in kwargs.items() if k != named}
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
        return self.args[0] if self.args else None

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


def numbers_only(value: Any) -> Any:
    """Arguments whose sizes are plain numbers."""
    if isinstance(value, Extent):
        return int.__index__(value)
    if isinstance(value, (tuple, list)):
        return tuple(map(numbers_only, value))
    return {k: numbers_only(v) for k, v in value.items()} if isinstance(value, dict) else value


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


def dims_of(dims: Any, ndim: int) -> set[int]:
    """One dimension or several, counted from the front."""
    listed = dims if isinstance(dims, (tuple, list)) else (dims,)
    return {axis_of(d, ndim) for d in listed}


def macs_of(call: Call) -> float:
    """MACs of an operator that no formula here knows, counted on shapes."""
    with counting() as counter:
        call.run()
    return counter.macs


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
        with counting() as counter:
            result = call.run()
    except GraphError:
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise net.refuse(
            f"the operator {call.name} cannot be followed ({why})",
            "use layers of torch.nn, or give trace_groups a rule for it",
        ) from None
    net.product(counter.macs)
    return call.give(result, None)
