"""Linear layers that store int8, and nets in which they replace the others.

Bytes a weight, scales aside: fp32 4; ``Int8Linear`` 1 (the published code's way); with
``keep_weights`` 3, int8 and fp16, because O is not known before the input is there.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib.mechanics.int8 import (
    Quantized,
    absmax,
    dynamic_product,
    pack,
    product,
    whole,
    zeropoint,
)
from survey_lib.methods.llm_int8.kinds import GRIDS, Config, outlier_branch, outliers


class Int8Linear(nn.Module):
    r"""A linear layer by one row of Table 1; its state dict holds int8 weights and scales.

    Buffers: ``weight`` int8 (out, in), ``scale`` fp32 (out, 1) or (1, 1), ``zero`` likewise on an
    asymmetric grid, ``weight_half`` fp16 (out, in) with ``keep_weights``, ``bias`` (out,). With
    ``activations_only`` the weight stays as it is. To load, quantize a net of the same shapes with
    the same config and ``load_state_dict``. A cast of the net (``half()``, ``double()``) casts the
    bias and what is not quantized; the grid stays as it is, since scales have more range than fp16.

    Nothing in it is trained. A gradient goes straight through the rounding of X: what comes back is
    :math:`\partial L / \partial C` times the weights that the pass multiplied by.

    Args:
        linear: what it replaces; copied, not kept.
        config: kind, α and storage.

    Raises:
        RuntimeError: ``fast``, and torch has no such kernel here.
        ValueError: a weight that is not finite, or more than its storage holds.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor | None
    weight_half: Tensor | None
    bias: Tensor | None

    def __init__(self, linear: nn.Linear, config: Config):
        super().__init__()
        self.config = config
        self.kind, self.alpha = config.kind, config.alpha
        self.in_features, self.out_features = linear.in_features, linear.out_features
        grids = GRIDS[config.kind]
        self.grid, self.decomposes = grids.grid, grids.decomposes
        self.x_dim = 1 if grids.rows else None
        self._ready: tuple | None = None
        W = linear.weight.detach()  # (out, in): a column of the paper's W is a row here
        bias = None if linear.bias is None else linear.bias.detach().clone()
        self.register_buffer("bias", bias)
        if config.activations_only:
            self.register_buffer("weight", W.clone())
            return
        _check_weight(W, "fp32")
        W_i8 = self.grid(W.float(), 1 if grids.columns else None)
        self.register_buffer("weight", W_i8.q.contiguous())
        self.register_buffer("scale", W_i8.scale.contiguous())
        self.register_buffer("zero", W_i8.zero)
        if config.keep_weights:
            _check_weight(W, "fp16")
        self.register_buffer("weight_half", W.half() if config.keep_weights else None)
        if config.fast:
            self._packed()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out); O is found among all tokens that are given."""
        X = x.reshape(x.shape[:-1].numel(), self.in_features)  # (s, h)
        X = X if X.dtype == torch.float64 else X.float()
        if X.requires_grad and torch.is_grad_enabled():
            C = _StraightThrough.apply(X, self)
        else:
            C = self._multiply(X)[0]
        if self.bias is not None:
            C = C + self.bias if C.requires_grad else C.add_(self.bias)
        return C.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def _multiply(self, X: Tensor) -> tuple[Tensor, Tensor | None]:
        """C (s, o) of X (s, h) without the bias, and O where the kind looks for outliers."""
        O = outliers(X, self.alpha) if self.decomposes else None  # noqa: E741
        if not len(X):
            return X.new_zeros(0, self.out_features), O
        if O is None or not len(O):
            return self._eight_bits(X), O
        C = self._without(X, O)
        W_O = self._columns(O).t()  # (|O|, o)
        C += outlier_branch(X.index_select(1, O), W_O, self.config.half)  # Σ_{i∈O} X^i W^i
        return C, O

    def _multiplied_by(self, O: Tensor | None, dtype: torch.dtype) -> Tensor:  # noqa: E741
        """(out, in) weights that a pass with the outlier features O multiplied by."""
        W = self.dequantized().to(dtype)
        if O is None or not len(O):
            return W
        W_O = self._columns(O)
        return W.index_copy(1, O, (W_O.half() if self.config.half else W_O).to(dtype))

    def _eight_bits(self, X: Tensor) -> Tensor:
        """C (s, o) of X (s, h), all features on the grid."""
        if self.config.activations_only:
            return self.grid(X, self.x_dim, X.dtype).dequantize() @ self.weight.t().to(X.dtype)
        if self.config.fast:
            return dynamic_product(X, self._packed(), self.x_dim)
        W, sums = self._weights()
        return product(self.grid(X, self.x_dim, W.q.dtype), W, sums)

    def _without(self, X: Tensor, O: Tensor) -> Tensor:  # noqa: E741
        """C (s, o) of the features that are not in O, on grids taken without O."""
        if self.grid is absmax:  # a zero leaves the largest value and the sums alone
            return self._eight_bits(X.index_fill(1, O, 0))
        if len(O) == self.in_features:
            return X.new_zeros(len(X), self.out_features)
        left = torch.ones_like(X[0], dtype=torch.bool).index_fill(0, O, False)
        left = left.nonzero().flatten()
        X = X.index_select(1, left)
        if self.config.activations_only:
            W = self.weight.index_select(1, left).t().to(X.dtype)
            return zeropoint(X, self.x_dim, X.dtype).dequantize() @ W
        W, sums = self._weights()
        part = Quantized(W.q.t().index_select(1, left).t(), W.scale, W.zero)
        sums = sums - self.weight.index_select(1, O).sum(1).to(sums)  # (1, o)
        return product(zeropoint(X, self.x_dim, W.q.dtype), part, sums)

    def _columns(self, O: Tensor) -> Tensor:  # noqa: E741
        """(out, |O|) weights of the outlier features, from fp16 or back from int8."""
        kept = self.weight if self.config.activations_only else self.weight_half
        if kept is not None:
            return kept.index_select(1, O)
        return Quantized(self.weight.index_select(1, O), self.scale, self.zero).dequantize()

    def dequantized(self) -> Tensor:
        """(out, in) weights that the eight-bit branch stands for."""
        if self.config.activations_only:
            return self.weight
        return Quantized(self.weight, self.scale, self.zero).dequantize()

    def bytes(self) -> int:
        """Bytes of everything that is saved."""
        return sum(b.numel() * b.element_size() for b in self.buffers())

    # ---- made from the buffers when first used, never saved

    def _weights(self) -> tuple[Quantized, Tensor]:
        """W (h, o) in the type that multiplies fastest, and its column sums (1, o)."""
        if self._ready is None or self._ready[0].q.device != self.weight.device:
            q = self.weight.to(whole(self.weight.device))
            W = Quantized(q, self.scale, self.zero).t()
            sums = self.weight.sum(1, dtype=torch.int32).to(self.scale.dtype)[None]
            self._ready = (W, sums)
        return self._ready

    def _packed(self) -> object:
        """The weights as torch's dynamic kernel wants them."""
        if self._ready is None:
            self._ready = (pack(Quantized(self.weight, self.scale)),)
        return self._ready[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Int8Linear":
        grid = ("scale", "zero", "weight_half")
        grid = grid if self.config.activations_only else ("weight", *grid)
        before = {name: self._buffers.get(name) for name in grid}
        super()._apply(fn, recurse)
        for name, old in before.items():
            new = self._buffers.get(name)
            if old is not None and new is not None and new.dtype != old.dtype:
                self._buffers[name] = old.to(new.device)
        self._ready = None
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_ready": None}

    def extra_repr(self) -> str:
        """What was chosen."""
        alpha = f", alpha={self.alpha:g}" if self.decomposes else ""
        return f"{self.in_features}, {self.out_features}, kind={self.kind!r}{alpha}"


class _StraightThrough(torch.autograd.Function):
    """C of X, and ∂L/∂X = ∂L/∂C Ŵ: rounding to the grid is taken for the identity."""

    @staticmethod
    def forward(ctx: Any, X: Tensor, layer: Int8Linear) -> Tensor:
        C, ctx.O = layer._multiply(X)
        ctx.layer = layer
        return C

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer._multiplied_by(ctx.O, grads[0].dtype), None


def _check_weight(W: Tensor, stored: str) -> None:
    if not W.isfinite().all():
        raise ValueError(
            "llm_int8: the weight holds NaN or infinity, from which no scale can be taken; mend "
            "the net, or leave this layer out"
        )
    top = torch.finfo(torch.float16 if stored == "fp16" else torch.float32).max
    if W.numel() and W.abs().max() > top:
        raise ValueError(
            f"llm_int8: the weight holds {float(W.abs().max()):.3g}, more than {stored} does; "
            "leave this layer out" + (", or drop keep_weights" if stored == "fp16" else "")
        )


def _get(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def quantize(model: nn.Module, names: Sequence[str], config: Config) -> nn.Module:
    """A copy of ``model`` in which the named linears are :class:`Int8Linear`; raises ValueError.

    The copy shares the replaced weights with nobody; all else is copied.
    """
    for name in names:
        if not isinstance(_get(model, name), nn.Linear):
            raise ValueError(f"llm_int8: {type(model).__name__} has no linear layer {name!r}")
    linears = {id(model.get_submodule(name)): name for name in names}
    # a linear is replaced, not copied: a net fills memory once, not twice
    memo = {}
    for key, name in linears.items():
        try:
            memo[key] = Int8Linear(model.get_submodule(name), config)  # type: ignore[arg-type]
        except ValueError as why:
            raise ValueError(f"{name}: {why}") from None
    return copy.deepcopy(model, memo)  # type: ignore[arg-type]
