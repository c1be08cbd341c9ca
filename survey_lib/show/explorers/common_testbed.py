"""The testbed's explorer: budget × tuning × unit → every method against what it costs."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import altair as alt
import pandas as pd

from survey_lib.evidence.intervals import t_interval
from survey_lib.evidence.records import Record
from survey_lib.experiments.common_testbed import cells, grid
from survey_lib.experiments.common_testbed.grid import MAGNITUDE, RANDOM
from survey_lib.measure.standard import standard
from survey_lib.methods.contract import METHODS
from survey_lib.show import style
from survey_lib.show.explorer import Control, Explorer
from survey_lib.show.markup import Html
from survey_lib.show.tables import table
from survey_lib.show.testbed.figures import KINDS
from survey_lib.show.testbed.frames import NETS, UNITS, Frame, label, look, nets
from survey_lib.tasks.dense import dense_net, seeded

NET = "resnet_small"
AS_LEFT = "none, as left"
UNTUNED = "none, re-estimated"
LIVE = {"quick": 1.0, "smoke": 0.05}
"""Most epochs that are tuned in a live kernel."""


def chapter(name: str) -> str:
    """Address of the page that a method's point opens: its chapter, or the glossary."""
    package = METHODS[name].module.split(".")[0]
    own = [package, *(slug for slug in METHODS if METHODS[slug].module.split(".")[0] == package)]
    from survey_lib.cards.card import slugs

    known = [slug for slug in own if slug in slugs()]
    return f"{known[0]}.html" if known else "../book/glossary.html"


def shown_nets(df: Frame) -> list[str]:
    """Nets of images that methods were run on, the residual one first."""
    there = df[(df.arm == "method") & df.test_re.notna()].net
    return sorted(there.unique(), key=lambda net: (net != NET, net))


def tunings(df: Frame) -> dict[str, tuple[str, float]]:
    """What the slider says → number of a net, and epochs, in the order of length.

    Lengths at which channel methods were run, for they are what the chart shows large.
    """
    some = df[(df.kind == "channels") & (df.steers == "budget") & df.net.isin(shown_nets(df))]
    lengths = [float(n) for n in sorted(some.epochs.unique())]
    found: dict[str, tuple[str, float]] = {}
    for n in lengths:
        if n:
            found[f"{n:g} epoch{'' if n == 1 else 's'}"] = ("score", n)
        else:
            found |= {AS_LEFT: ("raw", n), UNTUNED: ("score", n)}
    return found


def points(recorded: Sequence[Record]) -> Frame:
    """A row for each net, method, size, tuning and unit; a dense net has one at every setting."""
    df = nets(recorded)
    some = df[(df.arm == "method") & (df.kind == "channels") & (df.steers == "budget")]
    there = shown_nets(df)
    sizes = sorted(some[some.net.isin(there)].keep.unique(), reverse=True)
    rows = []
    for net, (tuning, (value, epochs)) in itertools.product(there, tunings(df).items()):
        here = df[df.net == net]
        some = here[(here.arm == "method") & (here.epochs == epochs)]
        groups = some.groupby(["method", "kind", "keep", "knob"], sort=False)
        for unit in UNITS:
            shared = {"net": net, "tuning": tuning, "unit": unit}
            rows += [
                shared | _row("dense", "dense", keep, here[here.arm == "dense"], unit, value)
                for keep in sizes
            ]
            for (method, kind, keep, knob), one in groups:
                timed = kind != "weights" or unit != "milliseconds"
                if timed and one[f"of {unit}"].notna().any():
                    at = keep if not knob else float(knob)
                    rows.append(shared | _row(str(method), str(kind), at, one, unit, value))
    return pd.DataFrame(rows)


def _row(method: str, kind: str, keep: float, one: Frame, unit: str, value: str) -> dict[str, Any]:
    interval = t_interval([float(v) for v in one[value]])
    known = interval.n > 1
    first = one.sort_values("seed").iloc[0]
    return {
        "method": method, "name": label(method), "kind": kind, "keep": float(keep),
        "share": round(float(one[f"of {unit}"].mean()), 4),
        "accuracy": round(interval.mean, 4),
        "low": round(interval.low if known else interval.mean, 4),
        "high": round(interval.high if known else interval.mean, 4),
        "seeds": interval.n, "bytes": int(first.bytes),
        "page": chapter(method) if method in METHODS else "",
    }  # fmt: skip


