"""Santacroce et al. (2023): what is measured. Neurons leave two language models.

A character model is trained, then tuned for half a pass over its text while neurons of its
feed-forward nets go, little by little or at once; some nets get copies of neurons first. A
replicate is a dense net with its data order. SmolLM2-135M, weights as shipped in 4 bits and
computed in fp32, loses gated neurons at once and is not trained, or little by little within a
short tuning; a replicate is a stretch of the test text of WikiText-2, and scores and the tuning
come from other stretches of it.
"""

import copy
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs
from survey_lib.measure.perplexity import window_losses
from survey_lib.measure.size import count_parameters, file_bytes
from survey_lib.measure.standard import standard
from survey_lib.mechanics.filters import filters
from survey_lib.mechanics.gates import gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.own_language import next_token_loss
from survey_lib.methods.what_matters_llm import measures, method, soft
from survey_lib.methods.what_matters_llm.choice import Plan, share_of_neurons
from survey_lib.methods.what_matters_llm.planting import plant_copies
from survey_lib.tasks.data import Split, Splits
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.language import smollm2, wikitext2
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import fit

DATA = ("shakespeare.txt.gz", "wikitext2_test.txt.gz")
INEXACT = ("*ms_per_token*",)

LAYERS = 2
NETS: dict[str, dict[str, Any]] = {"small": {"width": 0.5, "layers": LAYERS}, "shipped": {}}
"""Options of the character models: 111,000 parameters and 2 × 256 neurons; and the one that the
package ships, 800,000 and 4 × 512, which needs no training."""
EPOCHS, BATCH = 0.5, 16
"""Of the tuning in which neurons go: 490 steps, as many as a pass has at the recipe's batch."""
CHOSEN = 64
"""Neurons of each layer of which copies are planted."""
SOMEWHAT = 0.5
"""Similarity from which two neurons count as the same, beside the paper's 0.8 that few reach."""
BATCHES = 12
"""Training batches on which sensitivity and uniqueness are measured."""

WINDOW, WINDOWS, APART = 256, 4, 80
"""Tokens of a window of WikiText-2, windows of a replicate, and from one replicate to the next."""
STRETCHES = 5
"""Replicates of SmolLM2."""
CALIBRATION = range(1000, 1008)
"""Windows that scores come from; no replicate reads them …"""
TAUGHT = range(500, 600)
"""… nor these, that SmolLM2 is tuned on, one a step."""


@dataclass(frozen=True)
class Cell:
    """One net, and how neurons leave it."""

    arm: str
    """``dense`` (tuned and whole), ``gradual``, ``cut`` (at once, nothing trained), ``soft``,
    ``fresh`` (the widths that ``gradual`` ended with, trained from the start), ``plane``
    (gradual, neuron by neuron); SmolLM2: ``calibrate``, ``text``, ``taught`` (gradual; leaves the
    losses that ``text`` reads where there is a rate), ``removed``."""
    seed: int
    criterion: str = "gum"
    """Of :data:`method.CRITERIA`; on SmolLM2 one of :data:`SCORES`."""
    keep: float = 0.5
    """Share of the neurons."""
    scope: str = "global"
    at_once: bool = False
    """All go after the first step of the tuning."""
    alpha: float = 0.0
    """Share of distillation in the loss."""
    lambda_gum: float = 16.0
    lambda_mvp: float = 2.0
    net: str = "small"
    """One of :data:`NETS`."""
    copies: int = 1
    """Of each of :data:`CHOSEN` neurons a layer, itself counted."""
    lr: float = 0.0
    """Peak rate of the tuning; 0: nothing is tuned. ``fresh`` is trained by the standard recipe,
    whatever the rate of the run whose widths it takes."""


CALIBRATED = Cell("calibrate", 0)


def needs(cell: Cell) -> tuple[Cell, ...]:
    """The gradual run whose widths or losses are used; SmolLM2's calibration before a choice."""
    if cell.arm == "fresh":
        return (pattern(cell),)
    if cell.arm == "text" and cell.lr:
        return (tuned(cell),)
    scored = cell.arm in ("text", "removed") and cell.keep < 1 and cell.criterion != "random"
    return (CALIBRATED,) if scored else ()


def pattern(cell: Cell) -> Cell:
    """The gradual run whose widths a ``fresh`` cell takes."""
    return replace(cell, arm="gradual")


