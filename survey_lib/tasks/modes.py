"""Eval mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The net in eval mode; afterwards each module is back in the mode it was in."""
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            _set(module, False)
        yield model
    finally:
        for module, mode in modes.items():
            _set(module, mode)


def _set(module: nn.Module, mode: bool) -> None:
    if isinstance(module, torch.jit.ScriptModule):  # its mode lies outside Python
        if module.training != mode:  # a frozen one has no other
            module.training = mode
    else:  # past nn.Module.__setattr__, which takes longer than all the rest
        module.__dict__["training"] = mode
