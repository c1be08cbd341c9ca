"""Data that a task is made of: embedded, checked by hash, never pickled."""

import gzip
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from survey_lib import files

FOLDER = Path(str(resources.files("survey_lib.tasks"))) / "data"

SHA256 = {
    "fashion_mnist.npz": "80ecf38a210be148c395ec4200c9f79065be82a82568a1afc7c2239d3efa6544",
    "shakespeare.txt.gz": "bf237b9f5a05abe79d7a0caa809b6513fbcbc323e9521a77086d556e4c9bbed8",
    "wikitext2_test.txt.gz": "a7f70ace9020b0d6daf21ea9f7666bc824aae4e8a3d5d7a1bd7820b2110da32d",
}


class DataError(RuntimeError):
    """Data that is missing, truncated or not what it should be."""


@dataclass(frozen=True)
class Split:
    """Inputs and targets of one split; first dimension is the example."""

    x: Tensor
    """Images (N, C, H, W) float32, points (N, 2) float32, or token windows (N, T) int64."""
    y: Tensor
    """Classes (N,) int64, or next tokens (N, T) int64."""

    def __len__(self) -> int:
        return len(self.x)


@dataclass(frozen=True)
class Splits:
    """Train, validation and test split, with what a model must know of them."""

    train: Split
    val: Split
    test: Split
    classes: tuple[str, ...]
    """Names of the classes, or the characters of the vocabulary."""
    hash: str
    """SHA-256 of the file they came from."""


