"""One HTML page, and one table in plain text, of methods compared on a user's own net.

Everything is drawn from :func:`data`, so that a comparison kept as JSON can be shown later.
"""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from survey_lib import files
from survey_lib.evidence.intervals import Interval
from survey_lib.experiments.own_net.compare import LONGER, Compared
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
Found = Mapping[str, Any]
"""What :func:`data` gives."""


def data(done: Compared) -> dict[str, Any]:
    """A comparison as plain data, for other programs and for the functions below."""
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
        "train_epochs": None if request.weights else request.train_epochs,
        "dense": plain(done.dense), "dense_measured": times.get("dense"),
        "methods": [
            {
                "name": line.name or "longer", "label": line.label, "lr": line.lr,
                "rate_at_edge": line.at_edge, "test": plain(line.test),
                "lead_over_l1": plain(line.lead), "macs": line.macs, "params": line.params,
                "seconds": line.seconds,
                "measured": times.get(line.label if line.name else "dense"),
            }
            for line in done.lines
        ],
        "left_out": dict(done.left_out), "failed": dict(done.failed),
        "device": done.comparison.device_line if done.comparison else None,
        "machine": dict(done.made),
    }  # fmt: skip


def headline(found: Found) -> str:
    """What came out, in a sentence that the intervals support."""
    leads = {
        line["label"]: line["lead_over_l1"]
        for line in found["methods"]
        if line["name"] != "longer" and line["lead_over_l1"]
    }
    told_apart = {label: lead for label, lead in leads.items() if lead["low"] is not None}
    better = [label for label, lead in told_apart.items() if lead["low"] > 0]
    worse = [label for label, lead in told_apart.items() if lead["high"] < 0]
    rest = len(leads) - len(better) - len(worse)
    told = []
    if better:
        told.append(f"better than {REFERENCE}: {', '.join(better)}")
    if worse:
        told.append(f"worse: {', '.join(worse)}")
    if rest:
        told.append(f"{rest} cannot be told from {REFERENCE} with {found['seeds']} seeds")
    return "; ".join(told) or "there is nothing to compare with"


def _sentence(found: Found) -> str:
    """The headline with a capital in front; names keep theirs."""
    told = headline(found)
    return told[:1].upper() + told[1:]


def text(found: Found) -> str:
    """The table in plain text, with what was left out and how it was made under it."""
    notes = [f"{headline(found)}.", *_notes(found)]
    return f"{_frame(found).to_string(index=False)}\n\n" + "\n".join(notes)


def _shown(interval: Mapping[str, Any] | None, unit: str) -> str:
    if interval is None:
        return "–"
    if interval["low"] is None:
        return number(100 * interval["mean"], 2)
    whole = Interval(interval["mean"], interval["low"], interval["high"], interval["n"])
    return f"{mean_words(whole, unit)} {range_words(whole, unit=unit)}"


