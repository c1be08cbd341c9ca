"""The explorer of *Revisiting Loss Modelling*: criterion × steps × penalty along the path."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.loss_modelling import cells, study
from survey_lib.methods import loss_modelling as method
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, by_method, told
from survey_lib.show.figure import Figure, figure, keep_axis, label_ends, panels
from survey_lib.tasks.dense import dense_net

NAMES = {"LM": "linear model (LM)", "QM": "quadratic model (QM)", "OBD": "optimal brain damage"}
LAYERS = {"1.weight": "784 → 300", "3.weight": "300 → 100", "5.weight": "100 → 10"}
CURVES = ("true", "predicted")
SERIES = {"LM": "loss_models", "QM": "loss_models", "OBD": "obd"}
COLOURS = {NAMES[short]: key for short, key in SERIES.items()}
"""Model of the loss → series of the style."""
SEED = 0


def penalty_words(lam: float) -> str:
    """λ as a reader sees it."""
    return "none" if lam == 0 else f"{lam:g}"


def path(numbers: dict[str, Any]) -> pd.DataFrame:
    """The rise of the loss over a pruning: ``x`` is the fraction kept, one row a curve."""
    found = numbers["path"]
    kept = 1 - np.array(found["sparsity"])
    rows = [
        {"x": round(float(k), 5), "y": round(value - found["loss"][0], 4), "curve": curve}
        for curve, values in (("true", found["loss"]), ("predicted", found["predicted"]))
        for k, value in zip(kept, values, strict=True)
    ]
    return pd.DataFrame(rows)


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded runs in rows: ``part`` is ``path`` (x, y, curve) or ``layer`` (x weights left)."""
    rows = []
    for record in recorded:
        config, numbers = record.config, record.numbers
        plain = (config["family"], record.seed, config["longer"]) == ("mlp", SEED, 1.0)
        if not plain or config["arm"] not in NAMES or config["lam"] not in study.EXPLORED:
            continue
        shared = {
            "criterion": NAMES[config["arm"]],
            "pi": config["pi"],
            "lam": config["lam"],
            "rise": round(numbers["rise"], 3),
            "accuracy": numbers["test"],
        }
        rows += [shared | {"part": "path"} | p for p in path(numbers).to_dict("records")]
        for name, (_, kept) in numbers["layers"].items():
            rows.append(shared | {"part": "layer", "curve": LAYERS[name], "x": kept, "y": 0})
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """The path of the chosen run, its layers, and where it lies among all."""
    here = alt.datum.part != ""
    for field, parameter in chosen.items():
        here = here & (alt.datum[field] == parameter)
    base, model = alt.Chart(rows), by_method("criterion", COLOURS)
    paths = rows[rows.part == "path"]
    left = float(paths.x.min())
    kept = alt.X(
        "x:Q",
        title="fraction of weights kept",
        axis=alt.Axis(format=".0%", values=[1, 0.3, 0.1, 0.03, 0.012]),
    ).scale(type="log", domain=[left * 0.97, 1], nice=False, reverse=True)
    # the legend shows the dashes alone, so that it stays as it is when the model changes
    colour = alt.condition("datum.curve == 'true'", alt.value(style.css("dense")), model)
    along = (
        base.transform_filter((alt.datum.part == "path") & here)
        .mark_line()
        .encode(
            x=kept,
            y=alt.Y("y:Q", title="rise of the loss (nats)").scale(
                domain=[min(0.0, float(paths.y.min())), float(paths.y.max())]
            ),
            color=colour,
            strokeDash=alt.StrokeDash("curve:N", title=None).scale(
                domain=list(CURVES), range=[[1, 0], [5, 4]]
            ),
        )
    )
    layers = base.transform_filter((alt.datum.part == "layer") & here)
    widest = float(rows[rows.part == "layer"].x.max())
    bars = layers.mark_bar(height=14).encode(
        x=alt.X("x:Q", title="weights left in the layer").scale(domain=[0, widest]),
        y=alt.Y("curve:N", title=None, sort=list(LAYERS.values())),
        color=model,
    )
    runs = base.transform_filter(
        (alt.datum.part == "layer") & (alt.datum.curve == LAYERS["5.weight"])
    ).encode(
        x=alt.X("rise:Q", title="rise of the loss before tuning (nats)").scale(zero=False),
        y=alt.Y("accuracy:Q", title="accuracy after tuning", axis=alt.Axis(format=".0%")).scale(
            zero=False
        ),
    )
    cloud = runs.mark_point(opacity=0.5, size=28).encode(color=alt.value(style.css("oneshot")))
    point = runs.transform_filter(here).mark_point(filled=True, size=130, opacity=1)
    label = runs.transform_filter(here).mark_text(dy=-14, fontWeight="bold")
    return alt.vconcat(
        along.properties(height=190, width=245),
        bars.properties(height=80, width=245),
        alt.layer(
            cloud,
            point.encode(color=model),
            label.encode(text=told("accuracy", percent=True), color=model),
        ).properties(height=150, width=245),
    )


