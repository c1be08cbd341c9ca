"""Luo et al. (2017): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import (
    MissingArm,
    Role,
    Rows,
    instead,
    mean,
    statistics,
    tune_grid,
)
from survey_lib.experiments.thinet.cells import Cell
from survey_lib.experiments.thinet.layers import SCHEMES, explored_layers

SHARES = (0.7, 0.5, 0.3)
"""The shares kept, r."""
HALF, TIGHT = 0.5, 0.3
SEEDS, FEW = 8, 5
"""Replicates of what is near nothing (scratch, the choices before tuning), and of the others."""
CHOICES = ("thinet", "weight_sum", "random")
"""Ways to choose that are crossed with the repair …"""
OTHERS = ("apoz", "forward")
"""… and more of them, before tuning only; forward selection always brings its own scalars."""
EXPLORED = "features.6"
"""Layer of the shipped net that the explorer opens with."""

RATES = {
    "dense": 0.2,
    "thinet": 0.1,
    "weight_sum": 0.05,
    "random": 0.05,
    "scratch": 0.1,
    "head": 0.4,
}
"""The best mean on validation of those tried (``survey run thinet --profile tune``)."""
TRIED = {
    "dense": (0.1, 0.2, 0.4),
    "thinet": (0.025, 0.05, 0.1, 0.2),
    "weight_sum": (0.013, 0.025, 0.05, 0.1),
    "random": (0.013, 0.025, 0.05, 0.1),
    "scratch": (0.05, 0.1, 0.2, 0.4),
    "head": (0.2, 0.4, 0.8),
}
REPLICATES = (900, 901, 902)


def of_net(cell: Cell) -> Cell:
    """The cell with its dense net's rate; the net with batch norm has the standard recipe's."""
    return cell if cell.net == "norm" else replace(cell, dense_lr=RATES["dense"])


def dense(seed: int, net: str = "plain") -> Cell:
    """A dense net; that with an averaging head is trained like the one with the paper's head."""
    return of_net(Cell("dense", seed, net))


def cut(choice: str, seed: int, r: float = HALF, scaled: bool = True, **more: Any) -> Cell:
    """A net cut by some choice, and not tuned unless told so."""
    return of_net(Cell("cut", seed, choice=choice, scaled=scaled, r=r, **more))


def tuned(choice: str, seed: int, r: float = HALF, scaled: bool = True, **more: Any) -> Cell:
    """The same, tuned at the rate of its choice."""
    knobs: dict[str, Any] = {"lr": RATES[choice]} | more
    return cut(choice, seed, r, scaled, **knobs)


def at_half(arm: str, seed: int, **more: Any) -> Cell:
    """The net with a new head, or the cut shape from scratch, at the rate of its role."""
    knobs: dict[str, Any] = {"lr": RATES[arm]} | more
    return of_net(Cell(arm, seed, r=HALF, **knobs))


ROLES = (
    Role("dense", lambda s, lr: [Cell("dense", s, dense_lr=lr)], TRIED["dense"]),
    *(
        Role(choice, lambda s, lr, c=choice: [tuned(c, s, lr=lr)], TRIED[choice], "tuned")
        for choice in CHOICES
    ),
    Role("scratch", lambda s, lr: [at_half("scratch", s, lr=lr)], TRIED["scratch"], "tuned"),
    Role("head", lambda s, lr: [at_half("head", s, lr=lr)], TRIED["head"], "head"),
)
"""Each choice of filters has a rate of its own, found with the scalars and half of the filters."""


# ---- grids


def _is_tuned(choice: str, r: float, scaled: bool, seed: int) -> bool:
    """Which crossed cells are tuned: all at half, the scaled ones at three tenths."""
    if (choice, r, scaled) == ("thinet", HALF, True):
        return True
    return seed < FEW and (r == HALF or (r == TIGHT and scaled))


def crossed(seed: int) -> list[Cell]:
    """Choice × repair × share on the nets without batch norm."""
    return [
        (tuned if _is_tuned(choice, r, scaled, seed) else cut)(choice, seed, r, scaled)
        for choice in CHOICES
        for scaled in (True, False)
        for r in SHARES
    ]


