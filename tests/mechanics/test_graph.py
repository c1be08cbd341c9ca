"""Groups: who belongs together, what is protected, what is refused and in which words."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import GraphError, internal_groups
from survey_lib.tasks.models import build_model
from tests.mechanics.toys import (
    Concatenated,
    Depthwise,
    Flattened,
    Grouped,
    Plain,
    Residual,
    Scaled,
    Twice,
    example,
)
from tests.oracles.channels import randomised


def members(group, role):
    return {s.module for s in group.slices if s.role == role}


def traced(make):
    model = make().double()
    return trace_groups(model, example(model))


@pytest.mark.parametrize(
    ("make", "name", "size", "kind", "made", "read"),
    [
        (Plain, "a", 6, "plain", {"a"}, {"b"}),
        (Plain, "b", 5, "plain", {"b"}, {"head"}),
        (Residual, "a", 6, "residual", {"a", "b"}, {"b", "head"}),
        (Concatenated, "a", 4, "concatenated", {"a"}, {"b", "c"}),
        (Concatenated, "b", 3, "concatenated", {"b"}, {"c"}),
        (Depthwise, "a", 6, "depthwise", {"a"}, {"b"}),
        (Grouped, "a", 4, "grouped", {"a"}, {"b"}),
        (Flattened, "a", 5, "flattened", {"a"}, {"hidden"}),
        (Scaled, "a", 6, "scaled", {"a", "up"}, {"down", "b"}),
        (Twice, "a", 5, "residual", {"a", "again"}, {"again", "head"}),
    ],
)
def test_each_kind_of_coupling_is_found_and_named(make, name, size, kind, made, read):
    graph = traced(make)
    group = graph[name]
    assert group.size == size
    assert members(group, "out") == made
    assert members(group, "in") == read
    if kind != "residual" or make is not Twice:
        assert kind in group.kinds
    else:
        assert group.kinds == ("shared",)
    assert not group.protected


def test_a_grouped_convolution_goes_group_by_group():
    group = traced(Grouped)["a"]
    by_tensor = {(s.module, s.tensor): s.positions.tolist() for s in group.slices}
    assert by_tensor["a", "weight"] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert by_tensor["g", "weight"] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_positions_after_concatenation_and_flattening():
    graph = traced(Concatenated)
    reads = {s.module: s.positions[:, 0].tolist() for s in graph["b"].consumers}
    assert reads == {"c": [4, 5, 6]}
    at = traced(Flattened)["a"].consumers[0].positions
    assert at.tolist() == [list(range(16 * c, 16 * c + 16)) for c in range(5)]


def test_the_stages_of_a_residual_net_by_hand():
    model = build_model("resnet_small", generator=torch.Generator().manual_seed(0), blocks=2)
    graph = trace_groups(model, torch.randn(1, 1, 28, 28))
    stage = graph["stages.2.conv2"]
    assert members(stage, "out") == {"stages.2.conv2", "stages.2.shortcut.0", "stages.3.conv2"}
    assert members(stage, "in") == {"stages.3.conv1", "stages.4.conv1", "stages.4.shortcut.0"}
    assert graph["stages.3.conv1"].kinds == ("plain",)


def test_the_repr_says_what_is_tied_to_what_and_why():
    said = repr(traced(Residual)["a"])
    assert "a: 6 units, residual" in said
    assert "made by a, b" in said
    assert "residual: add in Residual" in said
    assert "read by b, head" in said
    assert "protected: output of the net" in repr(traced(Residual)["head"])


def test_units_number_as_channels_do():
    for name in ("resnet_small", "mobilenet_small", "densenet_small"):
        model = build_model(name, generator=torch.Generator().manual_seed(0))
        for group in trace_groups(model, torch.randn(1, 1, 28, 28)).groups:
            first = group.producers[0].positions[:, 0]
            assert first.tolist() == sorted(first.tolist())


# What nothing may be removed from.


class Net(nn.Module):
    """Two convolutions around whatever ``between`` does."""

    def __init__(self, between, after=6, **modules):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.b = nn.Conv2d(after, 4, 1)
        for name, module in modules.items():
            setattr(self, name, module)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


PROTECTED = {
    "layer norm": (
        Net(lambda m, x: m.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), norm=nn.LayerNorm(6)),
        "normalised by layer_norm in norm",
    ),
    "group norm": (
        Net(lambda m, x: m.norm(x), norm=nn.GroupNorm(2, 6)),
        "normalised by group_norm in norm",
    ),
    "functional norm": (
        Net(lambda m, x: F.group_norm(x, 3)),
        "normalised by group_norm in Net",
    ),
    "softmax": (Net(lambda m, x: torch.softmax(x, 1)), "normalised by softmax"),
    "mean over channels": (
        Net(lambda m, x: x * x.mean(1, keepdim=True)),
        "mean in Net runs over the channels",
    ),
    "pieces": (
        Net(lambda m, x: torch.cat(torch.split(x, [2, 4], 1)[::-1], 1)),
        "split in Net cuts the channels into fixed pieces",
    ),
    "running sum": (Net(lambda m, x: torch.cumsum(x, 1)), "mixed by cumsum in Net"),
    "no rule": (
        Net(lambda m, x: torch.renorm(x, 2, 1, 5.0)),
        "renorm in Net stands in no rule",
    ),
    "shuffled by torch": (
        Net(lambda m, x: m.shuffle(x), shuffle=nn.ChannelShuffle(2)),
        "channel_shuffle in shuffle stands in no rule",
    ),
    "recurrent": (
        Net(lambda m, x: m.rnn(x.flatten(2))[0].unsqueeze(1), after=1, rnn=nn.GRU(64, 64)),
        "gru in rnn stands in no rule",
    ),
    "fixed groups": (
        Net(lambda m, x: F.conv2d(x, m.w, groups=2), w=nn.Parameter(torch.randn(6, 3, 1, 1))),
        "w is called with a fixed number of groups",
    ),
    "some channels": (Net(lambda m, x: x[:, :4], after=4), "indexing in Net picks some"),
    "shuffle": (
        Net(lambda m, x: x.view(x.size(0), 2, 3, 8, 8).transpose(1, 2).reshape(-1, 6, 8, 8)),
        "splits the channels over two axes",
    ),
    "a number in the code": (
        Net(lambda m, x: x.flatten(2).view(x.size(0), 6, 8, 8)),
        "names their number; write -1 instead",
    ),
    "padded channels": (
        Net(lambda m, x: F.pad(x, (0, 0, 0, 0, 1, 2)), after=9),
        "adds a fixed number of channels",
    ),
    "added constant": (
        Net(lambda m, x: x + torch.ones(6, 1, 1, dtype=torch.float64)),
        "",
    ),
}


@pytest.mark.parametrize("case", PROTECTED)
def test_what_cannot_go_is_protected_and_says_why(case):
    model, why = PROTECTED[case]
    model = randomised(model)
    graph = trace_groups(model, example(model))
    assert graph["a"].protected or not why
    assert why in graph["a"].protected
    if why:
        assert [g.name for g in graph.prunable] == []


def test_one_attention_map_over_all_channels_cannot_go_but_they_can():
    model = randomised(Net(lambda m, x: x * torch.sigmoid(m.c(x)), c=nn.Conv2d(6, 1, 1)))
    graph = trace_groups(model, example(model))
    assert not graph["a"].protected
    assert "one channel spread over others by mul" in graph["c"].protected


def test_a_parameter_for_each_channel_goes_with_it():
    graph = traced(Scaled)
    assert ("", "scale", 0) in {(s.module, s.tensor, s.axis) for s in graph["a"].slices}


# What is refused.


class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.inner = Branch()

    def forward(self, x):
        return self.inner(self.a(x))


class Unreached(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.auxiliary = nn.Linear(4, 3)

    def forward(self, x):
        return self.a(x)


REFUSED = {
    "control flow": (Looping, r"inner: control flow that depends on the data; take it out"),
    "unreached": (Unreached, r"never reaches auxiliary; build the net without them"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_one_clear_sentence(case):
    make, message = REFUSED[case]
    model = make().double()
    with pytest.raises(GraphError, match=message) as caught:
        trace_groups(model, example(model))
    assert "\n" not in str(caught.value)


def test_a_norm_of_the_wrong_size_is_one_clear_sentence():
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(5))
    with pytest.raises(GraphError, match=r"^1: fails on the example: 4 channels meet a norm of 5"):
        trace_groups(model, torch.randn(1, 2, 3, 3))


def test_a_net_without_channels_has_no_groups():
    assert trace_groups(nn.Sequential(nn.ReLU()), torch.randn(1, 2, 3, 3)).groups == ()


def test_an_example_of_the_wrong_shape_is_one_clear_sentence():
    with pytest.raises(
        GraphError, match=r"^a: fails on the example: 7 channels meet a weight for 2"
    ):
        trace_groups(Plain(), torch.randn(1, 7, 8, 8))


def test_tracing_leaves_the_net_as_it_was():
    model = Plain()
    model.norm.eval()  # a net half in train mode
    before = {k: v.clone() for k, v in model.state_dict().items()}
    trace_groups(model, torch.randn(4, 2, 8, 8))
    assert model.training
    assert not model.norm.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_unknown_group_is_named():
    with pytest.raises(KeyError, match="no channel group 'c'; there are: a, b, head"):
        traced(Plain)["c"]


class Bottlenecks(nn.Module):
    """A stem, and a block with a shortcut of its own, as ResNet-50 begins."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 4, 3)
        self.c, self.down = nn.Conv2d(4, 8, 1), nn.Conv2d(6, 8, 3)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(self.c(self.b(self.a(x).relu()).relu()) + self.down(x))


