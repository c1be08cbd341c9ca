r"""LLM.int8() (Dettmers et al. 2022, bibliography key ``dettmers2022llmint8``).

A linear layer multiplies hidden states :math:`X` (s, h) by weights :math:`W` (h, o): s tokens of
the call, h features, o outputs. Eight functions do it in whole numbers of eight bits, one for each
row of the paper's Table 1 (:mod:`.kinds`). They differ in three things: the grid (absmax or
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

from time import perf_counter

import torch
from torch import nn

from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.compressed import Compressed
from survey_lib.methods.llm_int8.kinds import (  # noqa: F401 (the paper's functions, by one name)
    ALPHA,
    KINDS,
    Config,
    _decomposed,
    absmax_matmul,
    llm_int8,
    llm_int8_zeropoint,
    outlier_branch,
    outliers,
    row_wise,
    row_wise_decomposed,
    vector_wise,
    zeropoint_matmul,
    zeropoint_vector_wise,
)
from survey_lib.methods.llm_int8.linear import Int8Linear, quantize
from survey_lib.tasks.task import Task, Training

STEERS = "outcome"
KIND = "bits"


def compress(
    model: nn.Module,
    task: Task,
    budget: None = None,
    config: Config = Config(),  # noqa: B008 (frozen)
    *,
    tuning: Training | None,
    generator: torch.Generator,
) -> Compressed:
    """Replace the linears of a trained ``model``'s blocks in a copy; nothing is drawn or trained.

    Args:
        model: a ``char_gpt``, or a Hugging Face decoder whose linears have the usual names.
        task: not needed, as nothing is calibrated.
        budget: must be None: bytes follow from the kind.
        config: row of Table 1, α, which linears.
        tuning: must be None: refused rather than left unspent.
        generator: not used.

    Raises:
        ValueError: a budget, a tuning, or names that are no linears.
        GraphError: no names, and a net that is built otherwise than a known decoder.
    """
    del task, generator
    if tuning is not None:
        raise ValueError("llm_int8 trains nothing: give tuning=None")
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
    return Compressed(
        net,
        table,
        perf_counter() - start,
        forward_passes=0,
        backward_passes=0,
        bits=dict.fromkeys(names, config.kind),
    )
