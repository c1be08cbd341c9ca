"""Crowley et al. (2018): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, instead, mean, statistics, tune_grid
from survey_lib.experiments.closer_look.cells import BUDGETS, EPOCHS, Cell

SEEDS = 5
SMALLEST = min(BUDGETS)
CRITERIA = ("fisher", "l1", "random")
REDUCED = ("bottleneck", "width")
BRIEF = 1.0
"""Epochs of falling rate after which criteria are compared again."""
SETTLE = (0.25, BRIEF, 4.0, EPOCHS)
"""Epochs of falling rate after the cut; 0 is the long run's own stop."""

RATES = {
    "dense": 0.2,
    "fisher run": 0.012,
    "l1 run": 0.05,
    "random run": 0.012,
    "fisher briefly": 0.03,
    "l1 briefly": 0.1,
    "random briefly": 0.01,
    "fisher settled": 0.1,
    "l1 settled": 0.1,
    "random settled": 0.1,
    "fisher shape": 0.9,
    "reduced": 0.9,
}
"""The best mean on validation of those tried (``survey run closer_look --profile tune``)."""
TRIED = {
    "dense": (0.05, 0.1, 0.2, 0.4),
    "fisher run": (0.0008, 0.003, 0.012, 0.05),
    "l1 run": (0.003, 0.012, 0.05, 0.2),
    "random run": (0.0008, 0.003, 0.012, 0.05),
    "fisher briefly": (0.01, 0.03, 0.1, 0.3, 0.9),
    "l1 briefly": (0.01, 0.03, 0.1, 0.3, 0.9),
    "random briefly": (0.0033, 0.01, 0.03, 0.1, 0.3),
    "fisher settled": (0.03, 0.1, 0.3, 0.9, 2.7),
    "l1 settled": (0.03, 0.1, 0.3, 0.9, 2.7),
    "random settled": (0.03, 0.1, 0.3, 0.9, 2.7),
    "fisher shape": (0.03, 0.1, 0.3, 0.9, 2.7),
    "reduced": (0.03, 0.1, 0.3, 0.9, 2.7),
}
"""The paper's long runs have a rate of 0.0008."""
REPLICATES = (900, 901, 902)

EXPLORED = (("fisher", 0.0), ("l1", 0.0), ("random", 0.0), ("l1_signed", 0.0),
            ("fisher", 0.1), ("fisher", 1.0))  # fmt: skip
"""Criterion and β of the explorer's runs on the shipped net."""
EXPLORER_INTERVAL = 2


def run(seed: int, criterion: str, **more: Any) -> Cell:
    """The long run of a criterion, at its rate."""
    knobs: dict[str, Any] = {
        "criterion": criterion, "dense_lr": RATES["dense"], "pruned_lr": RATES[f"{criterion} run"],
    }  # fmt: skip
    return Cell("pruned", seed, **(knobs | more))


def after(seed: int, criterion: str, settle: float, budget: float = SMALLEST, **more: Any) -> Cell:
    """What a long run left at a budget, settled."""
    how = "briefly" if settle <= BRIEF else "settled"
    knobs: dict[str, Any] = {"lr": RATES[f"{criterion} {how}"]} | more
    return replace(run(seed, criterion), arm="settled", budget=budget, settle=settle, **knobs)


def shape(seed: int, budget: float = SMALLEST, **more: Any) -> Cell:
    """The Fisher shape from random weights."""
    knobs: dict[str, Any] = {"lr": RATES["fisher shape"]} | more
    return replace(run(seed, "fisher"), arm="scratch", budget=budget, **knobs)


def by_hand(arm: str, seed: int, budget: float = 0.0, **more: Any) -> Cell:
    """A net made smaller by hand."""
    knobs: dict[str, Any] = {"lr": RATES["reduced"]} | more
    return Cell(arm, seed, budget=budget, **knobs)


def _cells(name: str) -> Callable[[int, float], list[Cell]]:
    """Replicate and rate → the cells that decide a role's rate."""
    criterion, _, what = name.partition(" ")
    match what or name:
        case "dense":
            return lambda s, lr: [Cell("dense", s, dense_lr=lr)]
        case "run":
            return lambda s, lr: [run(s, criterion, pruned_lr=lr)]
        case "briefly":
            return lambda s, lr: [after(s, criterion, BRIEF, lr=lr)]
        case "settled":
            return lambda s, lr: [after(s, criterion, EPOCHS, lr=lr)]
        case "shape":
            return lambda s, lr: [shape(s, lr=lr)]
    return lambda s, lr: [by_hand(arm, s, SMALLEST, lr=lr) for arm in REDUCED]


def _role(name: str) -> Role:
    comparison = name if name == "dense" else "run" if name.endswith("run") else "full"
    return Role(name, _cells(name), TRIED[name], comparison, "val_re")


