"""Group Fisher pruning (Liu et al. 2021) on three nets whose channels are coupled.

Every pruned cell takes dense net s of its seed and masks one unit every d training steps. One run
passes through every budget: at each mark of :data:`MARKS` it notes who is left, what the net costs
and its accuracy on validation images as it stands. At half of the MACs, and at a quarter, a copy is
cut for real, tuned, and measured on the test images.

A ``ranking`` cell takes units out of the dense net one at a time and compares the rise of the loss
with what each score said.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor, nn

from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_activations, count_parameters
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.gates import gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.statistics import gate_gradients
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods import channel_baselines
from survey_lib.methods.group_fisher import method
from survey_lib.tasks.dense import dense_net, seeded
from survey_lib.tasks.modes import evaluating
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit

DATA = ("fashion_mnist.npz",)

SEEDS, OTHER_SEEDS = 5, 1
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet_small", {}),
    "mobilenet": ("mobilenet_small", {}),
    "resnext": ("resnet_small", {"groups": 4}),
}
HALF, QUARTER = 0.5, 0.25
MARKS = (0.9, 0.8, 0.7, 0.6, HALF, 0.4, 0.3, QUARTER)
"""Shares of the MACs at which a path is looked at."""
DENSE_EPOCHS, TUNING_EPOCHS = 5.0, 3.0
OPPONENT_EPOCHS = 5.5
"""Of opponents cut at once: the tuning, and about what the paths train on their way to half."""
D, PRUNING_LR = 3, 0.004
"""Steps for each unit; the paper's rate, 0.04 times that of the dense net."""
MOBILENET_D = 1
"""Its 526 units would take as many steps as two trainings otherwise."""
LEARNING_RATES = {"dense": 0.05, "tuned": 0.1}
"""The best mean over :data:`TUNE_SEEDS` on validation, of :data:`TRIED_RATES` (``tune``)."""
TRIED_RATES = {"dense": (0.025, 0.05, 0.1, 0.2), "tuned": (0.02, 0.05, 0.1, 0.2)}
TUNE_SEEDS = (900, 901)
TUNED_ON = ("M", "U", "l1")

VARIANTS: dict[str, dict[str, Any]] = {
    "M": {"per": "activations"},
    "F": {"per": "macs"},
    "U": {"per": ""},
    "I": {"per": "activations", "coupled": False},
}
"""The paper's ablations, as it calls them."""
ALPHAS = (0.0, 0.5, 1.0)
"""Exponents of Δ that the explorer offers."""
SCORED, REMOVALS = 1000, 200
"""Training images that scores and true losses rest on; units taken out, drawn at random."""
SCORES = ("fisher", "square_first", "first_order", "taylor")


@dataclass(frozen=True)
class Cell:
    """One run: a net, and how it is made smaller."""

    arm: str
    """``dense``, ``dense_longer``, ``l1``, ``random`` (cut at once), ``path`` or ``ranking``."""
    seed: int
    net: str = "resnet"
    per: str = ""
    alpha: float = 1.0
    coupled: bool = True
    to: float = HALF
    """Where a path ends, as a share of the MACs."""
    tune: bool = True
    d: int = D
    epochs: float = DENSE_EPOCHS
    """Of the dense net."""
    dense_lr: float = LEARNING_RATES["dense"]
    lr: float = LEARNING_RATES["tuned"]
    """Peak rate of the tuning."""


def path(name: str, seed: int, **more: Any) -> Cell:
    """A path of one of the paper's variants."""
    return Cell("path", seed, **(VARIANTS[name] | more))


def _claims(seed: int) -> list[Cell]:
    return [
        Cell("dense", seed),
        *(path(name, seed, to=QUARTER) for name in ("M", "F", "U")),
        path("I", seed),
        *(Cell(arm, seed) for arm in ("ranking", "dense_longer", "l1", "random")),
    ]


def _other_nets(seed: int) -> list[Cell]:
    cells = []
    for net in ("mobilenet", "resnext"):
        cells.append(Cell("dense", seed, net))
        d = MOBILENET_D if net == "mobilenet" else D
        cells += [path(name, seed, net=net, d=d) for name in ("M", "F", "U")]
    return cells


