"""What removal must equal: the dense net with channels set to zero wherever they are read."""

import copy

import numpy as np
import torch
from torch import Tensor, nn


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A float64 copy in eval mode in which no norm, scale or bias is trivial."""
    generator = torch.Generator().manual_seed(seed)

    def normal(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator, dtype=torch.float64)

    model = copy.deepcopy(model).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim < 2:  # biases, and norms' and other scales
                p.copy_(1.0 + 0.3 * normal(p))
            else:
                p.copy_(normal(p) / p[0].numel() ** 0.5)
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                module.running_mean.copy_(0.3 * normal(module.running_mean))
                module.running_var.copy_(0.5 + normal(module.running_var).square())
                module.bias.copy_(0.3 * normal(module.bias))  # a shift revives a silenced channel
    return model


def random_recipe(graph, seed: int) -> dict[str, list[int]]:
    """A recipe that keeps a random, non-empty part of each group."""
    draw = np.random.default_rng(seed)
    return {
        g.name: sorted(draw.choice(g.size, draw.integers(1, g.size + 1), replace=False).tolist())
        for g in graph.prunable
    }


@torch.no_grad()
def zeroed_output(model: nn.Module, graph, recipe, x: Tensor) -> Tensor:
    """Output of the dense net, removed channels multiplied by 0 at the input of each consumer."""
    handles = []
    for group in graph.prunable:
        gone = sorted(set(range(group.size)) - set(recipe.get(group.name, range(group.size))))
        for consumer in group.consumers:
            at = [int(p) for unit in gone for p in consumer.positions[unit]]

            def hook(module, args, at=at):
                axis = args[0].ndim - 1 if isinstance(module, nn.Linear) else 1
                factor = torch.ones(args[0].shape[axis], dtype=args[0].dtype)
                factor[at] = 0
                shape = [1] * args[0].ndim
                shape[axis] = -1
                return (args[0] * factor.view(shape), *args[1:])

            handles.append(model.get_submodule(consumer.module).register_forward_pre_hook(hook))
    try:
        return _logits(model(x))
    finally:
        for handle in handles:
            handle.remove()


def _logits(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@torch.no_grad()
def removal_error(model: nn.Module, graph, recipe, x: Tensor) -> tuple[float, float, nn.Module]:
    """(distance of the small net from the zeroed one, distance from the dense one, small net)."""
    from survey_lib.mechanics.surgery import apply_recipe

    small = apply_recipe(model, graph, recipe)
    out = _logits(small(x))
    off = (out - zeroed_output(model, graph, recipe, x)).abs().max().item()
    return off, (out - _logits(model(x))).abs().max().item(), small


def silenced_output(model: nn.Module, graph, recipe, x: Tensor) -> Tensor:
    """Output of the net whose removed units have zero weights and biases where they are made."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for group in graph.prunable:
            gone = sorted(set(range(group.size)) - set(recipe.get(group.name, range(group.size))))
            for s in group.slices:
                module = model.get_submodule(s.module)
                conv = isinstance(module, (nn.Conv2d, nn.Linear))
                if s.role != "in" and conv:
                    at = torch.tensor([int(p) for u in gone for p in s.positions[u]], dtype=int)
                    getattr(module, s.tensor).index_fill_(s.axis, at, 0)
        return model(x)
