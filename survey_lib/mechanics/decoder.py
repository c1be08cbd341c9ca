"""Decoders by name: in each layer the norms, and the linear layers that read them.

| model | norm → its readers | what follows |
| --- | --- | --- |
| ``char_gpt`` | ``norm1`` → query, key, value; ``norm2`` → ``up`` | ``attention.out``; ``down`` |
| Hugging Face | ``input_layernorm`` → q, k, v; ``post_attention_layernorm`` → gate, up | o; down |

Of the second kind are Llama, Mistral, Qwen2, Qwen3, SmolLM2 and what is built like them. A layer
with further norms or weights beside the named ones is refused, because its norms may stand
elsewhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from survey_lib.mechanics.groups import GraphError
from survey_lib.tasks.language import pretrained
from survey_lib.tasks.models import Block


@dataclass(frozen=True)
class Reading:
    """A norm and the linear layers that read it, as module paths."""

    norm: str
    readers: tuple[str, ...]


@dataclass(frozen=True)
class DecoderLayer:
    """One layer of a decoder, as module paths."""

    path: str
    attention: Reading
    """The norm before attention, and the query, key and value projections."""
    attention_out: str
    mlp: Reading
    """The norm before the feed-forward net, and its expansion: up, or gate and up."""
    mlp_out: str
    """The contraction: down."""

    @property
    def readings(self) -> tuple[Reading, Reading]:
        """Attention's and the feed-forward net's, in the order of computation."""
        return self.attention, self.mlp

    @property
    def linears(self) -> tuple[str, ...]:
        """All linear layers in the order of computation."""
        return (*self.attention.readers, self.attention_out, *self.mlp.readers, self.mlp_out)


@dataclass(frozen=True)
class Decoder:
    """A decoder's layers in order."""

    layers: tuple[DecoderLayer, ...]
    width: int
    """Features of the residual stream, h."""

    @property
    def linears(self) -> tuple[str, ...]:
        """All linear layers of all layers; no embedding, no output head."""
        return tuple(path for layer in self.layers for path in layer.linears)


# norm before attention, its readers, attention's output, norm before the MLP, its readers, output
CHAR_GPT = ("norm1", ("attention.query", "attention.key", "attention.value"), "attention.out",
            "norm2", ("up",), "down")  # fmt: skip
HUGGING_FACE = ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
                "self_attn.o_proj", "post_attention_layernorm",
                ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj")  # fmt: skip
Names = tuple[str, tuple[str, ...], str, str, tuple[str, ...], str]


def decoder(model: nn.Module) -> Decoder:
    """The layers of ``char_gpt`` or of a Hugging Face decoder with a gate/up/down MLP.

    Modules that stand in for ``nn.Linear`` count as linear when they have ``in_features`` and
    ``out_features``.

    Raises:
        GraphError: a model that is built otherwise; names the first module that does not fit.
    """
    lists = [(p, m) for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise GraphError(
            f"{type(model).__name__}: no list of layers (nn.ModuleList) in it; decoder() takes "
            "char_gpt and Hugging Face causal models with a gate/up/down MLP"
        )
    path, blocks = lists[0]
    layers, width = [], 0
    for i, block in enumerate(blocks):
        names = CHAR_GPT if isinstance(block, Block) else HUGGING_FACE
        layers.append(_layer(f"{path}.{i}", block, names))
        size = model.get_submodule(layers[-1].attention.norm).weight.numel()  # type: ignore
        if width not in (0, size):
            raise GraphError(f"{path}.{i}: {size} features, the layers before have {width}")
        width = size
    return Decoder(tuple(layers), width)


def causal_lm(name: str | Path) -> tuple[Any, Any]:
    """Any causal language model with a gate/up/down MLP, by its name on the hub or its folder.

    Returns:
        The model in float32 and eval mode, without gradients, and its tokenizer.

    Raises:
        DataError: the extra ``llm`` is missing, or there is no such model within reach.
        GraphError: a model that is built otherwise; names the first module that does not fit.
    """
    model, tokenizer = pretrained(name)
    decoder(model)
    return model, tokenizer


def _layer(path: str, block: nn.Module, names: Names) -> DecoderLayer:
    norm1, heads, out, norm2, expansion, down = names
    _no_others(
        path, block, {n.split(".")[0] for n in (norm1, *heads, out, norm2, *expansion, down)}
    )
    if names is HUGGING_FACE:
        _no_others(
            f"{path}.mlp", block.get_submodule("mlp"), {n.split(".")[1] for n in (*expansion, down)}
        )
    for norm, readers in ((norm1, heads), (norm2, expansion)):
        weight = getattr(_child(path, block, norm), "weight", None)
        if weight is None or weight.ndim != 1:
            raise GraphError(f"{path}.{norm}: not a norm with one weight for each feature")
        for reader in readers:
            if _linear(path, block, reader).in_features != weight.numel():
                raise GraphError(f"{path}.{reader}: does not read all of {path}.{norm}")
    for name in (out, down):
        _linear(path, block, name)
    dot = f"{path}."
    return DecoderLayer(
        path,
        Reading(dot + norm1, tuple(dot + n for n in heads)), dot + out,
        Reading(dot + norm2, tuple(dot + n for n in expansion)), dot + down,
    )  # fmt: skip


def _no_others(path: str, module: nn.Module, known: set[str]) -> None:
    """Refuse weights beside the known ones: a third norm, experts, an adapter."""
    children = dict(module.named_children())
    for name in sorted(known - set(children)):
        _missing(path, module, name)
    for name, child in children.items():
        if name not in known and any(True for _ in child.parameters()):
            raise GraphError(
                f"{path}.{name}: a {type(child).__name__} that decoder() does not know; it takes "
                f"layers with {', '.join(sorted(known))} only"
            )


def _child(path: str, block: nn.Module, name: str) -> nn.Module:
    try:
        return block.get_submodule(name)
    except AttributeError:
        return _missing(path, block, name)


def _missing(path: str, module: nn.Module, name: str) -> Any:
    raise GraphError(
        f"{path}: a {type(module).__name__} without {name}; decoder() takes char_gpt and Hugging "
        "Face causal models with a gate/up/down MLP (Llama, Mistral, Qwen2, SmolLM2)"
    )


def _linear(path: str, block: nn.Module, name: str) -> Any:
    module = _child(path, block, name)
    if not all(isinstance(getattr(module, a, None), int) for a in ("in_features", "out_features")):
        raise GraphError(f"{path}.{name}: a {type(module).__name__}, not a linear layer")
    return module
