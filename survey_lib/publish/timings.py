"""The benchmarks' page: every row of ``benchmarks/*.jsonl`` with both sides and its target."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import Any

import pandas as pd

from survey_lib.publish.layout import PublishError
from survey_lib.show.markup import LIVE_STYLE, escape

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
    "relevance": "Relevance of every map of every layer",
    "ThiNet greedy": "ThiNet's greedy choice: products of rows against sums",
    "int8 linear": "One linear layer in eight bits",
}
"""Rows in the order of the page, with the headings of their tables."""
SHORT = {
    "A/A": "harness",
    "same widths": "pruned net",
    "half the channels": "half the channels",
    "19 of 20 weights zero": "zeros",
    "0.16 × as wide": "narrow net",
    "group discovery": "finding groups",
    "removal": "removing",
    "net to smaller net": "both, from a net",
    "self-check": "proof",
    "MAC count": "MACs",
    "MACs of a recipe": "MACs of a recipe",
    "Fisher scores": "Fisher",
    "relevance": "relevance",
    "ThiNet greedy": "ThiNet",
    "int8 linear": "int8",
}
"""The same rows beside the figure, where there is less room."""


EXAMPLE = "<!-- survey: own_model -->"
"""Where the page on the channel engine shows ``survey prune``."""
COMPARED = "<!-- survey: own_compare -->"
"""Where the page on one's own net shows ``survey compare``."""


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
    _marked(page, EXAMPLE, "engine")
    with _record(folder / "own_model.json") as kept:
        text = f"$ {kept['command']}\n{kept['printed'].rstrip()}"
        return page.replace(EXAMPLE, f"```text\n{text}\n```\n\n{_when(kept)}")


def fill_compared(page: str, folder: Path) -> str:
    """The page's Markdown with figure and table of ``survey compare``, as recorded, at the mark.

    Raises:
        PublishError: the mark is missing or stands twice, or there is no record.
    """
    from survey_lib.show import own_page

    _marked(page, COMPARED, "own_net")
    with _record(folder / "own_compare.json") as kept:
        images = kept["images"]
        told = (
            f"The folder held {images['train']:,} images to train on and {images['test']:,} to "
            f"test with. {_when(kept)}"
        )
        asked = f"```text\n$ {_in_lines(kept['command'])}\n```"
        found = own_page.shown(kept["found"])
        return page.replace(COMPARED, f"{asked}\n\n{told}\n\n{found}")


def _in_lines(command: str) -> str:
    """A shell command in lines that fit the page; an option stays with its value."""
    whole = re.sub(r" (?!--)", "\N{NO-BREAK SPACE}", command)
    lines = wrap(whole, 66, break_on_hyphens=False, break_long_words=False)
    return " \\\n    ".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _marked(page: str, mark: str, name: str) -> None:
    if page.count(mark) != 1:
        raise PublishError(f"book/{name}.md must hold the line {mark} once: put it there")


@contextmanager
def _record(path: Path) -> Iterator[Mapping[str, Any]]:
    """A recorded run of a command; one sentence where it is missing or damaged."""
    try:
        yield json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PublishError(
            f"benchmarks/{path.name} holds no record: run python -m benchmarks.{path.stem}"
        ) from None


def _when(kept: Mapping[str, Any]) -> str:
    return f"Recorded on {kept['made'][:10]} at commit {kept['commit']}."


def read(folder: Path) -> list[dict[str, Any]]:
    """All lines of all files of timings; raises PublishError naming a line that isn't one."""
    rows = []
    for path in sorted(folder.glob("*.jsonl")):
        for i, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(text)
                _ = [row[key] for key in ("row", "case", "ms", "ratio", "ratio_is", "target")]
            except (ValueError, KeyError, TypeError, RecursionError):
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
    folds = []
    for name, ratios in grouped(rows).items():
        # a row may be told in several ratios, each a table of its own
        tables = "".join(_table(ratio_is, found) for ratio_is, found in ratios.items())
        folds.append(
            '<details class="survey survey-timings"><summary>'
            f"{escape(WORDS.get(name, name))}</summary>{tables}</details>"
        )
    return (
        "\n\n".join(
            [
                overview(rows),
                "## Every time, table by table",
                "Times in milliseconds on one thread, the sides in turns.",
                *folds,
                "## Measured on",
                _machines(rows),
            ]
        )
        + "\n"
    )


Grouped = dict[str, dict[str, list[Mapping[str, Any]]]]


