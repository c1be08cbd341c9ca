"""The explorer of *To prune, or not to prune*: final size × bend × window of the schedule."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.to_prune_or_not import study
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels

WINDOWS = {(0.05, 0.3): "early", (0.15, 0.6): "middle", (0.5, 0.95): "late"}
BENDS = {1.0: "straight (1)", 3.0: "cubic (3)", 6.0: "steeper (6)"}
LAYERS = {"features.3.weight": "conv 2", "features.6.weight": "conv 3"}
LAYERS |= {"classifier.weight": "linear"}


def path(numbers: dict[str, Any]) -> pd.DataFrame:
    """Sparsity over a run as steps: ``x`` is the share of training, ``y`` the sparsity."""
    trace, steps = numbers["trace"], numbers["steps"]
    at = [0, *trace["step"], steps]
    level = [0.0, *trace["sparsity"], trace["sparsity"][-1]]
    return pd.DataFrame({"x": np.round(np.array(at) / steps, 3), "y": level})


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded runs in rows: ``part`` is ``schedule`` (x, y) or ``layer`` (x kept of y weights)."""
    rows = []
    for record in recorded:
        config, numbers = record.config, record.numbers
        if config["family"] != "cnn" or not config["keep"]:
            continue
        shared = {
            "keep": config["keep"],
            "exponent": config["exponent"],
            "window": WINDOWS[config["begin"], config["end"]],
            "accuracy": numbers["test"],
            "bytes": numbers["bytes_bitmask"],
        }
        rows += [shared | {"part": "schedule"} | p for p in path(numbers).to_dict("records")]
        for name, (size, kept) in numbers["layers"].items():
            rows.append(shared | {"part": "layer", "layer": LAYERS[name], "x": kept, "y": size})
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """Schedule, accuracy against bytes, and layers of the chosen run among all."""
    here = alt.datum.part != ""
    for field, parameter in chosen.items():
        here = here & (alt.datum[field] == parameter)
    base, colour = alt.Chart(rows), alt.value(style.css("magnitude"))
    percent = alt.Axis(format="%")
    schedule = (
        base.transform_filter((alt.datum.part == "schedule") & here)
        .mark_line(interpolate="step-after")
        .encode(
            x=alt.X("x:Q", title="share of training", axis=percent).scale(domain=[0, 1]),
            y=alt.Y("y:Q", title="sparsity of each layer", axis=percent).scale(domain=[0, 1]),
            color=colour,
        )
    )
    bytes_axis = alt.Axis(format="~s", values=[9_000, 20_000, 70_000])
    runs = base.transform_filter(
        (alt.datum.part == "layer") & (alt.datum.layer == "linear")
    ).encode(
        x=alt.X("bytes:Q", title="bytes of the bit-mask file", axis=bytes_axis).scale(
            type="log", nice=False, reverse=True, padding=14
        ),
        y=alt.Y("accuracy:Q", title="test accuracy", axis=alt.Axis(format=".0%")).scale(zero=False),
    )
    cloud = runs.mark_point(opacity=0.5, size=28).encode(color=alt.value(style.css("oneshot")))
    point = runs.transform_filter(here).mark_point(filled=True, size=130, opacity=1)
    label = runs.transform_filter(here).mark_text(dy=-14, fontWeight="bold")
    layers = base.transform_filter((alt.datum.part == "layer") & here)
    order = alt.Y("layer:N", title=None, sort=list(LAYERS.values()))
    whole = layers.mark_bar(opacity=0.25, height=14).encode(
        x=alt.X("y:Q", title="weights: kept of all"), y=order, color=colour
    )
    kept = layers.mark_bar(height=14).encode(x="x:Q", y=order, color=colour)
    return alt.vconcat(
        schedule.properties(height=150),
        alt.layer(
            cloud,
            point.encode(color=colour),
            label.encode(text=told("accuracy", percent=True), color=colour),
        ).properties(height=170),
        alt.layer(whole, kept).properties(height=80),
    )


def train(
    keep: float, exponent: float, window: str, longer: float, progress: Callable[..., None]
) -> Figure:
    """Train the medium net at these settings, replicate 0, and draw what came out."""
    begin, end = next(ends for ends, name in WINDOWS.items() if name == window)
    cell = study.cell(
        "gradual", 0, "cnn", study.MEDIUM,
        keep=keep, exponent=exponent, begin=begin, end=end, longer=longer,
    )  # fmt: skip
    progress(0, 1, "training …")
    numbers = measure("to_prune_or_not", cell, "live")
    progress(1, 1, "done")
    steps = path(numbers)
    fig, axes = panels(2, height=2.8, sharey=False)
    axes[0].step(steps.x, steps.y, where="post", **style.line("magnitude", marker=""))
    axes[0].set(xlabel="share of training", ylabel="sparsity of each layer", ylim=(0, 1))
    colour = style.series("magnitude").light
    for name, (size, kept) in numbers["layers"].items():
        axes[1].barh(LAYERS[name], size, color=colour, alpha=0.25)
        axes[1].barh(LAYERS[name], kept, color=colour)
    axes[1].set(xlabel="weights: kept of all")
    words = (
        f"test accuracy {numbers['test']:.1%}, "
        f"bit-mask file {numbers['bytes_bitmask'] / 1000:.0f} kB, "
        f"{numbers['trace']['readmitted'][-1]} weights came back"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"Schedule and layers of the net just trained: {words}.",
        caption=f"Trained here: {words}.",
        data=steps,
    )


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the recorded grid; live it trains for real (one epoch in smoke)."""
    longer = 1 / 16 if profile == "smoke" else 1.0

    def live(keep: float, exponent: float, window: str, progress: Callable[..., None]) -> Figure:
        return train(keep, exponent, window, longer, progress)

    return Explorer(
        "schedule",
        controls=[
            Control(
                "keep",
                "Parameters kept",
                study.KEEP,
                0.03,
                format=lambda share: f"{100 * share:g} %",
            ),
            Control(
                "exponent", "Bend of the schedule", tuple(BENDS), 1.0, format=BENDS.__getitem__
            ),
            Control("window", "When it prunes", tuple(WINDOWS.values()), "late"),
        ],
        grid=grid(recorded),
        chart=chart,
        live=live,
        slow=True,
        title="How would you prune it?",
        alt="Three charts: the sparsity over training, accuracy and bytes of the chosen run "
        "among all recorded runs, and the weights kept in each layer.",
        caption="A straight cut, late and deep, is the worst of all: bend it, or let it begin "
        "earlier. Recorded runs of the medium convolutional net, seed 0; faint points are all "
        "recorded settings.",
        table_columns={c: c for c in ("keep", "exponent", "window", "accuracy", "bytes")},
    )
