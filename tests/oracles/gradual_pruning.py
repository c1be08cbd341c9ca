"""Gradual magnitude pruning the slow way: Python lists, one weight at a time.

Written from the paper's description, not from the library: a weight that is masked keeps the
value it had, takes no update, and every update of the masks ranks all weights afresh.
"""

import torch


def cubic(t, s_i, s_f, t_0, n, dt):
    """Equation 1 of Zhu & Gupta (2017), literally."""
    return s_f + (s_i - s_f) * (1 - (t - t_0) / (n * dt)) ** 3


class SlowMask:
    """One layer: values, and for each whether it is masked."""

    def __init__(self, values):
        self.values = [float(v) for v in values]
        self.masked = [False] * len(self.values)

    def prune_to(self, s_t):
        """Mask exactly round(s_t N) weights, the smallest; on ties the lower index stays."""
        target = round(s_t * len(self.values))
        by_size = sorted(range(len(self.values)), key=lambda i: (abs(self.values[i]), -i))
        self.masked = [False] * len(self.values)
        for i in by_size[:target]:
            self.masked[i] = True

    def step(self, changes):
        """Add a change to every weight that is not masked."""
        for i, change in enumerate(changes):
            if not self.masked[i]:
                self.values[i] += float(change)

    def effective(self):
        """What the net computes with."""
        return [0.0 if m else v for v, m in zip(self.values, self.masked, strict=True)]


def train_and_prune(net, names, rows, task, recipe, schedule, readmit):
    """Gradual pruning by the letter, the optimiser written out; returns the masks.

    Args:
        net: trained and pruned in place.
        names: of the weights that may be cut.
        rows: examples of each step's batch.
        task: data and loss.
        recipe: rate (constant), momentum 0.9 by Nesterov, decay, clip.
        schedule: step → sparsity of the updates, made before the step of that number.
        readmit: whether a cut weight may come back with the value it was cut at.
    """
    own = dict(net.named_parameters())
    value = {n: own[n].detach().clone() for n in names}  # W, cut or not
    mask = {n: torch.ones_like(own[n]) for n in names}
    speed = {n: torch.zeros_like(p) for n, p in own.items()}

    def update(number):
        if number in schedule:
            for n in names:
                size = value[n].abs().flatten().tolist()
                order = sorted(range(len(size)), key=lambda i, s=size: (-s[i], i))
                stay = order[: len(size) - round(schedule[number] * len(size))]
                flat = torch.zeros(len(size), dtype=own[n].dtype)
                flat[stay] = 1.0
                mask[n] = flat.view_as(own[n])
                if not readmit:
                    value[n] = value[n] * mask[n]
        with torch.no_grad():
            for n in names:
                own[n].copy_(mask[n] * value[n])

    update(0)
    for number, batch in enumerate(rows):
        net.train()
        loss = task.loss(net(task.train.x[batch]), task.train.y[batch])
        grads = dict(zip(own, torch.autograd.grad(loss, list(own.values())), strict=True))
        for n in names:
            grads[n] = mask[n] * grads[n]  # the mask stands between W and the loss
        norm = sum(float(g.square().sum()) for g in grads.values()) ** 0.5
        shrink = min(1.0, recipe.clip / (norm + 1e-6)) if recipe.clip else 1.0
        with torch.no_grad():
            for n, p in own.items():
                g = shrink * grads[n] + recipe.weight_decay * p
                speed[n] = g.clone() if number == 0 else 0.9 * speed[n] + g
                p.sub_(recipe.lr * (g + 0.9 * speed[n]))
                if n in mask:
                    p.mul_(mask[n])
                    value[n] = torch.where(mask[n].bool(), p, value[n])
        update(number + 1)
    net.eval()
    return mask
