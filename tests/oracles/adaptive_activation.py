"""Slow, literal twins of Zhao et al. (2022): score, thresholds, controller, schedule."""

import math


def attention(activations, p=1.0, kind="mean"):
    """s of one channel: batch mean first, power second, space last. Nested lists (B, H, W)."""
    batch, height, width = len(activations), len(activations[0]), len(activations[0][0])
    powered = []
    for h in range(height):
        for w in range(width):
            total = 0.0
            for b in range(batch):
                total += activations[b][h][w]
            powered.append((total / batch) ** p)
    if kind == "max":
        return max(powered)
    return sum(powered) / (len(powered) if kind == "mean" else 1)


def falls(scores, sizes, threshold):
    """Layer → places of channels with s ≤ T n_l / Σ n; scores and sizes by layer."""
    total = sum(sizes.values())
    found = {}
    for layer, values in scores.items():
        tau = threshold * sizes[layer] / total
        found[layer] = [c for c, s in enumerate(values) if s <= tau]
    return found


def controller(reductions, limit, step):
    """The thresholds T[1], T[2], … that a list of reductions leads to, and the good rounds left.

    Written as a walk over a list of histories; ``None`` ends it.
    """
    threshold, misses, stack, out = 0.0, 0, [], []
    for r, reduction in enumerate(reductions):
        if reduction <= limit:
            stack = [*stack, {"round": r, "T": threshold, "lam": step}]
            threshold, misses = threshold + step, 0
        elif not stack:
            out.append(None)
            break
        else:
            top, misses = stack[-1], misses + 1
            if misses == 1:
                step = top["lam"] / 2
                threshold = top["T"] + step
            elif misses == 2:
                step = top["lam"] / 4
                threshold = top["T"] + step
            else:
                step, threshold, misses = step / 2, top["T"], 0
                stack = stack[:-1]
        out.append(threshold)
    return out, [g["round"] for g in stack], step


def cosine(step, steps, peak, warmup):
    """The rate of a step by the recipe's definition: warm-up, then half a cosine."""
    warm = max(1, round(warmup * steps))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))
