"""Liu et al. (2021): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import MissingArm, Role, Rows, instead, statistics, tune_grid
from survey_lib.experiments.group_fisher.cells import HALF, QUARTER, Cell

SEEDS, OTHER_SEEDS = 5, 3
"""Replicates of the claims, and of the depthwise and the grouped net's paths."""
REPLICATES = (900, 901, 902)

RATES = {"dense": 1.2, "paths": 0.1, "cut at once": 0.3}
"""The best mean on validation of those tried (``survey run group_fisher --profile tune``)."""
TRIED = {
    "dense": (0.025, 0.1, 0.4, 1.2, 3.6),
    "paths": (0.03, 0.1, 0.3, 0.9),
    "cut at once": (0.03, 0.1, 0.3, 0.9),
}
"""Rates tried, by role."""

VARIANTS: dict[str, dict[str, Any]] = {
    "M": {"per": "activations"},
    "F": {"per": "macs"},
    "U": {"per": ""},
    "I": {"per": "activations", "coupled": False},
    "R": {"per": "activations", "score": "random"},
}
"""The paper's ablations, as it calls them; R is ours: M with random scores."""
OTHER = ("mobilenet", "resnext")
ALPHAS = (0.0, 0.5, 1.0)
"""Exponents of Δ that the explorer offers."""


def path(name: str, seed: int, net: str = "resnet", **more: Any) -> Cell:
    """A path of one of the variants, tuned where it is cut."""
    knobs: dict[str, Any] = {"lr": RATES["paths"]} | VARIANTS[name]
    return of_net(Cell("path", seed, net, **(knobs | more)))


def of_net(cell: Cell) -> Cell:
    """The cell with its dense net's rate: that chosen here, or the other nets' own recipes."""
    return replace(cell, dense_lr=RATES["dense"]) if cell.net == "resnet" else cell


def at_once(arm: str, seed: int, **more: Any) -> Cell:
    """Units cut at once, at half of the MACs unless told otherwise."""
    knobs: dict[str, Any] = {"lr": RATES["cut at once"]} | more
    return of_net(Cell(arm, seed, **knobs))


def longer(seed: int, **more: Any) -> Cell:
    """The dense net, trained on like the paths: it has converged, and the less the better."""
    knobs: dict[str, Any] = {"lr": RATES["paths"]} | more
    return of_net(Cell("longer", seed, **knobs))


ROLES = (
    Role("dense", lambda s, lr: [Cell("dense", s, dense_lr=lr)], TRIED["dense"]),
    Role("paths", lambda s, lr: [path(n, s, lr=lr) for n in "MU"], TRIED["paths"], "after"),
    Role("cut at once", lambda s, lr: [at_once("l1", s, lr=lr)], TRIED["cut at once"], "after"),
)  # fmt: skip
"""M and U decide for all paths, the ℓ1 norm for what is cut at once."""


# ---- grids


def _claims(seed: int) -> list[Cell]:
    return [
        of_net(Cell("dense", seed)),
        *(path(name, seed, to=QUARTER) for name in "MFU"),
        *(path(name, seed) for name in "IR"),
        longer(seed),
        *(at_once(arm, seed) for arm in ("l1", "random")),
        of_net(Cell("ranking", seed)),
    ]


def _others(seed: int) -> list[Cell]:
    """The depthwise and the grouped net, at the residual net's rates."""
    cells = [Cell("dense", seed, "mobilenet"), Cell("ranking", seed, "mobilenet")]
    if seed < OTHER_SEEDS:
        cells.append(Cell("dense", seed, "resnext"))
        cells += [path(name, seed, net) for net in OTHER for name in "MFU"]
    return cells


def explored() -> list[Cell]:
    """Paths of dense net 0: coupling × what Δ counts × α; M, F and U are those of the claims."""
    known = {(c.per, c.alpha, c.coupled): c for c in (path(n, 0, to=QUARTER) for n in "MFU")}
    cells = []
    for coupled in (True, False):
        for per, alpha in [("", 1.0), *((p, a) for p in ("activations", "macs") for a in (0.5, 1))]:
            knobs: dict[str, Any] = {"per": per, "alpha": float(alpha), "coupled": coupled}
            plain = of_net(Cell("path", 0, to=QUARTER, **knobs))
            cells.append(known.get((per, alpha, coupled), plain))
    return cells


