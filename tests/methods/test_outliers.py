"""Outlier features: a planted one is found, the counts equal a slow loop, zeroing is exact."""

import copy
import math

import pytest
import torch

from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.llm_int8.attention import top_attention
from survey_lib.methods.llm_int8.outliers import (
    FeatureStatistics,
    feature_statistics,
    outlier_features,
    without_features,
)
from survey_lib.methods.llm_int8.planting import plant
from survey_lib.tasks.dense import seeded
from tests.oracles import outliers as slow
from tests.tiny_language import char_gpt, llama, logits, qwen2, tokens

MODELS = {"char_gpt": char_gpt, "llama": llama, "qwen2": qwen2}


def statistics(values, layer, alpha=6.0):
    """Of (S, T, h) given values."""
    state, _, feature = (values.abs() >= alpha).nonzero(as_tuple=True)
    return FeatureStatistics(
        tuple(f"norm {s}" for s in range(len(values))), torch.tensor(layer), values.shape[1],
        alpha, values.abs().amax(1), state, feature, values[values.abs() >= alpha],
    )  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("alpha", [2.0, 3.5])
def test_features_equal_a_slow_loop_over_all_values(name, alpha):
    net = plant(MODELS[name](), [3, 8], 4.0)
    batches = tokens().split(3)
    plan = decoder(net)
    norms = [r.norm for layer in plan.layers for r in layer.readings]
    layer_of = [i for i, layer in enumerate(plan.layers) for _ in layer.readings]
    seen = slow.states(net, norms, batches)
    stats = feature_statistics(net, batches, alpha=2.0)
    assert list(stats.states) == norms
    for layers, positions in ((0.25, 0.06), (0.75, 0.2)):
        expected = slow.outlier_features(seen, layer_of, alpha, layers, positions)
        found = outlier_features(stats, alpha=alpha, layers=layers, positions=positions)
        assert {f.feature for f in found} == set(expected) != set()
        for f in found:
            of = (f.layers, f.positions, f.one_sided, f.largest)
            assert of == pytest.approx(expected[f.feature], rel=1e-6)
        assert [f.positions for f in found] == sorted((f.positions for f in found), reverse=True)


def test_a_planted_feature_is_found_and_only_that():
    net = char_gpt()
    assert outlier_features(feature_statistics(net, [tokens()])) == []
    (found,) = outlier_features(feature_statistics(plant(net, [5], 16.0), [tokens()]))
    assert (found.feature, found.layers) == (5, 1.0)
    assert found.positions > 0.3
    assert not found.one_sided
    (found,) = outlier_features(feature_statistics(plant(net, [5], 2.0, shift=-20.0), [tokens()]))
    assert found.one_sided
    assert found.positions == 1.0
    assert -50 < found.quartiles[0] <= found.quartiles[1] <= found.quartiles[2] < -30


def test_each_criterion_alone_can_fail():
    """Eight layers of two states, 25 positions: 2 layers are 25 %, 24 of 400 positions 6 %."""
    layer = [s // 2 for s in range(16)]
    values = torch.zeros(16, 25, 5)
    values[0, :12, 0] = values[2, :12, 0] = 6.0  # two layers, 24 positions: just enough
    values[0, :12, 1] = values[1, :12, 1] = 6.0  # two states, but of one layer
    values[0, :12, 2] = values[2, :11, 2] = 6.0  # a position too few
    values[0, :12, 3] = values[2, :12, 3] = 5.999  # too small
    values[0, :12, 4] = values[2, :12, 4] = 6.0
    values[2, 11, 4] = -6.0  # once of the other sign
    found = outlier_features(statistics(values, layer))
    assert [(f.feature, f.layers, f.one_sided) for f in found] == [
        (0, 0.25, True),
        (4, 0.25, False),
    ]
    assert [f.positions for f in found] == [pytest.approx(0.06)] * 2


def test_quartiles_are_of_the_outlier_values_with_their_signs():
    values = torch.tensor([-9.0, -8.0, -7.0, -6.0, -7.5, 1.0, 5.0, 0.0]).view(1, 8, 1)
    (found,) = outlier_features(statistics(values, [0]))
    assert found.quartiles == (-8.0, -7.5, -7.0)
    assert found.largest == 9.0


def test_a_larger_alpha_can_be_asked_for_afterwards_and_a_smaller_cannot():
    stats = feature_statistics(plant(llama(), [1], 8.0), [tokens()], alpha=3.0)
    direct = feature_statistics(plant(llama(), [1], 8.0), [tokens()], alpha=6.0)
    assert torch.equal(stats.counts(6.0), direct.counts(6.0))
    assert torch.equal(stats.counts(6.0), stats.counts(6.0, 1) + stats.counts(6.0, -1))
    assert float(stats.share(3.0).max()) <= 1.0
    with pytest.raises(ValueError, match="collect the statistics anew"):
        outlier_features(stats, alpha=2.0)
    with pytest.raises(ValueError, match="at least one batch"):
        feature_statistics(llama(), [])


def columns_at_zero(net, features, layers, mlp):
    """The same net without the weights that read the features."""
    small = copy.deepcopy(net)
    for i in layers:
        layer = decoder(small).layers[i]
        for path in layer.attention.readers + (layer.mlp.readers if mlp else ()):
            small.get_submodule(path).weight.data[:, features] = 0
    return small


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("layers", "mlp"), [(None, False), ([1], False), ([0, 2], True)])
def test_zeroing_is_like_taking_the_weights_that_read_the_feature(name, layers, mlp):
    net, x = MODELS[name](), tokens()
    before = logits(net, x)
    everywhere = range(len(decoder(net).layers))
    expected = logits(columns_at_zero(net, [2, 7], layers or everywhere, mlp), x)
    with without_features(net, [2, 7], layers=layers, mlp=mlp):
        assert torch.allclose(logits(net, x), expected, rtol=1e-5, atol=1e-5)
    assert (expected - before).abs().max() > 1e-2
    assert torch.equal(logits(net, x), before)  # afterwards all is as it was
    with without_features(net, []):
        assert torch.equal(logits(net, x), before)


