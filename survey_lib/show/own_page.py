"""One HTML page, and one table in plain text, of methods compared on a user's own net."""

from typing import Any

import pandas as pd

from survey_lib import files
from survey_lib.evidence.intervals import Interval
from survey_lib.experiments.own_net.compare import LONGER, Compared, Line
from survey_lib.show import style
from survey_lib.show.markup import (
    SHARE_OF_IMAGES,
    escape,
    mean_words,
    number,
    range_words,
)
from survey_lib.show.tables import table

REFERENCE = "ℓ1"


def headline(done: Compared) -> str:
    """What came out, in a sentence that the intervals support."""
    lines = [line for line in done.lines if line.lead is not None and line.name]
    better = [line.label for line in lines if line.lead and line.lead.low > 0]
    worse = [line.label for line in lines if line.lead and line.lead.high < 0]
    rest = len(lines) - len(better) - len(worse)
    told = []
    if better:
        told.append(f"better than {REFERENCE}: {', '.join(better)}")
    if worse:
        told.append(f"worse: {', '.join(worse)}")
    if rest:
        told.append(f"{rest} cannot be told from {REFERENCE} with {done.request.seeds} seeds")
    return "; ".join(told) or "there is nothing to compare with"


def text(done: Compared) -> str:
    """The table in plain text, with what was left out and how it was made under it."""
    frame = _frame(done)
    notes = [f"{headline(done)}.", *_notes(done)]
    return f"{frame.to_string(index=False)}\n\n" + "\n".join(notes)


def data(done: Compared) -> dict[str, Any]:
    """The same as plain data, for other programs."""
    request = done.request

    def plain(interval: Interval | None) -> dict[str, float | None] | None:
        if interval is None:
            return None
        ends = {"low": interval.low, "high": interval.high} if interval.n > 1 else {}
        return {"mean": interval.mean, "low": None, "high": None, "n": interval.n} | ends

    times = {r["name"]: r for r in done.comparison.dicts()} if done.comparison else {}
    return {
        "model": request.spec, "data": request.data,
        "budget": {"metric": request.budget.metric, "keep": request.budget.keep},
        "seeds": request.seeds, "rates": list(request.rates), "tune_epochs": request.tune_epochs,
        "dense": plain(done.dense),
        "methods": [
            {
                "name": line.name or "longer", "label": line.label, "lr": line.lr,
                "rate_at_edge": line.at_edge, "test": plain(line.test),
                "lead_over_l1": plain(line.lead), "macs": line.macs, "params": line.params,
                "seconds": line.seconds, "measured": times.get(line.label),
            }
            for line in done.lines
        ],
        "left_out": dict(done.left_out), "failed": dict(done.failed), "machine": dict(done.made),
    }  # fmt: skip


def _shown(interval: Interval | None, unit: str) -> str:
    if interval is None:
        return "–"
    if interval.n == 1:
        return number(100 * interval.mean, 2)
    return f"{mean_words(interval, unit)} {range_words(interval, unit=unit)}"


def _frame(done: Compared) -> pd.DataFrame:
    times = {r["name"]: r for r in done.comparison.dicts()} if done.comparison else {}

    def row(label: str, test: Interval, line: Line | None) -> dict[str, Any]:
        measured = times.get(label if line is not None and line.name else "dense", {})
        return {
            "method": label,
            "accuracy (%)": _shown(test, "share of images tested"),
            f"lead over {REFERENCE} (points)": _shown(line.lead if line else None, SHARE_OF_IMAGES),
            "rate": f"{line.lr:g}{' (edge)' if line.at_edge else ''}" if line else "–",
            "MACs": int(line.macs) if line else measured.get("macs"),
            "parameters": int(line.params) if line else measured.get("params"),
            "bytes": measured.get("file_bytes"),
            "ms": measured.get("min_ms"),
        }

    rows = [row("dense", done.dense, None)]
    return pd.DataFrame(rows + [row(line.label, line.test, line) for line in done.lines])


