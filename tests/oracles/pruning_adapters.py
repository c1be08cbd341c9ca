"""Slow, literal twins of an adapted layer: the paper's formula, entry by entry, in float64."""

import torch
from torch import Tensor


def masked(w_s, w_down, w_up, rows, columns) -> list[list[float]]:
    """W_t of the equation, zeros where a channel is masked; lists, W as the paper has it (n, m)."""
    n, m, r = len(w_s), len(w_s[0]), len(w_up)
    found = [[0.0] * m for _ in range(n)]
    for i in range(n):
        for j in range(m):
            found[i][j] = w_s[i][j] * rows[i] * columns[j]
            for k in range(r):
                found[i][j] += (w_down[i][k] * rows[i]) * (w_up[k][j] * columns[j])
    return found


def without_zeros(w, rows, columns) -> list[list[float]]:
    """The rows and columns that no mask zeroes."""
    return [[w[i][j] for j in range(len(w[0])) if columns[j]] for i in range(len(w)) if rows[i]]


def convolution(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """(N, n, H, W) by (m, n, k, k), one product at a time, zeros around."""
    images, _, height, width = x.shape
    m, _, k, _ = weight.shape
    out = [(size + 2 * padding - k) // stride + 1 for size in (height, width)]
    y = torch.zeros(images, m, *out, dtype=torch.float64)
    for i in range(out[0]):
        for j in range(out[1]):
            for a in range(k):
                for b in range(k):
                    p, q = i * stride - padding + a, j * stride - padding + b
                    if 0 <= p < height and 0 <= q < width:
                        y[:, :, i, j] += x[:, :, p, q] @ weight[:, :, a, b].T
    return y


def pointwise(x: Tensor, w: Tensor, stride: int) -> Tensor:
    """(N, n, H, W) by (n, m): at every position that is stepped on, y = x W."""
    at = x[:, :, ::stride, ::stride]
    return torch.einsum("bnhw,nm->bmhw", at, w)