@pytest.mark.parametrize(
    ("make", "inside"),
    [
        (Bottlenecks, {"a", "b"}),  # the stem feeds two branches: it is the stream
        (Plain, {"a", "b"}),
        (Residual, set()),
        (Concatenated, {"c"}),
        (Scaled, {"a", "down", "b"}),  # its second reader is its own gate
        (Depthwise, {"a", "b"}),
    ],
)
def test_what_lies_inside_a_block(make, inside):
    assert {g.name for g in internal_groups(traced(make))} == inside


class UpTwice(nn.Module):
    """One transposed convolution for two branches, as wide outside as inside."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 5, 1), nn.Conv2d(2, 5, 1)
        self.up, self.head = nn.ConvTranspose2d(5, 5, 2), nn.Conv2d(5, 3, 1)

    def forward(self, x):
        return self.head(self.up(self.a(x)) * self.up(self.b(x)))


def test_a_transposed_layer_called_twice_ties_inputs_to_inputs_and_outputs_to_outputs():
    graph = trace_groups(UpTwice().double(), torch.randn(2, 2, 6, 6).double())
    assert {g.name: members(g, "in") for g in graph.prunable} == {"a": {"up"}, "up": {"head"}}
    assert members(graph["a"], "out") == {"a", "b"}
    assert members(graph["up"], "out") == {"up"}


class Borrowed(nn.Module):
    """Two layers share a matrix, and neither of them runs: it is used by its name."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(2, 5), nn.Linear(2, 5), nn.Linear(5, 3)
        self.b.weight, self.b.bias = self.a.weight, self.a.bias

    def forward(self, x):
        return self.head(F.linear(x, self.a.weight, self.a.bias).relu())


