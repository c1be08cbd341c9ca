"""One pass gives what a loop over samples gives; the papers' hand cases."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.mechanics.gates import GateGradients, gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.statistics import activations, fisher, gate_gradients, taylor
from tests.mechanics.toys import TOYS, Tokens, example
from tests.oracles.channels import random_recipe, randomised, zeroed_output


def loss(logits, y):
    return F.cross_entropy(logits.flatten(0, -2), y.flatten())


def case(kind, n=4):
    model = randomised(TOYS[kind]())
    x = example(model, n)
    shape = (n, 4) if isinstance(model, Tokens) else (n,)
    y = torch.randint(3, shape, generator=torch.Generator().manual_seed(2))
    return model, trace_groups(model, x), x, y


def loop(model, graph, x, y):
    """∂Lₙ/∂m by autograd through explicit gates, one example after the other: (N, units)."""
    rows = {g.name: [] for g in graph.prunable}
    for n in range(len(x)):
        gates = {g.name: torch.ones(g.size, dtype=torch.float64, requires_grad=True)
                 for g in graph.prunable}  # fmt: skip
        with gated(model, graph, gates):
            value = loss(model(x[n : n + 1]), y[n : n + 1])
        grads = torch.autograd.grad(value, list(gates.values()))
        for name, grad in zip(gates, grads, strict=True):
            rows[name].append(grad)
    return {name: torch.stack(r) for name, r in rows.items()}


@pytest.mark.parametrize("kind", TOYS)
def test_gate_gradients_equal_a_loop_over_samples(kind):
    model, graph, x, y = case(kind)
    found = gate_gradients(model, graph, loss, x, y).coupled()
    for name, expected in loop(model, graph, x, y).items():
        assert torch.allclose(found[name], expected, rtol=0, atol=1e-10)
        assert expected.abs().max() > 1e-6


@pytest.mark.parametrize("kind", ["plain", "residual", "grouped", "flattened"])
def test_gate_gradients_equal_vmap(kind):
    """The same through torch.func: one gate vector a sample, all at once."""
    model, graph, x, y = case(kind)
    names = [g.name for g in graph.prunable]

    def one(gates, x, y):
        with gated(model, graph, dict(zip(names, gates, strict=True))):
            return loss(model(x[None]), y[None])

    ones = tuple(torch.ones(graph[n].size, dtype=torch.float64) for n in names)
    rows = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(ones, x, y)
    found = gate_gradients(model, graph, loss, x, y).coupled()
    for name, expected in zip(names, rows, strict=True):
        assert torch.allclose(found[name], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", TOYS)
def test_fisher_does_not_depend_on_how_the_data_is_cut(kind):
    model, graph, x, y = case(kind, 6)
    g = loop(model, graph, x, y)
    whole = fisher(model, graph, loss, [(x, y)])
    parts = fisher(model, graph, loss, [(x[:1], y[:1]), (x[1:], y[1:])])
    first = taylor(model, graph, loss, [(x[:2], y[:2]), (x[2:], y[2:])])
    for name in g:
        expected = g[name].square().sum(0) / (2 * len(x))
        assert torch.allclose(whole[name], expected, rtol=1e-9, atol=1e-14)
        assert torch.allclose(parts[name], expected, rtol=1e-9, atol=1e-14)
        assert torch.allclose(first[name], g[name].abs().mean(0), rtol=1e-9, atol=1e-14)


def test_coupled_scores_sum_before_they_square():
    model, graph, x, y = case("residual")
    gates = gate_gradients(model, graph, loss, x, y)
    parts = gates.single()["a"]
    assert set(parts) == {"b", "head"}
    both = fisher(model, graph, loss, [(x, y)])["a"]
    alone = fisher(model, graph, loss, [(x, y)], coupled=False)["a"]
    assert torch.allclose(both, sum(parts.values()).square().sum(0) / 8)
    assert torch.allclose(alone, sum(p.square().sum(0) for p in parts.values()) / 8)
    assert (both - alone).abs().max() > 1e-6


class TwoReaders(nn.Module):
    """y = w₁ m x + w₂ m x with w₁ = −w₂: each reader's gradient is large, their sum is 0."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 1, bias=False)
        self.b = nn.Linear(1, 1, bias=False)
        self.c = nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.a.weight.fill_(1.0)
            self.b.weight.fill_(1.0)
            self.c.weight.fill_(-1.0)

    def forward(self, x):
        h = self.a(x)
        return self.b(h) + self.c(h)