def _study() -> list[Cell]:
    cells = [c for s in range(SEEDS) for c in (*_claims(s), *_others(s))] + explored()
    # dense nets first, so that no two workers train the same one
    return sorted(dict.fromkeys(cells), key=lambda c: (c.arm != "dense", c.net == "resnet"))


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0."""
    wanted = [path(name, 0, to=QUARTER) for name in "MF"] + [at_once("l1", 0)]
    return [c for c in _claims(0) if c.arm in ("dense", "ranking") or c in wanted]


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    return [
        of_net(Cell("dense", 0)),
        *(path(name, 0, to=0.9, lr=0.0) for name in "MF"),
    ]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


def variant_of(config: Mapping[str, Any]) -> str:
    """The paper's name of a path's settings, or nothing."""
    plain = {"coupled": True, "alpha": 1.0, "score": "fisher"}
    for name, wanted in VARIANTS.items():
        if all(config[k] == v for k, v in (plain | wanted).items()):
            return name
    return ""


# ---- what is asked: rows of one replicate → a number


def variant(rows: Rows, name: str, net: str = "resnet") -> dict[str, Any]:
    """Numbers of the tuned path of a variant.

    Raises:
        MissingArm: there is none.
    """
    cell = path(name, 0, net)
    end = QUARTER if net == "resnet" and name in "MFU" else HALF
    wanted = {k: getattr(cell, k) for k in ("net", "per", "coupled", "score")}
    found = [n for n in rows.all(arm="path", to=end, **wanted) if n["config"]["lr"]]
    if len(found) != 1:
        raise MissingArm(f"{len(found)} tuned paths of {name} on {net}")
    return found[0]


def flops_over_memory_activations(rows: Rows) -> float:
    """Activations at half of the MACs: pruned per operation over pruned per memory."""
    return variant(rows, "F")["activations"] / variant(rows, "M")["activations"]


def memory_over_flops_accuracy(rows: Rows) -> float:
    """Accuracy at half of the MACs, tuned: pruned per memory minus pruned per operation."""
    return variant(rows, "M")["test"] - variant(rows, "F")["test"]


def memory_beside_flops_accuracy(rows: Rows) -> float:
    """The same, asked from both sides."""
    return memory_over_flops_accuracy(rows)


def memory_over_raw_at_a_quarter(rows: Rows) -> float:
    """Accuracy at a quarter of the MACs, tuned: pruned per memory minus by raw scores."""
    return variant(rows, "M")["quarter"]["test"] - variant(rows, "U")["quarter"]["test"]


def raw_over_memory_parameters(rows: Rows) -> float:
    """Parameters at half of the MACs: pruned by raw scores over pruned per memory."""
    return variant(rows, "U")["params"] / variant(rows, "M")["params"]


def internal_over_coupled_activations(rows: Rows) -> float:
    """Activations at half of the MACs: inside blocks only over everywhere."""
    return variant(rows, "I")["activations"] / variant(rows, "M")["activations"]


def _correlation_gap(rows: Rows, one: str, other: str, net: str = "resnet") -> float:
    numbers = rows.one(arm="ranking", net=net)
    return numbers[f"rho_{one}"] - numbers[f"rho_{other}"]


def sum_first_in_the_residual_net(rows: Rows) -> float:
    """Units with several copies, residual net: correlation summed first minus squared first."""
    return _correlation_gap(rows, "shared_fisher", "shared_square_first")


def sum_first_in_the_depthwise_net(rows: Rows) -> float:
    """Units with several copies, depthwise net: correlation summed first minus squared first."""
    return _correlation_gap(rows, "shared_fisher", "shared_square_first", "mobilenet")


def fisher_over_taylor(rows: Rows) -> float:
    """Rank correlation with the true rise, residual net: Fisher's minus the Taylor score's."""
    return _correlation_gap(rows, "fisher", "taylor")


def scores_over_random(rows: Rows) -> float:
    """Accuracy at half of the MACs, tuned: M minus the same path by random scores."""
    return variant(rows, "M")["test"] - variant(rows, "R")["test"]


def path_over_l1(rows: Rows) -> float:
    """Accuracy at half of the MACs, equal steps: M minus filters cut at once by their ℓ1 norm."""
    return variant(rows, "M")["test"] - rows.one(arm="l1")["test"]


STATISTICS = statistics(
    Cell, flops_over_memory_activations, memory_over_flops_accuracy, memory_beside_flops_accuracy,
    memory_over_raw_at_a_quarter, raw_over_memory_parameters, internal_over_coupled_activations,
    sum_first_in_the_residual_net, sum_first_in_the_depthwise_net, fisher_over_taylor,
    scores_over_random, path_over_l1, free=("lr", "dense_lr"),
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        "memory_over_flops_accuracy": {
            "statistics re-estimated": lambda r: (
                variant(r, "M")["test_re"] - variant(r, "F")["test_re"]
            ),
        },
        "scores_over_random": {
            "statistics re-estimated": lambda r: (
                variant(r, "M")["test_re"] - variant(r, "R")["test_re"]
            ),
        },
        "path_over_l1": {
            "statistics re-estimated": lambda r: (
                variant(r, "M")["test_re"] - r.one(arm="l1")["test_re"]
            ),
        },
    },
    free=("lr", "dense_lr"),
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