def tuned(cell: Cell) -> Cell:
    """The run of SmolLM2 whose losses a ``text`` cell with a rate reads."""
    return replace(cell, arm="taught", seed=0)


# ---- the character model


def own_task(cell: Cell) -> Task:
    """The task with the standard recipe, by which the dense nets are trained."""
    return load_task("char_gpt", **NETS[cell.net])


def tuning_of(task: Task, cell: Cell) -> Training:
    """The tuning in which neurons go."""
    return replace(task.training, epochs=EPOCHS, batch=BATCH, lr=cell.lr)


def start(context: Context) -> tuple[Task, nn.Module, list[list[list[int]]]]:
    """Task, dense net, and by layer the sets of neurons that are copies of each other."""
    cell, task = context.cell, own_task(context.cell)
    net = context.dense(task)
    if cell.copies == 1:
        return task, net, []
    generator = context.generator(3)
    n = trace_groups(net, task.example(1))["blocks.0.up"].size
    chosen = [
        torch.randperm(n, generator=generator, device="cpu")[:CHOSEN].tolist()
        for _ in range(LAYERS)
    ]
    return task, *plant_copies(net, chosen, cell.copies)


def pruned(context: Context) -> tuple[Task, nn.Module, Compressed, list[list[list[int]]]]:
    """The cell's net as it starts and as it ends."""
    cell = context.cell
    task, net, sets = start(context)
    tuning = tuning_of(task, cell) if cell.lr else None
    schedule: dict[str, Any] = {"t_i": 0.0, "t_f": 1.0} if cell.at_once else {}
    config = method.Config(
        criterion=cell.criterion, scope=cell.scope, alpha=cell.alpha, lambda_gum=cell.lambda_gum,
        lambda_mvp=cell.lambda_mvp, **schedule,
    )  # fmt: skip
    budget = share_of_neurons(trace_groups(net, task.example(1)), cell.keep)
    generator = context.generator()
    done = method.compress(net, task, budget, config, tuning=tuning, generator=generator)
    return task, net, done, sets


def gradual(context: Context) -> dict[str, Any]:
    """Tuned while neurons go; or cut at once, where there is no rate."""
    task, _, done, sets = pruned(context)
    if context.cell.arm == "gradual":
        kept = {row["layer"]: torch.tensor(row["kept"]) for row in done.table}
        save_file(kept, context.keep("widths.safetensors"))
    return measured(done.model, task) | told(done, sets)


def soft_movement(context: Context) -> dict[str, Any]:
    """As many neurons as the penalty leaves."""
    cell, task = context.cell, own_task(context.cell)
    tuning = tuning_of(task, cell)
    config = soft.Config(lambda_mvp=cell.lambda_mvp, alpha=cell.alpha)
    done = soft.compress(
        context.dense(task), task, None, config, tuning=tuning, generator=context.generator()
    )
    return measured(done.model, task) | told(done, [])


def dense(context: Context) -> dict[str, Any]:
    """Trained on, whole; with ``lr`` 0 as it was."""
    cell = context.cell
    task, net, _ = start(context)
    if cell.lr:
        tuning = tuning_of(task, cell)
        fit(net, task, tuning, generator=context.generator())
    return measured(net, task)


def fresh(context: Context) -> dict[str, Any]:
    """The small net's widths with fresh weights, trained as long as both trainings together."""
    cell, task = context.cell, own_task(context.cell)
    kept = load_file(context.kept(pattern(cell), "widths.safetensors"))
    net = task.build(seeded(cell.seed, 5))
    graph = trace_groups(net, task.example(1))
    recipe = {name: list(range(int(n))) for name, n in kept.items()}
    net = apply_recipe(net, graph, recipe)
    longer = replace(task.training, epochs=task.training.epochs + EPOCHS)
    fit(net, task, longer, generator=context.generator(5))
    return measured(net, task)


def looked_at(task: Task) -> list[tuple[Tensor, Tensor]]:
    """The first training batches of 32 windows, on which both measures are taken."""
    n = 32 * BATCHES
    return list(zip(task.train.x[:n].split(32), task.train.y[:n].split(32), strict=True))


