"""MACs, counted where torch dispatches, so that no layer type can be forgotten.

One MAC is one multiply-accumulate of a convolution or of a product of matrices, vectors or both:
inner, outer and bilinear products and Euclidean distances are among them. Biases, normalisation,
activation functions, interpolation and products of element with element are not counted.
Operators for which there is no formula here or in torch's own registry are refused by name where
they multiply and accumulate, or where they are none of torch's.
"""

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from survey_lib.mechanics.groups import CONV, TRANSPOSED
from survey_lib.tasks.modes import evaluating

Example = Tensor | tuple[Any, ...] | Mapping[str, Any]
"""A net's only input, or several, by position or by name."""


class MacsError(RuntimeError):
    """A model whose MACs cannot be counted fully; the message names the operators."""


# ---- formulas that torch's registry (FLOPs, two for each MAC) lacks; each takes the result first


def _mm(_out: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return a.numel() * b.shape[-1]  # of (…, m, k) and (…, k, n)


def _addmm(_out: Tensor, _c: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return a.numel() * b.shape[-1]


def _matrix_vector(_out: Tensor, A: Tensor, *_: Any, **__: Any) -> int:
    return A.numel()


def _addmv(_out: Tensor, _c: Tensor, A: Tensor, *_: Any, **__: Any) -> int:
    return A.numel()


def _addr(_out: Tensor, _c: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return a.numel() * b.numel()


def _trilinear(_out: Tensor, a: Tensor, b: Tensor, c: Tensor, *expand: list[int], **__: Any) -> int:
    # one MAC for each element of the three tensors' common shape, before it is summed over
    shapes = []
    for tensor, axes in zip((a, b, c), expand, strict=False):  # the fourth list is what is summed
        shape = list(tensor.shape)
        for axis in axes:
            shape.insert(axis, 1)
        shapes.append(shape)
    return prod(torch.broadcast_shapes(*shapes))


def _distances(out: Tensor, a: Tensor, _b: Tensor, p: float = 2.0, *_: Any, **__: Any) -> int:
    # the sums of squares; the sum and the largest of absolute values multiply nothing
    return 0 if p in (0.0, 1.0, float("inf")) else out.numel() * a.shape[-1]


def _own_distances(out: Tensor, a: Tensor, p: float = 2.0, *_: Any, **__: Any) -> int:
    return _distances(out, a, a, p)


def _recurrent(_out: Any, x: Tensor, *weights: Any, **__: Any) -> int:
    # every matrix of every layer meets every step of every example; biases are vectors
    flat = list(weights[0]) if isinstance(weights[0], (list, tuple)) else list(weights[:4])
    return x.numel() // max(1, x.shape[-1]) * sum(w.numel() for w in flat if w.ndim == 2)


def _linear_dynamic(out: Tensor, x: Tensor, *_: Any, **__: Any) -> int:
    return x.numel() * out.shape[-1]


def _deformable(out: Tensor, _x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return out.numel() * weight[0].numel()


def _conv_tbc(out: Tensor, _x: Tensor, weight: Tensor, *_: Any, **__: Any) -> int:
    return out.numel() * weight.shape[0] * weight.shape[1]


FORMULAS: dict[str, Callable[..., int]] = {
    "aten::mv": _matrix_vector,
    "aten::addmv": _addmv,
    "aten::addmv_": _addmv,
    "aten::dot": _matrix_vector,
    "aten::vdot": _matrix_vector,
    "aten::addr": _addr,
    "aten::addr_": _addr,
    "aten::addbmm": _addmm,
    "aten::addbmm_": _addmm,
    "aten::addmm_": _addmm,
    "aten::baddbmm_": _addmm,
    "aten::_addmm_activation": _addmm,
    "aten::_int_mm": _mm,
    "aten::_trilinear": _trilinear,
    "aten::_cdist_forward": _distances,
    "aten::_euclidean_dist": _distances,
    "aten::_pdist_forward": _own_distances,
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::_cudnn_rnn": _recurrent,
    "aten::miopen_rnn": _recurrent,
    "aten::conv_tbc": _conv_tbc,
    "quantized::linear_dynamic": _linear_dynamic,
    "torchvision::deform_conv2d": _deformable,
}
"""Name of an operator → MACs of (result, its arguments)."""

# Names of torch's operators that multiply and accumulate, and of those that only sound like it.
_PRODUCTS = (
    "mm", "mv", "conv", "attention", "attn", "multi_head", "transformer", "linear", "einsum",
    "matmul", "dot", "gru", "lstm", "rnn", "addr", "cdist", "pdist", "linalg", "solve", "cholesky",
    "inverse", "fft",
)  # fmt: skip
_HARMLESS = (
    "upsample", "gamma", "cummax", "cummin", "comm", "hamming", "convert", "prepack", "unpack",
    "pack_gemm", "flatten_weight", "thnn_fused", "slice_inverse", "vector_norm", "check_errors",
    "linalg_cross", "linalg_diagonal", "powsum", "fft_plan", "fftfreq", "fftshift", "reorder",
)  # fmt: skip
_TORCHS = ("aten", "prim", "prims", "torchvision", "quantized", "profiler", "inductor")


def _uncounted(name: str) -> bool:
    """Whether an operator without a formula may hide products."""
    space, _, plain = name.rpartition("::")
    if space not in _TORCHS:
        return True
    return any(w in plain for w in _PRODUCTS) and not any(w in plain for w in _HARMLESS)


class _Counter(TorchDispatchMode):
    """Adds up the MACs of what is dispatched, and collects what has no formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.uncounted: set[str] = set()
        self.within = ""  # the function that a multiplication belongs to, see _Names

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)  # higher-order operators have none
        name = getattr(packet, "_qualified_op_name", f"torch::{func}")
        if name in FORMULAS:
            out = func(*args, **kwargs)
            self.macs += FORMULAS[name](out, *args, **kwargs)
            return out
        if packet in flop_registry:
            out = func(*args, **kwargs)
            self.macs += flop_registry[packet](*args, **kwargs, out_val=out) // 2
            return out
        if hasattr(func, "decompose"):  # in inference mode operators come here undivided
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if name == "aten::mul" and self.within:
            self.macs += self._multiplied(out, *args)
        elif _uncounted(name):
            self.uncounted.add(name.removeprefix("aten::"))
        return out

    def _multiplied(self, out: Tensor, a: Any, b: Any, *_: Any) -> int:
        if self.within in ("einsum", "kron"):  # unless both grow it is element by element
            shapes = [x.shape if isinstance(x, Tensor) else () for x in (a, b)]
            return 0 if out.shape in shapes else out.numel()
        return out.numel()


class _Names(TorchFunctionMode):
    """Tells the counter which functions multiply by what torch dispatches as mere ``mul``."""

    _products = ("outer", "ger", "linalg_vecdot", "einsum", "kron")

    def __init__(self, counter: _Counter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name not in self._products:
            return func(*args, **(kwargs or {}))
        before, self.counter.within = self.counter.within, name
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.counter.within = before


def batch_size(example: Example) -> int:
    """Number of examples: the length of the first tensor.

    Raises:
        MacsError: there is no tensor, or it holds no example.
    """
    first = next((leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)), None)
    if first is None or first.ndim == 0 or not len(first):
        shape = "no tensor" if first is None else f"shape {tuple(first.shape)}"
        raise MacsError(f"cannot count per example: the input has {shape}; give at least one")
    return len(first)


def count_macs(model: nn.Module, example: Example) -> int:
    """MACs of one forward pass per example.

    Zeros count like any other weight: a dense kernel multiplies by them. What is computed once a
    pass, whatever the batch, is shared among the examples. Attention takes its unfused path,
    because not every version counts the fused one on a processor.

    Args:
        model: any net, run in eval mode; every module's own mode is as before in the end.
        example: its input; several in a tuple, or by name in a dict. The first dimension of the
            first tensor counts the examples.

    Raises:
        MacsError: an operator that multiplies matrices went uncounted, or the batch is empty.
    """
    examples = batch_size(example)
    fused = torch.backends.mha.get_fastpath_enabled()
    counter = _Counter()
    try:
        # the fast path runs a whole attention block as one operator
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            evaluating(model),
            torch.enable_grad(),  # as the net is trained: no other fused path for inference either
            sdpa_kernel(SDPBackend.MATH),
            counter,
            _Names(counter),
        ):
            _call(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    if counter.uncounted:
        names = ", ".join(sorted(counter.uncounted))
        raise MacsError(
            f"MACs of {type(model).__name__}: operators went uncounted: {names}; give a formula by "
            "torch.utils.flop_counter.register_flop_formula"
        )
    return counter.macs // examples


def _call(model: nn.Module, example: Example) -> Any:
    if isinstance(example, Mapping):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def count_nonzero_macs(model: nn.Module, example: Example) -> int:
    """MACs per example that an ideal sparse kernel would make: each layer's × its non-zero share.

    Only convolutions (transposed ones too) and linear layers; what else multiplies, products of
    activations (attention) and recurrent layers among it, is left out.

    Raises:
        MacsError: the batch is empty.
    """
    examples = batch_size(example)
    total = 0
    handles = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], kwargs: dict, output: Tensor) -> None:
        nonlocal total
        weight: Tensor = module.weight  # type: ignore[assignment]
        # a kernel is applied once at each place of the output, or of a transposed layer's input
        places = (inputs[0] if inputs else kwargs["input"]) if _transposed(module) else output
        total += places.numel() // weight.shape[0] * int(weight.count_nonzero())

    for module in model.modules():
        if isinstance(module, (*CONV, *TRANSPOSED, nn.Linear)):
            handles.append(module.register_forward_hook(count, with_kwargs=True))
    try:
        with evaluating(model), torch.no_grad():
            _call(model, example)
    finally:
        for handle in handles:
            handle.remove()
    return round(total / examples)


def _transposed(module: nn.Module) -> bool:
    return isinstance(module, TRANSPOSED)
