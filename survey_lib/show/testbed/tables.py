"""The common testbed's tables: the board, the pieces of the grid, the rates, widths of layers."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from survey_lib.evidence.records import Record
from survey_lib.experiments.common_testbed import grid
from survey_lib.experiments.common_testbed.cells import (
    Cell,
    budget_of,
    config_of,
    task_of,
)
from survey_lib.experiments.common_testbed.grid import FULL, HALF, MAGNITUDE, PIECES, RANDOM, RUN
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.contract import METHODS
from survey_lib.show.frames import mean_over, over_seeds
from survey_lib.show.markup import Html
from survey_lib.show.tables import folded, table, tall
from survey_lib.show.testbed.frames import (
    NETS,
    TEXT,
    UNITS,
    Frame,
    fallen,
    found_sizes,
    label,
    leads,
    shapes,
    to_come,
    within_int8,
    word,
)
from survey_lib.tasks.dense import dense_net, seeded


def widths_table(net: str, keep: float, names: Sequence[str]) -> Html:
    """Channels that methods leave in each layer of dense net 0, cut here and not tuned."""
    task = task_of(Cell("dense", 0, net))
    whole = dense_net(task, 0)
    groups = trace_groups(whole, task.example(1)).prunable
    rows = [{"layer": g.name, "dense": g.size} for g in groups]
    for name in names:
        cell = Cell("method", 0, net, name, keep=keep)
        cut = METHODS[name].compress(
            whole, task, budget_of(cell), config_of(cell), tuning=None, generator=seeded(0, 1)
        )
        for row, g in zip(rows, groups, strict=True):
            row[label(name)] = len(cut.recipe.get(g.name, range(g.size)))
    return table(
        pd.DataFrame(rows),
        name=f"widths_{net}",
        caption=f"Channels left in each layer of the {NETS[net]} at {100 * keep:g} % of the MACs. "
        "Dense net 0, cut for this page.",
    )


def fallen_table(df: Frame, net: str) -> Html:
    """Widths of the opponents and of who fell: at half if any did there, or at the smallest run."""
    sizes = [k for k in sorted(df.keep.unique()) if len(shapes(df, net, k))]
    keep = HALF if fallen(df, net, HALF) else sizes[0]
    return widths_table(net, keep, [RANDOM, MAGNITUDE, *fallen(df, net, keep)])


def board_table(df: Frame, net: str, name: str = "board") -> Html:
    """Every method at every size after full tuning, sortable: leads, sizes, times."""
    rows = []
    some = df[(df.arm == "method") & (df.net == net) & (df.epochs == FULL)]
    before: Frame = over_seeds(df[(df.arm == "method") & (df.net == net) & (df.epochs == 0)],
                        ["method", "keep", "knob"], "score")  # fmt: skip
    before = before.set_index(["method", "keep", "knob"])["mean"]
    for (method, keep, knob), one in some.groupby(["method", "keep", "knob"]):
        own = mean_over(100 * one.score)
        gap = leads(df, net, keep, FULL)
        row: dict[str, Any] = {
            "method": label(method), "takes": METHODS[method].kind,
            "kept": 100 * keep if METHODS[method].steers == "budget" else None,
            "before": 100 * before.get((method, keep, knob), float("nan")),
            "after": own["mean"], "low": own.low, "high": own.high,
            "lead": None, "lead low": None, "lead high": None, "says": "–",
        }  # fmt: skip
        if method in gap.index:
            lead = gap.loc[method]
            row |= {"lead": lead["mean"], "lead low": lead.low, "lead high": lead.high,
                    "says": lead.word}  # fmt: skip
        row |= {u: 100 * one[f"of {u}"].mean() for u in UNITS}
        rows.append(row)
    rows += _beside(df, net)
    frame = pd.DataFrame(rows)
    if not some.empty:
        frame = frame.sort_values(["takes", "kept", "after"], ascending=[True, False, False])
    board = table(
        frame,
        name=name,
        caption=f"Every method on the {NETS[net]} after {FULL:g} epochs of tuning. Sizes are "
        "shares of the dense net; a lead is over ℓ1, replicate by replicate. Mean over replicates "
        "with 95 % t interval. Masks take their MACs and parameters by non-zeros.",
        units={"kept": "%", "before": "%", "after": "%", "lead": "points"}
        | dict.fromkeys(UNITS, "%"),
        decimals={"kept": 0, "before": 1, "after": 1, "lead": 2} | dict.fromkeys(UNITS, 0),
        interval_columns={"after": ("low", "high"), "lead": ("lead low", "lead high")},
        notes=[
            f"{len(frame)} rows in all. "
            "A tie: the interval of the lead holds zero. Of twenty true ties one falls outside by "
            "chance.",
        ],
    )
    return tall(board)


def text_table(df: Frame) -> Html:
    """The language model, tuned: each method at half, and at its best size within int8's bytes."""
    fits = within_int8(df).set_index("method")
    here = df[(df.net == TEXT) & (df.keep == HALF) & (df.epochs > 0)]
    rows = []
    for (name, how), one in here.groupby(["method", "how"]):
        method, own = name or how, mean_over(one.score)
        kind = METHODS[name].kind if name else "channels"
        row = {"method": label(method), "takes": kind, "at half": own["mean"],
               "low": own.low, "high": own.high}  # fmt: skip
        if method in fits.index:
            fit = fits.loc[method]
            row |= {"kept": 100 * fit.keep, "bytes": 100 * fit.share, "behind int8": fit.gap,
                    "gap low": fit.gap_low, "gap high": fit.gap_high}  # fmt: skip
        rows.append(row)
    return table(
        pd.DataFrame(rows).sort_values("at half"),
        name="text",
        caption=f"The {NETS[TEXT]}, tuned. Test loss with half of the work, or of the parameters, "
        "kept. Then, of the sizes within the bytes of eight bits, the one that is best on "
        "validation: what it keeps, its share of the dense net’s bytes, and how far it stays "
        "behind eight bits. Means over replicates with 95 % t interval.",
        units={"at half": "nats", "kept": "%", "bytes": "%", "behind int8": "nats"},
        decimals={"at half": 3, "kept": 1, "bytes": 0, "behind int8": 3},
        interval_columns={"at half": ("low", "high"), "behind int8": ("gap low", "gap high")},
    )


