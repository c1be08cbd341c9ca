"""Kinds of nets that people have, small: attention, hybrids, norms, shares of groups."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from tests.mechanics.cases import (
    IMAGES,
    ROWS,
    TOKENS,
    Case,
    check,
    free,
    maps,
    normal,
    rows,
    table,
    whole,
)  # fmt: skip
from tests.mechanics.judge import EXACT, NOTHING, judge
from tests.oracles.channels import randomised

# Attention: whole heads go.


class Qkv(nn.Module):
    """One layer for queries, keys and values, as in timm's vit."""

    def __init__(self, width=12, heads=3, fused=True):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.num_heads, self.head_dim, self.fused = heads, width // heads, fused

    def forward(self, x):
        n, t, _ = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.head_dim**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, -1))


class Separate(nn.Module):
    """Queries, keys and values by layers of their own; fewer of the latter if ``shared``."""

    def __init__(self, width=12, heads=4, shared=1):
        super().__init__()
        self.heads, self.kv_heads, self.each = heads, heads // shared, width // heads
        self.times = shared
        self.q, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.k, self.v = (nn.Linear(width, width // shared) for _ in range(2))

    def forward(self, x):
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.heads, self.each).transpose(1, 2)
        k = self.k(x).view(n, t, self.kv_heads, self.each).transpose(1, 2)
        v = self.v(x).view(n, t, self.kv_heads, self.each).transpose(1, 2)
        if self.times > 1:
            k, v = (s.repeat_interleave(self.times, 1) for s in (k, v))
        y = torch.softmax(q @ k.transpose(2, 3) / self.each**0.5, -1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


class Einsum(nn.Module):
    def __init__(self, width=12, heads=3):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, 5)
        self.heads = heads

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (s.reshape(n, t, self.heads, -1) for s in self.qkv(x).chunk(3, -1))
        a = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
        return self.proj(torch.einsum("bhqk,bkhd->bqhd", a, v).flatten(2))


class TokenNet(nn.Module):
    """Rows of six numbers → a block over twelve → two answers."""

    def __init__(self, block: nn.Module):
        super().__init__()
        self.inside, self.norm, self.block = nn.Linear(6, 12), nn.LayerNorm(12), block
        self.head = nn.Linear(12, 2)

    def forward(self, x):
        x = self.inside(x)
        return self.head((x + self.block(self.norm(x))).mean(1))


class Multihead(nn.Module):
    def __init__(self):
        super().__init__()
        self.m = nn.MultiheadAttention(12, 3, batch_first=True)

    def forward(self, x):
        return self.m(x, x, x, need_weights=False)[0]


def over_tokens(block: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: TokenNet(block())


ATTENTION = {
    "qkv, fused": Case(over_tokens(Qkv), TOKENS, free=("block.qkv",)),
    "qkv, unfused": Case(over_tokens(lambda: Qkv(fused=False)), TOKENS, free=("block.qkv",)),
    "separate": Case(over_tokens(Separate), TOKENS, free=("block.q",)),
    "grouped queries": Case(over_tokens(lambda: Separate(shared=2)), TOKENS, free=("block.q",)),
    "einsum": Case(lambda: nn.Sequential(nn.Linear(6, 12), Einsum()), TOKENS, free=("1.qkv",)),
    "nn.MultiheadAttention": Case(
        over_tokens(Multihead), TOKENS, (NOTHING,), {"inside": "LayerNorm|layer_norm"}),
}  # fmt: skip


@table(ATTENTION)
def test_heads_go_whole(case):
    check(case)


def test_units_of_attention_are_heads():
    graph = trace_groups(TokenNet(Qkv(heads=3)), TOKENS)
    assert [(g.name, g.size) for g in graph.prunable] == [("block.qkv", 3)]
    small = apply_recipe(randomised(TokenNet(Qkv(heads=3))), graph, {"block.qkv": [0, 2]})
    assert (small.block.num_heads, small.block.head_dim) == (2, 4)
    assert tuple(small.block.qkv.weight.shape) == (24, 12)


def test_shared_keys_go_with_all_queries_that_ask_them():
    graph = trace_groups(TokenNet(Separate(heads=4, shared=2)), TOKENS)
    (group,) = graph.prunable
    assert group.size == 2  # two heads of keys, each with two of queries
    assert {s.module for s in group.producers} == {"block.q", "block.k", "block.v"}
    small = apply_recipe(
        randomised(TokenNet(Separate(heads=4, shared=2))), graph, {group.name: [1]}
    )
    assert (small.block.heads, small.block.kv_heads) == (2, 1)


def test_the_whole_attention_layer_of_torch_says_that_it_stays():
    model = nn.Sequential(nn.Linear(6, 12), Multihead(), nn.Linear(12, 2))
    found = judge(model, TOKENS)
    assert found.word == NOTHING
    assert "multi_head_attention" in found.protected["0"] or "Multihead" in found.protected["0"]


class Llama(nn.Module):
    """Logits of a small decoder with grouped queries."""

    def __init__(self):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.LlamaConfig(
            vocab_size=17, hidden_size=24, intermediate_size=20, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
        )  # fmt: skip
        self.net = transformers.LlamaForCausalLM(config)

    def forward(self, ids):
        return self.net(input_ids=ids, use_cache=False).logits


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        transformers = pytest.importorskip("transformers")
        config = transformers.BertConfig(
            vocab_size=17, hidden_size=24, intermediate_size=20, num_hidden_layers=2,
            num_attention_heads=4, max_position_embeddings=32,
        )  # fmt: skip
        self.net = transformers.BertModel(config, add_pooling_layer=False)

    def forward(self, ids):
        return self.net(input_ids=ids).last_hidden_state


IDS = torch.arange(18).view(2, 9) % 17


@pytest.mark.parametrize(("make", "heads"), [(Llama, 2), (Bert, 4)])
def test_heads_and_neurons_of_hugging_face(make, heads):
    torch.manual_seed(0)
    model = make()
    found = judge(model, IDS, seeds=1)
    assert found.word == EXACT, str(found)
    sizes = [g.size for g in trace_groups(model, IDS).prunable]
    assert sorted(sizes) == [heads, heads, 20, 20]


def test_a_swin_with_its_table_of_relative_positions():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.models.SwinTransformer(
        img_size=32, patch_size=2, embed_dim=16, depths=(2, 1), num_heads=(2, 4), window_size=4,
        num_classes=3,
    )  # fmt: skip
    found = judge(model, normal(2, 3, 32, 32), seeds=1)
    assert found.word == EXACT, str(found)
    graph = trace_groups(model, normal(2, 3, 32, 32).double())
    tables = [s for g in graph.prunable for s in g.slices if "relative_position" in s.tensor]
    assert [s.role for s in tables] == ["through"] * 3  # one a block


def test_a_swin_whose_code_names_the_width_keeps_its_heads():
    swin = pytest.importorskip("torchvision.models.swin_transformer")
    torch.manual_seed(0)
    model = swin.SwinTransformer([2, 2], 16, [2, 1], [2, 4], [4, 4], num_classes=3)
    found = judge(model, normal(2, 3, 32, 32), seeds=0)
    assert found.word == EXACT, str(found)
    assert "gives one axis the other's size" in found.protected["features.1.0.attn.qkv"]


# Equal shares of a grouped convolution.


class ResNeXt(nn.Module):
    def __init__(self, groups=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.na = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.g = nn.Conv2d(16, 16, 3, padding=1, groups=groups)
        self.ng, self.b = nn.BatchNorm2d(16), nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu(self.ng(self.g(F.relu(self.na(self.a(x))))))
        return self.head(F.relu(x + self.b(y)).mean((2, 3)))


SHARES = {
    "whole groups": Case(ResNeXt, IMAGES, free=("stem", "a")),
    "a share of each": Case(ResNeXt, IMAGES, free=("stem", "a"), options={"grouped": "share"}),
    "depthwise": Case(lambda: ResNeXt(16), IMAGES, free=("stem", "a"),
                      options={"grouped": "share"}),
    "one group": Case(lambda: ResNeXt(1), IMAGES, free=("stem", "a", "g"),
                      options={"grouped": "share"}),
}  # fmt: skip


@table(SHARES)
def test_shares_of_grouped_convolutions(case):
    check(case)


def test_a_share_keeps_the_number_of_groups():
    model = randomised(ResNeXt())
    graph = trace_groups(model, IMAGES.double(), grouped="share")
    names = [g.name for g in graph.prunable]
    small = apply_recipe(model, graph, {n: range(graph[n].size // 2) for n in names})
    assert small.g.groups == 4
    assert tuple(small.g.weight.shape) == (8, 2, 3, 3)
    graph = trace_groups(model, IMAGES.double())
    small = apply_recipe(model, graph, {"a": [0, 3]})
    assert (small.g.groups, tuple(small.g.weight.shape)) == (2, (8, 4, 3, 3))


@pytest.mark.parametrize("grouped", ["whole", "share"])
def test_gates_on_a_resnext_are_the_derivative_of_the_loss(grouped):
    from survey_lib.mechanics.statistics import gate_gradients

    model, x, y = randomised(ResNeXt()), IMAGES.double(), torch.tensor([0, 1])
    graph = trace_groups(model, x, grouped=grouped)
    found = gate_gradients(model, graph, F.cross_entropy, x, y).single()
    # one mask by hand, before the layer that reads the grouped convolution's channels
    units = graph["a"].size
    gate = torch.ones(units, dtype=torch.float64, requires_grad=True)
    shape = (units, 4) if grouped == "whole" else (4, units)

    def gated(_module, given):
        mask = gate.view(-1, 1) if grouped == "whole" else gate.view(1, -1)
        return (given[0] * mask.expand(shape).reshape(1, 16, 1, 1),)

    with model.b.register_forward_pre_hook(gated):
        F.cross_entropy(model(x), y).backward()
    assert gate.grad is not None
    read = found["a" if grouped == "whole" else "g"]["b"]
    assert torch.allclose(read.mean(0), gate.grad, atol=1e-12)
    # the grouped convolution has a mask of its own
    assert set(found["a"]) == ({"g", "b"} if grouped == "whole" else {"g"})


# Hybrids of convolutions and transformer blocks.


class Hybrid(nn.Module):
    """As MobileViT: maps are cut into patches, attended to, put together again."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.wide, self.depth = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.into = nn.Conv2d(16, 12, 1, bias=False)
        self.pre, self.attn, self.post = nn.LayerNorm(12), Qkv(), nn.LayerNorm(12)
        self.mlp = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.back, self.fuse = nn.Conv2d(12, 8, 1), nn.Conv2d(16, 10, 3, padding=1)
        self.head = nn.Linear(10, 2)

    def forward(self, x):
        x = F.silu(self.norm(self.stem(x)))
        y = self.into(F.silu(self.depth(self.wide(x))))
        n, c, h, w = y.shape
        t = y.reshape(n * c * h // 2, 2, w // 2, 2).transpose(1, 2)
        t = t.reshape(n, c, h * w // 4, 4).transpose(1, 3).reshape(n * 4, h * w // 4, c)
        t = t + self.attn(self.pre(t))
        t = t + self.mlp(self.post(t))
        t = t.view(n, 4, h * w // 4, c).transpose(1, 3)
        t = t.reshape(n * c * h // 2, w // 2, 2, 2).transpose(1, 2).reshape(n, c, h, w)
        y = self.fuse(torch.cat([x, self.back(t)], 1))
        return self.head(y.mean((2, 3)))


HYBRIDS = {
    "as MobileViT": Case(
        Hybrid, IMAGES, free=("stem", "wide", "attn.qkv", "mlp.0", "back", "fuse")
    ),
}


@table(HYBRIDS)
def test_convolutions_and_attention_in_one_net(case):
    check(case)


# Several inputs.


class Inputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Conv2d(3, 8, 3), nn.Embedding(11, 5)
        self.row, self.head = nn.Linear(6, 8), nn.Linear(13, 2)

    def forward(self, image, row, *, words, scale=2.0):
        x = F.relu(self.image(image)).mean((2, 3)) + self.row(row) * scale
        return self.head(torch.cat([x, self.text(words).mean(1)], 1))


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Inputs()

    def forward(self, batch, pair):
        return {"logits": self.net(pair[0], pair[1], words=batch["words"])}


WORDS = torch.arange(8).view(2, 4)
INPUTS = {
    "by keyword": Case(
        Inputs, {"image": IMAGES, "row": ROWS[:2], "words": WORDS}, free=("image", "text")),
    "with a number": Case(
        lambda: Bound(), (IMAGES, ROWS[:2]), free=("net.image", "net.text")),
}  # fmt: skip


class Bound(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = Inputs()

    def forward(self, image, row):
        return self.net(image, row, words=WORDS, scale=0.5)


@table(INPUTS)
def test_several_inputs(case):
    check(case)


def test_inputs_inside_others():
    graph = trace_groups(Nested(), ({"words": WORDS}, (IMAGES, ROWS[:2])))
    assert {g.name for g in graph.prunable} == {"net.image", "net.text"}


# Norms and weights computed in forward.


class PixelNorm(nn.Module):
    def forward(self, x):
        return x / (x.square().mean(1, keepdim=True) + 1e-8).sqrt()


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class GRN(nn.Module):
    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x):
        size = x.norm(2, dim=(2, 3), keepdim=True)
        return x + self.g * x * size / (size.mean(1, keepdim=True) + 1e-6)


class LayerScale(nn.Module):
    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(8))

    def forward(self, x):
        return x * self.gamma.view(1, -1, 1, 1)


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, w / w.std((1, 2, 3), keepdim=True), self.bias)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 5, 1), nn.Conv2d(5, 8, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Eca(nn.Module):
    """Weights of channels by a convolution over channels."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1)

    def forward(self, x):
        y = self.conv(x.mean((2, 3)).view(x.shape[0], 1, -1))
        return x * y.sigmoid().view(x.shape[0], -1, 1, 1)


def shuffled(y: Tensor, groups: int = 2) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


def through(layer: Callable[[], nn.Module], **more: Any) -> Callable[[], nn.Module]:
    return lambda: maps(lambda m, y: F.relu(m.n(y)), n=layer(), **more)


LAYERS = {
    "instance norm": free(through(lambda: nn.InstanceNorm2d(8, affine=True)), IMAGES),
    "layer scale": free(through(LayerScale), IMAGES),
    "squeeze and excitation": Case(through(SqueezeExcite), IMAGES, free=("a", "n.down")),
    "PReLU": free(through(lambda: nn.PReLU(8)), IMAGES),
    "GLU over channels": free(lambda: maps(lambda m, y: F.glu(y, 1), 4), IMAGES),
    "gates by chunk": free(lambda: maps(lambda m, y: gated(y), 4), IMAGES),
    "einsum as a layer's twin": free(
        lambda: maps(lambda m, y: torch.einsum("nchw,c->nchw", y, m.s), s=nn.Parameter(normal(8))),
        IMAGES),
    "strides that differ by axis": free(
        lambda: maps(lambda m, y: F.conv2d(y, m.w, None, (1, 2), (2, 0), (2, 1)),
                     w=nn.Parameter(normal(8, 8, 3, 2))), IMAGES),
    "pixel norm": whole(through(PixelNorm), IMAGES, "mean"),
    "layer norm on maps": whole(through(lambda: LayerNorm2d(8)), IMAGES, "layer_norm|LayerNorm"),
    "global response norm": whole(through(GRN), IMAGES, "mean"),
    "efficient channel attention": whole(through(Eca), IMAGES, "."),
    "local response norm": whole(through(lambda: nn.LocalResponseNorm(3)), IMAGES, "."),
    "shuffle": free(lambda: maps(lambda m, y: shuffled(y)), IMAGES),
    "shuffle by number": whole(lambda: maps(
        lambda m, y: y.view(2, 2, 4, 8, 8).transpose(1, 2).reshape(2, 8, 8, 8)), IMAGES,
        "number|two axes"),
    "nn.ChannelShuffle": whole(through(lambda: nn.ChannelShuffle(2)), IMAGES, "shuffle"),
    "pixel shuffle": whole(lambda: maps(lambda m, y: F.pixel_shuffle(y, 2), 2), IMAGES, "shuffle"),
    "pixel unshuffle": Case(lambda: maps(lambda m, y: F.pixel_unshuffle(y, 2), 32), IMAGES,
                            (EXACT, NOTHING)),
    "maxout": whole(lambda: maps(lambda m, y: y.view(2, 4, 2, 8, 8).amax(2), 4), IMAGES,
                    "number|two axes"),
    "a recurrent layer": whole(
        lambda: rows(lambda m, y: m.r(y)[0], r=nn.LSTM(8, 8, batch_first=True)), TOKENS,
        "depends on their number|lstm"),
    "bilinear": whole(lambda: rows(lambda m, y: m.m(y, y), m=nn.Bilinear(8, 8, 8)), ROWS,
                      "bilinear"),
    "standardised weights": Case(
        lambda: nn.Sequential(Standardised(3, 6, 1), nn.ReLU(), Standardised(6, 5, 3),
                              nn.ReLU(), Standardised(5, 2, 1)), IMAGES, (NOTHING,),
        {"0": "computes", "2": "computes"}),
}  # fmt: skip


def gated(y: Tensor) -> Tensor:
    a, b = y.chunk(2, 1)
    return a * b.sigmoid()


@table(LAYERS)
def test_layers_by_what_they_compute(case):
    check(case)


def test_groups_of_glu_are_pairs():
    graph = trace_groups(maps(lambda m, y: F.glu(y, 1), 4), IMAGES)
    assert graph["a"].size == 4


def test_detectors_with_transposed_and_pyramids():
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.low, self.high = nn.Conv2d(3, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1)
            self.side, self.up = nn.Conv2d(6, 5, 1), nn.ConvTranspose2d(8, 5, 2, 2)
            self.out = nn.ModuleList([nn.Conv2d(5, 2, 1), nn.Conv2d(8, 2, 1)])

        def forward(self, x):
            low = F.relu(self.low(x))
            high = F.relu(self.high(low))
            return [self.out[0](self.side(low) + self.up(high)), self.out[1](high)]

    check(Case(Pyramid, IMAGES, free=("low", "high", "side")))
