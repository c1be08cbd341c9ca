"""Santacroce et al. (2023): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, instead, mean, statistics, tune_grid
from survey_lib.experiments.what_matters_llm.cells import CALIBRATED, STRETCHES, Cell, tuned

CRITERIA = ("magnitude", "random", "top_v", "gum")
"""What the paper's table compares at a share that is set; soft movement sets its own."""
KEEP = (0.75, 0.5, 0.25)
"""Shares of neurons of the paper's table."""
JUDGED = (0.5, 0.25)
"""Those that claims average over."""
SEEDS, FEW = 5, 3
"""Replicates, and those with which a setting is looked at that no claim asks."""
ALPHA = 0.5
"""Share of distillation, the code's."""
COPIES = 2
"""Of each of 64 neurons a layer: 64 of its 320 neurons then say nothing of their own."""
PENALTIES = (1.0, 3.0, 8.0)
"""Of soft movement: on a validation replicate 2 left 64 % of the neurons and 20 left 8 %."""
LAMBDAS = (0.0, 16.0, 64.0)
LEFT = (0.75, 0.5, 0.25)
"""The explorer's settings."""

TEXT_KEEP = (0.9, 0.8, 0.6)
SCORES = ("random", "magnitude", "sensitivity", "top_v", "unlike")
COLLAPSE = 0.8
"""Share of SmolLM2's neurons at which random and the best criterion are compared."""
TEXT_RATE = 0.0001
"""Of SmolLM2's tuning, for all its arms alike."""
BEFOREHAND = (TEXT_RATE,)
"""Rates that were set and not tried; the card says so."""

RATES = {
    "dense": 0.00001,
    "magnitude": 0.002, "random": 0.002, "top_v": 0.004, "gum": 0.002,
    "magnitude, distilled": 0.002, "random, distilled": 0.004, "top_v, distilled": 0.008,
    "gum, distilled": 0.004,
}  # fmt: skip
"""Each the best mean on validation of those tried."""
TRIED = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016)
"""Rates of every role that loses neurons …"""
TRIED_WHOLE = (0.0, 0.00001, 0.00003, 0.0001, 0.0003, 0.001)
"""… and of the whole net, which has converged and bears small steps only."""
REPLICATES = (900, 901, 902)


def cell(arm: str, seed: int, criterion: str, **more: Any) -> Cell:
    """A cell at the rate of its role."""
    role = f"{criterion}, distilled" if more.get("alpha") else criterion
    knobs: dict[str, Any] = {"lr": RATES[role]} | more
    return Cell(arm, seed, criterion, **knobs)


def whole(seed: int, **more: Any) -> Cell:
    """The dense net, trained on as long as the others are tuned; or as it was."""
    knobs: dict[str, Any] = {"lr": RATES["dense"]} | more
    return Cell("dense", seed, **knobs)


def _role(criterion: str, alpha: float) -> Role:
    """Decided at half the neurons, where all claims look."""

    def cells(seed: int, lr: float) -> list[Cell]:
        return [Cell("gradual", seed, criterion, alpha=alpha, lr=lr)]

    name = f"{criterion}, distilled" if alpha else criterion
    return Role(name, cells, TRIED, "pruned", "val_loss", -1)


ROLES = (
    Role(
        "dense", lambda seed, lr: [Cell("dense", seed, lr=lr)], TRIED_WHOLE, "whole", "val_loss", -1
    ),
    *(_role(criterion, alpha) for alpha in (0.0, ALPHA) for criterion in CRITERIA),
)


# ---- grids


def _table(seed: int) -> list[Cell]:
    """The paper's Table 4, without and with distillation."""
    shares = KEEP if seed < FEW else JUDGED
    cells = [cell("gradual", seed, c, keep=k) for c in CRITERIA for k in shares]
    return cells + [cell("gradual", seed, c, alpha=ALPHA) for c in CRITERIA]


def _judged(seed: int) -> list[Cell]:
    """What claims ask beside the table: at once, planted copies, the whole net."""
    return [
        whole(seed), whole(seed, lr=0.0),
        *(Cell("cut", seed, c) for c in ("random", "top_v")),
        *(cell("gradual", seed, c, copies=COPIES) for c in ("magnitude", "top_v", "gum")),
    ]  # fmt: skip