def found_table(df: Frame) -> Html:
    """Methods that find their own size: what they find, and the best that was told no more."""
    some = found_sizes(df).sort_values(["kind", "method", "knob"])
    rows = pd.DataFrame({
        "method": [label(name) for name in some.method], "knob": some.knob.to_numpy(),
        "takes": some.kind.to_numpy(), "kept": some.share.to_numpy(),
        "after": some.score.to_numpy(), "told": some.told.to_numpy(), "lead": some.gap.to_numpy(),
        "low": some.gap_low.to_numpy(), "high": some.gap_high.to_numpy(),
    })  # fmt: skip
    found = table(
        rows,
        name="found",
        caption="Methods that find their own size, after full tuning. The knob is in units of its "
        "default; kept: MACs where channels go, parameters where single weights do. Beside each "
        "the accuracy of the best on validation that was told a size and keeps no more, and its "
        "lead. Means over replicates with 95 % t interval. Nothing is said where a replicate has "
        "no such net, or lost nothing.",
        units={"kept": "%", "after": "%", "told": "%", "lead": "points"},
        decimals={"knob": 2, "kept": 1, "after": 1, "told": 1, "lead": 2},
        interval_columns={"lead": ("low", "high")},
        notes=[
            "Rates were searched with each knob at its default. "
            f"{label('parameterized_structured')} takes whole columns, and stands here beside "
            "single weights, which are freer to choose.",
            *[
                f"{label(name)} takes nothing away at any setting."
                for name, one in some.groupby("method")
                if (one.share > _NOTHING_WENT).all()
            ],
        ],
    )
    return tall(found)


_NOTHING_WENT = 99.995
"""Share that stays (%) from which two decimals say that all does."""


