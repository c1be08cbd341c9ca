"""The explorer of *group Fisher pruning*: coupling × what Δ counts × α → which channels go."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd

from survey_lib.evidence.protocol import by_cell as by_cells
from survey_lib.evidence.records import Record
from survey_lib.experiments.group_fisher import cells, study
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels
from survey_lib.tasks.dense import dense_net, seeded

COUPLED = {"coupled channels too": True, "inside blocks only": False}
SAVING = {"activation memory": "activations", "MACs": "macs"}
PLACES = {
    "stem.0": "stream 1",
    "stages.0.conv1": "inside 1",
    "stages.1.conv1": "inside 2",
    "stages.1.conv2": "stream 2",
    "stages.2.conv1": "inside 3",
    "stages.2.conv2": "stream 3",
}
"""Group of the residual net → its name for readers, in the order of the forward pass."""


def cell(coupled: str, saving: str, alpha: float) -> cells.Cell:
    """The cell of the study that has these settings."""
    per = SAVING[saving] if alpha else ""
    wanted = (per, alpha or 1.0, COUPLED[coupled])
    return next(c for c in study.explored() if (c.per, c.alpha, c.coupled) == wanted)


def dense_costs() -> tuple[dict[str, int], dict[str, int]]:
    """Cost by metric, and units by group, of the dense residual net."""
    task = cells.task_of(cells.Cell("dense", 0))
    graph = trace_groups(task.build(seeded(0)), task.example(1))
    costs = {k: Costs(graph, k).dense for k in ("macs", "activations", "params")}
    return costs, {g.name: g.size for g in graph.prunable}


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Points of the recorded paths of dense net 0, one row each."""
    costs, sizes = dense_costs()
    by_cell = {c: n for c, n in by_cells(recorded, cells.Cell).items() if c.arm == "path"}
    rows = []
    for coupled in COUPLED:
        for saving in SAVING:
            for alpha in study.ALPHAS:
                for point in by_cell[cell(coupled, saving, alpha)]["path"]:
                    rows.append(
                        {
                            "coupled": coupled,
                            "saving": saving,
                            "alpha": alpha,
                            "mark": point["mark"],
                            "place": list(PLACES.values()),
                            "left": [round(point["kept"][g] / sizes[g], 3) for g in PLACES],
                            "units": [f"{point['kept'][g]} of {sizes[g]}" for g in PLACES],
                            "accuracy": point["val"],
                            **{k: round(point[k] / costs[k], 4) for k in costs},
                        }
                    )
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """What each group keeps, and how memory and accuracy move along the chosen path."""
    base = alt.Chart(rows)
    path = base.transform_filter(
        (alt.datum.coupled == chosen["coupled"])
        & (alt.datum.saving == chosen["saving"])
        & (alt.datum.alpha == chosen["alpha"])
    )
    here = path.transform_filter(alt.datum.mark == chosen["mark"])
    colour = alt.value(style.css("fisher"))
    flat = here.transform_flatten(["place", "left", "units"])
    place = alt.X("place:N", sort=list(PLACES.values()), title=None, axis=alt.Axis(labelAngle=-35))
    bars = flat.mark_bar().encode(
        x=place,
        y=alt.Y("left:Q", title="units kept", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(format="%")),
        color=colour,
    )  # fmt: skip
    # on a phone there is no room over a bar for "13 of 16"
    short = flat.transform_calculate(short="replace(datum.units, ' of ', '/')")
    words = short.mark_text(dy=-7).encode(x=place, y=alt.Y("left:Q"), text="short:N")
    share = alt.X("macs:Q", title="share of the MACs left", axis=alt.Axis(format="%"))
    share = share.scale(domain=[0.2, 0.95], reverse=True, nice=False)

    def along(value: str, title: str, domain: list[float]) -> alt.LayerChart | alt.FacetChart:
        y = alt.Y(f"{value}:Q", title=title, axis=alt.Axis(format="%")).scale(
            domain=domain, nice=False
        )
        faint = alt.value(style.css("oneshot"))
        others = base.mark_line(opacity=0.3, strokeWidth=1).encode(
            x=share, y=y, detail=["coupled:N", "saving:N", "alpha:N"], color=faint
        )
        drawn = path.mark_line().encode(x=share, y=y, color=colour)
        point = here.mark_point(filled=True, size=130, opacity=1).encode(x=share, y=y, color=colour)
        words = here.mark_text(dy=-14, fontWeight="bold").encode(
            x=share, y=y, text=told(value, percent=True), color=colour
        )
        return alt.layer(others, drawn, point, words).properties(height=150, width=300)

    low = float(min(rows.activations.min(), 0.5)) - 0.03
    worst = float(rows.accuracy.min()) - 0.02
    return alt.vconcat(
        alt.layer(bars, words).properties(height=110, width=300),
        along("activations", "activations left", [low, 1.03]),
        along("accuracy", "accuracy, untuned", [worst, 0.97]),
    )


