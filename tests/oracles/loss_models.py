"""Loss models for pruning the slow way: whole Jacobians, Python lists, one weight at a time.

Written from the paper's description, not from the library. Everything is float64.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, jacrev


def logits(model, parameters, x):
    """The net's logits (N, C) with other parameters in place of its own."""
    return functional_call(model, parameters, (x,))


def parameters_of(model):
    """Detached copies by name."""
    return {k: p.detach().clone() for k, p in model.named_parameters()}


def ggn_diagonal(model, parameters, x, name):
    """diag of 1/N Σ_n J_nᵀ (diag p_n − p_n p_nᵀ) J_n, from the whole Jacobian of each example."""

    def of(value):
        return logits(model, parameters | {name: value}, x)

    jacobian = jacrev(of)(parameters[name]).flatten(2)  # (N, C, D)
    p = logits(model, parameters, x).softmax(1)
    total = torch.zeros(jacobian.shape[2], dtype=jacobian.dtype)
    for n in range(len(x)):
        middle = torch.diag(p[n]) - torch.outer(p[n], p[n])  # (C, C)
        total += (jacobian[n].T @ middle @ jacobian[n]).diagonal()
    return (total / len(x)).view_as(parameters[name])


def mean_loss(model, parameters, x, y):
    """Mean cross-entropy."""
    return F.cross_entropy(logits(model, parameters, x), y)


def gradient(model, parameters, x, y):
    """Gradient of the mean cross-entropy by name."""
    return grad(lambda p: mean_loss(model, p, x, y))(parameters)


def hessian_of(model, parameters, x, y, name):
    """The exact Hessian (D, D) with respect to one parameter tensor."""

    def of(value):
        return mean_loss(model, parameters | {name: value}, x, y)

    size = parameters[name].numel()
    return jacrev(jacrev(of))(parameters[name]).reshape(size, size)


def score(criterion, theta, g, curvature, lam):
    """The saliency of one weight, from the dossier's table."""
    if criterion == "MP":
        return 0.5 * theta * theta
    if criterion == "OBD":
        return 0.5 * curvature * theta * theta + lam / 2 * theta * theta
    if criterion == "LM":
        return abs(g * theta) + lam / 2 * theta * theta
    return abs(-g * theta + 0.5 * curvature * theta * theta) + lam / 2 * theta * theta


def algorithm_1(model, x, y, names, kappa, pi, criterion, lam):
    """Masks as lists of True (kept) by name; survivors decay geometrically, models are renewed."""
    parameters = parameters_of(model)
    places = [(name, i) for name in names for i in range(parameters[name].numel())]
    alive = dict.fromkeys(places, True)
    for step in range(1, pi + 1):
        g = gradient(model, parameters, x, y)
        curvature = {name: ggn_diagonal(model, parameters, x, name) for name in names}
        goal = round((1 - (1 - kappa) ** (step / pi)) * len(places))  # gone after this step
        candidates = []
        for name, i in places:
            if alive[name, i]:
                values = (t[name].flatten()[i].item() for t in (parameters, g, curvature))
                candidates.append((score(criterion, *values, lam), name, i))
        candidates.sort(key=lambda c: c[0])
        for _, name, i in candidates[: goal - (len(places) - len(candidates))]:
            alive[name, i] = False
            parameters[name].view(-1)[i] = 0.0
    return {name: [alive[name, i] for i in range(parameters[name].numel())] for name in names}
