"""What every method returns."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn


@dataclass
class Compressed:
    """A compressed net and how it came about."""

    model: nn.Module
    """The new net; the one that was given is untouched."""
    table: list[dict[str, Any]]
    """One row per layer: name, and before → after."""
    seconds: float
    """Wall time of ``compress``."""
    forward_passes: int
    """Batches run forward, training included."""
    backward_passes: int
    """Batches run backward."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Boolean keep-masks by parameter name (methods of kind ``weights``)."""
    recipe: dict[str, list[int]] = field(default_factory=dict)
    """Kept channel indices by group (methods of kind ``channels``)."""
    trace: dict[str, list[float]] = field(default_factory=dict)
    """What happened on the way, e.g. the sparsity at each update."""
