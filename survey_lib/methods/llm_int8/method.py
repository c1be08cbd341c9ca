r"""LLM.int8() (Dettmers et al. 2022, bibliography key ``dettmers2022llmint8``).

A linear layer multiplies hidden states :math:`X` (s, h) by weights :math:`W` (h, o): s tokens of
the call, h features, o outputs. Eight functions do it in whole numbers of eight bits, one for each
row of the paper's Table 1 (:data:`KINDS`). They differ in three things: the grid (absmax or
zeropoint), whether rows of X and columns of W have scales of their own, and whether the outlier
features

.. math:: O = \{ i : \exists t,\ |X_{ti}| \ge \alpha \}

are taken out and multiplied in 16 bits:

.. math:: C \approx \sum_{i \in O} X^i W^i + \frac{1}{c_x \otimes c_w}
          \sum_{i \notin O} X^i_{i8} W^i_{i8} .

Faithful: O is found anew in the input of each call, from all its tokens, without calibration, and
leaves X before the scales are taken; weights are quantized once, outlier rows included, without
training; the linears of attention and feed-forward network are replaced, the products inside
attention, embeddings, norms and the head are not; int8 sums are exact.

Differs: the "16-bit" branch is computed in the net's own precision (fp32 on a processor);
``half=True`` rounds what it reads to fp16 first. The paper's text says larger than α, its code ≥,
as here. The printed zero point is inconsistent; see :func:`survey_lib.mechanics.int8.zeropoint`.
What row-wise means for W is not said; one scale for all of W is read from section 4.3.
The published code multiplies the outliers by dequantized int8 rows of W, because it stores no
others; :class:`~survey_lib.methods.llm_int8.linear.Int8Linear` does both.

Cost: no pass over data. Each call reads X once more for its scales and once for O.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter

import torch
from torch import Tensor, nn

from survey_lib.mechanics.decoder import decoder
from survey_lib.mechanics.int8 import Quantized, absmax, product, zeropoint
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task

STEERS = "outcome"
KIND = "bits"
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
        if self.fast and ("zeropoint" in self.kind or self.activations_only):
            raise ValueError(
                "llm_int8: the fast kernel multiplies int8 weights on a symmetric grid; "
                "drop fast, or choose a kind with absmax and quantized weights"
            )


def compress(
    model: nn.Module,
    task: Task,
    budget: None = None,
    config: Config = Config(),
    *,
    generator: torch.Generator,
) -> Compressed:
    """Replace the linears of a trained ``model``'s blocks in a copy; nothing is drawn or trained.

    Args:
        model: a ``char_gpt``, or a Hugging Face decoder whose linears have the usual names.
        task: not needed, as nothing is calibrated.
        budget: must be None: bytes follow from the kind.
        config: row of Table 1, α, which linears.
        generator: not used.

    Raises:
        ValueError: a budget, or names that are no linears.
        GraphError: no names, and a net that is built otherwise than a known decoder.
    """
    from survey_lib.methods.llm_int8.linear import Int8Linear, quantize

    del task, generator
    if budget is not None:
        raise ValueError("llm_int8 takes no budget: bytes follow from its kind; give budget=None")
    start = perf_counter()
    names = config.names or decoder(model).linears
    net = quantize(model, names, config).eval()
    table = []
    for name in names:
        linear, new = model.get_submodule(name), net.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        assert isinstance(new, Int8Linear)
        before = sum(p.numel() * p.element_size() for p in linear.parameters())
        W = linear.weight.detach()
        error = (new.dequantized().to(W.dtype) - W).norm() / W.norm().clamp_min(1e-30)
        table.append({"layer": name, "bytes": before, "kept": new.bytes(), "error": float(error)})
    return Compressed(net, table, perf_counter() - start, forward_passes=0, backward_passes=0)
