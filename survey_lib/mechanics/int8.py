r"""Whole numbers of eight bits: two grids, and a product that loses nothing.

A matrix is written as :math:`\hat x = (q + zp) / s` with whole :math:`q \in [-127, 127]`; −128 is
not used. ``absmax`` is symmetric (:math:`zp = 0`), ``zeropoint`` spreads the grid from the smallest
to the largest value. One scale holds for the whole matrix, for each row, or for each column.

The sums of an integer product are exact on every processor: eight-bit numbers are whole in fp32 as
well, and K products of them stay below 2²⁴ for K ≤ 1040. A longer K goes in blocks. Where torch's
own integer product is exact too (AVX-512 with VNNI), it does the same work several times faster.
On processors with AVX2 alone that kernel adds pairs of products in 16 bits and saturates.
"""

import warnings
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

TOP = 127
"""Largest whole number of the grid."""
EXACT = 2**24 // TOP**2
"""Longest sum of products that is exact in fp32: 1040 terms."""
NOTHING = 1e-30
"""A row whose largest value, or whose spread, lies below this is a row of zeros, or constant."""


class NoGradient(RuntimeError):
    """Rounding under autograd: its derivative is zero, which is nobody's gradient."""


def _no_gradient(x: Tensor) -> None:
    if x.requires_grad and torch.is_grad_enabled():
        raise NoGradient(
            "int8: rounding to a grid has no gradient; call this under torch.no_grad() or on "
            "x.detach(), or use Int8Linear, which passes the gradient straight through"
        )


@dataclass(frozen=True)
class Quantized:
    """A matrix (m, n) on a grid: x̂ = (q + zp) / s."""

    q: Tensor
    """(m, n) whole numbers in [−127, 127], as int8 or as fp32."""
    scale: Tensor
    """s, grid steps per unit: (1, 1), (m, 1) or (1, n)."""
    zero: Tensor | None = None
    """zp in grid steps, whole, shaped as ``scale``; None on a symmetric grid."""

    def dequantize(self) -> Tensor:
        """(m, n) values x̂, in the precision of the scale."""
        q = self.q.to(self.scale.dtype)
        return (q if self.zero is None else q + self.zero) / self.scale

    def t(self) -> "Quantized":
        """The transposed matrix; nothing is copied."""
        return Quantized(self.q.t(), self.scale.t(), None if self.zero is None else self.zero.t())


def largest(x: Tensor, dim: int | None = None) -> Tensor:
    """‖x‖∞ of all of x (1, 1), of each row (m, 1) for ``dim`` 1, of each column (1, n) for 0.

    Of nothing it is 0.
    """
    if not x.numel():
        return x.sum(dim, keepdim=True) if dim is not None else x.sum().view(1, 1)
    size = x.abs()
    return size.amax(dim, keepdim=True) if dim is not None else size.amax().view(1, 1)


def absmax(x: Tensor, dim: int | None = None, dtype: torch.dtype = torch.int8) -> Quantized:
    r"""Symmetric grid: :math:`s = 127 / \|x\|_\infty`, :math:`q = \lfloor s x \rceil`.

    Dettmers et al. 2022 (``dettmers2022llmint8``), section 2. Zeros stay zeros, rows of zeros too.

    Args:
        x: (m, n).
        dim: 1 for a scale for each row, 0 for each column, None for one scale.
        dtype: of the whole numbers: ``torch.int8``, or a float type that holds them.

    Raises:
        NoGradient: ``x`` takes part in autograd.
    """
    _no_gradient(x)
    top = largest(x, dim)
    s = TOP / torch.where(top < NOTHING, TOP, top)
    return Quantized((x * s).round_().to(dtype), s)


