"""The explorer of *A closer look*: what ranks the channels × how many are gone → shape, costs."""

from collections.abc import Callable, Sequence

import altair as alt
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.closer_look import cells, study
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, by_method, told
from survey_lib.show.figure import Figure, figure, panels
from survey_lib.tasks.dense import shipped_net
from survey_lib.tasks.task import load_task

RANKS = {
    "Fisher signal Δ": ("fisher", 0.0),
    "Δ less β δC, β = 0.1": ("fisher", 0.1),
    "Δ less β δC, β = 1": ("fisher", 1.0),
    "ℓ1 norm of the filter": ("l1", 0.0),
    "signed sum (published code)": ("l1_signed", 0.0),
    "random": ("random", 0.0),
}
"""What a reader chooses → criterion and β."""
COLOURS = {
    name: "magnitude" if criterion.startswith("l1") else criterion
    for name, (criterion, _) in RANKS.items()
}
"""What a reader chooses → series of the style."""


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded stops of the shipped net's long runs, one row each."""
    names = {what: name for name, what in RANKS.items()}
    rows = []
    for record in recorded:
        if record.config["arm"] != "explore":
            continue
        n = record.numbers
        for step in n["steps"]:
            rows.append(
                {
                    "rank": names[record.config["criterion"], record.config["beta"]],
                    "removed": step["removed"],
                    "block": [f"block {i}" for i in range(1, len(step["kept"]) + 1)],
                    "kept": step["kept"],
                    "of": list(n["groups"].values()),
                    "score": step["score"],
                    "macs": round(step["macs"] / n["macs_dense"], 4),
                    "parameters": round(step["parameters"] / n["parameters_dense"], 4),
                    "accuracy": step["val_re"],
                    "stale": step["val"],
                }
            )
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """Channels left in each block, accuracy and costs along the run, the score that went last.

    Accuracy is drawn twice: with the statistics of batch norm re-estimated, and, faint, as it is.
    """
    run = alt.Chart(rows).transform_filter(alt.datum["rank"] == chosen["rank"])
    here = run.transform_filter(alt.datum.removed == chosen["removed"])
    colour = by_method("rank", COLOURS)
    blocks = here.transform_flatten(["block", "kept", "of"])
    y = alt.Y("block:N", title=None)
    whole = blocks.mark_bar(fillOpacity=0, strokeWidth=1, stroke=style.css("dense")).encode(
        x=alt.X("of:Q", title="channels left inside the block"), y=y
    )
    left = blocks.mark_bar().encode(x="kept:Q", y=y, color=colour)
    number = blocks.mark_text(align="left", dx=5, fontWeight="bold").encode(
        x="of:Q", y=y, text=told("kept")
    )
    x = alt.X("removed:Q", title="channels removed", scale=alt.Scale(nice=False))
    last = int(rows.removed.max())

    def along(
        value: str, title: str, scale: alt.Scale, *, percent: bool = True, also: tuple = ()
    ) -> alt.LayerChart | alt.FacetChart:
        axis = alt.Axis(format=".0%" if percent else "~g", tickCount=5)
        y = alt.Y(f"{value}:Q", title=title, axis=axis, scale=scale)
        line = run.mark_line().encode(x=x, y=y, color=colour)
        at = here.encode(x=x, y=y, color=colour)
        faint = [
            run.mark_line(strokeDash=[3, 3], strokeWidth=1, opacity=0.7).encode(
                x=x, y=alt.Y(f"{other}:Q", title=title, axis=axis, scale=scale), color=colour
            )
            for other in also
        ]
        return alt.layer(
            *faint,
            line,
            at.mark_point(filled=True, size=130, opacity=1),
            # at the ends a centred number would lie on the axis's own, or beyond the chart
            at.mark_text(
                dy=-15,
                fontWeight="bold",
                align={
                    "expr": f"datum.removed < {0.1 * last} ? 'left' : "
                    f"datum.removed > {0.9 * last} ? 'right' : 'center'"
                },
            ).encode(text=told(value, percent=percent)),
        )

    share = alt.Scale(domain=[0, 1.12], nice=False)
    return alt.vconcat(
        alt.layer(whole, left, number).properties(height=90, width=300),
        along("accuracy", "validation accuracy", share, also=("stale",)).properties(
            height=130, width=300
        ),
        along("macs", "share of MACs left", share).properties(height=130, width=300),
        along("score", "score of the last to go", alt.Scale(zero=True), percent=False).properties(
            height=110, width=300
        ),
    )


def remove(rank: str, removed: int, progress: Callable[..., None]) -> Figure:
    """Run the shipped net's long run here and now, up to so many removals, and draw its end."""
    cell = next(c for c in study.explored() if (c.criterion, c.beta) == RANKS[rank])
    net, task = shipped_net("resnet_small"), load_task("resnet_small")

    def note(n: int) -> None:
        progress(n, max(1, removed), f"{n} of {removed} channels are gone …")

    found = cells.walked(net, task, cell, total=removed, note=note)
    last = found["steps"][-1]
    fig, (left, right) = panels(2, height=2.8, sharey=False)
    names = [f"block {i}" for i in range(1, len(last["kept"]) + 1)]
    sizes = list(found["groups"].values())
    look = style.series("fisher").light
    left.barh(names, sizes, fill=False, edgecolor=style.INK)
    left.barh(names, last["kept"], color=look)
    left.invert_yaxis()
    left.set(xlabel="channels left inside the block")
    right.plot(range(1, removed + 1), [score for *_, score in found["order"]], color=look)
    right.set(xlabel="channels removed", ylabel="score of the channel that went")
    words = (
        f"{removed} channels are gone; left are {last['macs'] / found['macs_dense']:.0%} of the "
        f"MACs and {last['parameters'] / found['parameters_dense']:.0%} of the parameters; "
        f"validation accuracy {last['val_re']:.1%} with statistics re-estimated, {last['val']:.1%} "
        "as it is"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"Channels left in each block, and the scores of those that went. {words}.",
        caption=f"Computed here: {words}.",
        data=pd.DataFrame({"block": names, "channels": sizes, "kept": last["kept"]}),
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded long runs; live it prunes the shipped net for real."""
    rows = grid(recorded)
    shared = set.intersection(*(set(r.removed) for _, r in rows.groupby("rank")))
    stops = sorted(shared - {0})  # before the first removal there is no last score
    return Explorer(
        "channel_by_channel",
        controls=[
            Control(
                "rank", "The smallest goes, by", tuple(RANKS), next(iter(RANKS)), kind="select"
            ),
            Control("removed", "Channels removed", tuple(stops), stops[3 * len(stops) // 4]),
        ],
        grid=rows,
        chart=chart,
        live=remove,
        slow=True,
        title="Whom does it hurt, channel by channel?",
        alt="Four charts along one long run: channels left in each of three blocks, validation "
        "accuracy with and without statistics re-estimated, the share of MACs left, and the score "
        "of the last channel that went.",
        caption="Compare Δ with the ℓ1 norm at the same number of channels: they empty different "
        "blocks. Dashed is the accuracy of the same nets before their batch norms were estimated "
        "anew; no weight lies between the two lines. "
        f"The shipped residual net, {study.EXPLORER_INTERVAL} training steps between removals, "
        f"{cells.INTERVAL} in the experiment.",
        table_columns={
            "rank": "ranked by",
            "removed": "channels removed",
            "score": "last score",
            "parameters": "parameters left",
            "macs": "MACs left",
            "accuracy": "accuracy, re-estimated",
            "stale": "accuracy as it is",
        },
    )