def explored() -> list[Cell]:
    """Paths of dense net 0: coupling × what Δ counts × α; nothing is tuned."""
    cells = []
    for coupled in (True, False):
        for per, alpha in [("", 1.0), *((p, a) for p in ("activations", "macs") for a in (0.5, 1))]:
            known = coupled and alpha == 1  # these paths are arms M, F and U
            cells.append(
                Cell("path", 0, per=per, alpha=float(alpha), coupled=coupled, to=QUARTER,
                     tune=known)
            )  # fmt: skip
    return cells


def _dense_first(cells: list[Cell]) -> list[Cell]:
    """Dense nets first, so that no two workers train the same one; they are cached."""
    return sorted(dict.fromkeys(cells), key=lambda c: c.arm != "dense")


def _study() -> list[Cell]:
    cells = [c for s in range(SEEDS) for c in _claims(s)]
    return _dense_first(
        cells + [c for s in range(OTHER_SEEDS) for c in _other_nets(s)] + explored()
    )


def _quick() -> list[Cell]:
    """A slice of the study, seed 0."""
    return [
        Cell("dense", 0),
        path("M", 0, to=QUARTER),
        path("F", 0, to=QUARTER),
        Cell("ranking", 0),
    ]


def _smoke() -> list[Cell]:
    """A moment of everything the page draws from a fresh run."""
    short = {"epochs": 0.2, "d": 1, "tune": False}
    cells = [Cell("dense", 0), path("M", 0, to=0.9), path("F", 0, to=0.9)]
    return [replace(c, **short) for c in cells]


def _tune() -> list[Cell]:
    cells = []
    for seed in TUNE_SEEDS:
        cells += [Cell("dense", seed, dense_lr=lr) for lr in TRIED_RATES["dense"]]
        cells += [
            c
            for lr in TRIED_RATES["tuned"]
            for c in (path("M", seed, lr=lr), path("U", seed, lr=lr), Cell("l1", seed, lr=lr))
        ]
    return _dense_first(cells)


def variant_of(config: Mapping[str, Any]) -> str:
    """The paper's name of a path's settings, or nothing."""
    for name, wanted in VARIANTS.items():
        if all(config[k] == v for k, v in ({"coupled": True, "alpha": 1.0} | wanted).items()):
            return name
    return ""


def best_rates(records: Sequence[Record]) -> dict[str, float]:
    """The choice :data:`LEARNING_RATES` rests on: the rate with the best mean on validation."""
    chosen = {}
    for role, field in (("dense", "dense_lr"), ("tuned", "lr")):
        means = {}
        for lr in TRIED_RATES[role]:
            values = [
                r.numbers["val"]
                for r in records
                if (r.config["arm"] == "dense") == (role == "dense") and r.config[field] == lr
            ]
            means[lr] = sum(values) / len(values)
        chosen[role] = max(means, key=means.__getitem__)
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


# ---- what one cell does


def task_of(cell: Cell) -> Task:
    """The net of a cell, and its dense training."""
    name, options = NETS[cell.net]
    return load_task(name, **options).with_training(epochs=cell.epochs, lr=cell.dense_lr)


def config_of(cell: Cell) -> method.Config:
    """The method's settings in a cell."""
    return method.Config(per=cell.per, alpha=cell.alpha, coupled=cell.coupled, d=cell.d)


def run(cell: Cell) -> dict[str, Any]:
    """Make one net smaller, or look at one, and measure."""
    task, generator = task_of(cell), seeded(cell.seed, 1)
    dense = dense_net(task, cell.seed)
    match cell.arm:
        case "dense":
            return measured(dense, task)
        case "dense_longer":
            longer = task.with_training(epochs=OPPONENT_EPOCHS, lr=cell.lr)
            fit(dense, longer, generator=generator)
            return measured(dense, task)
        case "l1" | "random":
            config = channel_baselines.Config(cell.arm, scope="local")
            tuning = replace(task.training, epochs=OPPONENT_EPOCHS, lr=cell.lr)
            cut = channel_baselines.compress(
                dense, task, Budget("macs", cell.to), config, tuning=tuning, generator=generator
            )
            return measured(cut.model, task)
        case "ranking":
            return ranking(dense, task, generator)
        case _:
            return along_the_path(dense, task, cell, generator)


