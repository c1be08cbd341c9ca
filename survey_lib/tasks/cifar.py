"""CIFAR-10 (Krizhevsky 2009), fetched once by torchvision and kept as plain arrays.

torchvision checks the archive's MD5 before it reads the pickles in it; they are turned into one
``.npz`` then, and nothing but that file is read afterwards.
"""

import io
import shutil
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch

from survey_lib import files
from survey_lib.tasks.data import DataError, Split, Splits, normalised, stratified

VAL_PER_CLASS = 500
FILE = "cifar10.npz"
ARRAYS = ("train_x", "train_y", "test_x", "test_y")


def path() -> Path:
    """Where the arrays lie once they were fetched."""
    return files.cache_dir() / FILE


def fetch() -> Path:
    """Download the archive (170 MB), check it, and keep its images as one ``.npz``.

    Raises:
        DataError: it cannot be had or stored; says what was wanted, from where, and how to place
            it by hand.
    """
    from torchvision.datasets import CIFAR10

    room = files.cache_dir()
    by_hand = (
        f"download {CIFAR10.url} elsewhere and put {CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) "
        f"into {room}"
    )
    try:
        room.mkdir(parents=True, exist_ok=True)
        scratch = Path(mkdtemp(dir=room, prefix=".cifar-"))
    except OSError as error:
        raise DataError(f"{room}: CIFAR-10 cannot be stored there ({error.strerror})") from None
    try:
        placed = room / CIFAR10.filename
        if placed.exists():
            shutil.copy(placed, scratch)
        try:
            sets = [CIFAR10(str(scratch), train=train, download=True) for train in (True, False)]
        except Exception as error:  # torchvision raises urllib's, RuntimeError and OSError
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise DataError(f"CIFAR-10 cannot be had ({why}); {by_hand}") from None
        buffer = io.BytesIO()
        arrays = [a for s in sets for a in (np.asarray(s.data), np.asarray(s.targets, np.int64))]
        np.savez_compressed(buffer, **dict(zip(ARRAYS, arrays, strict=True)))
        files.write_atomic(path(), buffer.getvalue())
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return path()


@lru_cache(maxsize=1)
def cifar10() -> Splits:
    """CIFAR-10: 45,000 training, 5,000 validation (stratified), 10,000 test images.

    Images are (N, 3, 32, 32) float32, normalised per channel by the training images.

    Raises:
        DataError: the data is absent and cannot be fetched, or the kept file is damaged.
    """
    source = path() if path().exists() else fetch()
    try:
        with np.load(source, allow_pickle=False) as archive:
            x, y, test_x, test_y = (torch.from_numpy(archive[name]) for name in ARRAYS)
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"{source}: damaged ({error}); delete it, it is then fetched anew"
        ) from None
    order = stratified(y, seed=20090408)
    held = order[: VAL_PER_CLASS * int(y.max() + 1)]
    rest = torch.ones(len(y), dtype=torch.bool)
    rest[held] = False
    scaled = x[rest].float() / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))

    def split(images: torch.Tensor, labels: torch.Tensor) -> Split:
        return Split(normalised(images.permute(0, 3, 1, 2), mean, std), labels)

    names = ("airplane", "automobile", "bird", "cat", "deer",
             "dog", "frog", "horse", "ship", "truck")  # fmt: skip
    return Splits(
        split(x[rest], y[rest]), split(x[held], y[held]), split(test_x, test_y),
        classes=names[: int(y.max()) + 1], hash=files.sha256(source),
    )  # fmt: skip
