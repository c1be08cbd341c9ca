"""Yeom et al. (2021): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, instead, mean, statistics, tune_grid
from survey_lib.experiments.pruning_by_explaining.cells import TOY_WIDTH, Cell
from survey_lib.tasks.toys import NAMES

RIVALS = ("weight", "gradient", "taylor", "taylor_each", "fisher", "random")
CRITERIA = ("lrp", *RIVALS)
PAPERS = ("lrp", "weight", "gradient", "taylor")
"""The four that the paper compares."""
SEEDS, TOY_SEEDS, WIDE_SEEDS = 12, 40, 3
"""Replicates of images, of the moons and circles, of the toy net at the paper's width."""
DRAWS = {"resnet": 4, "cnn": 4, "new": 1}
"""Draws of three classes and their images for each net; a replicate is the mean over them."""
MARKS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
"""Shares of the filters gone at which a run is measured."""
TO_HALF = (1, 2, 3, 4, 5)
FROM_FIFTH = (2, 3, 4, 5)
"""Places of 10–50 % and of 20–50 % in :data:`MARKS`."""
RINGS = ("moon", "circle")
"""The toy sets of the claims."""
EXPLORED = (1, 2, 5, 10, 20)
"""The explorer's reference images of each class."""

RATES = {
    "lrp": 0.025,
    "weight": 0.4,
    "gradient": 0.025,
    "taylor": 0.1,
    "fisher": 0.0125,
    "random": 0.1,
    "dense": 0.0125,
}
"""The best mean on validation of those tried (``survey run pruning_by_explaining --profile tune``);
tuned after every round, down to half of the filters."""
TRIED = {
    "lrp": (0.00313, 0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
    "weight": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    "gradient": (0.00313, 0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
    "taylor": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    "fisher": (0.00313, 0.00625, 0.0125, 0.025, 0.05, 0.1, 0.2),
    "random": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4, 0.8),
    "dense": (0.00156, 0.003125, 0.00625, 0.0125, 0.025, 0.05, 0.1),
}
REPLICATES = (900, 901, 902)


def tuned(arm: str, seed: int, **more: Any) -> Cell:
    """A run that is tuned after each round, at the rate of its role."""
    knobs: dict[str, Any] = {"lr": RATES[arm]} | more
    return Cell(arm, seed, **knobs)


def _role(arm: str) -> Role:
    def cells(seed: int, lr: float) -> list[Cell]:
        return [tuned(arm, seed, lr=lr)]

    return Role(arm, cells, TRIED[arm], "tuned")


ROLES = tuple(_role(arm) for arm in RATES)


# ---- grids


def _images(seed: int) -> list[Cell]:
    """All criteria on each net, untuned; the equation's rules beside the released ones; tuned."""
    cells = [
        Cell(arm, seed, family, draw=draw)
        for family, draws in DRAWS.items()
        for draw in range(draws)
        for arm in CRITERIA
    ]
    cells += [Cell("lrp", seed, rules="equation"), Cell("lrp", seed, start="logit")]
    return cells + [tuned(arm, seed) for arm in RATES]


def _toys(seed: int, width: float = TOY_WIDTH, names: Sequence[str] = NAMES) -> list[Cell]:
    """All criteria on each toy set."""
    return [Cell(arm, seed, name, width=width) for name in names for arm in ("dense", *CRITERIA)]


def explored() -> list[Cell]:
    """The grid behind the explorer: criterion × images, replicate 0."""
    return [Cell(arm, 0, images=n) for arm in (*PAPERS, "taylor_each") for n in EXPLORED]


def _study() -> list[Cell]:
    cells = [c for s in range(SEEDS) for c in _images(s)]
    cells += [c for s in range(TOY_SEEDS) for c in _toys(s, names=NAMES if s < SEEDS else RINGS)]
    cells += [c for s in range(WIDE_SEEDS) for c in _toys(s, 1.0, ("moon",))]
    return list(dict.fromkeys(cells + explored()))


def _quick() -> list[Cell]:
    """A slice of the study: replicate 0, the net with batch norm and the moons."""
    cells = [Cell(arm, 0) for arm in CRITERIA]
    return cells + _toys(0, names=("moon",)) + [tuned(arm, 0) for arm in ("lrp", "weight")]


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    return [Cell("lrp", 0, images=2), *(replace(c, width=0.03) for c in _toys(0, names=("moon",))
                                        if c.arm in ("dense", "lrp"))]  # fmt: skip


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def over(
    rows: Rows, rival: str, family: str = "resnet", at: str = "test_at",
    where: Sequence[int] = TO_HALF, arm: str = "lrp",
) -> float:  # fmt: skip
    """Accuracy with relevance minus that with a rival, untuned; mean over draws and some marks."""
    pairs = [
        [rows.one(arm=name, family=family, lr=0.0, draw=draw)[at] for name in (arm, rival)]
        for draw in range(DRAWS[family])
    ]
    return mean(a[i] - b[i] for a, b in pairs for i in where)


def over_taylor(rows: Rows) -> float:
    """Residual net as it is: relevance − Taylor, 10–50 % gone."""
    return over(rows, "taylor")


def over_gradient(rows: Rows) -> float:
    """Residual net as it is: relevance − gradient, 10–50 % gone."""
    return over(rows, "gradient")


def over_weight(rows: Rows) -> float:
    """Residual net as it is: relevance − weight, 20–50 % gone."""
    return over(rows, "weight", where=FROM_FIFTH)


def over_taylor_few(rows: Rows) -> float:
    """The same with statistics from the few images: relevance − Taylor."""
    return over(rows, "taylor", at="few_at")


def over_gradient_few(rows: Rows) -> float:
    """The same with statistics from the few images: relevance − gradient."""
    return over(rows, "gradient", at="few_at")


def over_weight_few(rows: Rows) -> float:
    """The same with statistics from the few images: relevance − weight."""
    return over(rows, "weight", at="few_at", where=FROM_FIFTH)


def over_taylor_each_few(rows: Rows) -> float:
    """The same with statistics from the few images: relevance − Taylor, image by image."""
    return over(rows, "taylor_each", at="few_at")


def over_fisher_few(rows: Rows) -> float:
    """The same with statistics from the few images: relevance − Fisher."""
    return over(rows, "fisher", at="few_at")


def over_taylor_cnn(rows: Rows) -> float:
    """Net without batch norm: relevance − Taylor, 10–50 % gone."""
    return over(rows, "taylor", "cnn")


def over_weight_cnn(rows: Rows) -> float:
    """Net without batch norm: relevance − weight, 20–50 % gone."""
    return over(rows, "weight", "cnn", where=FROM_FIFTH)


def over_weight_new(rows: Rows) -> float:
    """Classes the net has never seen, statistics from the few images: relevance − weight."""
    return over(rows, "weight", "new", "few_at", FROM_FIFTH)


def repaired(rows: Rows) -> float:
    """What statistics from the few images give back to Taylor, 10–50 % gone."""
    nets = [rows.one(arm="taylor", lr=0.0, draw=draw) for draw in range(DRAWS["resnet"])]
    return mean(n["few_at"][i] - n["test_at"][i] for n in nets for i in TO_HALF)


def lost(rows: Rows, arm: str, n: int, names: Sequence[str] = RINGS) -> float:
    """Toy sets: training accuracy with a third of the neurons gone, minus the whole net's."""
    found = [rows.one(arm=arm, family=name) for name in names]
    return mean(x["third"][str(n)][0] - x["whole"][0] for x in found)


def lrp_loss_at_five(rows: Rows) -> float:
    """Moon and circle: relevance from five samples per class, minus the whole net."""
    return lost(rows, "lrp", 5)


def taylor_loss_at_hundred(rows: Rows) -> float:
    """Moon and circle: Taylor from a hundred samples per class, minus the whole net."""
    return lost(rows, "taylor", 100)


def taylor_each_loss_at_five(rows: Rows) -> float:
    """Moon and circle: Taylor sample by sample, from five per class, minus the whole net."""
    return lost(rows, "taylor_each", 5)


def weight_over_lrp_noisy(rows: Rows) -> float:
    """Noisy moon: weight − relevance from five samples per class."""
    return noisy(rows, "weight") - noisy(rows, "lrp")


def noisy(rows: Rows, arm: str, n: int = 5, name: str = "moon") -> float:
    """Accuracy on noisy unseen points with a third of the neurons gone."""
    return rows.one(arm=arm, family=name)["third"][str(n)][1]


def spread_after_tuning(rows: Rows) -> float:
    """Tuned after each round, half gone: best minus worst of the paper's four criteria."""
    found = [rows.one(arm=arm, lr=RATES[arm])["test"] for arm in PAPERS]
    return max(found) - min(found)


STATISTICS = statistics(
    Cell, over_taylor, over_gradient, over_weight, over_taylor_few, over_gradient_few,
    over_weight_few, over_taylor_each_few, over_fisher_few, over_taylor_cnn, over_weight_cnn,
    over_weight_new, repaired, lrp_loss_at_five, taylor_loss_at_hundred, taylor_each_loss_at_five,
    weight_over_lrp_noisy, spread_after_tuning, free=(),
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        "over_taylor": {"statistics from the few images": over_taylor_few},
        "over_gradient": {"statistics from the few images": over_gradient_few},
        "over_weight": {"statistics from the few images": over_weight_few},
        "over_taylor_few": {"statistics not re-estimated": over_taylor},
        "over_gradient_few": {"statistics not re-estimated": over_gradient},
        "over_weight_few": {"statistics not re-estimated": over_weight},
        "over_taylor_each_few": {
            "statistics not re-estimated": lambda r: over(r, "taylor_each"),
        },
        "over_fisher_few": {"statistics not re-estimated": lambda r: over(r, "fisher")},
        "over_weight_new": {
            "statistics not re-estimated": lambda r: over(r, "weight", "new", where=FROM_FIFTH),
        },
    },
    free=(),
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