ROLES = tuple(map(_role, TRIED))
"""Rates of the long runs are chosen by the mean over the budgets, the others at the smallest."""


# ---- grids


def _claims(seed: int) -> list[Cell]:
    fisher = run(seed, "fisher")
    last = {"budget": SMALLEST, "settle": EPOCHS}
    return [
        Cell("dense", seed, dense_lr=RATES["dense"]),
        *(run(seed, c) for c in CRITERIA),
        *(after(seed, c, epochs) for c in CRITERIA for epochs in SETTLE),
        *(after(seed, c, BRIEF, b) for c in CRITERIA for b in BUDGETS if b != SMALLEST),
        *(shape(seed, b) for b in BUDGETS),
        *(by_hand(arm, seed, b) for arm in REDUCED for b in BUDGETS),
        by_hand("depth", seed),
        replace(shape(seed), arm="scratch_equal", **last),
        replace(fisher, arm="dense_longer", lr=RATES["fisher settled"], **last),
        replace(fisher, arm="latency", budget=SMALLEST),
    ]


def _densenet(seed: int = 0) -> list[Cell]:
    """Only drawn: one replicate, at the residual net's rates."""
    cells = [Cell("dense", seed, dense_lr=RATES["dense"])]
    cells += [run(seed, c) for c in ("fisher", "l1")]
    cells += [shape(seed), by_hand("width", seed, SMALLEST)]
    return [replace(c, net="densenet") for c in cells]


def explored() -> list[Cell]:
    """The runs behind the explorer, of the shipped net."""
    return [
        Cell("explore", 0, criterion=c, beta=beta, interval=EXPLORER_INTERVAL,
             pruned_lr=RATES["l1 run" if c == "l1_signed" else f"{c} run"])
        for c, beta in EXPLORED
    ]  # fmt: skip


def _study() -> list[Cell]:
    claims = [c for s in range(SEEDS) for c in _claims(s)]
    return [*claims, *explored(), *_densenet()]


def _quick() -> list[Cell]:
    """A slice of the study, replicate 0: two long runs, settled and not, and their rivals."""
    cells = [Cell("dense", 0, dense_lr=RATES["dense"])]
    cells += [c for name in ("fisher", "l1") for c in (run(0, name), after(0, name, BRIEF))]
    cells += [shape(0), *(by_hand(arm, 0, SMALLEST) for arm in REDUCED)]
    return cells


def _smoke() -> list[Cell]:
    """A fifth of an epoch of what the page draws from a fresh run."""
    short: dict[str, Any] = {"epochs": 0.2, "interval": 1}
    cells = [Cell("dense", 0, dense_lr=RATES["dense"]), run(0, "fisher"), shape(0)]
    return [replace(c, **short) for c in (*cells, by_hand("width", 0, SMALLEST))]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked: rows of one replicate → a number


def stop(rows: Rows, criterion: str, budget: float = SMALLEST, of: str = "test_re") -> float:
    """A number of a long run where it meets a budget, by default with statistics re-estimated."""
    return rows.one(arm="pruned", criterion=criterion)["at"][str(budget)][of]


def settled(rows: Rows, criterion: str, epochs: float, budget: float = SMALLEST) -> float:
    """Accuracy of what a long run left, after so many epochs of falling rate; 0 is the stop."""
    if not epochs:
        return stop(rows, criterion, budget)
    wanted = {"criterion": criterion, "budget": budget, "settle": epochs}
    return rows.one(arm="settled", **wanted)["test_re"]


def from_scratch(rows: Rows, budget: float = SMALLEST) -> float:
    """Accuracy of the Fisher shape from random weights."""
    return rows.one(arm="scratch", criterion="fisher", budget=budget)["test_re"]


def gap(rows: Rows, a: str, b: str, epochs: float) -> float:
    """Mean over the budgets of accuracy, criterion a minus criterion b."""
    return mean(settled(rows, a, epochs, w) - settled(rows, b, epochs, w) for w in BUDGETS)


def scratch_over_pruned(rows: Rows) -> float:
    """25 %: accuracy of the Fisher shape from random weights minus the pruned net's at its stop."""
    return from_scratch(rows) - stop(rows, "fisher")


def best_reduced_over_pruned(rows: Rows) -> float:
    """25 %: accuracy of the better hand-reduced net minus the pruned net's at its stop."""
    best = rows.best([{"arm": arm, "budget": SMALLEST} for arm in REDUCED], "val_re")
    return best["test_re"] - stop(rows, "fisher")


def fisher_over_l1(rows: Rows) -> float:
    """Mean over three budgets of accuracy at the stop, Fisher pruning minus ℓ1 pruning."""
    return gap(rows, "fisher", "l1", 0)


