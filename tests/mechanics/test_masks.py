"""Which weights may be cut one by one."""

import torch
from torch import nn

from survey_lib.mechanics.masks import prunable_weights


class Every(nn.Module):
    """A layer of each kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.grouped = nn.Conv2d(8, 8, 3, groups=4)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.norm = nn.BatchNorm2d(16)
        self.lone = nn.Conv2d(1, 4, 1)
        self.embed = nn.Embedding(5, 16)
        self.head = nn.Linear(16, 2)


def test_grouped_convolutions_are_cut_and_depthwise_ones_are_not():
    net = Every()
    found = prunable_weights(net)
    assert list(found) == ["grouped.weight", "lone.weight", "embed.weight", "head.weight"]
    assert all(w is net.get_parameter(name) for name, w in found.items())


def test_the_first_convolution_is_spared_unless_asked_for():
    assert list(prunable_weights(Every(), spare_first_conv=False))[:2] == [
        "stem.weight",
        "grouped.weight",
    ]
    # a depthwise layer that comes first is the first
    first = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Conv2d(4, 2, 1))
    assert list(prunable_weights(first)) == ["1.weight"]
    assert not list(prunable_weights(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))))
    assert isinstance(prunable_weights(Every())["head.weight"], torch.nn.Parameter)