def _frame(found: Found) -> pd.DataFrame:
    dense = found["dense_measured"] or {}
    rows = [{
        "method": "dense",
        "accuracy (%)": _shown(found["dense"], "share of images tested"),
        f"lead over {REFERENCE} (points)": "–",
        "rate": "–",
        "MACs": dense.get("macs"), "parameters": dense.get("params"),
        "bytes": dense.get("file_bytes"), "ms": dense.get("min_ms"),
    }]  # fmt: skip
    for line in found["methods"]:
        measured = line["measured"] or {}
        rows.append({
            "method": line["label"],
            "accuracy (%)": _shown(line["test"], "share of images tested"),
            f"lead over {REFERENCE} (points)": _shown(line["lead_over_l1"], SHARE_OF_IMAGES),
            "rate": f"{line['lr']:g}{' (edge)' if line['rate_at_edge'] else ''}",
            "MACs": int(line["macs"]), "parameters": int(line["params"]),
            "bytes": measured.get("file_bytes"), "ms": measured.get("min_ms"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _notes(found: Found) -> list[str]:
    budget, rates = found["budget"], found["rates"]
    start = (
        "the weights given" if found["train_epochs"] is None
        else f"{found['train_epochs']:g} epochs, one a seed"
    )  # fmt: skip
    notes = [
        f"Each method starts from the same dense nets ({start}), keeps {budget['metric']} "
        f"{budget['keep']:g} and is tuned for {found['tune_epochs']:g} epochs at "
        f"{len(rates)} rates ({', '.join(f'{r:g}' for r in rates)}); the one best "
        "on validation images counts. Intervals are 95 % Student’s t over "
        f"{found['seeds']} seeds, on the same test images.",
    ]
    if any(line["rate_at_edge"] for line in found["methods"]):
        notes.append(
            "Where the best rate is marked (edge) a better one may lie beyond: move --lr or raise "
            "--tries."
        )
    notes += [f"Left out: {name}: {why}." for name, why in found["left_out"].items()]
    notes += [f"Failed: {name}: {why}." for name, why in found["failed"].items()]
    if found["device"]:
        notes.append(
            f"Bytes and ms are of seed 0’s nets, in turns: {found['device']}; "
            f"torch {found['machine'].get('torch', '')}."
        )
    return notes


def shown(found: Found) -> str:
    """Figure and table as HTML, for a page that has the book's styles."""
    lead = f"lead over {REFERENCE}"
    frame = _frame(found)
    of_methods = [line["lead_over_l1"] for line in found["methods"]]
    for column, was, values in (
        ("accuracy", "accuracy (%)", [found["dense"], *(m["test"] for m in found["methods"])]),
        (lead, f"{lead} (points)", [None, *of_methods]),
    ):
        for end in ("mean", "low", "high"):
            percent = [math.nan if v is None or v[end] is None else 100 * v[end] for v in values]
            frame[column if end == "mean" else f"{column} {end}"] = percent
        frame = frame.drop(columns=was)
    columns = ["method", "accuracy", lead, "rate", "MACs", "parameters", "bytes", "ms"]
    bounds = {c: (f"{c} low", f"{c} high") for c in ("accuracy", lead)}
    whole = table(
        frame.reindex(columns=[*columns, *(end for pair in bounds.values() for end in pair)]),
        caption=f"{_sentence(found)}. Every number of the comparison.",
        notes=_notes(found),
        units={"accuracy": "%", lead: "points"},
        decimals={"accuracy": 2, lead: 2, "ms": 3},
        interval_columns=bounds,
    )
    return _figure(found) + whole.html


def page(found: Found) -> str:
    """The whole page as one file that needs no other."""
    root = files.repository()
    static = root / "book" / "_static" if root else None
    parts = {"css": "", "js": ""}
    for kind in parts:
        if static and (static / f"survey.{kind}").exists():
            parts[kind] = (static / f"survey.{kind}").read_text(encoding="utf-8")
    budget = found["budget"]
    title = f"{found['model']} at {budget['metric']} {budget['keep']:g}"
    return (
        '<!doctype html><html lang="en" data-content_root="./"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_PAGE}{parts['css']}</style></head>"
        f'<body><main class="bd-article"><h1>{escape(title)}</h1>{shown(found)}'
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


def _figure(found: Found) -> str:
    """Test accuracy of every method with its interval."""
    import matplotlib.pyplot as plt

    from survey_lib.show.figure import inline_figure

    lines, dense = found["methods"], found["dense"]["mean"]
    drawn = []
    with plt.rc_context():
        style.use_style()
        for width in (style.WIDE_INCHES, style.NARROW_INCHES):
            fig, ax = plt.subplots(figsize=(width, 0.34 * len(lines) + 1.0))
            for y, line in enumerate(lines):
                colour = style.series("dense" if line["name"] == "longer" else "magnitude").light
                test = line["test"]
                if test["low"] is not None:
                    ends = [100 * test["low"], 100 * test["high"]]
                    ax.plot(ends, [y, y], color=colour, linewidth=1.6)
                ax.plot(100 * test["mean"], y, marker="o", markersize=6, color=colour)
            ax.axvline(100 * dense, color=style.INK, linestyle="--", linewidth=1)
            ax.set_yticks(range(len(lines)), [line["label"] for line in lines])
            ax.set_ylim(len(lines) - 0.5, -0.5)
            ax.set_xlabel("test accuracy (%)")
            ax.grid(axis="x", visible=True)
            ax.grid(axis="y", visible=False)
            drawn.append(fig)
    return inline_figure(
        drawn[0], drawn[1], "own-net",
        alt=f"Test accuracy of {len(lines)} nets with 95 % intervals; the dense nets have "
        f"{100 * dense:.1f} %.",
        caption=f"{_sentence(found)}. Dots: mean test accuracy, lines: 95 % intervals "
        f"over {found['seeds']} seeds. Dashed: the dense nets before tuning; "
        f"“{LONGER}” has had the tuning too.",
    )  # fmt: skip
