"""Gradual magnitude pruning the slow way: Python lists, one weight at a time.

Written from the paper's description, not from the library: a weight that is masked keeps the
value it had, takes no update, and every update of the masks ranks all weights afresh.
"""


def cubic(t, s_i, s_f, t_0, n, dt):
    """Equation 1 of Zhu & Gupta (2017), literally."""
    return s_f + (s_i - s_f) * (1 - (t - t_0) / (n * dt)) ** 3


class SlowMask:
    """One layer: values, and for each whether it is masked."""

    def __init__(self, values):
        self.values = [float(v) for v in values]
        self.masked = [False] * len(self.values)

    def prune_to(self, s_t):
        """Mask exactly round(s_t N) weights, the smallest; on ties the lower index stays."""
        target = round(s_t * len(self.values))
        by_size = sorted(range(len(self.values)), key=lambda i: (abs(self.values[i]), -i))
        self.masked = [False] * len(self.values)
        for i in by_size[:target]:
            self.masked[i] = True

    def step(self, changes):
        """Add a change to every weight that is not masked."""
        for i, change in enumerate(changes):
            if not self.masked[i]:
                self.values[i] += float(change)

    def effective(self):
        """What the net computes with."""
        return [0.0 if m else v for v, m in zip(self.values, self.masked, strict=True)]
