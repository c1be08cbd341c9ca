r"""The diagonal of the generalised Gauss–Newton matrix, exact, for softmax cross-entropy.

With logits :math:`z_n`, class probabilities :math:`p_n = \mathrm{softmax}(z_n)` held fixed and
:math:`J_n = \partial z_n / \partial \theta`, the matrix is

.. math:: G = \frac1N \sum_n J_n^\top (\mathrm{diag}\, p_n - p_n p_n^\top) J_n
            = \frac1N \sum_n \sum_j p_{nj}\, \nabla\log p_{nj}\, \nabla\log p_{nj}^\top .

No labels enter, no sampling, and every square is taken of one example's gradient, never of a
mean over examples. Since :math:`\partial \log p_{nj} / \partial z_n = e_j - p_n`, class j needs
one backward pass that starts from :math:`\sqrt{p_{nj}}\,(e_j - p_n)`.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 1_500_000
"""Entries of per-example gradients held at a time: few enough to stay in a CPU's cache."""


def ggn_diagonal(
    model: nn.Module, x: Tensor, weights: Mapping[str, Tensor], *, batch: int = 250
) -> dict[str, Tensor]:
    """Exact diagonal of the Gauss–Newton matrix for linear and convolution weights.

    Costs one forward pass and as many backward passes as there are classes, all without the
    weights' own gradients. The net must treat examples apart: put batch norm in eval mode.

    Args:
        model: maps inputs to logits (N, C).
        x: the N inputs that are averaged over.
        weights: the weights wanted, by parameter name (``features.0.weight``).
        batch: examples at a time; it bounds the memory and changes nothing else.

    Returns:
        Name → G_kk in the weight's shape.

    Raises:
        ValueError: a name is not the weight of a linear or 2-D convolution layer, a layer runs
            more than once per forward pass or not at all, or the logits are not (N, C).
    """
    layers = {name: _layer(model, name) for name in weights}
    total = {name: torch.zeros_like(w) for name, w in weights.items()}
    for rows in x.split(batch):
        with _recorded(layers) as seen, torch.enable_grad():
            z = model(rows)
        if z.ndim != 2:
            raise ValueError(f"ggn_diagonal needs logits (N, C), the net gave {tuple(z.shape)}")
        missing = [name for name in layers if name not in seen]
        if missing:
            raise ValueError(f"ggn_diagonal: {missing[0]} takes no part in the forward pass")
        outputs = [seen[name][1] for name in layers]
        p = z.detach().softmax(1)  # (N, C), a constant
        deltas: dict[str, list[Tensor]] = {name: [] for name in layers}
        for j in range(z.shape[1]):
            v = -p  # √p_j (e_j − p), one row per example
            v[:, j] += 1
            v = v * p[:, j : j + 1].sqrt()
            found = torch.autograd.grad(z, outputs, v, retain_graph=j + 1 < z.shape[1])
            for name, delta in zip(layers, found, strict=True):
                deltas[name].append(delta)
        for name, module in layers.items():
            a = seen[name][0].detach()
            total[name] += _sum_of_squares(module, a, deltas.pop(name)).view_as(total[name])
    return {name: g / len(x) for name, g in total.items()}


def _sum_of_squares(module: nn.Module, a: Tensor, deltas: list[Tensor]) -> Tensor:
    """Σ_n Σ_j (∂/∂W)² of a layer with input ``a`` and the gradients δ_j of its output."""
    if isinstance(module, nn.Linear) and a.ndim == 2:
        # one position: ∂/∂W_oi = δ_o a_i, so the square factorises, (δ²)ᵀ a², and so does Σ_j
        squares = torch.stack(deltas).square_().sum(0)  # (N, out)
        return squares.T @ a.square()
    u, groups = _patches(module, a)  # (N, G, K, L)
    n, _, k, positions = u.shape
    if isinstance(module, nn.Linear):
        deltas = [delta.flatten(1, -2).transpose(1, 2) for delta in deltas]  # (N, out, L)
    deltas = [delta.reshape(n, groups, -1, positions) for delta in deltas]  # (N, G, O, L)
    total = u.new_zeros(groups, deltas[0].shape[2], k)
    some = max(1, CHUNK // total.numel())
    for rows in range(0, n, some):
        patches = u[rows : rows + some].transpose(2, 3)
        for delta in deltas:
            gradient = delta[rows : rows + some] @ patches  # (n, G, O, K): positions are summed …
            total += gradient.square_().sum(0)  # … and then it is squared
    return total


def _patches(module: nn.Module, a: Tensor) -> tuple[Tensor, int]:
    """What each weight is multiplied with at each position, (N, G, K, L), and the groups G."""
    if isinstance(module, nn.Linear):
        return a.flatten(1, -2).transpose(1, 2).unsqueeze(1), 1
    assert isinstance(module, nn.Conv2d)
    u = F.unfold(
        a, module.kernel_size, module.dilation, module.padding, module.stride  # type: ignore[arg-type]
    )  # fmt: skip
    return u.view(len(a), module.groups, -1, u.shape[-1]), module.groups


def _layer(model: nn.Module, name: str) -> nn.Module:
    path, _, kind = name.rpartition(".")
    module = model.get_submodule(path)
    plain = isinstance(module, nn.Linear) or (
        isinstance(module, nn.Conv2d)
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
    )
    if kind != "weight" or not plain:
        raise ValueError(
            f"ggn_diagonal: {name} is not the weight of a linear or zero-padded 2-D convolution "
            "layer; leave it out, or take a score without curvature"
        )
    return module


def check_layers(model: nn.Module, weights: Iterable[str]) -> None:
    """Raise ValueError for a name that :func:`ggn_diagonal` cannot take; nothing is computed."""
    for name in weights:
        _layer(model, name)


@contextmanager
def _recorded(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Keep input and output of each layer during the forward passes inside."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str):
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if name in seen:
                raise ValueError(f"ggn_diagonal: {name} is used twice in one forward pass")
            seen[name] = inputs[0], output
            return output.clone()  # what follows may work in place

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def all_free(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Frozen weights have a gradient too, while this lasts."""
    frozen = [w for w in weights.values() if not w.requires_grad]
    try:
        for w in frozen:
            w.requires_grad_()
        yield
    finally:
        for w in frozen:
            w.requires_grad_(False)
