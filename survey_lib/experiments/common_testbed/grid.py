"""The common testbed: which runs it takes, in pieces, and at which learning rates.

The grid is run in pieces. :data:`RUN` names those that have been asked for; the page says which
they are. To go on, add the next piece's name and run the profiles ``tune`` and ``study`` again
with ``--missing``: nothing that is done is run anew. A piece of :data:`RATED` stops between them.
Methods come from the registry; one that is entered later joins every piece of its kind.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from survey_lib.evidence.protocol import Role, best_rate, by_cell, tune_grid
from survey_lib.evidence.reading import study as recorded
from survey_lib.experiments.common_testbed.cells import METRICS, Cell, task_of
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import GraphError, trace_groups
from survey_lib.methods.contract import METHODS
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import RECIPES

SLUG = "common_testbed"
SEEDS = 5
FULL = 6.0
"""Epochs of the longest tuning; further ones would gain the dense net less than half a point."""
LENGTHS = (0.0, 1.0, 3.0, FULL)
SMALL, HALF = 0.15, 0.5
SPARSE = 0.05
KNOBS = (0.25, 1.0, 4.0, 16.0)
"""Settings of a method that is steered by its outcome, in defaults of its knob."""
RANDOM, MAGNITUDE = "random", "l1"
"""The opponents that every difference is told against."""
REPLICATES = (900, 901, 902)


@dataclass(frozen=True)
class Piece:
    """A part of the grid that is run by itself."""

    name: str
    net: str
    kinds: tuple[str, ...]
    lengths: tuple[float, ...]
    sizes: tuple[float, ...] = ()
    """What methods that are steered by a budget keep."""
    knobs: tuple[float, ...] = ()
    """Where those that are steered by their outcome are set."""
    beside: tuple[str, ...] = ()
    """What stands beside the methods: the dense net trained on (``longer``), one shape for all with
    inherited weights, or with fresh ones for equal epochs (``e``) or equal MACs (``b``)."""
    minutes: int = 0
    """Core-minutes that rates and study take, about."""


_CHANNELS = ("channels",)
_BESIDE = ("longer", "inherited")
_NEURONS = (HALF, 0.35, 0.275, 0.2)
"""Two between the ends leave channels and weights just within the bytes of a net of eight bits."""
PIECES = (
    Piece("resnet", "resnet_small", _CHANNELS, (0.0, FULL), (HALF, SMALL), beside=_BESIDE,
          minutes=210),
    Piece("one epoch", "resnet_small", _CHANNELS, (1.0,), (HALF, SMALL), beside=_BESIDE,
          minutes=40),
    Piece("three epochs", "resnet_small", _CHANNELS, (3.0,), (HALF, SMALL), beside=_BESIDE,
          minutes=95),
    Piece("fresh", "resnet_small", (), (), (HALF, SMALL), beside=("e", "b"), minutes=98),
    Piece("mobilenet at 15 %", "mobilenet_small", _CHANNELS, (0.0, FULL), (SMALL,),
          beside=_BESIDE, minutes=185),
    Piece("mobilenet untuned", "mobilenet_small", _CHANNELS, (0.0,), (HALF,), minutes=31),
    Piece("mobilenet at half", "mobilenet_small", _CHANNELS, (FULL,), (HALF,), beside=_BESIDE,
          minutes=183),
    Piece("weights", "resnet_small", ("weights",), (0.0, 1.0, FULL), (0.5, 0.2, 0.1, SPARSE, 0.02),
          minutes=90),
    Piece("at 30 %", "resnet_small", _CHANNELS, (0.0, FULL), (0.3,), beside=_BESIDE, minutes=34),
    Piece("at 70 %", "resnet_small", _CHANNELS, (0.0, FULL), (0.7,), beside=_BESIDE, minutes=50),
    Piece("adapters", "resnet_small", ("adapters",), (0.0, FULL), (HALF, SMALL), minutes=9),
    Piece("outcome", "resnet_small", ("channels", "weights"), (FULL,), knobs=KNOBS, minutes=62),
    Piece("neurons", "char_gpt", ("channels", "weights"), (0.25,), _NEURONS,
          beside=("inherited",), minutes=75),
    Piece("bits", "char_gpt", ("bits",), (0.0,), knobs=(1.0,), minutes=1),
    Piece("vgg", "vgg_small", _CHANNELS, (0.0, FULL), (HALF,), beside=_BESIDE, minutes=223),
)  # fmt: skip
RUN = (
    "resnet",
    "one epoch",
    "three epochs",
    "fresh",
    "mobilenet at 15 %",
    "mobilenet untuned",
    "mobilenet at half",
    "weights",
    "at 30 %",
    "at 70 %",
    "adapters",
    "outcome",
    "neurons",
    "bits",
    "vgg",
)
"""Names of the pieces that rates and study hold so far."""
RATED: tuple[str, ...] = ()
"""Names of further pieces whose rates are searched before their study is run."""


def pieces() -> tuple[Piece, ...]:
    """Those that have been asked for, in the order of :data:`PIECES`."""
    return tuple(p for p in PIECES if p.name in RUN)


# ---- who takes part


@lru_cache(maxsize=64)
def able(net: str, kind: str, steers: str, least: float = SMALL) -> tuple[str, ...]:
    """Names of the methods of a kind that can work on a net, by their own word, nothing trained."""
    task = task_of(Cell("dense", 0, net))
    model = task.build(seeded(0))
    graph = trace_groups(model, task.example(1))
    budget = Budget(METRICS[kind], least) if steers == "budget" else None
    found = []
    for name, entry in METHODS.items():
        if (entry.kind, entry.steers) != (kind, steers):
            continue
        module, config = entry.load(), entry.config()
        try:
            if reach := getattr(module, "reach", None):
                reach(graph, budget, config)
            if check := getattr(module, "check", None):
                check(model, graph, task, config)
        except (GraphError, ValueError):
            continue
        found.append(name)
    return tuple(found)


def methods(piece: Piece) -> list[str]:
    """Who takes part in a piece, at one of its sizes at least."""
    ways = [("budget", piece.sizes), ("outcome", piece.knobs)]
    return [
        name
        for kind in piece.kinds
        for steers, points in ways
        if points
        for name in able(piece.net, kind, steers, max(piece.sizes, default=SMALL))
    ]


def points(piece: Piece, name: str) -> list[dict[str, Any]]:
    """The sizes within its reach, or the settings, at which a method is run in a piece."""
    kind, steers = METHODS[name].kind, METHODS[name].steers
    if steers == "budget":
        return [{"keep": k} for k in piece.sizes if name in able(piece.net, kind, steers, k)]
    return [{"knob": knob} for knob in piece.knobs]


# ---- learning rates

LADDER = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
"""Learning rates that may be tried, in rates of the dense net's own recipe."""
TUNED: dict[tuple[str, str], tuple[float, ...]] = {
    ("resnet_small", "channels"): (HALF, SMALL),
    ("resnet_small", "fresh"): (HALF, SMALL),
    ("resnet_small", "weights"): (0.2, SPARSE),
    ("resnet_small", "adapters"): (HALF, SMALL),
    ("mobilenet_small", "channels"): (HALF, SMALL),
    ("vgg_small", "channels"): (HALF,),
    ("char_gpt", "channels"): (HALF, 0.2),
    ("char_gpt", "weights"): (HALF, 0.2),
}
"""Net and kind → the sizes at which rates are chosen. A net of another size takes the rate of the
nearest of them by ratio, of the smaller where two are as near."""
TRIES: dict[str, int] = {
    "resnet_small channels 6 at 0.15": 4,
    "resnet_small longer 6": 4,
    "resnet_small fresh 16 at 0.15": 5,
    "resnet_small weights 6 at 0.2": 4,
    "resnet_small weights 6 at 0.05": 4,
    "resnet_small weights 1 at 0.05": 5,
    "resnet_small weights 1 at 0.2": 4,
    "resnet_small adapters 6 at 0.5": 4,
    "resnet_small channels 6 at 0.5": 5,
    "resnet_small fresh 16 at 0.5": 5,
    "resnet_small longer 1": 4,
    "resnet_small channels 1 at 0.5": 4,
    "resnet_small channels 1 at 0.15": 5,
    "mobilenet_small channels 6 at 0.15": 5,
    "mobilenet_small channels 6 at 0.5": 5,
    "resnet_small channels 3 at 0.15": 4,
    "resnet_small channels 3 at 0.5": 4,
    "char_gpt channels 0.25 at 0.5": 4,
    "char_gpt channels 0.25 at 0.2": 4,
    "char_gpt weights 0.25 at 0.5": 4,
    "char_gpt weights 0.25 at 0.2": 5,
    "resnet_small channels 6": 4,
    "resnet_small weights 6": 4,
    "vgg_small channels 6 at 0.5": 5,
}
"""Comparison → how many rates each of its roles tries; 3 where nothing is said."""
FIRST: dict[str, int] = {
    "resnet_small adaptive_budget 6 at 0.15": 3,
    "resnet_small l1 6 at 0.15": 3,
    "resnet_small closer_look 6 at 0.5": 2,
    "resnet_small longer 1": 3,
    "resnet_small inherited 1 at 0.5": 3,
    "resnet_small thinet 1 at 0.5": 3,
    "resnet_small l1 1 at 0.5": 3,
    "resnet_small bn_scale 1 at 0.5": 3,
    "resnet_small bn_scale 1 at 0.15": 3,
    "resnet_small adaptive_budget 1 at 0.5": 3,
    "resnet_small weight_sum 1 at 0.5": 3,
    "resnet_small weight_sum 1 at 0.15": 3,
    "resnet_small apoz 1 at 0.15": 3,
    "mobilenet_small adaptive_budget 6 at 0.15": 3,
    "mobilenet_small random 6 at 0.15": 3,
    "mobilenet_small weight_sum 6 at 0.5": 3,
    "resnet_small bn_scale 3 at 0.15": 3,
    "resnet_small adaptive_budget 3 at 0.5": 3,
    "resnet_small apoz 3 at 0.15": 3,
    "mobilenet_small taylor_normalised 6 at 0.5": 3,
    "char_gpt group_fisher 0.25 at 0.5": 3,
    "char_gpt to_prune_or_not 0.25 at 0.5": 3,
    "resnet_small adaptive_activation 6": 3,
    "vgg_small group_fisher 6 at 0.5": 3,
    "vgg_small closer_look 6 at 0.5": 2,
}
"""Role → the first of them, by its place on the ladder; 4 where nothing is said."""


