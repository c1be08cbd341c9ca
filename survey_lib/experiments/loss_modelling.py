"""Laurent et al. (2020) on small tasks: what pruning does to the loss, and what tuning makes of it.

Two nets, each pruned once and for all to the paper's sparsity by four criteria, in one step or in
many, with penalties of several sizes. No training happens between the steps. The rise of the loss
is measured on training images the criteria have not seen, then the net is tuned and its accuracy
measured. The claims rest on the fully connected net, where all step counts are affordable; the
convolutional net stands beside it.

Penalties, step counts and learning rates are chosen on validation images; what is reported comes
from other images.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import log
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.mechanics.masks import keep_largest_global, prunable_weights
from survey_lib.methods import loss_modelling as method
from survey_lib.tasks.data import Split
from survey_lib.tasks.dense import dense_net, seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit

DATA = ("fashion_mnist.npz",)

MODELS = ("LM", "QM", "OBD")
"""The criteria that model the loss; MP, random masks and the dense net are compared with them."""
KAPPA = {"mlp": 0.98847, "cnn_small": 0.956}
"""The paper's: 1 − 0.8²⁰ for its fully connected net, 1 − 0.8¹⁴ for its convolutional ones."""
PENALTIES = {"mlp": (0.0, 1e-3, 1e-2, 1e-1, 1.0), "cnn_small": (0.0, 1e-3, 1e-1)}
STEPS = {"mlp": (1, 14, 140), "cnn_small": (1, 14)}
MOST = {task: steps[-1] for task, steps in STEPS.items()}
EXAMPLES = 1000
"""Training images the models of the loss are made from."""
SEEDS = {"mlp": 5, "cnn_small": 3}
TUNING_EPOCHS = {"mlp": 5.0, "cnn_small": 4.0}
"""Half of the dense nets' own training."""

LEARNING_RATES: dict[str, dict[str, float]] = {
    "mlp": {"pruned": 0.8, "dense": 0.05},
    "cnn_small": {"pruned": 0.1, "dense": 0.1},
}
"""The best mean over :data:`TUNE_SEEDS` on validation, of :data:`TRIED_RATES` (``tune``)."""
TRIED_RATES = {"mlp": (0.05, 0.1, 0.2, 0.4, 0.8, 1.6), "cnn_small": (0.05, 0.1, 0.2)}
TUNE_SEEDS = (900, 901, 902)
PATH_POINTS = 20


@dataclass(frozen=True)
class Cell:
    """One pruning of one dense net, and its tuning."""

    task: str
    criterion: str
    """``LM``, ``QM``, ``OBD``, ``MP``, ``random``, or ``dense`` (nothing is pruned)."""
    seed: int
    pi: int = 1
    """π, steps of pruning."""
    lam: float = 0.0
    """λ, penalty."""
    epochs: float = 5.0
    """Passes of the tuning; 0: none."""
    lr: float = 0.1


def _cell(task: str, criterion: str, seed: int, pi: int = 1, lam: float = 0.0, **more: Any) -> Cell:
    rate = LEARNING_RATES[task]["dense" if criterion == "dense" else "pruned"]
    options: dict[str, Any] = {"epochs": TUNING_EPOCHS[task], "lr": rate} | more
    return Cell(task, criterion, seed, pi, lam, **options)


def _seed(task: str, seed: int) -> list[Cell]:
    """All runs on one dense net, long ones first."""
    cells = []
    for pi in reversed(STEPS[task]):
        for criterion in ("QM", "OBD", "LM"):
            for lam in PENALTIES[task]:
                cell = _cell(task, criterion, seed, pi, lam)
                if task == "cnn_small":
                    if pi > 1 and criterion != "LM" and lam == 0:
                        continue  # 14 exact curvatures of a convolutional net take half a minute
                    if pi == 1:
                        cell = _cell(task, criterion, seed, pi, lam, epochs=0.0)
                cells.append(cell)
    return cells + [_cell(task, c, seed) for c in ("MP", "random", "dense")]


def _study() -> list[Cell]:
    """The CNN first: its cells are the longest."""
    return [
        cell for task in ("cnn_small", "mlp") for s in range(SEEDS[task]) for cell in _seed(task, s)
    ]


def _quick() -> list[Cell]:
    """A slice of the study: the MLP of seed 0, up to 14 steps, and the linear model's longest."""
    return [
        c for c in _seed("mlp", 0)
        if (c.pi < MOST["mlp"] and c.lam != 1e-3) or (c.criterion == "LM" and c.lam == 1e-2)
    ]  # fmt: skip


