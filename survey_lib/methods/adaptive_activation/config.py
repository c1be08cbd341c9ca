"""The settings of adaptive activation-based pruning."""

from dataclasses import dataclass

from survey_lib.methods.adaptive_activation import scores

POLICIES = {"accuracy": "", "memory": "params", "macs": "macs", "activations": "activations"}
"""Policy → what its limit is counted in; the last is ours, for budgets of activations."""
REWINDS = ("weights", "rate")


@dataclass(frozen=True)
class Config:
    """The paper's symbols; the number of rounds and λ are at our scale."""

    policy: str = "accuracy"
    """``accuracy``, ``memory`` or ``macs``."""
    target: float = 1.0
    """Points of validation accuracy that may be lost (policy ``accuracy``)."""
    saves: str = "params"
    """What policy ``accuracy`` makes small, and shares layers by: ``params`` or ``macs``."""
    rewind: str = "weights"
    """``weights`` and learning rate, as algorithm 1, or the ``rate`` alone, as the code."""
    k: float = 0.125
    """Epoch that is rewound to, as a share of the training's T epochs."""
    rounds: int = 8
    """Rounds that are trained, at most (the code: 100)."""
    first: float = 0.1
    """Share of the units that the first threshold takes; gives λ."""
    p: float = 1.0
    attention: str = "mean"
    """Over space: ``mean``, ``max`` or ``sum``."""
    images: int = 512
    """Training images that the scores look at."""

    def __post_init__(self) -> None:
        for name, known in (("policy", POLICIES), ("saves", ("params", "macs")),
                            ("rewind", REWINDS), ("attention", scores.ATTENTION)):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"adaptive_activation: no {name} {getattr(self, name)!r}; "
                    f"use one of {', '.join(known)}"
                )
        if not (0 <= self.k < 1 and self.rounds >= 1 and 0 < self.first <= 1 and self.images >= 1):
            raise ValueError(
                "adaptive_activation: need k in [0, 1), rounds and images ≥ 1 and first in "
                f"(0, 1], got {self}"
            )

    @property
    def metric(self) -> str:
        """What is made small, and what a layer's share is of."""
        return POLICIES[self.policy] or self.saves
