"""What is counted, by closed form: each kind of product, however it is called."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.measure import size
from survey_lib.measure.compare import compare
from survey_lib.measure.macs import MacsError, count_macs, count_nonzero_macs
from survey_lib.mechanics import counting
from survey_lib.tasks.modes import evaluating


class Call(nn.Module):
    """A function as a net, with one parameter that it may use."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(*shape))

    def forward(self, *inputs, **named):
        return self.function(self.w, *inputs, **named)


X = torch.randn(1, 7, 8)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", GATES)
def test_recurrent_layers_are_counted_by_their_matrices(kind, bidirectional, frozen):
    """7 steps of (input + state) × state for each gate, layer and direction."""
    layer = getattr(nn, kind)(8, 6, 2, batch_first=True, bidirectional=bidirectional)
    layer.requires_grad_(not frozen)
    ways = 2 if bidirectional else 1
    wanted = 7 * GATES[kind] * ways * (6 * (8 + 6) + 6 * (6 * ways + 6))
    assert count_macs(layer, X) == wanted
    assert count_macs(layer, X.expand(5, 7, 8)) == wanted
    assert count_macs(layer.double(), X.double()) == wanted  # by another kernel


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_recurrent_layers_with_a_projection_and_cells():
    assert count_macs(nn.LSTM(8, 6, batch_first=True), X) == 7 * 24 * 14 == 2352
    projected = nn.LSTM(8, 6, batch_first=True, proj_size=3)
    assert count_macs(projected, X) == 7 * (24 * 8 + 24 * 3 + 6 * 3)
    for kind, gates in GATES.items():
        assert count_macs(getattr(nn, f"{kind}Cell")(8, 6), X[:, 0]) == gates * 6 * 14


def test_the_fused_recurrent_kernel_of_graphics_cards_has_the_same_formula():
    weights = [torch.zeros(24, 8), torch.zeros(24, 6), torch.zeros(24), torch.zeros(24)]
    assert counting.FORMULAS["aten::_cudnn_rnn"](None, torch.zeros(7, 1, 8), weights, 4) == 2352
    packed = torch.zeros(7, 8)  # of sequences of unlike length
    assert counting.FORMULAS["aten::_cudnn_rnn"](None, packed, weights, 4) == 2352


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
def test_transformer_layers_are_counted_frozen_or_not(frozen, grad):
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True).requires_grad_(not frozen)
    projections, products, mlp = 4 * 7 * 64, 2 * 7 * 7 * 8, 2 * 7 * 8 * 12
    with torch.set_grad_enabled(grad):
        assert count_macs(encoder, X) == projections + products + mlp == 3920
        stack = nn.TransformerEncoder(encoder, 3, enable_nested_tensor=False)
        assert count_macs(stack.requires_grad_(not frozen), X) == 3 * 3920
        attention = nn.MultiheadAttention(8, 2, batch_first=True).requires_grad_(not frozen)
        assert count_macs(attention, (X, X, X)) == projections + products
        assert count_macs(attention, {"query": X, "key": X, "value": X}) == projections + products
    assert torch.backends.mha.get_fastpath_enabled()