def _smoke() -> list[Cell]:
    return [
        _cell("mlp", "MP", 0, epochs=0.5),
        _cell("mlp", "LM", 0, 1, 0.0, epochs=0.5),
        _cell("mlp", "QM", 0, 14, 1e-2, epochs=0.5),
        _cell("mlp", "dense", 0, epochs=0.5),
    ]


def _tune() -> list[Cell]:
    """Every criterion and the dense net at three rates; one rate is chosen for all criteria."""
    cells = []
    for task, most in (("cnn_small", 1), ("mlp", 14)):
        for lr in TRIED_RATES[task]:
            for seed in TUNE_SEEDS:
                cells += [_cell(task, c, seed, most, 1e-2, lr=lr) for c in MODELS]
                cells += [_cell(task, c, seed, lr=lr) for c in ("MP", "dense")]
    return cells


def best_rates(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """The choice :data:`LEARNING_RATES` rests on: the rate with the best mean on validation."""
    chosen: dict[str, dict[str, float]] = {}
    for task in KAPPA:
        for role in ("pruned", "dense"):
            means = {}
            for lr in TRIED_RATES[task]:
                values = [
                    r.numbers["val"]
                    for r in records
                    if r.config["task"] == task
                    and r.config["lr"] == lr
                    and (r.config["criterion"] == "dense") == (role == "dense")
                ]
                means[lr] = sum(values) / len(values)
            chosen.setdefault(task, {})[role] = max(means, key=means.__getitem__)
    return chosen


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": _tune,
}


def grid(profile: str) -> list[Cell]:
    """The cells of a profile; every quick cell is one of the study's."""
    return GRIDS[profile]()


def dense_task(task: str) -> Task:
    """The task with the dense net's own training: the defaults, a lower rate without batch norm."""
    if task == "cnn_small":
        return load_task("cnn_small", bn=False).with_training(lr=0.05)
    return load_task(task)


@lru_cache(maxsize=4)
def _dense(task: str, seed: int) -> tuple[nn.Module, dict[str, dict[str, float]]]:
    """Dense net ``seed`` and its loss and accuracy on each split."""
    whole = dense_task(task)
    net = dense_net(whole, seed)
    return net, _measured(net, whole, *_images(whole, seed))


def _images(task: Task, seed: int) -> tuple[Split, Split]:
    """Training images the criteria see, and the others."""
    return method.saliency_images(task, EXAMPLES, seeded(seed))


def _measured(
    net: nn.Module, task: Task, seen: Split, others: Split
) -> dict[str, dict[str, float]]:
    """Loss and accuracy on the images the criteria see, the other training images, val and test."""
    parts = {"seen": seen, "train": others, "val": task.val, "test": task.test}
    found = {}
    for name, part in parts.items():
        found[name] = evaluate(net, part, task)
    return found


def run(cell: Cell) -> dict[str, Any]:
    """Prune dense net ``seed``, measure, tune, measure."""
    task = dense_task(cell.task)
    dense, before = _dense(cell.task, cell.seed)
    seen, others = _images(task, cell.seed)
    net = copy.deepcopy(dense)
    masks, path = _masks(net, task, seen, cell)
    after = _measured(net, task, seen, others) if masks else before
    recipe = replace(task.training, epochs=cell.epochs, lr=cell.lr)
    generator = seeded(cell.seed, purpose=1)
    if not masks:
        fit(net, task, recipe, generator=generator)
    elif cell.epochs:
        method.tune(net, masks, task, recipe, generator=generator)
    numbers: dict[str, Any] = {
        f"rise{'' if part == 'train' else '_' + part}": after[part]["loss"] - before[part]["loss"]
        for part in after
    }
    numbers |= {
        "accuracy_dense": before["test"]["accuracy"],
        "val_dense": before["val"]["accuracy"],
        "accuracy_pruned": after["test"]["accuracy"],
        "loss_dense": before["train"]["loss"],
    }
    if cell.epochs:
        end = evaluate(net, task.test, task)
        numbers |= {"accuracy": end["accuracy"], "loss": end["loss"]}
        numbers["val"] = evaluate(net, task.val, task)["accuracy"]
        numbers["gap"] = before["test"]["accuracy"] - end["accuracy"]
        numbers["gap_val"] = before["val"]["accuracy"] - numbers["val"]
    numbers["layers"] = {k: [m.numel(), int(m.sum())] for k, m in masks.items()}
    numbers["path"] = path
    return numbers


