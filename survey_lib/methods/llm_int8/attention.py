"""The largest attention weights, with and without features (Dettmers et al. 2022, §4, Table 4)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.llm_int8.outliers import check, zeroed
from survey_lib.tasks.models import Attention
from survey_lib.tasks.modes import evaluating


@torch.no_grad()
def top_attention(model: Any, batches: Iterable[Tensor], features: Sequence[int] = ()) -> Tensor:
    """Mean of the largest attention weight of each query, by layer (§4, "top-1 softmax mass").

    Each layer sees ``features`` of its input at 0 while the layers before it are intact: one pass
    computes every layer's attention once for the net and once for the record.

    Args:
        model: ``char_gpt``, or a Hugging Face decoder whose attention can run eagerly.
        batches: token tensors (B, T).
        features: indices of the residual stream to zero before each attention alone.

    Returns:
        (L,) float64 in [0, 1]: mean over batch, heads and queries; a query with a single key, the
        first of a window, counts with its 1.

    Raises:
        ValueError: a feature that is not there, no batch, or an attention that gives no weights.
        GraphError: the model is built otherwise.
    """
    plan = decoder(model)
    check(features, plan.width, "feature")
    total, queries = torch.zeros(len(plan.layers), dtype=torch.float64), 0

    def watch(i: int):
        def hook(module: nn.Module, args: tuple, kwargs: dict) -> None:
            weights = _attention_weights(module, args, kwargs, features)  # (B, heads, T, T)
            total[i] += weights.amax(-1).mean(1).double().sum().cpu()

        return hook

    handles = [
        model.get_submodule(layer.attention_out.rpartition(".")[0]).register_forward_pre_hook(
            watch(i), with_kwargs=True
        )
        for i, layer in enumerate(plan.layers)
    ]
    device = next(model.parameters()).device
    before = getattr(getattr(model, "config", None), "_attn_implementation", None)
    try:
        if before is not None:
            model.set_attn_implementation("eager")  # the others give no weights
        with evaluating(model):
            for tokens in batches:
                queries += tokens.numel()
                model(tokens.to(device), **({} if before is None else {"use_cache": False}))
    finally:
        if before is not None:
            model.set_attn_implementation(before)
        for handle in handles:
            handle.remove()
    if queries == 0:
        raise ValueError("outliers: no tokens to look at; give at least one batch (B, T)")
    return total / queries


def _attention_weights(
    module: nn.Module, args: tuple, kwargs: dict, features: Sequence[int]
) -> Tensor:
    """(B, heads, T, T) attention weights of a module for its input without ``features``."""
    if isinstance(module, Attention):
        x = zeroed(args[0], features)  # (B, T, h)
        q, k = (
            p(x).unflatten(-1, (module.heads, -1)).transpose(1, 2)  # (B, heads, T, h/heads)
            for p in (module.query, module.key)
        )
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5  # (B, heads, T, T)
        later = torch.ones_like(scores[0, 0], dtype=torch.bool).triu(1)
        return scores.masked_fill(later, -torch.inf).softmax(-1)
    x = zeroed(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0], features)
    rest = {k: v for k, v in kwargs.items() if k != "hidden_states"}
    _, weights, *_ = module.forward(x, *args[1:], **rest)
    if weights is None:
        raise ValueError(f"outliers: {type(module).__name__} gives no attention weights")
    return weights
