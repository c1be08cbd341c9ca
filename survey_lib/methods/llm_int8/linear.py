"""Linear layers that store int8, and nets in which they replace the others.

Bytes a weight, scales aside: fp32 4; ``Int8Linear`` 1 (the published code's way); with
``keep_weights`` 3, int8 and fp16, because O is not known before the input is there.
"""

import copy
from collections.abc import Sequence

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
    """A linear layer by one row of Table 1; its state dict holds int8 weights and scales.

    Buffers: ``weight`` int8 (out, in), ``scale`` fp32 (out, 1) or (1, 1), ``zero`` likewise on an
    asymmetric grid, ``weight_half`` fp16 (out, in) with ``keep_weights``, ``bias`` (out,). With
    ``activations_only`` the weight stays as it is. To load, quantize a net of the same shapes with
    the same config and ``load_state_dict``.

    Args:
        linear: what it replaces; copied, not kept.
        config: kind, α and storage.

    Raises:
        RuntimeError: ``fast``, and torch has no such kernel here.
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
        W_i8 = self.grid(W.float(), 1 if grids.columns else None)
        self.register_buffer("weight", W_i8.q.contiguous())
        self.register_buffer("scale", W_i8.scale.contiguous())
        self.register_buffer("zero", W_i8.zero)
        self.register_buffer("weight_half", W.half() if config.keep_weights else None)
        if config.fast:
            self._packed()

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out); O is found among all tokens that are given."""
        X = x.reshape(-1, self.in_features)  # (s, h)
        X = X if X.dtype == torch.float64 else X.float()
        O = outliers(X, self.alpha) if self.decomposes else None  # noqa: E741
        if O is None or not len(O):
            C = self._eight_bits(X)
        else:
            C = self._without(X, O)
            W_O = self._columns(O).t()  # (|O|, o)
            C += outlier_branch(X.index_select(1, O), W_O, self.config.half)  # Σ_{i∈O} X^i W^i
        if self.bias is not None:
            C += self.bias
        return C.to(x.dtype).view(*x.shape[:-1], self.out_features)

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

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._ready = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_ready": None}

    def extra_repr(self) -> str:
        """What was chosen."""
        alpha = f", alpha={self.alpha:g}" if self.decomposes else ""
        return f"{self.in_features}, {self.out_features}, kind={self.kind!r}{alpha}"


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
    memo = {key: Int8Linear(model.get_submodule(name), config) for key, name in linears.items()}  # type: ignore[arg-type]
    return copy.deepcopy(model, memo)  # type: ignore[arg-type]
