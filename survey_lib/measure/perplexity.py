"""How well a language model foretells a text, window by window."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from survey_lib.tasks.modes import evaluating

POSITIONS = 64
"""Positions whose cross-entropy is taken at a time: at 49,152 tokens, 13 MB of logits."""


@torch.no_grad()
def window_losses(
    model: Any, windows: Tensor, *, targets: Tensor | None = None, batch: int = 2
) -> Tensor:
    """Mean cross-entropy of the next token, for each window on its own, in eval mode.

    The mean of a slice of the result, and its exponential, are the log perplexity and the
    perplexity of those windows (all windows are of one length).

    Args:
        model: gives logits (B, T, vocabulary), or an object with ``logits`` (Hugging Face).
        windows: (windows, T) int64 tokens, on any device.
        targets: (windows, T) int64, the token after each of ``windows``, as a task's split has
            them; without them a window foretells its own tokens 1 … T - 1.
        batch: windows at a time.

    Returns:
        (windows,) float64 on the CPU, nats a token.

    Raises:
        ValueError: windows that are not (windows, T) with T ≥ 2, or targets of another shape.
    """
    if windows.ndim != 2 or windows.shape[1] < 2:
        raise ValueError(f"window_losses: need (windows, T ≥ 2), got {tuple(windows.shape)}")
    if targets is not None and targets.shape != windows.shape:
        raise ValueError(
            f"window_losses: targets {tuple(targets.shape)}, windows {tuple(windows.shape)}"
        )
    device = next(model.parameters()).device
    losses = torch.zeros(len(windows), dtype=torch.float64)
    with evaluating(model):
        for start in range(0, len(windows), batch):
            x = windows[start : start + batch].to(device)
            y = x[:, 1:] if targets is None else targets[start : start + batch].to(device)
            out = model(x)
            logits = out if isinstance(out, Tensor) else out.logits  # (B, T, vocabulary)
            for row in range(len(x)):
                losses[start + row] = _mean_loss(logits[row, : y.shape[1]], y[row])
    return losses


def _mean_loss(logits: Tensor, y: Tensor) -> Tensor:
    """Mean of (T,) cross-entropies of logits (T, vocabulary), a few positions at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for at in range(0, len(y), POSITIONS):
        each = F.cross_entropy(
            logits[at : at + POSITIONS], y[at : at + POSITIONS], reduction="none"
        )
        total += each.double().sum().cpu()
    return total / len(y)
