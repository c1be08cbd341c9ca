"""Small tasks that every room's tests share."""

from dataclasses import replace

import pytest
import torch

from survey_lib.tasks.data import Split, Splits
from survey_lib.tasks.task import Task, Training


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest file first, so that two workers end at about the same time."""
    items.sort(key=lambda item: item.path.name != "test_line.py")


torch.set_num_threads(1)  # tests run side by side; two threads each would only wait


@pytest.fixture(autouse=True)
def _drawn_alike() -> None:
    """Nets a test builds without a generator are the same nets in every run and in any order."""
    torch.manual_seed(0)


def blobs(n: int, generator: torch.Generator) -> Split:
    """Images whose class is told by which quarter is bright."""
    y = torch.randint(4, (n,), generator=generator)
    x = 0.7 * torch.randn(n, 1, 8, 8, generator=generator)
    for i, label in enumerate(y.tolist()):
        row, column = divmod(label, 2)
        x[i, 0, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1.0
    return Split(x, y)


def in_double(task: Task) -> Task:
    """The same task with its inputs in float64."""
    data = task.data
    parts = {
        part: replace(getattr(data, part), x=getattr(data, part).x.double())
        for part in ("train", "val", "test")
    }
    return replace(task, data=replace(data, **parts))


@pytest.fixture(scope="session")
def tiny_task() -> Task:
    """Four classes of 8 × 8 images and a CNN of a few thousand weights; trains in a second."""
    generator = torch.Generator().manual_seed(0)
    splits = Splits(*(blobs(n, generator) for n in (256, 64, 128)), classes=("a", "b", "c", "d"),
                    hash="blobs")  # fmt: skip
    options = {"channels": 1, "size": 8, "classes": 4, "width": 0.25}
    return Task("blobs/cnn_small", splits, "cnn_small", options, "accuracy",
                Training(epochs=6, batch=32, lr=0.05))  # fmt: skip


@pytest.fixture(scope="session")
def tiny_mlp_task(tiny_task: Task) -> Task:
    """The same images and a small MLP."""
    options = tiny_task.options | {"width": 0.1}
    return replace(tiny_task, name="blobs/mlp", model="mlp", options=options)
