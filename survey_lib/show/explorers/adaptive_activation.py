"""The explorer of *Adaptive activation*: policy × limit × first step → the trace, and the net."""

from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.adaptive_activation import cells, study
from survey_lib.experiments.adaptive_activation.cells import Cell
from survey_lib.methods.adaptive_activation.rounds import Start, smallest
from survey_lib.methods.adaptive_activation.training import plan, trained
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels
from survey_lib.tasks.dense import seeded

POLICIES = {"accuracy": "accuracy", "memory": "parameters", "macs": "operations"}
"""Policy → what a reader calls it."""
KEY = "adaptive_activation"
LAYERS = ("first", "second", "third")
SEED = 0
NUMBERS = ("threshold", "reduction", "val", "size")


def points_words(limit: float) -> str:
    """A limit on accuracy as a reader sees it."""
    return f"{limit:g} point{'' if limit == 1 else 's'}"


def share_words(share: float) -> str:
    """A share as a reader sees it."""
    return f"{100 * share:.0f} %"


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded runs in rows, one for each setting of the controls and each round.

    A policy has one of the two limits; its runs stand at all values of the other.
    """
    rows: list[dict[str, Any]] = []
    wanted = set(study.explored())
    for record in recorded:
        cell = Cell(**record.config)
        if cell not in wanted:
            continue
        other = study.EXPLORED_KEEPS if cell.policy == "accuracy" else study.EXPLORED_LIMITS
        for idle in other:
            accuracy = cell.policy == "accuracy"
            setting = {
                "policy": POLICIES[cell.policy],
                "limit": cell.target if accuracy else idle,
                "keep": idle if accuracy else cell.keep,
                "first": cell.first,
            }
            for r in record.numbers["rounds"]:
                rows.append(setting | {"round": r["number"], "good": r["good"],
                    "held": "yes" if r["good"] else "no", "left": " ".join(map(str, r["left"])),
                    "ended": r["number"] == record.numbers["ended"],
                    "test": record.numbers["test"]}
                    | {k: float(f"{r[k]:.4g}") for k in NUMBERS})  # fmt: skip
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """The threshold and what it costs round by round, and the filters that are left."""
    here = alt.datum.policy == chosen["policy"]
    for field in ("limit", "keep", "first"):
        here &= alt.datum[field] == chosen[field]
    own = alt.Chart(rows).transform_filter(here)
    number = alt.X("round:Q", title="round", axis=alt.Axis(tickMinStep=1, format="d"))
    colour = alt.condition("datum.good", alt.value(style.css(KEY)), alt.value(style.MUTED))
    shape = alt.Shape("good:N", legend=None).scale(domain=[True, False], range=["circle", "cross"])

    def along(field: str, title: str, form: str, zero: bool) -> Any:
        y = alt.Y(f"{field}:Q", title=title, axis=alt.Axis(format=form)).scale(zero=zero)
        line = own.mark_line(strokeDash=[4, 3], color=style.MUTED).encode(x=number, y=y)
        marks = own.mark_point(filled=True, size=90, opacity=1).encode(
            x=number, y=y, color=colour, shape=shape
        )
        return alt.layer(line, marks)

    ended = own.transform_filter("datum.ended")
    label = ended.mark_text(dy=-14, fontWeight="bold", color=style.css(KEY)).encode(
        x=number, y="size:Q", text=told("size", percent=True)
    )
    bars = (
        ended.transform_calculate(p="split(datum.left, ' ')")
        .transform_flatten(["p"])
        .transform_window(n="row_number()")
        .transform_calculate(filters="toNumber(datum.p)", layer=f"{list(LAYERS)!r}[datum.n - 1]")
        .mark_bar(height=12, color=style.css(KEY))
        .encode(
            x=alt.X("filters:Q", title="filters left").scale(domain=[0, 64]),
            y=alt.Y("layer:N", title=None, sort=list(LAYERS)),
        )
    )
    return alt.vconcat(
        along("threshold", "threshold T", "~g", True).properties(height=120),
        along("val", "validation accuracy", ".1%", False).properties(height=120),
        alt.layer(along("size", "share left", ".0%", True), label).properties(height=120),
        bars.properties(height=60),
    )


def search(
    policy: str, limit: float, keep: float, first: float, progress: Callable[..., None],
    profile: str = "quick",
) -> Figure:  # fmt: skip
    """Train a dense net, go through the rounds, and draw their trace."""
    name = next(k for k, words in POLICIES.items() if words == policy)
    knobs = {"target": limit} if name == "accuracy" else {"keep": keep}
    cell = study.cell("adaptive", SEED, policy=name, first=first, **knobs)
    if profile == "smoke":
        cell = study.cell(
            "adaptive", SEED, policy=name, first=first, epochs=0.5, rounds=2, images=64, **knobs
        )
    task = cells.task_of(cell)
    progress(0, cell.rounds + 1, "training the dense net …")
    generator = seeded(SEED)
    net = task.build(generator)
    at = plan(task, task.training, cells.K, 1).k
    early, _ = trained(net, task, task.training, at, generator=generator)
    found = []
    for r in cells.search(cell, Start(net, early), task, seeded(SEED, 1)):
        found.append(r)
        progress(min(len(found), cell.rounds), cell.rounds + 1, f"round {r.number} …")
    best = smallest(found)
    rows = pd.DataFrame([cells.row(r) for r in found])
    fig, axes = panels(2, height=2.9, sharey=False)
    for ax, field, title in zip(
        axes, ("threshold", "size"), ("threshold T", "share left"), strict=True
    ):
        ax.plot(rows.number, rows[field], linestyle="--", color=style.MUTED)
        for good, marker in ((True, "o"), (False, "x")):
            some = rows[rows.good == good]
            colour = style.line(KEY)["color"] if good else style.MUTED
            ax.plot(some.number, some[field], linestyle="none", marker=marker, color=colour)
        ax.set(xlabel="round", ylabel=title)
    words = (
        f"{len(found) - 1} rounds end with {100 * best.size:.0f} % and "
        f"{100 * best.val:.1f} % validation accuracy"
    )
    return figure(
        fig,
        "explorer_live",
        alt=f"Threshold and share left, round by round: {words}.",
        caption=f"Searched here: {words}. Crosses: rounds that broke the limit.",
        data=rows.drop(columns="left"),
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded grid; live it searches for real."""
    return Explorer(
        "limits",
        controls=[
            Control("policy", "Limit on", tuple(POLICIES.values()), "accuracy", "select"),
            Control("limit", "Accuracy that may be lost", study.EXPLORED_LIMITS, 1.0,
                    format=points_words, idle="The limit is a size now."),
            Control("keep", "Share that may stay", study.EXPLORED_KEEPS, 0.5, format=share_words,
                    idle="The limit is an accuracy now."),
            Control("first", "Filters below the first threshold", study.EXPLORED_STEPS, 0.1,
                    format=share_words),
        ],
        grid=grid(recorded),
        chart=chart,
        live=search,
        slow=True,
        title="Name a limit: where does the threshold end?",
        alt="Four charts over the rounds of one search: the threshold, validation accuracy and the "
        "share of parameters or operations that is left, with circles for rounds that kept the "
        "limit and crosses for rounds that were taken back; and the filters left in each of three "
        "layers at the end.",
        caption="Loosen the limit, or make the first step larger, and watch where the search "
        "oversteps. Recorded runs of replicate 0. Circles: the limit held; crosses: the round was "
        "taken back. A size that is overstepped is known before anything is trained.",
        table_columns={
            "policy": "limit on", "limit": "points that may be lost", "keep": "share that may stay",
            "first": "share below the first threshold", "round": "round", "threshold": "threshold",
            "val": "validation accuracy", "size": "share left", "held": "limit kept",
            "left": "filters left",
        },
    )  # fmt: skip