def zeropoint(x: Tensor, dim: int | None = None, dtype: torch.dtype = torch.int8) -> Quantized:
    r"""Asymmetric grid from the smallest to the largest value.

    :math:`s = nd = 2 \cdot 127 / (\max x - \min x)`,
    :math:`zp = 127 + \lfloor nd \min x \rceil`, :math:`q = \lfloor nd\,x \rceil - zp`.

    Differs from section 2 of Dettmers et al. 2022 (``dettmers2022llmint8``), whose equation for zp
    rounds the matrix times its minimum, without nd, and so cannot be meant. Its brackets are: a zp
    that is not whole moves every zero by the same part of a step, and sums add that up. A constant
    row is exact.

    Args:
        x: (m, n).
        dim: 1 for a grid for each row, 0 for each column, None for one grid.
        dtype: of the whole numbers: ``torch.int8``, or a float type that holds them.

    Raises:
        NoGradient: ``x`` takes part in autograd.
    """
    _no_gradient(x)
    if not x.numel():
        low = high = largest(x, dim)
    elif dim is None:
        low, high = x.amin().view(1, 1), x.amax().view(1, 1)
    else:
        low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    spread, size = high - low, low.abs()
    constant = TOP / torch.where(size < NOTHING, TOP, size)
    nd = torch.where(spread < NOTHING, constant, 2 * TOP / spread.clamp_min(NOTHING))
    zp = TOP + (nd * low).round_()
    q = (x * nd).round_().sub_(zp).clamp_(-TOP, TOP)
    return Quantized(q.to(dtype), nd, zp)


