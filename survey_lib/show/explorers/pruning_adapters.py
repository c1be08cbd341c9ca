"""The explorer of *Pruning adapters*: rank × density × criterion → accuracy, learned, bytes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.context import Context
from survey_lib.experiments.pruning_adapters import cells, study
from survey_lib.measure.tuning import break_even
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.pruning_adapters import method
from survey_lib.methods.pruning_adapters.adapter import fuse, learned, task_bytes
from survey_lib.methods.pruning_by_explaining.method import reference
from survey_lib.show.explorer import Control, Explorer, by_method, told
from survey_lib.show.markup import Html
from survey_lib.show.tables import table
from survey_lib.tasks.train import evaluate

CRITERIA = {"weight size": "weight", "gradient": "gradient", "Taylor": "taylor", "relevance": "lrp"}
"""What a reader chooses → a criterion."""
LEARNERS = {"SPLoRA": "splora", "fine-pruning": "fine"}
COLOURS = {"SPLoRA": "adapters", "fine-pruning": "small_dense"}
LOOKS: dict[str, tuple[str, dict[str, str]]] = {
    "fine": ("small_dense", {"label": "fine-pruning"}),
    "splora 16": ("adapters", {"label": "SPLoRA, rank 16", "linestyle": "-", "marker": "s"}),
    "splora 4": ("adapters", {"label": "SPLoRA, rank 4"}),
    "splora 1": ("adapters", {"label": "SPLoRA, rank 1", "linestyle": ":", "marker": "o"}),
    "sppara": ("psp", {"label": "SPPaRA"}),
    "head": ("oneshot", {"label": "batch norm and head"}),
}
"""Learner → series of the style, and what is drawn otherwise, in the page's figures."""
ARMS = {name.split()[0] for name in LOOKS}
"""Arms that are paths."""
SEED = 0
LIVE = {"quick": 1.0, "smoke": 0.05}
"""Share of the study's steps in a live kernel."""
TENTHS = 30
"""Of three decades of tasks, as far as the second chart goes."""


def share_words(density: float) -> str:
    """A share of the filters as a reader sees it."""
    return "all" if density == 1 else f"{100 * density:.0f} %"


def learner_of(config: Mapping[str, Any]) -> str:
    """A key of :data:`LOOKS`, or the arm of a run that is no path."""
    rank = f" {config['rank']}" if config["arm"] == "splora" else ""
    return f"{config['arm']}{rank}"


def own(config: Mapping[str, Any]) -> bool:
    """Whether a run is a path at its learner's own rate, the best along it."""
    images = "" if config["images"] == study.FEW else f", {config['images']}"
    role = learner_of(config) + images
    return config["arm"] in ARMS and config["lr"] == study.RATES.get(role)


