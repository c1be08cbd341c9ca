import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from survey_lib.cards.card import read_card
from survey_lib.measure.size import file_bytes
from survey_lib.mechanics import int8
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.llm_int8 import method
from survey_lib.methods.llm_int8.linear import Int8Linear, quantize
from survey_lib.methods.llm_int8.method import KINDS, Config, llm_int8, outliers, vector_wise
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import CharGpt, build_model
from survey_lib.tasks.task import Training
from tests.oracles import llm_int8 as slow

# The dossier's case, worked by hand.
X = torch.tensor([[1.0, -2.0, 60.0], [0.5, 1.0, -1.0]])
W = torch.tensor([[1.0, 0.5], [-0.25, 2.0], [0.1, -0.1]])
BY_HAND = {
    "absmax": [[7.0978, -8.9727], [0.1488, 2.2171]],
    "absmax vector-wise": [[7.5628, -8.9727], [0.1496, 2.3484]],
    "LLM.int8(), absmax": [[7.5118, -9.4921], [0.1520, 2.3540]],
}
DECOMPOSED = [k for k in KINDS if "decomposition" in k or "LLM" in k]


def matrices(s=12, h=40, o=24, seed=0, dtype=torch.float64):
    """X with one outlier feature, in a few tokens; W."""
    x = torch.randn(s, h, generator=seeded(seed), dtype=dtype)
    x[::3, 5] = 9.0 + x[::3, 5]
    return x, torch.randn(h, o, generator=seeded(seed, 1), dtype=dtype)


def linear(w, bias=False):
    """A layer with the weight (h, o)."""
    layer = nn.Linear(*w.shape, bias=bias, dtype=w.dtype)
    layer.weight.data.copy_(w.t())
    return layer.requires_grad_(False)


# ---- the functions


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_dossiers_case_by_hand(kind):
    torch.testing.assert_close(KINDS[kind](X, W), torch.tensor(BY_HAND[kind]), atol=5e-5, rtol=0)


