"""A task: a dataset with splits, a dense model, a loss, a metric and a training recipe."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.tasks.cifar import cifar10
from survey_lib.tasks.data import (
    Split,
    Splits,
    fashion_mnist,
    few,
    image_folder,
    of_classes,
    shakespeare,
)
from survey_lib.tasks.models import build_model
from survey_lib.tasks.toys import NAMES, toy


@dataclass(frozen=True)
class Training:
    """How a model is trained; the same fields for every task."""

    epochs: float = 8.0
    """Passes over the training split; fractions are allowed."""
    batch: int = 128
    lr: float = 0.1
    """Peak learning rate."""
    optimizer: str = "sgd"
    """``sgd`` (Nesterov momentum 0.9) or ``adamw`` (betas 0.9, 0.99)."""
    weight_decay: float = 5e-4
    warmup: float = 0.05
    """Share of the steps over which the rate rises linearly from 0, where it is no constant."""
    clip: float = 0.0
    """Largest gradient norm; 0 clips nothing."""
    schedule: str = "cosine"
    """``cosine`` (after the warm-up down to 0) or ``constant``."""


@dataclass(frozen=True)
class Task:
    """What gets compressed, and how it is trained and measured."""

    name: str
    """Data and model in one word, e.g. ``fashion_mnist/cnn_small``."""
    data: Splits
    model: str
    options: dict[str, Any]
    """Options of the model's constructor, data shape included."""
    metric: str
    """``accuracy`` (share of examples, higher is better) or ``perplexity`` (lower is better)."""
    training: Training = field(default_factory=Training)

    @property
    def train(self) -> Split:
        """Training split."""
        return self.data.train

    @property
    def val(self) -> Split:
        """Validation split: the only one that choices are made on."""
        return self.data.val

    @property
    def test(self) -> Split:
        """Test split: reported, never chosen on."""
        return self.data.test

    def build(self, generator: torch.Generator) -> nn.Module:
        """A freshly initialised dense model, in the memory layout that CPUs convolve fastest in."""
        model = build_model(self.model, generator=generator, **self.options)
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """Mean cross-entropy (nats) of logits (..., classes) against classes (...)."""
        return F.cross_entropy(logits.flatten(0, -2), y.flatten())

    def example(self, n: int = 1) -> Tensor:
        """The first ``n`` test inputs."""
        return self.test.x[:n]

    def with_training(self, **changes: Any) -> "Task":
        """The same task with another training recipe."""
        return replace(self, training=replace(self.training, **changes))


@dataclass(frozen=True)
class Dataset:
    """Data by name."""

    load: Callable[[], Splits]
    kind: str
    """``images``, ``points`` or ``text``: which models take it."""
    metric: str = "accuracy"


DATASETS: dict[str, Dataset] = {
    "fashion_mnist": Dataset(fashion_mnist, "images"),
    "cifar10": Dataset(cifar10, "images"),
    **{name: Dataset(partial(toy, name), "points") for name in NAMES},
    "shakespeare": Dataset(shakespeare, "text", "perplexity"),
}
"""Data by name; besides, ``imagefolder:PATH`` names a user's own images."""

TAKES: dict[str, tuple[str, ...]] = {
    "mlp": ("images", "points"),
    "toy_mlp": ("points",),
    "cnn_small": ("images",),
    "vgg_small": ("images",),
    "resnet_small": ("images",),
    "densenet_small": ("images",),
    "mobilenet_small": ("images",),
    "char_gpt": ("text",),
}
"""Model → kinds of data it takes; the first one's first dataset is its own."""

_IMAGES, _TEXT = Training(), Training(batch=32, optimizer="adamw", weight_decay=0.1, clip=1.0)
RECIPES: dict[str, Training] = {
    "mlp": replace(_IMAGES, epochs=15, lr=0.05),
    "toy_mlp": replace(_IMAGES, epochs=60, batch=50, lr=0.02, weight_decay=0.0),
    "cnn_small": replace(_IMAGES, epochs=16, lr=0.05),
    "vgg_small": replace(_IMAGES, epochs=16, lr=0.1),
    "resnet_small": replace(_IMAGES, epochs=16, lr=0.1),
    "densenet_small": replace(_IMAGES, epochs=20, lr=0.1),
    "mobilenet_small": replace(_IMAGES, epochs=16, lr=0.2),
    "char_gpt": replace(_TEXT, epochs=8, lr=4e-3),
}
"""The standard recipe of each model, on whatever data: dense net s is trained by it.

Long enough that as many further epochs as a tuning takes gain less than half a point; what was
measured stands in ``convergence.json``, made by ``python -m survey_lib.tasks.converge``.
"""


def own_data(model: str) -> str:
    """The dataset that a model is shipped for.

    Raises:
        ValueError: no such model.
    """
    if model not in TAKES:
        raise ValueError(f"no task {model!r}; there are: {', '.join(TAKES)}")
    return next(name for name, data in DATASETS.items() if data.kind == TAKES[model][0])


def load_task(
    model: str,
    data: str | None = None,
    *,
    classes: Sequence[int | str] | None = None,
    examples: int | None = None,
    **options: Any,
) -> Task:
    """A task: a model on data, e.g. ``load_task("cnn_small", width=0.5)``.

    Args:
        model: one of :data:`survey_lib.tasks.models.MODELS`.
        data: one of :data:`DATASETS`, or ``imagefolder:PATH`` for a user's own images; by default
            the embedded data that the model is shipped for.
        classes: keep these classes only (numbers or names), numbered anew in this order.
        examples: keep so many training examples, all classes about equally often; a smaller draw
            is part of a larger one. Validation and test stay whole.
        options: options of the model's constructor.

    Raises:
        ValueError: unknown model, data or class, data of a kind the model cannot take, or more
            examples than there are.
        DataError: the data is missing or damaged.
    """
    source = data or own_data(model)
    if source.startswith("imagefolder:"):
        found = Dataset(partial(image_folder, source.removeprefix("imagefolder:")), "images")
        source = "imagefolder"
    elif source in DATASETS:
        found = DATASETS[source]
    else:
        raise ValueError(f"no data {source!r}; use {', '.join(DATASETS)} or imagefolder:PATH")
    own_data(model)  # refuses an unknown model
    if found.kind not in TAKES[model]:
        fitting = [name for name, d in DATASETS.items() if d.kind in TAKES[model]]
        more = ", imagefolder:PATH" if "images" in TAKES[model] else ""
        raise ValueError(
            f"task {model!r}: cannot use data {source!r}, which is {found.kind}; "
            f"give {', '.join(fitting)}{more}"
        )
    splits, name = found.load(), source
    if classes is not None:
        splits = of_classes(splits, classes)
        name += f"[{','.join(splits.classes)}]"
    if examples is not None:
        splits = few(splits, examples)
        name += f"[{examples}]"
    x = splits.train.x
    channels, size = {
        "images": tuple(x.shape[1:3]), "points": (x.shape[1], 1), "text": (1, x.shape[1])
    }[found.kind]  # fmt: skip
    shape = {"channels": channels, "size": size, "classes": len(splits.classes)}
    return Task(f"{name}/{model}", splits, model, shape | options, found.metric, RECIPES[model])
