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
    steps: int = 0
    """Training steps made, of the ``tuning`` that was given."""
    examples: int = 0
    """Training examples seen in them, repeats counted."""
    masks: dict[str, Tensor] = field(default_factory=dict)
    """Boolean keep-masks by parameter name (methods of kind ``weights``)."""
    recipe: dict[str, list[int]] = field(default_factory=dict)
    """Kept channel indices by group (methods of kind ``channels``)."""
    bits: dict[str, str] = field(default_factory=dict)
    """What each replaced layer stores and computes by, by path (methods of kind ``bits``)."""
    trace: dict[str, list[Any]] = field(default_factory=dict)
    """What happened on the way, e.g. the sparsity at each update."""
