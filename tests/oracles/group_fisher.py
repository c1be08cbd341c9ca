"""Group Fisher pruning by the letter: loops over examples and layers, masks as autograd variables.

Shares with the library only which layers come before which, the groups' names and sizes, and the
net itself; which layers hold a mask follows from the paper's text.
"""

import torch
from torch import Tensor, nn

from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_activations
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.group_fisher.grouping import parents


def closed_groups(parents, grouped):
    """Layers that share a parent, or hang on a grouped convolution, merged until nothing moves."""
    groups = [({layer}, set(above)) for layer, above in parents.items() if above]
    while True:
        for i, (a, pa) in enumerate(groups):
            for j in range(i + 1, len(groups)):
                b, pb = groups[j]
                if (pa & pb) or (pa & b & grouped) or (pb & a & grouped):
                    groups[i] = (a | b, pa | pb)
                    del groups[j]
                    break
            else:
                continue
            break
        else:
            return {frozenset(a) for a, _ in groups}


def layers_of(model: nn.Module, graph):
    """Group → the layers whose inputs hold its mask, as algorithm 1 couples them.

    Of the engine's group only its name and one of its readers are looked at.
    """
    p, grouped = parents(model)
    closed = closed_groups(p, grouped)
    return {
        g.name: sorted(next(layers for layers in closed if g.consumers[0].module in layers))
        for g in graph.prunable
    }


def scores(model: nn.Module, graph, task, x: Tensor, y: Tensor, values, kind="fisher"):
    """(units,) by group: equation 4, or its rivals, by loops over examples and copies.

    "Each layer has a mask on its input": every layer of a group, the grouped convolution itself
    among them, gets a variable (N, channels of its input) of its own, with one row for each
    example, so that one differentiation of the summed loss gives every example's own gradient.
    The c gradients of a layer that has c inputs for g units are reshaped to g × c/g and summed:
    a grouped convolution loses whole groups, a linear layer behind a flattening whole maps.
    """
    members = layers_of(model, graph)
    size = {g.name: g.size for g in graph.prunable}
    masks = {
        layer: values[name].repeat_interleave(inputs_of(model, layer) // size[name])
        .repeat(len(x), 1).requires_grad_()
        for name, layers in members.items()
        for layer in layers
    }  # fmt: skip
    total = len(x) * task.loss(with_masks(model, masks, x), y)
    gradients = dict(zip(masks, torch.autograd.grad(total, list(masks.values())), strict=True))
    found = {}
    for name, layers in members.items():
        s = torch.zeros(size[name], dtype=x.dtype)
        copies = [gradients[layer].unflatten(1, (size[name], -1)).sum(2) for layer in layers]
        for unit in range(size[name]):
            rows = [[float(g[n, unit]) for g in copies] for n in range(len(x))]
            if kind == "fisher":
                s[unit] = sum(sum(row) ** 2 for row in rows)
            elif kind == "square_first":
                s[unit] = sum(g**2 for row in rows for g in row)
            else:
                s[unit] = abs(sum(sum(row) for row in rows))
        found[name] = s
    return found


def inputs_of(model: nn.Module, layer: str) -> int:
    module = model.get_submodule(layer)
    return module.in_features if isinstance(module, nn.Linear) else module.in_channels


def with_masks(model: nn.Module, masks, x: Tensor) -> Tensor:
    """Output of the net when each layer's input is multiplied by its mask (N, channels)."""
    handles = []
    for layer, mask in masks.items():

        def hook(module, args, mask=mask):
            space = (1,) * (args[0].ndim - 2)
            return (args[0] * mask.view(*mask.shape, *space), *args[1:])

        handles.append(model.get_submodule(layer).register_forward_pre_hook(hook))
    try:
        return model(x)
    finally:
        for handle in handles:
            handle.remove()


def saving(model: nn.Module, graph, alive, group: str, x: Tensor, per: str) -> float:
    """What the next unit of a group saves: both nets are built, and counted."""
    count = {"macs": count_macs, "activations": count_activations}[per]

    def cost(recipe) -> int:
        return count(apply_recipe(model, graph, recipe), x[:1])

    now = {name: [i for i, a in enumerate(units) if a] for name, units in alive.items()}
    return cost(now) - cost(now | {group: now[group][1:]})


def path(model: nn.Module, graph, task, x, y, steps: int, per: str, kind="fisher", alpha=1.0, *,
         train=True):  # fmt: skip
    """Algorithm 2 with a rate of zero and the whole set as one batch: [(group, unit, value)]."""
    model.train(train)
    alive = {g.name: [True] * g.size for g in graph.prunable}
    gone = []
    for _ in range(steps):
        values = {n: torch.tensor(a, dtype=x.dtype) for n, a in alive.items()}
        s = scores(model, graph, task, x, y, values, kind)
        candidates = []
        for group in graph.prunable:
            if sum(alive[group.name]) == 1:
                continue
            delta = saving(model, graph, alive, group.name, x, per) if per else 1
            candidates += [
                (float(s[group.name][u]) / delta**alpha, group.name, u)
                for u in range(group.size)
                if alive[group.name][u]
            ]
        value, name, unit = min(candidates)
        alive[name][unit] = False
        gone.append((name, unit, value))
    return gone
