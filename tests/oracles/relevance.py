"""Slow, literal twins of the rules of relevance: loops over matrices, one message at a time."""

import torch
from torch import Tensor


def matrix(f, shape) -> Tensor:
    """The matrix W (inputs, outputs) of a linear function of tensors of this shape, row by row."""
    n = int(torch.tensor(shape).prod())
    eye = torch.eye(n, dtype=torch.float64).reshape(n, *shape)
    return torch.stack([f(e[None])[0].flatten() for e in eye])


def alpha_beta(a, w, r, alpha=1.0, beta=0.0):
    """Σ_j (α (a_i w_ij)⁺ / Σ (…)⁺ − β (a_i w_ij)⁻ / Σ (…)⁻) R_j."""
    found = [0.0] * len(a)
    for j in range(len(r)):
        up = sum(max(a[i] * w[i][j], 0) for i in range(len(a)))
        down = sum(min(a[i] * w[i][j], 0) for i in range(len(a)))
        for i in range(len(a)):
            if up:
                found[i] += alpha * max(a[i] * w[i][j], 0) / up * r[j]
            if down:
                found[i] -= beta * min(a[i] * w[i][j], 0) / down * r[j]
    return found


def epsilon(a, w, r, b=None, eps=0.0):
    """Σ_j a_i w_ij / (z_j + ε sign z_j) R_j with z_j = Σ_i a_i w_ij + b_j."""
    found = [0.0] * len(a)
    for j in range(len(r)):
        z = sum(a[i] * w[i][j] for i in range(len(a))) + (b[j] if b is not None else 0)
        z += eps if z >= 0 else -eps
        for i in range(len(a)):
            found[i] += a[i] * w[i][j] / z * r[j]
    return found


def box(a, w, r, low, high):
    """Σ_j (a_i w_ij − l w_ij⁺ − h w_ij⁻) / Σ (…) R_j."""
    found = [0.0] * len(a)
    for j in range(len(r)):
        part = [
            a[i] * w[i][j] - low * max(w[i][j], 0) - high * min(w[i][j], 0) for i in range(len(a))
        ]
        for i in range(len(a)):
            found[i] += part[i] / sum(part) * r[j]
    return found


def through(rule, f, a: Tensor, r: Tensor, **more) -> Tensor:
    """A rule over the matrix of ``f``, for tensors (1, …) of any shape."""
    w = matrix(f, a.shape[1:]).tolist()
    found = rule(a.flatten().tolist(), w, r.flatten().tolist(), **more)
    return torch.tensor(found, dtype=torch.float64).reshape(a.shape)


def biggest(a: Tensor, r: Tensor, size: int) -> Tensor:
    """Max pooling (1, C, H, W) by windows of ``size``: all to the first of the largest."""
    found = torch.zeros_like(a)
    for c in range(r.shape[1]):
        for y in range(r.shape[2]):
            for x in range(r.shape[3]):
                window = a[0, c, y * size : (y + 1) * size, x * size : (x + 1) * size]
                dy, dx = divmod(int(window.flatten().argmax()), size)
                found[0, c, y * size + dy, x * size + dx] += r[0, c, y, x]
    return found


def shares(a: Tensor, b: Tensor, r: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """A sum's relevance, element by element, in proportion to a and b."""
    left, right = torch.zeros_like(a), torch.zeros_like(b)
    for i in range(a.numel()):
        x, y, z = float(a.flatten()[i]), float(b.flatten()[i]), float(r.flatten()[i])
        total = x + y + (eps if x + y >= 0 else -eps)
        left.view(-1)[i], right.view(-1)[i] = x / total * z, y / total * z
    return left, right
