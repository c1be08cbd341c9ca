"""Which channels belong together: a net runs once, and every channel is followed through it.

The net's own forward runs on the example, in eval mode, while every operator of torch goes through
the table of rules (:mod:`survey_lib.mechanics.rules`). What carries channels has a shape and no
contents, so the run is cheap; everything else is computed, so control flow, keywords, optional
arguments and index tensors are what they really are. :mod:`survey_lib.mechanics.grouping` makes
groups of what was noted.

A unit of a grouped convolution is one whole group of it, all inputs and all outputs, as in Liu et
al. (2021): then any set of units can go. Depthwise convolution is the case of one channel a group.
With ``grouped="share"`` a unit is the same place of every group, and the groups stay.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from survey_lib.mechanics.grouping import grouped_units
from survey_lib.mechanics.groups import CONV, NORMS, TRANSPOSED, ChannelGraph, GraphError
from survey_lib.mechanics.labels import NO_LABELS, Extent, Labelling, is_meta
from survey_lib.mechanics.proof import forget, tensors_of
from survey_lib.mechanics.rules.call import (
    Call,
    Rule,
    apply,
    numbers_only,
    shapes_only,
    unknown,
)
from survey_lib.mechanics.rules.table import ALWAYS, RULES
from survey_lib.tasks.modes import evaluating

Example = Tensor | tuple | Mapping[str, Any]
GROUPED = ("whole", "share")
# What may be asked of a tensor without touching its channels.
ASKING = frozenset(
    [
        "dim",
        "ndim",
        "device",
        "dtype",
        "layout",
        "is_cuda",
        "is_cpu",
        "is_meta",
        "is_sparse",
        "is_quantized",
        "is_mkldnn",
        "is_mps",
        "is_xla",
        "is_xpu",
        "is_leaf",
        "requires_grad",
        "grad_fn",
        "grad",
        "stride",
        "storage_offset",
        "is_contiguous",
        "element_size",
        "itemsize",
        "is_floating_point",
        "is_complex",
        "get_device",
        "names",
        "retains_grad",
        "is_nested",
        "is_inference",
        "is_same_size",
        "output_nr",
        "version",
        "hash",
        "repr",
        "str",
        "format",
        "requires_grad_",
        "register_hook",
        "is_tensor",
        "is_storage",
        "result_type",
        "can_cast",
        "backward_hooks",
        "base",
        "set_grad_enabled",
    ]
)
TRUTH = frozenset(("bool", "int", "float", "index", "complex", "contains", "array"))
IN_PLACE = frozenset(
    ("iadd", "isub", "imul", "idiv", "itruediv", "ifloordiv", "imod", "ipow", "iand", "ior", "ixor")
)


def trace_groups(
    model: nn.Module,
    example: Example,
    *,
    rules: Mapping[Any, Rule] | None = None,
    grouped: str = "whole",
) -> ChannelGraph:
    """Find every group of channels of ``model``, by one forward pass on shapes.

    Args:
        model: any net; left as it is.
        example: an input (batch first), a tuple of inputs, or a dict of inputs by keyword.
        rules: what to do at layers or functions of your own: a class of module, or a function of
            torch → rule (see :mod:`survey_lib.mechanics.rules.own`: ``follow``, ``pin``, ``tie``).
        grouped: what a unit of a grouped convolution is: ``whole`` groups, or an equal ``share``
            of every group, which keeps their number.

    Raises:
        GraphError: a net that must be unwrapped first, control flow that depends on data, an
            operator that fails, or modules with parameters that the forward pass never reaches;
            each names path and remedy.
        ValueError: another value of ``grouped``.
    """
    if grouped not in GROUPED:
        raise ValueError(f"grouped must be one of {', '.join(GROUPED)}, got {grouped!r}")
    args, kwargs = _inputs(example)
    _whole_net(model)
    first = next((t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)), None)
    if first is None or first.ndim == 0 or 0 in first.shape:
        raise GraphError(f"{type(model).__name__}: the example must be a batch of at least one")
    net = Labelling(model, len(first))
    for path, module in net.paths:
        _plain_layer(path or type(model).__name__, module)
    net.grouped = grouped
    users = dict(rules or {})
    with (
        torch.no_grad(),
        evaluating(model),
        torch.random.fork_rng(devices=[]),
        _restored(net),
        _followed(net, users),
    ):
        output = _run(net, model, args, kwargs, users)
    for t in tensors_of(output):
        net.pin(net.of(t), "output of the net")
    _all_reached(net)
    return grouped_units(net, (args, kwargs))


def _inputs(example: Example) -> tuple[tuple, dict[str, Any]]:
    """Positional and keyword inputs of an example, copied."""

    def copied(t: Any) -> Any:
        return t.detach().clone() if isinstance(t, Tensor) else t

    if isinstance(example, Tensor):
        return (copied(example),), {}
    if isinstance(example, Mapping):
        return (), {k: tree_map(copied, v) for k, v in example.items()}
    if isinstance(example, (tuple, list)):
        return tuple(tree_map(copied, v) for v in example), {}
    raise GraphError(
        f"the example is a {type(example).__name__}; give a tensor, a tuple of inputs, or a dict "
        "of inputs by keyword"
    )


def _whole_net(model: nn.Module) -> None:
    """Refuse nets that are wrapped."""
    name = type(model).__name__
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise GraphError(f"{name} wraps a net; pass its .module")
    if isinstance(model, torch.optim.swa_utils.AveragedModel):
        raise GraphError(f"{name} wraps a net; pass its .module")
    if hasattr(model, "_orig_mod"):
        raise GraphError(f"{name} is a compiled net; pass its ._orig_mod, and compile what is left")


def _plain_layer(where: str, module: nn.Module) -> None:
    """Refuse layers without weights, or whose weight is made by a hook."""
    if isinstance(module, torch.jit.ScriptModule):
        raise GraphError(f"{where} is scripted; pass the net as it was before torch.jit.script")
    if "parametrizations" in module._modules:
        raise GraphError(
            f"{where}: its weight is computed from others; call "
            "torch.nn.utils.parametrize.remove_parametrizations first"
        )
    for key, p in module._parameters.items():
        if isinstance(p, (UninitializedParameter, UninitializedBuffer)):
            raise GraphError(
                f"{where} is lazy and has no weights yet; run the net once on an example first"
            )
        base, _, kind = key.rpartition("_")
        if base and kind in ("orig", "g") and (base in module.__dict__ or base in module._buffers):
            call = "prune.remove"
            if kind == "g":
                call = "remove_weight_norm"
            elif f"{base}_u" in module._buffers:
                call = "remove_spectral_norm"
            raise GraphError(
                f"{where}: its {base} is computed by a hook; call torch.nn.utils.{call} first"
            )


@contextmanager
def _restored(net: Labelling) -> Iterator[None]:
    """What a forward pass leaves in modules is taken back."""
    before = [(m, dict(m.__dict__), dict(m._buffers), dict(m._parameters)) for _, m in net.paths]
    try:
        forget(net.model)
        yield
    finally:
        for m, attributes, buffers, parameters in before:
            m.__dict__.clear()
            m.__dict__.update(attributes)
            m._buffers.clear()
            m._buffers.update(buffers)
            m._parameters.clear()
            m._parameters.update(parameters)


@contextmanager
def _followed(net: Labelling, users: Mapping[Any, Rule]) -> Iterator[None]:
    """Module by module: where the pass is, and integers that remember whose attribute they are."""
    names = {id(m): path for path, m in net.paths}
    for path, module in net.paths:
        theirs = type(module).__module__.startswith("torch.nn.")
        says = next((names for kind, names in SIZES.items() if isinstance(module, kind)), {})
        for key, value in module.__dict__.items():
            if type(value) is int and value > 1 and (key in says or not (theirs or key[0] == "_")):
                tag = frozenset(((path, says.get(key, key)),))
                module.__dict__[key] = Extent(value, net, NO_LABELS, tag, exact=True)
        if type(module) in users:
            module.forward = _ruled(net, module.forward, users[type(module)])

    def enter(module: nn.Module, _args: Any) -> None:
        if id(module) in names:
            net.stack.append(names[id(module)])

    def leave(module: nn.Module, _args: Any, _out: Any) -> None:
        if id(module) in names and net.stack:
            net.stack.pop()

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _ruled(net: Labelling, forward: Callable, rule: Rule) -> Callable:
    """A module's forward under a rule of the user's."""

    def ruled(*args: Any, **kwargs: Any) -> Any:
        module = net.modules[net.stack[-1]]
        with torch._C.DisableTorchFunction():
            for t in (*module.parameters(), *module.buffers()):
                net.touched.add(id(t))
            call = Call(net, _on_zeros(net, forward), type(module).__name__, args, kwargs)
            if not any(net.of(t) for t in call.tensors):
                return call.give(call.run(), None)
            return apply(call, rule)

    return ruled


def _on_zeros(net: Labelling, forward: Callable) -> Callable:
    """A forward that is given zeros for shapes: a kernel of the user's may know no shapes."""
    device = next(iter(net.tensors.values())).device if net.tensors else torch.device("cpu")

    def zeros(t: Any) -> Any:
        return torch.zeros(t.shape, dtype=t.dtype, device=device) if is_meta(t) else t

    def run(*args: Any, **kwargs: Any) -> Any:
        out = forward(*tree_map(zeros, args), **tree_map(zeros, kwargs))
        return shapes_only(out) if any(map(is_meta, tree_leaves((args, kwargs)))) else out

    return run


