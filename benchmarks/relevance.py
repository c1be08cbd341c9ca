"""Relevance of every map of every layer against zennit, on the same net, batch and rules."""

import copy

import torch
from torch import Tensor, nn
from zennit.composites import EpsilonPlus
from zennit.torchvision import ResNetCanonizer, SequentialMergeBatchNorm

from benchmarks.common import line, take_turns, write
from benchmarks.zoo import images, net
from survey_lib.mechanics.relevance.engine import relevance
from survey_lib.mechanics.relevance.rules import AlphaBeta, Epsilon, Rules
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task

RULES = Rules(conv=AlphaBeta(), linear=Epsilon(1e-6))
"""Those of zennit's ``EpsilonPlus``: α = 1, β = 0 in convolutions, ε in linear layers."""


def cases() -> list[tuple[str, nn.Module, Tensor, int, list]]:
    """(case, net, batch, classes, zennit's canonizers)."""
    task = load_task("vgg_small")
    return [
        ("resnet18, batch 8, 64 × 64", net("resnet18"), images(8, 64), 1000, [ResNetCanonizer()]),
        ("vgg_small, batch 30", task.build(seeded(0)), task.example(30), 10,
         [SequentialMergeBatchNorm()]),
    ]  # fmt: skip


def main() -> None:
    """Time both sides, and one plain forward and backward pass beside them."""
    rows = []
    for case, model, x, classes, canonizers in cases():
        model.eval()
        other = copy.deepcopy(model)  # zennit folds batch norms into the weights
        start = nn.functional.one_hot(torch.arange(len(x)) % classes, classes).to(x.dtype)

        def ours(model=model, x=x, start=start) -> None:
            relevance(model, x, start, RULES)

        def theirs(model=other, x=x, start=start) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf), leaf, start)

        def plain(model=model, x=x, start=start) -> None:
            leaf = x.clone().requires_grad_()
            torch.autograd.grad(model(leaf), leaf, start)

        with EpsilonPlus(canonizers=canonizers).context(other):
            sides = {"here": ours, "zennit": theirs, "gradient": plain}
            times = take_turns(
                {name: (lambda: None, lambda _, act=act: act()) for name, act in sides.items()}
            )
        rows.append(line("relevance", case, times, ("here", "zennit"), (None, 0.85)))
        rows.append(line("relevance", case, times, ("here", "gradient"), (None, 3.0)))
    write("relevance", rows)


if __name__ == "__main__":
    main()
