"""What a recipe costs, in closed form: no net is built to know its MACs.

All units of a group cost the same, so a cost depends on how many units each group keeps. A tensor
with two channel axes of lengths a − Σ cᵍ rᵍ and b − Σ dᵍ rᵍ, where rᵍ units of group g are gone,
costs their product times a constant; a third length is that of the positions where these are
channels themselves (a layer that mixes tokens).
"""

import math

import numpy as np

from survey_lib.mechanics.groups import ChannelGraph

METRICS = ("macs", "params", "activations")


class Costs:
    """MACs, parameters or activations per image as a function of the units kept in each group.

    Args:
        graph: the groups of a net.
        metric: ``macs`` (of convolutions, linear layers and declared attention), ``params`` (all
            of the net), or ``activations`` (elements of convolution and linear outputs).

    Raises:
        ValueError: another metric.
    """

    def __init__(self, graph: ChannelGraph, metric: str):
        if metric not in METRICS:
            raise ValueError(
                f"channels cannot be budgeted by {metric!r}; use one of {', '.join(METRICS)}"
            )
        self.sizes = np.array([g.size for g in graph.groups])
        gone: dict[
            tuple[str, str], dict[int, np.ndarray]
        ] = {}  # channels a unit takes from an axis
        for g, group in enumerate(graph.groups):
            for s in group.slices:
                axes = gone.setdefault((s.module, s.tensor), {})
                axes.setdefault(s.axis, np.zeros(len(graph.groups)))[g] += s.positions.shape[1]
        positions = {(layer.module, layer.tensor): layer for layer in graph.layers}
        index = {g.name: i for i, g in enumerate(graph.groups)}
        none = np.zeros(len(graph.groups))
        factors, lengths, takes = [], [], []
        for key, shape in graph.shapes.items():
            axes = gone.get(key, {})
            aside = [(1.0, none)]
            if metric == "params" and key in graph.repeated:
                continue
            if metric == "params":
                factor, axes_used = 1.0, axes
            elif key in positions:
                layer = positions[key]
                factor, axes_used = layer.positions, axes
                if metric == "activations":
                    shape = (shape[layer.rows],)
                    factor = layer.outputs
                    axes_used = {0: axes[layer.rows]} if layer.rows in axes else {}
                if layer.axis:
                    take = none.copy()
                    for name, n in layer.shrinks.items():
                        take[index[name]] = n
                    factor, aside = factor / layer.axis, [(layer.axis, take)]
            else:
                continue
            rest = math.prod(n for a, n in enumerate(shape) if a not in axes_used)
            three = [(shape[a], take) for a, take in sorted(axes_used.items())] + aside
            three += [(1.0, none)] * (3 - len(three))
            factors.append(factor * rest)
            lengths.append([n for n, _ in three])
            takes.append([take for _, take in three])
        self.factor = np.array(factors, float)  # (tensors,)
        self.length = np.array(lengths, float).reshape(len(lengths), 3)  # (tensors, 3)
        self.take = np.array(takes, float).reshape(len(takes), 3, len(graph.groups))
        macs = metric == "macs"
        self.unit = np.array([graph.unit_macs.get(g.name, 0) if macs else 0 for g in graph.groups])
        self.fixed = graph.other_macs if macs else 0

    def __call__(self, kept: np.ndarray) -> int:
        """Cost with ``kept`` (groups,) units of each group."""
        products = self.factor * self._left(kept).prod(1)
        return math.floor(products.sum() + self.unit @ kept + self.fixed + 1e-3)

    @property
    def dense(self) -> int:
        """Cost of the whole net."""
        return self(self.sizes)

    def savings(self, kept: np.ndarray) -> np.ndarray:
        """What removing one more unit of each group saves now: (groups,)."""
        left = self._left(kept)  # (tensors, 3)
        after = left[:, :, None] - self.take  # (tensors, 3, groups)
        drop = left.prod(1)[:, None] - after.prod(1)
        return self.factor @ drop + self.unit

    def _left(self, kept: np.ndarray) -> np.ndarray:
        return self.length - self.take @ (self.sizes - kept)