def measured(net: nn.Module, task: Task) -> dict[str, Any]:
    """The standard numbers; sensitivity of all neurons together (nats), and how alike they are."""
    graph = trace_groups(net, task.example(1))
    batches = looked_at(task)
    found = measures.sensitivity(net, graph, task.loss, batches)
    moments = measures.second_moments(net, graph, [x for x, _ in batches])
    sims = {name: measures.similarity(C) for name, C in moments.items()}
    return standard(net, task) | {
        "sensitivity": float(sum(s.sum() for s in found.values())),
        "uniqueness": measures.uniqueness(sims),
        "uniqueness_somewhat": measures.uniqueness(sims, SOMEWHAT),
        "likeness": measures.likeness(sims),
        "neurons": sum(len(s) for s in found.values()),
    }


def told(done: Compressed, sets: list[list[list[int]]]) -> dict[str, Any]:
    """Neurons of each layer before and after, and of each set of copies how many stayed."""
    rows = [row for row in done.table if row["layer"].endswith(".up")]
    found: dict[str, Any] = {
        "layers": {row["layer"]: [row["channels"], row["kept"]] for row in rows},
        "left": sum(row["kept"] for row in rows) / sum(row["channels"] for row in rows),
        "steps": done.steps,
    }
    if sets:
        alive = [set(done.recipe.get(row["layer"], range(row["channels"]))) for row in rows]
        found["copies"] = [
            [len(alive[i].intersection(same)) for same in layer] for i, layer in enumerate(sets)
        ]
    return found


def plane(context: Context) -> dict[str, Any]:
    """Each neuron of the dense net: sensitivity (10⁻³ nats), likeness U, and whether it stays."""
    task, net, done, _ = pruned(context)
    graph = trace_groups(net, task.example(1))
    batches = looked_at(task)
    sens = measures.sensitivity(net, graph, task.loss, batches)
    moments = measures.second_moments(net, graph, [x for x, _ in batches])
    rows = []
    for i, (name, C) in enumerate(moments.items()):
        sim = measures.similarity(C)
        U = measures.redundancy(sim, torch.ones(len(sim), dtype=torch.bool), 1.0)
        kept = set(done.recipe.get(name, range(len(sim))))
        rows += [
            [i, round(1000 * float(s), 3), round(float(u), 3), int(j in kept)]
            for j, (s, u) in enumerate(zip(sens[name], U, strict=True))
        ]
    return {"neurons_of": rows} | measured(done.model, task) | told(done, [])


# ---- SmolLM2

SCORES = ("random", "magnitude", "sensitivity", "top_v", "unlike")
"""``top_v``: the sum that movement starts from, with its sign; ``unlike``: 1 - U."""


@lru_cache(maxsize=1)
def language_model() -> tuple[nn.Module, Tensor, ChannelGraph]:
    """SmolLM2-135M, the windows (1219, 256) of WikiText-2's test text, and its groups."""
    model, tokenizer = smollm2()
    windows = wikitext2(tokenizer, WINDOW)
    return model, windows, trace_groups(model, windows[:1, :8])


def calibrate(context: Context) -> dict[str, Any]:
    """Scores of all neurons, from windows that no replicate reads."""
    net, windows, graph = language_model()
    batches = [(windows[i : i + 1], windows[i : i + 1]) for i in CALIBRATION]
    sens = measures.sensitivity(net, graph, next_token_loss, batches)
    moments = measures.second_moments(net, graph, [x for x, _ in batches])
    signed = movement(net, graph, batches)
    found, left, unique = {}, {}, []
    for g in measures.neurons(graph):
        sim = measures.similarity(moments[g.name])
        U = measures.redundancy(sim, torch.ones(g.size, dtype=torch.bool), 1.0)
        unique.append(float(measures.uniqueness([sim])))
        found = {
            "magnitude": filters(net, g).square().sum(1).sqrt(), "sensitivity": sens[g.name],
            "top_v": signed[g.name], "unlike": 1 - U,
        }  # fmt: skip
        left |= {f"{name} {g.name}": s.float().contiguous() for name, s in found.items()}
    save_file(left, context.keep("scores.safetensors"))
    per_layer = [float(s.sum()) for s in sens.values()]
    return {
        "neurons": sum(len(s) for s in sens.values()),
        "uniqueness": sum(unique) / len(unique),
        "uniqueness_of_layers": [round(u, 5) for u in unique],
        "sensitivity_of_layers": [round(s, 5) for s in per_layer],
    }


