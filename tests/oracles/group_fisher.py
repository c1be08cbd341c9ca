"""Group Fisher pruning by the letter: loops over examples and layers, masks as autograd variables.

Shares with the library only the groups (which layers read which channels) and the net itself.
"""

import torch
from torch import Tensor, nn

from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_activations
from survey_lib.mechanics.surgery import apply_recipe


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


def scores(model: nn.Module, graph, task, x: Tensor, y: Tensor, values, kind="fisher"):
    """(units,) by group: equation 4, or its rivals, by loops over examples and copies.

    Each copy of a mask is a variable (N, units) with one row for each example, so that one
    differentiation of the summed loss gives every example's own gradient.
    """
    masks = {
        (g.name, c.module): values[g.name].repeat(len(x), 1).requires_grad_()
        for g in graph.prunable
        for c in g.consumers
    }
    total = len(x) * task.loss(with_rows(model, graph, masks, x), y)
    gradients = dict(zip(masks, torch.autograd.grad(total, list(masks.values())), strict=True))
    found = {}
    for group in graph.prunable:
        s = torch.zeros(group.size, dtype=x.dtype)
        for unit in range(group.size):
            rows = [
                [float(gradients[group.name, c.module][n, unit]) for c in group.consumers]
                for n in range(len(x))
            ]
            if kind == "fisher":
                s[unit] = sum(sum(row) ** 2 for row in rows)
            elif kind == "square_first":
                s[unit] = sum(g**2 for row in rows for g in row)
            else:
                s[unit] = abs(sum(sum(row) for row in rows))
        found[group.name] = s
    return found


def with_rows(model: nn.Module, graph, masks, x: Tensor) -> Tensor:
    """Output of the net when each consumer's input is multiplied by its copy of the mask."""
    handles = []
    for group in graph.prunable:
        for consumer in group.consumers:
            mask = masks[group.name, consumer.module]

            def hook(module, args, mask=mask, at=consumer.positions):
                a = args[0]
                axis = a.ndim - 1 if isinstance(module, nn.Linear) else 1
                place = torch.zeros(mask.shape[1], a.shape[axis], dtype=a.dtype)
                for unit, positions in enumerate(at):
                    for p in positions:
                        place[unit, int(p)] = 1
                spread = 1 + (mask - 1) @ place  # (N, channels)
                shape = [a.shape[0]] + [1] * (a.ndim - 1)
                shape[axis] = -1
                return (a * spread.view(shape), *args[1:])

            handles.append(model.get_submodule(consumer.module).register_forward_pre_hook(hook))
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


def path(model: nn.Module, graph, task, x, y, steps: int, per: str, kind="fisher"):
    """Algorithm 2 with a rate of zero and the whole set as one batch: [(group, unit, value)]."""
    model.train()
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
                (float(s[group.name][u]) / delta, group.name, u)
                for u in range(group.size)
                if alive[group.name][u]
            ]
        value, name, unit = min(candidates)
        alive[name][unit] = False
        gone.append((name, unit, value))
    return gone