def rate(net: str, place: int) -> float:
    """A rate of the ladder, for a net."""
    return float(f"{RECIPES[net].lr * LADDER[place]:.4g}")


_KINDS = {"longer": "longer", "e": "fresh", "b": "fresh"}
"""What stands beside the methods → whose rates it shares; the channel methods' where nothing is
said. The dense net trained on needs the lowest rates, which are no method's."""


def kind_of(cell: Cell) -> str:
    """Among whom a cell's rate is chosen: a kind of methods, ``fresh`` or ``longer``."""
    if cell.method:
        return METHODS[cell.method].kind
    return _KINDS.get(cell.how or cell.arm, "channels")


def tuned_as(cell: Cell) -> Cell:
    """The cell at the size, or the setting of its knob, at which its rate is chosen."""
    if cell.knob:
        return replace(cell, knob=1.0)
    if cell.arm == "longer":
        return cell
    sizes = sorted(TUNED[cell.net, kind_of(cell)])
    # logarithms are rounded, so that two that are as near tie
    nearest = min(sizes, key=lambda size: round(abs(math.log(size / cell.keep)), 9))
    return replace(cell, keep=nearest)


def _named(who: str, cell: Cell) -> str:
    at = tuned_as(cell).keep
    return f"{cell.net} {who} {cell.epochs:g}" + (f" at {at:g}" if at < 1 else "")


