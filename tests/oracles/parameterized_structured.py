"""Slow, literal twins of Schindler et al. (2019), in float64 and plain loops."""

import itertools

import numpy as np


def nu(alpha, epsilon):
    """ν of each α: zero where |α| < ε."""
    return np.array([0.0 if abs(a) < epsilon else a for a in alpha])


def members(shape, granularity):
    """Lists of the indices (k, c, r, s) of a weight's structures, in the order of α's entries."""
    names = {"column": "crs", "channel": "c", "filter": "k", "shape": "rs", "layer": ""}
    axes = ["kcrs".index(letter) for letter in names[granularity]]
    found = {}
    for index in itertools.product(*map(range, shape)):
        found.setdefault(tuple(index[a] for a in axes), []).append(index)
    return [found[key] for key in sorted(found)]


def effective(w, alpha, epsilon, granularity):
    """q_ij = ν_i w_ij, one entry at a time."""
    q = np.zeros_like(w)
    for value, places in zip(nu(alpha, epsilon), members(w.shape, granularity), strict=True):
        for place in places:
            q[place] = value * w[place]
    return q


def gradients(dq, w, alpha, epsilon, granularity):
    """∂E/∂α_i = Σ_j ∂E/∂q_ij w_ij and ∂E/∂w_ij = ν_i ∂E/∂q_ij."""
    d_alpha, dw = np.zeros(len(alpha)), np.zeros_like(w)
    sparse = nu(alpha, epsilon)
    for i, places in enumerate(members(w.shape, granularity)):
        for place in places:
            d_alpha[i] += dq[place] * w[place]
            dw[place] = sparse[i] * dq[place]
    return d_alpha, dw


def equation_6(alpha, gradient, eta, mu, lam, steps):
    """Δα(t+1) = μ Δα(t) − η ∂E/∂α − λ η α; α after so many steps, gradient(α) given."""
    alpha, delta = np.array(alpha, float), np.zeros(len(alpha))
    for _ in range(steps):
        delta = mu * delta - eta * gradient(alpha) - lam * eta * alpha
        alpha = alpha + delta
    return alpha


def soft_threshold(c, lam_alpha, lam_w):
    """Minimiser q = α w of ½ |α w − c|² + ½ λ_α α² + ½ λ_w |w|²: a block soft threshold of c."""
    c = np.atleast_1d(np.asarray(c, float))
    size = np.sqrt((c**2).sum())
    return c * max(size - np.sqrt(lam_alpha * lam_w), 0.0) / size


def columns_of(w):
    """The im2col matrix (K, C · R · S) of a weight."""
    return np.array([[w[k, c, r, s] for c in range(w.shape[1]) for r in range(w.shape[2])
                      for s in range(w.shape[3])] for k in range(w.shape[0])])  # fmt: skip


def lowest(norms, costs, target):
    """Structures (layer, place) that go, smallest norm first, until the rest costs ≤ target."""
    order = sorted((value, layer, place) for layer, values in enumerate(norms)
                   for place, value in enumerate(values))  # fmt: skip
    left = sum(costs[layer] * len(values) for layer, values in enumerate(norms))
    gone = []
    for _, layer, place in order:
        if left <= target:
            break
        left -= costs[layer]
        gone.append((layer, place))
    return gone