def _notes(done: Compared) -> list[str]:
    request, made = done.request, done.made
    start = (
        "the weights given" if request.weights else f"{request.train_epochs:g} epochs, one a seed"
    )
    notes = [
        f"Each method starts from the same dense nets ({start}), keeps {request.budget.metric} "
        f"{request.budget.keep:g} and is tuned for {request.tune_epochs:g} epochs at "
        f"{len(request.rates)} rates ({', '.join(f'{r:g}' for r in request.rates)}); the one best "
        "on validation images counts. Intervals are 95 % Student’s t over "
        f"{request.seeds} seeds, on the same test images.",
    ]
    if any(line.at_edge for line in done.lines):
        notes.append(
            "Where the best rate is marked (edge) a better one may lie beyond: move --lr or raise "
            "--tries."
        )
    notes += [f"Left out: {name}: {why}." for name, why in done.left_out.items()]
    notes += [f"Failed: {name}: {why}." for name, why in done.failed.items()]
    if done.comparison:
        notes.append(
            f"Bytes and ms are of seed 0’s nets, in turns: {done.comparison.device_line}; "
            f"torch {made.get('torch', '')}."
        )
    return notes


def page(done: Compared) -> str:
    """The whole page as one file that needs no other."""
    frame = _frame(done)
    shown = table(
        frame, caption=f"{headline(done).capitalize()}. Every number of the comparison.",
        notes=_notes(done), decimals={"ms": 3},
    )  # fmt: skip
    root = files.repository()
    static = root / "book" / "_static" if root else None
    parts = {"css": "", "js": ""}
    for kind in parts:
        if static and (static / f"survey.{kind}").exists():
            parts[kind] = (static / f"survey.{kind}").read_text(encoding="utf-8")
    request = done.request
    title = f"{request.spec} at {request.budget.metric} {request.budget.keep:g}"
    return (
        '<!doctype html><html lang="en" data-content_root="./"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE}{parts['css']}</style></head>"
        f'<body><main class="bd-article"><h1>{escape(title)}</h1>{_figure(done)}{shown.html}'
        f"</main><script>{parts['js']}</script></body></html>\n"
    )


_PAGE = (
    ":root{--pst-color-text-base:#222832;--pst-color-text-muted:#48566b;--pst-color-background:#fff;"
    "--pst-color-border:#d5d9de;--pst-color-primary:#0a7d91;--pst-color-link:#0a7d91}"
    "@media(prefers-color-scheme:dark){:root{--pst-color-text-base:#ced6dd;"
    "--pst-color-text-muted:#9ca4af;--pst-color-background:#14181e;--pst-color-border:#48566b;"
    "--pst-color-primary:#3fb1c5;--pst-color-link:#3fb1c5}}"
    "body{font-family:system-ui,sans-serif;margin:1rem auto;max-width:60rem;padding:0 1rem;"
    "background:var(--pst-color-background);color:var(--pst-color-text-base)}"
)


def _figure(done: Compared) -> str:
    """Test accuracy of every method with its interval, and each seed as a dot."""
    import matplotlib.pyplot as plt

    from survey_lib.show.figure import inline_figure

    lines = list(done.lines)
    drawn = []
    with plt.rc_context():
        style.use_style()
        for width in (style.WIDE_INCHES, style.NARROW_INCHES):
            fig, ax = plt.subplots(figsize=(width, 0.34 * len(lines) + 1.0))
            for y, line in enumerate(lines):
                colour = style.series("dense" if not line.name else "magnitude").light
                if line.test.n > 1:
                    ends = [100 * line.test.low, 100 * line.test.high]
                    ax.plot(ends, [y, y], color=colour, linewidth=1.6)
                ax.plot(100 * line.test.mean, y, marker="o", markersize=6, color=colour)
            ax.axvline(100 * done.dense.mean, color=style.INK, linestyle="--", linewidth=1)
            ax.set_yticks(range(len(lines)), [line.label for line in lines])
            ax.set_ylim(len(lines) - 0.5, -0.5)
            ax.set_xlabel("test accuracy (%)")
            ax.grid(axis="x", visible=True)
            ax.grid(axis="y", visible=False)
            drawn.append(fig)
    return inline_figure(
        drawn[0], drawn[1], "own-net",
        alt=f"Test accuracy of {len(lines)} nets with 95 % intervals; the dense nets have "
        f"{100 * done.dense.mean:.1f} %.",
        caption=f"{headline(done).capitalize()}. Dots: mean test accuracy, lines: 95 % intervals "
        f"over {done.request.seeds} seeds. Dashed: the dense nets before tuning; "
        f"“{LONGER}” has had the tuning too.",
    )  # fmt: skip
