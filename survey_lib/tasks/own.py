"""A user's own net and data as a task."""

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from types import ModuleType

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from survey_lib.tasks.cifar import cifar10
from survey_lib.tasks.data import DataError, Splits, image_folder
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
            ``timm:NAME`` (one of timm, where that is installed, untrained), ``PATH.py:FUNCTION``
            (called without arguments, or with ``num_classes`` if it takes that; the file may
            import what lies beside it), or a model of the survey, e.g. ``resnet_small``.
        channels: of the images.
        size: of the images, in pixels.
        classes: number of classes.

    Raises:
        ValueError: no such net, or the file or function is missing or fails.
    """
    kind, _, name = spec.rpartition(":")
    if kind == "timm":
        return _of_timm(name, channels, classes)
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
        f"no model {spec!r}; write torchvision:NAME, timm:NAME, PATH.py:FUNCTION, or one of "
        f"{', '.join(MODELS)}"
    )


def _of_timm(name: str, channels: int, classes: int) -> Constructor:
    try:
        timm = importlib.import_module("timm")
    except ImportError:
        raise ValueError(f"timm:{name} needs timm; pip install timm") from None
    if not timm.is_model(name):
        near = timm.list_models(f"{name[:4]}*")[:8]
        raise ValueError(
            f"timm has no net {name!r}" + (f"; near it: {', '.join(near)}" if near else "")
        )
    shape = {"num_classes": classes, "in_chans": channels}
    return lambda: timm.create_model(name, pretrained=False, **shape)


AUXILIARY = ("googlenet", "inception_v3")  # nets whose extra heads only train


def _from_file(path: Path, name: str, classes: int) -> Constructor:
    path = path.expanduser()
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    siblings: dict[str, ModuleType] = {}
    with _imports_beside(path, siblings):
        build = getattr(_loaded(path), name, None)
    if not callable(build):
        raise ValueError(f"{path}: has no function {name!r}")
    takes = "num_classes" in signature(build).parameters

    def make() -> nn.Module:
        with _imports_beside(path, siblings):
            try:
                model = build(num_classes=classes) if takes else build()
            except Exception as why:
                raise ValueError(f"{path}:{name} failed: {_said(why, path)}") from why
        if not isinstance(model, nn.Module):
            raise ValueError(f"{path}:{name} returned {type(model).__name__}, not a torch module")
        return model

    return make


def _loaded(path: Path) -> ModuleType:
    """The file's module, run anew, in a package of its own so that its name is nobody else's.

    Raises:
        ValueError: it cannot be run; says which line of which file, and why.
    """
    folder = path.resolve().parent
    package = f"survey_own_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    for known in [m for m in list(sys.modules) if m == package or m.startswith(f"{package}.")]:
        del sys.modules[known]  # a file may have changed since
    sys.modules[package] = ModuleType(package)
    sys.modules[package].__path__ = [str(folder)]  # `from .layers import x` looks here
    own = f"{package}.{path.stem.replace('.', '_')}"
    try:
        spec = importlib.util.spec_from_file_location(own, path)
        if spec is None or spec.loader is None:
            raise ImportError("not a Python file")
        sys.modules[own] = importlib.util.module_from_spec(spec)  # dataclasses look it up
        spec.loader.exec_module(sys.modules[own])
    except (Exception, SystemExit) as why:
        sys.modules.pop(own, None)
        raise ValueError(f"{path}: cannot be imported: {_said(why, path)}") from why
    return sys.modules[own]


_BESIDE: set[str] = set()
"""Modules that stand in ``sys.modules`` because they lie beside the file last imported."""


@contextmanager
def _imports_beside(path: Path, siblings: dict[str, ModuleType]) -> Iterator[None]:
    """``import layers`` finds layers.py beside the file, not one beside another net's file.

    Args:
        path: the file.
        siblings: what was found so far; gets what is found meanwhile.
    """
    folders = [path.resolve().parent]
    while (folders[-1] / "__init__.py").is_file():  # `import package.layers` begins further up
        folders.append(folders[-1].parent)
    folders = folders[:1] + folders[1:][-1:]
    for name in _BESIDE:
        sys.modules.pop(name, None)
    sys.modules.update(siblings)
    before = {_top(name) for name in list(sys.modules)} - {_top(name) for name in siblings}
    sys.path[:0] = paths = [str(folder) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for added in paths:
            with suppress(ValueError):
                sys.path.remove(added)
        for name, module in sys.modules.copy().items():
            top = _top(name)
            if top not in before and any(
                (folder / f"{top}.py").is_file() or (folder / top).is_dir() for folder in folders
            ):
                siblings[name] = module
        _BESIDE.clear()
        _BESIDE.update(siblings)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _said(why: BaseException, path: Path) -> str:
    """An exception in one sentence, with the line of the user's file it came from."""
    if isinstance(why, SyntaxError):
        where = Path(why.filename or path).name
        return f"{type(why).__name__} in {where}, line {why.lineno}: {why.msg}"
    folder = path.resolve().parent
    lines = [
        f" ({Path(frame.filename).name}, line {frame.lineno})"
        for frame in traceback.extract_tb(why.__traceback__)
        if Path(frame.filename).is_relative_to(folder) and "site-packages" not in frame.filename
    ]
    text = " ".join(str(why).split())
    return f"{type(why).__name__}: {text}{lines[-1] if lines else ''}"


def own_splits(data: str, *, size: int) -> Splits:
    """The images that ``imagefolder:PATH`` or ``cifar10`` names.

    Args:
        data: as said; CIFAR-10 keeps its 32 pixels.
        size: images of a folder are resized to so many pixels.

    Raises:
        ValueError: another kind of data.
        DataError: images are missing or damaged.
    """
    kind, _, path = data.partition(":")
    if data == "cifar10":
        return cifar10()
    if kind != "imagefolder" or not path:
        raise ValueError(f"cannot use data {data!r}; give imagefolder:PATH or cifar10")
    return image_folder(path, size=size)


def fingerprint(spec: str, data: str, weights: Path | None = None) -> str:
    """Sixteen hexadecimal digits that change with the images, the net's file or its weights."""
    found = hashlib.sha256(f"{spec} {data}".encode())
    kind = spec.rpartition(":")[0]
    read = [Path(kind).expanduser()] if kind.endswith(".py") else []
    for path in [*read, *([weights] if weights else [])]:
        found.update(path.read_bytes())
    if data.startswith("imagefolder:"):
        root = Path(data.partition(":")[2]).expanduser()
        for path in sorted(p for p in root.rglob("*") if p.is_file()):
            about = path.stat()
            found.update(f"{path.relative_to(root)} {about.st_size} {about.st_mtime_ns}".encode())
    return found.hexdigest()[:16]


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
