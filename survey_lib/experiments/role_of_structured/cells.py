"""Bragagnolo et al. (2021): what is measured. Nets with zeros, coded, simplified and timed.

All arms start from the dense net of their seed and spend the same further steps. Every net is then
quantised to :data:`BITS` bits a weight, coded, and judged as it comes out of the file; its dead
units are taken out, exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure import coding
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_nonzeros, count_parameters
from survey_lib.measure.standard import standard
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.dead import simplified
from survey_lib.methods import baselines, channel_baselines
from survey_lib.methods.role_of_structured import method
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import evaluate, fit

DATA = ("fashion_mnist.npz",)
INEXACT = ("timed.*",)
"""Milliseconds."""

BITS = (4, 5, 6)
"""Bits of a weight's level: every net is coded at each."""
SIZED = 6
"""Bits at which rates are chosen, and simplified nets are coded."""
DENSE_EPOCHS, EPOCHS = 10.0, 5.0
"""Of the dense net's training, and of what every arm does after it."""
HALVING = 0.01
"""Accuracy that halving the file is worth where a learning rate is chosen."""
BATCHES, THREADS = (1, 64), (1, 2)
"""Images at once, and threads, that are timed."""
LAYER = "features.4.weight"
"""The largest tensor of the net, whose zeros ``arranged`` arranges."""
SHARES, STRUCTURE = (0.25, 0.5, 0.75, 0.9), (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of zeros there, and shares of these in whole rows."""
ROUNDS = 15
"""Turns that each net takes when it is timed."""


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """``dense``, ``longer`` (the dense net trained on), ``serene``, ``lobster``, ``decay`` (the
    same without sensitivity), ``magnitude``, ``l1`` (channels), ``fresh`` (the shape that
    ``serene`` left, with fresh weights), ``latency``, ``arranged``."""
    seed: int
    lam: float = 0.0
    twt: float = 0.0
    zeros: str = ""
    """What stays at zero: ``weights`` or ``neurons``."""
    keep: float = 0.0
    """Of the non-zeros (``magnitude``) or the parameters (``l1``)."""
    dense_epochs: float = DENSE_EPOCHS
    epochs: float = EPOCHS
    dense_lr: float = 0.0
    lr: float = 0.0
    other_twt: float = 0.0
    """Of the LOBSTER net that ``latency`` times beside the SeReNe net."""
    other_lr: float = 0.0


def serene_of(cell: Cell) -> Cell:
    """The SeReNe run whose net a cell uses."""
    return replace(cell, arm="serene", zeros="neurons", other_twt=0.0, other_lr=0.0)


def lobster_of(cell: Cell) -> Cell:
    """The LOBSTER run whose net a cell times."""
    own = {"zeros": "weights", "twt": cell.other_twt, "lr": cell.other_lr}
    return replace(serene_of(cell), arm="lobster", **own)


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The cells whose nets a cell uses."""
    both = {"latency": (serene_of, lobster_of), "fresh": (serene_of,)}
    return tuple(of(cell) for of in both.get(cell.arm, ()))


def task_of(cell: Cell) -> Task:
    """The net without batch norm, and its dense training."""
    task = load_task("cnn_small", bn=False, width=0.75)
    return task.with_training(epochs=cell.dense_epochs, lr=cell.dense_lr)


# ---- numbers of a net


def quantised(model: nn.Module, bits: int) -> tuple[nn.Module, dict[str, float]]:
    """The net as it comes out of its file, and the bytes of that file by coder."""
    net, parts = coding.quantised(model, bits)
    return net, sized(parts)


def sized(parts: Mapping[str, coding.Quantised]) -> dict[str, float]:
    """Bytes by coder; ``bytes`` are those of the real file."""
    found = coding.coded_sizes(parts)
    return {"bytes": found.pop("coded")} | {k: round(v, 3) for k, v in found.items()}


def coded(model: nn.Module, task: Task) -> dict[str, Any]:
    """By bits: bytes of the file by coder, accuracy on validation and test of what is in it."""
    found = {}
    for bits in BITS:
        net, sizes = quantised(model, bits)
        quality = {k: evaluate(net, split, task)["accuracy"]
                   for k, split in (("val", task.val), ("test", task.test))}  # fmt: skip
        found[str(bits)] = sizes | quality
    return found


def numbers(model: nn.Module, task: Task, start: int | None = None) -> dict[str, Any]:
    """The standard numbers, the coded net, and the net without its dead units.

    ``ratio`` and ``removable`` are shares of ``start`` parameters, those of the dense net.
    """
    found = standard(model, task)
    start = start or count_parameters(model)
    simple = simplified(model, task.example(8))
    small = count_parameters(simple.model)
    files = coded(model, task)
    at = files[str(SIZED)]
    return found | {
        "ratio": 1 - found["nonzeros"] / start,
        "removable": 1 - small / start,
        "simple": {
            "params": small,
            "macs": count_macs(simple.model, task.example(1)),
            "bytes": 4 * small,
            "coded": quantised(simple.model, SIZED)[1]["bytes"],
            "removed": simple.removed,
            "merged": simple.merged,
        },
        "coded": files,
        "merit": at["val"] - HALVING * math.log2(at["bytes"]),
    }


def trained(net: nn.Module, task: Task, cell: Cell, epochs: float, lr: float) -> dict[str, Any]:
    """The numbers after a training."""
    recipe = task.with_training(epochs=epochs, lr=lr)
    history = fit(net, recipe, generator=seeded(cell.seed, 1))
    return numbers(net, task) | {"steps": history.steps}


# ---- arms


def dense(context: Context) -> dict[str, Any]:
    """An ordinary training."""
    task = task_of(context.cell)
    return numbers(context.dense(task), task)


def longer(context: Context) -> dict[str, Any]:
    """The dense net, trained on for as many steps as the others."""
    cell, task = context.cell, task_of(context.cell)
    return trained(context.dense(task), task, cell, cell.epochs, cell.lr)


def shrunk(context: Context) -> dict[str, Any]:
    """SeReNe, LOBSTER, or their decay without sensitivity; a training may diverge."""
    cell, task = context.cell, task_of(context.cell)
    config = method.Config(criterion=cell.arm, lam=cell.lam, twt=cell.twt, zeros=cell.zeros)
    recipe = replace(task.training, epochs=cell.epochs, lr=cell.lr, weight_decay=0.0)
    net = context.dense(task)
    draws = context.generator()
    try:
        result = method.compress(net, task, None, config, tuning=recipe, generator=draws)
    except FloatingPointError as error:  # a rate that was tried, and is worth nothing
        return {"diverged": str(error), "merit": 0.0}
    state = {k: v.contiguous() for k, v in result.model.state_dict().items()}
    save_file(state, context.keep("net.safetensors"))
    trace = {k: [round(x, 6) for x in v] for k, v in result.trace.items() if k != "loss"}
    rows = {
        n: [int((w != 0).flatten(1).any(1).sum()), len(w)]
        for n, w in result.model.state_dict().items()
        if w.ndim > 1
    }
    return numbers(result.model, task) | {
        "steps": result.steps,
        "trace": trace,
        "layers": {r["layer"]: [r["weights"], r["kept"]] for r in result.table},
        "rows": rows,
    }


def magnitude(context: Context) -> dict[str, Any]:
    """The smallest weights of all go at once, then training."""
    cell, task = context.cell, task_of(context.cell)
    config = baselines.Config(criterion="magnitude", scope="global")
    recipe = replace(task.training, epochs=cell.epochs, lr=cell.lr)
    result = baselines.compress(
        context.dense(task), task, Budget("nonzeros", cell.keep), config,
        tuning=recipe, generator=context.generator(),
    )  # fmt: skip
    return numbers(result.model, task) | {"steps": result.steps}


def l1(context: Context) -> dict[str, Any]:
    """The channels with the smallest filters go at once, then training."""
    cell, task = context.cell, task_of(context.cell)
    recipe = replace(task.training, epochs=cell.epochs, lr=cell.lr)
    net = context.dense(task)
    result = channel_baselines.compress(
        net, task, Budget("params", cell.keep), channel_baselines.Config("l1"),
        tuning=recipe, generator=context.generator(),
    )  # fmt: skip
    found = numbers(result.model, task, count_parameters(net))
    return found | {"steps": result.steps}


def kept_net(context: Context, cell: Cell, task: Task) -> nn.Module:
    """The net that another cell left."""
    net = task.build(seeded(0))
    net.load_state_dict(load_file(context.kept(cell, "net.safetensors")))
    return net.eval()


def renewed(net: nn.Module, generator: torch.Generator) -> nn.Module:
    """The net with fresh weights, in place; they depend on ``generator`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for module in net.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.reset_parameters()
    return net


def fresh(context: Context) -> dict[str, Any]:
    """The shape that SeReNe left, with fresh weights, for as many steps as both trainings had."""
    cell, task = context.cell, task_of(context.cell)
    found = kept_net(context, serene_of(cell), task)
    net = renewed(simplified(found, task.example(8)).model, context.generator(3))
    return trained(net, task, cell, cell.dense_epochs + cell.epochs, cell.dense_lr)


def latency(context: Context) -> dict[str, Any]:
    """Milliseconds of the dense net, the SeReNe net whole and simplified, LOBSTER's simplified."""
    cell, task = context.cell, task_of(context.cell)
    serene, lobster = (kept_net(context, c, task) for c in needs(cell))
    nets = {
        "dense": context.dense(task).eval(),
        "serene, whole": serene,
        "serene": simplified(serene, task.example(8)).model,
        "lobster, whole": lobster,
        "lobster": simplified(lobster, task.example(8)).model,
    }
    timed: dict[str, Any] = {}
    for batch in BATCHES:
        x = task.example(batch)
        one = compare_latency(nets, x, rounds=ROUNDS, inner=0.01, tries=2)
        found = {n: 1e3 * t.minimum for n, t in one.items()}
        timed[f"1 thread, {batch}"] = found | {"noisy": any(t.noisy for t in one.values())}
        timed[f"2 threads, {batch}"] = {n: 1e3 * t for n, t in on_threads(nets, x, 2).items()}
    sizes = {n: {"params": count_parameters(m), "macs": count_macs(m, task.example(1)),
                 "nonzeros": count_nonzeros(m)} for n, m in nets.items()}  # fmt: skip
    return {"timed": timed, "sizes": sizes}


@torch.no_grad()
def on_threads(nets: Mapping[str, nn.Module], x: Tensor, threads: int) -> dict[str, float]:
    """Seconds on the wall of each net's fastest pass, in turns, on several threads."""
    x = x.contiguous(memory_format=torch.channels_last)
    before, best = torch.get_num_threads(), dict.fromkeys(nets, math.inf)
    torch.set_num_threads(threads)
    try:
        for _ in range(3 * ROUNDS):
            for name, net in nets.items():
                start = perf_counter()
                net(x)
                best[name] = min(best[name], perf_counter() - start)
    finally:
        torch.set_num_threads(before)
    return best


def arrange(w: Tensor, rho: float, q: float, generator: torch.Generator) -> Tensor:
    """The largest entries of a matrix, in their order, around zeros that are placed anew.

    Args:
        w: (I, J); its round(ρ I) · J smallest entries go, whatever q, so that the values that stay
            are the same.
        rho: share of zeros, ρ.
        q: share of these zeros that come in whole rows.
        generator: draws the rows, then the other places.
    """
    rows, columns = w.shape
    zeros = round(rho * rows) * columns
    whole = round(q * round(rho * rows))
    largest = w.abs().flatten().argsort(descending=True, stable=True)[: w.numel() - zeros]
    values = w.flatten()[largest.sort().values]
    places = torch.ones(rows, columns, dtype=torch.bool)
    order = torch.randperm(rows, generator=generator)
    places[order[:whole]] = False
    rest = places.flatten().nonzero().flatten()
    gone = rest[torch.randperm(len(rest), generator=generator)[: zeros - whole * columns]]
    places.view(-1)[gone] = False
    out = torch.zeros_like(w)
    out[places] = values
    return out


def arranged(context: Context) -> dict[str, Any]:
    """One layer's largest weights around equally many zeros, in rows or scattered: the bytes."""
    net = context.dense(task_of(context.cell))
    whole = coding.quantise(net.get_parameter(LAYER), SIZED)
    levels = torch.from_numpy(whole.levels).flatten(1)
    grid = []
    for rho in SHARES:
        for q in STRUCTURE:
            placed = arrange(levels, rho, q, context.generator(4))
            part = coding.Quantised(placed.numpy(), whole.step)
            zeros = int((placed == 0).sum())
            grid.append({"rho": rho, "q": q, "zeros": zeros} | sized({LAYER: part}))
    return {"grid": grid, "rows": levels.shape[0], "columns": levels.shape[1]}


ARMS = {
    "dense": dense, "longer": longer, "serene": shrunk, "lobster": shrunk, "decay": shrunk,
    "magnitude": magnitude, "l1": l1, "fresh": fresh, "latency": latency, "arranged": arranged,
}  # fmt: skip
