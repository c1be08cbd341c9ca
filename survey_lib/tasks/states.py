"""The tensors of a net as a file wants them: each once, and tied again when they are read."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def distinct(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a net's state, each once, and which other names are tied to them.

    Returns:
        ``(tensors, tied)``: by name, contiguous and on the processor, no two in the same memory;
        and for each further name of one of them the name it is under.
    """
    tensors: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    names: dict[tuple, str] = {}
    memory: set[tuple] = set()
    for name, value in model.state_dict().items():
        storage = (value.device, value.untyped_storage().data_ptr())
        whole = (*storage, value.data_ptr(), value.dtype, value.shape, value.stride())
        first = names.setdefault(whole, name) if value.numel() else name
        if first != name:
            tied[name] = first
            continue
        copied = value.detach().cpu().contiguous()
        if storage in memory:  # a view into another tensor, of which a file makes two
            copied = copied.clone()
        memory.add(storage)
        tensors[name] = copied
    return tensors, tied


def fill(
    model: nn.Module, tensors: Mapping[str, Tensor], tied: Mapping[str, str] | None = None
) -> None:
    """Load a state in which each tensor stands once, and tie what was tied.

    Args:
        model: changed in place.
        tensors: by name.
        tied: further names of them, of :func:`distinct`: the net's ties are then these. None for a
            file that says nothing of ties: they stay the net's own, and a name that is absent has
            the tensor that the net ties it to.

    Raises:
        RuntimeError: the state of another net.
    """
    state = {**tensors, **{name: tensors[first] for name, first in (tied or {}).items()}}
    slots = {name: slot for name in model.state_dict() if (slot := _slot(model, name))}
    groups: dict[int, list[str]] = {}  # names of the same tensor of this net
    for name, (store, leaf) in slots.items():
        groups.setdefault(id(store[leaf]), []).append(name)
    for names in groups.values():
        given = [name for name in names if name in state]
        if given:
            state |= {name: state[given[0]] for name in names if name not in state}
        for name in given[1:]:
            if torch.equal(state[name], state[given[0]]):
                continue
            (store, leaf), (other, there) = slots[name], slots[given[0]]
            if tied is None or (store is other and leaf == there):
                raise RuntimeError(f"{given[0]} and {name} are one tensor here and two in the file")
            store[leaf] = _copy(store[leaf])
    for name, first in (tied or {}).items():
        if name in slots and first in slots:
            (store, leaf), (other, there) = slots[name], slots[first]
            store[leaf] = other[there]
    model.load_state_dict(state)


def _slot(model: nn.Module, name: str) -> tuple[dict[str, Any], str] | None:
    """Where a tensor of the state hangs: the dict of its module, and the key in it."""
    path, _, leaf = name.rpartition(".")
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return None
    stores = (module._parameters, module._buffers)
    return next(((store, leaf) for store in stores if leaf in store), None)


def _copy(old: Tensor) -> Tensor:
    new = old.detach().clone()
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