def test_two_readers_that_cancel_by_hand():
    """Liu et al. 2021: gradients (1, −1) and (−1, 1) sum to 0; squared first they give 4."""
    model = TwoReaders().double()
    x = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    graph = trace_groups(model, x)
    args = (model, graph, lambda out, y: out.sum(1).mean(), [(x, x)])
    parts = gate_gradients(*args[:3], x, x).single()["a"]
    assert parts["b"].flatten().tolist() == [1.0, -1.0]
    assert parts["c"].flatten().tolist() == [-1.0, 1.0]
    assert fisher(*args)["a"].tolist() == [0.0]
    assert fisher(*args, coupled=False)["a"].tolist() == [4 / (2 * 2)]


class Given(nn.Module):
    """Two channels whose values and gradients are what the hand case says."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(2, 2, bias=False)
        self.b = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.eye(2))

    def forward(self, x):
        return self.b(self.a(x))


def test_fisher_by_hand():
    """a = [[1, 2], [3, 4]], ∂L/∂a = [[.5, −1], [.25, .5]]: Δ = [0.203125, 2]; the mean gradient
    of the second channel is 0, so a first-order score with a sign would call it worthless."""
    from survey_lib.mechanics.gates import per_channel

    a = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    grad = torch.tensor([[0.5, -1.0], [0.25, 0.5]])
    g = per_channel(a, grad, linear=True)
    assert g.tolist() == [[0.5, -2.0], [0.75, 2.0]]
    assert (g.square().sum(0) / 4).tolist() == [0.203125, 2.0]
    assert g.mean(0)[1] == 0


def test_contributions_that_cancel_in_space_give_nothing():
    from survey_lib.mechanics.gates import per_channel

    a = torch.tensor([[[[1.0, 1.0]]]])
    grad = torch.tensor([[[[1.0, -1.0]]]])
    assert per_channel(a, grad, linear=False).tolist() == [[0.0]]


def test_a_finite_difference_of_one_sample():
    model, graph, x, y = case("scaled")
    found = gate_gradients(model, graph, loss, x, y).coupled()["a"]
    eps = 1e-6
    for unit in (0, 3):
        ends = []
        for sign in (1, -1):
            m = torch.ones(6, dtype=torch.float64)
            m[unit] += sign * eps
            with gated(model, graph, {"a": m}), torch.no_grad():
                ends.append(loss(model(x[:1]), y[:1]))
        assert abs((ends[0] - ends[1]) / (2 * eps) - found[0, unit]) < 1e-7


@pytest.mark.parametrize("kind", TOYS)
def test_closed_gates_equal_removal(kind):
    model, graph, x, _ = case(kind)
    recipe = random_recipe(graph, 4)
    masks = {g.name: torch.zeros(g.size).index_fill(0, torch.tensor(recipe[g.name]), 1.0)
             for g in graph.prunable}  # fmt: skip
    with gated(model, graph, masks), torch.no_grad():
        out = model(x)
    assert torch.allclose(out, zeroed_output(model, graph, recipe, x), rtol=0, atol=1e-12)
    assert not model.head._forward_pre_hooks  # nothing is left behind


def test_watching_a_training_step_changes_nothing_in_it():
    model, graph, x, y = case("residual")
    model.train()
    value = loss(model(x), y)
    plain = torch.autograd.grad(value, list(model.parameters()))
    model.norm.reset_running_stats()
    with GateGradients(model, graph) as gates:
        watched = loss(model(x), y)
        seen = torch.autograd.grad(watched, list(model.parameters()))
    assert torch.equal(value, watched)
    assert all(torch.equal(a, b) for a, b in zip(plain, seen, strict=True))
    assert gates.coupled()["a"].shape == (4, 6)
    gates.clear()
    with pytest.raises(RuntimeError, match="no backward pass went through"):
        gates.coupled()


@pytest.mark.parametrize("kind", TOYS)
def test_activations_equal_a_loop_over_samples(kind):
    model, graph, x, _ = case(kind, 5)
    found = activations(model, graph, [x[:2], x[2:]])
    for group in graph.prunable:
        means, zeros, sizes = [], [], []
        for s in group.consumers:
            module, seen = model.get_submodule(s.module), []
            handle = module.register_forward_pre_hook(lambda m, a, seen=seen: seen.append(a[0]))
            with torch.no_grad():
                for n in range(len(x)):
                    model(x[n : n + 1])
            handle.remove()
            axis = -1 if isinstance(module, nn.Linear) else 1
            rows = torch.cat(seen).movedim(axis, 0)  # (channels, N · calls, …)
            units = torch.stack([rows[list(p)].flatten() for p in s.positions])
            means.append(units.mean(1))
            zeros.append((units == 0).double().mean(1))
            sizes.append(units.abs().mean(1))
        a = found[group.name]
        assert torch.allclose(a.mean, torch.stack(means).mean(0))
        assert torch.allclose(a.apoz, torch.stack(zeros).mean(0))
        assert torch.allclose(a.mean_abs, torch.stack(sizes).mean(0))
        assert torch.allclose(a.attention(1.0), a.map.mean(1))


def test_attention_takes_the_mean_over_the_batch_before_the_power():
    model, graph, x, _ = case("plain")
    a = activations(model, graph, [x])["a"]
    seen = []
    handle = model.b.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(x)
    handle.remove()
    by_hand = seen[0].mean(0).pow(2).mean((1, 2))  # (C, H, W) → (C,)
    assert torch.allclose(a.attention(2.0), by_hand.double())
    assert not torch.allclose(a.attention(2.0), seen[0].pow(2).mean((0, 2, 3)).double())


@pytest.mark.parametrize("kind", ["plain", "residual", "depthwise", "flattened"])
def test_a_net_in_train_mode_is_measured_in_eval_mode_and_left_as_it_was(kind):
    """Batch norm by the batch would give other numbers, and would move its statistics."""
    model, graph, x, y = case(kind)
    gradients = gate_gradients(model, graph, loss, x, y).coupled()
    seen = activations(model, graph, [x])
    scores = fisher(model, graph, loss, [(x, y)]), taylor(model, graph, loss, [(x, y)])
    model.train()
    model.head.eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for name, g in gate_gradients(model, graph, loss, x, y).coupled().items():
        assert torch.equal(g, gradients[name])
    for name, a in activations(model, graph, [x]).items():
        assert torch.equal(a.mean, seen[name].mean)
        assert torch.equal(a.map, seen[name].map)
    again = fisher(model, graph, loss, [(x, y)]), taylor(model, graph, loss, [(x, y)])
    for one, other in zip(scores, again, strict=True):
        assert all(torch.equal(one[k], other[k]) for k in one)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert model.training
    assert model.norm.training
    assert not model.head.training
    model.train()
    with torch.no_grad():  # by the batch the net does give something else
        assert (model(x) - model.eval()(x)).abs().max() > 1e-3


def test_no_data_is_one_clear_sentence():
    model, graph, _, _ = case("plain")
    with pytest.raises(ValueError, match="no batches"):
        fisher(model, graph, loss, [])
    with pytest.raises(ValueError, match="no batches"):
        taylor(model, graph, loss, [])
    with pytest.raises(ValueError, match="no inputs"):
        activations(model, graph, [])