def movement(
    net: nn.Module, graph: ChannelGraph, batches: list[tuple[Tensor, Tensor]]
) -> dict[str, Tensor]:
    """S = - Σ ∂L/∂M over the batches, nothing trained."""
    gates = {g.name: torch.ones(g.size, requires_grad=True) for g in measures.neurons(graph)}
    with gated(net, graph, gates):
        for x, y in batches:
            next_token_loss(net(x), y).backward()
    return {name: -g.grad for name, g in gates.items() if g.grad is not None}


def left_over(context: Context) -> nn.Module:
    """SmolLM2 without the neurons that the cell's criterion ranks lowest, for real."""
    cell, (net, _, graph) = context.cell, language_model()
    if cell.keep == 1:
        return net
    if cell.criterion == "random":
        generator = context.generator(4)
        scores = {
            g.name: torch.rand(g.size, generator=generator, device="cpu")
            for g in measures.neurons(graph)
        }
    else:
        saved = load_file(context.kept(CALIBRATED, "scores.safetensors"))
        scores = {g.name: saved[f"{cell.criterion} {g.name}"] for g in measures.neurons(graph)}
    plan = Plan(graph, share_of_neurons(graph, cell.keep, "params"), cell.scope)
    masks = plan.top(scores, plan.v_f)
    recipe = {name: m.nonzero().flatten().tolist() for name, m in masks.items()}
    return apply_recipe(net, graph, recipe).eval()


class Reading(Task):
    """Windows of text that predict their own tokens."""

    def loss(self, logits: Any, y: Tensor) -> Tensor:
        """Mean nats a token."""
        return next_token_loss(logits, y)


def taught(context: Context) -> dict[str, Any]:
    """SmolLM2 tuned while neurons go, or whole; leaves its losses on all stretches."""
    cell, (dense, windows, graph) = context.cell, language_model()
    x = windows[list(TAUGHT)]
    data = Splits(*[Split(x, x)] * 3, classes=(), hash="")
    tuning = Training(
        epochs=1, batch=1, lr=cell.lr, optimizer="adamw", weight_decay=0.0, clip=1.0
    )  # fmt: skip
    task = Reading("wikitext2/smollm2", data, "smollm2", {}, "perplexity", tuning)
    net = copy.deepcopy(dense).requires_grad_()
    generator, found = context.generator(), {}
    if cell.keep == 1:
        fit(net, task, tuning, generator=generator)
    else:
        config = method.Config(criterion=cell.criterion, scope=cell.scope)
        budget = share_of_neurons(graph, cell.keep, "params")
        done = method.compress(net, task, budget, config, tuning=tuning, generator=generator)
        net, found = done.model, {"trace": [round(v, 3) for v in done.trace["loss"]]}
    losses = torch.stack([window_losses(net.eval(), stretch(s)) for s in range(STRETCHES)])
    save_file({"losses": losses}, context.keep("losses.safetensors"))
    return found | {"steps": len(x), "log_perplexity": float(losses.mean())}


def stretch(seed: int) -> Tensor:
    """The windows of a replicate; the stretch before the first was looked at in a trial."""
    first = (seed + 1) * APART
    return language_model()[1][first : first + WINDOWS]


def on_text(context: Context) -> dict[str, Any]:
    """Loss of SmolLM2 on a stretch of the text, with the neurons that are left."""
    cell = context.cell
    if cell.lr:
        losses = load_file(context.kept(tuned(cell), "losses.safetensors"))["losses"][cell.seed]
    else:
        losses = window_losses(left_over(context), stretch(cell.seed))
    return {
        "log_perplexity": float(losses.mean()),
        "losses": [round(v, 5) for v in losses.tolist()],
    }


def removed(context: Context) -> dict[str, Any]:
    """What the removal saves: parameters, MACs, bytes of the file, milliseconds a token."""
    net, windows, _ = language_model()
    small = left_over(context)
    x = windows[:1, :64]
    times = compare_latency({"dense": net, "small": small}, x)
    ms = {name: 1000 * t.minimum / x.numel() for name, t in times.items()}
    return {
        "params": count_parameters(small),
        "macs_per_token": count_macs(small, x) / x.numel(),
        "bytes": file_bytes(small),
        "ms_per_token": ms["small"],
        "dense_ms_per_token": ms["dense"],
    }


ARMS = {
    "dense": dense, "gradual": gradual, "cut": gradual, "soft": soft_movement, "fresh": fresh,
    "plane": plane, "calibrate": calibrate, "taught": taught, "text": on_text,
    "removed": removed,
}  # fmt: skip