def fisher_over_l1_settled(rows: Rows) -> float:
    """The same after one epoch of falling rate."""
    return gap(rows, "fisher", "l1", BRIEF)


def random_over_l1(rows: Rows) -> float:
    """Mean over three budgets of accuracy at the stop, random pruning minus ℓ1 pruning."""
    return gap(rows, "random", "l1", 0)


def fisher_over_random_full(rows: Rows) -> float:
    """25 %: accuracy after the full falling rate, Fisher pruning minus random pruning."""
    return settled(rows, "fisher", EPOCHS) - settled(rows, "random", EPOCHS)


def one_epoch_gains(rows: Rows) -> float:
    """25 %: accuracy of the Fisher-pruned net after one epoch of falling rate minus at its stop."""
    return settled(rows, "fisher", BRIEF) - stop(rows, "fisher")


def settled_over_equal(rows: Rows) -> float:
    """25 %: accuracy, fully settled Fisher-pruned net minus its fresh shape, equal steps in all."""
    equal = rows.one(arm="scratch_equal", criterion="fisher", budget=SMALLEST, settle=EPOCHS)
    return settled(rows, "fisher", EPOCHS) - equal["test_re"]


def profile_over_uniform(rows: Rows) -> float:
    """Mean over three budgets of accuracy from random weights, Fisher shape minus equal shares."""
    return mean(
        from_scratch(rows, b) - rows.one(arm="bottleneck", budget=b)["test_re"] for b in BUDGETS
    )


def fisher_macs_over_width(rows: Rows) -> float:
    """Mean over three budgets of MACs, Fisher shape over the thinner net."""
    return mean(
        stop(rows, "fisher", b, "macs") / rows.one(arm="width", budget=b)["macs"] for b in BUDGETS
    )


def times(rows: Rows, batch: int) -> dict[str, dict[str, Any]]:
    """Timed nets of the replicate by name."""
    found = rows.one(arm="latency", criterion="fisher", budget=SMALLEST)["timed"]
    return {row["name"]: row for row in found[str(batch)]["rows"]}


def pruned_time_over_reduced(rows: Rows) -> float:
    """25 %: milliseconds of the Fisher shape over those of the thinner net, batch of 64."""
    by_name = times(rows, 64)
    return by_name["fisher shape"]["min_ms"] / by_name["width"]["min_ms"]


def _raw_gap(rows: Rows, a: str, b: str) -> float:
    """Mean over the budgets of accuracy at the stop, as training left batch norm's statistics."""
    return mean(stop(rows, a, w, "test") - stop(rows, b, w, "test") for w in BUDGETS)


def _scratch_over(rows: Rows, of: str) -> float:
    fresh = rows.one(arm="scratch", criterion="fisher", budget=SMALLEST)
    return fresh[of] - stop(rows, "fisher", of=of)


FREE = ("dense_lr", "pruned_lr", "lr")
STATISTICS = statistics(
    Cell, scratch_over_pruned, best_reduced_over_pruned, fisher_over_l1, fisher_over_l1_settled,
    random_over_l1, fisher_over_random_full, one_epoch_gains, settled_over_equal,
    profile_over_uniform, fisher_macs_over_width, pruned_time_over_reduced, free=FREE,
)  # fmt: skip
INSTEAD = instead(
    Cell,
    {
        "scratch_over_pruned": {
            "statistics not re-estimated": lambda r: _scratch_over(r, "test"),
            "the pruned net settled for one epoch": lambda r: (
                from_scratch(r) - settled(r, "fisher", BRIEF)
            ),
            "the pruned net settled as long as its rival": lambda r: (
                from_scratch(r) - settled(r, "fisher", EPOCHS)
            ),
        },
        "fisher_over_l1": {
            "statistics not re-estimated": lambda r: _raw_gap(r, "fisher", "l1"),
            "after one epoch of falling rate": fisher_over_l1_settled,
            "25 %, after a full falling rate": lambda r: (
                settled(r, "fisher", EPOCHS) - settled(r, "l1", EPOCHS)
            ),
        },
        "random_over_l1": {
            "statistics not re-estimated": lambda r: _raw_gap(r, "random", "l1"),
            "after one epoch of falling rate": lambda r: gap(r, "random", "l1", BRIEF),
            "25 %, after a full falling rate": lambda r: (
                settled(r, "random", EPOCHS) - settled(r, "l1", EPOCHS)
            ),
        },
        "fisher_over_random_full": {
            "at the stop": lambda r: stop(r, "fisher") - stop(r, "random"),
            "after one epoch of falling rate": lambda r: (
                settled(r, "fisher", BRIEF) - settled(r, "random", BRIEF)
            ),
        },
    },
    free=FREE,
)
"""Other ways to measure what a claim asks, which a reader may put in its place."""