def test_attention_weights_are_those_that_transformers_reports_for_each_layer_alone():
    net, x = llama(), tokens()
    net.set_attn_implementation("eager")
    expected = []
    for i in range(3):
        with torch.no_grad(), without_features(net, [2, 7], layers=[i]):
            weights = net(x, output_attentions=True).attentions[i]
        expected.append(float(weights.amax(-1).mean()))
    net.set_attn_implementation("sdpa")
    found = top_attention(net, x.split(3), [2, 7])
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    assert net.config._attn_implementation == "sdpa"
    assert found.tolist() != pytest.approx(top_attention(net, [x]).tolist(), abs=1e-3)


def test_attention_of_char_gpt_by_loops():
    net, x = char_gpt(), tokens(2, 6)
    block = net.blocks[0]
    with torch.no_grad():
        y = block.norm1(net.tokens(x) + net.positions.weight[:6])
        y[..., 4] = 0
        q, k = block.attention.query(y), block.attention.key(y)  # (2, 6, 32), 4 heads of 8
    largest = []
    for b in range(2):
        for h in range(4):
            part = slice(8 * h, 8 * h + 8)
            for t in range(6):
                scores = [float(q[b, t, part] @ k[b, u, part]) / math.sqrt(8) for u in range(t + 1)]
                largest.append(math.exp(max(scores)) / sum(math.exp(s) for s in scores))
    found = top_attention(net, [x], [4])
    assert float(found[0]) == pytest.approx(sum(largest) / len(largest), abs=1e-5)
    assert found.shape == (4,)


def test_the_order_of_features_does_not_matter():
    """Features of the residual stream renamed by a permutation: the same statistics, renamed."""
    net, order = char_gpt(), torch.randperm(32, generator=seeded(3))
    other = copy.deepcopy(net)
    for p in (other.tokens.weight, other.positions.weight, other.head.weight):
        p.data = p.data[:, order]
    for block in other.blocks:
        for norm in (block.norm1, block.norm2):
            norm.weight.data, norm.bias.data = norm.weight.data[order], norm.bias.data[order]
        a = block.attention
        for linear in (a.query, a.key, a.value, block.up):
            linear.weight.data = linear.weight.data[:, order]
        for linear in (a.out, block.down):
            linear.weight.data = linear.weight.data[order]
    other.norm.weight.data, other.norm.bias.data = (
        net.norm.weight.data[order], net.norm.bias.data[order],
    )  # fmt: skip
    x = tokens()
    assert torch.allclose(logits(other, x), logits(net, x), atol=1e-3)
    a, b = (feature_statistics(n, [x], alpha=2.0) for n in (net, other))
    assert torch.allclose(b.largest, a.largest[:, order], atol=1e-4)


def test_a_feature_or_layer_that_is_not_there_is_refused():
    net = llama()
    with pytest.raises(ValueError, match="are 0 … 15"), without_features(net, [16]):
        pass
    with pytest.raises(ValueError, match="no layer 3"), without_features(net, [1], layers=[3]):
        pass
    with pytest.raises(ValueError, match="no feature -1"):
        top_attention(net, [tokens()], [-1])