def crossed_norm(seed: int) -> list[Cell]:
    """Choice × repair × share on the nets with batch norm; none is tuned."""
    return [
        Cell("cut", seed, "norm", choice, scaled, r)
        for choice in CHOICES
        for scaled in (True, False)
        for r in SHARES
    ]


def _beside(seed: int) -> list[Cell]:
    """What stands beside them: other choices, the averaging head, greedy against every subset."""
    cells = [cut("apoz", seed, r, scaled) for r in SHARES for scaled in (True, False)]
    cells += [cut("forward", seed, r) for r in SHARES]
    longer = of_net(Cell("longer", seed, lr=RATES["thinet"]))
    return [*cells, longer, at_half("head", seed), of_net(Cell("greedy", seed))]


def explored() -> list[Cell]:
    """The grid behind the explorer: layer × rows, at every share."""
    return [
        Cell("layer", 0, "norm", layer=name, images=images, pairs=pairs)
        for name in explored_layers()
        for images, pairs in SCHEMES
    ]


def _study() -> list[Cell]:
    cells = [dense(s) for s in range(SEEDS)] + [at_half("scratch", s) for s in range(SEEDS)]
    cells += [dense(s, net) for s in range(FEW) for net in ("averaged", "norm")]
    cells += [c for s in range(SEEDS) for c in crossed(s)]
    cells += [c for s in range(FEW) for c in (*_beside(s), *crossed_norm(s))]
    # dense nets first, so that no two workers train the same one; then long cells before short ones
    order = {"dense": 0, "scratch": 1}
    return sorted(cells, key=lambda c: (order.get(c.arm, 2), not c.lr)) + explored()


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0: half of the filters kept."""
    cells = [dense(0), at_half("scratch", 0), of_net(Cell("greedy", 0))]
    cells += [tuned(choice, 0, HALF, choice == "thinet") for choice in CHOICES]
    cells += [c for c in crossed_norm(0) if c.r == HALF and c.choice != "random"]
    return cells + [c for c in explored() if c.layer == EXPLORED][-1:]


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    cells = [dense(0), cut("thinet", 0), cut("random", 0, scaled=False), Cell("greedy", 0)]
    return [replace(of_net(c), epochs=0.3, images=4, pairs=5) for c in cells]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def _before(
    rows: Rows, choice: str, r: float, scaled: bool, net: str = "plain", of: str = "test"
) -> float:
    """Accuracy of a cut net before tuning; ``of`` names the split, and ``_re`` statistics anew."""
    found = rows.one(arm="cut", net=net, choice=choice, r=r, scaled=scaled)
    return found["before"][of]


def _over(rows: Rows, rival: str, repairs: tuple[bool, ...], **more: Any) -> float:
    """ThiNet's choice minus a rival's before tuning, both repaired alike, mean over the shares."""
    return mean(
        _before(rows, "thinet", r, scaled, **more) - _before(rows, rival, r, scaled, **more)
        for r in SHARES
        for scaled in repairs
    )


def choice_alone(rows: Rows) -> float:
    """Accuracy before tuning, three shares: ThiNet's choice minus weight sum's, none repaired."""
    return _over(rows, "weight_sum", (False,))


def choice_with_scalars(rows: Rows) -> float:
    """Accuracy before tuning, three shares: ThiNet's choice minus weight sum's, both repaired."""
    return _over(rows, "weight_sum", (True,))


def choice_with_norm(rows: Rows) -> float:
    """Batch norm, statistics anew: ThiNet's choice minus weight sum's, both repairs and shares."""
    return _over(rows, "weight_sum", (False, True), net="norm", of="test_re")


def over_random(rows: Rows) -> float:
    """Accuracy before tuning, three shares: ThiNet's choice minus a random one, both repaired."""
    return _over(rows, "random", (True,))


def _scalars(rows: Rows, net: str, of: str) -> float:
    """Accuracy before tuning with ThiNet's scalars minus without, same channels, three shares."""
    found = [rows.one(arm="cut", net=net, choice="thinet", r=r, scaled=True) for r in SHARES]
    return mean(n["before"][of] - n["same_channels"][of] for n in found)


