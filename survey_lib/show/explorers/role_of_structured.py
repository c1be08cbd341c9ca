"""The explorer of *On the role of structured pruning*: zeros × their structure × coder → bytes."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import altair as alt
import pandas as pd
import torch

from survey_lib.evidence.records import Record
from survey_lib.experiments.role_of_structured import cells, study
from survey_lib.measure import coding
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer, told
from survey_lib.show.figure import Figure, figure, panels
from survey_lib.tasks.dense import dense_net, seeded

CODERS = {
    "bytes": "arithmetic coder",
    "entropy_rows": "entropy + row flags",
    "entropy": "entropy alone",
    "zstd": "zstd",
    "lzma": "lzma",
}
"""Field of a record → what a reader chooses; the two entropies are ideals, no files."""
NETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "serene": ("SeReNe", "serene", {}),
    "lobster": ("LOBSTER", "lobster", {}),
    "decay rows": ("plain decay, rows", "serene", {"marker": "o", "linestyle": ":"}),
    "decay": ("plain decay, single", "lobster", {"marker": "o", "linestyle": ":"}),
    "magnitude": ("magnitude", "magnitude", {}),
    "l1": ("channel ℓ1", "magnitude", {"marker": "s", "linestyle": ":"}),
    "dense": ("dense", "dense", {}),
}
"""Role → its name, its series of the style, and what is drawn otherwise."""
SHAPES = ("triangle-left", "triangle-right", "circle", "circle", "circle", "square", "diamond")
SHOWN = (20, 30)
"""Rows and columns of the matrix that are drawn."""


def places(rho: float, q: float, rows: int, columns: int) -> torch.Tensor:
    """Where the recorded matrix has its weights, (rows, columns): no place depends on them."""
    ones = torch.ones(rows, columns)
    return cells.arrange(ones, rho, q, seeded(0, 4)) != 0


def grid(recorded: Sequence[Record]) -> pd.DataFrame:
    """Recorded numbers in rows: ``part`` is ``matrix``, ``map`` (its picture) or ``net``."""
    (matrix,) = [r.numbers for r in recorded if r.config["arm"] == "arranged"]
    shape = matrix["rows"], matrix["columns"]
    scattered = {g["rho"]: g for g in matrix["grid"] if g["q"] == 0}
    found: list[dict[str, Any]] = []
    for g in matrix["grid"]:
        rho, q = g["rho"], g["q"]
        at = places(rho, q, *shape)
        empty = int((~at.any(1)).sum())
        y, x = at[: SHOWN[0], : SHOWN[1]].nonzero().T.tolist()
        found.append({"part": "map", "rho": rho, "q": q, "x": x, "y": y})
        found += [
            {"part": "matrix", "rho": rho, "q": q, "coder": words, "bytes": g[coder],
             "empty": empty, "at_first": scattered[rho][coder]}
            for coder, words in CODERS.items()
        ]  # fmt: skip
    for role, config, numbers in nets(recorded):
        setting = config["keep"] or config["twt"]
        for bits, file in numbers["coded"].items():
            found += [
                {"part": "net", "net": NETS[role][0], "setting": setting, "bits": int(bits),
                 "coder": words, "bytes": file[coder], "accuracy": file["test"]}
                for coder, words in CODERS.items()
            ]  # fmt: skip
    return pd.DataFrame(found)


def nets(recorded: Sequence[Record]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Role, configuration and numbers of each recorded net of replicate 0."""
    known = {pair: role for role, pair in study.SHRUNK.items()}
    found = []
    for record in recorded:
        config = record.config
        role = known.get((config["arm"], config["zeros"]), config["arm"])
        if config["seed"] == 0 and role in NETS and "coded" in record.numbers:
            found.append((role, config, record.numbers))
    return found


def chart(rows: pd.DataFrame, chosen: dict[str, alt.Parameter]) -> alt.VConcatChart:
    """The corner of the matrix, its bytes by coder, and all trained nets under the chosen one."""
    base = alt.Chart(rows)
    placed = (alt.datum.rho == chosen["rho"]) & (alt.datum.q == chosen["q"])
    picture = (
        base.transform_filter((alt.datum.part == "map") & placed)
        .transform_flatten(["x", "y"])
        .mark_rect(color=style.css("serene"))
        .encode(
            x=alt.X("x:O", title="weights of a neuron", axis=alt.Axis(labels=False, ticks=False))
            .scale(domain=list(range(SHOWN[1]))),
            y=alt.Y("y:O", title="neurons", axis=alt.Axis(labels=False))
            .scale(domain=list(range(SHOWN[0]))),
        )
    )  # fmt: skip
    matrix = base.transform_filter((alt.datum.part == "matrix") & placed)
    order = alt.Y("coder:N", title=None, sort=list(CODERS.values()))
    span = alt.Scale(domain=[0, 1.3 * float(rows[rows.part == "matrix"].bytes.max())], nice=False)
    size = alt.X("bytes:Q", title="bytes of the matrix", scale=span, axis=alt.Axis(tickCount=4))
    here = alt.condition(
        alt.datum.coder == chosen["coder"], alt.value(1.0), alt.value(0.45)
    )  # the chosen coder stands out
    bars = matrix.mark_bar(height=13, color=style.css("serene")).encode(
        x=size, y=order, opacity=here
    )
    first = matrix.mark_tick(thickness=2, height=19, color=style.css("lobster")).encode(
        x=alt.X("at_first:Q", scale=span), y=order
    )
    # behind the longer of bar and tick
    label = (
        matrix.transform_calculate(end="max(datum.bytes, datum.at_first)")
        .mark_text(align="left", dx=6)
        .encode(x=alt.X("end:Q", scale=span), y=order, text=told("bytes"))
    )
    names = [words for words, _, _ in NETS.values()]
    colours = [style.css(key) for _, key, _ in NETS.values()]
    cloud = (
        base.transform_filter((alt.datum.part == "net") & (alt.datum.coder == chosen["coder"]))
        .mark_point(filled=True, size=55, opacity=0.85)
        .encode(
            x=alt.X("bytes:Q", title="bytes of the whole net")
            .scale(type="log", nice=False, padding=10, reverse=True)
            .axis(format="~s", values=[1000, 2000, 5000, 10_000, 20_000, 50_000]),
            y=alt.Y("accuracy:Q", title="test accuracy", axis=alt.Axis(format=".0%"))
            .scale(zero=False),
            color=alt.Color("net:N", scale=alt.Scale(domain=names, range=colours))
            .legend(columns=1, orient="bottom"),
            shape=alt.Shape("net:N", scale=alt.Scale(domain=names, range=list(SHAPES))),
        )
    )  # fmt: skip
    return alt.vconcat(
        picture.properties(height=150),
        alt.layer(bars, first, label).properties(height=130),
        cloud.properties(height=220),
    ).resolve_scale(color="independent", shape="independent")


