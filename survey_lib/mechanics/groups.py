"""Groups of channels as data: which units a net has, where they lie, what they cost.

:func:`survey_lib.mechanics.graph.trace_groups` finds them.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
NORMS = (*BATCH_NORM, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
"""Norms of single channels."""


class GraphError(ValueError):
    """A net that cannot be followed; names the operator, the module's path and the remedy."""


@dataclass(frozen=True)
class Slice:
    """Where a group's units lie on one axis of one tensor."""

    module: str
    """Path of the module, ``""`` for the net itself."""
    tensor: str
    """Name of its parameter or buffer."""
    axis: int
    role: str
    """``out`` (makes the channel), ``in`` (reads it), ``through`` (carries it along)."""
    positions: np.ndarray
    """(units, positions of each unit): more than one after flattening or in grouped layers."""


@dataclass(frozen=True)
class ChannelGroup:
    """Units that live in the same layers; each can be removed alone, all its channels at once."""

    name: str
    """Path of the layer that makes the channels first."""
    size: int
    """Number of units."""
    slices: tuple[Slice, ...]
    ties: tuple[str, ...] = ()
    """What ties the layers, e.g. ``residual: layer1.0 add``."""
    protected: str = ""
    """Why nothing may be removed here; empty where units can go."""
    counts: tuple[tuple[str, str, int], ...] = ()
    """Attributes that count units: (module, attribute, number a unit adds), e.g. heads."""
    least: int = 1
    """Units that must stay: two where a lone channel would lose its axis (``squeeze``)."""

    @property
    def producers(self) -> tuple[Slice, ...]:
        """Weights whose rows make the channels."""
        return tuple(s for s in self.slices if s.role == "out" and "bias" not in s.tensor)

    @property
    def consumers(self) -> tuple[Slice, ...]:
        """Weights that read the channels."""
        return tuple(s for s in self.slices if s.role == "in")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of coupling, sorted; ``plain`` for one layer feeding others."""
        return tuple(sorted({t.partition(":")[0] for t in self.ties})) or ("plain",)

    def __repr__(self) -> str:
        def paths(role: str) -> str:
            found = dict.fromkeys(s.module for s in self.slices if s.role == role)
            return ", ".join(found) or "–"

        lines = [
            f"{self.name}: {self.size} units, {' + '.join(self.kinds)}",
            f"  made by {paths('out')}",
            f"  carried by {paths('through')}",
            f"  read by {paths('in')}",
            *(f"  {tie}" for tie in self.ties),
        ]
        if self.least > 1:
            lines.append(f"  at least {self.least} units stay: a lone one would lose its axis")
        if self.protected:
            lines.append(f"  protected: {self.protected}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer: its MACs per image are ``positions × weight.numel()``."""

    module: str
    positions: float
    """Positions per image at which the weight is applied (H × W, tokens), summed over calls."""
    outputs: float
    """Positions per image of the output: not the same for a transposed convolution."""
    rows: int
    """Axis of ``weight`` that counts output channels."""
    shrinks: dict[str, int] = field(default_factory=dict)
    """Groups whose channels lie on one axis of the positions; entries that one unit has there."""
    axis: int = 0
    """Length of that axis; 0 where there is none."""
    tensor: str = "weight"


@dataclass(frozen=True)
class ChannelGraph:
    """All groups of a net, and what its sizes follow from."""

    groups: tuple[ChannelGroup, ...]
    layers: tuple[Layer, ...]
    shapes: dict[tuple[str, str], tuple[int, ...]] = field(repr=False)
    """Shape of each parameter by (module, name), and of buffers that are a layer's weight."""
    repeated: frozenset[tuple[str, str]] = field(repr=False)
    """Those that don't count as parameters: another module holds them too, or they are buffers."""
    model: str = ""
    unit_macs: dict[str, float] = field(default_factory=dict)
    """MACs per image that a unit costs outside the layers, by group (products in attention)."""
    other_macs: float = 0
    """MACs per image outside the layers that no unit changes."""
    inputs: tuple[tuple, dict[str, Any]] = field(default=((), {}), repr=False, compare=False)
    """The example, as positional and keyword inputs: the first removal is checked on it."""
    proved: list[bool] = field(default_factory=list, repr=False, compare=False)
    """Not empty once a removal has been checked."""

    def __getitem__(self, name: str) -> ChannelGroup:
        for group in self.groups:
            if group.name == name:
                return group
        some = ", ".join(g.name for g in self.groups[:8])
        raise KeyError(f"{self.model}: no channel group {name!r}; there are: {some}, …")

    @property
    def prunable(self) -> tuple[ChannelGroup, ...]:
        """Groups whose units can be removed."""
        return tuple(g for g in self.groups if not g.protected)

    def __repr__(self) -> str:
        units = sum(g.size for g in self.prunable)
        head = f"{self.model}: {len(self.prunable)} prunable groups of {units} units"
        return "\n".join([head, *map(repr, self.groups)])


def internal_groups(graph: ChannelGraph) -> tuple[ChannelGroup, ...]:
    """The prunable groups that lie inside one block: no sum and no concatenation shares them.

    One layer reads them besides the gates of their own block (squeeze and excite). What several
    branches read is the stream between the blocks, also where nothing was added to it yet: the stem
    before a first block with a shortcut of its own.
    """
    made = {s.module: g for g in graph.groups for s in g.producers}

    def gates(reader: str, group: ChannelGroup) -> bool:
        """Whether what a reader makes comes back to the group, and goes nowhere else."""
        squeezed = made.get(reader)
        own = {s.module for s in group.producers}
        back = {s.module for s in squeezed.consumers} if squeezed else set()
        return squeezed is not group and bool(back) and back <= own

    return tuple(
        g
        for g in graph.prunable
        if not {"residual", "concatenated"} & set(g.kinds)
        and sum(not gates(r, g) for r in {s.module for s in g.consumers}) == 1
    )
