"""Crowley et al. (2018): what is measured. A long run through all sizes, and its rivals.

The long run of a criterion starts from the dense net of its seed and passes through every budget;
where it stops it leaves the small net for others: to *settle*, that is to be trained on with a rate
that falls to zero, for its shape to be trained from random weights, to be timed. All nets of a
budget have at most as many parameters as it allows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from survey_lib.experiments.context import Context
from survey_lib.measure.compare import compare
from survey_lib.measure.macs import count_macs
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
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
from survey_lib.tasks.dense import seeded, shipped_net
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit, recalibrate, total_steps

DATA = ("fashion_mnist.npz",)
INEXACT = tuple(
    f"timed.*.{name}"
    for name in ("median_ms", "min_ms", "speed_up", "efficiency", "noisy", "device")
)

BUDGETS = (0.7, 0.45, 0.25)
"""Shares of the dense net's parameters at which a long run leaves its net."""
MARKS = (0.85, 0.7, 0.55, 0.45, 0.35, 0.25)
"""Shares at which it is measured."""
EPOCHS = 8.0
"""A full training: of the dense net, and of every net trained from random weights."""
INTERVAL = 10
"""Training steps before each removal; a run to the end is then as large a share of the dense
net's training as the paper's."""
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet_small", {"width": 0.5, "blocks": 2}),
    "densenet": ("densenet_small", {"width": 0.5, "layers": 3, "bottleneck": 4}),
}
FACTORS = tuple(k / 64 for k in range(64, 3, -1))
"""Factors on the dense net's width that a thinner net may take."""
QUALITY = ("val", "val_re", "test", "test_re")
EVERY = 4
"""Removals from one noted stop of the explorer's runs to the next."""
LOOK = 10
"""Batches on which statistics are estimated anew at each of these stops."""
BATCHES = (64, 1)
"""Sizes of the batches that are timed."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """A key of :data:`ARMS`."""
    seed: int
    net: str = "resnet"
    criterion: str = ""
    """Of the long run: ``fisher``, ``l1``, ``random``, ``l1_signed``."""
    budget: float = 0.0
    """Share of the parameters; 0 where the arm has none or passes through all."""
    settle: float = 0.0
    """Epochs of falling rate after the long run."""
    beta: float = 0.0
    interval: int = INTERVAL
    epochs: float = EPOCHS
    dense_lr: float = 0.0
    pruned_lr: float = 0.0
    lr: float = 0.0
    """Peak rate of what follows a long run, or of a training from random weights."""


def run_of(cell: Cell) -> Cell:
    """The long run that a cell starts from."""
    return replace(cell, arm="pruned", budget=0.0, settle=0.0, lr=0.0)


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The long run whose nets a cell uses."""
    used = ("settled", "scratch", "scratch_equal", "dense_longer", "latency")
    return (run_of(cell),) if cell.arm in used else ()


def task_of(cell: Cell) -> Task:
    """The cell's net and its dense training."""
    name, options = NETS[cell.net]
    return load_task(name, **options).with_training(epochs=cell.epochs, lr=cell.dense_lr)


def long_run(net: nn.Module, task: Task, graph: ChannelGraph, cell: Cell) -> Iterator[method.Stop]:
    """The cell's long run of ``net``, at its rate."""
    config = method.Config(cell.criterion, interval=cell.interval, beta=cell.beta)
    recipe = replace(task.training, lr=cell.pruned_lr)
    return method.long_run(net, task, graph, config, recipe, seeded(cell.seed, 1))


