"""SeReNe and LOBSTER the slow way: Python lists, one weight, one neuron, one threshold at a time.

Written from the formulas, not from the library.
"""

import torch


def shrunk(w, s, lam):
    """w − λ w max(0, 1 − S), one number."""
    return w - lam * w * max(0.0, 1.0 - s)


def lobster_step(w, g, eta, lam):
    """A step of plain SGD with gradient g, then the rule with S = |g|, weight by weight."""
    return [shrunk(wk - eta * gk, abs(gk), lam) for wk, gk in zip(w, g, strict=True)]


def added(net, layer, x, unit, epsilon):
    """Outputs of a net with ``epsilon`` added to one unit of a layer's pre-activation, one place.

    ``unit`` is (channel, *position).
    """

    def hook(_module, _inputs, output):
        output = output.clone()
        output[(slice(None), *unit)] += epsilon
        return output

    handle = layer.register_forward_hook(hook)
    try:
        with torch.no_grad():
            return net(x)
    finally:
        handle.remove()


def sensitivity(net, layer, x, form, epsilon=1e-6):
    """SeReNe's S of each channel by central differences of the output, image by image."""
    with torch.no_grad():
        seen = []
        handle = layer.register_forward_hook(lambda m, i, o: seen.append(o))
        outputs = net(x)
        handle.remove()
    shape, classes = seen[0].shape, outputs.shape[-1]
    places = [()] if len(shape) == 2 else [(i, j) for i in range(shape[2]) for j in range(shape[3])]
    found = []
    for channel in range(shape[1]):
        total = 0.0
        for place in places:
            unit = (channel, *place)
            up, down = (added(net, layer, x, unit, e) for e in (epsilon, -epsilon))
            slopes = (up - down) / (2 * epsilon)  # (images, classes)
            for image in slopes.tolist():
                if form == "full":
                    total += sum(abs(d) for d in image) / classes
                else:
                    total += abs(sum(image)) / classes
        found.append(total / (len(places) * shape[0]))
    return found


def largest_threshold(loss, candidates, bound):
    """Of all candidates, the largest at which the loss keeps the bound; of a loss that rises."""
    return max(t for t in candidates if loss(t) <= bound)
