"""Liu et al. (2019): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, instead, mean, statistics, tune_grid
from survey_lib.experiments.rethinking.cells import FOUND, MACS, PREDEFINED, WEIGHTS, Cell

SEEDS, DESIGNED, FEW = 8, 12, 5
"""Replicates of what is near nothing (the ℓ1 shapes, ThiNet's nets, the tickets), of the designed
shapes, and of the others; by what a pilot of three let expect."""
METHODS = (*PREDEFINED, "slimming", "structures", "magnitude")
HALF, SPARSEST, SMALLEST = MACS[1], WEIGHTS[-1], FOUND[0]
TICKET = 0.1
"""Share of the convolution weights that a ticket keeps."""
TUNINGS = ("constant", "falling")
INITS = ("own", "fresh", "corrected")
DESIGNS = ("found", "uniform", "guided")

RATES = {
    "dense": 0.1,
    "resnet": 0.2,
    "l1 constant": 0.01,
    "thinet constant": 0.01,
    "regression constant": 0.03,
    "slimming constant": 0.01,
    "structures constant": 0.03,
    "magnitude constant": 0.03,
    "l1 falling": 0.03,
    "thinet falling": 0.03,
    "regression falling": 0.1,
    "slimming falling": 0.009,
    "structures falling": 0.1,
    "magnitude falling": 0.1,
    "predefined e": 0.15,
    "predefined b": 1.35,
    "structures scratch": 0.15,
    "magnitude scratch": 0.15,
}
"""The best mean on validation of those tried (``survey run rethinking --profile tune``)."""
TRIED = {
    "dense": (0.05, 0.1, 0.2, 0.4),
    "resnet": (0.05, 0.1, 0.2, 0.4),
    "l1 constant": (0.0001, 0.001, 0.01, 0.03, 0.1, 0.33),
    "thinet constant": (0.0001, 0.001, 0.01, 0.03, 0.1, 0.33),
    "regression constant": (0.001, 0.01, 0.03, 0.1, 0.33, 1.1),
    "slimming constant": (0.0001, 0.001, 0.01, 0.03, 0.1, 0.33),
    "structures constant": (0.001, 0.01, 0.03, 0.1),
    "magnitude constant": (0.001, 0.01, 0.03, 0.1),
    "l1 falling": (0.0027, 0.009, 0.03, 0.1, 0.3, 0.9),
    "thinet falling": (0.0027, 0.009, 0.03, 0.1, 0.3, 0.9),
    "regression falling": (0.009, 0.03, 0.1, 0.3, 0.9, 2.7),
    "slimming falling": (0.0027, 0.009, 0.03, 0.1, 0.3, 0.9),
    "structures falling": (0.03, 0.1, 0.3, 0.9),
    "magnitude falling": (0.03, 0.1, 0.3, 0.9),
    "predefined e": (0.017, 0.05, 0.15, 0.45, 1.35, 4.1),
    "predefined b": (0.05, 0.15, 0.45, 1.35, 4.1, 12.0),
    "structures scratch": (0.05, 0.15, 0.45, 1.35),
    "magnitude scratch": (0.05, 0.15, 0.45, 1.35),
}
"""The paper tunes at a constant 0.001 where its dense nets are trained at 0.1."""
REPLICATES = (900, 901, 902)


def of(name: str) -> str:
    """The kind of net a way to prune is tried on."""
    return "resnet" if name == "structures" else "vgg"


def cell(arm: str, seed: int, name: str = "", **more: Any) -> Cell:
    """A cell of a way to prune, with its dense net's rate."""
    net = of(name)
    rate = RATES["resnet" if net == "resnet" else "dense"]
    knobs: dict[str, Any] = {"dense_lr": rate} | more
    return Cell(arm, seed, net=net, method=name, **knobs)


def shares(name: str) -> tuple[float, ...]:
    """What a way to prune keeps: of the MACs, or of the convolution weights."""
    return WEIGHTS if name == "magnitude" else MACS


def family(name: str) -> str:
    """Whose nets from scratch stand beside a way to prune."""
    return "predefined" if name in PREDEFINED else name


def tuned(name: str, seed: int, keep: float, how: str, **more: Any) -> Cell:
    """A pruned net, tuned at a ``constant`` rate or a ``falling`` one."""
    rate: dict[str, Any] = {"lr": RATES[f"{name} {how}"]}
    return cell("tuned", seed, name, keep=keep, how=how, **(rate | more))


def scratch_role(name: str, how: str) -> str:
    """Whose rate a net from scratch has: found widths are trained like given ones of equal size."""
    if name in ("predefined", "slimming"):
        return f"predefined {how}"
    return f"{name} scratch"


def scratch(name: str, seed: int, keep: float, how: str, **more: Any) -> Cell:
    """A shape of a family from random weights: Scratch-E (``e``) or Scratch-B (``b``)."""
    rate: dict[str, Any] = {"lr": RATES[scratch_role(name, how)]}
    return cell("scratch", seed, name, keep=keep, how=how, **(rate | more))


def design(name: str, seed: int, keep: float = SMALLEST) -> Cell:
    """Found, uniform or guided widths of one size."""
    return cell("designed", seed, name, keep=keep, lr=RATES["predefined e"])


def ticket(how: str, seed: int, rate: float) -> Cell:
    """A net under a ticket's mask; ``rate`` trains it and the dense net that the mask is from."""
    return cell("ticket", seed, keep=TICKET, how=how, dense_lr=rate)


def small(rate: float) -> float:
    """The small rate of the lottery tickets: a tenth of the large one, as in the paper."""
    return round(rate / 10, 6)


def _cells(name: str) -> Callable[[int, float], list[Cell]]:
    """Replicate and rate → the cells that decide a role's rate."""
    what, _, how = name.rpartition(" ")
    if not what:
        net = "resnet" if name == "resnet" else "vgg"
        return lambda s, lr: [Cell("dense", s, net=net, dense_lr=lr)]
    if how in TUNINGS:
        keep = SPARSEST if what == "magnitude" else HALF
        return lambda s, lr: [tuned(what, s, keep, how, lr=lr)]
    if how == "scratch":
        keep = SPARSEST if what == "magnitude" else HALF
        return lambda s, lr: [scratch(what, s, keep, "e", lr=lr)]
    return lambda s, lr: [scratch(what, s, HALF, how, lr=lr)]


def _role(name: str) -> Role:
    what = name.partition(" ")[0]
    apart = " " not in name or what in ("structures", "magnitude")
    return Role(name, _cells(name), TRIED[name], what if apart else "channels", "val_re")


ROLES = tuple(map(_role, TRIED))
"""Chosen at the middle shape, for masks at the sparsest. What is compared tries equally many."""


# ---- grids


def dense(seed: int, name: str = "", **more: Any) -> Cell:
    """The dense net that a way to prune starts from."""
    return replace(cell("dense", seed, name, **more), method="")


def _firm(seed: int) -> list[Cell]:
    """What is near nothing: ℓ1 and ThiNet against scratch, and the tickets."""
    large = RATES["dense"]
    return [
        dense(seed),
        *(tuned(name, seed, k, how) for name in ("l1", "thinet") for k in MACS for how in TUNINGS),
        *(scratch("predefined", seed, k, how) for k in MACS for how in "eb"),
        *(ticket(how, seed, rate) for how in INITS for rate in (large, small(large))),
    ]


def _others(seed: int) -> list[Cell]:
    cells = [dense(seed, "structures"), cell("longer", seed, how="falling", lr=RATES["l1 falling"])]
    cells += [cell("sparse", seed, "structures")]
    for name in METHODS[2:]:
        cells += [
            tuned(name, seed, k, how) for k in shares(name) for how in ("constant", "falling")
        ]
        if name not in PREDEFINED:
            cells += [scratch(name, seed, k, how) for k in shares(name) for how in "eb"]
    return cells


def _designs(seed: int) -> list[Cell]:
    return [cell("sparse", seed, "slimming"), *(design(name, seed) for name in DESIGNS)]


def _study() -> list[Cell]:
    parts = {_firm: SEEDS, _designs: DESIGNED, _others: FEW}
    cells = [c for part, seeds in parts.items() for s in range(seeds) for c in part(s)]
    # nets that others start from first, so that no two workers train the same one
    first = {"dense": 0, "sparse": 1, "ticket": 2}
    return sorted(cells, key=lambda c: (first.get(c.arm, 4), c.how))


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0: one shape of the ℓ1 norm, and the sparsest mask."""
    cells = [dense(0), *(tuned("l1", 0, HALF, how) for how in TUNINGS)]
    cells += [scratch("predefined", 0, HALF, how) for how in "eb"]
    cells += [tuned("magnitude", 0, SPARSEST, how) for how in TUNINGS]
    return [*cells, scratch("magnitude", 0, SPARSEST, "e")]


def _smoke() -> list[Cell]:
    """A fifth of an epoch of what the page draws from a fresh run."""
    cells = [dense(0), tuned("l1", 0, HALF, "constant"), scratch("predefined", 0, HALF, "b")]
    return [replace(c, epochs=0.2) for c in cells]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def after(rows: Rows, name: str, keep: float, how: str, of_: str = "test_re") -> float:
    """Accuracy of a pruned net after its tuning, statistics re-estimated as everywhere here."""
    return rows.one(arm="tuned", net=of(name), method=name, keep=keep, how=how)[of_]


def anew(rows: Rows, name: str, keep: float, how: str, of_: str = "test_re") -> float:
    """A number of a family's net from scratch: accuracy, statistics re-estimated."""
    return rows.one(arm="scratch", net=of(name), method=name, keep=keep, how=how)[of_]


def b_over(rows: Rows, name: str, how: str) -> float:
    """Mean over three shapes of accuracy, Scratch-B minus pruned and tuned."""
    return mean(anew(rows, family(name), k, "b") - after(rows, name, k, how) for k in shares(name))


def scratch_b_over_tuned(rows: Rows) -> float:
    """ℓ1 shapes: Scratch-B minus tuned at a constant rate, mean over three shapes."""
    return b_over(rows, "l1", "constant")


def scratch_b_over_falling(rows: Rows) -> float:
    """ℓ1 shapes: Scratch-B minus tuned at a falling rate, mean over three shapes."""
    return b_over(rows, "l1", "falling")


def scratch_b_over_thinet(rows: Rows) -> float:
    """The same shapes: Scratch-B minus ThiNet's choice, tuned at a falling rate."""
    return b_over(rows, "thinet", "falling")


def scratch_b_over_slimmed(rows: Rows) -> float:
    """Shapes that slimming finds: Scratch-B minus tuned at a constant rate."""
    return b_over(rows, "slimming", "constant")


def scratch_b_over_structures(rows: Rows) -> float:
    """Residual nets without some branches: Scratch-B minus tuned at a constant rate."""
    return b_over(rows, "structures", "constant")


def scratch_b_over_e(rows: Rows) -> float:
    """ℓ1 shapes: Scratch-B minus Scratch-E, mean over three shapes."""
    return mean(anew(rows, "predefined", k, "b") - anew(rows, "predefined", k, "e") for k in MACS)


def tuned_over_masked_scratch(rows: Rows) -> float:
    """5 % of the convolution weights: tuned at a constant rate minus Scratch-E under the mask."""
    tuned_ = after(rows, "magnitude", SPARSEST, "constant")
    return tuned_ - anew(rows, "magnitude", SPARSEST, "e")


def falling_over_constant(rows: Rows) -> float:
    """ℓ1 shapes: tuned at a falling rate minus at a constant one, mean over three shapes."""
    return mean(after(rows, "l1", k, "falling") - after(rows, "l1", k, "constant") for k in MACS)


def _designed(rows: Rows, name: str) -> float:
    return rows.one(arm="designed", method=name, keep=SMALLEST)["test_re"]


def discovered_over_uniform(rows: Rows) -> float:
    """25 % of the parameters: accuracy of found widths minus uniform ones, both from scratch."""
    return _designed(rows, "found") - _designed(rows, "uniform")


def guided_over_uniform(rows: Rows) -> float:
    """25 % of the parameters: accuracy of guided widths minus uniform ones, both from scratch."""
    return _designed(rows, "guided") - _designed(rows, "uniform")


def under_mask(rows: Rows, how: str, *, large: bool) -> float:
    """Accuracy of a net under a ticket's mask, at the large rate or at the small one."""
    found = rows.all(arm="ticket", keep=TICKET, how=how)
    by_rate = {n["config"]["dense_lr"]: n["test_re"] for n in found}
    if len(by_rate) != 2:
        raise LookupError(f"tickets at {sorted(by_rate)}; two rates are compared")
    return by_rate[max(by_rate) if large else min(by_rate)]


def ticket_gain(rows: Rows, *, large: bool) -> float:
    """Accuracy of a ticket minus that of random weights of equal scale, under the same mask."""
    return under_mask(rows, "own", large=large) - under_mask(rows, "fresh", large=large)


def ticket_gain_large_rate(rows: Rows) -> float:
    """The gain of a ticket at the large rate."""
    return ticket_gain(rows, large=True)


def ticket_interaction(rows: Rows) -> float:
    """The gain of a ticket at the small rate minus the gain at the large one."""
    return ticket_gain(rows, large=False) - ticket_gain(rows, large=True)


def corrected_over_fresh(rows: Rows) -> float:
    """Random weights under a ticket's mask: corrected spread minus dense one, mean of two rates."""
    return mean(
        under_mask(rows, "corrected", large=x) - under_mask(rows, "fresh", large=x)
        for x in (True, False)
    )


def worst_budget(rows: Rows) -> float:
    """Largest part of the dense training's MACs that a shape's Scratch-B leaves unspent."""
    return max(abs(1 - anew(rows, "predefined", k, "b", "spent")) for k in MACS)


FREE = ("dense_lr", "lr")
STATISTICS = statistics(
    Cell, scratch_b_over_tuned, scratch_b_over_e, tuned_over_masked_scratch,
    discovered_over_uniform, ticket_gain_large_rate, ticket_interaction, scratch_b_over_thinet,
    scratch_b_over_slimmed, scratch_b_over_structures, scratch_b_over_falling,
    falling_over_constant, guided_over_uniform, corrected_over_fresh, worst_budget, free=FREE,
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        "scratch_b_over_tuned": {
            "tuned at a falling rate": scratch_b_over_falling,
            "Scratch-E in its place": lambda r: mean(
                anew(r, "predefined", k, "e") - after(r, "l1", k, "constant") for k in MACS
            ),
        },
        "scratch_b_over_falling": {
            "tuned at a constant rate": scratch_b_over_tuned,
            "Scratch-E in its place": lambda r: mean(
                anew(r, "predefined", k, "e") - after(r, "l1", k, "falling") for k in MACS
            ),
        },
        "scratch_b_over_thinet": {
            "tuned at a constant rate": lambda r: b_over(r, "thinet", "constant"),
        },
        "scratch_b_over_slimmed": {
            "tuned at a falling rate": lambda r: b_over(r, "slimming", "falling"),
        },
        "scratch_b_over_structures": {
            "tuned at a falling rate": lambda r: b_over(r, "structures", "falling"),
        },
    },
    free=FREE,
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
