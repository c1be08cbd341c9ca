"""Take dead units out of a net, exactly or not at all.

A unit is *silent* when all weights that make it are zero: what leaves it is a constant, its bias
behind the activation. It is *unread* when all weights that read it are zero. Unread units go. So do
silent ones whose constant is zero; another constant is added to the biases of the layers that read
it, where these see it everywhere. A padded convolution does not: its border sees zeros, and the
constant becomes a map. There one silent unit stays for all: what the others' constants would give
is added, in proportion, to the weights that read it. What goes may kill others, so the search is
repeated. (After the idea of simplification by Bragagnolo et al. 2022, ``bragagnolo2022simplify``,
who store the map; units that nobody reads are ours.)
"""

import copy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import CONV, ChannelGroup
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.modes import evaluating


@dataclass
class Simplified:
    """A net without its dead units."""

    model: nn.Module
    """The smaller net, in eval mode; the one that was given is untouched."""
    removed: dict[str, int] = field(default_factory=dict)
    """Units taken out, by group."""
    merged: dict[str, int] = field(default_factory=dict)
    """Of these, how many live on as the constant of one that stays, by group."""
    refused: dict[str, str] = field(default_factory=dict)
    """Groups whose dead units stay, and why."""


@torch.no_grad()
def simplified(model: nn.Module, example: Tensor) -> Simplified:
    """A copy of ``model`` without dead units: the same outputs, to rounding, in eval mode.

    Args:
        model: the net; what is exactly zero in it counts.
        example: inputs (batch first), on which constants are read.

    Raises:
        GraphError: the net cannot be followed.
    """
    result = Simplified(copy.deepcopy(model).eval())
    while True:
        graph = trace_groups(result.model, example)
        recipe, before = {}, sum(result.removed.values())
        for group in graph.prunable:
            if reason := _unfollowed(result.model, group):
                result.refused[group.name] = reason
                continue
            gone = _dead(result.model, group, example, result)
            if gone:
                recipe[group.name] = [u for u in range(group.size) if u not in gone]
                result.removed[group.name] = result.removed.get(group.name, 0) + len(gone)
        if sum(result.removed.values()) == before:
            return result
        result.model = apply_recipe(result.model, graph, recipe, check=False).eval()


def _unfollowed(model: nn.Module, group: ChannelGroup) -> str:
    """Why the constants of a group are not followed; empty where they are."""
    for s in group.slices:
        module = model.get_submodule(s.module)
        plain = isinstance(module, (*CONV, nn.Linear)) and getattr(module, "groups", 1) == 1
        if s.role == "through" or not plain or s.tensor not in ("weight", "bias"):
            return f"{s.module or type(model).__name__} carries its channels along"
    return "" if group.consumers else "no layer reads it"


def _dead(model: nn.Module, group: ChannelGroup, example: Tensor, result: Simplified) -> set[int]:
    """Units of a group that can go; what they give is then with those that read them."""

    def zero(role: str) -> Tensor:  # (units,) whether all weights of that role are zero
        found = torch.ones(group.size, dtype=torch.bool, device="cpu")
        for s in group.slices:
            if s.role == role and s.tensor == "weight":
                w = _weight(model, s.module)
                at = torch.from_numpy(s.positions).to(w.device)  # (units, positions of each)
                found &= (w.movedim(s.axis, 0)[at] == 0).flatten(1).all(1).cpu()
        return found

    readers = {s.module: torch.from_numpy(s.positions) for s in group.consumers}
    unread, silent = zero("in"), zero("out")
    idle = unread.nonzero().flatten().tolist()
    units = (silent & ~unread).nonzero().flatten().tolist()
    v = _constants(model, readers, example) if units else {}
    quiet = [u for u in units if all((c[u] == 0).all() for c in v.values())]
    loud = [u for u in units if u not in quiet and all(c[u].isfinite().all() for c in v.values())]
    stays = None  # the unit that gives the constants of all
    if any(_padded(model.get_submodule(path)) for path in readers):
        fit = [u for u in loud if all((c[u] != 0).all() for c in v.values())]
        stays = max(
            fit, key=lambda u: min(float(c[u].abs().min()) for c in v.values()), default=None
        )
        loud = [u for u in loud if u != stays] if stays is not None else []
    # a layer cannot be empty
    most = group.size - min(group.least, group.size)
    gone = [*loud, *quiet, *idle][:most]
    moved = [u for u in loud if u in gone]
    for path, at in readers.items() if moved else ():
        module, w = model.get_submodule(path), _weight(model, path)
        for u in moved:
            if stays is not None:
                ratio = (v[path][u] / v[path][stays]).view(-1, *[1] * (w.ndim - 2))
                w[:, at[stays]] += w[:, at[u]] * ratio  # (rows, positions, kernel …)
            else:
                _add_bias(
                    module, w[:, at[u]].flatten(2).sum(2) if w.ndim > 2 else w[:, at[u]], v[path][u]
                )
    if stays is not None and moved:
        result.merged[group.name] = result.merged.get(group.name, 0) + len(moved)
    return set(gone)


def _weight(model: nn.Module, path: str) -> Tensor:
    return model.get_submodule(path).weight.data  # type: ignore[union-attr]


def _padded(module: nn.Module) -> bool:
    """Whether a constant input channel gives a map; of a string such as ``same`` it may."""
    padding = getattr(module, "padding", 0)
    return any(padding) if isinstance(padding, tuple) else bool(padding) and padding != "valid"


def _add_bias(module: nn.Module, w: Tensor, value: Tensor) -> None:
    if module.bias is None:
        module.bias = nn.Parameter(w @ value)
    else:
        module.bias.data += w @ value  # type: ignore[operator]


def _constants(model: nn.Module, readers: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """By reader: (units, positions of each) what it reads of them; nan where that varies."""
    found: dict[str, Tensor] = {}

    def read(path: str, at: Tensor):
        def hook(module: nn.Module, x: tuple[Tensor, ...]) -> None:
            axis = -1 if isinstance(module, nn.Linear) else 1
            seen = x[0].movedim(axis, 0).flatten(1)  # (channels, everything else)
            value = seen[:, 0].where(seen.amin(1) == seen.amax(1), torch.nan)[at]
            twice = path in found and not torch.equal(found[path], value)
            found[path] = value * torch.nan if twice else value

        return hook

    handles = [
        model.get_submodule(p).register_forward_pre_hook(read(p, at)) for p, at in readers.items()
    ]
    try:
        with evaluating(model):
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return found
