"""The explorer of *Rethinking pruning*: way to prune × size × budget → what a training buys."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import altair as alt
import pandas as pd

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.context import Context
from survey_lib.experiments.rethinking import cells, study
from survey_lib.measure.macs import count_macs
from survey_lib.methods.rethinking import method
from survey_lib.methods.sharing import for_steps
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, by_method, told
from survey_lib.show.markup import Html
from survey_lib.show.tables import table
from survey_lib.tasks.train import evaluate, recalibrate, total_steps, training

WAYS = {
    "ℓ1 norm of filters": "l1",
    "ThiNet": "thinet",
    "regression": "regression",
    "network slimming": "slimming",
    "whole branches": "structures",
    "single weights": "magnitude",
}
"""What a reader chooses → a way to prune."""
SIZES = {"large": 0, "medium": 1, "small": 2}
"""What a reader chooses → which of three shares is kept."""
BUDGETS = (0.25, 0.5, 0.75, 1.0, 1.25)
"""Trainings of the dense net, in MACs."""
ARMS = {
    "dense": "dense",
    "constant": "magnitude",
    "falling": "magnitude",
    "Scratch-E": "scratch",
    "Scratch-B": "scratch",
}
"""Net of the chart → series of the style."""
LIVE = {"quick": 2.0, "smoke": 0.1}
"""Epochs that stand for E when something is trained in a live kernel."""


def _nets(recorded: Sequence[Record], name: str, keep: float) -> dict[str, list[Record]]:
    """Net of the chart → its runs, one a seed."""
    found: dict[str, list[Record]] = {arm: [] for arm in ARMS}
    beside = {"e": "Scratch-E", "b": "Scratch-B"}
    for r in recorded:
        c = r.config
        if c["net"] != study.of(name) or (c["arm"] != "dense" and c["keep"] != keep):
            continue
        if c["arm"] == "dense":
            found["dense"].append(r)
        elif (c["arm"], c["method"]) == ("tuned", name):
            found[c["how"]].append(r)
        elif (c["arm"], c["method"]) == ("scratch", study.family(name)):
            found[beside[c["how"]]].append(r)
    return found


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded nets by way, size and budget: mean accuracy, its interval, what the net cost."""
    rows = []
    for way, name in WAYS.items():
        for size, at in SIZES.items():
            keep = study.shares(name)[at]
            for arm, runs in _nets(recorded, name, keep).items():
                interval = t_interval([r.numbers["test_re"] for r in runs])
                spent = sum(r.numbers.get("spent", 1.0) for r in runs) / len(runs)
                cost = spent + (arm in ("constant", "falling"))  # the dense net's training, too
                first = min(runs, key=lambda r: r.seed).numbers
                row = {"way": way, "size": size, "keep": keep, "net": arm, "seeds": len(runs),
                       "macs": first["macs_nonzero"],
                       "accuracy": round(interval.mean, 5), "low": round(interval.low, 5),
                       "high": round(interval.high, 5), "cost": round(cost, 4)}  # fmt: skip
                rows += [row | {"budget": b, "paid": row["cost"] <= b + 1e-3} for b in BUDGETS]
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """Accuracy of five nets with intervals, and what each cost beside the budget."""
    here = alt.Chart(rows)
    for field in ("way", "size", "budget"):
        here = here.transform_filter(alt.datum[field] == chosen[field])
    y = alt.Y("net:N", title=None, sort=list(ARMS))
    colour = by_method("net", ARMS)
    strength = alt.condition("datum.paid", alt.value(1), alt.value(0.4))
    x = alt.X(
        "accuracy:Q",
        title="test accuracy, 95 % interval",
        scale=alt.Scale(zero=False, padding=28),
        axis=alt.Axis(format=".1%", tickCount=4),
    )
    whisker = here.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q"), x2="high:Q", y=y, color=colour, opacity=strength
    )
    dot = here.mark_point(filled=True, size=110).encode(x=x, y=y, color=colour, opacity=strength)
    number = here.mark_text(align="left", dx=9, dy=-8, fontWeight="bold").encode(
        x=x, y=y, text=told("accuracy", percent=True), opacity=strength
    )
    cost = alt.X(
        "cost:Q",
        title="cost in trainings of the dense net (MACs)",
        scale=alt.Scale(domain=[0, 1.4], nice=False),
        axis=alt.Axis(format="~g", tickCount=5),
    )
    bars = here.mark_bar(height=12).encode(x=cost, y=y, color=colour, opacity=strength)
    limit = here.mark_rule(strokeDash=[4, 3], color=style.css("dense")).encode(x="budget:Q")
    return alt.vconcat(
        alt.layer(whisker, dot, number).properties(height=150, width=300),
        alt.layer(bars, limit).properties(height=120, width=300),
    )


