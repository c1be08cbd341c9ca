"""What a net computes, step by step: its forward runs once and every operator is written down.

The net's own forward runs, in eval mode, on the input. Each operator that touches something made
from the input becomes a :class:`Step`; everything else (sizes, weights, constants) is computed and
not noted. Going back over the steps is going back through the net, whatever way it was written.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from survey_lib.mechanics.graph import ASKING
from survey_lib.tasks.modes import evaluating

SIZES = frozenset(("shape", "size", "numel", "nelement", "len"))
LAYERS = frozenset(
    (*(f"conv{d}d" for d in (1, 2, 3)), *(f"conv_transpose{d}d" for d in (1, 2, 3)), "linear")
)
"""Operators with a weight, whose output channels are filters."""
BATCH_NORM = "batch_norm"


class RelevanceError(ValueError):
    """A net that relevance cannot be handed back through; names operator, path and remedy."""


@dataclass(eq=False)
class Step:
    """One operator as it was called."""

    name: str
    """Short name of the function or method: ``conv2d``, ``relu``, ``add``."""
    path: str
    """Module that owns the weight it was called with, else the innermost one that was running."""
    func: Callable
    args: tuple
    kwargs: dict[str, Any]
    inputs: tuple[Tensor, ...]
    """Those of its arguments that were made from the net's input, each once."""
    outputs: tuple[Tensor, ...]
    raw: bool = False
    """Whether it reads the net's input itself, at most moved about."""
    norm: "Step | None" = None
    """The batch norm that alone reads what this layer gives: both are one linear map."""
    folded: bool = False
    """Whether this is such a batch norm."""

    @property
    def map(self) -> Tensor:
        """What a layer gives, batch norm included: its filters' output maps."""
        return (self.norm or self).outputs[0]

    def __str__(self) -> str:
        return f"{self.path or 'the net'} ({self.name})"


@dataclass(eq=False)
class Tape:
    """A forward pass."""

    steps: list[Step]
    x: Tensor
    output: Tensor
    """What the net gives, (N, …)."""
    known: dict[int, Tensor] = field(default_factory=dict, repr=False)
    """Everything made from the input, by identity."""

    @property
    def layers(self) -> list[Step]:
        """Convolutions and linear layers, in the order of the pass."""
        return [step for step in self.steps if step.name in LAYERS]


def record(
    model: nn.Module, x: Tensor, *, grad: bool = False, moves: frozenset[str] = frozenset()
) -> Tape:
    """Run ``model`` on ``x`` in eval mode and note what it computes; the net stays as it is.

    Args:
        model: any net that gives one tensor.
        x: inputs (N, …).
        grad: keep autograd's graph too, so that the output can be differentiated with respect to
            what layers give.
        moves: names of operators that leave values as they are; behind them the input is still
            the input.

    Raises:
        RelevanceError: the output is no tensor made from the input, or a tensor is read again
            after it was overwritten.
    """
    tape = Tape([], x, x)
    tape.known[id(x)] = x
    mode = _Recording(model, tape, moves)
    with torch.set_grad_enabled(grad), evaluating(model), _paths(model, mode.stack), mode:
        output = model(x)
    if id(output) in mode.overwritten:
        raise RelevanceError(
            f"{type(model).__name__} gives a tensor that was overwritten before; use what the "
            "in-place operator gives back"
        )
    if not isinstance(output, Tensor) or id(output) not in tape.known:
        raise RelevanceError(
            f"{type(model).__name__} gives a {type(output).__name__} that is not one tensor made "
            "from the input; wrap it in a net that gives the logits"
        )
    tape.output = output
    _fold(tape)
    return tape


def argument(step: Step, index: int, name: str, default: Any = None) -> Any:
    """An argument of a step, given by place or by name."""
    return step.args[index] if len(step.args) > index else step.kwargs.get(name, default)


