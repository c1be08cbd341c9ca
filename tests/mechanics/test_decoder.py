"""What decoder() names is where it says it is; what is built otherwise is refused by name."""

import pytest
import torch
from torch import nn

from survey_lib.mechanics.decoder import causal_lm, decoder
from survey_lib.mechanics.groups import GraphError
from survey_lib.tasks.data import DataError
from tests.tiny_language import (
    char_gpt,
    gemma2,
    gpt2,
    llama,
    logits,
    qwen2,
    tokens,
    word_tokenizer,
)

KNOWN = {"char_gpt": char_gpt, "llama": llama, "qwen2": qwen2}


@pytest.mark.parametrize("name", KNOWN)
def test_readers_read_the_very_tensor_their_norm_gives_and_no_one_else_does(name):
    net = KNOWN[name]()
    made, read = {}, {}  # the latter in the order of computation

    def keep(path):
        return lambda _module, args: read.__setitem__(path, args[0])

    def keep_output(path):
        return lambda _module, _args, y: made.__setitem__(path, y)

    for path, module in net.named_modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(keep(path))
        elif getattr(module, "weight", None) is not None and module.weight.ndim == 1:
            module.register_forward_hook(keep_output(path))
    logits(net, tokens(1))
    plan = decoder(net)
    for layer in plan.layers:
        for reading in layer.readings:
            seen = {path for path, x in read.items() if x is made[reading.norm]}
            assert seen == set(reading.readers)
            assert made[reading.norm].shape[-1] == plan.width
    assert list(plan.linears) == [path for path in read if "head" not in path]


def test_names_of_both_kinds():
    layer = decoder(char_gpt()).layers[1]
    assert layer.attention.norm == "blocks.1.norm1"
    assert layer.mlp.readers == ("blocks.1.up",)
    assert (layer.attention_out, layer.mlp_out) == ("blocks.1.attention.out", "blocks.1.down")
    layer = decoder(llama()).layers[2]
    assert layer.path == "model.layers.2"
    assert layer.mlp.norm == "model.layers.2.post_attention_layernorm"
    assert layer.mlp.readers == ("model.layers.2.mlp.gate_proj", "model.layers.2.mlp.up_proj")


def test_a_stand_in_for_a_linear_layer_counts_as_one():
    class Int8(nn.Module):
        in_features, out_features = 16, 24

    net = llama()
    net.model.layers[0].mlp.up_proj = Int8()
    assert decoder(net) == decoder(llama())


def without(path):
    def make():
        net = llama()
        parent, _, name = path.rpartition(".")
        delattr(net.get_submodule(parent), name)
        return net

    return make


def with_a_third_norm():
    net = llama()
    net.model.layers[1].extra = nn.LayerNorm(16)
    return net


def with_a_narrow_reader():
    net = llama()
    net.model.layers[2].self_attn.k_proj = nn.Linear(8, 8)
    return net


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (gpt2, r"transformer\.h\.0: a GPT2Block without input_layernorm"),
        (gemma2, r"model\.layers\.0\.pre_feedforward_layernorm: a Gemma2RMSNorm"),
        (without("model.layers.1.mlp.gate_proj"), r"model\.layers\.1\.mlp: .* without gate_proj"),
        (without("model.layers.1.self_attn.v_proj"), r"layers\.1: .* without self_attn\.v_proj"),
        (with_a_third_norm, r"model\.layers\.1\.extra: a LayerNorm"),
        (with_a_narrow_reader, r"layers\.2\.self_attn\.k_proj: does not read all of .*input_layer"),
        (lambda: nn.Sequential(nn.Linear(2, 2)), "Sequential: no list of layers"),
    ],
)
def test_what_is_built_otherwise_is_refused_by_the_name_of_the_first_misfit(make, sentence):
    with pytest.raises(GraphError, match=sentence):
        decoder(make())


@pytest.mark.parametrize("make", [llama, qwen2])
def test_a_model_of_ones_own_comes_from_a_folder(make, tmp_path):
    net = make()
    net.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    loaded, _ = causal_lm(tmp_path)
    assert torch.equal(logits(loaded, tokens()), logits(net, tokens()))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_folder_that_does_not_fit_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match=r"cannot be loaded as a causal language model") as failure:
        causal_lm(tmp_path)
    assert "\n" not in str(failure.value)
    gpt2().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(GraphError, match=r"transformer\.h\.0"):
        causal_lm(tmp_path)
