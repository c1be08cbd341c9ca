"""Yeom et al. (2021): what is measured. Pruning with a few images, and the toy sets.

*Images.* A net is to tell three of ten classes apart, and ten images of each are at hand. Filters
go in rounds, 5 % of the dense net's each, down to 40 % of them. Nothing is trained; at every
second round the net is measured as it is, and with its batch-norm statistics estimated anew from
those same few images. ``new``: the net has never seen the three classes, its last layer was fitted
to the few images. Where a cell has a rate, the net is tuned after each round, on all training
images of the three classes, down to half of the filters.

*Points.* A third of a toy net's hidden neurons goes at once, by scores from n samples of each
class.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.standard import standard
from survey_lib.mechanics.relevance.engine import relevance, true_class
from survey_lib.methods.pruning_by_explaining import method
from survey_lib.tasks.data import Split
from survey_lib.tasks.dense import dense_net, seeded, train_dense
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.toys import NAMES, points
from survey_lib.tasks.train import evaluate, fit, layout, recalibrate

DATA = ("fashion_mnist.npz",)
INEXACT = ()
CLASSES = 3
"""k, of ten."""
STEP, ROUNDS, TUNED_ROUNDS = 0.05, 12, 10
MARK_EVERY = 2
"""Rounds between measurements."""
TUNING_EPOCHS = 0.5
"""After each round, where there is a rate."""
TOY_WIDTH = 0.3
"""300 neurons in each hidden layer; the paper has 1000."""
THIRD = 1 / 3
SAMPLES = (1, 2, 5, 10, 20, 50, 100)
"""n, per class, of the toy sets."""
FIELD, EXTENT = 36, 2.4
"""Points of a drawn plane a side, and its half-width."""
DRAWN = 5
"""Samples per class that decision regions are drawn for."""
NETS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet": ("resnet_small", {}),
    "cnn": ("cnn_small", {"bn": False}),
    "new": ("resnet_small", {}),
}
"""Family → model and its options; the other families are the toy sets."""
PICTURED = "resnet"
"""The family of which replicate 0 keeps heat maps."""


@dataclass(frozen=True)
class Cell:
    """One pruning, by one criterion, of one dense net."""

    arm: str
    """A criterion, or ``dense``: nothing goes."""
    seed: int
    family: str = "resnet"
    """One of :data:`NETS`, or a toy set."""
    images: int = 10
    """Reference images of each class; of a toy set all of :data:`SAMPLES` are run."""
    rules: str = "released"
    start: str = "one"
    width: float = TOY_WIDTH
    """Of a toy net."""
    lr: float = 0.0
    """Peak rate of the tuning after each round; 0: none."""
    draw: int = 0
    """Which three classes, and which images of them."""


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The toy net that a cell of points prunes: trained once, for all criteria."""
    points = cell.family in NAMES and cell.arm != "dense"
    return (replace(cell, arm="dense"),) if points else ()


def config_of(cell: Cell) -> method.Config:
    """The method's settings in a cell of images."""
    return method.Config(cell.arm, cell.images, STEP, cell.rules, start=cell.start)


# ---- three classes of ten, a few images


def classes_of(seed: int, draw: int = 0) -> list[int]:
    """The replicate's three classes, drawn."""
    return sorted(torch.randperm(10, generator=seeded(seed, 3 + 100 * draw))[:CLASSES].tolist())


def task_of(cell: Cell) -> Task:
    """The model on the cell's three classes."""
    model, options = NETS[cell.family]
    return load_task(model, classes=classes_of(cell.seed, cell.draw), **options)


def few_images(task: Task, cell: Cell) -> Split:
    """The reference images: the same for every criterion of a replicate."""
    return method.reference(task, cell.images, seeded(cell.seed, 4 + 100 * cell.draw))


def start_net(cell: Cell) -> tuple[nn.Module, Task, Split]:
    """The net to be pruned, which gives the three classes' logits; its task; the few images."""
    model, options = NETS[cell.family]
    task, three = task_of(cell), classes_of(cell.seed, cell.draw)
    few = few_images(task, cell)
    if cell.family == "new":
        others = [c for c in range(10) if c not in three]
        net = dense_net(load_task(model, classes=others, **options), cell.seed)
        return with_new_head(net, few), task, few
    net = dense_net(load_task(model, **options), cell.seed)
    return with_rows(net, three), task, few


