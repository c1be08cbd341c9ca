"""A user's own net and data as a task."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from survey_lib.tasks.data import DataError, Splits
from survey_lib.tasks.models import MODELS, build_model
from survey_lib.tasks.states import fill
from survey_lib.tasks.task import Task, Training

Constructor = Callable[[], nn.Module]


@dataclass(frozen=True)
class OwnTask(Task):
    """A task whose dense net is built by a constructor of the user's."""

    constructor: Constructor = field(default=nn.Identity, kw_only=True)

    def build(self, generator: torch.Generator) -> nn.Module:
        """A fresh dense net; the weights depend on ``generator`` alone."""
        seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.constructor()


def constructor(spec: str, *, channels: int, size: int, classes: int) -> Constructor:
    """What builds the dense net that ``spec`` names.

    Args:
        spec: ``torchvision:NAME`` (a classification net of torchvision, untrained),
            ``PATH.py:FUNCTION`` (called without arguments, or with ``num_classes`` if it takes
            that), or a model of the survey, e.g. ``resnet_small``.
        channels: of the images.
        size: of the images, in pixels.
        classes: number of classes.

    Raises:
        ValueError: no such net, or the file or function is missing.
    """
    kind, _, name = spec.rpartition(":")
    if kind == "torchvision":
        from torchvision import models

        if name not in models.list_models(module=models):
            near = [m for m in models.list_models(module=models) if m[:4] == name[:4]]
            raise ValueError(
                f"torchvision has no classification net {name!r}"
                + (f"; near it: {', '.join(near)}" if near else "")
            )
        options = {"aux_logits": False, "init_weights": True} if name in AUXILIARY else {}
        return lambda: models.get_model(name, weights=None, num_classes=classes, **options)
    if kind.endswith(".py"):
        return _from_file(Path(kind), name, classes)
    if spec in MODELS:
        shape = {"channels": channels, "size": size, "classes": classes}
        return lambda: build_model(
            spec, generator=torch.Generator().manual_seed(torch.initial_seed() % 2**62), **shape
        )
    raise ValueError(
        f"no model {spec!r}; write torchvision:NAME, PATH.py:FUNCTION, or one of "
        f"{', '.join(MODELS)}"
    )


AUXILIARY = ("googlenet", "inception_v3")  # nets whose extra heads only train


def _from_file(path: Path, name: str, classes: int) -> Constructor:
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    build = getattr(module, name, None)
    if not callable(build):
        raise ValueError(f"{path}: has no function {name!r}")
    takes = "num_classes" in signature(build).parameters

    def make() -> nn.Module:
        model = build(num_classes=classes) if takes else build()
        if not isinstance(model, nn.Module):
            raise ValueError(f"{path}:{name} returned {type(model).__name__}, not a torch module")
        return model

    return make


def own_task(spec: str, data: Splits, training: Training) -> OwnTask:
    """A task of the user's net on the user's images.

    Raises:
        ValueError: the net cannot be built.
    """
    _, channels, size = data.train.x.shape[:3]
    make = constructor(spec, channels=channels, size=size, classes=len(data.classes))
    return OwnTask(spec, data, spec, {}, "accuracy", training, constructor=make)


def load_weights(model: nn.Module, path: Path) -> nn.Module:
    """Fill a net from a safetensors file of its state; of tied tensors one name is enough.

    Raises:
        DataError: the file is absent, damaged, or another net's.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        fill(model, load_file(path))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: not a readable safetensors file ({error})") from None
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise DataError(f"{path}: not this net's weights: {reason}") from None
    return model
