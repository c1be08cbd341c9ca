"""Peak activation memory against closed forms worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.measure.memory import live_bytes, peak_memory
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model

FLOAT = 4
X = torch.zeros(1, 4, 6, 6)  # 144 elements
N = X.numel()


def same(outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(4, outputs, 3, padding=1)


@pytest.mark.parametrize(("inplace", "held"), [(False, [288, 288, 216]), (True, [288, 144, 216])])
def test_a_chain_holds_the_input_and_output_of_one_layer(inplace, held):
    # 144 → conv 144 → relu → conv 72; an in-place relu needs no second buffer
    net = nn.Sequential(same(), nn.ReLU(inplace), same(2))
    assert live_bytes(net, X) == [FLOAT * n for n in held]
    assert peak_memory(net, X) == FLOAT * 288


class Residual(nn.Module):
    def __init__(self, shortcut: bool, inplace: bool = False):
        super().__init__()
        self.conv1, self.conv2 = same(), same()
        self.shortcut, self.inplace = shortcut, inplace

    def forward(self, x):
        y = F.relu(self.conv1(x))
        y = self.conv2(y)
        if not self.shortcut:
            return F.relu(y)
        return y.add_(x) if self.inplace else y + x


def test_a_shortcut_keeps_its_input_alive():
    # conv1: x, y · relu: x, y, r · conv2: x, r, z · add: x, z, sum
    assert live_bytes(Residual(True), X) == [FLOAT * N * n for n in (2, 3, 3, 3)]
    assert live_bytes(Residual(True, inplace=True), X) == [FLOAT * N * n for n in (2, 3, 3, 2)]
    assert peak_memory(Residual(False), X) == FLOAT * N * 2


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = same(2)

    def forward(self, x):
        return torch.cat([x, self.conv(x)], 1)


def test_a_concatenation_holds_its_parts_and_the_whole():
    # conv: 144 + 72 · cat: 144 + 72 + 216
    assert live_bytes(Concatenated(), X) == [FLOAT * 216, FLOAT * 432]


class Viewed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.linear = same(), nn.Linear(N, 5)

    def forward(self, x):
        y = self.conv(x)
        flat = y.flatten(1)  # another view of the same buffer
        return self.linear(flat)


def test_a_view_shares_the_buffer_and_weights_do_not_count():
    assert peak_memory(Viewed(), X) == FLOAT * 2 * N  # the linear layer's weight is 5 × larger
    assert live_bytes(Viewed(), X)[-1] == FLOAT * (N + 5)


def test_the_input_counts_until_it_is_last_read_and_a_slice_brings_no_batch():
    assert peak_memory(nn.Identity(), torch.zeros(8, 3)) == FLOAT * 24
    batch = torch.zeros(16, 4, 6, 6)
    net = nn.Sequential(same(), nn.ReLU())
    assert peak_memory(net, batch[:1]) == FLOAT * 288
    assert peak_memory(net, batch) == 16 * FLOAT * 288


def test_bytes_follow_the_type():
    assert peak_memory(same().double(), X.double()) == 8 * 288


def test_weights_change_nothing_and_the_net_is_left_as_it_is():
    a, b = (build_model("resnet_small", generator=seeded(s)).train() for s in (0, 1))
    x = torch.randn(1, 1, 28, 28, generator=seeded(2))
    before = {k: v.clone() for k, v in a.state_dict().items()}
    assert peak_memory(a, x) == peak_memory(b, x)
    assert all(module.training for module in a.modules())
    assert all(torch.equal(before[k], v) for k, v in a.state_dict().items())


def test_a_pruned_net_needs_less_and_as_much_as_a_dense_net_of_its_widths():
    dense = build_model("resnet_small", generator=seeded(0))
    x = torch.zeros(1, 1, 28, 28)
    graph = trace_groups(dense, x)
    halves = {g.name: list(range(g.size // 2)) for g in graph.prunable}
    pruned = apply_recipe(dense, graph, halves)
    narrow = build_model("resnet_small", generator=seeded(0), width=0.5)
    assert peak_memory(pruned, x) == peak_memory(narrow, x) < peak_memory(dense, x)


def test_a_net_that_does_not_trace_is_measured_all_the_same():
    net = build_model("char_gpt", generator=seeded(0))
    tokens = torch.zeros(1, 64, dtype=torch.long)
    # in the MLP: the residual stream (64 × 128), the hidden layer before and after GELU (64 × 512)
    assert peak_memory(net, tokens) == FLOAT * 64 * (128 + 512 + 512)


def test_attention_shows_its_buffers_though_torch_has_a_path_that_hides_them():
    d, t, hidden = 16, 10, 64
    layer = nn.TransformerEncoderLayer(d, 2, hidden, batch_first=True).eval()
    # the input of the MLP is kept for the residual, the hidden layer stands before and after relu
    assert peak_memory(layer, torch.zeros(1, t, d)) == FLOAT * t * (d + 2 * hidden)
    assert torch.backends.mha.get_fastpath_enabled()