def folded(rows: Frame) -> Frame:
    """The rows with a column a unit, as the chart holds them: a fourth as many to load."""
    told = [c for c in rows if c not in ("unit", "share", "name", "page", "seeds", "bytes")]
    wide = rows.pivot_table(index=told, columns="unit", values="share", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def chart(rows: Frame, chosen: dict[str, alt.Parameter]) -> Any:
    """Every net at the chosen tuning, small; those at the chosen budget large and named."""
    # one axis for all tunings, so that what draws together is seen to
    low, high = float(rows.low.min()) - 0.02, float(rows.high.max()) + 0.02
    names = list(dict.fromkeys(rows.loc[rows.kind != "dense", "method"]))
    unit = chosen["unit"].name
    here = alt.Chart(folded(rows))
    for field in [f for f in ("net", "tuning") if f in chosen]:
        here = here.transform_filter(alt.datum[field] == chosen[field])
    here = here.transform_calculate(share=f"datum[{unit}]").transform_filter("datum.share > 0")
    budget = (alt.datum["keep"] == chosen["keep"]) & (alt.datum["kind"] == "channels")
    now = here.transform_filter(budget)
    named = now.transform_calculate(
        name=_by_method({n: label(n) for n in names}),
        page=_by_method({n: chapter(n) for n in names}),
    )
    x = alt.X(
        "share:Q", title="share of the dense net, in the chosen unit",
        scale=alt.Scale(type="log", domain=[1.3, 0.02], nice=False),
        axis=alt.Axis(format="~%", values=[0.02, 0.05, 0.1, 0.2, 0.5, 1]),
    )  # fmt: skip
    y = alt.Y(
        "accuracy:Q", title="test accuracy", scale=alt.Scale(domain=[low, high], nice=False),
        axis=alt.Axis(format="~%", tickCount=5),
    )  # fmt: skip
    colours = alt.Color("method:N", legend=None, scale=alt.Scale(
        domain=names, range=[style.css(look(n)) for n in names]))  # fmt: skip
    told = [alt.Tooltip("name:N", title="method"), alt.Tooltip("accuracy:Q", format=".1%"),
            alt.Tooltip("share:Q", format=".0%")]  # fmt: skip
    faint = here.transform_filter(alt.datum["kind"] != "dense").mark_point(
        size=22, opacity=0.5, color=style.css("oneshot"), filled=True
    ).encode(x=x, y=y)  # fmt: skip
    dense = here.transform_filter(alt.datum["kind"] == "dense").mark_rule(
        strokeDash=[5, 4], color=style.css("dense")
    ).encode(y="accuracy:Q")  # fmt: skip
    whisker = now.mark_rule(strokeWidth=1.4).encode(
        x=x, y=alt.Y("low:Q"), y2="high:Q", color=colours
    )
    dot = named.mark_point(filled=True, size=95, cursor="pointer").encode(
        x=x, y=y, color=colours, href="page:N", tooltip=told
    )
    words = [
        named.transform_filter(alt.datum["method"] == name).mark_text(
            align="right" if dx < 0 else "left", dx=dx, fontSize=12
        ).encode(x=x, y=y, text="name:N")
        for name, dx in LABELLED.items() if name in names
    ]  # fmt: skip
    return alt.layer(dense, faint, whisker, dot, *words).properties(height=330)


def _by_method(words: dict[str, str]) -> str:
    """What a chart computes a word of each row by, so that no row has to hold it."""
    return f"({json.dumps(words, ensure_ascii=False)})[datum.method]"


def numbers(rows: Frame) -> Html:
    """The fallback table: a row for each net, method and size, a column for each tuning."""
    own = rows.assign(keep=rows.keep.where(rows.kind != "dense", 1.0))
    once = own.drop_duplicates(["net", "method", "keep", "tuning"])
    place = ["net", "name", "kind", "keep"]
    told = once[place].drop_duplicates()
    told = told.sort_values(["net", "kind", "keep"], ascending=[False, True, False], kind="stable")
    keys, bounds = pd.MultiIndex.from_frame(told), {}
    told = told.assign(net=told.net.map(NETS.__getitem__))
    times = list(dict.fromkeys(once.tuning))
    for tuning in times:
        at = once[once.tuning == tuning].set_index(place)
        bounds[tuning] = (f"{tuning}, from", f"{tuning}, to")
        for head, of in zip((tuning, *bounds[tuning]), ("accuracy", "low", "high"), strict=True):
            told[head] = (100 * at[of].reindex(keys)).to_numpy()
    return table(
        told.rename(columns={"name": "method", "kind": "takes", "keep": "kept"}),
        caption="All recorded runs: test accuracy (%) with 95 % t interval over replicates, by "
        "tuning.",
        decimals=dict.fromkeys(times, 1),
        interval_columns=bounds,
    )


LABELLED = {MAGNITUDE: -9, RANDOM: 9}
"""Methods whose points are named in the chart, and on which side, so that their names never meet;
the others say their names when pointed at."""


def compress(
    keep: float,
    tuning: str,
    unit: str,
    progress: Callable[..., None],
    net: str = NET,
    profile: str = "quick",
) -> Html:
    """Compress dense net 0 by both opponents here and now, and tune it for an epoch at most."""
    del unit
    words = tuning.split(" ")[0]
    epochs = min(LIVE[profile], 0.0 if words.startswith("none") else float(words))
    rows = []
    for at, name in enumerate((MAGNITUDE, RANDOM)):
        progress(at, 2, f"{label(name)} …")
        lr = grid.rate(net, 5)
        cell = replace(cells.Cell("method", 0, net, name, keep=keep), epochs=epochs, lr=lr)
        task = cells.task_of(cell)
        done = METHODS[name].compress(
            dense_net(task, 0), task, cells.budget_of(cell), cells.config_of(cell),
            tuning=cells.tuning_of(task, cell), generator=seeded(0, 1),
        )  # fmt: skip
        numbers = standard(done.model, task)
        rows.append({"method": label(name), "epochs": epochs, "accuracy": 100 * numbers["test"],
                     "re-estimated": 100 * numbers["test_re"], "MACs": numbers["macs"],
                     "parameters": numbers["params"], "seconds": done.seconds})  # fmt: skip
    return table(
        pd.DataFrame(rows),
        caption=f"Made here from dense net 0, the {NETS[net]}, and tuned for "
        f"{LIVE[profile]:g} epochs at most.",
        units={"accuracy": "%", "re-estimated": "%"},
        decimals={"accuracy": 1, "re-estimated": 1, "seconds": 1},
    )


def explorer(recorded: Sequence[Record], profile: str = "quick") -> Explorer:
    """The explorer over the runs that are there; live it compresses by both opponents."""
    rows = points(recorded)
    sizes = tuple(sorted(set(rows[rows.kind == "dense"].keep), reverse=True))
    times = tuple(dict.fromkeys(rows.tuning))
    start = grid.HALF if grid.HALF in sizes else sizes[0]
    nothing = "No method was run at this size and length yet."
    kinds = [k for k in KINDS if k in set(rows.kind)]
    there = tuple(dict.fromkeys(rows.net))
    switch = Control("net", "Net", there, there[0], "select", NETS.__getitem__, nothing)
    several = len(there) > 1
    return Explorer(
        "who_wins_where",
        controls=[
            Control("keep", "MACs kept", sizes, start, format=lambda k: f"{100 * k:g} %",
                    idle=nothing),
            Control("tuning", "Tuning", times, times[0], idle=nothing),
            Control("unit", "Counted in", tuple(UNITS), next(iter(UNITS)), kind="select",
                    idle=nothing),
            *([switch] if several else []),
        ],
        grid=rows if several else rows.drop(columns="net"),
        chart=chart,
        numbers=numbers if several else None,
        live=partial(compress, profile=profile),
        slow=True,
        title="Who wins, and for how long?",
        alt="A chart of every method: test accuracy against the share of the dense net that it "
        "keeps, in the chosen unit. Nets at the chosen budget are large, with intervals.",
        caption="Move the tuning from left to right and watch the points draw together. No tuning: "
        "with the statistics of batch norm as they were left, or re-estimated. Large: channel "
        "methods at the chosen budget, with 95 % t interval over replicates; a click opens "
        f"the chapter. Small: all nets at that tuning, by {', '.join(kinds)}. Dashed: the "
        "dense net." + ("" if several else f" All on the {NETS[NET]}."),
        table_columns={
            **({"net": "net"} if several else {}),
            "name": "method", "kind": "takes", "keep": "kept", "tuning": "tuning",
            "accuracy": "accuracy", "low": "from", "high": "to", "bytes": "bytes, first replicate",
            "seeds": "replicates",
        },
    )  # fmt: skip
