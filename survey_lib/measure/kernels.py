"""What zeros do to the time of one linear layer: torch's sparse kernel beside the dense one."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib.measure.latency import compare_latency
from survey_lib.mechanics.masks import keep_largest


class SparseLinear(nn.Module):
    """x Wᵀ with W held row by row (CSR): the weights that aren't zero, and where they stand."""

    def __init__(self, weight: Tensor):
        super().__init__()
        with warnings.catch_warnings():  # torch calls its own format a beta
            warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
            self.weight = weight.to_sparse_csr()

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) → (N, out)."""
        return (self.weight @ x.T).T


def sparse_against_dense(
    layer: nn.Linear, zeros: Sequence[float], batches: Sequence[int], generator: torch.Generator
) -> list[dict[str, Any]]:
    """Time a linear layer as it is, and with its smallest weights gone, on one thread.

    Args:
        layer: without a bias.
        zeros: shares of the weights that are zero.
        batches: how many inputs go through at once.
        generator: draws the inputs.

    Returns:
        A row for each batch and share: ``batch``, ``zeros``, ``dense`` and ``sparse``
        (milliseconds, the least of the turns) and ``speed_up``.
    """
    weight = layer.weight.detach()
    contest: dict[str, nn.Module] = {"dense": layer}
    for share in zeros:
        mask = keep_largest(weight.abs(), round((1 - share) * weight.numel()))
        contest[f"{share}"] = SparseLinear(weight * mask)
    rows = []
    for batch in batches:
        x = torch.randn(batch, layer.in_features, generator=generator)
        timed = compare_latency(contest, x)
        dense = 1000 * timed["dense"].minimum
        for share in zeros:
            sparse = 1000 * timed[f"{share}"].minimum
            rows.append({"batch": batch, "zeros": share, "dense": dense, "sparse": sparse,
                         "speed_up": dense / sparse})  # fmt: skip
    return rows