def train(
    way: str, size: str, budget: float, progress: Callable[..., None], profile: str = "quick"
) -> Html:
    """Train the chosen shape from random weights here and now, for as long as the budget lasts.

    The dense net, where the shape is found by it, is trained first. An epoch stands for four, so
    that a minute is enough.
    """
    name = WAYS[way]
    cell = study.scratch(study.family(name), 0, study.shares(name)[SIZES[size]], "e")
    cell = replace(cell, epochs=LIVE[profile])
    task = cells.task_of(cell)
    progress(0, 1, "finding the shape …")
    net, masks = cells.fresh_shape(
        Context("rethinking", cell, runner.artefact_digest("rethinking")), task
    )
    masked = method.under_masks(net, masks) if masks else None
    whole = count_macs(task.build(cells.seeded(0)), task.example(1))
    cost = cells.cost(net, masks, task)
    steps = max(1, int(budget * total_steps(task) * whole / cost))
    if masks:
        steps = min(steps, int(cells.CAP * total_steps(task)))
    recipe = for_steps(task, replace(task.training, lr=cell.lr), steps)
    for step in training(net, task, recipe, generator=cells.seeded(0, 2)):
        if masked:
            masked.mask_gradients()
        step.move()
        if masked:
            masked.apply()
        progress(step.number + 1, steps, f"{step.number + 1} of {steps} steps …")
    recalibrate(net, task.train)
    row = {
        "shape": f"{way}, {size}",
        "steps": steps,
        "cost in dense trainings": steps * cost / (total_steps(task) * whole),
        "test accuracy": 100 * evaluate(net, task.test, task)["accuracy"],
    }
    return table(
        pd.DataFrame([row]),
        caption=f"Trained here from random weights, with E = {cell.epochs:g} epochs. "
        f"The recorded nets have E = {cells.EPOCHS:g}.",
        units={"test accuracy": "%"},
        decimals={"cost in dense trainings": 2, "test accuracy": 1},
    )


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the study; live it trains the chosen shape from random weights."""
    return Explorer(
        "what_a_training_buys",
        controls=[
            Control("way", "Pruned by", tuple(WAYS), next(iter(WAYS)), kind="select"),
            Control("size", "What is left is", tuple(SIZES), "medium"),
            Control(
                "budget",
                "Budget",
                BUDGETS,
                1.0,
                format=lambda b: f"{b:g} dense training{'' if b == 1 else 's'}",
            ),
        ],
        grid=grid(recorded),
        chart=chart,
        live=partial(train, profile=profile),
        slow=True,
        title="What does a training buy?",
        alt="Two charts over five nets: the dense one, the pruned one tuned at a constant and at a "
        "falling rate, Scratch-E and Scratch-B. First their test accuracy with intervals, then "
        "what each cost, beside the budget.",
        caption="Lower the budget and see which nets it still pays for: the others fade. Constant "
        "and falling are the pruned net, tuned at such a rate; they cost the dense net's training "
        "first. A shape that pruning had to find costs it in truth as well, which the paper's "
        "account leaves out. Under masks only non-zero weights are counted, as if a kernel could "
        "skip the others, and Scratch-B has at most twice the epochs. Dots: mean over seeds; "
        f"lines: 95 % t interval; {study.FEW} to {study.SEEDS} seeds.",
        table_columns={
            "way": "pruned by", "keep": "kept", "net": "net", "accuracy": "accuracy",
            "low": "from", "high": "to", "macs": "MACs, first seed", "cost": "cost",
            "seeds": "seeds",
        },
    )  # fmt: skip
