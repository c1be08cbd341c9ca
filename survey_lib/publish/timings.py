"""The benchmarks' page: every row of ``benchmarks/*.jsonl`` with both sides and its target."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from survey_lib.publish.layout import PublishError
from survey_lib.show.markup import LIVE_STYLE

MARK = "<!-- survey: benchmarks -->"
WORDS = {
    "A/A": "The latency harness against itself",
    "same widths": "A pruned net against a net built at its widths",
    "half the channels": "Half of every group removed: MACs and time",
    "19 of 20 weights zero": "Weights set to zero, none removed",
    "0.16 × as wide": "A narrow net with about as many weights as that sparse one has left",
    "group discovery": "Finding all groups",
    "removal": "Removing half of every group, the groups known",
    "net to smaller net": "From the net to the smaller net, groups included",
    "self-check": "The proof of a graph's first recipe: removal with it and without",
    "MAC count": "Counting MACs",
    "MACs of a recipe": "MACs of a smaller net that was not built",
    "Fisher scores": "Fisher scores of all channels",
    "ThiNet greedy": "ThiNet's greedy choice: products of rows against sums",
    "int8 linear": "One linear layer in eight bits",
}
"""Rows in the order of the page, with the headings of their tables."""


EXAMPLE = "<!-- survey: own_model -->"
"""Where the page on the channel engine shows ``survey prune``."""


def fill(page: str, folder: Path) -> str:
    """The page's Markdown with its tables at the mark.

    Args:
        page: Markdown that holds ``<!-- survey: benchmarks -->`` once.
        folder: where the JSON lines lie.

    Raises:
        PublishError: the mark is missing or stands twice, there is nothing to show, or a line
            cannot be read.
    """
    if page.count(MARK) != 1:
        raise PublishError(f"book/benchmarks.md must hold the line {MARK} once: put it there")
    return page.replace(MARK, markdown(read(folder)))


def fill_example(page: str, folder: Path) -> str:
    """The page's Markdown with what ``survey prune`` printed, as recorded, at the mark.

    Raises:
        PublishError: the mark is missing or stands twice, or there is no record.
    """
    if page.count(EXAMPLE) != 1:
        raise PublishError(f"book/engine.md must hold the line {EXAMPLE} once: put it there")
    path = folder / "own_model.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        text = f"$ {kept['command']}\n{kept['printed'].rstrip()}"
        when = f"Recorded on {kept['made'][:10]} at commit {kept['commit']}."
    except (OSError, ValueError, KeyError):
        raise PublishError(
            f"benchmarks/{path.name} holds no record: run python -m benchmarks.own_model"
        ) from None
    return page.replace(EXAMPLE, f"```text\n{text}\n```\n\n{when}")


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines of all files of timings; raises PublishError naming a line that isn't one."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for i, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(text)
                _ = [row[key] for key in ("row", "case", "ms", "ratio", "ratio_is", "target")]
            except (ValueError, KeyError, TypeError):
                raise PublishError(
                    f"benchmarks/{path.name}:{i} is no line of timings: run make bench"
                ) from None
            rows.append(row)
    if not rows:
        raise PublishError("benchmarks/ holds no timings: run make bench")
    return rows


def reached(row: Mapping[str, Any]) -> str:
    """Whether the ratio lies in its target: yes, no, or a dash where there is none."""
    if row["target"] is None:
        return "–"
    low, high = row["target"]
    inside = (low is None or row["ratio"] >= low) and (high is None or row["ratio"] <= high)
    return "✓ yes" if inside else "✗ no"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables of all rows, and what they were measured on."""
    unknown = {row["row"] for row in rows} - set(WORDS)
    parts: list[str] = []
    for name in [*WORDS, *sorted(unknown)]:
        # a row may be told in several ratios, each a table of its own
        ratios = dict.fromkeys(r["ratio_is"] for r in rows if r["row"] == name)
        title = str(WORDS.get(name, name))
        parts += [f"## {title}"] if ratios else []
        for ratio_is in ratios:
            found = [r for r in rows if (r["row"], r["ratio_is"]) == (name, ratio_is)]
            parts.append(_table(title, ratio_is, found))
    return "\n\n".join([*parts, "## Measured on\n\n" + _machines(rows)]) + "\n"


def _table(title: str, ratio_is: str, rows: Sequence[Mapping[str, Any]]) -> str:
    from survey_lib.show.tables import table

    lines, decimals = [], {}
    for row in rows:
        line: dict[tuple[str, str], Any] = {("Net and input", ""): row["case"]}
        if row["target"] is not None:
            line |= {("Target", ""): _region(row["target"]), ("Reached", ""): reached(row)}
        if any(r.get("noisy") for r in rows):
            line[("Noisy", "")] = "noisy" if row.get("noisy") else "no"
        line[(ratio_is, "")] = row["ratio"]
        decimals[(ratio_is, "")] = 3 if row["target"] and row["target"][1] else 2
        for field, words in (("mac_ratio", "MAC ratio"), ("efficiency", "speed-up ÷ MAC ratio")):
            if field in row:
                line[(words, "")] = row[field]
                decimals[(words, "")] = 2
        for side, ms in row["ms"].items():
            line |= {(side, "min"): ms["min"], (side, "median"): ms["median"]}
            if "errors" in row:
                line[(side, "error (%)")] = 100 * row["errors"][side]
                decimals[(side, "error (%)")] = 2
        lines.append(line)
    df = pd.DataFrame(lines)
    df.columns = pd.MultiIndex.from_tuples(df.columns)
    clocks = [c for c in df.columns if c[1] in ("min", "median")]
    fine = {c: 2 for c in clocks if max(line.get(c, 0) for line in lines) >= 0.1}
    caption = f"{title}. Times in milliseconds on one thread, the sides in turns."
    shown = table(df, caption=caption, decimals=fine | decimals)
    return shown.html.removeprefix(LIVE_STYLE)


def _region(target: Sequence[float | None]) -> str:
    low, high = target
    if low is not None and high is not None:
        return f"{low:g}–{high:g}"
    return f"≥ {low:g}" if low is not None else f"≤ {high:g}"


def _machines(rows: Sequence[Mapping[str, Any]]) -> str:
    said: dict[str, list[str]] = {}
    for row in rows:
        line = (
            f"{row['processor']}, {row['threads']} thread of {row['cores']} cores, "
            f"{row['system']}, Python {row['python']}, torch {row['torch']}; "
            f"{row['made'][:10]}, commit {row['commit']}"
        )
        names = said.setdefault(line, [])
        if row["row"] not in names:
            names.append(row["row"])
    return "\n".join(
        f"- {line}" + ("" if len(said) == 1 else f" ({', '.join(names)})")
        for line, names in said.items()
    )