def test_the_kinds_are_the_rows_of_table_1_on_the_card():
    table = read_card("llm_int8").reported[0]
    assert [row[0] for row in table.rows][1:] == list(KINDS) == list(slow.KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_its_slow_twin(kind):
    """Scales taken before the outliers are gone, or per feature, would fail here."""
    x, w = matrices()
    wanted = torch.tensor(slow.matmul(x.tolist(), w.tolist(), **slow.KINDS[kind])).double()
    torch.testing.assert_close(KINDS[kind](x, w), wanted.view(12, 24), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", DECOMPOSED)
@pytest.mark.parametrize("layered", [False, True])
def test_scales_of_the_weights_are_taken_with_the_outlier_rows(kind, layered):
    """W is put on its grid once, before anyone knows which features will be outliers."""
    x, w = matrices()
    w[5] *= 10  # the outlier feature has the largest weight of nearly every column
    assert (w.abs().argmax(0) == 5).sum() > 12
    wanted = torch.tensor(slow.matmul(x.tolist(), w.tolist(), **slow.KINDS[kind])).double()
    found = KINDS[kind](x, w)
    if layered:
        found = Int8Linear(linear(w), Config(kind, keep_weights=True))(x)
        # the layer's outlier branch reads fp16
        wanted = wanted.view(12, 24) + x[:, [5]] @ (w[[5]].half().double() - w[[5]])
    torch.testing.assert_close(found, wanted.view(12, 24), rtol=1e-5, atol=1e-5)


def test_no_outliers_is_vector_wise_bit_for_bit_and_all_is_the_plain_product():
    x, w = matrices(dtype=torch.float32)
    assert torch.equal(llm_int8(x, w, torch.inf), vector_wise(x, w))
    assert torch.equal(
        method.llm_int8_zeropoint(x, w, torch.inf), method.zeropoint_vector_wise(x, w)
    )
    assert torch.equal(method.row_wise_decomposed(x, w, torch.inf), method.row_wise(x, w))
    for kind in DECOMPOSED:
        assert torch.equal(KINDS[kind](x, w, 0.0), x @ w)


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_on_the_grid_are_multiplied_exactly(kind):
    x = torch.randint(-126, 127, (8, 30), generator=seeded(2)).double()
    w = torch.randint(-126, 127, (30, 16), generator=seeded(3)).double()
    x[:, 0], x[:, 1], w[0], w[1] = 127, -127, 127, -127
    arguments = (torch.inf,) if kind in DECOMPOSED else ()
    torch.testing.assert_close(KINDS[kind](x, w, *arguments), x @ w, rtol=1e-12, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_features_does_not_matter(kind):
    x, w = matrices()
    order = torch.randperm(40, generator=seeded(4))
    torch.testing.assert_close(KINDS[kind](x[:, order], w[order]), KINDS[kind](x, w))


def test_a_row_times_a_power_of_two_is_that_rows_result_times_it():
    x, w = matrices(dtype=torch.float32)
    before = vector_wise(x, w)
    x[3] *= 32
    after = vector_wise(x, w)
    assert torch.equal(after[3], 32 * before[3])
    assert torch.equal(after[4:], before[4:])


def test_an_outlier_feature_is_one_that_any_token_of_the_call_makes_one():
    x = torch.tensor([[1.0, -6.0, 5.9, 2.0], [1.0, 0.0, -5.9, 6.5]])
    assert outliers(x).tolist() == [1, 3]  # ≥, and either sign
    assert outliers(x[:1]).tolist() == [1]
    x, w = matrices()
    alone, together = llm_int8(x[1:2], w), llm_int8(x, w)[1:2]  # token 1 is no outlier itself
    assert not torch.equal(alone, together)


# Relative error of one product of 128 × 64 by 64 × 32 normal numbers with one feature times s,
# its weights divided by s: the dossier's numbers, made elsewhere with numpy.
SANITY = {
    "absmax": (0.012, 0.102, 0.409), "zeropoint": (0.011, 0.097, 0.384),
    "absmax row-wise": (0.010, 0.044, 0.171), "absmax vector-wise": (0.008, 0.042, 0.169),
    "LLM.int8(), absmax": (0.008, 0.008, 0.008),
}  # fmt: skip
ONE_SIDED = {
    "absmax": (0.015, 0.206, 0.774), "zeropoint": (0.013, 0.115, 0.452),
    "absmax row-wise": (0.011, 0.126, 0.495), "absmax vector-wise": (0.010, 0.122, 0.481),
    "LLM.int8(), absmax": (0.010, 0.008, 0.008),
}  # fmt: skip


@pytest.mark.parametrize(("numbers", "shift"), [(SANITY, 0.0), (ONE_SIDED, 3.0)])
def test_errors_with_a_planted_feature_are_those_of_the_dossier(numbers, shift):
    """Within a quarter: the draws are others; means over four."""
    for i, s in enumerate((1, 16, 64)):
        for kind, wanted in numbers.items():
            errors = []
            for seed in range(4):
                x = torch.randn(128, 64, generator=seeded(seed), dtype=torch.float64)
                w = torch.randn(64, 32, generator=seeded(seed, 1), dtype=torch.float64)
                x[:, 7] = s * (x[:, 7] + shift)
                w[7] /= s
                c = KINDS[kind](x, w)
                errors.append(float((c - x @ w).norm() / (x @ w).norm()))
            assert sum(errors) / 4 == pytest.approx(wanted[i], rel=0.25, abs=0.001), (kind, s)


def test_sixteen_bits_are_offered_as_sixteen_bits():
    x, w = matrices(dtype=torch.float32)
    c = llm_int8(x, w, 0.0, half=True)
    assert torch.equal(c, x.half().float() @ w.half().float())
    assert not torch.equal(c, x @ w)


# ---- the layer


@pytest.mark.parametrize("instructions", ["this processor", "fp32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_is_the_function(kind, instructions, monkeypatch):
    """For weights that fp16 holds, and the paper's formula; the bytes do not depend on kernels."""
    if instructions == "fp32":
        monkeypatch.setattr(int8, "integer_kernel", lambda: False)
    x, w = matrices(dtype=torch.float32)
    w = w.half().float()
    layer = Int8Linear(linear(w), Config(kind, keep_weights=True))
    tolerance = {"rtol": 0, "atol": 0} if "zeropoint" not in kind else {}
    for alpha in (6.0, torch.inf, 0.0) if kind in DECOMPOSED else (6.0,):
        layer.alpha = alpha
        c = KINDS[kind](x, w, *((alpha,) if kind in DECOMPOSED else ()))
        torch.testing.assert_close(layer(x), c, **{"rtol": 1e-5, "atol": 1e-5} | tolerance)


def test_the_layer_takes_any_shape_and_adds_its_bias():
    x, w = matrices(dtype=torch.float32)
    plain = linear(w, bias=True)
    layer = Int8Linear(plain, Config())
    assert torch.equal(layer(x.view(3, 4, 40)).view(12, 24), layer(x))
    torch.testing.assert_close(layer(x), plain(x), atol=0.2, rtol=0.1)
    torch.testing.assert_close(layer(x) - Int8Linear(linear(w), Config())(x),
                               plain.bias.expand(12, 24), atol=1e-5, rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("kind", ["LLM.int8(), absmax", "LLM.int8(), zeropoint"])
def test_without_fp16_weights_outliers_meet_int8_weights_read_back(kind):
    x, w = matrices(dtype=torch.float32)
    w += 2.0  # off centre: read back without the zero point they would be far away
    layer = Int8Linear(linear(w), Config(kind, alpha=0.0))
    torch.testing.assert_close(layer(x), x @ layer.dequantized().t())
    spread = w.amax(0) - w.amin(0)
    steps = spread / 254 if "zeropoint" in kind else w.abs().amax(0) / 127
    assert ((layer.dequantized().t() - w).abs() <= (1.01 if "zero" in kind else 0.51) * steps).all()
    kept = Int8Linear(linear(w), Config(alpha=0.0, keep_weights=True))
    torch.testing.assert_close(kept(x), x @ w.half().float())


@pytest.mark.parametrize("kind", KINDS)
def test_with_weights_kept_only_the_input_is_on_a_grid(kind):
    x, w = matrices()
    layer = Int8Linear(linear(w), Config(kind, activations_only=True))
    assert layer.weight.dtype == torch.float64
    on_grid = x.clone()
    left = [i for i in range(40) if kind not in DECOMPOSED or i not in outliers(x).tolist()]
    grid = int8.zeropoint if "zeropoint" in kind else int8.absmax
    whole = kind in ("absmax", "zeropoint")
    on_grid[:, left] = grid(x[:, left], None if whole else 1).dequantize()
    torch.testing.assert_close(layer(x), on_grid @ w)


@pytest.mark.parametrize(("config", "least", "most"), [
    (Config(), 1.0, 1.05), (Config("zeropoint vector-wise"), 1.0, 1.1),
    (Config(keep_weights=True), 3.0, 3.05), (Config(activations_only=True), 4.0, 4.0),
])  # fmt: skip
def test_bytes_a_weight(config, least, most):
    layer = Int8Linear(nn.Linear(128, 96, bias=False), config)
    assert least <= layer.bytes() / (128 * 96) <= most
    assert 0 <= file_bytes(layer) - layer.bytes() < 600  # what the file has besides


def test_a_layer_that_has_worked_is_loaded_over_and_copied_anew(tmp_path):
    x, w = matrices(dtype=torch.float32)
    layer, other = (Int8Linear(linear(v), Config()) for v in (w, w.flip(0)))
    wanted = other(x)
    save_file(other.state_dict(), tmp_path / "layer.safetensors")
    assert not torch.equal(layer(x), wanted)
    layer.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    assert torch.equal(layer(x), wanted)
    assert torch.equal(copy.deepcopy(layer)(x), wanted)
    assert layer.weight.dtype == torch.int8


@pytest.mark.parametrize("kind", ["absmax", "absmax row-wise", "absmax vector-wise",
                                  "LLM.int8(), absmax"])  # fmt: skip
def test_the_fast_layer_is_within_seven_bits_of_the_exact_one(kind):
    x, w = matrices(s=64, h=256, o=64, dtype=torch.float32)
    layer, fast = (Int8Linear(linear(w), Config(kind, fast=fast)) for fast in (False, True))
    exact, c = layer(x), x @ w
    for y in (fast(x), copy.deepcopy(fast)(x)):
        assert (y - c).norm() < 2.5 * (exact - c).norm()
    fast.load_state_dict(Int8Linear(linear(-w), Config(kind, fast=True)).state_dict())
    torch.testing.assert_close(fast(x), -y)


@pytest.mark.parametrize(("change", "words"), [
    ({"kind": "int8"}, "no kind 'int8'"), ({"alpha": -1.0}, "alpha must be ≥ 0"),
    ({"alpha": float("nan")}, "alpha must be ≥ 0"),
    ({"kind": "zeropoint", "fast": True}, "drop fast"),
    ({"activations_only": True, "keep_weights": True}, "drop keep_weights"),
])  # fmt: skip
def test_a_config_that_means_nothing_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(Config(), **change)


STORED = [{}, {"keep_weights": True}, {"activations_only": True}, {"fast": True}, {"half": True},
          {"alpha": 0.0}, {"alpha": float("inf")}]  # fmt: skip


def configs():
    """All kinds in all ways of storing that go together."""
    for kind in KINDS:
        for stored in STORED:
            if not ("fast" in stored and "zeropoint" in kind):
                yield Config(kind, **stored)


@pytest.fixture(params=list(configs()), ids=lambda c: f"{c.kind} {c.alpha} {c.half:d}")
def config(request):
    return request.param


@pytest.fixture(params=["this processor", "fp32"])
def kernel(request, monkeypatch):
    if request.param == "fp32":
        monkeypatch.setattr(int8, "integer_kernel", lambda: False)


def test_the_gradient_goes_straight_through(config, kernel):
    """∂L/∂X = ∂L/∂C Ŵ with the weights that the pass multiplied by, outlier columns too."""
    x32, w = matrices(dtype=torch.float32)
    layer = Int8Linear(linear(w, bias=True), config)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = x32.to(dtype).view(3, 4, 40).requires_grad_()
        up = torch.randn(3, 4, 24, generator=seeded(9)).to(dtype)
        y = layer(x)
        with torch.no_grad():
            assert torch.equal(layer(x), y)  # the same pass, to the bit
        y.backward(up)
        multiplied = layer.dequantized().clone()
        O = outliers(x.detach().view(12, 40).float(), layer.alpha)  # noqa: E741
        if config.kind in DECOMPOSED and len(O):
            kept = layer.weight if config.activations_only else layer.weight_half
            columns = layer.dequantized()[:, O] if kept is None else kept[:, O]
            multiplied[:, O] = (columns.half() if config.half else columns).float()
        assert x.grad.dtype == dtype
        wanted = up.double() @ multiplied.double()
        near = (0.02, 0.2) if dtype == torch.bfloat16 else (1e-5, 1e-5)
        torch.testing.assert_close(x.grad.double(), wanted, rtol=near[0], atol=near[1])
        # beside the dense layer's gradient it is off by the rounding of weights alone
        dense = up.double().flatten(0, 1) @ w.double().t()
        assert (x.grad.double().flatten(0, 1) - dense).norm() < 0.03 * dense.norm()


def test_a_net_with_int8_layers_hands_gradients_to_what_lies_before_them():
    net = nn.Sequential(nn.Linear(8, 40), Int8Linear(nn.Linear(40, 24), Config()))
    net(torch.randn(5, 8)).square().sum().backward()
    assert net[0].weight.grad.abs().sum() > 0
    assert not list(net[1].parameters())


def test_a_token_alone_is_a_row_of_tokens(config, kernel):
    x, w = matrices(dtype=torch.float32)
    layer = Int8Linear(linear(w), config)
    torch.testing.assert_close(layer(x[0]), layer(x[:1])[0], rtol=0, atol=0)
    wanted = x[:1].double() @ w.double()
    assert (layer(x[:1]) - wanted).norm() < 0.1 * wanted.norm()


def test_no_tokens_give_no_tokens(config, kernel):
    _, w = matrices(dtype=torch.float32)
    layer = Int8Linear(linear(w, bias=True), config)
    for dtype in (torch.float32, torch.float64, torch.float16):
        for shape in ((0, 40), (2, 0, 40), (0, 3, 40)):
            y = layer(torch.zeros(shape, dtype=dtype))
            assert (y.shape, y.dtype) == ((*shape[:-1], 24), dtype)
            x = torch.zeros(shape, dtype=dtype, requires_grad=True)
            layer(x).sum().backward()
            assert x.grad.shape == shape


@pytest.mark.parametrize("kind", KINDS)
def test_the_functions_take_no_tokens_and_no_outputs_too(kind, kernel):
    x, w = matrices()
    assert KINDS[kind](x[:0], w).shape == (0, 24)
    assert KINDS[kind](x, w[:, :0]).shape == (12, 0)
    assert outliers(x[:0]).tolist() == []


def test_float64_goes_through_every_kind(config, kernel):
    x, w = matrices()
    layer = Int8Linear(linear(w, bias=True), config)  # a float64 layer, and input
    y = layer(x)
    assert y.dtype == torch.float64
    single = Int8Linear(linear(w.float(), bias=False), config)(x.float()).double()
    torch.testing.assert_close(y - layer.bias, single, rtol=1e-3, atol=2e-3)
    assert (y - layer.bias - x @ w).norm() < 0.1 * (x @ w).norm()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_weight_that_is_not_finite_is_refused_by_name(config, value):
    if config.activations_only:
        pytest.skip("takes no scale from weights")
    net = nn.Sequential(nn.Linear(40, 24), nn.ReLU(), nn.Linear(24, 3))
    with torch.no_grad():
        net[2].weight[1, 5] = value
    with pytest.raises(ValueError, match=r"^2: llm_int8: the weight holds NaN or infinity"):
        quantize(net, ["0", "2"], config)
    assert isinstance(quantize(net, ["0"], config)[0], Int8Linear)


def test_a_weight_that_its_storage_cannot_hold_is_refused():
    big = linear(torch.full((8, 4), 1e5))
    with pytest.raises(ValueError, match=r"holds 1e\+05, more than fp16 does.*drop keep_weights"):
        Int8Linear(big, Config(keep_weights=True))
    assert Int8Linear(big, Config()).scale.isfinite().all()
    with pytest.raises(ValueError, match="more than fp32 does"):
        Int8Linear(linear(torch.full((8, 4), 1e40, dtype=torch.float64)), Config())


CASTS = {
    "half": lambda net: net.half(), "bfloat16": lambda net: net.bfloat16(),
    "double": lambda net: net.double(), "to": lambda net: net.to(torch.float16),
    "type": lambda net: net.type(torch.float16), "and back": lambda net: net.half().float(),
}  # fmt: skip


def test_a_cast_of_the_net_leaves_the_grid_alone(config):
    """Small weights have scales beyond fp16, which would become infinite."""
    x, w = matrices(dtype=torch.float32)
    w = w / 5000
    if not config.activations_only:
        assert Int8Linear(linear(w), config).scale.max() > 65504
    for cast in CASTS.values():
        layer = Int8Linear(linear(w, bias=True), config)
        layer(x)  # with what is made when first used
        before = {name: b.clone() for name, b in layer.named_buffers()}
        net = cast(nn.Sequential(nn.Linear(40, 40), layer))
        assert net[0].weight.dtype == layer.bias.dtype
        for name, b in layer.named_buffers():
            if name != "bias" and not config.activations_only:
                assert b.dtype == before[name].dtype
                assert torch.equal(b, before[name])
        given = x.to(net[0].weight.dtype)
        y = layer(given)
        assert y.dtype == given.dtype
        wanted = given.double() @ w.double() + layer.bias.double()
        assert (y.double() - wanted).norm() < 0.03 * wanted.norm()


# ---- nets


def gpt():
    return build_model("char_gpt", generator=seeded(0), width=0.25, layers=2).eval()


def test_char_gpts_linears_are_those_of_its_blocks():
    names = decoder(gpt()).linears
    assert len(names) == 2 * 6
    projections = [f"attention.{n}" for n in ("query", "key", "value", "out")]
    assert names[:6] == tuple(f"blocks.0.{n}" for n in [*projections, "up", "down"])
    net = quantize(gpt(), names, Config())
    assert isinstance(net, CharGpt)
    assert sum(isinstance(m, Int8Linear) for m in net.modules()) == 12
    assert [n for n, m in net.named_modules() if type(m) is nn.Linear] == ["head"]


@pytest.mark.parametrize("family", ["Llama", "Qwen2"])
def test_hugging_face_decoders_are_known_by_their_names(family):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(
        vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    net = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    names = decoder(net).linears
    assert len(names) == 2 * 7
    assert names[0] == "model.layers.0.self_attn.q_proj"
    small = quantize(net, names, Config())
    tokens = torch.arange(16)[None]
    with torch.no_grad():
        logits, wanted = small(tokens).logits, net(tokens).logits
    assert 0 < (logits - wanted).norm() < 0.05 * wanted.norm()


def test_nets_without_layers_and_names_that_are_no_linears_are_refused():
    mlp = build_model("mlp", generator=seeded(0))
    with pytest.raises(ValueError, match="Sequential: no list of layers"):
        method.compress(mlp, None, tuning=None, generator=seeded(0))
    with pytest.raises(ValueError, match=r"no linear layer 'blocks\.0\.norm1'"):
        quantize(gpt(), ["blocks.0.norm1"], Config())
    with pytest.raises(ValueError, match="takes no budget"):
        method.compress(gpt(), None, Budget("bits", 0.5), tuning=None, generator=seeded(0))
    with pytest.raises(ValueError, match="trains nothing: give tuning=None"):
        method.compress(gpt(), None, tuning=Training(), generator=seeded(0))


# ---- a peer


@pytest.fixture(scope="module")
def bnb():
    return pytest.importorskip("bitsandbytes")


def test_bitsandbytes_finds_the_same_whole_numbers_and_products(bnb):
    """It reads fp16; rounding of a tie may differ, by one step."""
    x, w = (t.half().float() for t in matrices(s=16, h=256, o=64, dtype=torch.float32))
    q, top, _ = bnb.functional.int8_vectorwise_quant(x.half())
    ours = int8.absmax(x, 1)
    torch.testing.assert_close(127 / top, ours.scale.flatten())
    off = (q.int() - ours.q.int()).abs()
    assert off.max() <= 1
    assert off.float().mean() < 0.001
    w_q, w_top, _ = bnb.functional.int8_vectorwise_quant(w.t().contiguous().half())
    sums = bnb.functional.int8_linear_matmul(q, w_q)
    assert torch.equal(sums.long(), int8.exact_product(q, w_q.t()).long())
    c = bnb.functional.int8_mm_dequant(sums, top, w_top).float()
    # half a step of x times the largest sum of weights is the most that one tie can change
    step = (top / 127)[:, None] * w.abs().amax(0) * 2
    assert ((c - vector_wise(x, w)).abs() <= step + 2e-3 * c.abs()).all()


def test_bitsandbytes_multiplies_outliers_by_weights_read_back_from_int8(bnb):
    """Its layer is ours without fp16 weights; the paper's formula is nearer to the truth."""
    x, w = matrices(s=16, h=256, o=64, dtype=torch.float32)
    x[:, 5] = 9 + x[:, 5].abs()  # large in every token, see the next test
    x = x.half().float()
    w[5] /= 16  # a small weight is a coarse one
    w = w.half().float()
    theirs = bnb.nn.Linear8bitLt(256, 64, bias=False, has_fp16_weights=False, threshold=6.0)
    theirs.weight = bnb.nn.Int8Params(w.t().contiguous(), requires_grad=False)
    theirs = theirs.to("cpu").eval()  # in train mode it does not quantize x
    c = theirs(x.half()).float().detach()
    read_back = Int8Linear(linear(w), Config())(x)
    kept = Int8Linear(linear(w), Config(keep_weights=True))(x)
    error = {name: float((y - x @ w).norm()) for name, y in
             (("theirs", c), ("read back", read_back), ("kept", kept))}  # fmt: skip
    assert (c - read_back).norm() < 0.2 * error["read back"]
    assert (c - kept).norm() > 10 * (c - read_back).norm()
    assert error["kept"] < 0.9 * error["read back"]
    assert error["theirs"] == pytest.approx(error["read back"], rel=0.05)


def test_bitsandbytes_takes_scales_with_the_ordinary_values_of_outlier_features(bnb):
    """It zeroes outlier elements, then takes the rows' largest values; we take whole features."""
    x = torch.tensor([[1.0, 60.0, 2.0], [1.0, 5.0, 2.0]])  # token 1: 5 is below α
    q, top, columns = bnb.functional.int8_vectorwise_quant(x.half(), threshold=6.0)
    assert columns.tolist() == outliers(x).tolist() == [1]
    assert top.tolist() == [2.0, 5.0]  # not 2 and 2
    assert q[:, 1].tolist() == [0, 0]
    assert (127 / int8.absmax(x[:, [0, 2]], 1).scale).flatten().tolist() == [2.0, 2.0]
