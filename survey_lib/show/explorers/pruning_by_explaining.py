"""The explorer of *Pruning by explaining*: criterion × reference images × share that is gone."""

import json
from collections.abc import Callable, Sequence
from functools import partial

import altair as alt
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.pruning_by_explaining import cells, study
from survey_lib.experiments.pruning_by_explaining.cells import LEVELS, Cell
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, by_method, told
from survey_lib.show.figure import Figure, figure, panels
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.train import evaluate

NAMES = {"lrp": "relevance", "weight": "weight size", "taylor": "Taylor",
         "taylor_each": "Taylor by image", "gradient": "gradient"}  # fmt: skip
SERIES = {"lrp": "lrp", "weight": "magnitude", "taylor": "loss_models",
          "taylor_each": "loss_models", "gradient": "oneshot"}  # fmt: skip
COLOURS = {NAMES[arm]: key for arm, key in SERIES.items()}
"""Criterion → series of the style."""
AS_IT_IS, ANEW = "as it is", "statistics anew"
SEED, SIDE = 0, 28
"""Replicate, and pixels a side of a picture."""


def share_words(gone: float) -> str:
    """A share of the filters as a reader sees it."""
    return "none" if gone == 0 else f"{100 * gone:.0f} %"


def layer_words(name: str) -> str:
    """A group's name without what all share."""
    return name.removeprefix("stages.").replace(".0.", " ").replace("stem.0", "stem")


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded runs in rows, one for each criterion, images and share.

    ``y`` is the accuracy as it is, ``anew`` that with statistics from the few images, ``left`` the
    filters of each layer and ``picture`` the heat map, both as text.
    """
    rows = []
    for record in recorded:
        cell = Cell(**record.config)
        if cell != Cell(cell.arm, SEED, images=cell.images) or cell.arm not in NAMES:
            continue
        numbers = record.numbers
        for i, gone in enumerate(study.MARKS[: len(numbers["test_at"])]):
            shared = {"criterion": NAMES[cell.arm], "images": cell.images, "gone": gone}
            run = {"y": numbers["test_at"][i], "anew": numbers["few_at"][i]}
            left = " ".join(map(str, numbers["kept"][i].values()))
            rows.append(shared | run | {"left": left, "picture": numbers["pictures"][i]})
    return pd.DataFrame(rows)


def layers_of(recorded: Sequence[Record]) -> list[str]:
    """Names of the layers whose filters the explorer counts, in the order of ``left``."""
    record = next(r for r in recorded if Cell(**r.config) == Cell("lrp", SEED))
    return [layer_words(name) for name in record.numbers["kept"][0]]


def chart(
    rows: pd.DataFrame, chosen: dict[str, alt.Parameter], layers: Sequence[str]
) -> alt.VConcatChart:
    """Accuracy along the pruning, filters left in each layer, and what the net looks at."""
    run = (alt.datum.criterion == chosen["criterion"]) & (alt.datum.images == chosen["images"])
    here = run & (alt.datum.gone == chosen["gone"])
    base, model = alt.Chart(rows), by_method("criterion", COLOURS)
    share = alt.X("gone:Q", title="share of the filters gone", axis=alt.Axis(format=".0%"))
    level = alt.Y("y:Q", title="test accuracy", axis=alt.Axis(format=".0%")).scale(domain=[0.25, 1])
    anew = alt.Y("anew:Q", title="test accuracy").scale(domain=[0.25, 1])
    along, now = base.transform_filter(run), base.transform_filter(here)
    curves = alt.layer(
        along.mark_line(strokeDash=[5, 4]).encode(x=share, y=level, color=model),
        along.mark_line().encode(x=share, y=anew, color=model),
        now.mark_point(filled=True, size=90, opacity=1).encode(x=share, y=anew, color=model),
        now.mark_text(dy=-13, fontWeight="bold").encode(
            x=share, y=anew, text=told("anew", percent=True), color=model
        ),
    )
    widest = max(int(n) for left in rows.left for n in left.split())
    bars = (
        now.transform_calculate(p="split(datum.left, ' ')")
        .transform_flatten(["p"])
        .transform_window(n="row_number()")
        .transform_calculate(
            filters="toNumber(datum.p)", layer=f"{json.dumps(list(layers))}[datum.n - 1]"
        )
        .mark_bar(height=10)
        .encode(
            x=alt.X("filters:Q", title="filters left").scale(domain=[0, widest]),
            y=alt.Y("layer:N", title=None, sort=list(layers)),
            color=model,
        )
    )
    size = 196
    pixels = (
        now.transform_calculate(p="split(datum.picture, '')")
        .transform_flatten(["p"])
        .transform_window(n="row_number()")
        .transform_calculate(
            value=f"indexof('{LEVELS}', datum.p) - 9",
            depth="abs(datum.value)",
            column=f"(datum.n - 1) % {SIDE}",
            row=f"floor((datum.n - 1) / {SIDE})",
        )
        .mark_square(size=(size / SIDE) ** 2)
        .encode(
            x=alt.X("column:Q", axis=None).scale(domain=[-0.5, SIDE - 0.5], nice=False),
            y=alt.Y("row:Q", axis=None).scale(domain=[SIDE - 0.5, -0.5], nice=False),
            opacity=alt.Opacity("depth:Q", legend=None).scale(domain=[0, 9], range=[0, 1]),
            color=alt.condition(
                "datum.value < 0",
                alt.value(style.css("magnitude")),
                alt.value(style.css("lrp")),
            ),
        )
    )
    return alt.vconcat(
        curves.properties(height=170, width=245),
        bars.properties(height=13 * len(layers), width=215),
        pixels.properties(
            height=size, width=size, name="picture", title="what one image is recognised by"
        ),
    )


def prune(criterion: str, images: int, gone: float, progress: Callable[..., None]) -> Figure:
    """Prune dense net 0 at these settings and draw what came out."""
    arm = next(k for k, name in NAMES.items() if name == criterion)
    cell = Cell(arm, SEED, images=images)
    net, task, few = cells.start_net(cell)
    wanted = round(gone / cells.STEP)
    stop, shares, accuracies = None, [0.0], [evaluate(cells.again(net, few), task.test, task)]
    for number, stop in enumerate(cells.rounds(cell, net, task, few, seeded(SEED)), 1):
        if number > wanted:
            break
        progress(number, wanted, "pruning …")
        shares.append(number * cells.STEP)
        accuracies.append(evaluate(cells.again(stop.net, few), task.test, task))
        net = stop.net
    values = [a["accuracy"] for a in accuracies]
    drawn = [LEVELS.index(c) - 9 for c in cells.picture(net, task)]
    square = [drawn[i : i + SIDE] for i in range(0, len(drawn), SIDE)]
    fig, axes = panels(2, height=2.8, sharey=False)
    axes[0].plot(shares, values, **style.line(SERIES[arm], label=ANEW))
    axes[0].set(xlabel="share of the filters gone", ylabel="test accuracy", ylim=(0.25, 1))
    axes[1].imshow(square, cmap="PuOr_r", vmin=-9, vmax=9)
    axes[1].set(xticks=[], yticks=[], title="what one image is recognised by")
    words = f"{100 * values[-1]:.1f} % are left with {share_words(gone)} of the filters gone"
    return figure(
        fig,
        "explorer_live",
        alt=f"Accuracy along the pruning, and the heat map of one image: {words}.",
        caption=f"Pruned here by {criterion}, statistics anew: {words}.",
        data=pd.DataFrame({"gone": shares, "accuracy": values}),
    )


def explorer(recorded: Sequence[Record]) -> Explorer:
    """The explorer over the recorded grid; live it prunes for real."""
    return Explorer(
        "few_images",
        controls=[
            Control("criterion", "Criterion", tuple(NAMES.values()), NAMES["lrp"], "select"),
            Control("images", "Images of each class", study.EXPLORED, 10),
            Control("gone", "Filters gone", study.MARKS[1:], 0.3, format=share_words),
        ],
        grid=grid(recorded),
        chart=partial(chart, layers=layers_of(recorded)),
        live=prune,
        slow=True,
        title="What does the net still look at?",
        alt="Three charts: test accuracy along the pruning, as the net is and with batch-norm "
        "statistics from the few images; filters left in each layer; and the heat map of one "
        "test image.",
        caption="Take filters away, and watch the picture. Recorded runs of the residual net of "
        "replicate 0 on three classes, not tuned; dashed: as it is; drawn through: with batch-norm "
        "statistics from the few images. The picture shows the relevance of each pixel for the "
        "true class of one test image; two colours for two signs.",
        table_columns={
            "criterion": "criterion", "images": "images of each class", "gone": "share gone",
            "y": "accuracy as it is", "anew": "accuracy, statistics anew",
            "left": "filters left, layer by layer",
        },
    )  # fmt: skip
