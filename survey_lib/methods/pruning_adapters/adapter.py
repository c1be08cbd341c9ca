r"""One adapter beside one frozen layer: made, read, shrunk, fused.

With the paper's :math:`y = xW`, :math:`W \in \mathbb R^{n \times m}` (a row reads an input, a
column makes an output), and masks :math:`m_{row} \in \{0, 1\}^n`, :math:`m_{col} \in \{0, 1\}^m`,

.. math:: W_t = W_s \odot m_{row} m_{col}^\top
          + (W_{down} \odot m_{row} 1^\top)(W_{up} \odot 1 m_{col}^\top) .

Here nothing is multiplied by a mask: a row or a column of zeros is taken out, of the frozen weight
and of the adapter alike. torch keeps W transposed, (m, n), and that of a convolution (m, n, k, k);
there the product stands at the centre of the kernel, as if a 1 × 1 convolution of rank r ran
beside it.
"""

import copy
import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEARNERS = ("splora", "sppara", "head", "fine")
"""Low rank; a full matrix; batch norm, biases and head alone; all surviving weights."""


class Adapter(nn.Module):
    """A frozen layer and what is learned beside it.

    Args:
        layer: a convolution or a linear layer; it becomes part of the adapter, its weight frozen.
        learner: ``splora`` (W_down and W_up), ``sppara`` (one full matrix in ``up``) or ``head``
            (nothing: the layer is frozen and that is all).
        rank: r, of ``splora``.
        init: W_up, or the full matrix, is drawn from U(−init, init).
        generator: draws the weights.

    Raises:
        ValueError: a kernel without a centre.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, learner: str, rank: int, init: float,
        generator: torch.Generator,
    ):  # fmt: skip
        super().__init__()
        self.layer = layer
        if not all(k % 2 for k in self.kernel):
            raise ValueError(
                f"pruning_adapters: a kernel of {' × '.join(map(str, self.kernel))} has no centre; "
                "adapters go beside odd kernels"
            )
        self.apart = False  # whether the sum is taken of outputs, by :func:`beside`
        layer.weight.requires_grad_(False)
        m, n = layer.weight.shape[:2]  # n: inputs of one group
        self.down = self.up = None

        def drawn(rows: int, columns: int, bound: float) -> nn.Parameter:
            u = torch.rand(rows, columns, generator=generator, device="cpu")
            return nn.Parameter(((2 * u - 1) * bound).to(layer.weight))

        if learner == "splora":
            self.down = drawn(n, rank, 1 / math.sqrt(rank * n))  # Kaiming, a = √5, as released
            self.up = drawn(rank, m, init)
        elif learner == "sppara":
            self.up = drawn(n, m, init)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Sides of the kernel; none for a linear layer."""
        return tuple(self.layer.weight.shape[2:])

    @property
    def size(self) -> int:
        """Parameters of the adapter: r (n + m), or n m."""
        return sum(p.numel() for p in (self.down, self.up) if p is not None)

    def product(self) -> Tensor | None:
        """ΔW = W_down W_up: (n, m); None where nothing is learned."""
        return self.up if self.down is None or self.up is None else self.down @ self.up

    def adapted(self) -> Tensor:
        """W_s + ΔW in torch's layout: (m, n), or (m, n, k, k) with ΔW at the centre."""
        product = self.product()
        if product is None:
            return self.layer.weight
        if not self.kernel:
            return self.layer.weight + product.T
        weight = self.layer.weight.clone()
        y, x = (k // 2 for k in self.kernel)
        weight[:, :, y, x] += product.T
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output by the adapted weight, or as a sum of two outputs."""
        if self.apart:
            return beside(self, x)
        if isinstance(self.layer, nn.Linear):
            return F.linear(x, self.adapted(), self.layer.bias)
        return self.layer._conv_forward(x, self.adapted(), self.layer.bias)  # type: ignore

    def fused(self) -> nn.Module:
        """An ordinary layer of the same output; its weight may move again."""
        layer = copy.deepcopy(self.layer)
        layer.weight = nn.Parameter(self.adapted().detach().clone())
        return layer

    @torch.no_grad()
    def cut(self, axis: int, kept: Tensor) -> None:
        """Cut W_down and W_up as W_s is cut along an axis of torch's weight.

        Args:
            axis: 0: an output goes, a column of W_up; 1: an input goes, a row of W_down.
            kept: positions that stay.
        """
        if self.up is None:
            return
        kept = kept.to(self.up.device)
        if axis == 0:
            self.up = nn.Parameter(self.up[:, kept])
        elif self.down is not None:
            self.down = nn.Parameter(self.down[kept])
        else:  # SPPaRA: a row of the full matrix
            self.up = nn.Parameter(self.up[kept])


def beside(adapter: Adapter, x: Tensor) -> Tensor:
    """The same output as x W_s + (x W_down) W_up: ΔW is never made.

    Raises:
        ValueError: grouped convolutions, and padding in words or of other values than zero.
    """
    layer = adapter.layer
    y = layer(x)
    factors = [p for p in (adapter.down, adapter.up) if p is not None]
    if not factors:
        return y
    if isinstance(layer, nn.Linear):
        for factor in factors:
            x = x @ factor
        return y + x
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros" or layer.groups > 1:
        raise ValueError(
            "pruning_adapters: beside needs a convolution in one group, its padding in numbers "
            "and of zeros; run the adapted weight instead"
        )
    # the centre of the kernel reads where it stands: what is left of the padding
    shift = zip(layer.padding, layer.dilation, adapter.kernel, strict=True)
    top, left = (p - d * (k // 2) for p, d, k in shift)
    x = F.pad(x, (left, left, top, top))
    stride = layer.stride
    for factor in factors:
        x = F.conv2d(x, factor.T[:, :, None, None], stride=stride)
        stride = 1
    return y + x


# ---- nets


def attach(
    net: nn.Module, learner: str, rank: int, init: float, generator: torch.Generator
) -> nn.Module:
    """A copy in which every convolution and linear layer but the last has an adapter.

    The rest goes on being trained: batch norm, biases, the last layer (the head). A layer whose
    weight may not move gets none. ``fine`` attaches nothing.
    """
    net = copy.deepcopy(net)
    if learner == "fine":
        return net
    places = [(p, m) for p, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    for path, layer in places[:-1]:
        if layer.weight.requires_grad:
            _put(net, path, Adapter(layer, learner, rank, init, generator))
    return net


def adapters(net: nn.Module) -> dict[str, Adapter]:
    """Path of the layer → its adapter."""
    return {path: m for path, m in net.named_modules() if isinstance(m, Adapter)}


def fuse(net: nn.Module) -> nn.Module:
    """A copy that is an ordinary net: W_s + ΔW in every layer that has an adapter."""
    net = copy.deepcopy(net)
    for path, adapter in adapters(net).items():
        _put(net, path, adapter.fused())
    return net


def apart(net: nn.Module) -> nn.Module:
    """A copy whose adapters run beside the frozen layers, on the same input."""
    net = copy.deepcopy(net)
    for adapter in adapters(net).values():
        adapter.apart = True
    return net


def frozen(net: nn.Module) -> nn.Module:
    """A copy with W_s alone in every layer that has an adapter."""
    net = copy.deepcopy(net)
    for path, adapter in adapters(net).items():
        _put(net, path, adapter.layer)
    return net


def joined(small: nn.Module, net: nn.Module, kept: Mapping[str, Mapping[int, Tensor]]) -> nn.Module:
    """Adapters of ``net``, cut, put into ``small``, in place: what :func:`frozen` gave, pruned.

    ``kept``: layer → axis of its weight → positions that stay; an axis it doesn't name is whole.
    """
    for path, whole in adapters(net).items():
        adapter = copy.deepcopy(whole)
        adapter.layer = small.get_submodule(path)  # type: ignore[assignment]
        for axis, positions in kept.get(path, {}).items():
            adapter.cut(axis, positions)
        _put(small, path, adapter)
    return small


def learned(net: nn.Module) -> int:
    """Parameters that move: adapters, batch norm, biases, head."""
    return sum(p.numel() for p in net.parameters() if p.requires_grad)


def adapter_size(n: int, m: int, rank: int) -> int:
    """Parameters of a low-rank adapter: r (n + m)."""
    return rank * (n + m)


def break_even(n: int, m: int, taps: int = 1) -> float:
    """The rank at which r (n + m) equals the layer's own ``taps`` n m weights."""
    return taps * n * m / (n + m)


def task_bytes(net: nn.Module, filters: int = 0) -> int:
    """Bytes that one task stores: what moves, running statistics, a mask bit for each filter.

    ``filters``: of the source net; 0 where the weights stand for themselves and need no mask.
    """
    statistics = sum(b.numel() for b in net.buffers() if b.is_floating_point())
    return 4 * (learned(net) + statistics) + math.ceil(filters / 8)


def _put(net: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, module)