def pack(rho: float, q: float, coder: str, profile: str = "quick") -> Figure:
    """Arrange, code and draw the layer of dense net 0, here and now."""
    cell = study.arranged()
    if profile == "smoke":
        cell = replace(cell, dense_epochs=0.25)
    whole = coding.quantise(
        dense_net(cells.task_of(cell), 0).get_parameter(cells.LAYER), cells.SIZED
    )
    levels = torch.from_numpy(whole.levels).flatten(1)
    sizes = []
    for share in (0.0, q):
        placed = cells.arrange(levels, rho, share, seeded(0, 4))
        sizes.append(cells.sized({"layer": coding.Quantised(placed.numpy(), whole.step)}))
        last = placed
    fig, (left, right) = panels(2, height=3.2, sharey=False)
    corner = (last[: SHOWN[0], : SHOWN[1]] != 0).numpy()
    left.imshow(corner, cmap=cmap(), aspect="auto", interpolation="nearest")
    left.grid(False)
    left.set(xlabel="weights of a neuron", ylabel="neurons", xticks=[], yticks=[])
    names = list(CODERS.values())
    right.barh(names, [sizes[1][k] for k in CODERS], color=style.series("serene").light)
    right.plot(
        [sizes[0][k] for k in CODERS], names, linestyle="none", marker="|", markersize=14,
        color=style.series("lobster").light,
    )  # fmt: skip
    right.invert_yaxis()
    right.set(xlabel="bytes of the matrix")
    field = next(k for k, words in CODERS.items() if words == coder)
    now, scattered = sizes[1][field], sizes[0][field]
    words = f"{coder}: {now:,.0f} bytes; with the same zeros all scattered {scattered:,.0f}"
    return figure(
        fig,
        "explorer_live",
        alt=f"A corner of the matrix with its zeros, and its bytes by coder. {words}.",
        caption=f"Computed here. {words}.",
        data=pd.DataFrame(sizes).assign(structure=[0.0, q]),
    )


def cmap() -> Any:
    """Zeros in the paper's colour, weights in SeReNe's."""
    from matplotlib.colors import ListedColormap

    return ListedColormap([style.PAPER, style.series("serene").light])


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the recorded arrangements and nets; live it codes for real."""
    rows = grid(recorded)

    def live(rho: float, q: float, coder: str) -> Figure:
        return pack(rho, q, coder, profile)

    def share(value: float) -> str:
        return f"{100 * value:g} %"

    opening = {"rho": 0.5, "q": 1.0, "coder": CODERS["bytes"]}
    same = rows[list(opening)].eq(pd.Series(opening)).all(axis=1)
    row = rows.loc[same].iloc[0]
    return Explorer(
        "structure",
        controls=[
            Control("rho", "Zeros", cells.SHARES, opening["rho"], format=share),
            Control("q", "Of these, in whole rows", cells.STRUCTURE, opening["q"], format=share),
            Control("coder", "Coder", tuple(CODERS.values()), opening["coder"], kind="select"),
        ],
        grid=rows,
        chart=chart,
        live=live,
        title="Where are the zeros, and who notices?",
        alt="Three charts: a corner of a weight matrix with its weights as filled squares; the "
        "bytes of the whole matrix under five coders, with a tick where the same zeros scattered "
        "stand; test accuracy against bytes of all trained nets under the chosen coder.",
        caption="Let the zeros move from scattered into whole rows: the weights stay the same, "
        f"the file shrinks. At first {int(row['empty'])} of {shape(recorded)[0]} rows "
        f"are empty and the arithmetic coder needs {row.bytes:,.0f} bytes, for the same zeros "
        f"scattered {row.at_first:,.0f} (the tick). Now choose the entropy alone: it sees "
        "single levels and no order at all. Below, each point is a trained net at one number of "
        "bits, replicate 0.",
        table_columns={
            "rho": "zeros",
            "q": "in whole rows",
            "net": "net",
            "setting": "TWT, or share kept",
            "bits": "bits",
            "coder": "coder",
            "bytes": "bytes",
            "accuracy": "test accuracy",
        },
    )


def shape(recorded: Sequence[Record]) -> tuple[int, int]:
    """Rows and columns of the recorded matrix."""
    (matrix,) = [r.numbers for r in recorded if r.config["arm"] == "arranged"]
    return matrix["rows"], matrix["columns"]
