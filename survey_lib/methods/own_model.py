"""Prune a net of one's own: train or load it, compress, tune, measure, save.

What ``survey prune`` does, as one function.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from survey_lib import files
from survey_lib.measure.compare import Comparison, compare
from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.sparse import StorageError
from survey_lib.mechanics.surgery import load_compressed, read_recipe, save_compressed
from survey_lib.methods import contract
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.data import image_folder
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.own import constructor, load_weights, own_task
from survey_lib.tasks.task import Training
from survey_lib.tasks.train import evaluate, fit

WRITTEN = ("recipe.json", "weights.safetensors", "report.json")
"""What is in the folder in the end."""


@dataclass(frozen=True)
class Pruned:
    """What came out."""

    compressed: Compressed
    comparison: Comparison
    """Dense and pruned net side by side."""
    accuracy: dict[str, float]
    """Test accuracy of ``dense`` and ``pruned`` (after tuning)."""
    folder: Path


def prune(
    spec: str,
    data: str,
    method: str,
    budget: Budget,
    out: Path,
    *,
    weights: Path | None = None,
    size: int = 64,
    train_epochs: float = 8.0,
    tune_epochs: float = 4.0,
    lr: float = 0.02,
    batch: int = 64,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Pruned:
    """Prune one net on one folder of images and save the result in ``out``.

    Args:
        spec: the net, see :func:`survey_lib.tasks.own.constructor`.
        data: ``imagefolder:PATH``.
        method: of kind ``channels`` and steered by a budget, in
            :data:`survey_lib.methods.contract.METHODS`.
        budget: ``macs``, ``params`` or ``activations``.
        out: folder for ``recipe.json``, ``weights.safetensors`` and ``report.json``.
        weights: a safetensors file of the trained dense net; without it the net is trained here.
        size: images are resized to so many pixels.
        train_epochs: epochs of the dense net's training, where there are no weights.
        tune_epochs: epochs of tuning, for whatever method; 0 tunes nothing.
        lr: peak learning rate of both trainings.
        batch: images a step.
        seed: of initialisation, data order and method.
        say: receives one line of progress after each stage.

    Raises:
        ValueError: unknown model, method or kind of data, a budget that cannot be met, or an
            ``out`` that cannot be written; all before anything is trained.
        DataError: images or weights are missing or damaged.
        GraphError, MacsError: the net cannot be followed or counted; before anything is trained.
    """
    entry = contract.find(method, kind="channels", steers="budget")
    if train_epochs <= 0 or tune_epochs < 0 or lr <= 0 or batch < 1:
        raise ValueError("need train epochs > 0, tune epochs ≥ 0, a rate > 0 and a batch ≥ 1")
    check_folder(out)
    kind, _, path = data.partition(":")
    if kind != "imagefolder" or not path:
        raise ValueError(f"cannot use data {data!r}; give imagefolder:PATH")
    splits = image_folder(path, size=size)
    training = Training(epochs=train_epochs, batch=batch, lr=lr)
    task = own_task(spec, splits, training)
    say(f"{len(task.train)} training, {len(task.val)} validation, {len(task.test)} test images")
    dense = task.build(seeded(seed))
    # before anything is trained: net, data and budget may be refused
    graph = trace_groups(dense, task.example(1))
    entry.load().reach(graph, budget, entry.config())
    if check := getattr(entry.load(), "check", None):
        check(dense, graph, task, entry.config())
    count_macs(dense, task.example(1))  # the report will have to
    if weights:
        load_weights(dense, weights).eval()
    else:
        fit(dense, task, generator=seeded(seed))
        say(f"trained the dense net for {train_epochs:g} epochs, as no weights were given")
    accuracy = {"dense": evaluate(dense, task.test, task)["accuracy"]}
    say(f"dense: accuracy {accuracy['dense']:.4f}")
    tuning = replace(training, epochs=tune_epochs) if tune_epochs else None
    generator = seeded(seed, 1)
    result = entry.compress(dense, task, budget, entry.config(), tuning=tuning, generator=generator)
    accuracy["pruned"] = evaluate(result.model, task.test, task)["accuracy"]
    say(
        f"pruned by {method} in {result.seconds:.0f} s and {result.steps} steps of tuning: "
        f"accuracy {accuracy['pruned']:.4f}"
    )
    save_compressed(result.model, graph, result.recipe, out, constructor=spec)
    comparison = compare(
        {"dense": dense, "pruned": result.model}, task.example(min(8, len(task.test)))
    )
    made = {"epochs": result.examples / len(task.train)}
    report = {
        "model": spec, "method": method, "budget": asdict(budget), "seed": seed,
        "classes": list(splits.classes), "channels": splits.train.x.shape[1], "size": size,
        "training_images": len(task.train), "accuracy": accuracy, "rows": comparison.dicts(),
        "device": comparison.device_line, "layers": result.table,
        "weights": "given" if weights else "trained here",
        "training": None if weights else asdict(training),
        "tuning": asdict(tuning) | made if tuning else None,
        "spent": {
            "steps": result.steps, "examples": result.examples, "seconds": result.seconds,
            "forward_passes": result.forward_passes, "backward_passes": result.backward_passes,
        },
    }  # fmt: skip
    files.write_atomic(out / "report.json", json.dumps(report, indent=1) + "\n")
    return Pruned(result, comparison, accuracy, out)


def check_folder(out: Path) -> None:
    """Raise ValueError for a folder that cannot be made or written into; nothing is left in it."""
    there = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ValueError(f"cannot write to {out}: {there} is no folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"cannot write to {out}: {there} may not be written to")
    for name in WRITTEN:
        if (out / name).is_dir():
            raise ValueError(f"cannot write to {out}: {name} in it is a folder")
    new = [p for p in (out.absolute(), *out.absolute().parents) if not p.exists()]
    try:  # what the rights say is not all: a link to nowhere, a system that takes no files
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as why:
        raise ValueError(f"cannot write to {out}: {why.strerror or why}") from None
    finally:
        for folder in new:
            with contextlib.suppress(OSError):
                folder.rmdir()


def load_pruned(folder: Path) -> nn.Module:
    """The net that ``survey prune`` saved, rebuilt from its constructor.

    Raises:
        StorageError: a file is absent or damaged.
        RecipeError, GraphError: the recipe does not fit the net.
        ValueError: the constructor can no longer be found, or fails.
    """
    about, report = _recipe(folder), read_report(folder)
    shape = {"channels": report["channels"], "size": report["size"]}
    make = constructor(about["constructor"], **shape, classes=len(report["classes"]))
    example = torch.zeros(1, shape["channels"], shape["size"], shape["size"])
    return load_compressed(folder, make(), example)


def read_report(folder: Path) -> dict[str, Any]:
    """The contents of ``report.json``, as far as a net is rebuilt from them.

    Raises:
        StorageError: the file is absent or damaged; names the field.
    """
    path = folder / "report.json"
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError):
        raise StorageError(f"{path}: not readable as JSON; prune the net again") from None
    if not isinstance(report, dict):
        raise StorageError(f"{path}: not written by survey prune")
    for field, most in (("channels", 4), ("size", 4096)):
        if type(report.get(field)) is not int or not 1 <= report[field] <= most:
            raise StorageError(f"{path}: field {field!r} must be a whole number, 1 to {most}")
    classes = report.get("classes")
    if not isinstance(classes, list) or not classes or set(map(type, classes)) != {str}:
        raise StorageError(f"{path}: field 'classes' must be a list of names")
    return report


def _recipe(folder: Path) -> dict[str, Any]:
    """The contents of ``recipe.json`` after a look at the kinds of its values."""
    path = folder / "recipe.json"
    try:
        about = read_recipe(folder)
    except (OSError, RecursionError):
        raise StorageError(f"{path}: not readable as JSON; prune the net again") from None
    for field in ("constructor", "model", "sha256"):
        if not isinstance(about.get(field), str):
            raise StorageError(f"{path}: field {field!r} must be text")
    for field, fits in (("sizes", _is_count), ("recipe", _is_counts), ("tied", _is_text)):
        given = about.get(field, {} if field == "tied" else None)
        if not isinstance(given, dict) or not all(map(fits, given.values())):
            raise StorageError(f"{path}: field {field!r} is not what survey prune writes there")
    return about


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_counts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))
