"""Hedegaard et al. (2022): what is measured. One frozen net, new classes, fewer and fewer filters.

A source net learns five of ten classes; the other five are the target, with few images or many.
A *path*: the net gets a new head, its learner trains (80 steps), then a tenth of the source's
filters goes in each of nine rounds, each followed by 32 steps. On the way the net is measured
whole and with 50, 30 and 10 % of its filters, and at the end once more when it has had as many
steps again as the whole path. Every learner makes the same steps.
"""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from survey_lib.experiments.context import Context
from survey_lib.experiments.pruning_adapters import smollm2
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_parameters
from survey_lib.measure.standard import standard
from survey_lib.measure.tuning import compare_tuning
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.pruning_adapters import method
from survey_lib.methods.pruning_adapters.adapter import (
    LEARNERS,
    apart,
    frozen,
    fuse,
    learned,
    task_bytes,
)
from survey_lib.methods.pruning_by_explaining.method import reference
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.data import fashion_mnist, of_classes
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task
from survey_lib.tasks.train import evaluate, fit, layout

DATA = ("fashion_mnist.npz", "wikitext2_test.txt.gz")
INEXACT = ("timed.*.step_ms", "timed.*.median_ms")
PLAN = ((32, 2), (64, 2), (64, 1), (128, 2))
"""Channels and stride of each 3 × 3 convolution."""
CLASSES = 5
"""Of the source net, and of the target."""
SOURCE_EPOCHS, FURTHER_EPOCHS = 10.0, 5.0
BATCH = 64
FIRST, BETWEEN, ROUNDS = 80, 32, 9
"""Steps before the first cut, steps after each, and cuts."""
STEP = 0.1
"""Share of the source's filters that goes at each cut."""
STEPS = FIRST + BETWEEN * ROUNDS
MARKS = (0, 5, 7, 9)
"""Rounds after which a net is measured."""
DENSITIES = (1.0, 0.5, 0.3, 0.1)
"""Share of the filters left there."""
FURTHER_SEEDS, FURTHER_LR = 3, 0.02
"""Replicates whose source net is trained on, and the rate of that."""
GAP_IMAGES = 1000
"""Test images on which a net and its fused twin are compared."""


@dataclass(frozen=True)
class Cell:
    """One learner on its way down, or a net it is compared with."""

    arm: str
    """A learner (``splora``, ``sppara``, ``head``, ``fine``); ``dense``: fine-tuned, nothing goes;
    ``scratch``, ``inherited``: the last shape of ``fine`` with fresh weights, or the source's;
    ``source``: the source net; ``time``: steps timed; ``smollm2``: adapters in a language model."""
    seed: int
    rank: int = 4
    """Of SPLoRA."""
    images: int = 500
    """Of the target, for training."""
    criterion: str = "taylor"
    lr: float = 0.0
    """Peak rate of each training on the way."""
    shape_lr: float = 0.0
    """Rate of the run of ``fine`` whose last shape a cell takes."""
    settle: int = STEPS
    """Steps more at the end of a path, with a schedule of their own."""
    epochs: float = SOURCE_EPOCHS
    """Of the source net's training."""


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The source net, and the run whose shape is taken."""
    if cell.arm in ("source", "smollm2"):
        return ()
    source = source_of(cell)
    return (source, shape_of(cell)) if cell.arm in ("scratch", "inherited") else (source,)


def source_of(cell: Cell) -> Cell:
    """The cell that trains the source net."""
    return Cell("source", cell.seed, epochs=cell.epochs)


def shape_of(cell: Cell) -> Cell:
    """The run of fine-pruning whose last shape a cell takes."""
    return replace(cell, arm="fine", lr=cell.shape_lr, shape_lr=0.0)


# ---- tasks and nets


def classes_of(seed: int) -> tuple[list[int], list[int]]:
    """The replicate's source classes and target classes, drawn."""
    drawn = torch.randperm(10, generator=seeded(seed, 3)).tolist()
    return sorted(drawn[:CLASSES]), sorted(drawn[CLASSES:])


