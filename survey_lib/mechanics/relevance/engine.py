r"""Layer-wise relevance propagation over a recorded forward pass (``bach2015pixel``).

Start at the output with :math:`R^{(L)}`, go back step by step, and let each operator hand what it
received to what it read, :math:`\sum_i R^{(l)}_{i \leftarrow j} = R^{(l+1)}_j`,
:math:`R^{(l)}_i = \sum_j R^{(l)}_{i \leftarrow j}`. One forward and one backward sweep over the
whole batch give the relevance of every map of every layer.

A batch norm that alone reads what a layer gives is folded into it; any other one hands relevance
on unchanged, since each of its outputs reads one input. Branches that are summed share what their
sum received, branches that are concatenated each take their own, and what several readers hand
back to one map adds up.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from survey_lib.mechanics.relevance.rules import EQUATION, Rules
from survey_lib.mechanics.relevance.table import MOVES, Handler, handler_of
from survey_lib.mechanics.relevance.tape import RelevanceError, Tape, record


@dataclass(frozen=True)
class Passed:
    """What one operator received and handed on, one number for each example."""

    path: str
    name: str
    received: Tensor
    """(N,) float64"""
    handed: Tensor
    """(N,) float64"""

    @property
    def kept(self) -> Tensor:
        """(N,) what went to biases, to ε, and to outputs that nothing contributed to."""
        return self.received - self.handed


@dataclass(frozen=True)
class Explanation:
    """Relevance of a batch."""

    output: Tensor
    """What the net gave, (N, classes)."""
    start: Tensor
    """R at the output, in its shape."""
    input: Tensor
    """R at the input, in its shape: the heat map."""
    maps: dict[str, Tensor] = field(repr=False)
    """Layer → R at what it gives, batch norm included: (N, channels, …); its calls are summed."""
    ledger: list[Passed] = field(repr=False)
    """From the output back to the input."""

    @property
    def kept(self) -> Tensor:
        """(N,) what did not reach the input: start − input."""
        return totals(self.start) - totals(self.input)

    @property
    def unaccounted(self) -> float:
        """Largest |start − input − what the operators kept|, as a share of the start.

        Zero but for rounding: whatever is lost, is lost at an operator that the ledger names.
        """
        told = sum((p.kept for p in self.ledger), torch.zeros_like(self.kept))
        scale = self.start.double().flatten(1).abs().sum(1).clamp(min=1e-300)
        return float(((self.kept - told).abs() / scale).max())


Start = Tensor | Callable[[Tensor], Tensor]
"""R at the output, or a function of the output that gives it."""


def relevance(
    model: nn.Module,
    x: Tensor,
    start: Start,
    rules: Rules = EQUATION,
    *,
    own: Mapping[str, Handler] | None = None,
) -> Explanation:
    """Relevance of every map of every layer, and of the input.

    Args:
        model: a net that gives one tensor; it is run in eval mode and left as it was.
        x: inputs (N, …), floating point.
        start: R at the output.
        rules: which rule where.
        own: operator's short name → a rule of your own, before those of the table.

    Raises:
        RelevanceError: an operator that no rule knows, or that does what none foresees.
    """
    with torch.no_grad():
        return handed_back(record(model, x, moves=MOVES), start, rules, own=own)


def handed_back(
    tape: Tape, start: Start, rules: Rules = EQUATION, *, own: Mapping[str, Handler] | None = None
) -> Explanation:
    """The way back over a recorded forward pass; arguments as for :func:`relevance`."""
    first = start(tape.output) if callable(start) else start
    if first.shape != tape.output.shape:
        raise RelevanceError(
            f"relevance starts at the output, of shape {tuple(tape.output.shape)}; "
            f"got {tuple(first.shape)}"
        )
    at = {id(tape.output): first}
    maps: dict[str, Tensor] = {}
    ledger: list[Passed] = []
    layers = set(map(id, tape.layers))
    for step in reversed(tape.steps):
        rs = [at.pop(id(t), None) for t in step.outputs]
        if all(r is None for r in rs):
            continue  # what it gave never reached the output
        full = [torch.zeros_like(t) if r is None else r
                for t, r in zip(step.outputs, rs, strict=True)]  # fmt: skip
        if step.folded:  # the layer before it hands on for both
            at[id(step.inputs[0])] = full[0]
            continue
        if id(step) in layers:
            old = maps.get(step.path)
            maps[step.path] = full[0] if old is None else old + full[0]
        parts = handler_of(step, own or {})(step, full, rules)
        for t, r in parts:
            at[id(t)] = at[id(t)] + r if id(t) in at else r
        received, given = all_totals(full), [r for _, r in parts]
        same = len(given) == len(full) and all(a is b for a, b in zip(given, full, strict=True))
        handed = received if same else all_totals(given)
        ledger.append(Passed(step.path, step.name, received, handed))
    heat = at.get(id(tape.x))
    heat = torch.zeros_like(tape.x) if heat is None else heat
    return Explanation(tape.output, first, heat, dict(reversed(maps.items())), ledger)


def totals(r: Tensor) -> Tensor:
    """(N,) sums over everything but the examples, in float64, on the processor."""
    return r.detach().flatten(1).sum(1, dtype=torch.float64).cpu()


def all_totals(rs: list[Tensor]) -> Tensor:
    """(N,) of several tensors together."""
    return torch.stack([totals(r) for r in rs]).sum(0)


def true_class(y: Tensor, *, logit: bool = False) -> Callable[[Tensor], Tensor]:
    """Start at the true class: with one unit for each example, or with its logit."""

    def start(output: Tensor) -> Tensor:
        hot = torch.zeros_like(output)
        hot[torch.arange(len(y), device=output.device), y.to(output.device)] = 1
        return hot * output if logit else hot

    return start
