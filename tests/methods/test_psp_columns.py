"""The product with fewer columns and the channels that nobody reads: nothing may change."""

import pytest
import torch
from torch import nn

from survey_lib.measure.macs import count_macs, count_nonzero_macs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.parameterized_structured.columns import (
    ColumnConv2d,
    dead_channels,
    with_columns,
)
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import DenseNetSmall, ResNetSmall


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"),
    [(3, 1, 1, False), (3, 2, 1, True), (1, 2, 0, False), ((2, 3), (1, 2), (0, 2), True)],
)
def test_the_product_skips_zero_columns_and_gives_the_same(kernel, stride, padding, bias):
    g = seeded(1)
    conv = nn.Conv2d(4, 5, kernel, stride, padding, bias=bias).double()
    with torch.no_grad():
        conv.weight.copy_(torch.randn(conv.weight.shape, generator=g))
        columns = torch.rand(conv.weight.shape[1:], generator=g) < 0.5
        conv.weight.mul_(columns)
    x = torch.randn(3, 4, 7, 9, generator=g, dtype=torch.double)
    short = ColumnConv2d(conv)
    assert len(short.columns) == int(columns.sum()) < columns.numel()
    assert (short(x) - conv(x)).abs().max() < 1e-12
    again = x[:, :, :6, :8]  # another size plans anew
    assert (short(again) - conv(again)).abs().max() < 1e-12
    assert (ColumnConv2d(conv, all_columns=True)(x) - conv(x)).abs().max() < 1e-12


def test_a_column_by_hand():
    """C = 2, one row, kernel of 2: out = Σ over the two columns that are left."""
    conv = nn.Conv2d(2, 1, (1, 2), bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[[[2.0, 0.0]], [[0.0, 3.0]]]]))
    x = torch.tensor([[[[1.0, 4.0, 5.0]], [[7.0, 10.0, 100.0]]]])
    assert ColumnConv2d(conv)(x).flatten().tolist() == [2 * 1 + 3 * 10, 2 * 4 + 3 * 100]


def test_a_layer_without_a_column_left_gives_its_bias():
    conv = nn.Conv2d(2, 3, 3, padding=1)
    with torch.no_grad():
        conv.weight.zero_()
    x = torch.randn(2, 2, 5, 5, generator=seeded(3))
    made = ColumnConv2d(conv)
    assert len(made.columns) == 0
    assert torch.equal(made(x), conv.bias.view(1, 3, 1, 1).expand(2, 3, 5, 5))


def test_macs_fall_by_what_is_left_out():
    net = ResNetSmall(width=0.5).eval()
    with torch.no_grad():
        net.stages[1].conv2.weight[:, :5] = 0
        net.stages[2].conv1.weight[:, :, 0] = 0
    x = torch.zeros(1, 1, 28, 28)
    made = with_columns(net)
    assert isinstance(made.stages[1].conv2, ColumnConv2d)
    assert isinstance(made.stages[0].conv1, nn.Conv2d)
    assert isinstance(net.stages[1].conv2, nn.Conv2d)
    assert count_macs(made, x) == count_nonzero_macs(net, x) < count_macs(net, x)
    assert count_macs(with_columns(net, all_columns=True), x) == count_macs(net, x)


@pytest.mark.parametrize("net", [ResNetSmall(width=0.5), DenseNetSmall(width=0.5, layers=2)])
def test_channels_that_nobody_reads_can_go(net):
    net = net.double().eval()
    x = torch.randn(2, 1, 28, 28, generator=seeded(2), dtype=torch.double)
    graph = trace_groups(net, x)
    group = max(graph.prunable, key=lambda g: len(g.consumers))
    with torch.no_grad():
        for part in group.consumers:
            weight = net.get_submodule(part.module).get_parameter(part.tensor)
            axes = weight.movedim(part.axis, 0)
            axes[torch.as_tensor(part.positions[:3]).flatten()] = 0
        one = group.consumers[0]  # unit 3 has one reader left, so it stays
        weight = net.get_submodule(one.module).get_parameter(one.tensor)
        weight.movedim(one.axis, 0)[torch.as_tensor(one.positions[3]).flatten()] = 0
    assert len(group.consumers) > 1
    recipe = dead_channels(net, graph)
    assert recipe[group.name] == list(range(3, group.size))
    small = apply_recipe(net, graph, recipe)
    assert (small(x) - net(x)).abs().max() < 1e-10


def test_a_group_that_nobody_reads_keeps_one_unit():
    net = ResNetSmall(width=0.5).eval()
    x = torch.zeros(1, 1, 28, 28)
    with torch.no_grad():
        net.stages[0].conv2.weight.zero_()
    assert dead_channels(net, trace_groups(net, x))["stages.0.conv1"] == [0]


def test_a_grouped_convolution_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="one group"):
        ColumnConv2d(nn.Conv2d(4, 4, 3, groups=2))
