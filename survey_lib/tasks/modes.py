"""Eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The net in eval mode; afterwards each module is back in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:  # past nn.Module.__setattr__, which takes longer than all the rest
            module.__dict__["training"] = False
        yield model
    finally:
        for module, mode in modes.items():
            module.__dict__["training"] = mode