FASHION_CLASSES = (
    "T-shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
FASHION_MEAN, FASHION_STD = 0.2860, 0.3530  # of the official training images, in [0, 1]


def embedded(name: str) -> Path:
    """Path of an embedded data file after its hash was checked.

    Raises:
        DataError: the file is absent or its bytes differ from the release's.
    """
    path = FOLDER / name
    if not path.exists():
        raise DataError(f"{path}: the embedded data file is missing; reinstall the package")
    found = files.sha256(path)
    if found != SHA256[name]:
        raise DataError(
            f"{path}: SHA-256 is {found[:12]}…, expected {SHA256[name][:12]}…; "
            "the file is truncated or changed, reinstall the package"
        )
    return path


@lru_cache(maxsize=1)
def fashion_mnist() -> Splits:
    """Fashion-MNIST (Xiao et al. 2017, MIT): 10,000 train, 2,000 validation, 10,000 test images.

    Train and validation are stratified draws from the official training set; images are
    (N, 1, 28, 28) float32, normalised with the mean and deviation of the training set.

    Raises:
        DataError: the embedded file is missing or damaged.
    """
    path = embedded("fashion_mnist.npz")
    with np.load(path, allow_pickle=False) as archive:
        parts = {
            name: Split(
                normalised(torch.from_numpy(archive[f"{name}_x"]), FASHION_MEAN, FASHION_STD),
                torch.from_numpy(archive[f"{name}_y"]).long(),
            )
            for name in ("train", "val", "test")
        }
    return Splits(**parts, classes=FASHION_CLASSES, hash=SHA256[path.name])


def normalised(images: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """Bytes (N, H, W) or (N, C, H, W) as float32 (N, C, H, W); mean and std by channel or one."""
    if isinstance(mean, Tensor) and isinstance(std, Tensor):
        mean, std = mean.view(-1, 1, 1), std.view(-1, 1, 1)
    x = images.float().div_(255).sub_(mean).div_(std)
    return x.unsqueeze(1) if x.ndim == 3 else x


def stratified(y: Tensor, *, seed: int) -> Tensor:
    """An order of examples any beginning of which holds all classes about equally often.

    Args:
        y: (N,) classes, or (N, T) targets of sequences, which have no class.
        seed: of the draw within the classes.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(y), generator=generator, device="cpu")
    if y.ndim > 1:
        return drawn
    rank = torch.empty(len(y), dtype=torch.int64, device="cpu")
    for label in y.unique():
        members = drawn[y[drawn] == label]
        rank[members] = torch.arange(len(members), device="cpu")
    # first one of each class, then a second one of each …
    return torch.argsort(rank * (int(y.max()) + 1) + y)


FEW_SEED = 20171025
"""Of the draw of a few examples; a smaller draw is part of a larger one."""


def few(splits: Splits, examples: int) -> Splits:
    """The same data with ``examples`` training examples, all classes about equally often.

    Raises:
        ValueError: there are not so many, or fewer than one a class is asked for.
    """
    train = splits.train
    classes = len(train.y.unique()) if train.y.ndim == 1 else 1
    if not classes <= examples <= len(train):
        raise ValueError(
            f"examples must lie between {classes} (one of each class) and {len(train)} (all), "
            f"got {examples}"
        )
    rows = stratified(train.y, seed=FEW_SEED)[:examples].sort().values
    return replace(splits, train=Split(train.x[rows], train.y[rows]))


def of_classes(splits: Splits, classes: Sequence[int | str]) -> Splits:
    """The examples of some classes only, numbered anew in the order given, in all splits.

    Raises:
        ValueError: no such class, one named twice, fewer than two, or data without classes.
    """
    if splits.train.y.ndim != 1:
        raise ValueError("text has no classes to choose from; leave classes out")
    names = splits.classes
    chosen = [names.index(c) if isinstance(c, str) and c in names else c for c in classes]
    for c in chosen:
        if isinstance(c, str) or not 0 <= c < len(names):
            raise ValueError(f"no class {c!r}; there are: {', '.join(names)}")
    if len(set(chosen)) != len(chosen) or len(chosen) < 2:
        raise ValueError(f"classes must be at least two different ones, got {list(classes)}")
    anew = torch.full((len(names),), -1)
    anew[torch.tensor(chosen)] = torch.arange(len(chosen))

    def part(split: Split) -> Split:
        y = anew[split.y]
        return Split(split.x[y >= 0], y[y >= 0])

    train, val, test = (part(s) for s in (splits.train, splits.val, splits.test))
    return replace(
        splits, train=train, val=val, test=test, classes=tuple(names[int(c)] for c in chosen)
    )


@lru_cache(maxsize=2)
def shakespeare(window: int = 64) -> Splits:
    """The public-domain Shakespeare text in characters, cut into windows of ``window`` tokens.

    The first 90 % of the text is train, the next 5 % validation, the last 5 % test. Windows
    don't overlap; the target of each token is the next character.

    Raises:
        DataError: the embedded file is missing or damaged.
    """
    path = embedded("shakespeare.txt.gz")
    text = gzip.decompress(path.read_bytes()).decode("ascii")
    vocabulary = tuple(sorted(set(text)))
    index = {character: i for i, character in enumerate(vocabulary)}
    tokens = torch.tensor([index[c] for c in text])
    a, b = int(0.9 * len(tokens)), int(0.95 * len(tokens))
    parts = [_windows(tokens[i:j], window) for i, j in ((0, a), (a, b), (b, len(tokens)))]
    return Splits(*parts, classes=vocabulary, hash=SHA256[path.name])


def _windows(tokens: Tensor, window: int) -> Split:
    n = (len(tokens) - 1) // window
    x = tokens[: n * window].view(n, window)
    y = tokens[1 : n * window + 1].view(n, window)
    return Split(x, y)


def image_folder(path: str | Path, size: int = 32, val_fraction: float = 0.1) -> Splits:
    """A user's own images: ``path/train/<class>/*`` and ``path/test/<class>/*``.

    Images are resized to ``size`` × ``size``, three channels, normalised per channel by the
    training images; every tenth training image of a class is held out for validation. Files and
    folders whose names begin with a dot are no images and no classes. Images with 16 bits a pixel
    are scaled by their range, 0 to 65,535, as those with 8 bits are by theirs.

    Raises:
        DataError: a folder is missing or empty, train and test have different classes, an image is
            damaged or has no known range (floating point), or all images are one flat colour.
    """
    root = Path(path).expanduser()
    for part in ("train", "test"):
        if not (root / part).is_dir():
            raise DataError(
                f"{root / part}: no such folder; an image folder needs train/<class>/ and "
                "test/<class>/ with images in them"
            )
    files_of = {part: _images_by_class(root / part) for part in ("train", "test")}
    names = {part: list(found) for part, found in files_of.items()}
    if names["train"] != names["test"]:
        different = sorted(set(names["train"]) ^ set(names["test"]))
        raise DataError(f"{root}: train and test differ in the classes {different}")
    raw: dict[str, Split] = {}
    for part, found in files_of.items():
        images = [_image(file, size) for files_ in found.values() for file in files_]
        if any(image.is_floating_point() for image in images):
            images = [image.float() for image in images]
        labels = [label for label, files_ in enumerate(found.values()) for _ in files_]
        raw[part] = Split(torch.stack(images), torch.tensor(labels))
    train, test = raw["train"], raw["test"]
    mean = train.x.float().mean((0, 2, 3), keepdim=True) / 255
    std = (train.x.float() / 255).std((0, 2, 3), keepdim=True)
    if not std.max() > 1e-7:
        raise DataError(
            f"{root / 'train'}: all images are the same flat colour; there is nothing to learn from"
        )
    # a quarter of a grey step, of 255 or of 65,535
    std = std.clamp_min(1e-3 / 257 if train.x.is_floating_point() else 1e-3)

    def split(part: Split, rows: Tensor) -> Split:
        return Split((part.x[rows].float() / 255 - mean) / std, part.y[rows])

    every = max(2, round(1 / val_fraction))
    held = torch.zeros(len(train), dtype=torch.bool)
    for label in range(len(names["train"])):
        held[(train.y == label).nonzero()[every - 1 :: every, 0]] = True
    if not held.any():
        raise DataError(f"{root}: too few training images to hold out 1 in {every}; add images")
    content = torch.cat([train.x.flatten(), test.x.flatten()]).numpy().tobytes()
    return Splits(
        split(train, ~held), split(train, held), split(test, torch.ones(len(test)).bool()),
        classes=tuple(names["train"]), hash=files.sha256(content),
    )  # fmt: skip


def _images_by_class(folder: Path) -> dict[str, list[Path]]:
    """Class → its image files, both sorted; nothing whose name begins with a dot.

    Raises:
        DataError: no class, or one without an image.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    found: dict[str, list[Path]] = {}
    for name in sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()):
        if name.startswith("."):
            continue
        found[name] = []
        for place, _, names in sorted(os.walk(folder / name, followlinks=True)):
            if any(step.startswith(".") for step in Path(place).relative_to(folder).parts):
                continue
            found[name] += [
                Path(place) / n
                for n in sorted(names)
                if not n.startswith(".") and n.lower().endswith(IMG_EXTENSIONS)
            ]
    if not found:
        raise DataError(f"{folder}: no folder of a class in it; add some with images in them")
    for name, inside in found.items():
        if not inside:
            raise DataError(
                f"{folder / name}: no image in it; add images there ({', '.join(IMG_EXTENSIONS)}), "
                "or remove the folder"
            )
    return found


def _image(file: Path, size: int) -> Tensor:
    """(3, size, size) in 0 … 255: bytes, or fp32 for an image with 16 bits a pixel.

    Raises:
        DataError: the file is damaged, or its mode has no range to be scaled by.
    """
    from PIL import Image
    from torchvision.transforms import v2

    try:
        with Image.open(file) as image:
            mode, sixteen = image.mode, _sixteen_bits(image)
            if sixteen:
                grey = torch.from_numpy(np.array(image).astype(np.float32)) / 257  # of 65,535
                pixels = grey.expand(3, *grey.shape)
            elif mode in ("I", "F"):
                pixels = None
            else:
                pixels = v2.functional.to_image(image.convert("RGB"))
    except Exception as why:  # readers of formats raise whatever they like
        raise DataError(f"{file}: not a readable image ({why or type(why).__name__})") from None
    if pixels is None:
        raise DataError(
            f"{file}: its mode {mode} ({'32-bit whole' if mode == 'I' else 'floating-point'} "
            "numbers) has no range to be scaled by; write it with 8 or 16 bits a pixel"
        )
    resized = v2.functional.resize(pixels, [size, size], antialias=True)
    return torch.as_tensor(resized)


def _sixteen_bits(image: Any) -> bool:
    # older versions of Pillow open a 16-bit PNG with mode I
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