def measured(model: nn.Module, task: Task) -> dict[str, Any]:
    """Accuracy on validation and test, sizes and MACs."""
    example = task.example(1)
    return {
        "val": evaluate(model, task.val, task)["accuracy"],
        "accuracy": evaluate(model, task.test, task)["accuracy"],
        "params": count_parameters(model),
        "macs": count_macs(model, example),
        "activations": count_activations(model, example),
    }


def along_the_path(
    dense: nn.Module, task: Task, cell: Cell, generator: torch.Generator
) -> dict[str, Any]:
    """One run through every budget; tuned copies at half and at a quarter of the MACs."""
    net, graph = copy.deepcopy(dense), trace_groups(dense, task.example(1))
    costs = {k: Costs(graph, k) for k in ("macs", "activations", "params")}
    marks = [k for k in MARKS if k >= cell.to]
    numbers: dict[str, Any] = {"path": [], "removed": []}
    meanwhile = replace(task.training, lr=PRUNING_LR)
    steps = method.one_by_one(net, graph, task, config_of(cell), meanwhile, generator=generator)
    for removal in steps:
        numbers["removed"].append(f"{removal.group} {removal.unit}")
        share = costs["macs"](removal.kept) / costs["macs"].dense
        while marks and share <= marks[0]:
            mark = marks.pop(0)
            seen = {
                "mark": mark,
                "val": evaluate(net, task.val, task)["accuracy"],
                "kept": {
                    g.name: int(k) for g, k in zip(graph.groups, removal.kept, strict=True)
                    if not g.protected
                },
                "steps": len(numbers["removed"]) * cell.d,
            }  # fmt: skip
            seen |= {k: c(removal.kept) for k, c in costs.items()}
            numbers["path"].append(seen)
            if cell.tune and mark in (HALF, QUARTER):
                plain = copy.deepcopy(dense)  # the net itself wears the masks' hooks
                plain.load_state_dict(net.state_dict())
                small = apply_recipe(plain, graph, removal.recipe).eval()
                before = evaluate(small, task.test, task)["accuracy"]
                training = task.with_training(epochs=TUNING_EPOCHS, lr=cell.lr)
                fit(small, training, generator=seeded(cell.seed, 2))
                found = measured(small, task) | {"accuracy_before": before}
                numbers |= found if mark == HALF else {"quarter": found}
        if not marks:
            break
    steps.close()
    if marks:
        raise ValueError(f"{cell}: the path ended before {marks[0]} of the MACs")
    return numbers