V, W, A = torch.randn(8), torch.randn(5), torch.randn(4, 8)
PRODUCTS = {
    "x @ v": (lambda w, x: x @ w, (8,), X, 56),
    "matmul by name": (lambda w, x: torch.matmul(input=x, other=w), (8,), X, 56),
    "mv": (lambda w, x: torch.mv(x[0], w), (8,), X, 56),
    "mv by name": (lambda w, x: torch.mv(input=x[0], vec=w), (8,), X, 56),
    "addmv": (lambda w, x: torch.addmv(x[0, :, 0], x[0], w), (8,), X, 56),
    "dot": (lambda w, x: torch.dot(x[0, 0], w), (8,), X, 8),
    "vdot": (lambda w, x: torch.vdot(x[0, 0], w), (8,), X, 8),
    "vecdot": (lambda w, x: torch.linalg.vecdot(x, w), (8,), X, 56),
    "inner": (lambda w, x: torch.inner(x[0], w), (8,), X, 56),
    "outer": (lambda w, x: torch.outer(x[0, 0], w), (5,), X, 40),
    "outer by name": (lambda w, x: torch.outer(input=x[0, 0], vec2=w), (5,), X, 40),
    "method outer": (lambda w, x: x[0, 0].outer(w), (5,), X, 40),
    "ger": (lambda w, x: torch.ger(x[0, 0], w), (5,), X, 40),
    "addr": (lambda w, x: torch.addr(x.new_zeros(8, 5), x[0, 0], w), (5,), X, 40),
    "einsum outer": (lambda w, x: torch.einsum("bti,o->btio", x, w), (5,), X, 280),
    "einsum": (lambda w, x: torch.einsum("bti,oi->bto", x, w), (4, 8), X, 224),
    "einsum element by element": (lambda w, x: torch.einsum("bti,i->bti", x, w), (8,), X, 0),
    "kron": (lambda w, x: torch.kron(x[0, 0], w), (5,), X, 40),
    "tensordot": (lambda w, x: torch.tensordot(x, w, dims=([2], [1])), (4, 8), X, 224),
    "addbmm": (lambda w, x: torch.addbmm(x.new_zeros(7, 4), x, w), (1, 8, 4), X, 224),
    "addmm_": (lambda w, x: x.new_zeros(7, 4).addmm_(x[0], w), (8, 4), X, 224),
    "bilinear": (lambda w, x: F.bilinear(x, x, w), (4, 8, 8), X[:, 0], 256),
    "cdist": (lambda w, x: torch.cdist(x, w), (1, 9, 8), X, 7 * 9 * 8),
    "cdist by name": (lambda w, x: torch.cdist(x1=x, x2=w, p=2.0), (1, 9, 8), X, 7 * 9 * 8),
    "cdist of many": (lambda w, x: torch.cdist(x, w), (1, 40, 8), torch.randn(1, 30, 8), 9600),
    "cdist of p = 3": (lambda w, x: torch.cdist(x, w, p=3), (1, 9, 8), X, 7 * 9 * 8),
    "cdist of p = 1": (lambda w, x: torch.cdist(x, w, p=1), (1, 9, 8), X, 0),
    "pdist": (lambda w, x: F.pdist(x[0] + 0 * w.sum()), (1,), X, 21 * 8),
    "element by element": (lambda w, x: x * w, (8,), X, 0),
    "interpolation": (lambda w, x: F.interpolate(x * w, 9, mode="linear"), (8,), X, 0),
    "what sounds like a product": (lambda w, x: torch.lgamma(x * w).cummax(1)[0], (8,), X, 0),
    "linear by name": (lambda w, x: F.linear(weight=w, input=x), (4, 8), X, 224),
}