def comparison(cell: Cell) -> str:
    """Whose roles try equally many rates: a kind, at one length and size."""
    return _named(kind_of(cell), cell)


def role_of(cell: Cell) -> str:
    """Name of the role whose rate a cell has; empty where nothing is trained."""
    return _named(cell.method or cell.how or cell.arm, cell) if cell.epochs else ""


def _role(cell: Cell) -> Role:
    name, group, example = role_of(cell), comparison(cell), replace(tuned_as(cell), brief=True)
    first, tries = FIRST.get(name, 4), TRIES.get(group, 3)
    rates = tuple(rate(cell.net, place) for place in range(first, first + tries))
    score, sign = ("val_re", 1) if cell.net != "char_gpt" else ("val", -1)
    if cell.knob:
        score = "merit"
    return Role(name, lambda s, lr: [replace(example, seed=s, lr=lr)], rates, group, score, sign)


def _roles() -> tuple[Role, ...]:
    asked = [piece for piece in PIECES if piece.name in (*RUN, *RATED)]
    trained = [c for piece in asked for c in unrated(piece, 0) if c.epochs]
    return tuple({role_of(cell): _role(cell) for cell in trained}.values())


def _beside(piece: Piece, seed: int) -> list[Cell]:
    """What stands beside the methods of a piece."""
    found = []
    lengths = [n for n in piece.lengths if n]
    for how in piece.beside:
        if how == "longer":
            found += [Cell("longer", seed, piece.net, epochs=n) for n in lengths]
            continue
        own = lengths if how == "inherited" else [float(RECIPES[piece.net].epochs)]
        found += [
            Cell("shape", seed, piece.net, keep=keep, how=how, epochs=n)
            for keep in piece.sizes for n in own
        ]  # fmt: skip
    return found


