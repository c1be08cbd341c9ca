"""The long run the slow way: masks as tensors of their own, one per example, and plain loops.

Written from the paper's formulas, not from the library: the mask multiplies what the second
convolution of each block reads, and its gradient is asked for directly.
"""

import torch


def delta_by_hand(a, grad):
    """Δ_k = (1 / 2N) Σ_n (Σ_ij a_nkij ∂L_n/∂a_nkij)², in Python numbers: nested lists (N, K, I)."""
    n_examples, channels = len(a), len(a[0])
    found = []
    for k in range(channels):
        total = 0.0
        for n in range(n_examples):
            g = sum(x * d for x, d in zip(a[n][k], grad[n][k], strict=True))
            total += g * g
        found.append(total / (2 * n_examples))
    return found


def long_run(net, readers, x, y, order, *, steps, interval, lr, weight_decay, score="fisher"):
    """Removals and Δ of a long run of ``net`` (changed in place).

    Args:
        net: a net.
        readers: {group: the layer that reads its channels}.
        x, y: all training examples.
        order: index batches, an iterator.
        steps: number of removals.
        score: ``fisher``, or ``l1`` with the norm of the filters of {group: the layer}, by name.
    """
    modules = dict(net.named_modules())
    gone = {group: set() for group in readers}
    momentum, removed, deltas = {}, [], []
    for _ in range(steps):
        squares, seen = {group: None for group in readers}, 0
        for _ in range(interval):
            rows = next(order)
            masks, handles = {}, []

            def reads(group, layer, masks=masks, handles=handles, rows=rows):
                channels = layer.weight.shape[1]
                on = [0.0 if k in gone[group] else 1.0 for k in range(channels)]
                m = torch.tensor([on] * len(rows), dtype=x.dtype, requires_grad=True)
                masks[group] = m
                shape = (len(rows), channels, 1, 1)
                handles.append(
                    layer.register_forward_pre_hook(lambda _, a: (a[0] * m.view(shape),))
                )

            for group, path in readers.items():
                reads(group, modules[path])
            net.train()
            logits = net(x[rows])
            losses = torch.logsumexp(logits, 1) - logits[torch.arange(len(rows)), y[rows]]
            of_sum = torch.autograd.grad(losses.sum(), list(masks.values()), retain_graph=True)
            gradients = torch.autograd.grad(losses.mean(), list(net.parameters()))
            for handle in handles:
                handle.remove()
            with torch.no_grad():
                for p, g in zip(net.parameters(), gradients, strict=True):
                    g = g + weight_decay * p
                    v = momentum.get(p)
                    v = g.clone() if v is None else 0.9 * v + g
                    momentum[p] = v
                    p -= lr * (g + 0.9 * v)  # Nesterov
            for group, g in zip(masks, of_sum, strict=True):
                new = g.square().sum(0)
                squares[group] = new if squares[group] is None else squares[group] + new
            seen += len(rows)
        delta = {group: s / (2 * seen) for group, s in squares.items()}
        deltas.append(delta)
        values = []
        for group in readers:
            if score == "fisher":
                s = delta[group]
            else:
                s = modules[group].weight.detach().flatten(1).abs().sum(1)
            alive = [k for k in range(len(s)) if k not in gone[group]]
            if len(alive) > 1:
                values += [(float(s[k]), group, k) for k in alive]
        value, group, k = min(values)
        gone[group].add(k)
        removed.append((group, k, value))
    return removed, deltas