def walk(
    coupled: str, saving: str, alpha: float, mark: float, progress: Callable[..., None]
) -> Figure:
    """Prune dense net 0 here and now with these settings, and draw what is left."""
    c = replace(cell(coupled, saving, alpha), lr=0.0, to=mark)
    task = cells.task_of(c)
    progress(0, 2, "the dense net …")
    dense = dense_net(task, c.seed)
    progress(1, 2, "pruning, one unit after every training step …")
    numbers = cells.along_the_path(dense, task, c, seeded(c.seed, 1))
    progress(2, 2, "done")
    point: dict[str, Any] = numbers["path"][-1]
    costs, sizes = dense_costs()
    left = [point["kept"][g] / sizes[g] for g in PLACES]
    fig, (ax,) = panels(1, height=2.9)
    bars = ax.bar(list(PLACES.values()), left, color=style.series("fisher").light)
    ax.bar_label(bars, [f"{point['kept'][g]} of {sizes[g]}" for g in PLACES])
    ax.set(ylabel="units kept", ylim=(0, 1.15))
    words = (
        f"{len(numbers['removed'])} units went in {point['steps']} training steps; "
        f"{point['macs'] / costs['macs']:.1%} of the MACs and "
        f"{point['activations'] / costs['activations']:.1%} of the activations are left; "
        f"validation accuracy {point['val']:.1%} without tuning"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"The share of units each group keeps. {words}.",
        caption=f"Computed here: {words}.",
        data=pd.DataFrame({"group": list(PLACES), "kept": [point["kept"][g] for g in PLACES]}),
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded paths; live it prunes for real."""
    return Explorer(
        "path",
        controls=[
            Control("coupled", "Prune", tuple(COUPLED), next(iter(COUPLED)), kind="select"),
            Control(
                "saving",
                "Δ counts",
                tuple(SAVING),
                next(iter(SAVING)),
                kind="select",
                idle="With α = 0 nothing divides the scores; "
                "early on the same units go, whatever does.",
            ),
            Control(
                "alpha",
                "Exponent α",
                study.ALPHAS,
                1.0,
                format="{:.1f}".format,
                idle="Early on the same units go, whatever divides their scores.",
            ),
            Control("mark", "MACs left", cells.MARKS, cells.QUARTER, format="{:.0%}".format),
        ],
        grid=grid(recorded),
        chart=chart,
        live=walk,
        slow=True,
        title="What is a channel worth: its score, or its score for what it costs?",
        alt="Three charts: units kept in each of six groups of the residual net; activations left; "
        "and accuracy before tuning, the last two against the share of MACs left.",
        caption="Move α from 1 to 0 and see which groups pay, and what happens to the memory. Then "
        "leave coupled channels alone and look at the streams. "
        "Dense net 0, pruned while it trains, nothing tuned; accuracy on validation images. "
        "Grey: all other settings.",
        table_columns={
            "coupled": "pruned",
            "saving": "Δ counts",
            "alpha": "α",
            "mark": "mark",
            "macs": "MACs left",
            "activations": "activations left",
            "params": "parameters left",
            "accuracy": "accuracy",
        },
    )
