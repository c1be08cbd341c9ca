"""The explorer of *LLM.int8()*: outliers' size × α × method → error, 16-bit share, grid steps."""

from collections.abc import Sequence

import altair as alt
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.llm_int8 import cells
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, by_method, told
from survey_lib.show.figure import Figure, figure, panels

WORDS = {
    cells.ABSMAX: "absmax, one scale",
    cells.ZEROPOINT: "zeropoint, one scale",
    cells.ROW: "row-wise",
    cells.VECTOR: "vector-wise",
    cells.LLM: "LLM.int8()",
}
"""Row of the table → what a reader chooses."""
COLOURS = {WORDS[cells.ABSMAX]: "oneshot", WORDS[cells.ZEROPOINT]: "oneshot"}
COLOURS |= {WORDS[cells.ROW]: "magnitude", WORDS[cells.VECTOR]: "magnitude"}
COLOURS |= {WORDS[cells.LLM]: "int8"}
"""What a reader chooses → series of the style, as in the chapter's figures."""


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded settings, one row each; lists hold one token's ordinary values."""
    (record,) = [r for r in recorded if r.config["arm"] == "explore"]
    rows = pd.DataFrame(record.numbers["settings"])
    return rows.assign(kind=rows.kind.map(WORDS))


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """What the grid makes of a token's ordinary values; the product's error along the sizes."""
    curve = alt.Chart(rows).transform_filter(
        (alt.datum.kind == chosen["kind"]) & (alt.datum.alpha == chosen["alpha"])
    )
    here = curve.transform_filter(alt.datum.scale == chosen["scale"])
    colour = by_method("kind", COLOURS)
    span = alt.Scale(domain=[-2, 2], nice=False, clamp=True)
    values = here.transform_flatten(["value", "rounded"])
    x = alt.X("value:Q", title="value of an ordinary feature", scale=span)
    y = alt.Y("rounded:Q", title="after the grid", scale=span)
    line = values.mark_line(strokeDash=[4, 4], color=style.css("dense")).encode(
        x=x, y=alt.Y("value:Q", title="after the grid", scale=span)
    )
    points = values.mark_point(filled=True, size=45, opacity=0.8).encode(x=x, y=y, color=colour)
    levels = here.mark_text(align="left", fontWeight="bold", dx=6, dy=12).encode(
        x=alt.datum(-2, type="quantitative"), y=alt.datum(2, type="quantitative"), text="words:N"
    ).transform_calculate(
        words="datum.levels + ' values left, ' + datum.zeros + ' of "
        f"{cells.SHOWN} are zero'"
    )  # fmt: skip

    size = alt.X(
        "scale:Q",
        title="planted outliers are multiplied by",
        scale=alt.Scale(type="log", base=2, domain=[1, 64], nice=False),
        axis=alt.Axis(values=list(cells.EXPLORED_SCALES), format="d"),
    )

    def along(value: str, title: str, scale: alt.Scale) -> alt.LayerChart | alt.FacetChart:
        y = alt.Y(f"{value}:Q", title=title, scale=scale, axis=alt.Axis(format="~%", tickCount=4))
        at = here.encode(x=size, y=y, color=colour)
        return alt.layer(
            curve.mark_line().encode(x=size, y=y, color=colour),
            at.mark_point(filled=True, size=130, opacity=1),
            # beside the axis a centred number would lie on the axis's own
            at.mark_text(
                dy=-14,
                fontWeight="bold",
                align={"expr": "datum.scale < 2 ? 'left' : datum.scale > 32 ? 'right' : 'center'"},
            ).encode(text=told(value, percent=True)),
        )

    top, share = (max(rows[column]) for column in ("error", "in_16_bit"))
    return alt.vconcat(
        alt.layer(line, points, levels).properties(height=230, width=260),
        along(
            "error", "error of the product", alt.Scale(domain=[0, 1.25 * top], nice=False)
        ).properties(height=130, width=260),
        along(
            "in_16_bit", "features in 16 bits",
            alt.Scale(domain=[0, 1.25 * max(share, 0.04)], nice=False),
        ).properties(height=110, width=260),
    )  # fmt: skip


def multiply(scale: int, kind: str, alpha: float) -> Figure:
    """Plant, quantize and multiply here and now, and draw what came out."""
    row = next(k for k, words in WORDS.items() if words == kind)
    X, W = cells.explored_product(scale)
    found = cells.explored_setting(X, W, row, alpha, cells.explored_token())
    fig, (left, right) = panels(2, height=3.2, sharey=False)
    look = style.series("int8").light
    left.plot([-2, 2], [-2, 2], color=style.INK, linestyle="--", linewidth=1)
    left.plot(found["value"], found["rounded"], linestyle="none", marker="o", color=look)
    left.set(xlabel="value of an ordinary feature", ylabel="after the grid")
    right.hist(
        [b - a for a, b in zip(found["value"], found["rounded"], strict=True)], bins=20, color=look
    )
    right.set(xlabel="moved by", ylabel="values")
    words = (
        f"the product is off by {found['error']:.2%}; {found['outliers']} of {X.shape[1]} features "
        f"are multiplied in 16 bits; {found['levels']} different values are left of "
        f"{len(set(found['value']))}, and {found['zeros']} of {cells.SHOWN} are zero"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"One token's ordinary values before and after the grid. {words}.",
        caption=f"Computed here: {words}.",
        data=pd.DataFrame({"value": found["value"], "rounded": found["rounded"]}),
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded settings; live it multiplies for real."""
    rows, features = grid(recorded), cells.Cell("explore", 0).features
    opening = {"kind": WORDS[cells.VECTOR], "scale": max(cells.EXPLORED_SCALES), "alpha": 6.0}
    first, fewer = (
        rows[(rows[list(o)] == pd.Series(o)).all(axis=1)].iloc[0]
        for o in (opening, opening | {"scale": 16})
    )
    return Explorer(
        "outliers",
        controls=[
            Control("kind", "Multiply", tuple(WORDS.values()), opening["kind"],
                    kind="select"),
            Control("scale", "Outliers ×", cells.EXPLORED_SCALES, opening["scale"]),
            Control("alpha", "α", cells.ALPHAS, opening["alpha"], format="{:g}".format,
                    idle="Only LLM.int8() has a threshold."),
        ],
        grid=rows,
        chart=chart,
        live=multiply,
        title="Who pays for the outliers?",
        alt="Three charts: ordinary values of one token before and after the grid, on a staircase; "
        "the error of the product and the share of features in 16 bits against the size of the "
        "planted outliers.",
        caption="The staircase is what outliers this large leave of ordinary values: "
        f"{first['levels']} steps under a scale for each row and column, and {first['zeros']} of "
        f"{cells.SHOWN} values are zero. Choose LLM.int8(): the outliers leave, and the stairs are "
        "fine again, as long as the outliers reach α. Or let them shrink under the vector-wise "
        f"grid: at sixteen times, about the paper's size, there are {fewer['levels']}. One linear "
        f"layer of the shipped character model, {features} planted features of 128.",
        table_columns={
            "kind": "method",
            "scale": "outliers ×",
            "alpha": "α",
            "error": "error",
            "in_16_bit": "in 16 bits",
            "levels": "values left",
            "zeros": "zeros",
        },
    )  # fmt: skip
