"""Labels of channels: what a traced net keeps about its tensors, and how labels meet.

A tensor of the traced net has at most one *channel axis*; each position along it carries a label.
Labels that must go together are tied, labels that may not go at all are pinned with a reason. A
size that was read from a channel axis is an :class:`Extent`: an ``int`` that remembers whose
number it is, so that a net which computes with it is not misread. Parameters and buffers that are
not the weight of a layer carry one label for each element; those only matter where they meet a
channel axis.
"""

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.mechanics.groups import GraphError

NOTHING = -1  # label of a position that no unit of the net may claim, e.g. a channel of the input
LARGEST = 1 << 22  # elements of a parameter that is labelled element by element
NO_LABELS = np.empty(0, np.int64)
Tag = tuple[str, str]
"""A module's path, and an integer attribute of it or a tensor and its axis (``weight:0``)."""


@dataclass(frozen=True)
class Labels:
    """Labels along the channel axis of a tensor."""

    axis: int
    ids: np.ndarray
    """int64, as long as the axis."""


class Extent(int):
    """A size that depends on the net: on the channels of an axis, on a module's attribute, or both.

    As the size of the axis it was read from it does no harm. Computed with, it stays an extent
    that is no longer ``exact``; compared, or turned into a plain number, it pins its channels.
    """

    net: "Labelling"
    ids: np.ndarray
    tags: frozenset[Tag]
    exact: bool

    def __new__(  # noqa: D102
        cls, value: int, net: "Labelling", ids: np.ndarray, tags: frozenset[Tag], exact: bool
    ) -> "Extent":
        self = int.__new__(cls, value)
        self.net, self.ids, self.tags, self.exact = net, ids, tags, exact
        return self

    __hash__ = int.__hash__

    def __reduce__(self) -> tuple:
        return int, (int.__index__(self),)

    def __deepcopy__(self, memo: dict) -> int:
        return int.__index__(self)


class Amount(float):
    """A number computed from an :class:`Extent`, e.g. the scale ``channels ** -0.5``."""

    net: "Labelling"
    ids: np.ndarray
    tags: frozenset[Tag]
    exact = False


def _derived(value: Any, *sources: Any) -> Any:
    """A number computed from extents: one itself, no longer exact."""
    found = [s for s in sources if isinstance(s, (Extent, Amount))]
    ids = np.concatenate([s.ids for s in found])
    tags = frozenset().union(*(s.tags for s in found))
    if isinstance(value, float):
        amount = Amount(value)
        amount.net, amount.ids, amount.tags = found[0].net, ids, tags
        return amount
    return Extent(int(value), found[0].net, ids, tags, exact=False)


def _plain(n: Any) -> Any:
    if isinstance(n, Extent):
        return int.__index__(n)
    return float.__add__(n, 0.0) if isinstance(n, Amount) else n


def _arithmetic(name: str, swapped: bool) -> Any:
    act = getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        a, b = (other, self) if swapped else (self, other)
        return _derived(act(_plain(a), _plain(b)), a, b)

    return method


def _comparison(name: str) -> Any:
    act = getattr(operator, name)

    def method(self: Extent, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        same = isinstance(other, Extent) and self.exact and other.exact
        if same and np.array_equal(self.ids, other.ids) and self.tags == other.tags:  # type: ignore[union-attr]
            pass
        elif same and name in ("eq", "ne") and _plain(self) == _plain(other):
            self.net.equal(self, other)  # type: ignore[arg-type]
        else:
            for one in (self, other):
                self.net.use(one, f"the forward pass of {self.net.where()} depends on their number")
        return act(_plain(self), _plain(other))

    return method


def _pinned(name: str) -> Any:
    base = getattr(int, name)

    def method(self: Extent, *args: Any) -> Any:
        self.net.use(self, f"{self.net.where()} computes with their number")
        return base(self, *args)

    return method


for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow"):
    for _class in (Extent, Amount):
        setattr(_class, f"__{_name}__", _arithmetic(_name, False))
        setattr(_class, f"__r{_name}__", _arithmetic(_name, True))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Extent, f"__{_name}__", _comparison(_name))
for _name in ("__bool__", "__float__", "__int__", "__round__", "__trunc__", "__divmod__"):
    setattr(Extent, _name, _pinned(_name))
Extent.__neg__ = lambda self: _derived(-_plain(self), self)  # type: ignore[assignment]