def prune(criterion: str, pi: int, lam: float, progress: Callable[..., None]) -> Figure:
    """Prune dense net 0 at these settings, without tuning, and draw what came out."""
    short = next(k for k, name in NAMES.items() if name == criterion)
    task = cells.task_of("mlp")
    net = copy.deepcopy(dense_net(task, SEED))
    seen, _ = cells.images_of(task, SEED)
    progress(0, 1, "pruning …")
    config = method.Config(short, pi, lam)
    masks, found = method.prune(net, task, seen, cells.FAMILIES["mlp"].kappa, config)
    progress(1, 1, "done")
    steps = path({"path": found})
    fig, axes = panels(2, height=2.8, sharey=False)
    true, predicted = (steps[steps.curve == curve] for curve in CURVES)
    marker = "o" if pi <= 14 else ""
    axes[0].plot(true.x, true.y, **style.line("dense", marker=marker, linestyle="-", label="true"))
    axes[0].plot(
        predicted.x, predicted.y,
        **style.line(SERIES[short], marker=marker, linestyle="--", label="predicted"),
    )  # fmt: skip
    axes[0].set(ylabel="rise of the loss (nats)")
    keep_axis(axes[0], [1, 0.1, 0.012])
    label_ends(axes[0])
    kept = {LAYERS[name]: int(mask.sum()) for name, mask in masks.items()}
    axes[1].barh(list(kept), list(kept.values()), color=style.series(SERIES[short]).light)
    axes[1].invert_yaxis()
    axes[1].set(xlabel="weights left in the layer")
    words = f"the loss rises by {true.y.iloc[-1]:.2f} nats, predicted {predicted.y.iloc[-1]:.2f}"
    return figure(
        fig,
        "explorer_live",
        alt=f"True and predicted rise of the loss, and weights left per layer: {words}.",
        caption=f"Pruned here: {words}.",
        data=steps,
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded grid; live it prunes for real, without tuning."""
    return Explorer(
        "locality",
        controls=[
            Control("criterion", "Model of the loss", tuple(NAMES.values()), NAMES["LM"], "select"),
            Control("pi", "Steps π", study.STEPS, 1),
            Control("lam", "Penalty λ", study.EXPLORED, 0.0, format=penalty_words),
        ],
        grid=grid(recorded),
        chart=chart,
        live=prune,
        slow=True,
        title="How far can you trust the model?",
        alt="Three charts: the true and the predicted rise of the loss along the pruning, the "
        "weights left in each layer, and the rise of the loss against the accuracy after tuning "
        "for all recorded runs with the chosen one marked.",
        caption="Start with one step, then take more. Recorded runs of the fully connected net, "
        "seed 0, pruned to 1.15 % of its weights; the predicted rise adds up what the model "
        "expected at each step. Faint points are all recorded settings.",
        table_columns={
            "criterion": "model of the loss", "pi": "steps", "lam": "penalty",
            "rise": "rise of the loss", "accuracy": "accuracy after tuning",
        },
    )  # fmt: skip