@pytest.mark.parametrize("grad", ["grad", "no grad", "inference"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_by_closed_form(name, grad):
    function, shape, x, wanted = PRODUCTS[name]
    net = Call(function, *shape)
    if grad == "inference":
        net.forward = torch.inference_mode()(net.forward)
    with torch.set_grad_enabled(grad == "grad"):
        assert count_macs(net, x) == wanted


def test_torchs_dynamic_int8_kernel_is_counted():
    from survey_lib.mechanics.int8 import absmax, dynamic_product, pack

    packed = pack(absmax(torch.randn(4, 8), 1))
    net = Call(lambda _w, x: dynamic_product(x, packed, dim=None), 1)
    with torch.no_grad():
        assert count_macs(net, torch.randn(5, 8)) == 8 * 4  # of one example


def test_bilinear_and_deformable_layers():
    assert count_macs(nn.Bilinear(8, 5, 4), (X[:, 0], X[:, 1, :5])) == 8 * 5 * 4
    assert count_macs(nn.Bilinear(8, 8, 4), (X, X)) == 7 * 256
    ops = pytest.importorskip("torchvision.ops")
    deformable = ops.DeformConv2d(2, 4, 3, groups=2)
    inputs = torch.randn(1, 2, 5, 5), torch.randn(1, 18, 3, 3)
    assert (
        count_macs(deformable, inputs)
        == 4 * 9 * 9
        == count_macs(nn.Conv2d(2, 4, 3, groups=2), inputs[0])
    )


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("wrap", ["scripted", "compiled"])
def test_scripted_and_compiled_nets_are_counted_like_plain_ones(wrap):
    net = nn.Sequential(nn.Linear(8, 4), nn.Dropout(), nn.LSTM(4, 3, batch_first=True))
    other = torch.jit.script(net) if wrap == "scripted" else torch.compile(net, backend="eager")
    if wrap == "compiled":
        other(X)
    assert count_macs(other, X) == count_macs(net, X) == 7 * (32 + 12 * 7)
    assert other.training


@pytest.mark.parametrize(
    ("function", "operator"),
    [
        (lambda w, x: torch.linalg.inv(x[0, :, :7] + w), "linalg_inv_ex"),
        (lambda w, x: torch.linalg.solve(x[0, :, :7] + w, x[0]), "linalg_solve_ex"),
        (lambda w, x: torch.fft.fft(x * w), "fft_r2c"),
    ],
)
def test_what_has_no_closed_form_is_refused_by_name(function, operator):
    with pytest.raises(MacsError, match=rf"uncounted: .*{operator}.*register_flop_formula"):
        count_macs(Call(function, 1), X)


def test_operators_of_others_are_refused_until_they_have_a_formula(monkeypatch):
    @torch.library.custom_op("survey_test::twice", mutates_args=())
    def twice(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    net = Call(lambda w, x: twice(x) @ w, 8)
    with pytest.raises(MacsError, match="uncounted: survey_test::twice"):
        count_macs(net.requires_grad_(False), X)
    packet = torch.ops.survey_test.twice
    monkeypatch.setitem(counting.flop_registry, packet, lambda x, out_val=None: 2 * x.numel())
    assert count_macs(net, X) == 56 + 56


@pytest.mark.parametrize("x", [torch.zeros(0, 3, 4, 4), torch.tensor(1.0), ()])
@pytest.mark.parametrize("count", [count_macs, count_nonzero_macs, size.count_activations])
def test_an_empty_batch_is_refused_in_one_sentence(count, x):
    with pytest.raises((MacsError, ValueError), match="give at least one"):
        count(nn.Conv2d(3, 4, 1), x)


def test_one_of_many_examples_costs_what_one_alone_costs():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    one = count_macs(net, torch.zeros(1, 3, 8, 8))
    assert one == count_macs(net, torch.zeros(6, 3, 8, 8)) == 36 * 4 * 27 + 144 * 5


MODES = {
    "macs": lambda net, x: count_macs(net, x),
    "non-zero macs": lambda net, x: count_nonzero_macs(net, x),
    "activations": lambda net, x: size.count_activations(net, x),
    "compare": lambda net, x: compare({"dense": net}, x),
}


@pytest.mark.parametrize("what", MODES)
@pytest.mark.parametrize("train", [True, False])
def test_every_module_is_left_in_its_own_mode(what, train):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)).train(train)
    net[1].train(not train)  # a frozen norm in a net that trains, and the other way round
    statistics = net[1].running_mean.clone()
    MODES[what](net, torch.randn(2, 3, 4, 4))
    assert [m.training for m in net.modules()] == [train, train, not train, train]
    assert torch.equal(net[1].running_mean, statistics)


def test_modes_come_back_after_an_exception_too():
    net = nn.Sequential(nn.Linear(3, 2), nn.Dropout()).train()
    net[1].eval()
    with pytest.raises(RuntimeError):
        count_macs(net, torch.zeros(1, 4))
    with pytest.raises(RuntimeError):
        count_nonzero_macs(net, torch.zeros(1, 4))
    assert [m.training for m in net.modules()] == [True, True, False]
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.filterwarnings("ignore:.torch.jit.script:FutureWarning")
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
def test_a_scripted_net_is_really_in_eval_mode_meanwhile():
    net = torch.jit.script(nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5)).train())
    x = torch.ones(64)
    with evaluating(net):
        assert torch.equal(net(x), x)
    assert [m.training for m in net.modules()] == [True] * 3
    assert not torch.equal(net(x), x)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(2, 4, 3), (2, 2, 9)),
        (nn.Conv3d(2, 4, 3), (2, 2, 5, 5, 5)),
        (nn.ConvTranspose1d(2, 4, 3, stride=2), (2, 2, 9)),
        (nn.ConvTranspose2d(2, 4, 2, stride=2, groups=2), (2, 2, 5, 5)),
        (nn.Conv2d(4, 8, 3, groups=2), (3, 4, 9, 9)),
        (nn.Linear(6, 4), (2, 5, 6)),
    ],
)
def test_half_the_weights_are_half_the_macs(layer, shape):
    with torch.no_grad():
        layer.weight.flatten()[::2] = 0
    x = torch.randn(shape)
    assert count_nonzero_macs(layer, x) * 2 == count_macs(layer, x) > 0


def test_layers_that_read_all_examples_as_one_batch_are_counted_whole():
    net = Call(lambda w, x: layer(x.reshape(-1, 6) * w), 1)
    net.layer = layer = nn.Linear(6, 4)
    assert count_nonzero_macs(net, torch.randn(3, 5, 6)) == 5 * 24
