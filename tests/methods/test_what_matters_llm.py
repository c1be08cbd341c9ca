"""Gradual pruning of neurons by movement and GUM, against slow twins and hand-made cases."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.mechanics.gates import gated
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.statistics import gate_gradients
from survey_lib.methods.what_matters_llm import method, soft
from survey_lib.methods.what_matters_llm.choice import Plan, share_of_neurons
from survey_lib.methods.what_matters_llm.measures import (
    Moments,
    likeness,
    neurons,
    redundancy,
    redundant,
    second_moments,
    sensitivity,
    similarity,
    uniqueness,
)
from survey_lib.methods.what_matters_llm.planting import plant_copies
from survey_lib.methods.what_matters_llm.scores import Scores, distilled
from survey_lib.tasks.data import Split, Splits
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, Training
from survey_lib.tasks.train import fit, training
from tests.oracles import what_matters_llm as oracle
from tests.tiny_language import char_gpt, llama, logits, qwen2, tokens

UP = "blocks.0.up"


@pytest.fixture(scope="module")
def text():
    """Noise that repeats itself, so that there is something to learn, and a tiny character net."""
    x = torch.randint(9, (48, 13), generator=seeded(0))
    x[:, 1::2] = x[:, ::2][:, :6]
    split = Split(x[:, :-1].contiguous(), x[:, 1:].contiguous())
    splits = Splits(split, split, split, tuple("abcdefghi"), hash="noise")
    options = {"width": 0.0625, "layers": 2, "size": 12, "classes": 9, "heads": 2}
    return Task("noise/char_gpt", splits, "char_gpt", options, "perplexity",
                Training(epochs=6, batch=16, lr=0.01, optimizer="adamw", clip=1.0))  # fmt: skip


@pytest.fixture(scope="module")
def trained(text):
    net = text.build(seeded(0))
    fit(net, text, generator=seeded(0))
    return net


def run(task, net, v=0.5, *, tuning=None, seed=0, **changes):
    budget = share_of_neurons(trace_groups(net, task.example(1)), v)
    config = method.Config(**changes)
    return method.compress(net, task, budget, config, tuning=tuning, generator=seeded(seed))


# ---- schedule and choice


@pytest.mark.parametrize(
    ("t", "v"), [(0, 1.0), (10, 1.0), (25, 0.71094), (40, 0.5625), (70, 0.5), (99, 0.5)]
)
def test_the_cubic_schedule_by_hand(t, v):
    """10 % dense, 60 % ramp, 30 % at the target; at a quarter of the ramp 0.5 + 0.5 · (3/4)³."""
    assert method.kept_at(t, 100, 0.5, 10, 30) == pytest.approx(v, abs=1e-5)
    assert method.kept_at(t, 100, 0.5, 10, 30) == oracle.kept_at(t, 100, 0.5, 10, 30)


@pytest.mark.parametrize(("scope", "v", "kept"), [
    ("global", 0.5, [[1, 2, 3], [0]]), ("local", 0.5, [[1, 3], [0, 2]]),
    ("global", 0.25, [[3], [0]]),
])  # fmt: skip
def test_one_ranking_or_one_a_layer_and_no_layer_is_emptied(scope, v, kept, text):
    """Layer 0 has the large scores; the best of layer 1 stays even so."""
    net = text.build(seeded(0))
    small = nn.ModuleList([copy.deepcopy(b) for b in net.blocks])
    for block in small:
        block.up.weight = nn.Parameter(block.up.weight[:4].clone())
        block.down.weight = nn.Parameter(block.down.weight[:, :4].clone())
    net.blocks = small
    graph = trace_groups(net, text.example(1))
    plan = Plan(graph, share_of_neurons(graph, v), scope)
    S = {UP: torch.tensor([4.0, 7, 6, 8]), "blocks.1.up": torch.tensor([3.0, 1, 2, 0])}
    found = plan.top(S, plan.v_f)
    assert [m.nonzero().flatten().tolist() for m in found.values()] == kept
    assert plan.v_f == pytest.approx(v)
    assert all(m.all() for m in plan.top(S, 1.0).values())


@pytest.mark.parametrize("v", [0.75, 0.5, 0.25, 0.1])
@pytest.mark.parametrize("criterion", method.CRITERIA)
def test_the_share_of_neurons_is_met_to_the_neuron(criterion, v, text, trained):
    result = run(text, trained, v, criterion=criterion, looks=1)
    rows = [r for r in result.table if r["layer"].endswith("up")]
    total = sum(r["channels"] for r in rows)
    assert sum(r["kept"] for r in rows) == math.floor(v * total + 1e-6)
    assert [r["kept"] for r in result.table if "query" in r["layer"]] == [2, 2]  # heads stay


# ---- movement


def test_a_gates_gradient_is_the_inner_product_of_the_column_and_its_gradient(text, trained):
    """At M = 1, as the dossier has it; for the row it is another number, GELU being no ReLU."""
    net = copy.deepcopy(trained).double()
    graph = trace_groups(net, text.example(1))
    gates = {g.name: torch.ones(g.size, dtype=torch.float64, requires_grad=True)
             for g in neurons(graph)}  # fmt: skip
    x, y = text.train.x[:8], text.train.y[:8]
    with gated(net, graph, gates):
        text.loss(net(x), y).backward()
    for i, gate in enumerate(gates.values()):
        down = net.blocks[i].down.weight
        torch.testing.assert_close(gate.grad, (down * down.grad).sum(0))


def test_movement_is_minus_eta_times_the_summed_gradients(text, trained):
    """With plain descent, nothing trained and no penalty: S = −η Σ_t ∂L_t/∂M, batch by batch."""
    seen = {}

    class Kept(Scores):
        def move(self, gradient, eta):
            super().move(gradient, eta)
            seen.update(self.of)

    options = {"looks": 3, "eps": math.inf, "lambda_mvp": 0.0, "eta": 0.5, "criterion": "top_v"}
    old, method.Scores = method.Scores, Kept
    try:
        run(text, trained, **options)
    finally:
        method.Scores = old
    graph = trace_groups(trained, text.example(1))
    order = torch.randperm(48, generator=seeded(0)).split(16)
    wanted = 0
    for rows in order:
        found = gate_gradients(trained, graph, text.loss, text.train.x[rows], text.train.y[rows])
        wanted = wanted - 0.5 * found.coupled()[UP].mean(0)
    torch.testing.assert_close(seen[UP], wanted, rtol=1e-4, atol=1e-8)


def test_the_gradient_reaches_a_shut_neuron():
    """Straight through: a gate at 0 has the gradient of opening it, so a neuron may return."""
    task_net = char_gpt()
    graph = trace_groups(task_net, tokens(2))
    gates = {g.name: torch.zeros(g.size, requires_grad=True) for g in neurons(graph)}
    with gated(task_net, graph, gates):
        out = task_net(tokens(2))
        F.cross_entropy(out.flatten(0, 1), tokens(2).flatten()).backward()
    assert all((gate.grad != 0).all() for gate in gates.values())


def test_adam_moves_as_torchs_does():
    S = Scores({"a": torch.zeros(5, dtype=torch.float64)}, 1e-4)
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([p], 0.03, eps=1e-4)
    for i in range(7):
        p.grad = torch.randn(5, dtype=torch.float64, generator=seeded(i)) * 1e-3
        S.move({"a": p.grad.clone()}, 0.03)
        optimizer.step()
    torch.testing.assert_close(S.of["a"], p.detach())


def test_scores_of_random_pruning_never_change(text, trained):
    """Trained or not, and whatever the data order, the same neurons go."""
    tuning = Training(epochs=2, batch=16, lr=0.01, optimizer="adamw")
    one = run(text, trained, criterion="random")
    assert run(text, trained, criterion="random", tuning=tuning).recipe == one.recipe
    assert run(text, trained, criterion="random", seed=1).recipe != one.recipe


def test_magnitude_ranks_by_the_norm_of_the_rows(text, trained):
    found = run(text, trained, criterion="magnitude").recipe
    norms = torch.cat([b.up.weight.detach().norm(dim=1) for b in trained.blocks])
    n = trained.blocks[0].up.out_features
    best = norms.topk(n).indices.sort().values.tolist()
    wanted = {"blocks.0.up": [i for i in best if i < n],
              "blocks.1.up": [i - n for i in best if i >= n]}  # fmt: skip
    assert found == {k: v for k, v in wanted.items() if len(v) < n}


@pytest.mark.parametrize("criterion", method.CRITERIA)
def test_keeping_all_neurons_is_plain_fine_tuning(criterion, text, trained):
    tuning = Training(epochs=1, batch=16, lr=0.01, optimizer="adamw", clip=1.0)
    result = run(text, trained, 1.0, criterion=criterion, tuning=tuning)
    plain, generator = copy.deepcopy(trained), seeded(0)
    if criterion == "random":
        for g in neurons(trace_groups(plain, text.example(1))):
            torch.rand(g.size, generator=generator)
    fit(plain, text, tuning, generator=generator)
    for a, b in zip(result.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_the_small_net_is_the_masked_net(text, trained):
    """Cut out in the end, it gives what it gave with gates at 0; in float64."""
    net = copy.deepcopy(trained).double()
    result = run(text, net, 0.4, criterion="magnitude")
    graph = trace_groups(net, text.example(1))
    masks = {k: torch.zeros(graph[k].size, dtype=torch.float64) for k in result.recipe}
    for k, units in result.recipe.items():
        masks[k][units] = 1.0
    with gated(net, graph, masks):
        wanted = net(text.example(5))
    assert (result.model(text.example(5)) - wanted).abs().max() < 1e-10
    assert (net(text.example(5)) - wanted).abs().max() > 1e-3


def test_the_share_kept_follows_the_schedule(text, trained):
    tuning = Training(epochs=20, batch=16, lr=0.01, optimizer="adamw")  # 60 steps
    kept = run(text, trained, 0.25, criterion="top_v", tuning=tuning).trace["kept"]
    n = 2 * trained.blocks[0].up.out_features
    wanted = [oracle.kept_at(t, 60, 0.25, 6, 18) for t in range(60)] + [0.25]
    assert kept == [math.floor(v * n + 1e-6) / n for v in wanted]


# ---- likeness


def test_similarity_uniqueness_and_redundancy_are_the_slow_ones():
    h = torch.randn(9, 5, dtype=torch.float64, generator=seeded(3)) + 0.8
    kept = torch.tensor([True, False, True, True, False])
    sim = similarity(h.T @ h)
    torch.testing.assert_close(sim, oracle.similarity(h))
    assert redundancy(sim, kept, 0.6).tolist() == pytest.approx(oracle.redundancy(h, kept, 0.6))
    assert uniqueness([sim]) == pytest.approx(oracle.uniqueness(h))


@pytest.mark.parametrize(("columns", "unique", "like"), [
    ([[1, 0], [1, 0]], 0.5, 1.0),       # two identical neurons: exactly one is redundant
    ([[1, 0], [0, 1]], 1.0, 0.0),       # orthogonal
    ([[1, 0], [5, 0]], 0.5, 1.0),       # scaled: as similar as before
    ([[1, 0], [-1, 0]], 1.0, 1.0),      # negated: none in the metric, alike in U
    ([[1, 0], [0, 0]], 1.0, 0.0),       # silent: like nothing
])  # fmt: skip
def test_likeness_by_hand(columns, unique, like):
    h = torch.tensor(columns, dtype=torch.float64).T
    sim = similarity(h.T @ h)
    assert uniqueness([sim]) == unique
    assert likeness([sim]) == like
    assert redundancy(sim, torch.tensor([True, True]), 1.0).tolist() == [like / 2] * 2


def test_likeness_is_a_mean_over_pairs_then_over_layers_that_have_any():
    three = torch.tensor([[1.0, 0.5, -0.2], [0.5, 1.0, 0.1], [-0.2, 0.1, 1.0]])
    assert likeness([three]) == pytest.approx(0.8 / 3)
    assert likeness([three, torch.eye(4), torch.ones(1, 1)]) == pytest.approx(0.4 / 3)
    assert likeness([torch.ones(1, 1)]) == 0.0


def test_of_five_copies_one_counts_as_unique():
    h = torch.ones(3, 5, dtype=torch.float64)
    assert redundant(similarity(h.T @ h)).tolist() == [True] * 4 + [False]


def test_moments_are_those_of_what_the_layer_reads_gates_aside(text, trained):
    """A shut neuron is still seen, so it stays comparable; and the running mean by hand."""
    net = trained
    graph = trace_groups(net, text.example(1))
    x = text.train.x[:6]
    h = F.gelu(net.blocks[0].up(net.blocks[0].norm2(_before(net, x)))).flatten(0, 1).detach()
    found = second_moments(net, graph, [x[:2], x[2:]])[UP]
    torch.testing.assert_close(found, (h.T @ h).double(), rtol=1e-4, atol=1e-4)
    running = Moments(net, graph, memory=0.75, tokens=10)
    shut = {g.name: torch.zeros(g.size) for g in neurons(graph)}
    with running.watching(), gated(net, graph, shut), torch.no_grad():
        net(x)
        net(x[3:])
    a, b = h[:10], h[36:46]
    wanted = 0.75 * a.T @ a / 10 + 0.25 * b.T @ b / 10
    torch.testing.assert_close(running.of[UP], wanted, rtol=1e-4, atol=1e-5)


def _before(net, x):
    h = net.tokens(x) + net.positions.weight[: x.shape[1]]
    return h + net.blocks[0].attention(net.blocks[0].norm1(h))


def test_the_penalty_is_the_gradient_of_r():
    S = Scores({"a": torch.zeros(3, dtype=torch.float64), "b": torch.zeros(2)}, 1e-4)
    S.of = {"a": torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64),
            "b": torch.tensor([0.1, 0.0], dtype=torch.float64)}  # fmt: skip
    U = {"a": torch.tensor([0.2, 0.9, 0.0], dtype=torch.float64),
         "b": torch.tensor([0.5, 0.1], dtype=torch.float64)}  # fmt: skip
    leaves = [s.clone().requires_grad_() for s in S.of.values()]
    oracle.penalty(leaves, list(U.values()), 3.0, 1.5).backward()
    found = S.penalty(3.0, U, 1.5)
    for leaf, name in zip(leaves, found, strict=True):
        torch.testing.assert_close(found[name], leaf.grad)
    # the sign: descent lowers the score of the neuron that is like the others more
    alike = S.penalty(3.0, {"b": torch.tensor([0.9, 0.0], dtype=torch.float64)}, 1.5)["b"]
    assert alike[0] > alike[1] > 0


def test_gum_without_its_lambda_is_movement(text, trained):
    tuning = Training(epochs=4, batch=16, lr=0.01, optimizer="adamw")
    a, b, c = (
        run(text, trained, criterion=k, lambda_gum=lam, tuning=tuning).recipe
        for k, lam in (("gum", 0.0), ("top_v", 5.0), ("gum", 500.0))
    )
    assert a == b != c


# ---- sensitivity


def test_sensitivity_is_the_slow_one_and_a_finite_difference(text, trained):
    net = copy.deepcopy(trained).double()
    graph = trace_groups(net, text.example(1))
    batches = [(text.train.x[i : i + 8], text.train.y[i : i + 8]) for i in (0, 8)]
    flags = [p.requires_grad for p in net.parameters()]
    found = sensitivity(net, graph, text.loss, batches)
    assert [p.requires_grad for p in net.parameters()] == flags
    assert all(p.grad is None for p in net.parameters())
    up, down = net.blocks[1].up.weight, net.blocks[1].down.weight
    rows = [
        [(up, (j, i)) for i in range(up.shape[1])] + [(down, (i, j)) for i in range(down.shape[0])]
        for j in (0, 5)
    ]
    wanted = oracle.sensitivity(net, text.loss, batches, rows)
    assert found["blocks.1.up"][[0, 5]].tolist() == pytest.approx(wanted)
    # to first order what shrinking both of its weight vectors by ε does to the loss, over ε
    x, y = batches[0]
    one = sensitivity(net, graph, text.loss, batches[:1])["blocks.1.up"][5]
    losses = []
    for e in (1e-4, -1e-4):
        twin = copy.deepcopy(net)
        twin.blocks[1].up.weight.data[5] *= 1 - e
        twin.blocks[1].down.weight.data[:, 5] *= 1 - e
        losses.append(text.loss(twin(x), y).item())
    assert abs(losses[0] - losses[1]) / 2e-4 == pytest.approx(float(one), rel=1e-4)


# ---- planted copies


@pytest.mark.parametrize("make", [char_gpt, llama, qwen2])
@pytest.mark.parametrize("copies", [2, 8])
def test_planted_copies_change_nothing_and_are_found(make, copies):
    net = make().double()
    chosen = [[1, 4, 7]] * len(_layers(net))
    wide, sets = plant_copies(net, chosen, copies)
    x = tokens(3)
    assert (logits(wide, x) - logits(net, x)).abs().max() < 1e-10
    n = 24 if make is not char_gpt else 128
    assert sets[0][1] == [4, *range(n + copies - 1, n + 2 * (copies - 1))]
    graph = trace_groups(wide, x)
    sims = [similarity(C) for C in second_moments(wide, graph, [x]).values()]
    assert len(sims) == len(sets)
    for sim, alike in zip(sims, sets, strict=True):
        for same in alike:
            assert sim[same][:, same].min() > 1 - 1e-9
            assert redundant(sim)[same[:-1]].all()


def _layers(net):
    return net.blocks if hasattr(net, "blocks") else net.model.layers


@pytest.mark.parametrize(("chosen", "copies", "said"), [
    ([[0]], 2, "neurons for each of 4 layers"), ([[0]] * 4, 0, "copies ≥ 1"),
    ([[0, 0]] * 4, 2, "distinct neurons"), ([[128]] * 4, 2, "distinct neurons 0 … 127"),
])  # fmt: skip
def test_copies_that_cannot_be_planted(chosen, copies, said):
    with pytest.raises(ValueError, match=said):
        plant_copies(char_gpt(), chosen, copies)


def test_copies_move_alike_under_movement_and_apart_under_gum_once_one_is_shut(text, trained):
    """Equal weights have equal gradients, so scores tie; what differs is whom the penalty meets."""
    wide, sets = plant_copies(trained, [[0], [0]], 2)
    graph = trace_groups(wide, text.example(1))
    found = gate_gradients(wide, graph, text.loss, text.train.x, text.train.y).coupled()[UP]
    one, other = sets[0][0]
    torch.testing.assert_close(found[:, one], found[:, other])
    sim = similarity(second_moments(wide, graph, [text.train.x])[UP])
    kept = torch.ones(len(sim), dtype=torch.bool)
    both = redundancy(sim, kept, 1.0)
    assert both[one] == pytest.approx(float(both[other]))
    kept[one] = False
    after = redundancy(sim, kept, 1.0)
    # the shut one is still told that it is like the open one; that one is told of it no more
    assert after[one] - after[other] == pytest.approx(1 / len(sim), rel=1e-6)


# ---- distillation, soft movement


def test_distillation_by_hand(text, trained):
    teacher, z = trained, torch.randn(2, 12, 9, generator=seeded(5), dtype=torch.float32)
    x, y = text.train.x[:2], text.train.y[:2]
    found = distilled(teacher, text, 0.3, 2.0)(z, y, x)
    with torch.no_grad():
        t = teacher(x)
    kl = 0.0
    for b in range(2):
        for i in range(12):
            p, q = (t[b, i] / 2).softmax(0), (z[b, i] / 2).softmax(0)
            kl += float((p * (p.log() - q.log())).sum()) / 24
    wanted = 0.7 * float(F.cross_entropy(z.flatten(0, 1), y.flatten())) + 0.3 * 4 * kl
    assert float(found) == pytest.approx(wanted, rel=1e-5)
    with torch.no_grad():
        same = distilled(teacher, text, 1.0, 2.0)(teacher(x), y, x)
    assert abs(float(same)) < 1e-6


def test_a_larger_penalty_leaves_fewer_neurons(text, trained):
    tuning = Training(epochs=20, batch=16, lr=0.005, optimizer="adamw")
    left = []
    for weight in (0.0, 1.0, 1e4):
        config = soft.Config(lambda_mvp=weight, eta=0.1)
        result = soft.compress(trained, text, None, config, tuning=tuning, generator=seeded(0))
        left.append(result.trace["kept"][-1])
    assert left[0] > left[1] > left[2]
    assert left[2] == pytest.approx(2 / (2 * trained.blocks[0].up.out_features))
    budget = share_of_neurons(trace_groups(trained, text.example(1)), 0.5)
    with pytest.raises(ValueError, match="soft_movement takes no budget"):
        soft.compress(trained, text, budget, tuning=None, generator=seeded(0))


@pytest.mark.parametrize(("changes", "said"), [
    ({"criterion": "sum"}, "use one of gum, top_v"), ({"scope": "layer"}, "global or local"),
    ({"t_i": 0.8, "t_f": 0.3}, "t_i ≤ 1 - t_f"), ({"alpha": 2.0}, "alpha ≤ 1"),
    ({"looks": 0}, "looks ≥ 1"),
])  # fmt: skip
def test_a_config_that_makes_no_sense_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        method.Config(**changes)
    if "criterion" not in changes and "scope" not in changes and "alpha" not in changes:
        with pytest.raises(ValueError, match="need"):
            soft.Config(**changes)


def test_a_training_is_the_open_loop(text):
    """The first step of a random run at v = 1 is the loop's own first step."""
    net = text.build(seeded(1))
    tuning = Training(epochs=0.3, batch=16, lr=0.01, optimizer="adamw")
    first = next(iter(training(copy.deepcopy(net), text, tuning, generator=seeded(0))))
    found = run(text, net, 0.5, criterion="magnitude", tuning=tuning)
    assert found.trace["loss"][0] == first.loss