def paths(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each recorded path at its learner's own rate, and density.

    Returns:
        ``learner`` (a key of :data:`LOOKS`), ``images``, ``criterion``, ``seed``, ``keep`` (share
        of filters), ``accuracy`` (%; ``anew``: with batch norm re-estimated, at the last density),
        ``learned``, ``bytes`` (of one task), ``shared`` (bytes of
        the frozen net), ``MACs`` and ``weights`` (% of the parameters that are left).
    """
    rows = []
    for r in records:
        c, n = r.config, r.numbers
        for i, keep in enumerate(cells.DENSITIES if own(c) else ()):
            rows.append(
                {"learner": learner_of(c), "images": c["images"], "criterion": c["criterion"],
                 "seed": c["seed"], "keep": keep, "accuracy": 100 * n["test_at"][i],
                 "learned": n["learned_at"][i],
                 "anew": 100 * n["test_re"] if i == study.TEN else None,
                 "bytes": n["bytes_at"][i], "shared": n["source_bytes"], "MACs": n["macs_at"][i],
                 "weights": 100 * n["params_at"][i] / n["params_at"][0]}
            )  # fmt: skip
    return pd.DataFrame(rows)


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded paths of replicate 0, few images: a row for each setting and learner.

    ``bytes`` are those of one task, ``shared`` those of the frozen net (none with fine-pruning),
    ``pays`` the number of tasks from which both together take less than fine-pruned nets.
    """
    runs: dict[tuple[str, int, str], Record] = {}
    for r in recorded:
        c = r.config
        if own(c) and (c["seed"], c["images"]) == (SEED, study.FEW):
            runs[c["arm"], c["rank"] if c["arm"] == "splora" else 0, c["criterion"]] = r
    rows = []
    for rank in study.RANKS:
        for criterion, name in CRITERIA.items():
            both = runs.get(("splora", rank, name)), runs.get(("fine", 0, name))
            if both[0] is None or both[1] is None:
                continue
            ours, theirs = both[0].numbers, both[1].numbers
            for i, density in enumerate(cells.DENSITIES):
                pays = break_even(ours["bytes_at"][i], ours["source_bytes"], theirs["bytes_at"][i])
                for learner, n in zip(LEARNERS, (ours, theirs), strict=True):
                    shared = ours["source_bytes"] if learner == "SPLoRA" else 0
                    rows.append({
                        "rank": rank, "criterion": criterion, "density": density,
                        "learner": learner, "accuracy": n["test_at"][i],
                        "learned": n["learned_at"][i], "parameters": n["params_at"][i],
                        "bytes": n["bytes_at"][i], "shared": shared,
                        "pays": pays if learner == "SPLoRA" and pays != float("inf") else None,
                    })  # fmt: skip
    return pd.DataFrame(rows)


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """Accuracy against learned parameters along both paths; and bytes against the tasks served."""
    path = (alt.datum.rank == chosen["rank"]) & (alt.datum.criterion == chosen["criterion"])
    base, colour = alt.Chart(rows), by_method("learner", COLOURS)
    along = base.transform_filter(path)
    now = along.transform_filter(alt.datum.density == chosen["density"])
    x = alt.X(
        "learned:Q",
        title="parameters learned for the task",
        axis=alt.Axis(format="~s", values=[100, 1000, 10_000, 100_000]),
    )
    x = x.scale(type="log", nice=False, padding=24)
    y = alt.Y("accuracy:Q", title="test accuracy", axis=alt.Axis(format=".0%", tickCount=5))
    low = 0.05 * int(float(rows.accuracy.min()) / 0.05 - 0.5)
    y = y.scale(domain=[low, 1], nice=False)
    order = alt.Order("density:Q")
    curves = alt.layer(
        along.mark_line().encode(x=x, y=y, color=colour, order=order),
        along.mark_point(filled=True, size=40, opacity=1).encode(x=x, y=y, color=colour),
        now.mark_point(filled=True, size=150, opacity=1).encode(x=x, y=y, color=colour),
        *(  # the better one's number stands above it, unless its name does
            now.transform_joinaggregate(best="max(accuracy)")
            .transform_filter(f"{sign}(datum.accuracy == datum.best && datum.density < 1)")
            .mark_text(dy=dy, fontWeight="bold")
            .encode(x=x, y=y, text=told("accuracy", percent=True), color=colour)
            for sign, dy in (("", -15), ("!", 19))
        ),
        along.transform_filter(alt.datum.density == 1)
        .mark_text(dy=-15, dx=12, align="right")
        .encode(x=x, y=y, text="learner:N", color=colour),
    )
    many = (
        now.transform_calculate(tenth=f"sequence(0, {TENTHS + 1})")
        .transform_flatten(["tenth"])
        .transform_calculate(
            tasks="pow(10, datum.tenth / 10)",
            kb="(datum.shared + datum.tasks * datum.bytes) / 1000",
        )
    )
    tasks = alt.X("tasks:Q", title="tasks served, N", axis=alt.Axis(values=[1, 10, 100, 1000]))
    tasks = tasks.scale(type="log", nice=False)
    kb = alt.Y("kb:Q", title="kilobytes in all", axis=alt.Axis(format="~s", tickCount=4))
    kb = kb.scale(type="log")
    pays = now.transform_filter("isValid(datum.pays)").transform_calculate(
        words="'adapters from N = ' + format(ceil(datum.pays), 'd')"
    )
    storage = alt.layer(
        many.mark_line().encode(x=tasks, y=kb, color=colour, order=alt.Order("tasks:Q")),
        pays.mark_rule(strokeDash=[4, 3]).encode(x=alt.X("pays:Q").scale(type="log")),
        pays.mark_text(align="left", fontWeight="bold", color=alt.Undefined).encode(
            x=alt.value(8), y=alt.value(8), text="words:N"
        ),
    )
    return alt.vconcat(
        curves.properties(height=190, width=265), storage.properties(height=170, width=265)
    )


def adapt(
    rank: int, criterion: str, density: float, progress: Callable[..., None],
    profile: str = "quick",
) -> Html:  # fmt: skip
    """Adapt and prune the source net of replicate 0 at these settings, here and now."""
    cell = replace(study.cell_of(f"splora {rank}", SEED), criterion=CRITERIA[criterion])
    context = Context("pruning_adapters", cell, runner.artefact_digest("pruning_adapters"))
    progress(0, 1, "the source net …")
    source = cells.source_net(context)
    task = cells.target_task(cell)
    config = method.Config(cell.arm, cell.rank, criterion=cell.criterion, step=cells.STEP)
    net = method.start(source, config, context.generator(2))
    images = reference(task, config.images, context.generator(7))
    first, between = (max(1, round(LIVE[profile] * n)) for n in (cells.FIRST, cells.BETWEEN))
    last = cells.MARKS[cells.DENSITIES.index(density)]
    generator = context.generator()
    cells.tuned(net, task, first, generator)
    stops = method.rounds(net, task, images, config, context.generator(8))
    for number, stop in zip(range(1, last + 1), stops, strict=False):
        progress(number, last, f"cut {number} of {last} …")
        net = stop.net
        cells.tuned(net, task, between, generator)
    plain = fuse(net).eval()
    filters = sum(g.size for g in trace_groups(source, task.example(1)).prunable)
    row = {
        "filters kept": share_words(density), "learned": learned(net),
        "of all weights": 100 * learned(net) / learned(fuse(net)),
        "a task takes": task_bytes(net, filters) / 1000,
        "test accuracy": 100 * evaluate(plain, task.test, task)["accuracy"],
    }  # fmt: skip
    steps = first + between * last
    return table(
        pd.DataFrame([row]),
        caption=f"Adapted here. Rank {rank}, channels chosen by {criterion}, {steps} steps on "
        f"{cell.images} images.",
        units={"test accuracy": "%", "a task takes": "kB", "of all weights": "%"},
        decimals={"test accuracy": 1, "a task takes": 1, "of all weights": 0},
    )


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the study; live it adapts and prunes for real."""
    return Explorer(
        "one_net_many_tasks",
        controls=[
            Control("rank", "Rank of the adapters", study.RANKS, study.RANK),
            Control("density", "Filters kept", cells.DENSITIES, 0.1, format=share_words),
            Control(
                "criterion", "Channels chosen by", tuple(CRITERIA), "Taylor", "select",
                idle="With all filters there nothing has been chosen yet.",
            ),
        ],
        grid=grid(recorded),
        chart=chart,
        live=partial(adapt, profile=profile),
        slow=True,
        title="How much does one more task cost?",
        alt="Two charts for adapters and for fine-pruning. First, test accuracy against the "
        "parameters learned for the task, along the path from all filters to a tenth, the chosen "
        "density marked. Second, the kilobytes that serve N tasks, one frozen net with adapters "
        "against as many fine-pruned nets, and the number of tasks from which the first is less.",
        caption="Take filters away and watch where the lines of the second chart cross. Recorded "
        "runs of replicate 0 with few images; both sides choose channels by the same criterion, "
        "make the same steps, each at its own best rate. A task's bytes are what is learned, its "
        "batch-norm statistics and, with adapters, one bit for each filter.",
        table_columns={
            "rank": "rank", "criterion": "criterion", "density": "filters kept",
            "learner": "learner", "accuracy": "test accuracy", "learned": "learned",
            "parameters": "parameters that run", "bytes": "bytes of a task",
            "shared": "bytes shared",
        },
    )  # fmt: skip
