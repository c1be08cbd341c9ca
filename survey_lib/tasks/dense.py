"""Dense nets: dense net s is the net that seed s trains by the standard recipe.

All chapters share them. Net 0 of each model is shipped, to the bit as its training left it, and is
replicate 0 everywhere; the others are trained once and kept in the cache.
"""

import hashlib
import json
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from survey_lib import closure, files
from survey_lib.tasks.data import DataError
from survey_lib.tasks.models import MODELS
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import fit

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
OWN = tuple(name for name in MODELS if name != "toy_mlp")
"""Models whose net 0 is shipped; that of the toy is eight megabytes and trains in seconds."""
SHIPPED_SHA256: dict[str, str] = json.loads((CHECKPOINTS / "sha256.json").read_text())


def seeded(seed: int, purpose: int = 0) -> torch.Generator:
    """A CPU generator for a seed; ``purpose`` keeps streams of the same seed apart."""
    return torch.Generator().manual_seed(1_000_003 * purpose + seed)


def train_dense(task: Task, seed: int) -> nn.Module:
    """Dense net ``seed`` of a task, trained now."""
    generator = seeded(seed)
    model = task.build(generator)
    fit(model, task, generator=generator)
    return model


@lru_cache(maxsize=1)
def _code() -> str:
    """Digest of all code a dense net rests on: models, data, loss, training."""
    return closure.digest(["survey_lib.tasks.train", "survey_lib.tasks.task"])


def dense_key(task: Task, seed: int) -> str:
    """Hash of everything dense net ``seed`` depends on: recipe, options, data, code, torch.

    The task's name tells the data, its classes and its examples.
    """
    parts = [task.name, task.options, asdict(task.training), task.data.hash, len(task.train), seed]
    text = json.dumps([*parts, _code(), torch.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_standard(task: Task) -> bool:
    """Whether a task is one whose net 0 is shipped: own data, no options, standard recipe."""
    if task.model not in SHIPPED_SHA256:
        return False
    own = load_task(task.model)
    return (task.name, task.options, task.training, task.data.hash, len(task.train)) == (
        own.name, own.options, own.training, own.data.hash, len(own.train)
    )  # fmt: skip


def dense_net(task: Task, seed: int) -> nn.Module:
    """Dense net ``seed`` of a task: shipped, or trained once and then read from the cache."""
    if seed == 0 and is_standard(task):
        return shipped_net(task.model)
    path = files.cache_dir() / "dense" / f"{task.model}-{seed}-{dense_key(task, seed)}.safetensors"
    if not path.exists():
        model = train_dense(task, seed)
        files.write_atomic(path, save(_state(model)))
        return model
    return _filled(task.build(seeded(seed)), path)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.contiguous() for k, v in model.state_dict().items()}


def _filled(model: nn.Module, path: Path) -> nn.Module:
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: not a readable checkpoint ({error}); delete it") from None
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()


def ship(name: str) -> Path:
    """Train dense net 0 of a model's own task anew, and write it where the package ships it."""
    path = CHECKPOINTS / f"{name}.safetensors"
    model = train_dense(load_task(name), 0)
    files.write_atomic(path, save(_state(model)))
    hashes = json.loads((CHECKPOINTS / "sha256.json").read_text()) | {name: files.sha256(path)}
    files.write_atomic(CHECKPOINTS / "sha256.json", json.dumps(hashes, indent=1, sort_keys=True))
    SHIPPED_SHA256.update(hashes)
    return path


def shipped_net(name: str) -> nn.Module:
    """The shipped dense net 0 of a model's own task, in eval mode.

    Raises:
        ValueError: no such model.
        DataError: the checkpoint is missing or damaged.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; there are: {', '.join(MODELS)}")
    path = CHECKPOINTS / f"{name}.safetensors"
    if not path.exists() or files.sha256(path) != SHIPPED_SHA256.get(name):
        raise DataError(
            f"{path}: the shipped checkpoint is missing or damaged; reinstall the package "
            f"or retrain it with: survey train {name}"
        )
    return _filled(load_task(name).build(seeded(0)), path)
