"""A task: a dataset with splits, a dense model, a loss, a metric and a training recipe."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.tasks.data import Split, Splits, fashion_mnist, image_folder, shakespeare
from survey_lib.tasks.models import build_model


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


# Peak learning rates: chosen on validation by `survey run to_prune_or_not --profile tune`
# where that chapter uses the model, at first sight (any sane rate trains) elsewhere.
DEFAULTS: dict[str, tuple[Callable[[], Splits], str, Training]] = {
    "mlp": (fashion_mnist, "accuracy", Training(epochs=10, lr=0.05)),
    "cnn_small": (fashion_mnist, "accuracy", Training(epochs=8, lr=0.1)),
    "vgg_small": (fashion_mnist, "accuracy", Training(epochs=8, lr=0.1)),
    "resnet_small": (fashion_mnist, "accuracy", Training(epochs=8, lr=0.1)),
    "densenet_small": (fashion_mnist, "accuracy", Training(epochs=8, lr=0.1)),
    "mobilenet_small": (fashion_mnist, "accuracy", Training(epochs=8, lr=0.1)),
    "char_gpt": (
        shakespeare,
        "perplexity",
        Training(epochs=1.5, batch=32, lr=3e-3, optimizer="adamw", weight_decay=0.1, clip=1.0),
    ),
}


def load_task(name: str, *, data: str | None = None, **options: Any) -> Task:
    """The task of a model by name, e.g. ``load_task("cnn_small", width=0.5)``.

    Args:
        name: a model of :data:`survey_lib.tasks.models.MODELS`.
        data: ``None`` for the embedded data, or ``imagefolder:PATH`` for a user's own images.
        options: options of the model's constructor.

    Raises:
        ValueError: unknown model, or data of a kind the model cannot take.
        DataError: the data is missing or damaged.
    """
    if name not in DEFAULTS:
        raise ValueError(f"no task {name!r}; there are: {', '.join(DEFAULTS)}")
    load, metric, training = DEFAULTS[name]
    if data is None:
        splits, source = load(), load.__name__
    elif data.startswith("imagefolder:") and metric == "accuracy":
        splits, source = image_folder(data.removeprefix("imagefolder:")), "imagefolder"
    else:
        raise ValueError(f"task {name!r}: cannot use data {data!r}; give imagefolder:PATH")
    x = splits.train.x
    channels, size = (x.shape[1], x.shape[2]) if x.ndim == 4 else (1, x.shape[1])
    shape = {"channels": channels, "size": size, "classes": len(splits.classes)}
    return Task(f"{source}/{name}", splits, name, shape | options, metric, training)
