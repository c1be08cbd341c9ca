"""The same adapter in a language model: struck out and fused in all of SmolLM2's MLPs, untrained.

Each of the three matrices of an MLP (gate, up, down) gets a low-rank adapter whose two factors are
drawn large enough to be felt. A share of the hidden neurons goes: columns of gate and up, rows of
down, by the size of what is left of them after adapting. What an MLP gives for one text is then
computed three ways: adapters beside the frozen matrices and struck neurons set to zero, adapters
and matrices cut, and cut and fused. Nothing is learned, so nothing is said about accuracy.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.pruning_adapters.adapter import Adapter, beside
from survey_lib.tasks.language import smollm2, wikitext2

TOKENS = 128
KEEP = 0.5
"""Share of the hidden neurons that stays in each MLP."""
FELT = 0.02
"""W_up ~ U(−FELT, FELT): a correction that training could have made."""
PARTS = ("gate_proj", "up_proj", "down_proj")


def neurons(parts: dict[str, Adapter], keep: float) -> Tensor:
    """The hidden neurons of one MLP that stay: the largest Σ|w| over the adapted matrices."""
    sizes = sum(a.adapted().abs().sum(0 if name == "down_proj" else 1)
                for name, a in parts.items())  # fmt: skip
    assert isinstance(sizes, Tensor)
    return sizes.argsort(descending=True)[: round(keep * len(sizes))].sort().values


def struck(adapter: Adapter, axis: int, kept: Tensor) -> Adapter:
    """A copy without the rows (axis 1) or columns (axis 0) that went."""
    made = copy.deepcopy(adapter)
    weight = adapter.layer.weight.index_select(axis, kept)
    made.layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    made.layer.weight = nn.Parameter(weight, requires_grad=False)
    made.cut(axis, kept)
    return made


def output(parts: dict[str, Adapter], x: Tensor, way: str, kept: Tensor) -> Tensor:
    """down(silu(gate x) · up x) with adapters beside or fused, and neurons masked in one way."""

    def through(name: str, x: Tensor) -> Tensor:
        adapter = parts[name]
        return adapter.fused()(x) if way == "fused" else beside(adapter, x)

    hidden = F.silu(through("gate_proj", x)) * through("up_proj", x)
    if way == "masked":
        hidden = hidden * torch.zeros_like(hidden[..., :1, :]).index_fill(-1, kept, 1.0)
    return through("down_proj", hidden)


@torch.no_grad()
def measured(context: Context) -> dict[str, Any]:
    """Largest difference between the three ways, as a share of the MLP's largest output."""
    generator, rank = context.generator(), context.cell.rank
    model, tokenizer = smollm2()
    tokens = wikitext2(tokenizer, TOKENS)[:1]
    blocks = [model.get_submodule(f"{layer.path}.mlp") for layer in decoder(model).layers]
    inputs: list[Tensor] = []
    hooks = [b.register_forward_pre_hook(lambda _m, args: inputs.append(args[0])) for b in blocks]
    model(tokens)
    for hook in hooks:
        hook.remove()
    gaps = {f"gap_{way}_{bits}": 0.0 for way in ("cut", "fused") for bits in (32, 64)}
    counted = ("learned_whole", "learned", "weights_whole", "weights")
    found: dict[str, Any] = dict.fromkeys(counted, 0)
    for block, x in zip(blocks, inputs, strict=True):
        whole = {name: Adapter(block.get_submodule(name), "splora", rank, FELT, generator)
                 for name in PARTS}  # fmt: skip
        kept = neurons(whole, KEEP)
        cut = {name: struck(a, 1 if name == "down_proj" else 0, kept) for name, a in whole.items()}
        for end, parts in (("_whole", whole), ("", cut)):
            found[f"learned{end}"] += sum(a.size for a in parts.values())
            found[f"weights{end}"] += sum(a.layer.weight.numel() for a in parts.values())
        for bits, kind in ((32, torch.float32), (64, torch.float64)):
            for adapter in (*whole.values(), *cut.values()):
                adapter.to(kind)
            y = {way: output(whole if way == "masked" else cut, x.to(kind), way, kept)
                 for way in ("masked", "cut", "fused")}  # fmt: skip
            size = float(y["masked"].abs().max())
            for way, other in (("cut", "masked"), ("fused", "cut")):
                gap = float((y[way] - y[other]).abs().max()) / size
                gaps[f"gap_{way}_{bits}"] = max(gap, gaps[f"gap_{way}_{bits}"])
    return gaps | found | {"mlps": len(blocks), "tokens": TOKENS, "rank": rank, "keep": KEEP}
