"""The explorer of *Parameterized structured pruning*: pull × granularity, epoch after epoch."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.parameterized_structured.cells import BINS, Cell
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels

NAMES = {
    "column": "columns",
    "channel": "channels (inputs)",
    "filter": "filters (outputs)",
    "shape": "shapes (places of a kernel)",
    "layer": "whole layers",
}
"""Granularity → what a reader chooses."""


def runs(recorded: Sequence[Record]) -> dict[tuple[str, float], Record]:
    """Runs of the residual net, seed 0, by granularity and pull λη: for each pair that all have."""
    usual = Cell("psp", 0)
    found = {}
    for r in recorded:
        c = r.config
        if r.status != "done" or c["arm"] != "psp" or c["seed"] or c["net"] != usual.net:
            continue
        if c["penalty"] == usual.penalty and c["start"] == usual.start and "path" in r.numbers:
            found[c["granularity"], c["pull"]] = r
    kinds = [g for g in NAMES if any(g == had for had, _ in found)]
    pulls = sorted({p for _, p in found})
    shared = [p for p in pulls if all((g, p) in found for g in kinds)]
    return {(g, p): found[g, p] for g in kinds for p in shared}


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """A row for each granularity, pull and epoch: the histogram of |α|, accuracy, what is left."""
    rows = []
    for (granularity, pull), record in runs(recorded).items():
        n = record.numbers
        for epoch, at in enumerate(n["path"]):
            rows.append(
                {
                    "structures": NAMES[granularity],
                    "pull": pull,
                    "epoch": epoch,
                    "number": n["structures"],
                    "low": BINS[:-1],
                    "high": BINS[1:],
                    "share": [round(k / n["structures"], 4) for k in at["hist"]],
                    "off": round(at["sparsity"], 4),
                    "near": round(at["near"], 4),
                    "val": at["val"],
                    "test": n["test_re"],
                    "what": ["structures", "weights", "MACs", "MACs, by channels alone"],
                    "left": [
                        round(1 - n["sparsity"], 4),
                        round(1 - n["weights_gone"], 4),
                        round(1 - n["macs_gone"], 4),
                        round(n["small"]["macs"] / n["macs"], 4),
                    ],
                    "macs_left": round(1 - n["macs_gone"], 4),
                    "epsilon": record.config["epsilon"],
                }
            )
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """Distribution of |α| with ε, sparsity and accuracy along training, what is left at its end."""
    run = alt.Chart(rows).transform_filter(
        (alt.datum.structures == chosen["structures"]) & (alt.datum.pull == chosen["pull"])
    )
    here = run.transform_filter(alt.datum.epoch == chosen["epoch"])
    psp, gone = alt.value(style.css("psp")), alt.value(style.css_grid())
    size = alt.Scale(type="log", domain=[BINS[0], BINS[-1]], nice=False)
    percent = alt.Axis(format=".0%", tickCount=4)
    bars = (
        here.transform_flatten(["low", "high", "share"])
        .mark_bar(binSpacing=1)
        .encode(
            x=alt.X("low:Q", title="size of a factor |α|", scale=size,
                    axis=alt.Axis(values=[0.001, 0.01, 0.1, 1], format="~g")),
            x2="high",
            y=alt.Y("share:Q", title="share of structures", axis=percent),
            y2=alt.Y2Datum(0),  # else a bar with two ends along x has no foot
            color=alt.condition(alt.datum.low < alt.datum.epsilon, gone, psp),
        )
    )  # fmt: skip
    line = here.mark_rule(strokeDash=[4, 3]).encode(
        x=alt.X("epsilon:Q", title="size of a factor |α|", scale=size),
        color=alt.value(style.css("dense")),
    )
    x = alt.X("epoch:Q", title="epochs", axis=alt.Axis(tickMinStep=1, format="d"))
    last = int(rows.epoch.max())

    def along(value: str, title: str, scale: alt.Scale) -> Any:
        y = alt.Y(f"{value}:Q", title=title, axis=percent, scale=scale)
        at = here.encode(x=x, y=y, color=psp)
        return alt.layer(
            run.mark_line().encode(x=x, y=y, color=psp),
            at.mark_point(filled=True, size=130, opacity=1),
            at.mark_text(
                dy=-15,
                fontWeight="bold",
                align={"expr": f"datum.epoch < 1 ? 'left' : datum.epoch > {last - 1} ? 'right' "
                       ": 'center'"},
            ).encode(text=told(value, percent=True)),
        )  # fmt: skip

    at_end = here.transform_flatten(["what", "left"])
    y = alt.Y("what:N", title=None, sort=rows.what.iloc[0])
    whole = alt.Scale(domain=[0, 1.15], nice=False)
    left = at_end.mark_bar().encode(
        x=alt.X("left:Q", title="left at the end", axis=percent, scale=whole), y=y, color=psp
    )
    number = at_end.mark_text(align="left", dx=5, fontWeight="bold").encode(
        x="left:Q", y=y, text=told("left", percent=True)
    )
    share = alt.Scale(domain=[0, 1.18], nice=False)
    return alt.vconcat(
        alt.layer(bars, line).properties(height=150, width=300),
        along("off", "share below ε", share).properties(height=110, width=300),
        along("val", "validation accuracy", share).properties(height=110, width=300),
        alt.layer(left, number).properties(height=100, width=300),
    )


def draw(numbers: dict[str, Any], epoch: int, epsilon: float) -> Figure:
    """The distribution of |α| after an epoch, and sparsity and accuracy along the training."""
    path = numbers["path"]
    at = path[min(epoch, len(path) - 1)]
    fig, (left, right) = panels(2, height=2.9, sharey=False)
    low, high = np.array(BINS[:-1]), np.array(BINS[1:])
    colours = [style.MUTED if edge < epsilon else style.series("psp").light for edge in low]
    left.bar(low, np.array(at["hist"]) / numbers["structures"], high - low, align="edge",
             color=colours)  # fmt: skip
    left.axvline(epsilon, color=style.INK, linestyle="--", linewidth=1)
    left.set(xscale="log", xlabel="size of a factor |α|", ylabel="share of structures")
    epochs = range(len(path))
    right.plot(epochs, [p["sparsity"] for p in path], **style.line("psp", label="below ε"))
    right.plot(epochs, [p["val"] for p in path], **style.line("dense", label="accuracy"))
    right.set(xlabel="epochs", ylim=(0, 1.02))
    right.legend()
    words = (
        f"{numbers['sparsity']:.0%} of {numbers['structures']} structures ended below ε, "
        f"{1 - numbers['macs_gone']:.0%} of the MACs are left, test accuracy "
        f"{numbers['test_re']:.1%}"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"Sizes of the factors after some epochs; sparsity and accuracy over epochs. {words}.",
        caption=f"Trained here: {words}.",
        data=pd.DataFrame([{"epoch": i} | {k: p[k] for k in ("sparsity", "near", "val")}
                           for i, p in enumerate(path)]),
    )  # fmt: skip


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the recorded runs; live it trains for real (a moment of it in smoke)."""
    found = runs(recorded)
    rows = grid(recorded)

    def live(structures: str, pull: float, epoch: int, progress: Callable[..., None]) -> Figure:
        granularity = next(g for g, name in NAMES.items() if name == structures)
        settings = dict(found[granularity, pull].config)
        if profile == "smoke":
            settings |= {"start": "fresh", "epochs": 0.1}
        progress(0, 1, "training …")
        numbers = measure("parameterized_structured", Cell(**settings), "live")
        progress(1, 1, "done")
        return draw(numbers, epoch, settings["epsilon"])

    kinds, pulls = (list(dict.fromkeys(part)) for part in zip(*found, strict=True))
    last = int(rows.epoch.max())
    return Explorer(
        "decay_by_granularity",
        controls=[
            Control(
                "structures", "A factor for each of the", tuple(NAMES[g] for g in kinds),
                NAMES[kinds[0]], kind="select",
            ),
            Control(
                "pull", "Pull of the decay, λη", tuple(pulls),
                pulls[len(pulls) // 2], format=lambda d: f"{d:g}",
            ),
            Control("epoch", "After so many epochs", tuple(range(last + 1)), last),
        ],
        grid=rows,
        chart=chart,
        live=live,
        slow=True,
        title="What does training hold up against the decay?",
        alt="Four charts of one run: how the sizes of the factors are spread after the chosen "
        "epoch, with the threshold; the share of structures below the threshold and the validation "
        "accuracy along training; the shares of structures, weights and MACs left at its end.",
        caption="Let the pull grow with columns chosen, then choose filters: behind a batch norm "
        "nothing holds a filter’s factor up, the decay alone moves it. Grey: below ε. The last "
        "bar is what ordinary surgery saves, which takes out channels that nobody reads. Recorded "
        "runs of the residual net, seed 0; in the last epochs the mask is frozen.",
        table_columns={
            "structures": "structures",
            "pull": "λη",
            "epoch": "epoch",
            "off": "below ε",
            "near": "near ε",
            "val": "validation accuracy",
            "test": "test accuracy at the end",
            "macs_left": "MACs left at the end",
        },
    )  # fmt: skip
