"""Dettmers et al. (2022): what is asked of the runs, and which runs that takes."""

from collections.abc import Callable, Sequence
from typing import Any

from survey_lib.evidence.protocol import Role, Rows, statistics
from survey_lib.experiments.llm_int8.cells import (
    ABSMAX,
    FEATURES_OF_SMOLLM2,
    FP32,
    KINDS,
    LLM,
    LLM_ZEROPOINT,
    ROW,
    VECTOR,
    ZEROPOINT,
    Cell,
)

SCALES = (1, 2, 4, 8, 16, 32, 64, 128)
"""What planted features are multiplied by, in the character model."""
PAPERS, LARGE = 16, 64
"""As many times the ordinary values as the paper's outliers at 13 B, and four times that."""
UP_TO_LARGE = SCALES[: SCALES.index(LARGE) + 1]
SHIFT = 3.0
"""Added to planted features in the one-sided form."""
ONE_SIDED = (1, 4, PAPERS, LARGE)
SEEDS, FEW = 8, 5
"""Draws of the planted features, and those with which a setting is looked at that no claim asks."""
CHUNKS, EVERY = 76, 8
"""Chunks of WikiText-2's test text, and how many of them one is read of."""
TEXT = range(0, CHUNKS, EVERY)
"""The chunks that all nine rows read, spread over the whole text."""
PART = TEXT[:FEW]
"""Chunks on which outliers are planted into SmolLM2 and features set to zero."""

ROLES: tuple[Role, ...] = ()
"""Nothing is trained, so no rate is chosen."""
RATES: dict[str, float] = {}
REPLICATES = (900, 901, 902)


# ---- grids


def _characters(seed: int) -> list[Cell]:
    """What claims ask of a draw: sizes, both forms, and weights kept for outlier rows."""
    return [
        *(Cell("planted", seed, scale=s) for s in SCALES),
        *(Cell("planted", seed, scale=s, shift=SHIFT) for s in ONE_SIDED),
        *(Cell("planted", seed, scale=s, keep_weights=True) for s in (PAPERS, LARGE)),
        Cell("planted", seed, scale=LARGE, shift=SHIFT, keep_weights=True),
    ]


def _variants(seed: int) -> list[Cell]:
    return [
        *(Cell("planted", seed, scale=s, states_only=True) for s in (1, 4, PAPERS, LARGE)),
        *(Cell("planted", seed, scale=LARGE, features=n) for n in (1, 2)),
        *(Cell("planted", seed, scale=LARGE, layers=share) for share in (0.25, 0.5)),
        *(Cell("planted", seed, scale=PAPERS, alpha=a) for a in (3.0, 12.0)),
    ]


def _rows(chunk: int, kinds: Sequence[str] = KINDS) -> list[Cell]:
    return [Cell("text", chunk, kind=kind) for kind in kinds]


def _zeroed(chunk: int, *which: str) -> list[Cell]:
    return [Cell("zeroed", chunk, zeroed=z) for z in which]


def _planted_real(chunk: int) -> list[Cell]:
    """Outliers beside SmolLM2's own."""
    return [
        *(Cell("text", chunk, kind=VECTOR, scale=s) for s in (PAPERS, LARGE)),
        *(Cell("text", chunk, kind=LLM, scale=LARGE, keep_weights=k) for k in (False, True)),
    ]


def _study() -> list[Cell]:
    """SmolLM2's features first: others wait for them."""
    cells = [
        FEATURES_OF_SMOLLM2, Cell("bytes", 0, "smollm2"), Cell("explore", 0),
        Cell("features", 0), Cell("features", 0, scale=PAPERS),
    ]  # fmt: skip
    for chunk in TEXT:
        cells += [*_rows(chunk), Cell("text", chunk, kind=LLM, states_only=True)]
    for chunk in PART:
        cells += _planted_real(chunk) + _zeroed(chunk, "largest", "random", "outliers", "as many")
    cells += [c for s in range(SEEDS) for c in _characters(s)]
    return cells + [c for s in range(FEW) for c in _variants(s)]


def _quick() -> list[Cell]:
    """A slice of the study: planted sizes in both forms, and the first chunk of WikiText-2."""
    return [
        *(Cell("planted", 0, scale=s) for s in (1, PAPERS, LARGE)),
        Cell("planted", 0, scale=LARGE, shift=SHIFT),
        *_rows(0, (FP32, ABSMAX, VECTOR, LLM)),
    ]


def _smoke() -> list[Cell]:
    """What the page draws from a fresh run, without the large model."""
    return [Cell("planted", 0), Cell("planted", 0, scale=PAPERS)]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": list,
}
"""Profile → its cells; every quick cell is one of the study's."""


# ---- what is asked of the character model: rows of one draw → a number


def added(rows: Rows, kind: str, scale: int, **more: Any) -> float:
    """Nats that a row of the table adds to the character model's loss."""
    return rows.one(arm="planted", scale=scale, **more)["added"][kind]


def decomposition_loss(rows: Rows) -> float:
    """LLM.int8(), int8 alone: nats added, largest over the planted sizes up to 64."""
    return max(added(rows, LLM, s) for s in UP_TO_LARGE)


def decomposition_loss_rows_kept(rows: Rows) -> float:
    """The same with the outlier rows of W in 16 bits; outliers of both forms."""
    forms = ({"scale": PAPERS}, {"scale": LARGE}, {"scale": LARGE, "shift": SHIFT})
    return max(added(rows, LLM, keep_weights=True, **form) for form in forms)


