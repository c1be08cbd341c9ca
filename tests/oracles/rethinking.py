"""Liu et al. (2019) and what they compare with, slow and literal."""

import copy

import numpy as np
import torch
from torch import nn


def steps_b(length, dense, small):
    """Steps of the small net, one after the other, while the large net's cost is not exceeded."""
    steps = spent = 0
    while spent + small <= length * dense:
        spent += small
        steps += 1
    return steps


def norms(conv):
    """Σ |W| of each filter, weight by weight."""
    w = conv.weight.detach()
    k, c = w.shape[:2]
    return [sum(abs(float(v)) for i in range(c) for row in w[f, i] for v in row) for f in range(k)]


def largest(weights, keep):
    """Masks of the ``keep`` weights that are largest over all tensors, by sorting pairs."""
    pairs = [
        (-abs(float(v)), t, i)
        for t, name in enumerate(weights)
        for i, v in enumerate(weights[name].detach().flatten())
    ]
    stay = {(t, i) for _, t, i in sorted(pairs)[:keep]}
    return {
        name: torch.tensor(
            [(t, i) in stay for i in range(weights[name].numel())]
        ).view_as(weights[name])
        for t, name in enumerate(weights)
    }  # fmt: skip


def slimming_loss(model, task, lam):
    """L + λ Σ |γ| as one loss that autograd takes apart."""

    def loss(logits, y, _x):
        norms_ = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        return task.loss(logits, y) + lam * sum(m.weight.abs().sum() for m in norms_)

    return loss


def proximal(x, t):
    """argmin_z ½ (z − x)² + t |z|, by trying many z."""
    z = np.linspace(-3, 3, 600_001)
    return float(z[np.argmin(0.5 * (z - x) ** 2 + t * np.abs(z))])


def scaled_forward(model, x, scales):
    """A residual net with each branch times its scale, written out."""
    h = model.stem(x)
    for i, block in enumerate(model.stages):
        y = torch.relu(block.bn1(block.conv1(h)))
        y = scales[f"stages.{i}"] * block.bn2(block.conv2(y))
        h = torch.relu(y + block.shortcut(h))
    return model.classifier(torch.flatten(model.pool(h), 1))


def spread_for(mask):
    """σ = √(2 / n) of a masked kernel, n = nnz / C_in, over that of the whole, n = k² C_out."""
    outputs, inputs, height, width = mask.shape
    whole = (2 / (height * width * outputs)) ** 0.5
    cut = (2 / (int(mask.sum()) / inputs)) ** 0.5
    return cut / whole


def one_by_one(shares, sizes, cost, target):
    """Widths of the narrowest net in given proportions that costs enough, by growing a factor."""
    factor = 0.0
    while True:
        kept = {n: min(sizes[n], max(1, round(factor * shares[n] * sizes[n]))) for n in sizes}
        if cost(copy.copy(kept)) >= target:
            return kept
        factor += 1e-3
