"""The MLPs of a language model: struck and fused adapters give what masked ones give."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.experiments.pruning_adapters import smollm2
from survey_lib.methods.pruning_adapters.adapter import Adapter

WIDTH, HIDDEN, RANK = 6, 10, 2


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    shapes = {
        "gate_proj": (WIDTH, HIDDEN),
        "up_proj": (WIDTH, HIDDEN),
        "down_proj": (HIDDEN, WIDTH),
    }
    made = {}
    for name, (inputs, outputs) in shapes.items():
        layer = nn.Linear(inputs, outputs, bias=False).double()
        layer.weight.data = torch.randn(outputs, inputs, generator=generator).double()
        made[name] = Adapter(layer, "splora", RANK, 0.5, generator).double()
    return made


def cut(parts, kept):
    return {
        name: smollm2.struck(a, 1 if name == "down_proj" else 0, kept) for name, a in parts.items()
    }


@torch.no_grad()
def test_the_three_ways_agree_with_a_literal_one(parts):
    x = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    kept = torch.tensor([0, 3, 4, 9])
    w = {n: a.layer.weight.T + a.down @ a.up for n, a in parts.items()}  # y = x W
    hidden = F.silu(x @ w["gate_proj"]) * (x @ w["up_proj"])
    literal = hidden[:, kept] @ w["down_proj"][kept]
    small = cut(parts, kept)
    for way, nets in (("masked", parts), ("cut", small), ("fused", small)):
        torch.testing.assert_close(smollm2.output(nets, x, way, kept), literal, rtol=0, atol=1e-12)
    # one neuron too many is told apart
    other = cut(parts, torch.tensor([0, 3, 4, 8]))
    assert not torch.allclose(smollm2.output(other, x, "cut", kept), literal, atol=1e-3)


def test_struck_adapters_are_smaller_and_those_given_stay_whole(parts):
    small = cut(parts, torch.arange(4))
    assert {n: a.size for n, a in small.items()} == dict.fromkeys(parts, RANK * (WIDTH + 4))
    assert {n: a.size for n, a in parts.items()} == dict.fromkeys(parts, RANK * (WIDTH + HIDDEN))
    assert parts["down_proj"].layer.weight.shape == (WIDTH, HIDDEN)


@torch.no_grad()
def test_the_largest_neurons_of_the_adapted_matrices_stay(parts):
    for a in parts.values():
        a.layer.weight.zero_()
        a.up.zero_()
    parts["up_proj"].layer.weight[7] = 1.0  # a row of torch's weight makes neuron 7
    parts["down_proj"].down[2] = 1.0  # the adapter alone speaks for neuron 2
    parts["down_proj"].up.fill_(1.0)
    assert smollm2.neurons(parts, 0.2).tolist() == [2, 7]
