"""Toy sets of points in the plane, after Yeom et al. (2021; key ``yeom2021pruning``).

Two moons, two circles, and ``mult``, a spiral of four arms. Training and validation points come
from the noise that the paper trains with; test points are fresh ones with normal noise of
deviation :data:`UNSEEN` added, the paper's "noisy unseen data". The paper's arms of ``mult`` are
known from a picture only; here they are Archimedean, three quarters of a turn each.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from survey_lib.tasks.data import Split, Splits

NAMES = ("moon", "circle", "mult")
CLASSES = {"moon": 2, "circle": 2, "mult": 4}
NOISE, UNSEEN = 0.1, 0.3
"""Deviation of the noise on training points, and of what is added on test points."""
INNER = 0.3
"""Radius of the inner circle; the outer one has 1."""
TURN = 1.5 * math.pi
"""Angle that an arm of the spiral covers."""
PER_CLASS = {"train": 500, "val": 250, "test": 1000}


def points(
    name: str, per_class: int, generator: torch.Generator, *, noise: float = NOISE
) -> tuple[Tensor, Tensor]:
    """Points and their classes, class by class.

    Args:
        name: one of :data:`NAMES`.
        per_class: points of each class.
        generator: draws places and noise.
        noise: deviation of the normal noise on each coordinate.

    Returns:
        (n, 2) float32 and (n,) int64, n = classes × per_class.

    Raises:
        ValueError: no such set.
    """
    if name not in CLASSES:
        raise ValueError(f"no toy set {name!r}; there are: {', '.join(NAMES)}")
    arms = []
    for label in range(CLASSES[name]):
        t = torch.rand(per_class, generator=generator, dtype=torch.float64)
        if name == "moon":  # half circles, the second one upside down and shifted
            angle = math.pi * t
            x, y = torch.cos(angle), torch.sin(angle)
            arm = torch.stack([x, y] if label == 0 else [1 - x, 0.5 - y], 1)
        elif name == "circle":
            angle, radius = 2 * math.pi * t, 1.0 if label == 0 else INNER
            arm = radius * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
        else:  # r grows with the angle; the square root spreads points evenly over the arm
            r = t.sqrt()
            angle = TURN * r + math.pi / 2 * label
            arm = 2 * r[:, None] * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
        arms.append(arm)
    x = torch.cat(arms)
    x = x + noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    return x.float(), torch.arange(CLASSES[name]).repeat_interleave(per_class)


@lru_cache(maxsize=3)
def toy(name: str) -> Splits:
    """A toy set: 500 training, 250 validation, 1,000 noisy test points of each class."""
    drawn = {}
    for i, (part, n) in enumerate(PER_CLASS.items()):
        generator = torch.Generator().manual_seed(20191218 + 10 * NAMES.index(name) + i)
        x, y = points(name, n, generator)
        if part == "test":
            x = x + UNSEEN * torch.randn(x.shape, generator=generator)
        order = torch.randperm(len(x), generator=generator)
        drawn[part] = Split(x[order], y[order])
    names = tuple(f"{name} {label}" for label in range(CLASSES[name]))
    # made by this file, so that the digest of the code stands for it
    return Splits(**drawn, classes=names, hash=f"toy {name}")