@contextmanager
def _paths(model: nn.Module, stack: list[str]) -> Iterator[None]:
    """Keep on ``stack`` the paths of the modules that are running."""
    names = {id(m): path for path, m in model.named_modules(remove_duplicate=False)}

    def enter(module: nn.Module, _args: Any) -> None:
        stack.append(names.get(id(module), ""))

    def leave(_module: nn.Module, _args: Any, _out: Any) -> None:
        stack.pop()

    handles = [
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Recording(TorchFunctionMode):
    def __init__(self, model: nn.Module, tape: Tape, moves: frozenset[str]):
        super().__init__()
        self.tape, self.moves = tape, moves
        self.stack: list[str] = [""]
        self.owners = {
            id(t): path
            for path, m in model.named_modules()
            for t in (*m._parameters.values(), *m._buffers.values())
            if t is not None
        }
        self.raw = {id(tape.x)}
        self.overwritten: set[int] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name, in_place = short_name(func)
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        inputs = {id(t): t for t in leaves if id(t) in self.tape.known}
        if name in ASKING or name in SIZES or not inputs:
            return func(*args, **kwargs)
        path = next((self.owners[id(t)] for t in leaves if id(t) in self.owners), self.stack[-1])
        for i in inputs:
            if i in self.overwritten:
                raise RelevanceError(
                    f"{path or 'the net'}: {name} reads a tensor that was overwritten before; "
                    "use what the in-place operator gives back"
                )
        noted, called = tree_map(lambda t: t, args), args  # lists may grow after the call
        flagged = kwargs.get("inplace") or any(a is True for a in args[1:])
        if (in_place or flagged) and args and id(args[0]) in inputs:
            called = (args[0].clone(), *args[1:])  # the old values are still needed
        versions = [t._version for t in inputs.values()]
        out = func(*called, **kwargs)
        if versions != [t._version for t in inputs.values()]:
            raise RelevanceError(f"{path or 'the net'}: {name} overwrites what it reads")
        if called is not args and called[0]._version:
            self.overwritten.add(id(args[0]))
        given = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        outputs = tuple(t for t in given if id(t) not in inputs)
        if not outputs and given:  # it gave back what it was given
            return out
        for t in outputs:
            self.tape.known[id(t)] = t
        step = Step(name, path, func, noted, kwargs, tuple(inputs.values()), outputs)
        step.raw = all(i in self.raw for i in inputs)
        if step.raw and name in self.moves:
            self.raw.update(id(t) for t in outputs)
        self.tape.steps.append(step)
        return out


def short_name(func: Any) -> tuple[str, bool]:
    """Short name of an operator, and whether it works in place by its name."""
    name = getattr(func, "__name__", "") or str(func)
    if name == "__get__":  # an attribute: x.shape
        return getattr(getattr(func, "__self__", None), "__name__", ""), False
    if name.startswith("__") and name.endswith("__"):
        bare = name.strip("_")
        arithmetic = ("add", "sub", "mul", "truediv")
        if bare[0] in "ir" and bare[1:] in arithmetic:
            return bare[1:] if bare[0] == "i" else bare, bare[0] == "i"
        return bare, bare == "setitem"
    return name.strip("_"), name.endswith("_") and not name.startswith("_")


def _fold(tape: Tape) -> None:
    """Find each batch norm that alone reads what a layer gives."""
    readers: dict[int, list[Step]] = {}
    for step in tape.steps:
        for t in step.inputs:
            readers.setdefault(id(t), []).append(step)
    for layer in tape.layers:
        given = layer.outputs[0]
        after = readers.get(id(given), [])
        same_axis = layer.name != "linear" or given.ndim == 2
        alone = len(after) == 1 and given is not tape.output
        if alone and same_axis and after[0].name == BATCH_NORM:
            layer.norm, after[0].folded = after[0], True


def again(step: Step, inputs: Mapping[int, Tensor]) -> Any:
    """The step's function once more, with other tensors for those that have these identities."""

    def other(t: Any) -> Any:
        return inputs.get(id(t), t) if isinstance(t, Tensor) else t

    args, kwargs = tree_map(other, (step.args, step.kwargs))
    return step.func(*args, **kwargs)
