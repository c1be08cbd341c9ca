"""A closer look (Crowley et al. 2018) on a small residual net and a smaller DenseNet.

The long run of a criterion starts from dense net s of its seed and passes through every budget;
at each it is measured, after the interval that tunes the shape. The rivals are trained from random
weights, with the dense net's whole schedule: the shape the Fisher run found at that budget, the
same share of channels inside every block, thinner nets, fewer blocks. All have at most as many
parameters as the budget allows; multiply-accumulates then differ, and are recorded.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from survey_lib import files
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.measure.compare import compare
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_parameters
from survey_lib.mechanics import gates
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.surgery import (
    apply_recipe,
    load_compressed,
    read_recipe,
    save_compressed,
)
from survey_lib.methods.closer_look import method, shapes
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.dense import dense_key, dense_net, first_net, seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit

DATA = ("fashion_mnist.npz",)
INEXACT = tuple(
    f"timed.*.{name}"
    for name in ("median_ms", "min_ms", "speed_up", "efficiency", "noisy", "device")
)

SEEDS = 5
BUDGETS = (0.7, 0.45, 0.25)
"""Shares of the dense net's parameters that claims and rivals rest on."""
SMALLEST = 0.25
MARKS = (0.85, 0.7, 0.55, 0.45, 0.35, 0.25)
"""Shares at which a long run is measured."""
EPOCHS = 4.0
"""Of the dense net, and of every net trained from random weights."""
INTERVAL = 4
"""Training steps before each removal."""
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet_small", {"width": 0.5, "blocks": 2}),
    "densenet": ("densenet_small", {"width": 0.5, "layers": 3, "bottleneck": 4}),
}
DENSENET_SEEDS = 1
"""The DenseNet is only drawn; no claim rests on it."""

LEARNING_RATES = {"dense": 0.1, "pruned": 0.02, "scratch": 0.2}
"""The best mean over :data:`TUNE_SEEDS` on validation, of :data:`TRIED_RATES` (``tune``)."""
TRIED_RATES = {
    "dense": (0.025, 0.05, 0.1, 0.2),
    "pruned": (0.0008, 0.005, 0.02, 0.05),
    "scratch": (0.05, 0.1, 0.2, 0.4),
}
TUNE_SEEDS = (900, 901, 902, 903, 904)

LONG_RUNS = ("fisher", "l1", "random")
RIVALS = ("fisher_scratch", "bottleneck", "width")
FACTORS = tuple(k / 64 for k in range(64, 3, -1))
"""Factors on the dense net's width that ``width`` may take."""

EXPLORED = (("fisher", 0.0), ("l1", 0.0), ("random", 0.0), ("l1_signed", 0.0),
            ("fisher", 0.1), ("fisher", 1.0))  # fmt: skip
