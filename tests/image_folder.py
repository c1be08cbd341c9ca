"""A folder of images as `survey prune` and `survey compare` take it: noise in two colours."""

from pathlib import Path

import torch
from PIL import Image


def red_and_blue(root: Path, side: int, train: int, test: int, *, noise: int, tint: int) -> None:
    """Write ``train`` and ``test`` images of ``side`` pixels for each of the classes red and blue.

    Args:
        root: where ``train/`` and ``test/`` are made.
        side: pixels.
        train: images of each class.
        test: images of each class.
        noise: pixels are drawn below it …
        tint: … and the class's own channel is brighter by so much.
    """
    g = torch.Generator().manual_seed(0)
    for part, n in (("train", train), ("test", test)):
        for channel, label in ((0, "red"), (2, "blue")):
            folder = root / part / label
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = torch.randint(0, noise, (side, side, 3), generator=g, dtype=torch.uint8)
                pixels[..., channel] += tint
                Image.fromarray(pixels.numpy()).save(folder / f"{i}.png")
