"""Remove channels for real: a recipe in, a smaller net out.

A recipe is plain data, {group: kept units}; groups it doesn't name stay whole. Each tensor is
indexed once an axis, as a whole. The result gives, in eval mode, the output of the dense net with
the removed channels set to zero at the input of every consumer.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from survey_lib import files
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import CONV, NORMS, TRANSPOSED, ChannelGraph
from survey_lib.mechanics.proof import check_removal, copied, forget
from survey_lib.mechanics.sparse import StorageError
from survey_lib.tasks.modes import evaluating
from survey_lib.tasks.states import distinct, fill

Recipe = dict[str, list[int]]
FORMAT = "survey-channels-1"


class RecipeError(ValueError):
    """A recipe that doesn't fit the net; names the group and what is wrong."""


def full_recipe(graph: ChannelGraph) -> Recipe:
    """The recipe that keeps everything."""
    return {g.name: list(range(g.size)) for g in graph.prunable}


def check_recipe(graph: ChannelGraph, recipe: Mapping[str, Sequence[int]]) -> dict[str, list[int]]:
    """Sorted copy of a recipe.

    Raises:
        RecipeError: unknown or protected group, a unit that isn't there or stands twice, or a
            group of which nothing is kept.
    """
    known = {g.name: g for g in graph.groups}
    checked: Recipe = {}
    for name, kept in recipe.items():
        if name not in known:
            raise RecipeError(f"{graph.model} has no channel group {name!r}: another net's recipe?")
        group, units = known[name], sorted(int(k) for k in kept)
        if len(set(units)) != len(units) or (units and not 0 <= units[0] <= units[-1] < group.size):
            raise RecipeError(
                f"{name}: kept units must be distinct numbers below {group.size}, got {units[:9]}…"
            )
        if len(units) < min(group.least, group.size):
            least = "one" if group.least == 1 else str(group.least)
            raise RecipeError(f"{name}: at least {least} of its {group.size} units must stay")
        if group.protected and len(units) < group.size:
            raise RecipeError(f"{name} is protected ({group.protected}); keep all its units")
        checked[name] = units
    return checked


def apply_recipe(
    model: nn.Module,
    graph: ChannelGraph,
    recipe: Mapping[str, Sequence[int]],
    *,
    fold: Tensor | None = None,
    inplace: bool = False,
    check: bool = True,
) -> nn.Module:
    """A smaller net that keeps the units of ``recipe``.

    Args:
        model: the net that ``graph`` was traced from.
        graph: its groups.
        recipe: kept units by group.
        fold: an input of at least two examples. With it, removed units are taken to be silenced
            where they are made (weights and bias zero) rather than where they are read: the
            constant that each then carries through norms and activations is added to its
            consumers' biases. Exact for linear consumers and convolutions without padding.
        inplace: change ``model`` itself; its optimiser must then be made anew.
        check: the first removal from a graph is compared, on the graph's example, with the dense
            net whose readers see zeros (:mod:`survey_lib.mechanics.proof`).

    Raises:
        RecipeError: the recipe doesn't fit, or (with ``fold``) a constant other than zero meets a
            padded convolution or isn't constant, or ``fold`` is a single example.
        GraphError: the check found another output; nothing was changed.
    """
    checked = check_recipe(graph, recipe)
    removed = {n: np.setdiff1d(np.arange(graph[n].size), kept) for n, kept in checked.items()}
    removed = {n: units for n, units in removed.items() if len(units)}
    if fold is not None and len(fold) < 2:
        raise RecipeError("fold needs at least two examples: on one, everything looks constant")
    if check and removed and not graph.proved:
        check_removal(model, graph, removed, lambda twin: _smaller(twin, graph, removed, True))
        graph.proved.append(True)
    constants = _constants(model, graph, removed, fold) if fold is not None else {}
    keep = _kept_positions(model, graph, removed) if constants else {}
    small = _smaller(model, graph, removed, inplace)
    for path, shift in constants.items():
        rows = keep.get((path, "weight"), {}).get(0)
        _add_bias(small.get_submodule(path), shift if rows is None else shift[rows])
    return small


def _smaller(
    model: nn.Module, graph: ChannelGraph, removed: Mapping[str, np.ndarray], inplace: bool
) -> nn.Module:
    """The net without the removed units, as a copy or itself."""
    keep = _kept_positions(model, graph, removed)
    modules = dict(model.named_modules(remove_duplicate=False))
    fresh: dict[int, Tensor] = {}
    with torch.no_grad():
        for (path, name), axes in keep.items():
            old = getattr(modules[path], name)
            fresh[id(old)] = _indexed(old, axes)
    if inplace:
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, old in store.items():
                    if old is not None and id(old) in fresh:
                        store[name] = fresh[id(old)]  # type: ignore[assignment]
        small = model
    else:
        # deepcopy takes the indexed tensors for the old ones: weights are copied once
        small = copied(model, dict(fresh))
    for name, units in removed.items():
        for path, attribute, each in graph[name].counts:
            module = small.get_submodule(path)
            setattr(module, attribute, getattr(module, attribute) - each * len(units))
    for module in small.modules():
        _tell_sizes(module)
    forget(small)
    return small