"""Criterion and β of the explorer's runs on the shipped net."""
EXPLORER_INTERVAL, EXPLORER_EVERY = 2, 4
BATCHES = (64, 1)
"""Sizes of the batches that are timed; the claim rests on the first."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """``dense``, ``dense_longer``, one of :data:`LONG_RUNS` or :data:`RIVALS`, ``shuffled``,
    ``depth``, ``inherited``, ``latency``, or ``explore`` (a long run of the shipped net)."""
    seed: int
    net: str = "resnet"
    budget: float = 0.0
    """Share of the parameters; 0 where the arm has none or passes through all."""
    criterion: str = ""
    beta: float = 0.0
    interval: int = INTERVAL
    epochs: float = EPOCHS
    dense_lr: float = 0.0
    pruned_lr: float = 0.0
    lr: float = 0.0
    """Peak rate of a training from random weights."""


def _cell(arm: str, seed: int, budget: float = 0.0, **more: Any) -> Cell:
    options: dict[str, Any] = {}
    if arm not in (*RIVALS[1:], "depth", "explore"):
        options["dense_lr"] = LEARNING_RATES["dense"]
    if arm not in (*RIVALS[1:], "depth", "dense"):
        options["pruned_lr"] = LEARNING_RATES["pruned"]
    if arm in (*RIVALS, "depth", "inherited", "shuffled"):
        options["lr"] = LEARNING_RATES["scratch"]
    return Cell(arm, seed, budget=budget, **(options | more))


def _claims(seed: int) -> list[Cell]:
    return [
        _cell("dense", seed),
        *(_cell(arm, seed) for arm in LONG_RUNS),
        _cell("dense_longer", seed),
        *(_cell(arm, seed, b) for arm in RIVALS for b in BUDGETS),
        _cell("depth", seed),
        *(_cell(arm, seed, SMALLEST) for arm in ("inherited", "shuffled", "latency")),
    ]


def _densenet(seed: int) -> list[Cell]:
    return [
        _cell("dense", seed, net="densenet"),
        *(_cell(arm, seed, net="densenet") for arm in ("fisher", "l1")),
        *(_cell(a, seed, b, net="densenet")
          for a in ("fisher_scratch", "width") for b in (0.45, SMALLEST)),
    ]  # fmt: skip


def _explorer() -> list[Cell]:
    return [
        _cell("explore", 0, criterion=c, beta=b, interval=EXPLORER_INTERVAL) for c, b in EXPLORED
    ]


def _in_order(cells: list[Cell]) -> list[Cell]:
    """Dense nets first, then the Fisher runs, which others start from; both are cached."""
    order = {"dense": 0, "fisher": 1}
    return sorted(cells, key=lambda c: order.get(c.arm, 2))


def _study() -> list[Cell]:
    cells = [c for s in range(SEEDS) for c in _claims(s)]
    densenets = [c for s in range(DENSENET_SEEDS) for c in _densenet(s)]
    return _in_order([*_explorer(), *cells, *densenets])


def _quick() -> list[Cell]:
    """A slice of the study, seed 0: both long runs, and three rivals at the smallest budget."""
    return _in_order(
        [
            *(_cell(arm, 0) for arm in ("dense", "fisher", "l1")),
            *(_cell(arm, 0, SMALLEST) for arm in RIVALS),
        ]
    )


def _smoke() -> list[Cell]:
    """A fifth of an epoch of what the page draws from a fresh run."""
    short: dict[str, Any] = {"epochs": 0.2, "interval": 1}
    return [
        *(_cell(arm, 0, **short) for arm in ("dense", "fisher")),
        *(_cell(arm, 0, SMALLEST, **short) for arm in ("fisher_scratch", "width")),
    ]


def _tune() -> list[Cell]:
    cells = []
    for seed in TUNE_SEEDS:
        cells += [_cell("dense", seed, dense_lr=lr) for lr in TRIED_RATES["dense"]]
        for lr in TRIED_RATES["pruned"]:
            cells += [_cell(arm, seed, pruned_lr=lr) for arm in ("fisher", "l1")]
        for lr in TRIED_RATES["scratch"]:
            cells += [_cell(arm, seed, SMALLEST, lr=lr) for arm in ("fisher_scratch", "width")]
    return _in_order(list(dict.fromkeys(cells)))


def best_rates(records: Sequence[Record]) -> dict[str, float]:
    """What :data:`LEARNING_RATES` has to be: the rate with the best mean on validation."""
    wanted = {
        "dense": ("dense_lr", ("dense",)),
        "pruned": ("pruned_lr", ("fisher", "l1")),
        "scratch": ("lr", ("fisher_scratch", "width")),
    }
    chosen = {}
    for role, (field, arms) in wanted.items():
        means = {}
        for lr in TRIED_RATES[role]:
            rows = [r for r in records if r.config["arm"] in arms and r.config[field] == lr]
            means[lr] = sum(r.numbers["val"] for r in rows) / len(rows)
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
    """The cell's net and its dense training."""
    name, options = NETS[cell.net]
    return load_task(name, **options).with_training(epochs=cell.epochs, lr=cell.dense_lr)


def config_of(cell: Cell) -> method.Config:
    """Criterion and schedule of the cell's long run."""
    return method.Config(cell.criterion or cell.arm, interval=cell.interval, beta=cell.beta)