def last_linear(net: nn.Module) -> tuple[nn.Module, str]:
    """The module that holds the last linear layer, and its name there."""
    path = [name for name, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, name = path.rpartition(".")
    return net.get_submodule(parent), name


def with_rows(net: nn.Module, classes: list[int]) -> nn.Module:
    """A copy whose last layer gives the logits of these classes alone."""
    net = copy.deepcopy(net).eval()
    parent, name = last_linear(net)
    old = getattr(parent, name)
    new = nn.Linear(old.in_features, len(classes))
    new.load_state_dict({"weight": old.weight[classes], "bias": old.bias[classes]})
    setattr(parent, name, new)
    return net


def with_new_head(net: nn.Module, few: Split) -> nn.Module:
    """A copy whose last layer is fitted to a few images: logistic regression, weight decay 1e-3."""
    net = copy.deepcopy(net).eval()
    parent, name = last_linear(net)
    inputs: list[Tensor] = []
    old = getattr(parent, name)
    handle = old.register_forward_pre_hook(lambda _m, args: inputs.append(args[0].detach()))
    with torch.no_grad():
        net(layout(few.x))
    handle.remove()
    head = nn.Linear(old.in_features, int(few.y.max()) + 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(inputs[0]), few.y)
        loss = loss + 1e-3 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    setattr(parent, name, head)
    return net


def measured_images(context: Context) -> dict[str, Any]:
    """Prune in rounds and measure every second one; tune after each where the cell has a rate."""
    cell = context.cell
    net, task, few = start_net(cell)
    numbers: dict[str, Any] = {"test_at": [], "few_at": [], "kept": []}
    pictures: list[str] = []
    stop = method.Stop(net, {}, {})
    for stop in nets_of(cell, net, task, few, context.generator()):
        if cell.lr:
            continue
        numbers["test_at"].append(evaluate(stop.net, task.test, task)["accuracy"])
        numbers["few_at"].append(evaluate(again(stop.net, few), task.test, task)["accuracy"])
        numbers["kept"].append({name: len(units) for name, units in stop.recipe.items()})
        if (cell.seed, cell.draw, cell.family) == (0, 0, PICTURED):
            pictures.append(picture(stop.net, task))
    numbers |= standard(stop.net, task)
    return numbers | ({"pictures": pictures} if pictures else {})


def nets_of(
    cell: Cell, net: nn.Module, task: Task, few: Split, generator: torch.Generator
) -> Iterator[method.Stop]:
    """The dense net, then the pruned ones; with a rate, each is tuned before the next round."""
    whole = method.Stop(net, {}, {})
    if cell.lr:
        recipe = replace(task.training, epochs=TUNING_EPOCHS, lr=cell.lr)
        if cell.arm == "dense":
            for _ in range(TUNED_ROUNDS):
                fit(net, task, recipe, generator=generator)
            yield whole
            return
        for number, stop in enumerate(rounds(cell, net, task, few, generator), 1):
            fit(stop.net, task, recipe, generator=generator)
            if number == TUNED_ROUNDS:
                yield stop
                return
        return
    for number, stop in enumerate(rounds(cell, net, task, few, generator), 1):
        if number == 1:
            sizes = {name: len(s) for name, s in stop.scores.items()}
            yield replace(whole, recipe={name: list(range(n)) for name, n in sizes.items()})
        if number % MARK_EVERY == 0:
            yield stop
        if number == ROUNDS:
            return


def rounds(
    cell: Cell, net: nn.Module, task: Task, few: Split, generator: torch.Generator
) -> Iterator[method.Stop]:
    """The method's rounds in a cell."""
    return method.rounds(net, task, few, config_of(cell), generator)


def again(net: nn.Module, few: Split) -> nn.Module:
    """A copy with the statistics of its batch norms estimated anew from the few images."""
    net = copy.deepcopy(net)
    recalibrate(net, few)
    return net


def picture(net: nn.Module, task: Task) -> str:
    """The heat map of one test image: a character for each pixel, :data:`LEVELS` deep."""
    x, y = task.example(1), task.test.y[:1]
    config = method.Config()
    found = relevance(net, x, true_class(y), method.rules_of(config, task.train.x)).input[0, 0]
    scaled = found / found.abs().max().clamp(min=1e-12)
    return "".join(LEVELS[round(float(v) * 9) + 9] for v in scaled.flatten())


LEVELS = "ihgfedcba0123456789"
"""Characters of −9 … 9 ninths of the largest |R|."""


# ---- points in the plane


def toy_task(name: str, width: float) -> Task:
    """A toy set and its net."""
    return load_task("toy_mlp", name, width=width)


def toy_net(context: Context, task: Task) -> nn.Module:
    """The dense net of a toy set, trained by the cell ``dense`` and read by the others."""
    cell = context.cell
    if cell.arm != "dense":
        net = task.build(seeded(0))
        net.load_state_dict(load_file(context.kept(needs(cell)[0], "net.safetensors")))
        return net.eval()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)  # dropout draws from torch's own generator alone
        net = train_dense(task, cell.seed).eval()
    save_file(net.state_dict(), context.keep("net.safetensors"))
    return net


def measured_points(context: Context) -> dict[str, Any]:
    """A third of the neurons at once, for each number of samples; training and noisy points."""
    cell = context.cell
    task = toy_task(cell.family, cell.width)
    net = toy_net(context, task)
    numbers: dict[str, Any] = standard(net, task) | {"whole": both(net, task)}
    if cell.seed == 0:
        numbers["field"] = {"whole": field(net)}
    if cell.arm == "dense":
        return numbers
    numbers["third"] = {}
    for n in SAMPLES:
        x, y = points(cell.family, n, seeded(cell.seed, 1000 + n))
        config = method.Config(cell.arm, n, THIRD, "equation", start="logit")
        stop = next(method.rounds(net, task, Split(x, y), config, seeded(cell.seed, n)))
        numbers["third"][str(n)] = both(stop.net, task)
        if cell.seed == 0 and n == DRAWN:
            numbers["field"]["third"] = field(stop.net)
    return numbers


def both(net: nn.Module, task: Task) -> list[float]:
    """Accuracy on the training points and on the noisy unseen ones."""
    return [evaluate(net, split, task)["accuracy"] for split in (task.train, task.test)]


@torch.no_grad()
def field(net: nn.Module) -> list[str]:
    """The class of each point of a square of the plane, a row of digits from the top down."""
    at = torch.linspace(-EXTENT, EXTENT, FIELD)
    y, x = torch.meshgrid(at.flip(0), at, indexing="ij")
    classes = net(torch.stack([x, y], -1).reshape(-1, 2)).argmax(1).reshape(FIELD, FIELD)
    return ["".join(map(str, row)) for row in classes.tolist()]


def measured(context: Context) -> dict[str, Any]:
    """A cell of images or of points."""
    toys = context.cell.family in NAMES
    return measured_points(context) if toys else measured_images(context)


ARMS = dict.fromkeys((*method.CRITERIA, "dense"), measured)
