"""The eight ways to multiply in eight bits, one for each row of the paper's Table 1.

Hidden states X (s, h) times weights W (h, o); see :mod:`survey_lib.methods.llm_int8.method`. The
functions say what each way computes; :data:`KINDS` has them by name, :data:`GRIDS` what a layer
that stores its weights has to know.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from survey_lib.mechanics.int8 import Quantized, absmax, product, zeropoint

ALPHA = 6.0
"""The paper's α: a value as large makes its feature an outlier."""


def absmax_matmul(X: Tensor, W: Tensor) -> Tensor:
    """C (s, o): one symmetric grid for X, one for W."""
    return product(absmax(X), absmax(W))  # X_i8 W_i8 / (s_x s_w)


def zeropoint_matmul(X: Tensor, W: Tensor) -> Tensor:
    """C (s, o): one asymmetric grid for X, one for W."""
    return product(zeropoint(X), zeropoint(W))


def row_wise(X: Tensor, W: Tensor) -> Tensor:
    """C (s, o): a symmetric grid for each row of X, one for W."""
    return product(absmax(X, 1), absmax(W))


def vector_wise(X: Tensor, W: Tensor) -> Tensor:
    """C (s, o): a symmetric grid for each row of X and each column of W."""
    return product(absmax(X, 1), absmax(W, 0))  # X_i8 W_i8 / (c_x ⊗ c_w)


def zeropoint_vector_wise(X: Tensor, W: Tensor) -> Tensor:
    """C (s, o): an asymmetric grid for each row of X and each column of W."""
    return product(zeropoint(X, 1), zeropoint(W, 0))


def outliers(X: Tensor, alpha: float = ALPHA) -> Tensor:
    """O: indices of the features (columns of X) in which any token reaches α."""
    if not len(X):  # no token, no outlier
        return torch.zeros(0, dtype=torch.int64, device=X.device)
    return (X.abs().amax(0) >= alpha).nonzero().flatten()


def outlier_branch(X_O: Tensor, W_O: Tensor, half: bool = False) -> Tensor:
    """Σ_{i∈O} X^i W^i (s, o) of (s, |O|) and (|O|, o); ``half`` rounds both to fp16 first."""
    if half:  # as a 16-bit branch reads them; its sums are kept in 32 bits
        X_O, W_O = X_O.half().to(X_O.dtype), W_O.half().to(W_O.dtype)
    return X_O @ W_O.to(X_O.dtype)


def _decomposed(
    X: Tensor,
    W: Tensor,
    alpha: float,
    half: bool,
    grid: Callable[..., Quantized],
    w_dim: int | None,
) -> Tensor:
    """C (s, o): the features in O as they are, the others on grids, a row of X each."""
    O = outliers(X, alpha)  # noqa: E741
    rest = torch.ones(X.shape[1], dtype=torch.bool, device=X.device)
    rest[O] = False
    C = outlier_branch(X[:, O], W[O], half)  # Σ_{i∈O} X^i W^i
    if rest.any():
        W_i8 = grid(W, w_dim)  # once, from all rows
        W_i8 = replace(W_i8, q=W_i8.q[rest])
        C = product(grid(X[:, rest], 1), W_i8) + C  # S · Σ_{i∉O} X^i_i8 W^i_i8
    return C


def row_wise_decomposed(X: Tensor, W: Tensor, alpha: float = ALPHA, half: bool = False) -> Tensor:
    """C (s, o): row-wise, without the outlier features, which are added as they are."""
    return _decomposed(X, W, alpha, half, absmax, None)


def llm_int8(X: Tensor, W: Tensor, alpha: float = ALPHA, half: bool = False) -> Tensor:
    """C (s, o): LLM.int8(): vector-wise absmax, the outlier features added as they are."""
    return _decomposed(X, W, alpha, half, absmax, 0)


def llm_int8_zeropoint(X: Tensor, W: Tensor, alpha: float = ALPHA, half: bool = False) -> Tensor:
    """C (s, o): the same with asymmetric grids."""
    return _decomposed(X, W, alpha, half, zeropoint, 0)


KINDS: dict[str, Callable[..., Tensor]] = {
    "absmax": absmax_matmul,
    "zeropoint": zeropoint_matmul,
    "absmax row-wise": row_wise,
    "absmax vector-wise": vector_wise,
    "zeropoint vector-wise": zeropoint_vector_wise,
    "absmax row-wise + decomposition": row_wise_decomposed,
    "LLM.int8(), absmax": llm_int8,
    "LLM.int8(), zeropoint": llm_int8_zeropoint,
}
"""Rows of Table 1 by their names on the card: functions (X, W) → C; the last three take α."""


@dataclass(frozen=True)
class Grids:
    """How a kind puts X (s, h) and W (h, o) on grids."""

    grid: Callable[..., Quantized] = absmax
    """``absmax`` (symmetric) or ``zeropoint`` (asymmetric)."""
    rows: bool = True
    """A scale of its own for each row of X; else one for all."""
    columns: bool = False
    """A scale of its own for each column of W; else one for all."""
    decomposes: bool = False
    """Outlier features leave both before the scales are taken, and are added in 16 bits."""


GRIDS: dict[str, Grids] = {
    "absmax": Grids(rows=False),
    "zeropoint": Grids(zeropoint, rows=False),
    "absmax row-wise": Grids(),
    "absmax vector-wise": Grids(columns=True),
    "zeropoint vector-wise": Grids(zeropoint, columns=True),
    "absmax row-wise + decomposition": Grids(decomposes=True),
    "LLM.int8(), absmax": Grids(columns=True, decomposes=True),
    "LLM.int8(), zeropoint": Grids(zeropoint, columns=True, decomposes=True),
}
"""The same rows as settings of :class:`survey_lib.methods.llm_int8.linear.Int8Linear`."""


@dataclass(frozen=True)
class Config:
    """Which row of Table 1, and how its outlier branch is stored."""

    kind: str = "LLM.int8(), absmax"
    """A key of :data:`KINDS`."""
    alpha: float = ALPHA
    """α of the decomposition; infinity switches it off."""
    half: bool = False
    """Round what the outlier branch reads to fp16."""
    keep_weights: bool = False
    """Keep all weights in fp16 too, for the outlier branch: the paper's formula, 3 bytes a weight.
    Without, it reads int8 weights back, as the published code does: 1 byte a weight."""
    activations_only: bool = False
    """Weights stay as they are, only X is put on a grid and read back."""
    fast: bool = False
    """Torch's dynamic int8 kernel with 7 bits for X, where only speed counts."""
    names: tuple[str, ...] = ()
    """Linears to replace, by path; none: those of all transformer blocks."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"llm_int8: no kind {self.kind!r}; use one of {', '.join(KINDS)}")
        if not self.alpha >= 0:
            raise ValueError(f"llm_int8: alpha must be ≥ 0, got {self.alpha}")
        if self.keep_weights and self.activations_only:
            raise ValueError("llm_int8: activations_only keeps all weights; drop keep_weights")
        if self.fast and (GRIDS[self.kind].grid is zeropoint or self.activations_only):
            raise ValueError(
                "llm_int8: the fast kernel multiplies int8 weights on a symmetric grid; "
                "drop fast, or choose a kind with absmax and quantized weights"
            )
