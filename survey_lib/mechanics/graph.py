"""Which channels belong together: a net is traced once, and every channel is followed through it.

Every tensor of the traced net has at most one *channel axis*; along it each position carries a
label. A convolution or linear layer gives its outputs fresh labels and reads the labels of its
inputs. Everything between passes labels on, joins two that are added or multiplied, moves them
(concatenation, flattening), or pins them (a norm over the channels, the net's output). Labels
that were joined form one *unit*: channels that can only be removed together. Units that live in
the same layers in the same way form a :class:`ChannelGroup`.

A unit of a grouped convolution is one whole group of it, all inputs and all outputs, as in Liu et
al. (2021): then any set of units can go. Depthwise convolution is the case of one channel a group.
"""

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError

from survey_lib.mechanics.blocks import declared_groups
from survey_lib.mechanics.groups import (
    BATCH_NORM,
    CONV,
    TRANSPOSED,
    ChannelGraph,
    ChannelGroup,
    GraphError,
    Layer,
    Slice,
    parameter_shapes,
    repeated_parameters,
)

NOTHING = -1  # label of a position that no unit of the net may claim, e.g. a channel of the input


@dataclass(frozen=True)
class Labels:
    """Labels along the channel axis of a tensor."""

    axis: int
    ids: np.ndarray
    """int64, as long as the axis."""


CHANNEL_NORM = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
POOL = (
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.LPPool2d,
    nn.Upsample, nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d,
)  # fmt: skip
ELEMENTWISE = (
    nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish,
    nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d,
)  # fmt: skip
# Functions and methods by name; in-place names lose their underscore first.
POINTWISE = {
    "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "sigmoid",
    "tanh", "softplus", "hardswish", "hardsigmoid", "hardtanh", "dropout", "dropout2d", "clamp",
    "neg", "abs", "exp", "sqrt", "pow", "contiguous", "clone", "float", "to", "type_as", "detach",
    "add", "iadd", "sub", "isub", "mul", "imul", "multiply", "div", "truediv", "itruediv",
    "stochastic_depth", "maximum", "minimum", "rsub",
}  # fmt: skip
POOLING = {
    "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool2d", "max_pool2d", "interpolate",
    "adaptive_avg_pool1d", "avg_pool1d", "max_pool1d",
}  # fmt: skip
SHAPING = {
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "getitem",
    "movedim", "unflatten",
}  # fmt: skip
SPLITTING = {"chunk", "split", "unbind", "tensor_split"}
REDUCING = {"mean", "sum", "amax", "amin", "std", "var", "norm"}
NORMALISING = {"layer_norm", "group_norm", "rms_norm", "softmax", "log_softmax", "normalize"}
ASKING = {"size", "getattr", "dim", "numel", "eq", "ne", "_assert", "len", "floordiv", "stride"}
WORD = {"mul": "scaled", "imul": "scaled", "multiply": "scaled", "div": "scaled"}


def trace_groups(model: nn.Module, example: Tensor) -> ChannelGraph:
    """Find every group of channels of ``model``, by one symbolic trace and one forward pass.

    The pass runs on shapes alone, so its time does not grow with the image. Blocks that don't
    trace (attention) are looked up in :mod:`survey_lib.mechanics.blocks` instead: a net that has
    any is described by those declarations alone.

    Args:
        model: any net of the supported operators; left as it is.
        example: an input (batch first); only the shape and type of its first element matter.

    Raises:
        GraphError: control flow that depends on data, an operator that isn't known, or modules
            with parameters that the forward pass never reaches; each names path and remedy.
    """
    declared = declared_groups(model, example)
    if declared is not None:
        return declared
    skeleton = _without_contents(model)
    graph = _symbolic(skeleton)
    with torch.no_grad():
        walk = _Walk(skeleton, graph)
        walk.run(torch.empty_like(example[:1], device="meta"))
    _all_reached(skeleton, walk)
    return walk.result()