def passed(
    net: nn.Module, task: Task, cell: Cell, marks: Sequence[float]
) -> Iterator[tuple[float, method.Stop, nn.Module]]:
    """The long run of ``net``: (mark, stop, small net) at the first stop within each mark."""
    graph = method.inside_blocks(trace_groups(net, task.example(1)))
    costs = Costs(graph, "params")
    left = sorted(marks, reverse=True)
    for stop in long_run(net, task, graph, cell):
        while left and costs(stop.kept) <= Budget("params", left[0]).allowed(costs.dense):
            yield left.pop(0), stop, apply_recipe(net, graph, stop.recipe).eval()
        if not left:
            return


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training."""
    task = task_of(context.cell)
    return standard(context.dense(task), task)


def pruned(context: Context) -> dict[str, Any]:
    """A long run, measured at every mark; the means over the budgets on top."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    whole = trace_groups(net, task.example(1))
    graph = method.inside_blocks(whole)
    at: dict[str, Any] = {}
    for mark, stop, small in passed(net, task, cell, MARKS):
        found = standard(small, task)
        at[str(mark)] = {k: found[k] for k in (*QUALITY, "params", "macs")} | {
            "widths": list(shapes.widths_of(graph, stop.recipe).values()),
            "steps": cell.interval * (len(stop.removed) + 1),
        }
        if mark in BUDGETS:
            save_compressed(small, whole, stop.recipe, context.keep(str(mark)))
    means = {k: sum(at[str(b)][k] for b in BUDGETS) / len(BUDGETS) for k in QUALITY}
    return means | {"at": at, "groups": {g.name: g.size for g in graph.groups}}


def found_net(context: Context, task: Task, budget: float) -> tuple[nn.Module, dict[str, int], int]:
    """What the cell's long run left at a budget: net, width of each block, steps made."""
    folder = context.kept(run_of(context.cell), str(budget))
    net = load_compressed(folder, task.build(seeded(0)), task.example(1))
    graph, _ = shapes.dense_costs(task)
    widths = shapes.widths_of(graph, read_recipe(folder)["recipe"])
    removed = sum(g.size for g in graph.groups) - sum(widths.values())
    return net, widths, context.cell.interval * (removed + 1)


def trained(net: nn.Module, task: Task, cell: Cell, epochs: float) -> dict[str, Any]:
    """The standard numbers after a training with a falling rate."""
    recipe = task.with_training(epochs=epochs, lr=cell.lr)
    history = fit(net, recipe, generator=seeded(cell.seed, 2))
    return standard(net, task) | {"steps": history.steps}


def settled(context: Context) -> dict[str, Any]:
    """The pruned net, trained on with a rate that falls to zero."""
    task = task_of(context.cell)
    net, _, _ = found_net(context, task, context.cell.budget)
    return trained(net, task, context.cell, context.cell.settle)


def scratch(context: Context) -> dict[str, Any]:
    """The shape the long run found, with random weights and the full training."""
    cell, task = context.cell, task_of(context.cell)
    _, widths, _ = found_net(context, task, cell.budget)
    net = shapes.profile(task, widths, generator=seeded(cell.seed, 3))
    return trained(net, task, cell, cell.epochs)


def scratch_equal(context: Context) -> dict[str, Any]:
    """The same for as many steps as the pruned net has seen in all: dense, pruned, settled."""
    cell, task = context.cell, task_of(context.cell)
    _, widths, run = found_net(context, task, cell.budget)
    net = shapes.profile(task, widths, generator=seeded(cell.seed, 3))
    settle = total_steps(task, replace(task.training, epochs=cell.settle))
    steps = total_steps(task) + run + settle
    return trained(net, task, cell, for_steps(task, task.training, steps).epochs)


def dense_longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on as long and at the same rate as the long run, then settled."""
    cell, task = context.cell, task_of(context.cell)
    net = context.dense(task)
    _, _, run = found_net(context, task, cell.budget)
    level = replace(task.training, lr=cell.pruned_lr, schedule="constant")
    fit(net, task, for_steps(task, level, run), generator=seeded(cell.seed, 1))
    return trained(net, task, cell, cell.settle)


def reduced(context: Context) -> dict[str, Any]:
    """A net made smaller by hand: equal shares inside every block, thinner, or fewer blocks."""
    cell, task = context.cell, task_of(context.cell)
    return trained(by_hand(task, cell, seeded(cell.seed, 3)), task, cell, cell.epochs)


def by_hand(task: Task, cell: Cell, generator: Any) -> nn.Module:
    """A net that nobody pruned, within the cell's budget, before its training."""
    graph, costs = shapes.dense_costs(task)
    target = cell.budget * costs["params"]
    if cell.arm == "bottleneck":
        widths = shapes.uniform(graph, "params", target)
        return shapes.profile(task, widths, generator=generator)
    if cell.arm == "depth":  # one block a stage, whatever the budget
        return replace(task, options=task.options | {"blocks": 1}).build(generator)
    return shapes.narrow(task, "params", target, FACTORS).build(generator)