def long_run(net: nn.Module, task: Task, graph: ChannelGraph, cell: Cell) -> Iterator[method.Stop]:
    """The cell's long run of ``net``, at its rate."""
    recipe = replace(task.training, lr=cell.pruned_lr)
    return method.long_run(net, task, graph, config_of(cell), recipe, seeded(cell.seed, 1))


def run(cell: Cell) -> dict[str, Any]:
    """Prune one net through all budgets, or train one, or time several."""
    if cell.arm == "explore":
        return explore(cell)
    task = task_of(cell)
    if cell.arm in LONG_RUNS:
        return passed_through(task, cell)
    if cell.arm == "latency":
        return {"timed": timed(task, cell)}
    if cell.arm == "dense":
        net = dense_net(task, cell.seed)
    elif cell.arm == "dense_longer":
        net = longer(task, cell)
    else:
        net = rival(task, cell)
        generator = seeded(cell.seed, 2)
        fit(net, task.with_training(lr=cell.lr), generator=generator)
    return measured(net, task)


def measured(net: nn.Module, task: Task) -> dict[str, Any]:
    """Accuracy on validation and test, parameters, MACs."""
    return {
        "val": evaluate(net, task.val, task)["accuracy"],
        "accuracy": evaluate(net, task.test, task)["accuracy"],
        "parameters": count_parameters(net),
        "macs": count_macs(net, task.example(1)),
    }


def passed(
    net: nn.Module, task: Task, cell: Cell, marks: Sequence[float]
) -> Iterator[tuple[float, method.Stop, nn.Module]]:
    """The long run of ``net``: (mark, stop, small net) at the first stop within each mark."""
    graph = method.inside_blocks(trace_groups(net, task.example(1)))
    costs = Costs(graph, "params")
    left = sorted(marks, reverse=True)
    for stop in long_run(net, task, graph, cell):
        while left and costs(stop.kept) <= left[0] * costs.dense:
            yield left.pop(0), stop, apply_recipe(net, graph, stop.recipe).eval()
        if not left:
            return


def passed_through(task: Task, cell: Cell) -> dict[str, Any]:
    """A long run, measured at every mark; the mean over the claims' budgets on top."""
    net = dense_net(task, cell.seed)
    whole = trace_groups(net, task.example(1))
    graph = method.inside_blocks(whole)
    at: dict[str, Any] = {}
    for mark, stop, small in passed(net, task, cell, MARKS):
        at[str(mark)] = measured(small, task) | {
            "widths": list(shapes.widths_of(graph, stop.recipe).values()),
            "steps": cell.interval * (len(stop.removed) + 1),
        }
        if cell.arm == "fisher":
            save_compressed(small, whole, stop.recipe, _found(task, cell) / str(mark))
    claimed = [at[str(b)] for b in BUDGETS]
    last = at[str(SMALLEST)]
    return {
        "at": at,
        "groups": {g.name: g.size for g in graph.groups},
        "val": float(np.mean([a["val"] for a in claimed])),
        "accuracy": float(np.mean([a["accuracy"] for a in claimed])),
        "parameters": last["parameters"],
        "macs": last["macs"],
    }


def _found(task: Task, cell: Cell) -> Path:
    """Folder of what the Fisher run of a seed found: depends on net, schedule and code."""
    fisher = replace(cell, arm="fisher", budget=0.0, lr=0.0)
    code = [files.sha256(Path(str(m.__file__))) for m in (method, gates)]
    parts = [dense_key(task, cell.seed), asdict(fisher), MARKS, code]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return files.cache_dir() / "closer_look" / key


def fisher_net(task: Task, cell: Cell, budget: float) -> tuple[nn.Module, dict[str, list[int]]]:
    """The net that the Fisher run of the cell's seed has at a budget, and its recipe."""
    folder = _found(task, cell) / str(budget)
    if not (folder / "recipe.json").exists():
        passed_through(task, replace(cell, arm="fisher", budget=0.0, lr=0.0))
    net = load_compressed(folder, task.build(seeded(0)), task.example(1))
    return net, read_recipe(folder)["recipe"]


def fisher_widths(task: Task, cell: Cell) -> dict[str, int]:
    """Channels that each block keeps in the Fisher run of the cell's seed, at its budget."""
    graph, _ = shapes.dense_costs(task)
    return shapes.widths_of(graph, fisher_net(task, cell, cell.budget)[1])