def rescaling_gain(rows: Rows) -> float:
    """Accuracy before tuning, three shares: with ThiNet's scalars minus without, same channels."""
    return _scalars(rows, "plain", "test")


def rescaling_gain_with_norm(rows: Rows) -> float:
    """The same in nets with batch norm, statistics estimated anew on both sides."""
    return _scalars(rows, "norm", "test_re")


def fresh_statistics_over_scalars(rows: Rows) -> float:
    """Batch norm, three shares, same channels: statistics anew, no scalars, minus scalars alone."""
    found = [rows.one(arm="cut", net="norm", choice="thinet", r=r, scaled=True) for r in SHARES]
    return mean(n["same_channels"]["test_re"] - n["before"]["test"] for n in found)


def _after(rows: Rows, choice: str, r: float, scaled: bool) -> float:
    """Accuracy of a cut net after tuning.

    Raises:
        MissingArm: it was not tuned.
    """
    found = rows.one(arm="cut", choice=choice, r=r, scaled=scaled)
    if "test" not in found:
        raise MissingArm(f"{choice} at {r:g} was not tuned in this replicate")
    return found["test"]


def choice_after_tuning(rows: Rows) -> float:
    """Accuracy after tuning, half kept: ThiNet's choice minus weight sum's, both repairs."""
    return mean(
        _after(rows, "thinet", HALF, scaled) - _after(rows, "weight_sum", HALF, scaled)
        for scaled in (True, False)
    )


def over_random_after_tuning(rows: Rows) -> float:
    """Accuracy after tuning, three tenths kept: ThiNet's choice minus a random one, both scaled."""
    return _after(rows, "thinet", TIGHT, True) - _after(rows, "random", TIGHT, True)


def greedy_worst(rows: Rows) -> float:
    """Greedy over best objective: the worst layer, draw and share of one net."""
    return max(all_ratios(rows.one(arm="greedy")))


def all_ratios(numbers: dict[str, Any]) -> Iterator[float]:
    """Greedy over best objective in every layer, share and draw of one net."""
    for by_share in numbers["ratios"].values():
        for values in by_share.values():
            yield from values


def averaging_head_cost(rows: Rows) -> float:
    """Accuracy of ThiNet-GAP minus that of the dense net with its fully connected head."""
    return rows.one(arm="head", r=HALF)["test"] - rows.one(arm="dense")["test"]


def averaging_head_against_its_own(rows: Rows) -> float:
    """Accuracy of ThiNet-GAP minus that of a dense net trained with an averaging head."""
    own = rows.one(arm="dense", net="averaged")["test"]
    return rows.one(arm="head", r=HALF)["test"] - own


def averaging_head_parameters(rows: Rows) -> float:
    """Share of the dense net's parameters that ThiNet-GAP has not."""
    return 1 - rows.one(arm="head", r=HALF)["params"] / rows.one(arm="dense")["params"]


def tuned_over_scratch(rows: Rows) -> float:
    """Accuracy of ThiNet's net, tuned, minus that of its shape from scratch, half kept."""
    return _after(rows, "thinet", HALF, True) - rows.one(arm="scratch", r=HALF)["test"]


STATISTICS = statistics(
    Cell, choice_alone, choice_with_scalars, choice_with_norm, over_random, rescaling_gain,
    rescaling_gain_with_norm, fresh_statistics_over_scalars, choice_after_tuning,
    over_random_after_tuning, greedy_worst, averaging_head_cost, averaging_head_against_its_own,
    averaging_head_parameters, tuned_over_scratch, free=("lr", "dense_lr"),
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        "choice_alone": {
            "both repaired": choice_with_scalars,
            "half kept, after tuning": choice_after_tuning,
        },
        "choice_with_scalars": {"none repaired": choice_alone},
        "choice_with_norm": {
            "statistics not re-estimated": lambda r: _over(
                r, "weight_sum", (False, True), net="norm"
            ),
        },
        "over_random": {
            "none repaired": lambda r: _over(r, "random", (False,)),
            "three tenths kept, after tuning": over_random_after_tuning,
        },
        "rescaling_gain_with_norm": {
            "statistics not re-estimated": lambda r: _scalars(r, "norm", "test"),
        },
    },
    free=("lr", "dense_lr"),
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
