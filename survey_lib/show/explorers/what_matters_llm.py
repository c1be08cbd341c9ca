"""The explorer of *What matters*: neurons left × λ → who survives on the plane of both measures."""

from collections.abc import Callable, Sequence

import altair as alt
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.what_matters_llm import cells, study
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels

EVERY = 4
"""Of the recorded neurons one in so many is drawn."""
STAYS, GOES = "stays", "goes"


def dots(neurons: Sequence[Sequence[float]], every: int = 1) -> pd.DataFrame:
    """Neurons as recorded: layer, sensitivity (10⁻³ nats), likeness U, and what becomes of them."""
    rows = pd.DataFrame(list(neurons)[::every], columns=["layer", "sensitivity", "U", "kept"])
    return rows.assign(becomes=rows.kept.map({1: STAYS, 0: GOES}))


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """A row for each recorded setting; lists hold its neurons."""
    rows = []
    for record in recorded:
        if record.config["arm"] != "plane":
            continue
        found = dots(record.numbers["neurons_of"], EVERY)
        layers = record.numbers["layers"].values()
        rows.append(
            {
                "keep": record.config["keep"],
                "lambda_gum": record.config["lambda_gum"],
                "loss": record.numbers["loss"],
                "uniqueness": record.numbers["uniqueness"],
                "sensitivity_left": record.numbers["sensitivity"],
                **{f"layer_{i}": kept for i, (_, kept) in enumerate(layers)},
                "sensitivity": found.sensitivity.tolist(),
                "U": found.U.tolist(),
                "becomes": found.becomes.tolist(),
            }
        )
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """The plane, and the loss along the neurons left for the chosen λ among all."""
    here = alt.Chart(rows).transform_filter(
        (alt.datum.keep == chosen["keep"]) & (alt.datum.lambda_gum == chosen["lambda_gum"])
    )
    look = alt.Color("becomes:N", title=None, legend=alt.Legend(orient="top")).scale(
        domain=[STAYS, GOES], range=[style.css("gum"), style.css("oneshot")]
    )
    # the same legend, so that the two become one
    shape = alt.Shape("becomes:N", title=None, legend=alt.Legend(orient="top")).scale(
        domain=[STAYS, GOES], range=["circle", "cross"]
    )
    plane = (
        here.transform_flatten(["sensitivity", "U", "becomes"])
        .mark_point(size=34, opacity=0.75)
        .encode(
            x=alt.X("sensitivity:Q", title="sensitivity (10⁻³ nats)").scale(
                type="symlog", constant=0.5
            ),
            y=alt.Y("U:Q", title="likeness to the layer, U").scale(zero=False),
            color=look,
            shape=shape,
        )
    )
    keep = alt.X(
        "keep:Q", title="neurons left", axis=alt.Axis(format=".0%", values=list(study.LEFT))
    )
    keep = keep.scale(type="log", reverse=True, nice=False, padding=16)

    def along(value: str, title: str) -> alt.LayerChart | alt.FacetChart:
        y = alt.Y(f"{value}:Q", title=title).scale(zero=False)
        cloud = alt.Chart(rows).mark_point(opacity=0.5, size=28)
        at = here.encode(x=keep, y=y)
        return alt.layer(
            cloud.encode(x=keep, y=y, color=alt.value(style.css("oneshot"))),
            at.mark_point(filled=True, size=130, opacity=1, color=style.css("gum")),
            at.mark_text(dy=-14, fontWeight="bold", color=style.css("gum")).encode(
                text=told(value)
            ),
        )

    return alt.vconcat(
        plane.properties(height=230),
        along("loss", "test loss (nats)").properties(height=140),
        along("uniqueness", "uniqueness").properties(height=120),
    )


def prune(keep: float, lambda_gum: float, arm: str, progress: Callable[..., None]) -> Figure:
    """Tune and prune replicate 0 at these settings, and draw who is left."""
    rate = study.RATES["gum"] if arm == "plane" else 0.0
    cell = cells.Cell("plane", 0, "gum", keep=keep, lambda_gum=lambda_gum, lr=rate)
    progress(0, 1, "tuning and pruning …")
    numbers = measure("what_matters_llm", cell, "live")
    progress(1, 1, "done")
    found = dots(numbers["neurons_of"])
    fig, (ax,) = panels(1, height=3.6)
    for word, key, marker in ((GOES, "oneshot", "x"), (STAYS, "gum", "o")):
        some = found[found.becomes == word]
        ax.plot(
            some.sensitivity, some.U, linestyle="none", marker=marker, markersize=4,
            color=style.series(key).light, label=word,
        )  # fmt: skip
    ax.set_xscale("symlog", linthresh=0.5)
    ax.set(xlabel="sensitivity (10⁻³ nats)", ylabel="likeness to the layer, U")
    ax.legend()
    words = (
        f"{int(found.kept.sum())} of {len(found)} neurons stay, test loss {numbers['loss']:.3f} "
        f"nats, uniqueness {numbers['uniqueness']:.3f}"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"All neurons by sensitivity and likeness, those that stay and those that go: {words}.",
        caption=f"Pruned here: {words}.",
        data=found,
    )


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the recorded settings; live it tunes and prunes (in smoke it cuts)."""
    arm = "cut" if profile == "smoke" else "plane"

    def live(keep: float, lambda_gum: float, progress: Callable[..., None]) -> Figure:
        return prune(keep, lambda_gum, arm, progress)

    return Explorer(
        "survivors",
        controls=[
            Control("keep", "Neurons left", study.LEFT, 0.5, format=lambda v: f"{100 * v:g} %"),
            Control("lambda_gum", "λ of likeness", study.LAMBDAS, 16.0, format="{:g}".format),
        ],
        grid=grid(recorded),
        chart=chart,
        live=live,
        slow=True,
        title="Who survives?",
        alt="Three charts: neurons of the dense net by sensitivity and likeness, those that stay "
        "apart from those that go; test loss and uniqueness of the chosen run among all recorded "
        "ones, against the share of neurons left.",
        caption="At λ = 0 movement alone decides, and likeness does not matter. Raise λ: neurons "
        "high up, which resemble many others, leave first. Lower the share left and see whom that "
        "costs. Recorded runs of the character model, replicate 0; measures of the dense net, one "
        f"neuron in {EVERY} drawn; faint points are all recorded settings.",
        table_columns={
            "keep": "neurons left",
            "lambda_gum": "λ",
            "loss": "test loss",
            "uniqueness": "uniqueness",
            "layer_0": "left in layer 1",
            "layer_1": "left in layer 2",
        },
    )
