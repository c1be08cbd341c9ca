"""What the weights themselves say about a channel, without any data."""

import torch
from torch import Tensor, nn

from survey_lib.mechanics.groups import BATCH_NORM, ChannelGroup
from survey_lib.mechanics.selection import ScoreError


def filters(model: nn.Module, group: ChannelGroup) -> Tensor:
    """All weights that make each unit: (units, weights)."""
    rows = []
    for s in group.producers:
        weight = getattr(model.get_submodule(s.module), s.tensor).detach()
        at = torch.from_numpy(s.positions).to(weight.device)  # (units, k)
        picked = weight.index_select(s.axis, at.flatten()).movedim(s.axis, 0)
        rows.append(picked.reshape(group.size, -1))
    return torch.cat(rows, 1)


def bn_scale(model: nn.Module, group: ChannelGroup) -> Tensor:
    """Mean |γ| over the batch norms that carry each unit: (units,).

    Raises:
        ScoreError: no batch norm carries this group.
    """
    found = []
    for s in group.slices:
        module = model.get_submodule(s.module)
        if isinstance(module, BATCH_NORM) and s.tensor == "weight":
            at = torch.from_numpy(s.positions).to(module.weight.device)
            found.append(module.weight.detach().abs()[at].mean(1))
    if not found:
        raise ScoreError(f"{group.name}: no batch norm carries it; use another criterion")
    return torch.stack(found).mean(0)