def _kept_positions(
    model: nn.Module, graph: ChannelGraph, removed: Mapping[str, np.ndarray]
) -> dict[tuple[str, str], dict[int, Tensor]]:
    """(module, tensor) → axis → positions that stay."""
    modules = dict(model.named_modules(remove_duplicate=False))
    stays: dict[tuple[str, str], dict[int, np.ndarray]] = {}
    for name, units in removed.items():
        for s in graph[name].slices:
            axes = stays.setdefault((s.module, s.tensor), {})
            if s.axis not in axes:
                n = getattr(modules[s.module], s.tensor).shape[s.axis]
                axes[s.axis] = np.ones(n, bool)
            axes[s.axis][s.positions[units].ravel()] = False
    return {
        key: {axis: torch.from_numpy(np.flatnonzero(mask)) for axis, mask in axes.items()}
        for key, axes in stays.items()
    }


def _indexed(old: Tensor, axes: Mapping[int, Tensor]) -> Tensor:
    """The kept positions of a tensor, in its memory layout; a parameter stays one."""
    new = old.detach()
    for axis, kept in axes.items():
        if len(kept) == 0:
            raise RecipeError(f"a tensor of shape {tuple(old.shape)} would be left empty")
        new = new.index_select(axis, kept.to(old.device))
    if old.ndim == 4 and old.stride()[1::2] == (1, old.shape[1]):
        # channels last; is_contiguous cannot tell for 1 × 1 kernels and for one input channel,
        # and a depthwise net that loses its layout runs a third slower
        new = new.to(memory_format=torch.channels_last)
    if isinstance(old, nn.Parameter):
        return nn.Parameter(new, requires_grad=old.requires_grad)
    return new


def _tell_sizes(module: nn.Module) -> None:
    """Make a layer's attributes say what its tensors are."""
    if isinstance(module, NORMS):
        per_channel = (module.weight, module.bias, module.running_mean, module.running_var)
        t = next((t for t in per_channel if t is not None), None)
        if t is not None:
            module.num_features = t.shape[0]
        return
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return
    if isinstance(module, CONV):
        module.out_channels = weight.shape[0]
        module.in_channels = weight.shape[1] * module.groups
    elif isinstance(module, TRANSPOSED):
        module.in_channels = weight.shape[0]
        module.out_channels = weight.shape[1] * module.groups
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = weight.shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = weight.shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = weight.shape[1]


def _add_bias(module: nn.Module, shift: Tensor) -> None:
    if module.bias is None:
        module.bias = nn.Parameter(shift.clone())
    else:
        with torch.no_grad():
            module.bias.add_(shift)  # type: ignore[operator]


# Folding constants.


def _constants(
    model: nn.Module, graph: ChannelGraph, removed: Mapping[str, np.ndarray], example: Tensor
) -> dict[str, Tensor]:
    """What each consumer's bias gains when removed units are silenced where they are made."""
    silent: dict[str, list[int]] = {}
    reads: dict[str, tuple[list[int], str]] = {}
    for name, units in removed.items():
        for s in graph[name].slices:
            flat = s.positions[units].ravel().tolist()
            if s.tensor == "weight" and _makes(model.get_submodule(s.module), s.role):
                silent.setdefault(s.module, []).extend(flat)
            elif s.role == "in":
                reads.setdefault(s.module, ([], name))[0].extend(flat)
    values: dict[str, Tensor] = {}
    handles = []

    def mute(at: list[int]):
        def hook(module: nn.Module, _x: object, y: Tensor) -> Tensor:
            axis = y.ndim - 1 if isinstance(module, nn.Linear) else 1
            return y.index_fill(axis, torch.tensor(at, device=y.device), 0.0)

        return hook

    def read(path: str, at: list[int], group: str):
        def hook(module: nn.Module, x: tuple[Tensor, ...]) -> None:
            axis = x[0].ndim - 1 if isinstance(module, nn.Linear) else 1
            seen = x[0].movedim(axis, 0)[at].flatten(1)  # (removed, everything else)
            low, high = seen.amin(1), seen.amax(1)
            if (high - low).max() > 1e-5 * (1 + high.abs().max()):
                raise RecipeError(
                    f"{path}: the silenced units of {group} carry no constant; prune without fold"
                )
            values[path] = (low + high) / 2

        return hook

    try:
        for path, at in silent.items():
            handles.append(model.get_submodule(path).register_forward_hook(mute(at)))
        for path, (at, group) in reads.items():
            module = model.get_submodule(path)
            handles.append(module.register_forward_pre_hook(read(path, at, group)))
        with evaluating(model), torch.no_grad():
            model(example)
    finally:
        for handle in handles:
            handle.remove()
    return {
        path: _shift(path, model.get_submodule(path), reads[path][0], value)
        for path, value in values.items()
        if value.abs().max() > 0
    }