class Labelling:
    """Everything that is noted while a net is traced."""

    def __init__(self, model: nn.Module, batch: int):
        self.model = model
        self.batch = batch
        self.grouped = "whole"
        self.paths = list(model.named_modules())
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.stack: list[str] = []  # paths of the modules whose forward is running
        self.labels: dict[int, Labels] = {}  # by id of the tensor
        self.elements: dict[int, np.ndarray] = {}  # by id: labels of single elements
        self.known: dict[int, Tensor] = {}  # tensors met, kept so that no id is used twice
        self.n_labels = 0
        self.owners: dict[int, list[Tag]] = {}  # id → (module, name) of parameters and buffers
        self.tensors: dict[Tag, Tensor] = {}
        for path, module in self.paths:
            for store in (module._parameters, module._buffers):
                for name, t in store.items():
                    if t is not None and t.is_floating_point():
                        self.owners.setdefault(id(t), []).append((path, name))
                        self.tensors[path, name] = t
        self.touched: set[int] = set()
        self.separate: dict[Tag, np.ndarray] = {}  # tensors labelled element by element
        self.beside: dict[int, str] = {}  # tensors read outside a layer, by id; where
        # (module, tensor, axis) → role and labels along the axis
        self.slices: dict[tuple[str, str, int], tuple[str, np.ndarray]] = {}
        # axes of weights that also meet tensors without channels; where
        self.whole: dict[tuple[str, str, int], str] = {}
        self.first: dict[tuple[int, int], tuple[str, str, int]] = {}
        self.edges: list[tuple[np.ndarray, np.ndarray, str]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.least: list[np.ndarray] = []  # labels of which two must stay
        self.same: list[tuple[np.ndarray, np.ndarray, str]] = []
        # weight → [positions, output positions, axis of rows, labels among the positions]
        self.layers: dict[Tag, list] = {}
        self.products: list[tuple[float, np.ndarray | None]] = []
        self.counts: list[tuple[Tag, np.ndarray]] = []  # an attribute that counts these labels
        # labels of elements, an axis of theirs, the attribute that gives its size, where
        self.sized: list[tuple[np.ndarray, int, Tag | None, str]] = []
        self.spoilt: dict[Tag, str] = {}  # attributes that are used for something else too

    def where(self) -> str:
        """Path of the module whose forward is running."""
        return (self.stack[-1] if self.stack else "") or type(self.model).__name__

    def refuse(self, what: str, remedy: str) -> GraphError:
        """The error for something that cannot be followed."""
        return GraphError(f"{self.where()}: {what}; {remedy}")

    # Labels of tensors.

    def of(self, t: Any) -> Labels | None:
        """Labels on a tensor's channel axis."""
        return self.labels.get(id(t))

    def put(self, t: Tensor, labels: Labels | None) -> Tensor:
        """Note a result, with its labels if it has any."""
        self.known[id(t)] = t
        if labels is not None:
            self.labels[id(t)] = labels
        return t

    def single(self, t: Tensor) -> np.ndarray | None:
        """Labels of a parameter's or buffer's elements, or of what was made from one."""
        if id(t) in self.elements:
            return self.elements[id(t)]
        owners = self.owners.get(id(t))
        if not owners:
            return None
        self.beside.setdefault(id(t), self.where())
        if t.numel() > LARGEST:
            return None
        ids = self.fresh(t.numel()).reshape(tuple(t.shape))
        self.elements[id(t)] = self.separate[owners[0]] = ids
        self.known[id(t)] = t
        return ids

    def owner(self, t: Any) -> Tag | None:
        """Module and name of a parameter or buffer; of several the module that runs now."""
        owners = self.owners.get(id(t))
        if not owners:
            return None
        here = self.stack[-1] if self.stack else ""
        return next((o for o in owners if o[0] == here), owners[0])

    def fresh(self, n: int) -> np.ndarray:
        """New labels."""
        self.n_labels += n
        return np.arange(self.n_labels - n, self.n_labels)

    # What holds between labels.

    def tie(self, a: np.ndarray, b: np.ndarray, why: str) -> None:
        """Join labels pairwise; one that meets NOTHING is pinned."""
        if a is b:
            return
        for one, other in ((a, b), (b, a)):
            lone = one[(other == NOTHING) & (one != NOTHING)]
            if len(lone):
                self.pin(lone, f"{why} with a tensor that carries no channels of the net")
        both = (a != NOTHING) & (b != NOTHING) & (a != b)
        if both.any():
            self.edges.append((a[both], b[both], why))

    def pin(self, labels: Labels | np.ndarray | None, why: str) -> None:
        """Nothing that carries these labels may go."""
        ids = labels.ids if isinstance(labels, Labels) else labels
        if ids is not None and (ids != NOTHING).any():
            self.pins.append((ids[ids != NOTHING], why))

    def alike(self, a: np.ndarray, b: np.ndarray, why: str) -> None:
        """Both axes must stay equally long: unless the same units lie on both, both are pinned."""
        self.same.append((a, b, why))

    def equal(self, a: Extent, b: Extent) -> None:
        """Two sizes must stay equal: of two axes, or of an axis and what an attribute says."""
        why = f"{self.where()} compares their number with another"
        if len(a.ids) and len(b.ids):
            self.alike(a.ids, b.ids, why)
        for one, other in ((a, b), (b, a)):
            if len(one.ids) and not len(other.ids) and len(other.tags) == 1:
                self.counts.append((next(iter(other.tags)), one.ids))
            elif not len(one.ids) and not len(other.ids):
                self.spoil(one, why)
            if one.tags and len(one.ids):
                self.use(one, why)

    def use(self, extent: Any, why: str) -> None:
        """A size is used as a number: what it counts stays."""
        if isinstance(extent, (Extent, Amount)):
            self.pin(extent.ids, why)
            self.spoil(extent, why)

    def spoil(self, extent: Any, why: str) -> None:
        """The attributes behind a size serve another purpose too: they cannot shrink."""
        for tag in extent.tags:
            self.spoilt.setdefault(tag, why)

    def carry(self, owner: Tag, axis: int, role: str, ids: np.ndarray) -> np.ndarray:
        """Note that an axis carries labels; those of a tensor that serves twice are joined."""
        key = (*owner, axis)
        known = self.slices.setdefault(key, (role, ids))[1]
        first = self.first.setdefault((id(self.tensors[owner]), axis), key)
        for other in (known, self.slices[first][1]):
            if other is not ids:
                self.tie(other, ids, f"shared: {owner[0]} serves more than once")
        return known

    def read(self, owner: Tag, axis: int, ids: np.ndarray | None) -> None:
        """Note that a layer reads channels, or (None) a tensor that carries none."""
        if ids is None:
            self.whole.setdefault((*owner, axis), self.where())
        else:
            self.carry(owner, axis, "in", ids)

    def made(self, owner: Tag, n: int, axis: int = 0) -> np.ndarray:
        """Labels of a layer's outputs: the same at every call."""
        known = self.slices.get((*owner, axis))
        return known[1] if known else self.fresh(n)

    def meet(self, ids: np.ndarray, t: Tensor, axis: int, name: str) -> None:
        """Channels meet, along ``axis`` of ``t``, a tensor that has no channel axis of its own."""
        if not 0 <= axis < t.ndim or t.shape[axis] == 1:
            return  # one entry for all
        elements = self.single(t)
        if elements is None:
            self.pin(ids, f"{name} in {self.where()} with a tensor that carries no channels")
            return
        own = np.moveaxis(elements, axis, 0).reshape(len(ids), -1)
        own = own[:, :1] if (own == own[:, :1]).all() else own
        there = np.broadcast_to(ids[:, None], own.shape)
        self.tie(there.ravel(), own.ravel(), f"scaled: {name} in {self.where()}")

    def layer(
        self,
        owner: Tag,
        macs: float,
        outputs: float,
        weight: Tensor,
        rows: int,
        aside: Labels | None,
    ) -> None:
        """Note a layer's MACs for one call: per image, ``positions × weight.numel()``.

        Args:
            owner: its weight.
            macs: of the whole batch.
            outputs: elements of its output, of the whole batch.
            weight: its weight.
            rows: axis of the weight that counts output channels.
            aside: labels of another axis that it leaves alone: positions that go with channels.
        """
        note = self.layers.setdefault(owner, [0.0, 0.0, rows, None])
        note[0] += macs / weight.numel() / self.batch
        note[1] += outputs / weight.shape[rows] / self.batch
        if aside is not None:
            note[3] = aside.ids

    def product(self, macs: float, ids: np.ndarray | None = None) -> None:
        """Note MACs of a product of activations, of which each label has an equal part."""
        self.products.append((macs / self.batch, ids))


def axis_of(dim: int, ndim: int) -> int:
    """A dimension as torch takes it, counted from the front."""
    return int.__index__(dim) % max(1, ndim)


def numbers(sizes: Sequence[Any]) -> list[int]:
    """Sizes without what they remember."""
    return [int.__index__(s) if isinstance(s, int) else int(s) for s in sizes]


def is_meta(t: Any) -> bool:
    """Whether a tensor has a shape only."""
    return isinstance(t, Tensor) and t.device == torch.device("meta")