class _Tracing(TorchFunctionMode):
    """Sends every operator of torch through the table."""

    def __init__(self, net: Labelling, users: Mapping[Any, Rule], device: torch.device):
        super().__init__()
        self.net, self.users, self.device = net, users, device

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, in_place = _name(func)
        if name == "device" and is_meta(args[0]):
            return self.device
        if name in ("shape", "size", "numel", "nelement", "len"):
            return self.size(func, name, args, kwargs)
        if name in ASKING:
            return func(*args, **kwargs)
        net = self.net
        call = Call(net, func, name, args, kwargs)
        call.in_place = in_place
        for t in call.tensors:
            net.touched.add(id(t))
            if is_meta(t) and id(t) not in net.known and id(t) not in net.owners:
                raise net.refuse(
                    f"{name} reads a tensor of unseen origin (made by compiled or scripted code)",
                    "give trace_groups a rule for the module that makes it",
                )
        rule = self.users.get(func) or RULES.get(name)
        carries = any(id(t) in net.labels for t in call.tensors)
        if rule is not None and (carries or call.sizes or name in ALWAYS):
            return apply(call, rule)
        if rule is None and (carries or any(id(t) in net.owners for t in call.tensors)):
            return unknown(call)
        if rule is not None and any(
            id(t) in net.owners or id(t) in net.elements for t in call.tensors
        ):
            return apply(call, rule)
        for size in call.sizes:
            net.use(size, f"{call.where()} computes with their number")
        return call.give(call.run(), None) if call.tensors else func(*args, **kwargs)

    def size(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        """Sizes, of which that of the channel axis remembers its labels."""
        net, x = self.net, args[0]
        labels = net.of(x)
        if labels is None:
            return self.size_of_weight(x, name, args, kwargs) if net.owner(x) else func(
                *numbers_only(args), **kwargs
            )  # fmt: skip
        own = Extent(len(labels.ids), net, labels.ids, frozenset(), exact=True)
        if name == "len":
            if labels.axis == 0:
                net.pin(labels, f"{net.where()} computes with their number")
            return len(x)
        if name in ("numel", "nelement"):
            return own * (x.numel() // max(1, len(labels.ids)))
        sizes = torch.Size([own if d == labels.axis else n for d, n in enumerate(x.shape)])
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return sizes if dim is None else sizes[int.__index__(dim)]

    def size_of_weight(self, t: Tensor, name: str, args: tuple, kwargs: dict) -> Any:
        """Sizes of a parameter or buffer, which remember their axis."""
        path, tensor = self.net.owner(t) or ("", "")
        axes = [
            Extent(n, self.net, NO_LABELS, frozenset(((path, f"{tensor}:{d}"),)), exact=True)
            for d, n in enumerate(t.shape)
        ]
        if name == "len":
            self.net.spoil(axes[0], f"{self.net.where()} computes with it")
            return len(t)
        if name in ("numel", "nelement"):
            return math.prod(axes[1:], start=axes[0]) if axes else 1
        sizes = torch.Size(axes)
        dim = args[1] if len(args) > 1 else kwargs.get("dim")
        return sizes if dim is None else sizes[int.__index__(dim)]


# What torch's layers say of their own tensors: attribute → tensor and axis.
SIZES: dict[Any, dict[str, str]] = {
    CONV: {"out_channels": "weight:0"},
    TRANSPOSED: {"in_channels": "weight:0"},
    nn.Linear: {"out_features": "weight:0", "in_features": "weight:1"},
    nn.Embedding: {"embedding_dim": "weight:1"},
    NORMS: {"num_features": "num_features"},
}


def _name(func: Any) -> tuple[str, bool]:
    """Short name of an operator, and whether it works in place."""
    name = getattr(func, "__name__", "") or str(func)
    owner = getattr(func, "__self__", None)
    if name == "__get__":
        return getattr(owner, "__name__", ""), False
    if name == "__set__":
        return "setitem", True
    if name.startswith("__") and name.endswith("__"):
        name = name.strip("_")
        return ("truth" if name in TRUTH else name), name in IN_PLACE
    if hasattr(func, "_schema"):  # torch.ops
        name = func._schema.name.rpartition("::")[2]
    in_place = name.endswith("_") and not name.startswith("_")
    return name.strip("_"), in_place


def _run(net: Labelling, model: nn.Module, args: tuple, kwargs: dict, users: Mapping) -> Any:
    device = next(t.device for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor))
    for t in (*tree_leaves((args, kwargs)), *model.parameters(), *model.buffers()):
        if is_meta(t):
            net.known[id(t)] = t
    try:
        with _Tracing(net, users, device):
            return model(*args, **kwargs)
    except GraphError:
        raise
    except Exception as error:
        why = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise GraphError(f"{net.where()}: fails on the example: {why}") from None


def _all_reached(net: Labelling) -> None:
    unreached = [
        path
        for path, module in net.paths
        for p in module._parameters.values()
        if p is not None and id(p) not in net.touched and id(p) not in net.beside
    ]
    if unreached:
        names = ", ".join(dict.fromkeys(p or "the net itself" for p in unreached))
        raise GraphError(
            f"{type(net.model).__name__}: the forward pass never reaches {names}; build the net "
            "without them (e.g. aux_logits=False) or remove them"
        )
