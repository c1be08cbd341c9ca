"""Zhu & Gupta (2017): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, interpolate, mean, statistics, tune_grid
from survey_lib.experiments.to_prune_or_not.cells import FAMILIES, Cell

SMALL = {"mlp": (0.5, 0.25, 0.1, 0.05), "cnn": (0.71, 0.25, 0.12), "gpt": (0.125,)}
"""Widths of the narrower dense nets; each sets a budget for the large one, of width 1 (gpt: ½)."""
LARGE = {"mlp": 1.0, "cnn": 1.0, "gpt": 0.5}
STARVED = (0.25, 0.12)
"""The CNN's budgets at which a narrow dense net visibly suffers: 10 and 3.4 % of the large."""
HALF = 0.71
"""Width of the CNN with about half the large one's parameters."""
MEDIUM, TIGHT = 0.5, 0.12
"""The other starting size, and the budget of the ablations."""
SEEDS = {"mlp": 8, "cnn": 8, "gpt": 5}

RATES = {
    "mlp large": 0.05, "mlp small": 0.1, "mlp pruned": 0.2,
    "cnn large": 0.05, "cnn small": 0.2, "cnn pruned": 0.05,
    "gpt large": 0.024, "gpt small": 0.012, "gpt pruned": 0.024,
}  # fmt: skip
"""The best mean on validation of those tried (``survey run to_prune_or_not --profile tune``)."""
TRIED = {
    "mlp large": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4),
    "mlp small": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4),
    "mlp pruned": (0.0125, 0.025, 0.05, 0.1, 0.2, 0.4),
    "cnn large": (0.025, 0.05, 0.1, 0.2),
    "cnn small": (0.05, 0.1, 0.2, 0.4),
    "cnn pruned": (0.025, 0.05, 0.1, 0.2),
    "gpt large": (0.006, 0.012, 0.024, 0.048),
    "gpt small": (0.006, 0.012, 0.024, 0.048),
    "gpt pruned": (0.006, 0.012, 0.024, 0.048),
}
REPLICATES = (900, 901, 902)

KEEP = (0.5, 0.1, 0.03)
EXPONENTS = (1.0, 3.0, 6.0)
WINDOWS = ((0.05, 0.3), (0.15, 0.6), (0.5, 0.95))
"""The explorer's settings, on the medium CNN."""


def cell(arm: str, seed: int, family: str, width: float, **more: Any) -> Cell:
    """A cell at the rate of its role."""
    role = "pruned" if arm != "dense" else "large" if width == LARGE[family] else "small"
    knobs: dict[str, Any] = {"lr": RATES[f"{family} {role}"]} | more
    return Cell(arm, seed, family, width, **knobs)


def _role(family: str, name: str) -> Role:
    """A role's rate is decided by the budgets at both ends of what its claim averages."""
    ends = {"mlp": (0.5, 0.05), "cnn": (0.25, 0.12), "gpt": (0.125,)}[family]

    def cells(seed: int, lr: float) -> list[Cell]:
        if name == "large":
            return [cell("dense", seed, family, LARGE[family], lr=lr)]
        if name == "small":
            return [cell("dense", seed, family, w, lr=lr) for w in ends]
        return [cell("gradual", seed, family, LARGE[family], match=w, lr=lr) for w in ends]

    score, sign = ("val_loss", -1) if family == "gpt" else ("val", 1)
    return Role(f"{family} {name}", cells, TRIED[f"{family} {name}"], family, score, sign)


ROLES = tuple(_role(family, name) for family in FAMILIES for name in ("large", "small", "pruned"))


# ---- grids


def _pairs(family: str, seed: int) -> list[Cell]:
    """The large net, the narrow ones, and the large one pruned to the size of each."""
    large = LARGE[family]
    cells = [cell("dense", seed, family, w) for w in (large, *SMALL[family])]
    return cells + [cell("gradual", seed, family, large, match=w) for w in SMALL[family]]


def _ablation(seed: int) -> list[Cell]:
    """The medium CNN at one tight budget: the paper's schedule, and what differs from it."""
    base = cell("gradual", seed, "cnn", MEDIUM, match=TIGHT)
    changes: tuple[dict[str, Any], ...] = (
        {"arm": "one_shot", "n": 1}, {"exponent": 1.0}, {"n": 5}, {"scope": "global"},
        {"arm": "random"}, {"arm": "fresh"},
    )  # fmt: skip
    return [base, *(replace(base, **change) for change in changes)]


def _longer(seed: int) -> list[Cell]:
    """Large nets trained twice as long: are they converged?"""
    return [cell("dense", seed, family, LARGE[family], longer=2.0) for family in FAMILIES]


def explored(seed: int = 0) -> list[Cell]:
    """The grid behind the explorer: final size × exponent × pruning window, medium CNN."""
    return [
        cell("gradual", seed, "cnn", MEDIUM, keep=k, exponent=e, begin=b, end=f)
        for k in KEEP
        for e in EXPONENTS
        for b, f in WINDOWS
    ]


def _study() -> list[Cell]:
    cells = [c for family, n in SEEDS.items() for s in range(n) for c in _pairs(family, s)]
    cells += [cell("gradual", s, "gpt", 0.5, keep=0.5) for s in range(SEEDS["gpt"])]
    cells += [c for s in range(SEEDS["cnn"]) for c in _ablation(s)]
    cells += [c for s in range(3) for c in _longer(s) if c.family != "gpt" or s == 0] + explored()
    # long trainings first, so that no straggler is left for the end
    order = {"gpt": 0, "cnn": 1, "mlp": 2}
    return sorted(dict.fromkeys(cells), key=lambda c: (order[c.family], -c.width * c.longer))


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0: the CNN's ends and a starved pair, all of the MLP."""
    wanted = (("dense", 1.0), ("dense", TIGHT))
    cnn = [c for c in _pairs("cnn", 0) if (c.arm, c.width) in wanted or c.match == TIGHT]
    return cnn + _ablation(0)[:2] + _pairs("mlp", 0)


