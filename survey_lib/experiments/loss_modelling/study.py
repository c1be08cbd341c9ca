"""Laurent et al. (2020): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log
from typing import Any

import numpy as np
from scipy.stats import rankdata

from survey_lib.evidence.protocol import Role, Rows, statistics, tune_grid
from survey_lib.experiments.loss_modelling.cells import Cell

MODELS = ("LM", "QM", "OBD")
"""The criteria that model the loss; magnitude, random masks and the dense net stand beside."""
SLOPE = ("LM", "QM")
"""Those of them that know the slope."""
FEW, MANY = 14, 140
"""The paper's step counts besides one."""

PENALTIES = {
    ("mlp", 1): {
        "LM": (0.0, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        "QM": (0.0, 1e-2, 1e-1, 1.0, 10.0, 100.0),
        "OBD": (0.0, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
    },
    ("mlp", FEW): {
        "LM": (0.0, 1e-2, 1e-1, 1.0),
        "QM": (0.0, 1e-2, 1e-1, 1.0),
        "OBD": (0.0, 1e-3, 1e-2, 1e-1),
    },
    ("mlp", MANY): {
        "LM": (0.0, 1e-2, 1e-1),
        "QM": (0.0, 1e-2, 1e-1),
        "OBD": (0.0, 1e-3, 1e-2),
    },
    ("cnn", 1): {
        "LM": (0.0, 1e-2, 1e-1, 1.0, 10.0),
        "QM": (0.0, 1e-2, 1e-1, 1.0, 10.0),
        "OBD": (0.0, 1e-3, 1e-2, 1e-1, 1.0),
    },
    ("cnn", FEW): {
        "LM": (0.0, 1e-2, 1e-1, 1.0),
        "QM": (1e-2, 1e-1),
        "OBD": (1e-3, 1e-2),
    },
}
"""λ by net, π and criterion: a decade on either side of the best, where a run is affordable."""
TUNED_UP_TO = 1.0
"""Penalties beyond it all but are magnitude pruning, and are measured before tuning only."""
SEEDS = {"mlp": 10, "cnn": 10}
MANY_STEPS_SEEDS = 5
"""Of the convolutional net in more than one step, where exact curvatures are dear."""
LONGER = 3.0
"""Of some tunings, to see what a longer one would change."""
LONGER_SEEDS = 5

STEPS = (1, FEW, MANY)
EXPLORED = (0.0, 1e-3, 1e-2, 1e-1, 1.0)
"""The explorer's penalties, all of them run on replicate 0 for every model and step count."""

RATES = {"LM": 0.8, "QM": 0.8, "OBD": 0.4, "MP": 0.8, "random": 0.4, "dense": 0.1}
"""The best mean on validation of those tried (``survey run loss_modelling --profile tune``)."""
PRUNED_RATES = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
TRIED = dict.fromkeys((*MODELS, "MP", "random"), PRUNED_RATES) | {
    "dense": (0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2)
}
REPLICATES = (900, 901, 902)


def cell(arm: str, seed: int, pi: int = 1, lam: float = 0.0, **more: Any) -> Cell:
    """A tuned run of the fully connected net, at the rate of its role."""
    knobs: dict[str, Any] = {"lr": RATES[arm]} | more
    return Cell(arm, seed, "mlp", pi, lam, **knobs)


def _role(arm: str) -> Role:
    """A criterion's rate is decided at the method's own settings."""
    pi, lam = (FEW, 1e-2) if arm in MODELS else (1, 0.0)

    def cells(seed: int, lr: float) -> list[Cell]:
        return [cell(arm, seed, pi, lam, lr=lr)]

    return Role(arm, cells, TRIED[arm], "mlp")


ROLES = tuple(_role(arm) for arm in RATES)


# ---- grids


def settings(family: str, arm: str, *steps: int, upto: float = float("inf")) -> list[dict]:
    """What a criterion is run with: π and λ, for the step counts asked for."""
    return [
        {"arm": arm, "family": family, "pi": pi, "lam": lam}
        for pi in steps
        for lam in PENALTIES[family, pi][arm]
        if lam <= upto
    ]


def tuned(*arms: str) -> list[dict]:
    """The settings of the fully connected net that are tuned."""
    found = [s for a in arms if a in MODELS for s in settings("mlp", a, *STEPS, upto=TUNED_UP_TO)]
    return found + [{"arm": a} for a in arms if a not in MODELS]


def _mlp(seed: int) -> list[Cell]:
    """All runs on one fully connected net, long ones first."""
    cells = [
        cell(s["arm"], seed, s["pi"], s["lam"], **({} if s["lam"] <= TUNED_UP_TO else {"lr": 0.0}))
        for pi in reversed(STEPS)
        for arm in ("QM", "OBD", "LM")
        for s in settings("mlp", arm, pi)
    ]
    return cells + [cell(arm, seed) for arm in ("MP", "random", "dense")]


def _cnn(seed: int) -> list[Cell]:
    """All runs on one convolutional net; none is tuned."""
    cells = [
        Cell(seed=seed, **s)
        for pi in ((FEW, 1) if seed not in range(MANY_STEPS_SEEDS, SEEDS["cnn"]) else (1,))
        for arm in ("QM", "OBD", "LM")
        for s in settings("cnn", arm, pi)
    ]
    return [*cells, Cell("MP", seed, "cnn")]


def explored(seed: int = 0) -> list[Cell]:
    """The grid behind the explorer: model × steps × penalty."""
    return [cell(arm, seed, pi, lam) for arm in MODELS for pi in STEPS for lam in EXPLORED]


def _longer(seed: int) -> list[Cell]:
    """Tunings three times as long: magnitude, and the linear model in some steps."""
    return [replace(c, longer=LONGER) for c in (cell("MP", seed), cell("LM", seed, FEW, 1e-1))]


def _study() -> list[Cell]:
    """The CNN first, its long cells before all: each seed's dense net is trained by one of them."""
    cnn = [c for s in range(SEEDS["cnn"]) for c in _cnn(s)]
    cells = sorted(cnn, key=lambda c: -c.pi) + explored()
    cells += [c for s in range(SEEDS["mlp"]) for c in _mlp(s)]
    return list(dict.fromkeys(cells + [c for s in range(LONGER_SEEDS) for c in _longer(s)]))


def _quick() -> list[Cell]:
    """A slice of the study: the MLP of replicate 0, and the longest runs at one penalty."""
    best = {"LM": 1e-2, "QM": 1e-2, "OBD": 1e-3}
    return [c for c in _mlp(0) if c.pi < MANY or c.lam == best[c.arm]]


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    cells = [cell("MP", 0), cell("LM", 0), cell("QM", 0, FEW, 1e-2), cell("dense", 0)]
    return [replace(c, longer=0.1) for c in cells]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def gentlest(rows: Rows, *settings: dict) -> dict[str, Any]:
    """The run whose loss rises least on validation images, among those wanted."""
    return rows.best(settings, by="rise_val", sign=-1)


def most_accurate(rows: Rows, *arms: str) -> dict[str, Any]:
    """The tuned run of the MLP that is most accurate on validation images."""
    return rows.best(tuned(*arms))


def least_rise(rows: Rows, family: str, arm: str, *steps: int) -> float:
    """ΔL of a criterion at its best penalty, on training images the criteria have not seen."""
    return gentlest(rows, *settings(family, arm, *steps))["rise"]


def magnitude(rows: Rows, family: str) -> float:
    """ΔL of magnitude pruning."""
    return rows.one(arm="MP", family=family)["rise"]


def steps_gain(rows: Rows) -> float:
    """MLP: ln of ΔL in one step over ΔL in 140, each at its best λ; smallest of the models."""
    one, many = ({a: least_rise(rows, "mlp", a, pi) for a in MODELS} for pi in (1, MANY))
    return min(log(one[a] / many[a]) for a in MODELS)


def _from_few_to_many(rows: Rows, arm: str) -> float:
    return log(least_rise(rows, "mlp", arm, FEW) / least_rise(rows, "mlp", arm, MANY))


def slope_gains_from_many(rows: Rows) -> float:
    """MLP: ln of ΔL in 14 steps over ΔL in 140, best λ; the smaller of LM's and QM's."""
    return min(_from_few_to_many(rows, arm) for arm in SLOPE)


def obd_gains_from_many(rows: Rows) -> float:
    """MLP: ln of OBD's ΔL in 14 steps over its ΔL in 140, best λ."""
    return _from_few_to_many(rows, "OBD")


def slope_over_steps(rows: Rows) -> float:
    """MLP: ln of OBD's ΔL in 140 steps over QM's in 14, each at its best λ."""
    return log(least_rise(rows, "mlp", "OBD", MANY) / least_rise(rows, "mlp", "QM", FEW))


def _penalty_gain(rows: Rows, family: str, arm: str) -> float:
    """One step: ln of the lesser ΔL, of no penalty and of magnitude, over ΔL at the best λ > 0.

    Magnitude is where an endless penalty leads.
    """
    free, *others = settings(family, arm, 1)
    plain = min(rows.one(**free)["rise"], magnitude(rows, family))
    return log(plain / gentlest(rows, *others)["rise"])


def penalty_gain(rows: Rows) -> float:
    """MLP: what a penalty gains in one step over none and over an endless one; least of all."""
    return min(_penalty_gain(rows, "mlp", arm) for arm in MODELS)


def penalty_gain_cnn(rows: Rows) -> float:
    """CNN: the same, least of the three models."""
    return min(_penalty_gain(rows, "cnn", arm) for arm in MODELS)


def penalty_gain_cnn_obd(rows: Rows) -> float:
    """CNN: the same of optimal brain damage alone."""
    return _penalty_gain(rows, "cnn", "OBD")


def quadratic_over_magnitude(rows: Rows) -> float:
    """MLP: ln of ΔL by magnitude over ΔL by the quadratic model, 140 steps, best λ."""
    return log(magnitude(rows, "mlp") / least_rise(rows, "mlp", "QM", MANY))


def models_over_magnitude_cnn(rows: Rows) -> float:
    """CNN: ln of ΔL by magnitude over ΔL in 14 steps, best λ; smallest of the models."""
    worst = max(least_rise(rows, "cnn", arm, FEW) for arm in MODELS)
    return log(magnitude(rows, "cnn") / worst)


def quadratic_over_obd(rows: Rows) -> float:
    """MLP: ln of ΔL by OBD over ΔL by the quadratic model, 140 steps, each at its best λ."""
    return log(least_rise(rows, "mlp", "OBD", MANY) / least_rise(rows, "mlp", "QM", MANY))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's ρ: the correlation of the ranks, ties sharing theirs."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def rank_correlation(rows: Rows, share: float, *arms: str) -> float:
    """ρ of ΔL and of the error after tuning, over the share of the runs with the lower ΔL."""
    runs = sorted((rows.one(**s) for s in tuned(*arms)), key=lambda n: n["rise"])
    some = runs[: round(share * len(runs))]
    return spearman([n["rise"] for n in some], [-n["test"] for n in some])


def correlation_of_better_half(rows: Rows) -> float:
    """MLP: rank correlation of ΔL and error, over the half of the runs with the lower ΔL."""
    return rank_correlation(rows, 0.5, *MODELS, "MP")


def cost_of_choosing_by_loss(rows: Rows) -> float:
    """MLP: accuracy of the run chosen by accuracy after tuning, minus that chosen by ΔL."""
    by_loss = gentlest(rows, *tuned(*MODELS, "MP"))
    return most_accurate(rows, *MODELS, "MP")["test"] - by_loss["test"]


def linear_minus_quadratic(rows: Rows) -> float:
    """MLP: test accuracy of the best LM minus that of the best QM, each chosen on validation."""
    return most_accurate(rows, "LM")["test"] - most_accurate(rows, "QM")["test"]


def linear_minus_magnitude(rows: Rows) -> float:
    """MLP: test accuracy of the best LM, chosen on validation, minus that of magnitude."""
    return most_accurate(rows, "LM")["test"] - rows.one(arm="MP")["test"]


STATISTICS = statistics(
    Cell, steps_gain, slope_gains_from_many, obd_gains_from_many, slope_over_steps, penalty_gain,
    penalty_gain_cnn, penalty_gain_cnn_obd, quadratic_over_magnitude, models_over_magnitude_cnn,
    quadratic_over_obd, correlation_of_better_half, cost_of_choosing_by_loss,
    linear_minus_quadratic, linear_minus_magnitude,
)  # fmt: skip
