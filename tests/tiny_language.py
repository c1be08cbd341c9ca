"""Tiny random language models, and a tokenizer of words, made here without a network."""

import pytest
import torch
from torch import nn

from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model

VOCABULARY = 50
SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCABULARY,
         "max_position_embeddings": 64}  # fmt: skip


def drawn(net: nn.Module) -> nn.Module:
    """All parameters anew from a generator, norms' too, so that nothing is 0 or 1."""
    generator = seeded(7)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.3 * torch.randn(p.shape, generator=generator) + (p.ndim == 1))
    return net.eval().requires_grad_(False)


def llama(**options) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**(SHAPE | {"tie_word_embeddings": False} | options))
    return drawn(transformers.LlamaForCausalLM(config))


def qwen2() -> nn.Module:
    """The projections to query, key and value have biases, and the head is the embedding."""
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen2Config(**(SHAPE | {"tie_word_embeddings": True}))
    return drawn(transformers.Qwen2ForCausalLM(config))


def gemma() -> nn.Module:
    """Its norms multiply by 1 + weight."""
    transformers = pytest.importorskip("transformers")
    return drawn(transformers.GemmaForCausalLM(transformers.GemmaConfig(**SHAPE, head_dim=4)))


def gemma2() -> nn.Module:
    """Four norms a layer, and the one called post_attention_layernorm is behind attention."""
    transformers = pytest.importorskip("transformers")
    return drawn(transformers.Gemma2ForCausalLM(transformers.Gemma2Config(**SHAPE, head_dim=4)))


def gpt2() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=VOCABULARY)
    return transformers.GPT2LMHeadModel(config)


def char_gpt() -> nn.Module:
    return drawn(build_model("char_gpt", generator=seeded(0), width=0.25, size=32))


def tokens(n: int = 4, length: int = 11) -> torch.Tensor:
    return torch.randint(VOCABULARY, (n, length), generator=seeded(1))


def logits(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        out = net(x)
    return out if isinstance(out, torch.Tensor) else out.logits


def word_tokenizer():
    """Words between spaces and line ends; what is not among twenty known ones is ``<unk>``."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<unk>", "=", "Robert", "is", "an", "English", "film", ",", "television", "and",
             "theatre", "actor", ".", "He", "had", "a", "guest", "@-@", "the", "of"]  # fmt: skip
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
