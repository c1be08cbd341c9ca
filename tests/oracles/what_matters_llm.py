"""Santacroce et al. (2023), slow and literal: one neuron, one token, one weight at a time."""

import math

import torch


def kept_at(t, T, v_f, t_i, t_f):
    """The code's schedule, in steps."""
    if t <= t_i:
        return 1.0
    if t >= T - t_f:
        return v_f
    left = 1 - (t - t_i) / (T - t_i - t_f)
    return v_f + (1 - v_f) * left * left * left


def similarity(h):
    """Cosines of the neurons' outputs h (tokens, n), one pair at a time."""
    n = h.shape[1]
    sim = torch.zeros(n, n, dtype=torch.float64)
    for i in range(n):
        for j in range(n):
            dot = sum(float(h[x, i]) * float(h[x, j]) for x in range(len(h)))
            one = math.sqrt(sum(float(h[x, i]) ** 2 for x in range(len(h))))
            other = math.sqrt(sum(float(h[x, j]) ** 2 for x in range(len(h))))
            sim[i, j] = dot / (one * other) if one and other else 0.0
    return sim


def uniqueness(h, alike=0.8):
    """1 - share of neurons i with a later j that is as similar."""
    sim, n = similarity(h), h.shape[1]
    redundant = sum(any(sim[i, j] >= alike for j in range(i + 1, n)) for i in range(n))
    return 1 - redundant / n


def redundancy(h, kept, v):
    """U of every neuron among the kept ones."""
    sim, n = similarity(h), h.shape[1]
    return [
        sum(abs(float(sim[i, j])) for i in range(n) if i != j and kept[i]) / (n * v)
        for j in range(n)
    ]


def penalty(S, U, weight, lambda_gum):
    """R of the layers' scores, as the code adds it to the loss: a tensor to differentiate."""
    layers = []
    for s, u in zip(S, U, strict=True):
        each = [(1 + lambda_gum * u[j]) * torch.sigmoid(s[j]) for j in range(len(s))]
        layers.append(sum(each) / len(s))
    return weight * sum(layers) / len(layers)


def sensitivity(net, loss, batches, rows):
    """Mean over batches of |Σ w ∂L/∂w| over a neuron's row, bias and column.

    ``rows`` lists for each neuron its (parameter, index) pairs, one for each weight.
    """
    total = [0.0] * len(rows)
    for x, y in batches:
        net.zero_grad()
        loss(net(x), y).backward()
        for j, weights in enumerate(rows):
            total[j] += abs(sum(float(p[at].detach() * p.grad[at]) for p, at in weights))
    return [value / len(batches) for value in total]
