import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.measure.size import count_parameters
from survey_lib.mechanics.dead import simplified
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model


def conv_net(padding=1, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, 1, padding), nn.ReLU(), nn.Conv2d(6, 5, 3, 1, padding), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 7), nn.Tanh(), nn.Linear(7, 3),
    ).double().eval()  # fmt: skip


def silence(layer, units, bias=None):
    layer.weight.data[units] = 0.0
    if bias is not None:
        layer.bias.data[units] = torch.tensor(bias, dtype=layer.bias.dtype)


X = torch.randn(4, 1, 8, 8, dtype=torch.float64, generator=seeded(1))


def same(net, small):
    """Equal outputs on images that the constants were not read on, borders included."""
    x = torch.randn(5, 1, 8, 8, dtype=torch.float64, generator=seeded(2))
    torch.testing.assert_close(small(x), net(x), rtol=0, atol=1e-10)


def test_a_net_without_dead_units_stays_whole():
    net = conv_net()
    found = simplified(net, X)
    assert found.removed == found.merged == found.refused == {}
    assert count_parameters(found.model) == count_parameters(net)


def test_units_whose_constant_is_zero_go():
    """ReLU stops a bias that is not positive."""
    net = conv_net()
    silence(net[0], [1, 4], [-0.5, 0.0])
    found = simplified(net, X)
    assert found.removed == {"0": 2}
    assert found.model[0].weight.shape[0] == found.model[2].weight.shape[1] == 4
    same(net, found.model)


def test_constants_behind_a_padded_convolution_become_one_channel():
    """Its border sees zeros: added to the bias, they would be wrong there."""
    net = conv_net(padding=1)
    silence(net[0], [0, 2, 5], [0.7, 2.0, -1.0])
    found = simplified(net, X)
    assert found.removed == {"0": 2}  # one of the constants, and the zero
    assert found.merged == {"0": 1}
    same(net, found.model)
    wrong = copy.deepcopy(net)  # what folding into the bias would give
    for unit, value in ((0, 0.7), (2, 2.0)):
        wrong[2].bias.data += wrong[2].weight[:, unit].sum((1, 2)) * value
        wrong[2].weight.data[:, unit] = 0
    assert (wrong(X) - net(X)).abs().max() > 1e-3


def test_constants_behind_an_unpadded_convolution_go_into_its_bias():
    net = conv_net(padding=0)
    silence(net[0], [0, 2], [0.7, 2.0])
    found = simplified(net, X)
    assert found.removed == {"0": 2}
    assert found.merged == {}
    same(net, found.model)


def test_constants_go_through_flattening_and_a_linear_layer():
    net = conv_net()
    silence(net[2], [3], [1.5])
    silence(net[6], [0, 1], [0.3, -2.0])  # tanh lets a negative one through
    found = simplified(net, X)
    assert found.removed == {"2": 1, "6": 2}
    assert found.model[6].weight.shape == (5, 16)
    same(net, found.model)


class Streaked(nn.Module):
    """The lowest row of each map is multiplied by the image's."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 4, 3, 1, 1), nn.Linear(4 * 64, 3)
        self.register_buffer("above", torch.arange(8).view(1, 1, 8, 1).expand(1, 1, 8, 8) < 7)

    def forward(self, x):
        h = F.relu(self.conv(x))
        return self.head(torch.where(self.above, h, h * x).flatten(1))


def test_a_unit_that_is_constant_at_some_places_only_is_not_dead():
    net = Streaked().double().eval()
    silence(net.conv, [1], [0.7])
    found = simplified(net, X)
    assert found.removed == {}
    same(net, found.model)


def test_a_layer_that_had_no_bias_gets_one():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2, bias=False)).double()
    silence(net[0], [1], [0.5])
    x = torch.randn(6, 4, dtype=torch.float64)
    found = simplified(net, x)
    assert found.removed == {"0": 1}
    torch.testing.assert_close(found.model(x), net(x))


def test_what_nobody_reads_goes_and_what_only_it_read_goes_with_it():
    net = conv_net()
    net[6].weight.data[:, 4:8] = 0  # channel 1 of the second convolution, all its places
    net[2].weight.data[[0, 2, 3, 4], 5] = 0  # of channel 5 only that one reads
    found = simplified(net, X)
    assert found.removed == {"0": 1, "2": 1}
    same(net, found.model)


def test_one_unit_of_each_layer_stays():
    net = conv_net()
    silence(net[0], list(range(6)), [0.5, 1.0, 0.2, -1.0, 0.0, 0.4])
    silence(net[6], list(range(7)), [0.1] * 7)
    found = simplified(net, X)
    assert found.model[6].weight.shape[0] == 1
    assert found.model[0].weight.shape[0] == 1
    same(net, found.model)


def test_the_projects_own_net_in_single_precision():
    net = build_model("cnn_small", generator=seeded(0), bn=False, width=0.5).eval()
    silence(net.features[0], [0, 3, 7], [0.4, 0.2, -0.1])
    silence(net.features[2], [1, 9, 30], [0.4, 0.3, 0.2])
    silence(net.features[4], list(range(40)))
    x = torch.randn(9, 1, 28, 28, generator=seeded(3))
    found = simplified(net, x[:2])
    torch.testing.assert_close(found.model(x), net(x), rtol=0, atol=1e-5)
    assert found.removed == {"features.0": 2, "features.2": 2, "features.4": 40}
    assert found.merged == {"features.0": 1, "features.2": 2}


def test_the_net_that_is_given_is_untouched():
    net = conv_net()
    silence(net[0], [0, 2], [0.7, 2.0])
    before = copy.deepcopy(net.state_dict())
    net.train()
    simplified(net, X)
    assert net.training
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_a_group_whose_channels_are_carried_along_is_left_whole_and_said_so():
    """A batch norm's shift would give a silent channel a value of its own."""
    net = build_model("cnn_small", generator=seeded(0), bn=True, width=0.25).double().eval()
    net.features[0].weight.data[:3] = 0
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64, generator=seeded(1))
    found = simplified(net, x)
    assert found.removed == {}
    assert found.refused["features.0"] == "features.1 carries its channels along"
    torch.testing.assert_close(found.model(x), net(x))


class Residual(nn.Module):
    """Two layers that make the same channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(F.relu(self.a(x) + self.b(x)))


@pytest.mark.parametrize("both", [False, True])
def test_coupled_channels_are_dead_only_where_all_that_make_them_are(both):
    torch.manual_seed(0)
    net = Residual().double()
    silence(net.a, [2], [0.5])
    if both:
        silence(net.b, [2], [0.25])
    x = torch.randn(6, 4, dtype=torch.float64)
    found = simplified(net, x)
    assert sum(found.removed.values()) == int(both)
    torch.testing.assert_close(found.model(x), net(x))