def unrated(piece: Piece, seed: int) -> list[Cell]:
    """All cells of a piece, of one replicate, without their rates."""
    found = [Cell("dense", seed, piece.net), *_beside(piece, seed)]
    for name in methods(piece):
        lengths = piece.lengths if METHODS[name].trains else (0.0,)
        found += [
            Cell("method", seed, piece.net, name, epochs=length, **at)
            for length in lengths for at in points(piece, name)
        ]  # fmt: skip
    return found


ROLES = _roles()
"""Each method has a rate of its own at each length, and at each size of :data:`TUNED`."""


def _chosen() -> dict[str, float]:
    """The best rate of each role by the committed runs, at an end of its grid, too.

    A role whose runs are not there yet has the middle one. That the best lies inside is held by a
    test, so that an unfinished search can still be read.
    """
    found = by_cell(recorded(SLUG, "tune"), Cell)
    chosen = {}
    for role in ROLES:
        chosen[role.name] = role.rates[len(role.rates) // 2]
        cells = [c for r in role.rates for s in REPLICATES for c in role.cells(s, r)]
        if all(role.score in found.get(c, {}) for c in cells):
            chosen[role.name] = best_rate(role, REPLICATES, found)
    return chosen


RATES = _chosen()
"""The best mean on validation of those tried (``survey run common_testbed --profile tune``)."""


def at_edges() -> tuple[dict[str, int], dict[str, int]]:
    """What :data:`TRIES` and :data:`FIRST` have to say so that no best rate lies at an end.

    One more rate for all roles of a comparison in which one lies there, below or above its own.
    """
    found = by_cell(recorded(SLUG, "tune"), Cell)
    tries, first = dict(TRIES), dict(FIRST)
    best = {role.name: best_rate(role, REPLICATES, found) for role in ROLES}
    for role in ROLES:
        if best[role.name] in (role.rates[0], role.rates[-1]):
            tries[role.comparison] = len(role.rates) + 1
    for role in ROLES:
        below = best[role.name] in role.rates[: (len(role.rates) - 1) // 2]
        if tries.get(role.comparison, 3) > len(role.rates) and below:
            first[role.name] = first.get(role.name, 4) - 1
    return tries, first


# ---- grids


def rated(cell: Cell) -> Cell:
    """The cell at its role's rate."""
    return replace(cell, lr=RATES[role_of(cell)]) if cell.epochs else cell


def cells_of(piece: Piece, seed: int) -> list[Cell]:
    """All cells of a piece, of one replicate, at their rates."""
    return [rated(cell) for cell in unrated(piece, seed)]


def _study() -> list[Cell]:
    found = [c for piece in pieces() for seed in range(SEEDS) for c in cells_of(piece, seed)]
    # dense nets first, so that no two workers train the same one
    return sorted(dict.fromkeys(found), key=lambda c: c.arm != "dense")


def _quick() -> list[Cell]:
    """A slice of the first piece, replicate 0: the two opponents, untuned and tuned in full."""
    first = PIECES[0]
    few = (RANDOM, MAGNITUDE)
    return [Cell("dense", 0, first.net)] + [
        c for c in cells_of(first, 0)
        if c.method in few and c.keep == SMALL
    ]  # fmt: skip


def _smoke() -> list[Cell]:
    """A tenth of an epoch of what the page draws from a fresh run."""
    return [replace(c, epochs=min(c.epochs, 0.1)) for c in _quick() if c.method != RANDOM]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""
