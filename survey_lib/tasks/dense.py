"""Dense nets: dense net s is the net that seed s trains; net 0 of each default is shipped."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from survey_lib import files
from survey_lib.tasks.data import DataError
from survey_lib.tasks.models import MODELS
from survey_lib.tasks.task import Task, load_task
from survey_lib.tasks.train import fit

CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"
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


def dense_key(task: Task, seed: int) -> str:
    """Hash of everything dense net ``seed`` depends on: recipe, options, data, torch version."""
    parts = [task.name, task.options, asdict(task.training), task.data.hash, seed]
    sources = [files.sha256(Path(__file__).parent / f"{m}.py") for m in ("models", "train")]
    text = json.dumps([*parts, *sources, torch.__version__], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def dense_net(task: Task, seed: int) -> nn.Module:
    """Dense net ``seed`` of a task: trained once, then read from the cache."""
    path = files.cache_dir() / "dense" / f"{task.model}-{seed}-{dense_key(task, seed)}.safetensors"
    if not path.exists():
        model = train_dense(task, seed)
        files.write_atomic(path, save(_state(model)))
        return model
    model = task.build(seeded(seed))
    model.load_state_dict(load_file(path))
    return model.eval()


def _state(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    return {
        k: v.to(dtype if dtype and v.is_floating_point() else v.dtype).contiguous()
        for k, v in model.state_dict().items()
    }


def ship(name: str) -> Path:
    """Train dense net 0 of a default task anew and write it where the package ships it (fp16)."""
    path = CHECKPOINTS / f"{name}.safetensors"
    model = train_dense(load_task(name), 0)
    files.write_atomic(path, save(_state(model, torch.float16)))
    hashes = json.loads((CHECKPOINTS / "sha256.json").read_text()) | {name: files.sha256(path)}
    files.write_atomic(CHECKPOINTS / "sha256.json", json.dumps(hashes, indent=1, sort_keys=True))
    return path


def shipped_net(name: str) -> nn.Module:
    """The shipped dense net 0 of a default task, in float32 and eval mode.

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
    model = load_task(name).build(seeded(0))
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: not a readable checkpoint ({error}); reinstall") from None
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    return model.eval()