def _masks(
    net: nn.Module, task: Task, seen: Split, cell: Cell
) -> tuple[dict[str, Tensor], dict[str, list[float]]]:
    """Prune ``net`` as the cell says; the path is thinned to :data:`PATH_POINTS` steps."""
    if cell.criterion == "dense":
        return {}, {}
    kappa = KAPPA[cell.task]
    if cell.criterion == "random":
        weights = prunable_weights(net, spare_first_conv=False)
        drawn = seeded(cell.seed, purpose=2)
        scores = {k: torch.rand(w.shape, generator=drawn) for k, w in weights.items()}
        total = sum(w.numel() for w in weights.values())
        masks = keep_largest_global(scores, total - round(kappa * total))
        with torch.no_grad():
            for name, w in weights.items():
                w.mul_(masks[name])
        return masks, {}
    config = method.Config(cell.criterion, cell.pi, cell.lam)
    masks, path = method.prune(net, task, seen, kappa, config)
    at = np.unique(np.linspace(0, cell.pi, PATH_POINTS + 1).round().astype(int))
    return masks, {k: [round(values[i], 4) for i in at] for k, values in path.items()}


# ---- the statistic of each claim: one seed's records → a number; MissingArm when an arm is missing


def runs(rows: Iterable[Record], **wanted: Any) -> list[Record]:
    """The records whose configuration has these values.

    Raises:
        MissingArm: there is none.
    """
    found = [r for r in rows if all(r.config[k] == v for k, v in wanted.items())]
    if not found:
        raise MissingArm(f"no record with {wanted}")
    return found


def gentlest(rows: Iterable[Record], **wanted: Any) -> dict[str, Any]:
    """Numbers of the run whose loss rises least on validation images, among those wanted."""
    return min(runs(rows, **wanted), key=lambda r: abs(r.numbers["rise_val"])).numbers


def most_accurate(rows: Iterable[Record], **wanted: Any) -> dict[str, Any]:
    """Numbers of the tuned run that is most accurate on validation images; ties: the first."""
    tuned = [r for r in runs(rows, **wanted) if "val" in r.numbers]
    return max(tuned, key=lambda r: r.numbers["val"]).numbers


def log_ratio(worse: dict[str, Any], better: dict[str, Any]) -> float:
    """ln(ΔL of the first / ΔL of the second), on training images the criteria have not seen."""
    return log(abs(worse["rise"]) / abs(better["rise"]))


def spearman(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's ρ: the correlation of the ranks, ties sharing theirs."""
    return float(np.corrcoef(rankdata(x), rankdata(y))[0, 1])


def steps_gain(rows: Sequence[Record]) -> float:
    """MLP: ln of ΔL in one step over ΔL in 140, each at its best λ; smallest of the models."""
    return min(
        log_ratio(*(gentlest(rows, task="mlp", criterion=c, pi=pi) for pi in (1, MOST["mlp"])))
        for c in MODELS
    )


def penalty_gain(rows: Sequence[Record]) -> float:
    """MLP, one step: ln of ΔL at λ = 0 over ΔL at the best λ; smallest of the models."""
    one = [{"task": "mlp", "criterion": c, "pi": 1} for c in MODELS]
    return min(log_ratio(gentlest(rows, **o, lam=0.0), gentlest(rows, **o)) for o in one)


def quadratic_over_magnitude(rows: Sequence[Record]) -> float:
    """MLP: ln of ΔL by magnitude over ΔL by the quadratic model, 140 steps, best λ."""
    magnitude = gentlest(rows, task="mlp", criterion="MP")
    return log_ratio(magnitude, gentlest(rows, task="mlp", criterion="QM", pi=MOST["mlp"]))


def quadratic_over_obd(rows: Sequence[Record]) -> float:
    """MLP: ln of ΔL by OBD over ΔL by the quadratic model, 140 steps, each at its best λ."""
    obd, qm = (gentlest(rows, task="mlp", criterion=c, pi=MOST["mlp"]) for c in ("OBD", "QM"))
    return log_ratio(obd, qm)


def loss_accuracy_correlation(rows: Sequence[Record]) -> float:
    """MLP: Spearman's ρ of ΔL and the gap after tuning, over the half of runs with the lower ΔL."""
    wanted = [r for c in (*MODELS, "MP") for r in runs(rows, task="mlp", criterion=c)]
    points = sorted((abs(r.numbers["rise"]), r.numbers["gap"]) for r in wanted)
    rises, gaps = zip(*points[: len(points) // 2], strict=True)
    return spearman(rises, gaps)


def linear_minus_quadratic(rows: Sequence[Record]) -> float:
    """MLP: test accuracy of the best LM minus that of the best QM, each chosen on validation."""
    lm, qm = (most_accurate(rows, task="mlp", criterion=c) for c in ("LM", "QM"))
    return lm["accuracy"] - qm["accuracy"]


STATISTICS: dict[str, Callable[[Sequence[Record]], float]] = {
    f.__name__: f
    for f in (
        steps_gain, penalty_gain, quadratic_over_magnitude, quadratic_over_obd,
        loss_accuracy_correlation, linear_minus_quadratic,
    )
}  # fmt: skip