def _without_contents(model: nn.Module) -> nn.Module:
    """A copy in eval mode whose tensors have shapes and nothing else (torch's meta device)."""
    empty: dict[int, Any] = {}
    for p in model.parameters():
        empty[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad)
    for b in model.buffers():
        empty[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(model, empty).eval()


class _Tracer(fx.Tracer):
    """Stops at torch's own layers and remembers where it is, for the error message."""

    path = ""

    def call_module(self, m: nn.Module, forward: Callable, args: tuple, kwargs: dict) -> Any:
        before, self.path = self.path, self.path_of_module(m)
        result = super().call_module(m, forward, args, kwargs)
        self.path = before
        return result


def _symbolic(model: nn.Module) -> fx.Graph:
    tracer = _Tracer()
    try:
        return tracer.trace(model)
    except (TraceError, TypeError, RuntimeError, NameError, AttributeError, ValueError) as error:
        where = tracer.path or type(model).__name__
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GraphError(
            f"{where}: its forward cannot be traced ({why}); take control flow that depends on "
            "data out of forward, or declare the block in survey_lib/mechanics/blocks.py"
        ) from None


def _all_reached(model: nn.Module, walk: "_Walk") -> None:
    unreached = [
        path
        for path, module in model.named_modules()
        for name, _ in module.named_parameters(recurse=False)
        if (path, name) not in walk.touched
    ]
    if unreached:
        names = ", ".join(dict.fromkeys(p or "the net itself" for p in unreached))
        raise GraphError(
            f"{type(model).__name__}: the forward pass never reaches {names}; build the net "
            "without them (e.g. aux_logits=False) or remove them"
        )


class _Walk(fx.Interpreter):
    """Runs the trace on tensors without contents and carries labels beside them."""

    def __init__(self, model: nn.Module, graph: fx.Graph):
        super().__init__(model, graph=graph, garbage_collect_values=False)
        self.extra_traceback = False  # our errors are one sentence
        self.model = model
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.labels: dict[fx.Node, Any] = {}
        self.n_labels = 0
        self.touched: set[tuple[str, str]] = set()
        # (module, tensor, axis) → role and labels along the axis
        self.slices: dict[tuple[str, str, int], tuple[str, np.ndarray]] = {}
        # (tensor, axis) → where it was met first, for a tensor that two modules share
        self.owner: dict[tuple[int, int], tuple[str, str, int]] = {}
        self.edges: list[tuple[np.ndarray, np.ndarray, str]] = []
        self.pins: list[tuple[np.ndarray, str]] = []
        self.layers: dict[str, tuple[int, int]] = {}  # module → (positions, axis of rows)
        self.node: fx.Node | None = None

    # Layers that keep the shape are not run; tensors that torch.fx kept as constants lose theirs.

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> Any:
        module = self.modules[str(target)]
        if isinstance(module, BATCH_NORM) and args[0].shape[1] != module.num_features:
            raise ValueError(f"{args[0].shape[1]} channels meet a norm of {module.num_features}")
        same_shape = isinstance(module, (*ELEMENTWISE, *BATCH_NORM, nn.PReLU))
        return args[0] if same_shape else module(*args, **kwargs)

    def get_attr(self, target: Any, args: tuple, kwargs: dict) -> Any:
        value = self.fetch_attr(str(target))
        return torch.empty_like(value, device="meta") if isinstance(value, Tensor) else value

    # What the handlers below are made of.

    def fresh(self, n: int) -> np.ndarray:
        self.n_labels += n
        return np.arange(self.n_labels - n, self.n_labels)

    def tie(self, a: np.ndarray, b: np.ndarray, why: str) -> None:
        """Join labels pairwise; one that meets NOTHING is pinned."""
        for one, other in ((a, b), (b, a)):
            lone = one[(other == NOTHING) & (one != NOTHING)]
            if len(lone):
                self.pin(lone, f"{why} with a tensor that carries no channels of the net")
        both = (a != NOTHING) & (b != NOTHING) & (a != b)
        if both.any():
            self.edges.append((a[both], b[both], why))

    def pin(self, labels: Labels | np.ndarray | None, why: str) -> None:
        ids = labels.ids if isinstance(labels, Labels) else labels
        if ids is not None and (ids != NOTHING).any():
            self.pins.append((ids[ids != NOTHING], why))

    def carry(self, path: str, tensor: str, axis: int, role: str, ids: np.ndarray) -> np.ndarray:
        """Note that an axis carries labels; those of a tensor that serves twice are joined."""
        self.touched.add((path, tensor))
        known = self.slices.setdefault((path, tensor, axis), (role, ids))[1]
        first = self.owner.setdefault(
            (id(getattr(self.modules[path], tensor)), axis), (path, tensor, axis)
        )
        for other in (known, self.slices[first][1]):
            if other is not ids:
                self.tie(other, ids, f"shared: {path} serves more than once")
        return known

    def where(self) -> str:
        """Path of the module whose forward is being followed."""
        node = self.node
        if node is None:
            return ""
        if node.op == "call_module":
            return str(node.target)
        stack = node.meta.get("nn_module_stack") or {}
        path = next(reversed(stack.values()))[0] if stack else ""
        return path or type(self.model).__name__

    def fail(self, op: str, remedy: str) -> GraphError:
        return GraphError(f"{self.where()}: {op} is not supported on channels; {remedy}")

    # One node after the other.

    def run_node(self, n: fx.Node) -> Any:
        self.node = n
        try:
            result = super().run_node(n)
        except GraphError:
            raise
        except Exception as error:
            why = str(error).strip().splitlines()[0]
            raise GraphError(f"{self.where()}: {n.target} fails on the example: {why}") from None
        handler = getattr(self, f"on_{n.op}")
        self.labels[n] = handler(n, result)
        return result

    def on_placeholder(self, n: fx.Node, result: Any) -> None:
        return None

    def on_output(self, n: fx.Node, result: Any) -> None:
        for node in n.all_input_nodes:
            for labels in _flat(self.labels[node]):
                self.pin(labels, "output of the net")

    def on_get_attr(self, n: fx.Node, result: Any) -> None:
        path, _, name = str(n.target).rpartition(".")
        self.touched.add((path, name))
        return None

    def on_call_module(self, n: fx.Node, result: Any) -> Any:
        path = str(n.target)
        module = self.modules[path]
        self.touched |= {(path, name) for name, p in module._parameters.items() if p is not None}
        x = self.labels[n.args[0]] if n.args and isinstance(n.args[0], fx.Node) else None
        if isinstance(module, CONV):
            return self.conv(path, module, x, result)
        if isinstance(module, TRANSPOSED):
            return self.transposed(path, module, x, result)
        if isinstance(module, nn.Linear):
            return self.linear(path, module, x, result)
        if isinstance(module, nn.Embedding):
            ids = self.carry(path, "weight", 1, "out", self.fresh(module.embedding_dim))
            return Labels(result.ndim - 1, ids)
        if isinstance(module, BATCH_NORM) or (
            isinstance(module, nn.PReLU) and module.num_parameters > 1
        ):
            return self.along(path, module, x)
        if isinstance(module, (*ELEMENTWISE, nn.PReLU)):
            return x
        if x is None and not any(True for _ in module.parameters()):
            return None
        if isinstance(module, nn.Flatten):
            return self.shape_by(lambda t: module(t), n, x, result)
        if isinstance(module, POOL):
            return self.pooled(x, type(module).__name__)
        if isinstance(module, CHANNEL_NORM) or (
            isinstance(module, nn.Softmax) and x is not None and _axis(module.dim, result) == x.axis
        ):
            self.pin(x, f"normalised by {type(module).__name__} {path}")
            return x
        if isinstance(module, nn.Softmax):
            return x
        raise self.fail(
            f"the layer {type(module).__name__}",
            "replace it, or declare the block in survey_lib/mechanics/blocks.py",
        )

    def on_call_function(self, n: fx.Node, result: Any) -> Any:
        return self.operator(n, getattr(n.target, "__name__", str(n.target)), result)

    def on_call_method(self, n: fx.Node, result: Any) -> Any:
        return self.operator(n, str(n.target), result)

    def operator(self, n: fx.Node, name: str, result: Any) -> Any:
        name = name.removesuffix("_") if not name.startswith("_") else name
        inputs = n.all_input_nodes
        labelled = [i for i in inputs if any(True for _ in _flat(self.labels[i]))]
        if name in POINTWISE:
            return self.pointwise(n, name, result)
        if not labelled or name in ASKING or not _has_tensor(result):
            return None
        first = n.args[0] if n.args else n.kwargs.get("input")
        x = self.labels[first] if isinstance(first, fx.Node) else None
        if name == "getitem" and isinstance(x, tuple):
            return x[n.args[1]]  # type: ignore[index]
        if name in ("cat", "concat", "concatenate"):
            return self.concatenate(n, result)
        if name in POOLING:
            return self.pooled(x, name)
        if name == "pad":
            return self.pad(x, result)
        if name in SHAPING:
            return self.shape_by(lambda t: self.again(n, t), n, x, result)
        if name in SPLITTING:
            return self.split(n, name, x, result)
        if name in REDUCING:
            return self.reduce(n, name, x, result)
        if name in NORMALISING:
            self.pin(x, f"normalised by {name} in {self.where()}")
            return x
        raise self.fail(
            f"the operator {name}",
            "use layers of torch.nn, or declare the block in survey_lib/mechanics/blocks.py",
        )

    def input(self, n: fx.Node) -> Tensor:
        """Value of a node's first input."""
        return self.env[n.args[0]]  # type: ignore[index]

    def again(self, n: fx.Node, t: Tensor) -> Any:
        """The node's operator on ``t`` in place of its first input."""
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n.op == "call_method":
            return getattr(t, str(n.target))(*args[1:], **kwargs)
        return n.target(t, *args[1:], **kwargs)  # type: ignore[operator]

    # Layers.

    def note_layer(self, path: str, result: Tensor, rows: int, channels: int) -> None:
        before = self.layers.get(path, (0, rows))[0]
        self.layers[path] = (before + result[0].numel() // channels, rows)

    def on_axis_1(self, x: Labels | None, what: str) -> np.ndarray | None:
        if x is None:
            return None
        if x.axis != 1:
            self.pin(x, f"channels lie on axis {x.axis} of the input of {what}, not on 1")
            return None
        return x.ids

    def conv(self, path: str, module: nn.Module, x: Labels | None, result: Tensor) -> Labels:
        """Convolution: reads axis 1 of its weight, makes axis 0; in groups it only carries."""
        groups: int = module.groups  # type: ignore[assignment]
        n_out: int = module.out_channels  # type: ignore[assignment]
        n_in: int = module.in_channels  # type: ignore[assignment]
        self.note_layer(path, result, 0, n_out)
        ids = self.on_axis_1(x, path)
        role = "out" if groups == 1 else "through"
        out = self.carry(path, "weight", 0, role, self._made(path, n_out))
        if module.bias is not None:
            self.carry(path, "bias", 0, role, out)
        if groups == 1:
            if ids is not None:
                self.carry(path, "weight", 1, "in", ids)
            return Labels(1, out)
        if ids is None:
            self.pin(out, f"made by the grouped convolution {path} from the net's input")
            return Labels(1, out)
        kind = "depthwise" if groups == n_in else "grouped"
        ins, outs = ids.reshape(groups, -1), out.reshape(groups, -1)
        head = outs[:, :1]
        for block in (ins, outs[:, 1:]):  # all of a group's channels hang on its first output
            joined = np.broadcast_to(head, block.shape)
            self.tie(block.ravel(), joined.ravel(), f"{kind}: {path}")
        return Labels(1, out)

    def _made(self, path: str, n: int, axis: int = 0) -> np.ndarray:
        """Labels of a layer's outputs: the same at every call."""
        known = self.slices.get((path, "weight", axis))
        return known[1] if known else self.fresh(n)

    def transposed(self, path: str, module: nn.Module, x: Labels | None, result: Tensor) -> Labels:
        """Transposed convolution: axes 0 and 1 of the weight change places."""
        if module.groups != 1:
            raise self.fail("a transposed convolution in groups", "use groups=1")
        n_out: int = module.out_channels  # type: ignore[assignment]
        self.note_layer(path, result, 1, n_out)
        out = self.carry(path, "weight", 1, "out", self._made(path, n_out, 1))
        if module.bias is not None:
            self.carry(path, "bias", 0, "out", out)
        ids = self.on_axis_1(x, path)
        if ids is not None:
            self.carry(path, "weight", 0, "in", ids)
        return Labels(1, out)

    def linear(self, path: str, module: nn.Linear, x: Labels | None, result: Tensor) -> Labels:
        """Linear layer on the last axis."""
        self.note_layer(path, result, 0, module.out_features)
        if x is not None and x.axis != result.ndim - 1:
            # it mixes another axis and leaves the channels where they are
            return x
        out = self.carry(path, "weight", 0, "out", self._made(path, module.out_features))
        if module.bias is not None:
            self.carry(path, "bias", 0, "out", out)
        if x is not None:
            self.carry(path, "weight", 1, "in", x.ids)
        return Labels(result.ndim - 1, out)

    def along(self, path: str, module: nn.Module, x: Labels | None) -> Labels | None:
        """Batch norm and the like: one entry for each channel."""
        ids = self.on_axis_1(x, path)
        if ids is not None:
            tensors = itertools.chain(
                module.named_parameters(recurse=False), module.named_buffers(recurse=False)
            )
            for name, t in tensors:
                if t.ndim == 1:
                    self.carry(path, name, 0, "through", ids)
        return x

    # Operators.

    def pointwise(self, n: fx.Node, name: str, result: Any) -> Labels | None:
        """Element by element with broadcasting: labels that meet are joined."""
        if not isinstance(result, Tensor):
            return None
        why = f"{WORD.get(name, 'residual')}: {name} in {self.where()}"
        operands = [i for i in n.all_input_nodes if isinstance(self.env.get(i), Tensor)]
        labels = {i: self.labels[i] for i in operands if self.labels[i] is not None}
        if not labels:
            return None
        shift = {i: result.ndim - self.env[i].ndim for i in operands}
        axes = {
            i: lab.axis + shift[i]
            for i, lab in labels.items()
            if self.env[i].shape[lab.axis] == result.shape[lab.axis + shift[i]]
        }
        for i, lab in labels.items():
            if i not in axes:
                self.pin(lab, f"one channel spread over others by {name} in {self.where()}")
        if not axes:
            return None
        axis = next(iter(axes.values()))
        if any(a != axis for a in axes.values()):
            for lab in labels.values():
                self.pin(lab, f"channels on different axes meet in {name} in {self.where()}")
            return None
        ids = labels[next(iter(axes))].ids
        for i in operands:
            if i in axes:
                self.tie(ids, labels[i].ids, why)
            elif i not in labels and self._extent(i, axis - shift[i]) > 1:
                self.meet_parameter(i, axis - shift[i], ids, name)
        return Labels(axis, ids)

    def _extent(self, i: fx.Node, axis: int) -> int:
        return self.env[i].shape[axis] if axis >= 0 else 1

    def meet_parameter(self, i: fx.Node, axis: int, ids: np.ndarray, name: str) -> None:
        """A parameter added to or multiplied with channels has one entry for each."""
        if i.op == "get_attr":
            path, _, tensor = str(i.target).rpartition(".")
            self.carry(path, tensor, axis, "through", ids)
        else:
            self.pin(ids, f"{name} in {self.where()} with a tensor that carries no channels")

    def concatenate(self, n: fx.Node, result: Tensor) -> Labels | None:
        """Along the channel axis: labels side by side. Along another: joined."""
        nodes: list[fx.Node] = list(n.args[0] if n.args else n.kwargs["tensors"])  # type: ignore
        dim = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim", n.kwargs.get("axis", 0))
        dim = _axis(dim, result)  # type: ignore[arg-type]
        parts = [self.labels[i] for i in nodes]
        first = next(p for p in parts if p is not None)
        if first.axis == dim:
            blank = [np.full(self.env[i].shape[dim], NOTHING) for i in nodes]
            for p in parts:
                if p is not None and p.axis != dim:
                    self.pin(p, f"channels on different axes meet in {self.where()}")
            ids = [
                p.ids if p is not None and p.axis == dim else b
                for p, b in zip(parts, blank, strict=True)
            ]
            return Labels(dim, np.concatenate(ids))
        for p in parts:
            if p is None or p.axis != first.axis:
                self.pin(first, f"concatenated with a tensor without channels in {self.where()}")
                self.pin(p, f"concatenated along another axis in {self.where()}")
            else:
                self.tie(first.ids, p.ids, f"residual: concatenation in {self.where()}")
        return first

    def pooled(self, x: Labels | None, name: str) -> Labels | None:
        """Pooling acts on the last axes and leaves channels alone."""
        if x is not None and x.axis != 1:
            self.pin(x, f"{name} in {self.where()} pools over the channels")
            return None
        return x

    def pad(self, x: Labels | None, result: Tensor) -> Labels | None:
        """Padding of space leaves channels alone; padding of channels pins them."""
        if x is None or result.shape[x.axis] == len(x.ids):
            return x
        self.pin(x, f"pad in {self.where()} adds a fixed number of channels")
        return Labels(x.axis, np.full(result.shape[x.axis], NOTHING))

    def shape_by(
        self, act: Callable[[Tensor], Any], n: fx.Node, x: Labels | None, result: Any
    ) -> Labels | None:
        """Do to a tensor of labels what is done to the tensor, and look where they went."""
        if x is None or not isinstance(result, Tensor):
            return None
        before = self.input(n)
        view = [1] * before.ndim
        view[x.axis] = -1
        spread = torch.from_numpy(x.ids).view(view).expand(before.shape).contiguous()
        moved = act(spread).numpy()
        varies = [
            d
            for d in range(moved.ndim)
            if moved.shape[d] > 1 and (moved != moved.take([0], d)).any()
        ]
        if len(varies) > 1:
            self.pin(x, f"{n.target} in {self.where()} splits the channels over two axes")
            return None
        same = [d for d in range(moved.ndim) if moved.shape[d] == len(x.ids)]
        axis = varies[0] if varies else (same[0] if same else 0)
        ids = moved[tuple(slice(None) if d == axis else 0 for d in range(moved.ndim))]
        if self.fixed_size(n, axis, result):
            self.pin(x, f"{n.target} in {self.where()} names their number; write -1 instead")
        if _name(n) == "getitem" and len(ids) < len(x.ids):
            self.pin(x, f"indexing in {self.where()} picks some of the channels")
        return Labels(axis, ids)

    def fixed_size(self, n: fx.Node, axis: int, result: Tensor) -> bool:
        """Whether a view or reshape spells out the size of the channel axis as a number."""
        if _name(n) not in ("view", "reshape", "unflatten"):
            return False
        sizes = n.args[1:]
        if len(sizes) == 1 and isinstance(sizes[0], (tuple, list)):
            sizes = tuple(sizes[0])
        return (
            len(sizes) == result.ndim
            and isinstance(sizes[axis], int)
            and sizes[axis] not in (-1, 1)
        )

    def split(self, n: fx.Node, name: str, x: Labels | None, result: Any) -> Any:
        """Pieces: along another axis they all carry the channels, along theirs nothing may go."""
        dim = n.args[2] if len(n.args) > 2 else n.kwargs.get("dim", 0)
        if x is not None and _axis(dim, self.input(n)) == x.axis:  # type: ignore[arg-type]
            self.pin(x, f"{name} in {self.where()} cuts the channels into fixed pieces")
            return tuple(None for _ in result)
        return tuple(x for _ in result) if name != "unbind" else tuple(None for _ in result)

    def reduce(self, n: fx.Node, name: str, x: Labels | None, result: Tensor) -> Labels | None:
        """Sums and means: over space they leave channels alone, over channels they pin them."""
        if x is None:
            return None
        ndim = self.input(n).ndim
        dims = n.args[1] if len(n.args) > 1 else n.kwargs.get("dim")
        if dims is None:
            gone = set(range(ndim))
        else:
            listed = dims if isinstance(dims, (tuple, list)) else (dims,)
            gone = {int(d) % ndim for d in listed}  # type: ignore[arg-type]
        if x.axis in gone:
            self.pin(x, f"{name} in {self.where()} runs over the channels")
            return None
        kept = result.ndim == ndim
        return x if kept else Labels(x.axis - sum(d < x.axis for d in gone), x.ids)

    # From labels to groups.

    def result(self) -> ChannelGraph:
        rows = np.concatenate([e[0] for e in self.edges] or [np.empty(0, int)])
        columns = np.concatenate([e[1] for e in self.edges] or [np.empty(0, int)])
        joined = coo_array(
            (np.ones(len(rows), bool), (rows, columns)), shape=(self.n_labels, self.n_labels)
        )
        _, unit_of = connected_components(joined, directed=False)
        number = np.repeat(np.arange(len(self.edges)), [len(e[0]) for e in self.edges])
        whys = [e[2] for e in self.edges]
        pinned: dict[int, str] = {}
        for ids, why in self.pins:
            for unit in np.unique(unit_of[ids]).tolist():
                pinned.setdefault(unit, why)
        groups = _groups(self.slices, unit_of, (unit_of[rows], number, whys), pinned)
        layers = tuple(Layer(p, n, axis) for p, (n, axis) in self.layers.items())
        return ChannelGraph(
            groups, layers, parameter_shapes(self.model), repeated_parameters(self.model),
            type(self.model).__name__,
        )  # fmt: skip


def _groups(
    slices: dict[tuple[str, str, int], tuple[str, np.ndarray]],
    unit_of: np.ndarray,
    edges: tuple[np.ndarray, np.ndarray, list[str]],
    pinned: dict[int, str],
) -> tuple[ChannelGroup, ...]:
    """Units that lie equally often on the same axes, under the same ties, are one group.

    Args:
        slices: role and labels of each axis.
        unit_of: unit of each label.
        edges: for every pair of joined labels its unit and the number of its edge; why, by number.
        pinned: unit → why it is protected.
    """
    n_units = int(unit_of.max()) + 1 if len(unit_of) else 0
    words = np.random.default_rng(0)  # one random word for each axis: a unit's sum names its place
    place = np.zeros(n_units, np.uint64)
    nowhere = np.iinfo(np.int64).max
    first = np.full(n_units, nowhere)
    units_on: dict[tuple[str, str, int], np.ndarray] = {}
    offset = 0
    for key, (_, ids) in slices.items():
        units = np.where(ids == NOTHING, -1, unit_of[ids])
        units_on[key] = units
        found = units[units >= 0]
        np.add.at(place, found, words.integers(2**63, dtype=np.uint64))
        np.minimum.at(first, found, offset + np.flatnonzero(units >= 0))
        offset += len(units)
    # a protected unit never shares a group with a free one
    reasons = {why: i for i, why in enumerate(dict.fromkeys(["", *pinned.values()]))}
    reason = np.zeros(n_units, np.int64)
    for unit, why in pinned.items():
        reason[unit] = reasons[why]
    known = np.argsort(first, kind="stable")[: int((first < nowhere).sum())]
    if not len(known):
        return ()
    keys = np.stack([place[known], reason[known].astype(np.uint64)])
    _, start, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(start))[inverse.ravel()]  # groups in the order of their first unit
    members = np.split(known[np.argsort(rank, kind="stable")], np.cumsum(np.bincount(rank))[:-1])
    index = np.full(n_units, -1)  # unit → its number within its group
    group_of = np.full(n_units, -1)
    for g, units in enumerate(members):
        index[units] = np.arange(len(units))
        group_of[units] = g
    why_of = list(reasons)
    ties: dict[int, list[str]] = defaultdict(list)
    units, number, whys = edges
    speaks = np.zeros(n_units, bool)  # a group's first unit speaks for all
    speaks[[units[0] for units in members]] = True
    pairs = np.unique(number[speaks[units]] * n_units + units[speaks[units]])
    for pair in pairs.tolist():
        ties[pair % n_units].append(whys[pair // n_units])
    sizes = [len(units) for units in members]
    found_slices: list[list[Slice]] = [[] for _ in members]
    flattened: list[list[str]] = [[] for _ in members]
    beside: list[list[str]] = [[] for _ in members]
    # most axes carry the labels of another one, as one and the same array
    spots: dict[int, list[tuple[int, np.ndarray]]] = {}
    for (module, tensor, axis), units in units_on.items():
        role, ids = slices[(module, tensor, axis)]
        if id(ids) not in spots:
            here = np.where(units >= 0, group_of[units], -1)
            spots[id(ids)] = []
            for g in np.unique(here[here >= 0]).tolist():
                at = np.flatnonzero(here == g)
                order = np.argsort(index[units[at]], kind="stable")
                spots[id(ids)].append((g, at[order].reshape(sizes[g], -1)))
        present = spots[id(ids)]
        for g, positions in present:
            found_slices[g].append(Slice(module, tensor, axis, role, positions))
            wide = max((s.positions.shape[1] for s in found_slices[g] if s.role != "in"), default=1)
            if role == "in" and positions.shape[1] > wide:
                each = positions.shape[1] // wide
                flattened[g].append(f"flattened: {module} reads {each} positions of each channel")
            if role == "in" and len(present) > 1:
                beside[g].append(module)
    names: dict[str, int] = defaultdict(int)
    groups = []
    for g, units in enumerate(members):
        why = why_of[reason[units[0]]]
        base = next((s.module for s in found_slices[g] if s.role == "out"), "")
        base = base or found_slices[g][0].module
        names[base] += 1
        name = base if names[base] == 1 else f"{base}#{names[base]}"
        said = [*ties.get(int(units[0]), []), *flattened[g]]
        if beside[g]:
            said.append(f"concatenated: read beside others by {', '.join(beside[g])}")
        groups.append(
            ChannelGroup(
                name, len(units), tuple(found_slices[g]),
                tuple(dict.fromkeys(said)), why,
            )
        )  # fmt: skip
    return tuple(groups)


def _axis(dim: int | None, tensor: Tensor) -> int:
    return (dim or 0) % max(1, tensor.ndim)


def _name(n: fx.Node) -> str:
    name = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", "")
    return str(name)


def _flat(labels: Any) -> Iterator[Labels]:
    if isinstance(labels, Labels):
        yield labels
    elif isinstance(labels, tuple):
        for part in labels:
            yield from _flat(part)


def _has_tensor(result: Any) -> bool:
    if isinstance(result, Tensor):
        return True
    return isinstance(result, Iterable) and any(isinstance(r, Tensor) for r in result)