class Transfer(Task):
    """Some classes, and the net of this experiment."""

    def build(self, generator: torch.Generator) -> nn.Module:
        """Four convolutions with batch norm, a mean over space, and a linear head; fresh."""
        layers: list[nn.Module] = []
        last = 1
        with torch.random.fork_rng(devices=[]):  # torch's layers draw from its own generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator, device="cpu")))
            for width, stride in PLAN:
                layers += [nn.Conv2d(last, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width),
                           nn.ReLU()]  # fmt: skip
                last = width
            head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, CLASSES))
            net = nn.Sequential(*layers, *head)
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def task_of(classes: list[int]) -> Task:
    """Some classes of Fashion-MNIST, numbered anew."""
    data = of_classes(fashion_mnist(), classes)
    name = f"fashion_mnist[{','.join(data.classes)}]/four convolutions"
    return Transfer(name, data, "four convolutions", {}, "accuracy")


def source_task(cell: Cell) -> Task:
    """All training images of the source classes."""
    return task_of(classes_of(cell.seed)[0]).with_training(epochs=cell.epochs)


def target_task(cell: Cell) -> Task:
    """The target classes, so many images of them: the same for all learners of a replicate."""
    task = task_of(classes_of(cell.seed)[1])
    drawn = reference(task, cell.images // CLASSES, seeded(cell.seed, 4))
    task = replace(task, data=replace(task.data, train=drawn))
    return task.with_training(batch=BATCH, lr=cell.lr)


def source_net(context: Context) -> nn.Module:
    """The source net of the cell's replicate, its head drawn anew: the target has other classes."""
    cell = context.cell
    net = source_task(cell).build(seeded(cell.seed))
    net.load_state_dict(load_file(context.kept(source_of(cell), "net.safetensors")))
    fresh = target_task(cell).build(seeded(cell.seed, 5))
    net[-1].load_state_dict(fresh[-1].state_dict())  # type: ignore[index]
    return net.eval()


def tuned(net: nn.Module, task: Task, steps: int, generator: torch.Generator) -> None:
    """So many steps at the task's rate, in place, with a schedule of their own."""
    fit(net, task, for_steps(task, task.training, steps), generator=generator)


# ---- arms


def source(context: Context) -> dict[str, Any]:
    """The source net on its own classes; and what as many epochs again as a path has would add."""
    cell = context.cell
    task = source_task(cell)
    net = task.build(seeded(cell.seed))
    fit(net, task, generator=seeded(cell.seed, 1))
    state = {name: t.contiguous() for name, t in net.state_dict().items()}
    save_file(state, context.keep("net.safetensors"))
    numbers = standard(net, task)
    if cell.seed < FURTHER_SEEDS:
        recipe = replace(task.training, epochs=FURTHER_EPOCHS, lr=FURTHER_LR)
        fit(net, task, recipe, generator=seeded(cell.seed, 2))
        numbers["further"] = evaluate(net, task.val, task)["accuracy"]
    return numbers


def path(context: Context) -> dict[str, Any]:
    """A learner's way down, measured at every mark."""
    cell, task = context.cell, target_task(context.cell)
    config = method.Config(cell.arm, cell.rank, criterion=cell.criterion, step=STEP)
    generator = context.generator()
    net = method.start(source_net(context), config, context.generator(2))
    images = reference(task, config.images, context.generator(7))
    filters = sum(g.size for g in trace_groups(fuse(net), task.example(1)).prunable)
    tuned(net, task, FIRST, generator)
    numbers: dict[str, Any] = {"source_bytes": task_bytes(fuse(net)), "filters": filters}
    whole = method.Stop(net, {}, {})
    stop = whole
    measured(numbers, stop, task, filters, cell)
    stops = method.rounds(net, task, images, config, context.generator(8))
    for number, stop in zip(range(1, ROUNDS + 1), stops, strict=False):
        tuned(stop.net, task, BETWEEN, generator)
        if number in MARKS:
            measured(numbers, stop, task, filters, cell)
    (context.keep("recipe.json")).write_text(json.dumps(stop.recipe))
    numbers["val_path"] = sum(numbers["val_at"]) / len(MARKS)
    numbers |= standard(fuse(stop.net), task)
    if cell.settle:
        tuned(stop.net, task, cell.settle, generator)
        for name, split in (("settled_val", task.val), ("settled", task.test)):
            numbers[name] = evaluate(stop.net, split, task)["accuracy"]
    return numbers


def measured(
    numbers: dict[str, Any], stop: method.Stop, task: Task, filters: int, cell: Cell
) -> None:
    """Put a net's numbers at the ends of the lists."""
    plain = fuse(stop.net).eval()
    test = evaluate(plain, task.test, task)
    units = {name: len(kept) for name, kept in stop.recipe.items()}
    found = {
        "density_at": sum(units.values()) / filters if units else 1.0,
        "kept_at": units,
        "val_at": evaluate(plain, task.val, task)["accuracy"],
        "test_at": test["accuracy"],
        "loss_at": test["loss"],
        "learned_at": learned(stop.net),
        "bytes_at": task_bytes(stop.net, 0 if cell.arm == "fine" else filters),
        "alone_at": task_bytes(plain),
        "params_at": count_parameters(plain),
        "macs_at": count_macs(plain, task.example(1)),
        "macs_cut_at": count_macs(frozen(stop.net), task.example(1)),  # the same masks, no adapter
        "gap_at": gap(stop.net, plain, task),
    }
    for name, value in found.items():
        numbers.setdefault(name, []).append(value)


@torch.no_grad()
def gap(net: nn.Module, plain: nn.Module, task: Task) -> float:
    """Largest difference of a logit: adapters beside the frozen layers, and fused into them."""
    x = layout(task.test.x[:GAP_IMAGES])
    return float((apart(net).eval()(x) - plain(x)).abs().max())


def dense(context: Context) -> dict[str, Any]:
    """Fine-tuning with as many steps as a path has, nothing removed."""
    task, net = target_task(context.cell), source_net(context)
    tuned(net, task, STEPS, context.generator())
    return standard(net, task)


def shape(context: Context) -> dict[str, Any]:
    """The last shape of fine-pruning, from fresh weights or the source's, at a path's steps."""
    cell, task = context.cell, target_task(context.cell)
    recipe = json.loads(context.kept(shape_of(cell), "recipe.json").read_text())
    if cell.arm == "scratch":
        net = from_scratch(task, recipe, generator=seeded(cell.seed, 6), spread="own")
    else:
        net = source_net(context)
        net = apply_recipe(net, trace_groups(net, task.example(1)), recipe)
    tuned(net, task, STEPS, context.generator())
    return standard(net, task)


def time(context: Context) -> dict[str, Any]:
    """A training step of each learner, taken in turns, at every density; filters go at random."""
    task, source = target_task(replace(context.cell, lr=0.01)), source_net(context)
    nets: dict[int, dict[str, nn.Module]] = {mark: {} for mark in MARKS}
    for learner in LEARNERS:
        config = method.Config(learner, context.cell.rank, criterion="random", step=STEP)
        net = method.start(source, config, context.generator(2))
        nets[0][learner] = net
        stops = method.rounds(net, task, task.train, config, context.generator(8))
        for number, stop in zip(range(1, ROUNDS + 1), stops, strict=False):
            if number in MARKS:
                nets[number][learner] = stop.net
    for of in nets.values():
        of["splora apart"] = apart(of["splora"])
    found = {
        f"{100 * share:.0f}": compare_tuning(nets[mark], task, task.training)
        for mark, share in zip(MARKS, DENSITIES, strict=True)
    }
    return {"timed": {at: {n: asdict(t) for n, t in of.items()} for at, of in found.items()}}


ARMS = {"source": source, "dense": dense, "scratch": shape, "inherited": shape, "time": time,
        "smollm2": smollm2.measured,
        **dict.fromkeys(LEARNERS, path)}  # fmt: skip
