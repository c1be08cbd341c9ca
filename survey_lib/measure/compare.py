"""Before → after: nets side by side in everything that compression may save.

Sizes, MACs and milliseconds always together, because a saving in one is no saving in another.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from survey_lib.measure.device import device_name
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs
from survey_lib.measure.memory import peak_memory
from survey_lib.measure.size import count_activations, count_nonzeros, count_parameters, file_bytes


@dataclass(frozen=True)
class Measured:
    """One net, beside the first of the comparison."""

    name: str
    params: int
    nonzeros: int
    macs: int
    """Per image."""
    activations: int
    """Elements of convolution and linear outputs per image."""
    file_bytes: int
    """Bytes of the saved file (safetensors)."""
    peak_bytes: int
    """Peak activation memory per image."""
    min_ms: float
    """Fastest forward pass over the batch."""
    median_ms: float
    mac_ratio: float
    """MACs of the first net ÷ MACs of this one."""
    speed_up: float
    """Fastest pass of the first net ÷ fastest pass of this one."""
    efficiency: float
    """Speed-up ÷ MAC ratio: 1 where every MAC saved saves its share of time."""
    noisy: bool
    """Whether this net's times or the first one's spread too much to be believed."""


@dataclass(frozen=True)
class Comparison:
    """Nets in the order given, and what they were timed on."""

    rows: tuple[Measured, ...]
    batch: int
    rounds: int
    """Turns that each net took, in the set of rounds that counts."""
    tries: int
    """Sets of rounds taken; more than one where a set was noisy."""
    device: str
    """Name of the processor or graphics card, with the number of threads."""

    def dicts(self) -> list[dict[str, Any]]:
        """The rows as plain data."""
        return [asdict(row) for row in self.rows]

    def __str__(self) -> str:
        """A table in plain text, one column for each net, and the line of the device."""
        lines = [["", *(row.name for row in self.rows)]]
        for label, form, field in _LINES:
            lines.append([label, *(form.format(getattr(row, field)) for row in self.rows)])
        lines.append(["noisy", *("yes" if row.noisy else "no" for row in self.rows)])
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        text = [
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        ]
        return "\n".join([*text, self.device_line])

    @property
    def device_line(self) -> str:
        """What the times were measured on, and how."""
        sets = "" if self.tries == 1 else f", the quietest of {self.tries} sets"
        return f"{self.device}, batch of {self.batch}, {self.rounds} rounds in turns{sets}"


_LINES = (
    ("parameters", "{:,}", "params"),
    ("non-zeros", "{:,}", "nonzeros"),
    ("MACs per image", "{:,}", "macs"),
    ("activations per image", "{:,}", "activations"),
    ("bytes of the file", "{:,}", "file_bytes"),
    ("peak bytes per image", "{:,}", "peak_bytes"),
    ("ms per batch, min", "{:.3f}", "min_ms"),
    ("ms per batch, median", "{:.3f}", "median_ms"),
    ("MAC ratio", "{:.3f}", "mac_ratio"),
    ("speed-up", "{:.3f}", "speed_up"),
    ("speed-up ÷ MAC ratio", "{:.3f}", "efficiency"),
)


def compare(models: Mapping[str, nn.Module], example: Tensor, *, rounds: int = 15) -> Comparison:
    """Measure nets against the first of them; each is left as it is.

    Args:
        models: by name, the one to compare with first; all take the same input, and lie on its
            device.
        example: the batch that is timed; its first image gives MACs and memory.
        rounds: turns each net takes, at least 15.

    Raises:
        ValueError: no nets, or too few rounds.
        MacsError: a product of some net went uncounted.
    """
    if not models:
        raise ValueError("compare: no nets were given; name at least one")
    times = compare_latency(models, example, rounds=rounds)
    one = example[:1]
    macs = {name: count_macs(model, one) for name, model in models.items()}
    first = next(iter(models))
    rows = []
    for name, model in models.items():
        mac_ratio = macs[first] / max(1, macs[name])
        speed_up = times[first].minimum / times[name].minimum
        rows.append(
            Measured(
                name=name,
                params=count_parameters(model),
                nonzeros=count_nonzeros(model),
                macs=macs[name],
                activations=count_activations(model, one),
                file_bytes=file_bytes(model),
                peak_bytes=peak_memory(model, one),
                min_ms=1000 * times[name].minimum,
                median_ms=1000 * times[name].median,
                mac_ratio=mac_ratio,
                speed_up=speed_up,
                efficiency=speed_up / mac_ratio,
                noisy=times[name].noisy or times[first].noisy,
            )
        )
    return Comparison(
        rows=tuple(rows),
        batch=len(example),
        rounds=times[first].rounds,
        tries=times[first].tries,
        device=device_name(example),
    )