def test_a_shared_matrix_goes_by_the_name_it_had_first():
    graph = trace_groups(Borrowed(), torch.randn(4, 2))
    assert [g.name for g in graph.prunable] == ["a"]


class Lone(nn.Module):
    """One channel, behind an axis that comes and goes."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 1), nn.Linear(1, 3)

    def forward(self, x):
        return self.b(self.a(x).unsqueeze(0).relu().squeeze(0))


def test_a_lone_channel_is_found_again_when_an_axis_before_it_goes():
    graph = trace_groups(Lone(), torch.randn(6, 4))
    assert members(graph["a"], "in") == {"b"}
    assert not graph["a"].protected


class BySizeOfWeight(nn.Module):
    """Reshapes by what a weight says of itself, one axis asked for."""

    def __init__(self):
        super().__init__()
        self.a, self.head = nn.Conv2d(2, 5, 1), nn.Conv1d(5, 3, 1)

    def forward(self, x):
        return self.head(self.a(x).reshape(len(x), self.a.weight.size(0), -1))


def test_the_size_of_a_weight_along_one_axis_is_a_number_that_remembers():
    graph = trace_groups(BySizeOfWeight(), torch.randn(2, 2, 6, 6))
    assert [g.name for g in graph.prunable] == ["a"]
    assert members(graph["a"], "in") == {"head"}
