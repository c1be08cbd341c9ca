"""ThiNet the slow way: one window, one channel, one subset at a time, in Python numbers.

Written from the paper's equations and its algorithm 1, not from the library.
"""

import itertools


def parts_of_convolution(weight, image, o, u, v, stride, padding, dilation=(1, 1)):
    """x̂_c for every input channel c: W is (O, C, K, L), the image (C, H, W), zeros around it.

    Stride, padding and dilation are pairs: down, then along.
    """
    _, channels, high, wide = weight.shape
    height, width = image.shape[1:]
    parts = []
    for c in range(channels):
        part = 0.0
        for i in range(high):
            for j in range(wide):
                row = u * stride[0] + i * dilation[0] - padding[0]
                column = v * stride[1] + j * dilation[1] - padding[1]
                if 0 <= row < height and 0 <= column < width:
                    part += float(weight[o, c, i, j]) * float(image[c, row, column])
        parts.append(part)
    return parts


def parts_of_linear(weight, maps, o):
    """x̂_c of a linear layer behind a flattening: each channel's whole map is one part."""
    channels, height, width = maps.shape
    return [
        sum(
            float(weight[o, (c * height + i) * width + j]) * float(maps[c, i, j])
            for i in range(height)
            for j in range(width)
        )
        for c in range(channels)
    ]


def objective(rows, given_up):
    """Σ_i (Σ_{j in T} x̂_ij)²."""
    return sum(sum(row[j] for j in given_up) ** 2 for row in rows)


def objective_over_kept(rows, kept):
    """Σ_i (ŷ_i − Σ_{j in S} x̂_ij)², with ŷ the sum of all parts."""
    return sum((sum(row) - sum(row[j] for j in kept)) ** 2 for row in rows)


def algorithm_1(rows, n):
    """The paper's greedy algorithm, every objective computed anew."""
    given_up = []
    channels = len(rows[0])
    while len(given_up) < n:
        best, value = None, float("inf")
        for j in range(channels):
            if j not in given_up and objective(rows, [*given_up, j]) < value:
                best, value = j, objective(rows, [*given_up, j])
        given_up.append(best)
    return given_up


def best_subset(rows, n):
    """The T of n channels with the smallest objective."""
    every = itertools.combinations(range(len(rows[0])), n)
    return min(every, key=lambda given_up: objective(rows, given_up))