def _drawn(seed: int) -> list[Cell]:
    """What is drawn and no claim asks."""
    return [
        *(Cell("cut", seed, c) for c in ("magnitude", "gum")),
        *(cell("gradual", seed, c, at_once=True) for c in ("random", "magnitude")),
        *(cell("gradual", seed, c, scope="local") for c in ("magnitude", "top_v")),
        cell("gradual", seed, "random", copies=COPIES),
    ]


def explored(seed: int = 0) -> list[Cell]:
    """The grid behind the explorer: leftover × λ."""
    return [
        Cell("plane", seed, "gum", keep=k, lambda_gum=lam, lr=RATES["gum"])
        for k in LEFT
        for lam in LAMBDAS
    ]


def _text(stretch: int) -> list[Cell]:
    """What the claim asks on all stretches, the curves on a few."""
    judged = [(c, COLLAPSE) for c in ("random", "sensitivity")]
    drawn = [(c, k) for c in SCORES for k in TEXT_KEEP]
    asked = drawn if stretch < FEW else judged
    return [
        Cell("text", stretch, keep=1.0), *(Cell("text", stretch, c, keep=k) for c, k in asked)
    ]  # fmt: skip


def _taught(stretch: int) -> list[Cell]:
    """SmolLM2 tuned: whole, and with a fifth of its neurons gone little by little."""
    return [
        Cell("text", stretch, keep=1.0, lr=TEXT_RATE),
        *(Cell("text", stretch, c, keep=COLLAPSE, lr=TEXT_RATE) for c in ("random", "top_v")),
    ]


def _removed() -> list[Cell]:
    return [Cell("removed", 0, "sensitivity", keep=k) for k in (0.8, 0.5)]


def _study() -> list[Cell]:
    """The calibration first, which others wait for, and what takes longest."""
    read = [c for s in range(STRETCHES) for c in _taught(s)]
    cells = [CALIBRATED, *dict.fromkeys(tuned(c) for c in read)]
    cells += [c for s in range(SEEDS) for c in (*_table(s), *_judged(s))]
    cells += [c for s in range(FEW) for c in _drawn(s)]
    cells += [Cell("soft", 0, lambda_mvp=p, lr=RATES["top_v"]) for p in PENALTIES]
    cells += [cell("fresh", 0, "top_v"), *explored()]
    cells += [*read, *(c for s in range(STRETCHES) for c in _text(s))]
    return cells + _removed()


def _quick() -> list[Cell]:
    """A slice of the study: half the neurons of replicate 0, and a stretch of WikiText-2."""
    return [
        whole(0, lr=0.0), *(cell("gradual", 0, c) for c in ("random", "top_v")),
        Cell("cut", 0, "random"), Cell("cut", 0, "top_v"),
        Cell("text", 0, keep=1.0), Cell("text", 0, "random", keep=COLLAPSE),
    ]  # fmt: skip


def _smoke() -> list[Cell]:
    """What the page draws from a fresh run, nothing tuned and without the large model."""
    return [whole(0, lr=0.0, net="shipped"), Cell("cut", 0, "random", net="shipped")]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": lambda: tune_grid(ROLES, REPLICATES),
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked of the character model: rows of one replicate → a number


def loss(rows: Rows, criterion: str, keep: float = 0.5, **more: Any) -> float:
    """Nats a character on the test text, neurons gone little by little."""
    return rows.one(**({"arm": "gradual", "criterion": criterion, "keep": keep} | more))["loss"]


def magnitude_over_random(rows: Rows) -> float:
    """Nats: magnitude minus random, mean over the judged shares."""
    return mean(loss(rows, "magnitude", k) - loss(rows, "random", k) for k in JUDGED)


def random_over_top_v(rows: Rows) -> float:
    """Nats: random minus movement, mean over the judged shares."""
    return mean(loss(rows, "random", k) - loss(rows, "top_v", k) for k in JUDGED)


def top_v_over_gum(rows: Rows) -> float:
    """Nats: movement minus GUM, mean over the judged shares."""
    return mean(loss(rows, "top_v", k) - loss(rows, "gum", k) for k in JUDGED)


def spread_shrinks(rows: Rows) -> float:
    """Nats from best to worst criterion, half the neurons left: without minus with distillation."""

    def spread(alpha: float) -> float:
        found = [loss(rows, c, alpha=alpha) for c in CRITERIA]
        return max(found) - min(found)

    return spread(0.0) - spread(ALPHA)


def uniqueness_gain(rows: Rows) -> float:
    """Uniqueness, copies planted and half the neurons left: GUM minus movement."""
    gum, top_v = (
        rows.one(arm="gradual", criterion=c, copies=COPIES)["uniqueness"] for c in ("gum", "top_v")
    )
    return gum - top_v