def _beside(df: Frame, net: str) -> list[dict[str, Any]]:
    """Rows of what stands beside the methods: the dense net, and one shape for all."""
    here, rows = df[df.net == net], []
    some = here[
        here.arm.isin(["dense", "shape"]) | ((here.arm == "longer") & (here.epochs == FULL))
    ]
    for (arm, how, keep, _), one in some.groupby(["arm", "how", "keep", "epochs"]):
        own = mean_over(100 * one.score)
        row = {"method": label(how or arm), "takes": "–", "kept": 100 * keep, "after": own["mean"],
               "low": own.low, "high": own.high, "says": "–"}  # fmt: skip
        rival = here[(here.method == MAGNITUDE) & (here.keep == keep) & (here.epochs == FULL)]
        if arm == "shape" and len(rival):
            gap = one.set_index("seed").score - rival.set_index("seed").score
            lead = mean_over(100 * gap.dropna())
            row |= {"lead": lead["mean"], "lead low": lead.low, "lead high": lead.high,
                    "says": word(lead.low, lead.high)}  # fmt: skip
        rows.append(row | {u: 100 * one[f"of {u}"].mean() for u in UNITS})
    return rows


def pieces_table(records: Sequence[Record]) -> Html:
    """Which pieces of the grid have been run, and which are still to be."""
    done = bool(records)
    rows = [
        {
            "piece": p.name,
            "net": NETS[p.net],
            "takes": ", ".join(p.kinds) or "fresh weights",
            "epochs of tuning": ", ".join(f"{n:g}" for n in p.lengths) or "–",
            "kept": ", ".join(f"{100 * k:g} %" for k in p.sizes)
            or f"{len(p.knobs)} setting{'s' * (len(p.knobs) > 1)} of the knob",
            "state": "run" if p.name in RUN and done else "planned",
        }
        for p in PIECES
    ]
    return table(
        pd.DataFrame(rows),
        caption=f"The grid and its pieces: {sum(r['state'] == 'run' for r in rows)} of {len(rows)} "
        "have been run. What follows rests on those; claims about the others say that they are not "
        "tested here.",
        notes=[f"Joined since, and still to be run: {', '.join(map(label, new))}."]
        if (new := to_come(records))
        else [],
    )


def tuned_words(net: str, kind: str) -> str:
    """At which sizes the rates of a kind were chosen on a net, largest first, as words."""
    sizes = sorted(grid.TUNED[net, kind], reverse=True)
    return " and ".join(f"{100 * size:g} %" for size in sizes)


def rates_table(found: Mapping[Any, Mapping[str, Any]]) -> Html:
    """The learning rates that were tried and chosen, a line for each method, length and size."""
    from survey_lib.evidence.protocol import scores

    rows = []
    for role in grid.ROLES:
        means = scores(role, grid.REPLICATES, found)
        (cell,) = role.cells(grid.REPLICATES[0], grid.RATES[role.name])
        by = 100 if role.sign == 1 else 1
        rows.append({
            "net": NETS[cell.net], "method": label(cell.method or cell.how or cell.arm),
            "epochs": f"{cell.epochs:g}",
            "kept": f"{100 * cell.keep:g} %" if cell.keep < 1 else "–",
            "rate": f"{grid.RATES[role.name]:g}",
            "tried, with validation": ", ".join(f"{r:g}: {by * m:.2f}" for r, m in means.items()),
        })  # fmt: skip
    rates = table(
        pd.DataFrame(rows),
        name="rates",
        caption="Learning rates. The best on validation, each the mean of "
        f"{len(grid.REPLICATES)} further dense nets, at the size that is named; nets of another "
        "size take the rate of the nearest. All methods of a kind, a length and a size try equally "
        "many; so do fresh weights among themselves. Where a method finds its own size, validation "
        "is less a point for each doubling of the MACs that stay. An end that leads the rate "
        "beside it by no more than a standard error gives way to it.",
    )
    return folded(f"The learning rates: {len(rows)} searches", rates)