def reading_back(rows: Rows) -> float:
    """LLM.int8(), large one-sided outliers: nats added by int8 alone minus with rows kept."""
    alone, kept = (
        added(rows, LLM, LARGE, shift=SHIFT, keep_weights=keep) for keep in (False, True)
    )
    return alone - kept


def vector_wise_at_the_papers_size(rows: Rows) -> float:
    """Vector-wise: nats added with outliers 16 times as large, minus those without any."""
    return added(rows, VECTOR, PAPERS) - added(rows, VECTOR, 1)


def vector_wise_when_large(rows: Rows) -> float:
    """Vector-wise: nats added with outliers 64 times as large, minus those without any."""
    return added(rows, VECTOR, LARGE) - added(rows, VECTOR, 1)


def row_over_vector_wise(rows: Rows) -> float:
    """Large outliers: nats added by row-wise over nats added by vector-wise."""
    return added(rows, ROW, LARGE) / added(rows, VECTOR, LARGE)


def absmax_over_zeropoint(rows: Rows) -> float:
    """Large one-sided outliers, one scale each: nats added by absmax minus by zeropoint."""
    kinds = (ABSMAX, ZEROPOINT)
    absmax, zeropoint = (added(rows, k, LARGE, shift=SHIFT) for k in kinds)
    return absmax - zeropoint


def absmax_over_zeropoint_decomposed(rows: Rows) -> float:
    """The same under LLM.int8(), int8 alone."""
    absmax, zeropoint = (added(rows, k, LARGE, shift=SHIFT) for k in (LLM, LLM_ZEROPOINT))
    return absmax - zeropoint


def absmax_over_zeropoint_rows_kept(rows: Rows) -> float:
    """The same under LLM.int8() with the outlier rows of W in 16 bits."""
    absmax, zeropoint = (
        added(rows, k, LARGE, shift=SHIFT, keep_weights=True) for k in (LLM, LLM_ZEROPOINT)
    )
    return absmax - zeropoint


# ---- what is asked of SmolLM2: rows of one chunk → a number


def loss(rows: Rows, kind: str, **more: Any) -> float:
    """Nats a token on a chunk under a row of the table."""
    return rows.one(arm="text", kind=kind, **more)["log_perplexity"]


def smollm2_decomposition_loss(rows: Rows) -> float:
    """LLM.int8(), int8 alone: nats added."""
    return loss(rows, LLM) - loss(rows, FP32)


def smollm2_decomposition_loss_states(rows: Rows) -> float:
    """LLM.int8(), weights as they are: nats added by the states alone."""
    return loss(rows, LLM, states_only=True) - loss(rows, FP32)


def smollm2_vector_wise_at_the_papers_size(rows: Rows) -> float:
    """Vector-wise: nats added by outliers 16 times as large."""
    return loss(rows, VECTOR, scale=PAPERS) - loss(rows, VECTOR)


def smollm2_vector_wise_when_large(rows: Rows) -> float:
    """Vector-wise: nats added by outliers 64 times as large."""
    return loss(rows, VECTOR, scale=LARGE) - loss(rows, VECTOR)


def smollm2_row_over_vector_wise(rows: Rows) -> float:
    """Nats added by row-wise over nats added by vector-wise."""
    return (loss(rows, ROW) - loss(rows, FP32)) / (loss(rows, VECTOR) - loss(rows, FP32))


def smollm2_absmax_over_zeropoint(rows: Rows) -> float:
    """One scale each: nats added by absmax minus by zeropoint."""
    return loss(rows, ABSMAX) - loss(rows, ZEROPOINT)


def smollm2_absmax_over_zeropoint_decomposed(rows: Rows) -> float:
    """The same under LLM.int8(), int8 alone."""
    return loss(rows, LLM) - loss(rows, LLM_ZEROPOINT)


def criteria_over_random(rows: Rows) -> float:
    """Nats by which zeroing the features of the paper's criteria is worse than random ones."""
    found, random = (rows.one(arm="zeroed", zeroed=z) for z in ("outliers", "as many"))
    return found["log_perplexity"] - random["log_perplexity"]


def bytes_over_half_precision(rows: Rows) -> float:
    """Bytes of SmolLM2's linear layers in int8, scales included, over the same in 16 bits."""
    numbers = rows.one(arm="bytes", net="smollm2")
    return numbers["int8"] / numbers["float16"]


def whole_net_over_half_precision(rows: Rows) -> float:
    """Bytes of all of SmolLM2, what is not quantized in 16 bits, over all of it in 16 bits."""
    numbers = rows.one(arm="bytes", net="smollm2")
    rest = 2 * numbers["rest_parameters"]
    return (numbers["int8"] + rest) / (numbers["float16"] + rest)


STATISTICS = statistics(
    Cell, decomposition_loss, decomposition_loss_rows_kept, reading_back,
    vector_wise_at_the_papers_size, vector_wise_when_large, row_over_vector_wise,
    absmax_over_zeropoint, absmax_over_zeropoint_decomposed, absmax_over_zeropoint_rows_kept,
    smollm2_decomposition_loss, smollm2_decomposition_loss_states,
    smollm2_vector_wise_at_the_papers_size, smollm2_vector_wise_when_large,
    smollm2_row_over_vector_wise, smollm2_absmax_over_zeropoint,
    smollm2_absmax_over_zeropoint_decomposed, criteria_over_random,
    bytes_over_half_precision, whole_net_over_half_precision, free=(),
)  # fmt: skip