def longer(task: Task, cell: Cell) -> nn.Module:
    """The dense net, trained on as long and at the same rate as the Fisher run to the end."""
    net = dense_net(task, cell.seed)
    graph, _ = shapes.dense_costs(task)
    kept = fisher_widths(task, replace(cell, budget=SMALLEST))
    removed = sum(g.size for g in graph.groups) - sum(kept.values())
    level = replace(task.training, lr=cell.pruned_lr, schedule="constant")
    recipe = for_steps(task, level, cell.interval * (removed + 1))
    fit(net, task, recipe, generator=seeded(cell.seed, 1))
    return net


def rival(task: Task, cell: Cell) -> nn.Module:
    """The net that is trained instead, before its training."""
    generator = seeded(cell.seed, 3)
    graph, dense = shapes.dense_costs(task)
    target = cell.budget * dense["params"]
    match cell.arm:
        case "fisher_scratch":
            return shapes.profile(task, fisher_widths(task, cell), generator=generator)
        case "shuffled":
            widths = shapes.shuffled(graph, fisher_widths(task, cell), target, seeded(cell.seed, 4))
            return shapes.profile(task, widths, generator=generator)
        case "inherited":
            return fisher_net(task, cell, cell.budget)[0]
        case "bottleneck":
            widths = shapes.uniform(graph, "params", target)
            return shapes.profile(task, widths, generator=generator)
        case "width":
            return shapes.narrow(task, "params", target, FACTORS).build(generator)
        case "depth":
            return fewer_blocks(task).build(generator)
    raise ValueError(f"closer_look: no arm {cell.arm!r}")


def fewer_blocks(task: Task) -> Task:
    """The residual net with one block a stage."""
    return replace(task, options=task.options | {"blocks": 1})


def timed(task: Task, cell: Cell) -> dict[str, Any]:
    """Nets of one budget against the dense net, by batch size: parameters, MACs, milliseconds.

    ``fisher`` is the pruned net itself, ``fisher shape`` one drawn anew at its widths, ``same
    MACs`` the widest thinner net with no more MACs than it.
    """
    pruned, _ = fisher_net(task, cell, cell.budget)
    graph, dense = shapes.dense_costs(task)
    macs = count_macs(pruned, task.example(1))
    target = cell.budget * dense["params"]
    make = seeded(cell.seed, 3)
    nets = {
        "dense": dense_net(task, cell.seed),
        "fisher": pruned,
        "fisher shape": shapes.profile(task, fisher_widths(task, cell), generator=make),
        "width": shapes.narrow(task, "params", target, FACTORS).build(make),
        "bottleneck": shapes.profile(task, shapes.uniform(graph, "params", target), generator=make),
        "same MACs": shapes.narrow(task, "macs", macs, FACTORS).build(make),
        "depth": fewer_blocks(task).build(make),
    }
    nets = {name: net.eval() for name, net in nets.items()}
    fields = ("name", "params", "macs", "min_ms", "median_ms", "mac_ratio", "speed_up",
              "efficiency", "noisy")  # fmt: skip
    found = {}
    for batch in BATCHES:
        done = compare(nets, task.example(batch))
        found[str(batch)] = {
            "device": done.device_line,
            "rows": [{f: row[f] for f in fields} for row in done.dicts()],
        }
    return found


def explore(cell: Cell) -> dict[str, Any]:
    """A long run of the shipped net, every removal noted, validation accuracy now and then."""
    net, task = first_net("resnet_small"), load_task("resnet_small")
    return walked(net, task, cell, total=None)


