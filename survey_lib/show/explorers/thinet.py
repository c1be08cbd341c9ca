"""The explorer of *ThiNet*: layer × share kept × size of the sample → which filters go."""

from collections.abc import Callable, Sequence

import altair as alt
import numpy as np
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.thinet import layers, study
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels
from survey_lib.tasks.dense import seeded

SIZES = {10 * images * pairs: (images, pairs) for images, pairs in layers.SCHEMES}
"""Rows m → images of each class, pairs of each image."""
PARTS = {"": "with scalars ŵ", "_plain": "without", "_re": "without, statistics anew"}
"""Ending of a number's name → what was done after the cut."""


def layer_names() -> dict[str, str]:
    """Path of a layer of the shipped net → its name for readers."""
    return {path: f"conv {i}" for i, path in enumerate(layers.explored_layers(), 1)}


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded cuts, one row each: kept filters as a list of 1 and 0, errors, accuracies."""
    names = layer_names()
    rows = []
    for record in recorded:
        if record.config["arm"] != "layer":
            continue
        for cut in record.numbers["cuts"]:
            kept = set(cut["kept"])
            rows.append(
                {
                    "layer": names[record.config["layer"]],
                    "m": record.numbers["m"],
                    "r": cut["r"],
                    "removed": cut["channels"] - len(kept),
                    "channels": cut["channels"],
                    "filter": list(range(1, cut["channels"] + 1)),
                    "stays": [int(c in kept) for c in range(cut["channels"])],
                    "error": round(cut["error"], 5),
                    "error_plain": round(cut["error_plain"], 5),
                    "accuracy": cut["accuracy"],
                    "accuracy_plain": cut["accuracy_plain"],
                    "accuracy_re": cut["accuracy_re"],
                    "dense": record.numbers["val_dense"],
                }
            )
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """Filters of the chosen layer, and how error and accuracy move with the share kept."""
    base = alt.Chart(rows)
    curve = base.transform_filter(
        (alt.datum.layer == chosen["layer"]) & (alt.datum.m == chosen["m"])
    )
    here = curve.transform_filter(alt.datum.r == chosen["r"])
    filters = (
        here.transform_flatten(["filter", "stays"])
        .transform_calculate(fate="datum.stays ? 'stays' : 'goes'")
        .mark_rect(stroke="white", strokeOpacity=0.4)
        .encode(
            x=alt.X(
                "filter:O",
                title="filter of the layer",
                axis=alt.Axis(
                    values=[1, *range(8, 65, 8)], labelAngle=0, ticks=False, domain=False
                ),
            ),
            color=alt.Color(
                "fate:N",
                scale=alt.Scale(
                    domain=["stays", "goes"], range=[style.css("thinet"), style.css_grid()]
                ),
            ),
        )
    )
    share = alt.X("r:Q", title="share of the layer's filters kept", axis=alt.Axis(format="%"))
    share = share.scale(domain=[0.25, 0.95], reverse=True, nice=False)

    def lines(value: str, title: str, form: str) -> alt.LayerChart | alt.FacetChart:
        y = alt.Y("value:Q", title=title, axis=alt.Axis(format=form))
        dash = alt.StrokeDash(
            "kind:N",
            title=None,
            scale=alt.Scale(domain=list(PARTS.values()), range=[[1, 0], [2, 3], [8, 3]]),
        )
        ends = [end for end in PARTS if value == "accuracy" or end != "_re"]
        names = " : ".join(f"datum.key == '{value}{e}' ? '{PARTS[e]}'" for e in ends) + " : ''"

        def folded(part: alt.Chart) -> alt.Chart:
            return part.transform_fold([value + e for e in ends]).transform_calculate(kind=names)

        colour = alt.value(style.css("thinet"))
        drawn = folded(curve).mark_line().encode(x=share, y=y, strokeDash=dash, color=colour)
        point = here.mark_point(filled=True, size=130, opacity=1)
        point = point.encode(x=share, y=alt.Y(f"{value}:Q"), color=colour)
        aside = 30 if value == "accuracy" else -26  # where the curve is not
        words = here.mark_text(dx=aside, dy=-10, fontWeight="bold").encode(
            x=share, y=alt.Y(f"{value}:Q"), text=told(value, percent=True), color=colour
        )
        layers = [drawn, point, words]
        if value == "accuracy":
            rule = here.mark_rule(strokeDash=[4, 4]).encode(y="dense:Q")
            layers.insert(0, rule)
        return alt.layer(*layers)

    return alt.vconcat(
        filters.properties(height=44, width=260),
        lines("error", "output lost", ".0%").properties(height=150, width=260),
        lines("accuracy", "accuracy before tuning", ".0%").properties(height=150, width=260),
    ).resolve_scale(color="independent")


def cut(layer: str, r: float, m: int, progress: Callable[..., None]) -> Figure:
    """Sample rows here and now, cut the shipped net's layer, and draw what came out."""
    path = next(p for p, name in layer_names().items() if name == layer)
    progress(0, 1, "sampling rows, choosing, cutting and measuring …")
    numbers, fitted = layers.one_layer(path, *SIZES[m], [r], seeded(0, 2))
    progress(1, 1, "done")
    (found,) = numbers["cuts"]
    channels, kept = found["channels"], set(found["kept"])
    stays = np.array([c in kept for c in range(channels)])
    sizes = np.sqrt((fitted.x**2).mean(0))
    fig, (ax,) = panels(1, height=2.8)
    colour, faint = style.series("thinet").light, style.series("oneshot").light
    index = np.arange(1, channels + 1)
    ax.bar(index[stays], sizes[stays], color=colour, label="stays")
    ax.bar(index[~stays], sizes[~stays], color=faint, alpha=0.45, label="goes")
    ax.set(xlabel=f"filter of {layer}", ylabel="its part of the next\nlayer's output (rms)")
    ax.legend(loc="upper right", ncols=2)
    words = (
        f"{channels - len(kept)} of {channels} filters go; on other images "
        f"{found['error']:.1%} of the next layer's output is lost "
        f"({found['error_plain']:.1%} without the scalars); "
        f"validation accuracy before any tuning {found['accuracy']:.1%} with the scalars, "
        f"{found['accuracy_re']:.1%} with batch norm's statistics anew instead"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"The size of each filter's part, and which filters stay: {words}.",
        caption=f"Computed here: {words}.",
        data=pd.DataFrame({"filter": index, "rms": sizes, "stays": stays}),
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded grid; live it samples and cuts for real."""
    names = layer_names()
    return Explorer(
        "cut",
        controls=[
            Control("layer", "Layer", tuple(names.values()), names[study.EXPLORED], kind="select"),
            Control("r", "Share kept", layers.SHARES, 0.4, format="{:.0%}".format),
            Control("m", "Rows sampled", tuple(SIZES), 4000, format="{:,}".format),
        ],
        grid=grid(recorded),
        chart=chart,
        live=cut,
        slow=True,
        title="Which filters would nobody miss?",
        alt="Three charts for one layer: which filters stay, the share of the next layer's output "
        "that is lost, and the accuracy before tuning, against the share of filters kept.",
        caption="Keep fewer and fewer filters: the scalars lose less of the next layer's output, "
        "but it is batch norm's statistics, estimated anew, that save most of the accuracy. One "
        "layer is cut, nothing is tuned; errors on images the choice did not see, accuracy on "
        "validation images; a level dashed line is the whole net.",
        table_columns={
            "layer": "layer",
            "m": "rows",
            "r": "share kept",
            "removed": "filters gone",
            "error": "error",
            "error_plain": "error without ŵ",
            "accuracy": "accuracy",
            "accuracy_plain": "accuracy without ŵ",
            "accuracy_re": "accuracy, statistics anew",
        },
    )