def _makes(module: nn.Module, role: str) -> bool:
    """Whether a layer's output is where its channels are silenced."""
    return role == "out" or (role == "through" and isinstance(module, CONV))


def _shift(path: str, module: nn.Module, at: list[int], value: Tensor) -> Tensor:
    """W[:, removed] summed over the kernel, times the constants."""
    if isinstance(module, TRANSPOSED) or (
        isinstance(module, CONV) and any(p != 0 for p in _numbers(module.padding))
    ):
        raise RecipeError(
            f"{path}: a constant cannot be folded into a padded convolution exactly, because its "
            "border sees zeros; prune without fold"
        )
    weight: Tensor = module.weight  # type: ignore[assignment]
    return (
        weight.detach()[:, at].flatten(2).sum(2) @ value
        if weight.ndim > 2
        else (weight.detach()[:, at] @ value)
    )


def _numbers(padding: object) -> tuple:
    return padding if isinstance(padding, tuple) else (padding,)


# Files: a recipe as JSON and weights as safetensors, in one folder; nothing by pickle.


def save_compressed(
    model: nn.Module,
    graph: ChannelGraph,
    recipe: Mapping[str, Sequence[int]],
    folder: Path,
    *,
    constructor: str = "",
) -> int:
    """Write ``recipe.json`` and ``weights.safetensors``; returns the bytes of the weights' file.

    A tensor that layers share is written once; :func:`load_compressed` ties it again.

    Args:
        model: the small net, as :func:`apply_recipe` gave it (trained on or not).
        graph: groups of the dense net.
        recipe: what was kept.
        folder: made if absent.
        constructor: how to build the dense net, for the reader of the file.
    """
    checked = check_recipe(graph, recipe)
    tensors, tied = distinct(model)
    weights = save(tensors)
    about = {
        "format": FORMAT,
        "constructor": constructor,
        "model": graph.model,
        "sizes": {g.name: g.size for g in graph.groups},
        "recipe": checked,
        "tied": tied,
        "sha256": files.sha256(weights),
    }
    files.write_atomic(folder / "weights.safetensors", weights)
    files.write_atomic(folder / "recipe.json", json.dumps(about, indent=1) + "\n")
    return len(weights)


def read_recipe(folder: Path) -> dict:
    """The contents of ``recipe.json``; raises StorageError for an absent or damaged file."""
    path = folder / "recipe.json"
    if not path.exists():
        raise StorageError(f"{path}: no such file")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, or nested too deeply
        raise StorageError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise StorageError(f"{path}: not written by save_compressed")
    return about


def load_compressed(folder: Path, dense: nn.Module, example: Tensor) -> nn.Module:
    """Rebuild a small net from the dense net its constructor gives.

    Args:
        folder: written by :func:`save_compressed`.
        dense: the dense net, freshly built; left as it is.
        example: an input.

    Raises:
        StorageError: a file is absent or damaged, or belongs to another net.
    """
    about = read_recipe(folder)
    path = folder / "weights.safetensors"
    if not path.exists():
        raise StorageError(f"{path}: no such file")
    if files.sha256(path) != about["sha256"]:
        raise StorageError(f"{path}: damaged, or not the file that recipe.json describes")
    graph = trace_groups(dense, example)
    sizes = {g.name: g.size for g in graph.groups}
    if sizes != about["sizes"]:
        name = next(iter(sorted(set(sizes.items()) ^ set(about["sizes"].items()))))[0]
        raise StorageError(
            f"{folder}: the recipe of another net: group {name!r} of {about['model']} does not "
            f"match this {graph.model}"
        )
    small = apply_recipe(dense, graph, about["recipe"])
    try:
        state = load_file(path)
        for name, value in state.items():  # biases that folding added
            owner, _, leaf = name.rpartition(".")
            if leaf == "bias" and small.get_submodule(owner).bias is None:
                small.get_submodule(owner).bias = nn.Parameter(value)
        fill(small, state, about.get("tied", {}))
    except (SafetensorError, RuntimeError, AttributeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise StorageError(f"{path}: belongs to another net: {reason}") from None
    return small.eval()