def _smoke() -> list[Cell]:
    """A moment of what the page draws from a fresh run."""
    cells = [c for c in _pairs("mlp", 0) if 0.1 in (c.width, c.match)]
    cells += [replace(c, width=0.16) for c in _ablation(0)[:2]] + [cell("dense", 0, "cnn", 0.16)]
    return [replace(c, longer=1 / 16) for c in cells]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def gap(rows: Rows, family: str, width: float, of: str = "test") -> float:
    """Of the large net pruned to the size of ``width``, minus that of the dense net."""
    large = LARGE[family]
    pruned = rows.one(arm="gradual", family=family, width=large, match=width)
    return pruned[of] - rows.one(arm="dense", family=family, width=width)[of]


def mlp_gap(rows: Rows) -> float:
    """Mean over the MLP's four budgets of accuracy(pruned large) − accuracy(dense small)."""
    return mean(gap(rows, "mlp", w) for w in SMALL["mlp"])


def cnn_gap(rows: Rows) -> float:
    """Mean over the CNN's two starved budgets of accuracy(pruned large) − (dense small)."""
    return mean(gap(rows, "cnn", w) for w in STARVED)


def gpt_gap(rows: Rows) -> float:
    """Language: loss(dense small) − loss(pruned large), nats."""
    return -mean(gap(rows, "gpt", w, "loss") for w in SMALL["gpt"])


def gap_growth(rows: Rows) -> float:
    """MLP: the gap at the smallest budget minus the gap at the largest."""
    return gap(rows, "mlp", SMALL["mlp"][-1]) - gap(rows, "mlp", SMALL["mlp"][0])


def half_is_free(rows: Rows) -> float:
    """CNN: accuracy at half the parameters minus accuracy of the dense large net."""
    half = rows.one(arm="gradual", family="cnn", width=1.0, match=HALF)
    return half["test"] - rows.one(arm="dense", family="cnn")["test"]


def half_is_free_gpt(rows: Rows) -> float:
    """Language: loss at half the parameters minus loss of the dense large net, nats."""
    half = rows.one(arm="gradual", family="gpt", width=0.5, keep=0.5)
    return half["loss"] - rows.one(arm="dense", family="gpt", width=0.5)["loss"]


def accelerating_loss(rows: Rows) -> float:
    """CNN: accuracy lost from 10 % to 3.4 % of the parameters, minus that lost from all to 10 %."""
    full = rows.one(arm="dense", family="cnn")["test"]
    middle, end = (rows.one(arm="gradual", family="cnn", match=w)["test"] for w in (0.25, 0.12))
    return (middle - end) - (full - middle)


def medium_start(rows: Rows) -> float:
    """CNN at the tight budget: accuracy from the medium net minus accuracy from the large one."""
    medium = rows.one(arm="gradual", family="cnn", width=MEDIUM, match=TIGHT)
    return medium["test"] - rows.one(arm="gradual", family="cnn", match=TIGHT)["test"]


def _against_base(rows: Rows, **change: Any) -> float:
    base = {"arm": "gradual", "family": "cnn", "width": MEDIUM, "match": TIGHT}
    return rows.one(**base)["test"] - rows.one(**(base | change))["test"]


def gradual_over_one_shot(rows: Rows) -> float:
    """Medium CNN, tight budget: accuracy(gradual) − accuracy(all cut at once)."""
    return _against_base(rows, arm="one_shot", n=1)


def cubic_over_straight(rows: Rows) -> float:
    """Medium CNN, tight budget: accuracy(cubic law) − accuracy(straight ramp)."""
    return _against_base(rows, exponent=1.0)


def update_interval(rows: Rows) -> float:
    """Medium CNN, tight budget: accuracy with 5 pruning updates minus accuracy with 20."""
    return -_against_base(rows, n=5)


def over_fresh_weights(rows: Rows) -> float:
    """Medium CNN, tight budget: accuracy(gradual) − accuracy(its masks on a fresh net)."""
    return _against_base(rows, arm="fresh")


def gap_at_equal_bytes(rows: Rows) -> float:
    """MLP: as ``mlp_gap``, but against the dense net that weighs as much as the bit-mask file.

    The dense nets' accuracy is interpolated linearly in log bytes.
    """
    every = (LARGE["mlp"], *SMALL["mlp"])
    nets = [rows.one(arm="dense", family="mlp", width=w) for w in every]
    line = [(net["bytes_dense"], net["test"]) for net in nets]
    pruned = [rows.one(arm="gradual", family="mlp", match=w) for w in SMALL["mlp"]]
    return mean(p["test"] - interpolate(line, p["bytes_bitmask"]) for p in pruned)


def mask_share(rows: Rows) -> float:
    """Share of the large MLP's bit-mask file at 1/20 of the width that is mask, not values."""
    pruned = rows.one(arm="gradual", family="mlp", match=0.05)
    return 1 - 4 * pruned["nonzeros"] / pruned["bytes_bitmask"]


STATISTICS = statistics(
    Cell, mlp_gap, cnn_gap, gpt_gap, gap_growth, half_is_free, half_is_free_gpt,
    accelerating_loss, medium_start, gradual_over_one_shot, cubic_over_straight, update_interval,
    over_fresh_weights, gap_at_equal_bytes, mask_share,
)  # fmt: skip
