"""Planted features change the readers' inputs as said and nothing else."""

import pytest
import torch
from torch import nn

from survey_lib.mechanics.decoder import decoder
from survey_lib.mechanics.groups import GraphError
from survey_lib.methods.llm_int8.planting import plant
from survey_lib.tasks.dense import shipped_net
from survey_lib.tasks.task import load_task
from tests.tiny_language import char_gpt, gemma, gpt2, llama, logits, qwen2, tokens

MODELS = {"char_gpt": char_gpt, "llama": llama, "qwen2": qwen2}


def inputs(net, x):
    """(B, T, h) input of each reader, by path."""
    seen, handles = {}, []
    for layer in decoder(net).layers:
        for path in layer.attention.readers + layer.mlp.readers:
            handles.append(
                net.get_submodule(path).register_forward_pre_hook(
                    lambda _m, args, path=path: seen.__setitem__(path, args[0].clone())
                )
            )
    logits(net, x)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scale", [0.5, 2.0, 64.0, 2.0**20])
def test_with_a_power_of_two_the_logits_are_equal_to_the_bit(name, scale):
    net, x = MODELS[name](), tokens()
    planted = plant(net, [0, 3, 11], scale)
    assert torch.equal(logits(planted, x), logits(net, x))
    before, after = inputs(net, x), inputs(planted, x)
    for path, y in before.items():
        expected = y.clone()
        expected[..., [0, 3, 11]] *= scale
        assert torch.equal(after[path], expected)


def test_the_shipped_net_too():
    net, x = shipped_net("char_gpt"), load_task("char_gpt").test.x[:8]
    planted = plant(net, [1, 17, 40, 63, 99, 127], 64.0)
    assert torch.equal(logits(planted, x), logits(net, x))


@pytest.mark.parametrize("scale", [1.0, 3.0, 64.0])
def test_one_sided_planting_is_exact_in_double_precision(scale):
    net, x = char_gpt().double(), tokens()
    planted = plant(net, [2, 9], scale, shift=-8.0)
    assert (logits(planted, x) - logits(net, x)).abs().max() < 1e-10
    before, after = inputs(net, x), inputs(planted, x)
    for path, y in before.items():
        expected = y.clone()
        expected[..., [2, 9]] = scale * (expected[..., [2, 9]] - 8.0)
        assert torch.allclose(after[path], expected, rtol=0, atol=1e-11 * scale)
        assert (after[path][..., [2, 9]] < 0).all()
        assert planted.get_submodule(path).bias is not None  # they had none


def test_a_bias_that_is_there_takes_the_shift():
    net, x = char_gpt().double(), tokens()
    for block in net.blocks:
        block.up.bias = nn.Parameter(torch.linspace(-1, 1, block.up.out_features).double())
    planted = plant(net, [4], 5.0, shift=2.0)
    assert (logits(planted, x) - logits(net, x)).abs().max() < 1e-10
    assert not torch.equal(planted.blocks[0].up.bias, net.blocks[0].up.bias)


def test_only_the_layers_asked_for_change_and_the_net_given_never_does():
    net = char_gpt()
    state = {k: v.clone() for k, v in net.state_dict().items()}
    planted = plant(net, [6], 8.0, layers=[1, 3])
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    changed = {k.split(".")[1] for k, v in planted.state_dict().items() if not v.equal(state[k])}
    assert changed == {"1", "3"}


def test_the_planted_rows_get_small_as_the_confounder_says():
    net = llama()
    planted = plant(net, [6], 32.0)
    for layer in decoder(net).layers:
        for path in layer.attention.readers + layer.mlp.readers:
            old, new = (n.get_submodule(path).weight for n in (net, planted))
            assert torch.equal(new[:, 6], old[:, 6] / 32)
            assert torch.equal(new[:, 7], old[:, 7])


def test_planting_twice_the_same_feature_in_one_call_plants_it_once():
    net, x = char_gpt(), tokens()
    assert torch.equal(
        inputs(plant(net, [3, 3], 4.0), x)["blocks.0.up"],
        inputs(plant(net, [3], 4.0), x)["blocks.0.up"],
    )


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: plant(llama(), [1], 2.0, shift=1.0), r"input_layernorm: a LlamaRMSNorm without"),
        (lambda: plant(gemma(), [1], 2.0), "GemmaRMSNorm that does not multiply by its weight"),
        (lambda: plant(llama(), [16], 2.0), "no feature 16; there are 0 … 15"),
        (lambda: plant(llama(), [1], 2.0, layers=[3]), "no layer 3; there are 0 … 2"),
        (lambda: plant(llama(), [1], 0.0), "positive, finite scale"),
        (lambda: plant(llama(), [1], float("inf")), "positive, finite scale"),
    ],
)
def test_what_cannot_be_planted_is_one_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


def test_an_unknown_net_is_refused_by_name():
    with pytest.raises(GraphError, match=r"transformer\.h\.0"):
        plant(gpt2(), [1], 2.0)
