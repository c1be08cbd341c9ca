"""Transformers: what is declared is exact, and the rest stays whole."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import vit_b_16
from torchvision.models.vision_transformer import VisionTransformer

from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.tasks.models import build_model
from tests.oracles.channels import random_recipe, randomised, removal_error


def llama() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def vit() -> nn.Module:
    return VisionTransformer(32, 16, 2, 2, 16, 24, num_classes=5)


CASES = {
    "llama": (llama, lambda g: torch.randint(50, (2, 7), generator=g)),
    "vit": (vit, lambda g: torch.randn(2, 3, 32, 32, generator=g, dtype=torch.float64)),
    "char_gpt": (
        lambda: build_model("char_gpt", generator=torch.Generator().manual_seed(0), width=0.25),
        lambda g: torch.randint(65, (2, 9), generator=g),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_removal_is_exact_and_macs_are_known(case):
    make, draw = CASES[case]
    model = randomised(make())
    x = draw(torch.Generator().manual_seed(1))
    graph = trace_groups(model, x)
    recipe = random_recipe(graph, 0)
    off, moved, small = removal_error(model, graph, recipe, x)
    assert off < 1e-10 < moved
    kept = np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups])
    assert Costs(graph, "macs")(kept) == count_macs(small, x)
    assert Costs(graph, "macs").dense == count_macs(model, x)
    assert Costs(graph, "params")(kept) == sum(p.numel() for p in small.parameters())


def test_heads_of_char_gpt_go_whole():
    model = build_model("char_gpt", generator=torch.Generator().manual_seed(0))
    x = torch.randint(65, (1, 9))
    graph = trace_groups(model, x)
    group = graph["blocks.0.attention.query"]
    assert group.size == 4
    assert "heads" in group.kinds
    assert {s.module.rpartition(".")[2] for s in group.producers} == {"query", "key", "value"}
    from survey_lib.mechanics.surgery import apply_recipe

    small = apply_recipe(model, graph, {group.name: [1, 3]})
    assert (small.blocks[0].attention.heads, model.blocks[0].attention.heads) == (2, 4)
    old, new = model.blocks[0].attention, small.blocks[0].attention
    rows = torch.cat([torch.arange(32, 64), torch.arange(96, 128)])
    assert torch.equal(new.key.weight, old.key.weight[rows])
    assert torch.equal(new.out.weight, old.out.weight[:, rows])


def test_a_gated_mlp_ties_gate_up_and_down():
    model = llama()
    graph = trace_groups(model, torch.randint(50, (1, 5)))
    group = graph["model.layers.1.mlp.gate_proj"]
    assert {s.module.rpartition(".")[2] for s in group.slices} == {
        "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    from survey_lib.mechanics.surgery import apply_recipe

    small = apply_recipe(model, graph, {group.name: list(range(10))})
    assert small.model.layers[1].mlp.intermediate_size == 10
    assert model.model.layers[1].mlp.intermediate_size == 24


@pytest.mark.slow
def test_vit_b_16_in_full():
    model = randomised(vit_b_16(weights=None, num_classes=10))
    x = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    graph = trace_groups(model, x)
    off, moved, _ = removal_error(model, graph, random_recipe(graph, 0), x)
    assert off < 1e-9 < moved
    assert copy.deepcopy(graph) is not graph
