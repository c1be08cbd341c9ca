"""Slow, literal twin of the paper's statistics of outlier features: Python loops over values."""

from torch import nn


def states(model: nn.Module, norms: list[str], batches) -> list[list[list[float]]]:
    """Outputs of the norms, each as positions × features of plain numbers."""
    seen: dict[str, list[list[float]]] = {n: [] for n in norms}
    handles = [
        model.get_submodule(n).register_forward_hook(
            lambda _m, _x, y, n=n: seen[n].extend(y.detach().flatten(0, -2).tolist())
        )
        for n in norms
    ]
    for tokens in batches:
        model(tokens)
    for handle in handles:
        handle.remove()
    return [seen[n] for n in norms]


def outlier_features(
    seen: list[list[list[float]]],
    layer_of: list[int],
    alpha: float,
    layers: float,
    positions: float,
) -> dict[int, tuple[float, float, bool, float]]:
    """Feature → (share of layers, share of positions, one-sided, largest) of those that qualify."""
    found = {}
    for i in range(len(seen[0][0])):
        where, hits, total, signs, largest = set(), 0, 0, set(), 0.0
        for state, layer in zip(seen, layer_of, strict=True):
            for position in state:
                total += 1
                largest = max(largest, abs(position[i]))
                if abs(position[i]) >= alpha:
                    hits += 1
                    where.add(layer)
                    signs.add(position[i] > 0)
        in_layers, in_positions = len(where) / (max(layer_of) + 1), hits / total
        if in_layers >= layers and in_positions >= positions:
            found[i] = (in_layers, in_positions, len(signs) == 1, largest)
    return found