@lru_cache(maxsize=1)
def integer_kernel() -> bool:
    """Whether torch's int8 product is exact here, and fast: tried once on the hardest numbers.

    False on processors without VNNI, whose kernels saturate or are slow.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    for m, k, n in ((1, 64, 16), (8, 576, 64), (64, 1040, 32)):
        a = torch.full((m, k), TOP, dtype=torch.int8, device="cpu")
        b = torch.full((n, k), TOP, dtype=torch.int8, device="cpu")
        b[1::2] = -TOP
        if not torch.equal(torch.ops.aten._int_mm(a, b.t()).double(), a.double() @ b.t().double()):
            return False
    return True


def whole(device: torch.device) -> torch.dtype:
    """The type in which whole numbers are multiplied fastest: int8, or fp32 elsewhere."""
    return torch.int8 if device.type == "cpu" and integer_kernel() else torch.float32


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """(m, n) exact sums of (m, k) times (k, n) whole numbers in [−127, 127].

    Args:
        a: int8, or fp32 that holds whole numbers.
        b: the same.

    Returns:
        int32, or fp32 where every sum is exact in it.
    """
    if not (a.numel() and b.numel()):  # the kernels of whole numbers take no empty matrix
        return torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32, device=a.device)
    if whole(a.device) == torch.int8:
        return torch.ops.aten._int_mm(a.to(torch.int8), b.to(torch.int8))
    k = a.shape[1]
    if k <= EXACT:
        return a.float() @ b.float()
    total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.int32, device=a.device)
    for i in range(0, k, EXACT):
        part = a[:, i : i + EXACT].float() @ b[i : i + EXACT].float()
        total += part.to(torch.int32)
    return total


def product(a: Quantized, b: Quantized, sums: Tensor | None = None) -> Tensor:
    r"""(m, n) product of two quantized matrices (m, k) and (k, n), by the sums of whole numbers.

    With zero points it is expanded into its four terms (Dettmers et al. 2022, section 2):

    .. math:: (A + zp_a)(B + zp_b) = AB + zp_b \textstyle\sum_k A + zp_a \sum_k B + K zp_a zp_b.

    Args:
        a: one scale, or one for each row.
        b: one scale, or one for each column.
        sums: (1, n) sums of b's columns, where they are known.

    Raises:
        ValueError: a scale that runs along the dimension that is summed over.
    """
    if a.scale.shape[1] != 1 or b.scale.shape[0] != 1:
        raise ValueError(
            "int8 product: scales along the summed dimension cannot be taken out of the sum; "
            "scale rows of the left and columns of the right matrix"
        )
    c = exact_product(a.q, b.q).to(a.scale.dtype)  # (m, n)
    if a.zero is not None and b.zero is not None:
        rows = a.q.sum(1, keepdim=True).to(c.dtype)  # (m, 1)
        columns = b.q.sum(0, keepdim=True).to(c.dtype) if sums is None else sums  # (1, n)
        zero = b.zero.to(c.dtype)  # K zp is more than fp32 holds where weights lie far from 0
        columns = columns.to(c.dtype) + a.q.shape[1] * zero
        # the last three terms as one product of rank 2
        left = torch.cat([rows, a.zero.expand_as(rows)], 1)  # (m, 2)
        right = torch.cat([zero.expand_as(columns), columns], 0)  # (2, n)
        c.addmm_(left, right)
    elif a.zero is not None or b.zero is not None:
        raise ValueError("int8 product: both matrices need a zero point, or neither")
    return c.div_(a.scale).div_(b.scale)


# ---- torch's dynamic kernel: faster without VNNI, and inexact


def pack(W: Quantized) -> object:
    """Weights (out, in) on a symmetric grid, rows with scales of their own, for torch's kernel.

    Raises:
        RuntimeError: this torch or processor has no such kernel.
    """
    try:
        with warnings.catch_warnings():
            # the tensors are deprecated, the kernel is not, and takes no others
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            step = (1 / W.scale.double()).flatten().expand(len(W.q)).contiguous()
            steps = torch.ops.aten._make_per_channel_quantized_tensor(
                W.q, step, torch.zeros_like(step, dtype=torch.int64), 0
            )
            return torch.ops.quantized.linear_prepack(steps, None)
    except (AttributeError, RuntimeError) as why:
        raise RuntimeError(
            f"int8: torch {torch.__version__} has no dynamic int8 kernel for a weight on "
            f"{W.q.device} with engine {torch.backends.quantized.engine!r}; leave out fast=True "
            f"({str(why).splitlines()[0]})"
        ) from None


def dynamic_product(X: Tensor, packed: object, dim: int | None = 1, bits: int = 7) -> Tensor:
    """(s, o) = X Wᵀ in torch's dynamic kernel, X (s, h) with as many bits.

    The kernel has one grid for all of X, from its smallest to its largest value. Several rows are
    brought to [−1, 1] first and back after, so that each has its own. Without VNNI pairs of
    products are added in 16 bits, where 255 · 127 · 2 does not fit and 127 · 127 · 2 does: with
    8 bits the sums saturate, with 7 they are exact.

    Args:
        X: fp32 or fp64; multiplied in fp32.
        packed: from :func:`pack`.
        dim: 1 for a scale for each row, None for one scale.
        bits: 7 or 8.
    """
    kernel, reduce = torch.ops.quantized.linear_dynamic, bits == 7
    if dim is None or len(X) == 1:
        return kernel(X.float(), packed, reduce).to(X.dtype)
    top = torch.maximum(X.amax(1, keepdim=True), -X.amin(1, keepdim=True)).clamp_min_(NOTHING)
    return kernel((X / top).float(), packed, reduce).to(X.dtype).mul_(top)


def kernel_errors(X: Tensor, W: Tensor) -> dict[str, float]:
    """Relative errors (Frobenius) of X (s, h) times Wᵀ for W (o, h), by kernel, on this processor.

    ``exact sums`` is the reference, ``7 bits`` and ``8 bits`` are torch's dynamic kernel. Where it
    saturates, its 8 bits are far worse than its 7.

    Raises:
        RuntimeError: this torch or processor has no such kernel.
    """
    C = X @ W.t()
    W_i8 = absmax(W, 1)
    packed = pack(W_i8)
    found = {
        "exact sums": product(absmax(X, 1), W_i8.t()),
        "7 bits": dynamic_product(X, packed, bits=7),
        "8 bits": dynamic_product(X, packed, bits=8),
    }
    return {name: float((c - C).norm() / C.norm()) for name, c in found.items()}
