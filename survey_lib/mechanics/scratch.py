"""The shape that pruning found, with fresh weights."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.task import Task

SPREADS = ("dense", "own")


def from_scratch(
    task: Task,
    keep: Mapping[str, int | Sequence[int]],
    *,
    generator: torch.Generator,
    spread: str = "dense",
) -> nn.Module:
    """A net of the task in a pruned shape, its weights drawn anew.

    Args:
        task: builds the dense net.
        keep: by channel group what it keeps: the number of its channels, or a recipe's list.
        generator: draws the weights.
        spread: ``dense`` draws the dense net and drops channels, so that weights keep the spread
            of the wide layers (Crowley et al. 2018, ``crowley2018closer``); ``own`` draws every
            layer by its own small size.

    Raises:
        RecipeError: a group that is not there, or a number outside its size.
        ValueError: another spread.
    """
    if spread not in SPREADS:
        raise ValueError(f"from_scratch: no spread {spread!r}; use one of {', '.join(SPREADS)}")
    own = spread == "own"
    # the weights drawn here are drawn over in the end: any generator will do
    net = task.build(torch.Generator().manual_seed(0) if own else generator)
    graph = trace_groups(net, task.example(1))
    recipe = {n: list(range(k)) if isinstance(k, int) else list(k) for n, k in keep.items()}
    small = apply_recipe(net, graph, recipe)
    return redrawn(small, generator) if own else small


def redrawn(model: nn.Module, generator: torch.Generator) -> nn.Module:
    """The same net, in place, each layer's parameters drawn as torch draws them at first.

    torch's layers draw from the global generator; it is forked and seeded here, so that nothing
    outside sees a change.
    """
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
    return model