def grouped(rows: Sequence[Mapping[str, Any]]) -> Grouped:
    """Row → what its ratio is → its lines, in the order of the page."""
    names = [*WORDS, *sorted({row["row"] for row in rows} - set(WORDS))]
    found: Grouped = {}
    for name in names:
        for row in rows:
            if row["row"] == name:
                found.setdefault(name, {}).setdefault(row["ratio_is"], []).append(row)
    return found


def overview(rows: Sequence[Mapping[str, Any]]) -> str:
    """One figure of all ratios, a row each: those with a target first, with the target's region."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    from survey_lib.show import style
    from survey_lib.show.figure import inline_figure
    from survey_lib.show.markup import number

    lines = [
        (WORDS.get(name, name), ratio_is, found)
        for name, ratios in grouped(rows).items()
        for ratio_is, found in ratios.items()
    ]
    lines.sort(key=lambda line: line[2][0]["target"] is None)  # stable: else the page's order
    ratios = [r["ratio"] for r in rows]
    ends = 0.6 * min(ratios), 1.6 * max(ratios)
    hit, missed = style.series("thinet").light, style.series("lobster").light
    with plt.rc_context():
        style.use_style()
        drawn = []
        for width in (style.WIDE_INCHES, style.NARROW_INCHES):
            wide = width == style.WIDE_INCHES
            fig, ax = plt.subplots(figsize=(width, (0.36 if wide else 0.62) * len(lines) + 0.9))
            for y, (_, _, found) in enumerate(lines):
                target = found[0]["target"]
                if target is not None:
                    low, high = (target[0] or ends[0]), (target[1] or ends[1])
                    ax.barh(
                        y,
                        high - low,
                        left=low,
                        height=0.62 if wide else 0.42,
                        color=style.GRID,
                        linewidth=0,
                    )
                spread = [v for r in found for v in (r["ratio"], r.get("ratio_of_medians"))]
                told = [v for v in spread if v is not None]
                ax.plot([min(told), max(told)], [y, y], color=style.MUTED, linewidth=1.2)
                for r in found:
                    met = reached(r)
                    colour = {"✓": hit, "✗": missed}.get(met[0], style.INK)
                    ax.plot(
                        r["ratio"], y, color=colour, linestyle="none",
                        marker="x" if met[0] == "✗" else "o", markersize=6, markeredgewidth=1.6,
                        markerfacecolor="none" if met[0] == "–" else colour,
                    )  # fmt: skip
                if not wide:
                    ax.text(
                        0.0, y - 0.42, _row_words(*lines[y][:2], found), va="bottom",
                        transform=ax.get_yaxis_transform(),
                    )  # fmt: skip
            ax.axvline(1, color=style.INK, linewidth=0.9, linestyle="--")
            ax.set(xscale="log", xlim=ends, ylim=(len(lines) - 0.4, -0.8 if wide else -0.9))
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0,)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.xaxis.set_major_formatter(FuncFormatter(lambda v, _: number(round(v, 4))))
            ax.set_xlabel("ratio of the smallest times")
            names = [_row_words(title, what, found) for title, what, found in lines]
            ax.set_yticks(range(len(lines)), names if wide else [""] * len(lines))
            ax.tick_params(axis="y", length=0)
            ax.spines["left"].set_visible(False)
            ax.grid(axis="x", visible=True)
            ax.grid(axis="y", visible=False)
            drawn.append(fig)
    judged = [r for r in rows if r["target"] is not None]
    met = sum(reached(r).startswith("✓") for r in judged)
    return inline_figure(
        drawn[0],
        drawn[1],
        "benchmarks-overview",
        alt=f"Ratios of times, one row for each benchmark, on a logarithmic axis. {met} of "
        f"{len(judged)} ratios with a target lie in its region. The tables below hold all numbers.",
        caption=f"{met} of {len(judged)} ratios reach the target that was set before measuring. "
        "Dots: the smallest time of one side over that of the other, one for each net and input. "
        "A green dot lies in the grey region of its target, a cross does not, a ring has none. "
        "Lines: from the smallest to the largest, ratios of medians counted too. At 1 both sides "
        "take equally long.",
    )


def _row_words(title: str, ratio_is: str, rows: Sequence[Mapping[str, Any]]) -> str:
    target = rows[0]["target"]
    goal = f" ({_region(target)})" if target is not None else ""
    short = SHORT.get(rows[0]["row"], title)
    return f"{short}: {ratio_is}{goal}"


def _table(ratio_is: str, rows: Sequence[Mapping[str, Any]]) -> str:
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
    shown = table(df, caption=f"{ratio_is[:1].upper()}{ratio_is[1:]}", decimals=fine | decimals)
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
