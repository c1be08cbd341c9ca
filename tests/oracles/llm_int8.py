"""LLM.int8() the slow way: Python integers and float64, one element after the other.

Written from the paper's formulas (and a consistent zero point), not from the library.
Matrices are lists of rows.
"""

TOP = 127


def symmetric(values):
    """Whole numbers and values per step of one row: s = 127 / max |x|, q = ⌊s x⌉."""
    top = max((abs(v) for v in values), default=0.0)
    if top == 0:
        return [0] * len(values), 1.0, 0.0
    s = TOP / top
    return [round(s * v) for v in values], s, 0.0


def asymmetric(values):
    """zp = 127 + ⌊nd min⌉, q = ⌊nd x⌉ − zp; x̂ = (q + zp) / nd."""
    low, high = min(values), max(values)
    nd = 2 * TOP / (high - low) if high != low else TOP / (abs(low) or TOP)
    zp = TOP + round(nd * low)
    return [round(nd * v) - zp for v in values], nd, zp


def columns(W):
    return [list(column) for column in zip(*W, strict=True)]


def on_grids(vectors, grid, shared):
    """(q, scale, zero) of each vector; with ``shared`` one scale for all of them."""
    if not shared:
        return [grid(v) for v in vectors]
    q, s, zero = grid([x for v in vectors for x in v])
    n = len(vectors[0])
    return [(q[i * n : (i + 1) * n], s, zero) for i in range(len(vectors))]


def matmul(X, W, *, grid, x_shared, w_shared, alpha=None):
    """C[t][j], by its definition.

    The features of O (any token with |x| ≥ α) are multiplied as they are, the others as whole
    numbers on grids that the rows of X get from what is left of them, the columns of W from all.
    """
    h = len(W)
    out = {i for i in range(h) if alpha is not None and any(abs(row[i]) >= alpha for row in X)}
    rest = [i for i in range(h) if i not in out]
    W_q = on_grids(columns(W), grid, w_shared)
    C = [[sum(row[i] * W[i][j] for i in out) for j in range(len(W_q))] for row in X]
    if not rest:
        return C
    X_q = on_grids([[row[i] for i in rest] for row in X], grid, x_shared)
    for t, (a, s_a, zero_a) in enumerate(X_q):
        for j, (b, s_b, zero_b) in enumerate(W_q):
            b = [b[i] for i in rest]
            whole = sum(x * y for x, y in zip(a, b, strict=True))  # AB, exact
            total = whole + zero_b * sum(a) + zero_a * sum(b) + len(rest) * zero_a * zero_b
            C[t][j] += total / (s_a * s_b)
    return C


KINDS = {
    "absmax": {"grid": symmetric, "x_shared": True, "w_shared": True},
    "zeropoint": {"grid": asymmetric, "x_shared": True, "w_shared": True},
    "absmax row-wise": {"grid": symmetric, "x_shared": False, "w_shared": True},
    "absmax vector-wise": {"grid": symmetric, "x_shared": False, "w_shared": False},
    "zeropoint vector-wise": {"grid": asymmetric, "x_shared": False, "w_shared": False},
    "absmax row-wise + decomposition": {
        "grid": symmetric, "x_shared": False, "w_shared": True, "alpha": 6.0
    },
    "LLM.int8(), absmax": {
        "grid": symmetric, "x_shared": False, "w_shared": False, "alpha": 6.0
    },
    "LLM.int8(), zeropoint": {
        "grid": asymmetric, "x_shared": False, "w_shared": False, "alpha": 6.0
    },
}  # fmt: skip