def latency(context: Context) -> dict[str, Any]:
    """Nets of one budget against the dense net, by batch size: parameters, MACs, milliseconds.

    ``fisher`` is the pruned net itself, ``fisher shape`` one drawn anew at its widths, ``same
    MACs`` the widest thinner net with no more MACs than it.
    """
    cell, task = context.cell, task_of(context.cell)
    own, widths, _ = found_net(context, task, cell.budget)
    make = seeded(cell.seed, 3)
    macs = count_macs(own, task.example(1))
    nets = {
        "dense": context.dense(task),
        "fisher": own,
        "fisher shape": shapes.profile(task, widths, generator=make),
        "same MACs": shapes.narrow(task, "macs", macs, FACTORS).build(make),
        **{arm: by_hand(task, replace(cell, arm=arm), make)
           for arm in ("width", "bottleneck", "depth")},
    }  # fmt: skip
    nets = {name: net.eval() for name, net in nets.items()}
    fields = ("name", "params", "macs", "min_ms", "median_ms", "mac_ratio", "speed_up",
              "efficiency", "noisy")  # fmt: skip
    found = {}
    for batch in BATCHES:
        done = compare(nets, task.example(batch))
        rows = [{f: row[f] for f in fields} for row in done.dicts()]
        found[str(batch)] = {"device": done.device_line, "rows": rows}
    return {"timed": found}


def explore(context: Context) -> dict[str, Any]:
    """A long run of the shipped net, every removal noted, accuracy now and then."""
    return walked(shipped_net("resnet_small"), load_task("resnet_small"), context.cell)


def walked(
    net: nn.Module, task: Task, cell: Cell, *, total: int | None = None,
    note: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:  # fmt: skip
    """The first ``total`` removals (None: all) of a long run: who went, costs, accuracy.

    ``note`` is told the number of removals, at each.
    """
    graph = method.inside_blocks(trace_groups(net, task.example(1)))
    names = [g.name for g in graph.groups]
    macs, params = Costs(graph, "macs"), Costs(graph, "params")
    steps = []
    for stop in long_run(net, task, graph, cell):
        n = len(stop.removed)
        note(n)
        if n % EVERY == 0 or n == total:
            small = apply_recipe(net, graph, stop.recipe).eval()
            stale = evaluate(small, task.val, task)["accuracy"]
            recalibrate(small, task.train, batches=LOOK)
            steps.append(
                {
                    "removed": n,
                    "kept": stop.kept.tolist(),
                    "score": stop.removed[-1].score if n else None,
                    "macs": macs(stop.kept),
                    "parameters": params(stop.kept),
                    "val": stale,
                    "val_re": evaluate(small, task.val, task)["accuracy"],
                }
            )
        if n == total:
            break
    order = [[names.index(r.group), r.unit, r.score] for r in stop.removed]
    return {"groups": dict(zip(names, macs.sizes.tolist(), strict=True)),
            "macs_dense": macs.dense, "parameters_dense": params.dense,
            "order": order, "steps": steps}  # fmt: skip


ARMS = {
    "dense": dense, "pruned": pruned, "settled": settled, "scratch": scratch,
    "scratch_equal": scratch_equal, "dense_longer": dense_longer, "bottleneck": reduced,
    "width": reduced, "depth": reduced, "latency": latency, "explore": explore,
}  # fmt: skip
