"""What zero columns and dead channels are worth: the product with fewer columns, and surgery.

A convolution is a matrix product: the patches of the input, laid out as rows of C · R · S numbers,
times the weight as a matrix of as many rows and K columns (im2col). Where the weight of an entry
(c, r, s) is zero for all K outputs, the entry needn't be copied out of the input at all.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.mechanics.groups import ChannelGraph


class ColumnConv2d(nn.Module):
    """A convolution as an im2col product that skips the columns whose weights are all zero."""

    index: Tensor

    def __init__(self, conv: nn.Conv2d, *, all_columns: bool = False):
        """Take over a convolution's weights.

        Args:
            conv: one group, zeros around it, no dilation.
            all_columns: leave no column out: what the layout itself costs.

        Raises:
            ValueError: another kind of convolution.
        """
        super().__init__()
        if conv.groups != 1 or conv.dilation != (1, 1) or conv.padding_mode != "zeros":
            raise ValueError("ColumnConv2d takes a convolution of one group, without dilation")
        if isinstance(conv.padding, str):
            raise ValueError("ColumnConv2d needs the padding as numbers")
        weight = conv.weight.detach()
        self.outputs, self.inputs, *self.kernel = weight.shape
        self.stride, self.padding = conv.stride, conv.padding
        by_place = weight.permute(0, 2, 3, 1).flatten(1)  # (K, R · S · C): channels last
        used = by_place.ne(0).any(0)
        self.columns = torch.arange(len(used)) if all_columns else used.nonzero().flatten().cpu()
        self.weight = nn.Parameter(by_place[:, self.columns.to(weight.device)].T.contiguous())
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.register_buffer("index", torch.zeros(0, dtype=torch.long), persistent=False)
        self._size: tuple[int, int] = (0, 0)
        self._out: tuple[int, int] = (0, 0)

    def extra_repr(self) -> str:
        """Columns used of all."""
        return f"{len(self.columns)} of {self.inputs * self.kernel[0] * self.kernel[1]} columns"

    def _plan(self, height: int, width: int, device: torch.device) -> None:
        """Where each used entry of each patch lies in a padded image, channels last."""
        (r, s), c = self.kernel, self.inputs
        rows = torch.arange((height - r) // self.stride[0] + 1) * self.stride[0]
        cols = torch.arange((width - s) // self.stride[1] + 1) * self.stride[1]
        patch = (rows[:, None] * width + cols) * c  # (H', W'): first entry of each patch
        place, channel = self.columns // c, self.columns % c
        entry = (place // s * width + place % s) * c + channel  # (kept,)
        self.index = (patch.flatten()[:, None] + entry).flatten().to(device)
        self._size, self._out = (height, width), (len(rows), len(cols))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, K, H', W'), both best laid out channels last."""
        (up, left), x = self.padding, x.permute(0, 2, 3, 1)
        if up or left:
            x = F.pad(x, (0, 0, left, left, up, up))
        n, height, width, _ = x.shape
        if self._size != (height, width) or self.index.device != x.device:
            self._plan(height, width, x.device)
        patches = x.reshape(n, -1).index_select(1, self.index)  # (N, H' · W' · kept)
        places = n * self._out[0] * self._out[1]
        y = patches.view(places, len(self.columns)) @ self.weight  # (N · H' · W', K)
        if self.bias is not None:
            y = y + self.bias
        return y.view(n, *self._out, self.outputs).permute(0, 3, 1, 2)


def with_columns(model: nn.Module, *, all_columns: bool = False) -> nn.Module:
    """A copy of a folded net whose convolutions skip their zero columns.

    Args:
        model: a net after :func:`~survey_lib.methods.parameterized_structured.method.fold`.
        all_columns: the same layout for the same layers, with no column left out.

    Returns:
        The copy; a convolution without a zero column, or of several groups, stays as it is.
    """
    model = copy.deepcopy(model)
    for name, conv in list(model.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1 or conv.dilation != (1, 1):
            continue
        if conv.weight.detach().ne(0).any(0).all():
            continue
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, ColumnConv2d(conv, all_columns=all_columns))
    return model


def dead_channels(model: nn.Module, graph: ChannelGraph) -> dict[str, list[int]]:
    """The recipe that removes every channel all of whose readers are zero.

    Nothing is lost: the smaller net gives the same output. A group that nobody reads keeps as many
    units as it must.

    Args:
        model: a folded net.
        graph: its channels.

    Returns:
        Kept units by group, for :func:`survey_lib.mechanics.surgery.apply_recipe`.
    """
    recipe = {}
    for group in graph.prunable:
        read = torch.zeros(group.size, dtype=torch.bool)
        for part in group.consumers:
            weight = model.get_submodule(part.module).get_parameter(part.tensor).detach().cpu()
            used = weight.ne(0).movedim(part.axis, 0).flatten(1).any(1)
            read |= used[torch.as_tensor(part.positions)].view(group.size, -1).any(1)
        kept = read.nonzero().flatten().tolist()
        spare = [k for k in range(group.size) if k not in set(kept)]
        recipe[group.name] = sorted(kept + spare[: max(0, group.least - len(kept))])
    return recipe