def ranking(dense: nn.Module, task: Task, generator: torch.Generator) -> dict[str, Any]:
    """Scores of units of the dense net beside the true rise of the loss without each."""
    graph = trace_groups(dense, task.example(1))
    x, y = task.train.x[:SCORED], task.train.y[:SCORED]
    scores = all_scores(dense, graph, task, x, y)
    units = [(g.name, u) for g in graph.prunable for u in range(g.size)]
    drawn = torch.randperm(len(units), generator=generator)[:REMOVALS].tolist()
    chosen = [units[i] for i in sorted(drawn)]
    rise = true_rises(dense, graph, task, x, y, chosen)
    several = {g.name for g in graph.prunable if len(g.consumers) > 1}
    shared = np.array([name in several for name, _ in chosen])
    found: dict[str, Any] = {
        "units": [f"{name} {u}" for name, u in chosen],
        "rise": [float(f"{v:.5g}") for v in rise],
        "shared": shared.tolist(),
    }
    for name in SCORES:
        values = np.array([float(scores[name][g][u]) for g, u in chosen])
        found[name] = [float(f"{v:.5g}") for v in values]
        found[f"rho_{name}"] = correlation(values, rise)
        found[f"rho_shared_{name}"] = correlation(values[shared], rise[shared])
    return found


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation."""
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def all_scores(
    net: nn.Module, graph: ChannelGraph, task: Task, x: Tensor, y: Tensor
) -> dict[str, dict[str, Tensor]]:
    """Each score of all units, from one pass over the images: (units,) by score and group."""
    found: dict[str, dict[str, Tensor]] = {name: {} for name in SCORES}
    gates = gate_gradients(net, graph, task.loss, x, y)
    for name, copies in gates.single().items():
        g = torch.stack(list(copies.values())).double()  # (copies, N, units)
        for score in SCORES[:3]:
            found[score][name] = method.importance(g, score).abs()
        found["taylor"][name] = g.sum(0).abs().sum(0)
    return found


@torch.no_grad()
def true_rises(
    net: nn.Module,
    graph: ChannelGraph,
    task: Task,
    x: Tensor,
    y: Tensor,
    units: Sequence[tuple[str, int]],
) -> np.ndarray:
    """L without the unit minus L, on the images, in eval mode: (units,)."""
    x = x.contiguous(memory_format=torch.channels_last)
    rises = []
    with evaluating(net):
        base = float(task.loss(net(x), y))
        for name, unit in units:
            mask = torch.ones(graph[name].size)
            mask[unit] = 0
            with gated(net, graph, {name: mask}):
                rises.append(float(task.loss(net(x), y)) - base)
    return np.array(rises)


# ---- the statistic of each claim: one seed's records → a number; MissingArm when an arm is missing


def pick(rows: Sequence[Record], **wanted: Any) -> dict[str, Any]:
    """Numbers of the one record whose configuration has these values.

    Raises:
        MissingArm: there is none.
        ValueError: there is more than one.
    """
    wanted = {"net": "resnet"} | wanted
    found = [r.numbers for r in rows if all(r.config[k] == v for k, v in wanted.items())]
    if not found:
        raise MissingArm(f"no record with {wanted}")
    if len(found) > 1:
        raise ValueError(f"{len(found)} records with {wanted}")
    return found[0]


def variant(rows: Sequence[Record], name: str, net: str = "resnet") -> dict[str, Any]:
    """Numbers of the tuned path of M, F, U or I."""
    wanted = {"coupled": True, "alpha": 1.0} | VARIANTS[name]
    return pick(rows, arm="path", net=net, tune=True, **wanted)


def flops_over_memory_activations(rows: Sequence[Record]) -> float:
    """Activations at half of the MACs: pruned per operation over pruned per memory."""
    return variant(rows, "F")["activations"] / variant(rows, "M")["activations"]


def memory_over_flops_accuracy(rows: Sequence[Record]) -> float:
    """Accuracy at half of the MACs, tuned: pruned per memory minus pruned per operation."""
    return variant(rows, "M")["accuracy"] - variant(rows, "F")["accuracy"]


def flops_over_memory_accuracy(rows: Sequence[Record]) -> float:
    """Accuracy at half of the MACs, tuned: pruned per operation minus pruned per memory."""
    return -memory_over_flops_accuracy(rows)


def memory_over_raw_accuracy(rows: Sequence[Record]) -> float:
    """Accuracy at half of the MACs, tuned: pruned per memory minus pruned by raw scores."""
    return variant(rows, "M")["accuracy"] - variant(rows, "U")["accuracy"]


def raw_over_memory_parameters(rows: Sequence[Record]) -> float:
    """Parameters at half of the MACs: pruned by raw scores over pruned per memory."""
    return variant(rows, "U")["params"] / variant(rows, "M")["params"]


def internal_over_coupled_activations(rows: Sequence[Record]) -> float:
    """Activations at half of the MACs: inside blocks only over everywhere."""
    return variant(rows, "I")["activations"] / variant(rows, "M")["activations"]


def sum_first_over_square_first(rows: Sequence[Record]) -> float:
    """Rank correlation with the true rise: summed before squaring minus squared before summing."""
    numbers = pick(rows, arm="ranking")
    return numbers["rho_fisher"] - numbers["rho_square_first"]


def fisher_over_first_order(rows: Sequence[Record]) -> float:
    """Rank correlation with the true rise: Fisher's minus the batch's absolute gradient's."""
    numbers = pick(rows, arm="ranking")
    return numbers["rho_fisher"] - numbers["rho_first_order"]


STATISTICS: dict[str, Callable[[Sequence[Record]], float]] = {
    f.__name__: f
    for f in (
        flops_over_memory_activations, memory_over_flops_accuracy, flops_over_memory_accuracy,
        memory_over_raw_accuracy,
        raw_over_memory_parameters, internal_over_coupled_activations,
        sum_first_over_square_first, fisher_over_first_order,
    )
}  # fmt: skip