def copies_kept_whole(rows: Rows) -> float:
    """Share of planted pairs of which both stay, half the neurons left: magnitude − movement."""

    def whole_pairs(criterion: str) -> float:
        copies = rows.one(arm="gradual", criterion=criterion, copies=COPIES)["copies"]
        return mean(float(n == COPIES) for layer in copies for n in layer)

    return whole_pairs("magnitude") - whole_pairs("top_v")


def sensitivity_random_over_magnitude(rows: Rows) -> float:
    """Sensitivity over that of the whole net trained on: random minus magnitude, half left."""
    dense = rows.one(arm="dense", criterion="gum", lr=RATES["dense"])["sensitivity"]
    random, magnitude = (
        rows.one(arm="gradual", criterion=c)["sensitivity"] for c in ("random", "magnitude")
    )
    return (random - magnitude) / dense


def training_closes_the_gap(rows: Rows) -> float:
    """Nats between random and movement at half the neurons: cut at once minus gradual."""
    random, top_v = (rows.one(arm="cut", criterion=c)["loss"] for c in ("random", "top_v"))
    return (random - top_v) - (loss(rows, "random") - loss(rows, "top_v"))


# ---- what is asked of SmolLM2: rows of one stretch → a number


def smollm2_random_over_sensitivity(rows: Rows) -> float:
    """Nats a token, a fifth of the neurons gone at once: random minus by sensitivity."""
    random, sensitive = (
        rows.one(arm="text", criterion=c, keep=COLLAPSE, lr=0.0)["log_perplexity"]
        for c in ("random", "sensitivity")
    )
    return random - sensitive


def smollm2_random_tuned(rows: Rows) -> float:
    """Nats a token, both tuned: a fifth gone little by little at random, minus whole."""
    whole, random = (
        rows.one(arm="text", criterion=c, keep=k, lr=TEXT_RATE)["log_perplexity"]
        for c, k in (("gum", 1.0), ("random", COLLAPSE))
    )
    return random - whole


STATISTICS = statistics(
    Cell, magnitude_over_random, random_over_top_v, top_v_over_gum, spread_shrinks,
    uniqueness_gain, copies_kept_whole, sensitivity_random_over_magnitude, training_closes_the_gap,
    smollm2_random_over_sensitivity, smollm2_random_tuned,
)  # fmt: skip


def _gap(rows: Rows, a: str, b: str, keep: float = 0.5, **more: Any) -> float:
    """Nats by which ``a`` ends above ``b``."""
    return loss(rows, a, keep, **more) - loss(rows, b, keep, **more)


def _unlike(rows: Rows, number: str, **more: Any) -> float:
    """GUM minus movement, half the neurons left."""
    gum, top_v = (
        rows.one(**({"arm": "gradual", "criterion": c} | more))[number] for c in ("gum", "top_v")
    )
    return gum - top_v


INSTEAD = instead(
    Cell,
    {
        "magnitude_over_random": {
            "75 % left": lambda r: _gap(r, "magnitude", "random", 0.75),
            "25 % left": lambda r: _gap(r, "magnitude", "random", 0.25),
            "50 % left, distilled": lambda r: _gap(r, "magnitude", "random", alpha=ALPHA),
        },
        "random_over_top_v": {
            "75 % left": lambda r: _gap(r, "random", "top_v", 0.75),
            "25 % left": lambda r: _gap(r, "random", "top_v", 0.25),
            "50 % left, distilled": lambda r: _gap(r, "random", "top_v", alpha=ALPHA),
            "against magnitude, both shares": lambda r: mean(
                _gap(r, "random", "magnitude", k) for k in JUDGED
            ),
        },
        "top_v_over_gum": {
            "75 % left": lambda r: _gap(r, "top_v", "gum", 0.75),
            "25 % left": lambda r: _gap(r, "top_v", "gum", 0.25),
            "50 % left, distilled": lambda r: _gap(r, "top_v", "gum", alpha=ALPHA),
        },
        "uniqueness_gain": {
            "copies planted, alike from 0.5": lambda r: _unlike(
                r, "uniqueness_somewhat", copies=COPIES
            ),
            "nothing planted": lambda r: _unlike(r, "uniqueness"),
            "nothing planted, alike from 0.5": lambda r: _unlike(r, "uniqueness_somewhat"),
        },
    },
)
