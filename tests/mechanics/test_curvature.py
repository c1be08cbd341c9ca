import pytest
import torch
from torch import nn

from survey_lib.mechanics import curvature
from survey_lib.mechanics.curvature import ggn_diagonal
from survey_lib.mechanics.masks import prunable_weights
from tests.oracles import loss_models as oracle


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomise(net, seed=0):
    """A float64 net whose parameters come from a generator of its own."""
    net = net.double().eval()
    drawn = generator(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(0.6 * torch.randn(p.shape, generator=drawn, dtype=torch.float64))
    return net


class Grouped(nn.Module):
    """Stride, padding, dilation, groups, a depthwise layer, and work done in place."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.b = nn.Conv2d(4, 6, 3, padding=2, dilation=2, groups=2)
        self.c = nn.Conv2d(6, 6, 2, groups=6, bias=False)
        self.head = nn.Linear(6 * 2 * 2, 3)

    def forward(self, x):
        x = nn.functional.relu(self.a(x), inplace=True)
        x = nn.functional.tanh(self.b(x))
        return self.head(self.c(x).flatten(1))


class Positions(nn.Module):
    """A linear layer applied at each of several positions, as in a transformer."""

    def __init__(self):
        super().__init__()
        self.each = nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.each(x).tanh().mean(1))


NETS = {
    "tanh MLP": (
        lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)),
        (7, 5),
    ),
    "convolutions": (Grouped, (4, 2, 5, 5)),
    "positions": (Positions, (6, 3, 5)),
}


def case(name):
    build, shape = NETS[name]
    net = randomise(build())
    x = torch.randn(shape, generator=generator(1), dtype=torch.float64)
    weights = {k: p for k, p in net.named_parameters() if k.endswith("weight")}
    return net, x, weights


@pytest.mark.parametrize("name", NETS)
def test_equals_the_twin_with_the_whole_jacobian(name):
    net, x, weights = case(name)
    found = ggn_diagonal(net, x, weights)
    for key, g in found.items():
        expected = oracle.ggn_diagonal(net, oracle.parameters_of(net), x, key)
        assert g.shape == weights[key].shape
        assert (g >= 0).all()
        assert torch.allclose(g, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", NETS)
def test_the_batch_size_changes_nothing(name):
    net, x, weights = case(name)
    whole, parts = (ggn_diagonal(net, x, weights, batch=b) for b in (100, 3))
    for key in weights:
        assert torch.allclose(whole[key], parts[key], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["convolutions", "positions"])
@pytest.mark.parametrize("examples", [1, 2, 3])
def test_the_size_of_a_chunk_changes_nothing(name, examples, monkeypatch):
    """Gradients of one, two or three examples at a time: often the last chunk is a smaller one."""
    net, x, weights = case(name)
    x = torch.cat([x, x.flip(0) * 0.5])[:7]
    whole = ggn_diagonal(net, x, weights)
    for key, g in whole.items():
        monkeypatch.setattr(curvature, "CHUNK", examples * weights[key].numel())
        found = ggn_diagonal(net, x, {key: weights[key]})[key]
        assert torch.allclose(found, g, rtol=1e-12, atol=0)
        assert g.max() > 1e-3


def test_softmax_regression_by_its_closed_form_and_by_the_hessian():
    """G_(c,i) = 1/N Σ p_nc (1 − p_nc) x_ni², and the loss is convex with this very Hessian."""
    net = randomise(nn.Sequential(nn.Linear(4, 3)))
    x = torch.randn(9, 4, generator=generator(2), dtype=torch.float64)
    y = torch.arange(9) % 3
    p = net(x).detach().softmax(1)
    closed = (p * (1 - p)).T @ x**2 / 9
    found = ggn_diagonal(net, x, {"0.weight": net[0].weight})["0.weight"]
    assert torch.allclose(found, closed, rtol=1e-12)
    exact = oracle.hessian_of(net, oracle.parameters_of(net), x, y, "0.weight").diagonal()
    assert torch.allclose(found.flatten(), exact, rtol=1e-10)


@pytest.mark.parametrize(("activation", "equal"), [(nn.ReLU, True), (nn.Tanh, False)])
def test_equals_the_hessian_diagonal_where_logits_are_piecewise_linear_in_each_weight(
    activation, equal
):
    """A ReLU net's logits bend in no single weight, so G_kk = H_kk; a tanh net's do."""
    net = randomise(nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 3)))
    x = torch.randn(8, 4, generator=generator(3), dtype=torch.float64)
    y = torch.arange(8) % 3
    found = ggn_diagonal(net, x, {"0.weight": net[0].weight})["0.weight"].flatten()
    exact = oracle.hessian_of(net, oracle.parameters_of(net), x, y, "0.weight").diagonal()
    assert torch.allclose(found, exact, rtol=1e-9) is equal


def test_sampled_labels_converge_to_it_and_true_labels_or_batch_squares_do_not():
    """The mean of squared gradients with labels drawn from p is an estimate of G."""
    net = randomise(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)))
    x = torch.randn(5, 3, generator=generator(4), dtype=torch.float64)
    key = "0.weight"
    exact = ggn_diagonal(net, x, {key: net[0].weight})[key]
    squares = []  # of the gradient of each example with each label
    for n in range(5):
        one = [
            oracle.gradient(net, oracle.parameters_of(net), x[n : n + 1], torch.tensor([j]))[key]
            for j in range(3)
        ]
        squares.append(torch.stack(one) ** 2)
    p = net(x).detach().softmax(1)
    drawn = torch.multinomial(p, 40_000, replacement=True, generator=generator(5))
    sampled = sum(s[d].mean(0) for s, d in zip(squares, drawn, strict=True)) / 5
    assert ((sampled - exact).abs() < 0.05 * exact + 1e-4).all()
    y = torch.tensor([0, 1, 2, 0, 1])
    empirical = sum(s[label] for s, label in zip(squares, y, strict=True)) / 5
    batch = oracle.gradient(net, oracle.parameters_of(net), x, y)[key] ** 2
    assert ((empirical - exact).abs() > 0.3 * exact).any()
    assert ((batch - exact).abs() > 0.3 * exact).any()


def test_the_net_is_left_as_it_was():
    net, x, weights = case("convolutions")
    ggn_diagonal(net, x, weights)
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


def test_channels_last_weights_keep_their_places(tiny_task):
    """The tasks' nets lie in memory in another order than their shape says."""
    net = tiny_task.build(generator(6)).double().eval()
    weights = prunable_weights(net, spare_first_conv=False)
    x = tiny_task.val.x[:3].double()
    for key, g in ggn_diagonal(net, x, weights).items():
        expected = oracle.ggn_diagonal(net, oracle.parameters_of(net), x, key)
        assert torch.allclose(g, expected, rtol=1e-8, atol=1e-14)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm = nn.Linear(3, 3), nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.norm(self.a(self.a(x)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.weight", "used twice"),
        ("b.weight", "no part"),
        ("norm.weight", "leave it out"),
        ("a.bias", "leave it out"),
    ],
)
def test_what_it_cannot_do_is_one_sentence(name, words):
    net = Twice().eval()
    with pytest.raises(ValueError, match=words):
        ggn_diagonal(net, torch.ones(2, 3), {name: dict(net.named_parameters())[name]})
    assert not any(m._forward_hooks for m in net.modules())


def test_logits_of_another_shape_are_refused():
    net = nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"logits \(N, C\)"):
        ggn_diagonal(nn.Sequential(net), torch.ones(2, 4, 3), {"0.weight": net.weight})