def walked(
    net: nn.Module, task: Task, cell: Cell, *, total: int | None,
    note: Callable[[int], None] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """The first ``total`` removals (None: all) of a long run: who went, costs, accuracy."""
    graph = method.inside_blocks(trace_groups(net, task.example(1)))
    names = [g.name for g in graph.groups]
    macs, params = Costs(graph, "macs"), Costs(graph, "params")
    steps = []
    for stop in long_run(net, task, graph, cell):
        n = len(stop.removed)
        if note:
            note(n)
        if n % EXPLORER_EVERY == 0 or n == total:
            small = apply_recipe(net, graph, stop.recipe)
            steps.append(
                {
                    "removed": n,
                    "kept": stop.kept.tolist(),
                    "score": stop.removed[-1].score if n else None,
                    "macs": macs(stop.kept),
                    "parameters": params(stop.kept),
                    "accuracy": evaluate(small, task.val, task)["accuracy"],
                }
            )
        if n == total:
            break
    order = [[names.index(r.group), r.unit, r.score] for r in stop.removed]
    return {"groups": dict(zip(names, macs.sizes.tolist(), strict=True)),
            "macs_dense": macs.dense, "parameters_dense": params.dense,
            "order": order, "steps": steps}  # fmt: skip


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


def pruned_at(rows: Sequence[Record], arm: str, budget: float, net: str = "resnet") -> Mapping:
    """Numbers of a long run at a budget."""
    return pick(rows, arm=arm, net=net)["at"][str(budget)]


def _over_budgets(value: Callable[[float], float]) -> float:
    return sum(value(b) for b in BUDGETS) / len(BUDGETS)


def fisher_scratch_over_pruned(rows: Sequence[Record]) -> float:
    """Accuracy of the Fisher shape from random weights minus the Fisher-pruned net's, at 25 %."""
    scratch = pick(rows, arm="fisher_scratch", budget=SMALLEST)["accuracy"]
    return scratch - pruned_at(rows, "fisher", SMALLEST)["accuracy"]


def best_reduced(rows: Sequence[Record]) -> dict[str, Any]:
    """The hand-reduced net within 25 % of the parameters that is best on validation."""
    reduced = [pick(rows, arm=arm, budget=SMALLEST) for arm in ("width", "bottleneck")]
    return max(reduced, key=lambda n: n["val"])


def best_reduced_over_pruned(rows: Sequence[Record]) -> float:
    """Accuracy of the best hand-reduced net minus the Fisher-pruned net's, at 25 %."""
    return best_reduced(rows)["accuracy"] - pruned_at(rows, "fisher", SMALLEST)["accuracy"]


def fisher_over_l1(rows: Sequence[Record]) -> float:
    """Mean over three budgets of accuracy, Fisher pruning minus ℓ1 pruning."""
    return _over_budgets(
        lambda b: pruned_at(rows, "fisher", b)["accuracy"] - pruned_at(rows, "l1", b)["accuracy"]
    )


def profile_over_uniform(rows: Sequence[Record]) -> float:
    """Mean over three budgets of accuracy from random weights, Fisher shape minus equal shares."""
    return _over_budgets(
        lambda b: (
            pick(rows, arm="fisher_scratch", budget=b)["accuracy"]
            - pick(rows, arm="bottleneck", budget=b)["accuracy"]
        )
    )


def fisher_macs_over_width(rows: Sequence[Record]) -> float:
    """Mean over three budgets of MACs, Fisher shape over the thinner net."""
    return _over_budgets(
        lambda b: (
            pick(rows, arm="fisher_scratch", budget=b)["macs"]
            / pick(rows, arm="width", budget=b)["macs"]
        )
    )


def times(rows: Sequence[Record], batch: int) -> dict[str, dict[str, Any]]:
    """Timed nets of the seed by name."""
    found = pick(rows, arm="latency")["timed"][str(batch)]["rows"]
    return {row["name"]: row for row in found}


def pruned_time_over_reduced(rows: Sequence[Record]) -> float:
    """Milliseconds of the Fisher shape over those of the thinner net, batch of 64, at 25 %."""
    by_name = times(rows, BATCHES[0])
    return by_name["fisher shape"]["min_ms"] / by_name["width"]["min_ms"]


STATISTICS: dict[str, Callable[[Sequence[Record]], float]] = {
    f.__name__: f
    for f in (
        fisher_scratch_over_pruned, best_reduced_over_pruned, fisher_over_l1,
        profile_over_uniform, fisher_macs_over_width, pruned_time_over_reduced,
    )
}  # fmt: skip
