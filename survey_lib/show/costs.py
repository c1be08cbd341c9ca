"""The table of what is saved: sizes, MACs and milliseconds, always together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from survey_lib.measure.compare import Comparison
from survey_lib.show.markup import Html
from survey_lib.show.tables import table


@dataclass(frozen=True)
class Column:
    """How a measured field stands in the table."""

    head: str
    unit: str = ""
    divide: float = 1.0
    decimals: int = 2


COLUMNS = {
    "params": Column("parameters", decimals=0),
    "nonzeros": Column("weights left", decimals=0),
    "file_bytes": Column("file", "kB", 1000, 0),
    "macs": Column("MACs", "M per image", 1e6),
    "nonzero_macs": Column("MACs by non-zeros", "M per image", 1e6),
    "activations": Column("activations", "k per image", 1000, 1),
    "min_ms": Column("time", "ms"),
    "median_ms": Column("median", "ms"),
    "mac_ratio": Column("MAC ratio", "×"),
    "speed_up": Column("speed-up", "×"),
    "efficiency": Column("speed-up ÷ MAC ratio"),
}
"""Field of :class:`survey_lib.measure.compare.Measured` → its column."""

USUAL = ("params", "file_bytes", "macs", "min_ms", "speed_up", "efficiency")
"""The columns that no such table leaves out."""


def cost_table(
    measured: Comparison | Sequence[Mapping[str, Any]],
    *,
    caption: str,
    names: Mapping[str, str] | None = None,
    columns: Sequence[str] = USUAL,
    more: Mapping[str, Column] | None = None,
    name: str = "sizes_macs_times",
    notes: Sequence[str] = (),
) -> Html:
    """Nets by what they cost, a row each.

    Args:
        measured: a comparison made here, or recorded rows with a ``name`` and the fields of
            ``columns``.
        caption: what to see.
        names: the nets shown, in this order, and what a reader calls them; all by default.
        columns: fields of the rows.
        more: further fields and how they stand in the table.
        name: of the file the data are kept in.
        notes: sentences under the table; the device of a comparison and its noisy rows are added.

    Raises:
        ValueError: a net or a field is missing.
    """
    known = COLUMNS | dict(more or {})
    notes = list(notes)
    if isinstance(measured, Comparison):
        rows: Sequence[Mapping[str, Any]] = measured.dicts()
        notes.append(f"{measured.device_line}.")
    else:
        rows = measured
    by_name = {str(row["name"]): row for row in rows}
    names = names or {net: net for net in by_name}
    for net, words in names.items():
        if net not in by_name:
            raise ValueError(f"cost_table: no net {net!r}; there are: {', '.join(by_name)}")
        if lacking := [c for c in columns if c not in by_name[net] or c not in known]:
            raise ValueError(f"cost_table: {net!r} has no {', '.join(lacking)}")
        if by_name[net].get("noisy"):
            notes.append(f"{words}: times spread too much to be believed.")
    heads = {c: known[c] for c in columns}
    lines = [
        {"net": words}
        | {head.head: by_name[net][c] / head.divide for c, head in heads.items()}
        for net, words in names.items()
    ]  # fmt: skip
    return table(
        pd.DataFrame(lines),
        caption=caption,
        units={head.head: head.unit for head in heads.values() if head.unit},
        decimals={head.head: head.decimals for head in heads.values()},
        name=name,
        notes=notes,
    )
