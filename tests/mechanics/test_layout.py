"""A smaller net keeps the memory layout: a lost one costs time, though no number changes."""

import pytest
import torch

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["vgg_small", "resnet_small", "mobilenet_small"])
def test_strides_are_those_of_a_net_built_at_the_same_widths(name, layout):
    dense = build_model(name, generator=seeded(0)).to(memory_format=layout)
    built = build_model(name, generator=seeded(0), width=0.5).to(memory_format=layout)
    graph = trace_groups(dense, torch.zeros(1, 1, 28, 28))
    halves = {g.name: list(range(g.size // 2)) for g in graph.prunable}
    pruned = apply_recipe(dense, graph, halves)
    got = {n: (p.shape, p.stride()) for n, p in pruned.named_parameters()}
    assert got == {n: (p.shape, p.stride()) for n, p in built.named_parameters()}
