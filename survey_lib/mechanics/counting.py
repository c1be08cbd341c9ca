"""MACs of single operators, counted where torch dispatches.

One MAC is one multiply-accumulate of a convolution or of a product of matrices, vectors or both:
inner, outer and bilinear products and Euclidean distances are among them. Biases, normalisation,
activation functions, interpolation and products of element with element are not counted.
Operators for which there is no formula here or in torch's own registry are refused by name where
they multiply and accumulate, or where they are none of torch's.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

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


class Counter(TorchDispatchMode):
    """Adds up the MACs of what is dispatched, and collects what has no formula."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.uncounted: set[str] = set()
        self.within = ""  # the function that a multiplication belongs to, see :class:`Names`

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


class Names(TorchFunctionMode):
    """Tells the counter which functions multiply by what torch dispatches as mere ``mul``."""

    _products = ("outer", "ger", "linalg_vecdot", "einsum", "kron")

    def __init__(self, counter: Counter) -> None:
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


@contextmanager
def counting() -> Iterator[Counter]:
    """Within the context the MACs of what is computed add up in the counter that is given.

    Attention takes its unfused path, because not every version counts the fused one on a
    processor; a whole attention block as one operator is not used.
    """
    fused = torch.backends.mha.get_fastpath_enabled()
    counter = Counter()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with (
            torch.enable_grad(),  # as the net is trained: no other fused path for inference either
            sdpa_kernel(SDPBackend.MATH),
            counter,
            Names(counter),
        ):
            yield counter
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
