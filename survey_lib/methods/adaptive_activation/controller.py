r"""The threshold that steps forward and back: a state machine, which knows no net.

A round reports its *reduction*: the loss of accuracy in points, or the share of the size that is
gone. With a limit on it, the step :math:`\lambda` and the threshold :math:`T[r]` of round r:

- reduction ≤ limit: the round is good and goes on a stack;
  :math:`T[r+1] = T[r] + \lambda`, and the count of misses N is 0.
- reduction > limit: the round on top of the stack, g, is taken up again, and N grows by one.
  For N = 1 and 2, :math:`\lambda = \lambda_g / 2^N` and :math:`T[r+1] = T[g] + \lambda`. For
  N = 3, :math:`\lambda` is half of the last one, :math:`T[r+1] = T[g]`, g leaves the stack and
  N is 0. With an empty stack there is nothing to take up again: the end.

From the released code (the paper's algorithm 1 only says "adapt"), as the dossier of the paper
tells it; no line of it was used.
"""

from dataclasses import dataclass, field

PATIENCE = 3
"""Misses from one good round before it is given up."""


@dataclass(frozen=True)
class Good:
    """A round that kept the limit, and how the controller stood when it did."""

    number: int
    threshold: float
    """T[g]"""
    step: float
    """λ_g"""


@dataclass
class Controller:
    """Where the threshold goes next."""

    limit: float
    """Largest reduction allowed."""
    step: float
    """λ"""
    threshold: float = 0.0
    """T[r]; that of round 0 is 0."""
    misses: int = 0
    """N"""
    good: list[Good] = field(default_factory=list)
    """Good rounds, the last one on top."""

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"the threshold needs a step above 0, got {self.step}")

    def judge(self, number: int, reduction: float) -> tuple[bool, int | None]:
        """Take in a round's reduction and move the threshold.

        Args:
            number: of the round.
            reduction: in the limit's unit.

        Returns:
            Whether the limit holds, and the round that the next one starts from; None at the end.
        """
        if reduction <= self.limit:
            self.good.append(Good(number, self.threshold, self.step))
            self.misses = 0
            self.threshold += self.step
            return True, number
        if not self.good:
            return False, None
        g = self.good[-1]
        self.misses += 1
        if self.misses < PATIENCE:
            self.step = g.step / 2**self.misses
            self.threshold = g.threshold + self.step
        else:
            self.step /= 2
            self.threshold = g.threshold
            self.good.pop()
            self.misses = 0
        return False, g.number
