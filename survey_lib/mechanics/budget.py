"""Budgets: how much of the dense net may be kept, and of what."""

from dataclasses import dataclass
from math import ceil

METRICS = ("macs", "params", "nonzeros", "activations", "bits")


class BudgetNotMet(ValueError):
    """A budget the method cannot reach; the message says what was reachable."""


def reachable(share: float) -> str:
    """A share that can be reached, in four digits: rounded up, so that a budget so large is met."""
    return f"{ceil(1e4 * share) / 1e4:.4g}"


@dataclass(frozen=True)
class Budget:
    """The fraction ``keep`` of the dense net's ``metric`` that may be kept."""

    metric: str
    keep: float

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise ValueError(f"budget: no metric {self.metric!r}; use one of {', '.join(METRICS)}")
        if not 0 < self.keep <= 1:
            raise ValueError(f"budget: keep must lie in (0, 1], got {self.keep}")

    def allowed(self, dense: float) -> float:
        """The most that may be kept of a net that costs ``dense``.

        A share that a net really has is met by that net: (cost / dense) · dense may come out one
        rounding below the cost, so the product is taken a little larger.
        """
        return self.keep * dense * (1 + 1e-12)

    @classmethod
    def parse(cls, text: str) -> "Budget":
        """Read ``macs=0.5`` as the command line gives it; raises ValueError else."""
        metric, _, keep = text.partition("=")
        try:
            return cls(metric, float(keep))
        except ValueError as error:
            raise ValueError(
                f"budget {text!r}: write METRIC=FRACTION, e.g. macs=0.5 ({error})"
            ) from None
