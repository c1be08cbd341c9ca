import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.gates import GateGradients, gated, per_channel
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.statistics import fisher
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.closer_look import method, shapes
from survey_lib.methods.sharing import most_removals, pace
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model
from survey_lib.tasks.task import Training
from survey_lib.tasks.train import batches
from tests.conftest import in_double
from tests.oracles import closer_look as slow

# The dossier's case, worked by hand: 1 × 1 maps, rows are examples.
A = [[1.0, 2.0], [3.0, 4.0]]
GRAD = [[0.5, -1.0], [0.25, 0.5]]
DELTA = [0.203125, 2.0]


@pytest.fixture(scope="module")
def tiny_resnet(tiny_task):
    """The blobs and a residual net with two blocks a stage, 24 channels inside."""
    options = tiny_task.options | {"width": 0.125, "blocks": 2}
    return replace(tiny_task, name="blobs/resnet_small", model="resnet_small", options=options)


@pytest.fixture(scope="module")
def tiny_densenet(tiny_task):
    options = tiny_task.options | {"width": 0.2, "layers": 2, "bottleneck": 2}
    return replace(tiny_task, name="blobs/densenet_small", model="densenet_small", options=options)


def made(task, seed=0):
    net = task.build(seeded(seed)).to(task.train.x.dtype)
    return net, method.inside_blocks(trace_groups(net, task.example(1)))


def planted_delta(a, slopes):
    """Δ by the library's product and sum, of planted activations and gradients."""
    g = per_channel(a, slopes, linear=False)
    return (g.square().sum(0) / (2 * len(a))).tolist()


def test_the_dossiers_case_by_hand():
    a, grad = (torch.tensor(v)[:, :, None, None] for v in (A, GRAD))
    assert planted_delta(a, grad) == DELTA
    as_lists = [[[v] for v in row] for row in A], [[[v] for v in row] for row in GRAD]
    assert slow.delta_by_hand(*as_lists) == DELTA
    # the second channel's mean gradient is 0: the first-order score does not see it
    g = (a * grad).flatten(1)
    assert g.mean(0).tolist() == [0.625, 0.0]


def test_what_cancels_in_space_counts_nothing():
    """Squaring before the sum over space would give 1."""
    a = torch.tensor([[[[1.0, 1.0]]]])
    grad = torch.tensor([[[[1.0, -1.0]]]])
    assert planted_delta(a, grad) == [0.0]


def at_rate(task, lr):
    return replace(task.training, lr=lr)


def first_interval(task, net, graph, interval=2):
    """Δ of one interval, and the rows it rested on; weights stay (rate 0)."""
    config = method.Config(interval=interval)
    run = method.long_run(net, task, graph, config, at_rate(task, 0.0), seeded(5))
    order = batches(len(task.train), task.training.batch, seeded(5))
    return next(run), [next(order) for _ in range(interval)]


@pytest.mark.parametrize("which", ["tiny_resnet", "tiny_densenet"])
def test_the_signal_is_the_gradient_of_masks_one_for_each_example(which, request):
    task = in_double(request.getfixturevalue(which))
    net, graph = made(task)
    twin = copy.deepcopy(net)
    stop, rows = first_interval(task, net, graph)
    readers = {g.name: g.consumers[0].module for g in graph.groups}
    assert all(len(g.consumers) == 1 for g in graph.groups)
    _, (delta,) = slow.long_run(
        twin, readers, task.train.x, task.train.y, iter(rows),
        steps=1, interval=2, lr=0.0, weight_decay=0.0,
    )  # fmt: skip
    for name, values in stop.delta.items():
        torch.testing.assert_close(values, delta[name], rtol=1e-9, atol=1e-15)
        assert (values > 0).any()


def test_finite_differences_of_single_examples_in_eval_mode(tiny_resnet):
    task = in_double(tiny_resnet)
    net, graph = made(task)
    net = net.eval()
    x, y = task.train.x[:3], task.train.y[:3]
    with GateGradients(net, graph) as gates:
        task.loss(net(x), y).backward()
    g = {name: len(x) * v for name, v in gates.coupled().items()}
    name, eps = graph.groups[-1].name, 1e-6

    def loss_of(n, k, m):
        mask = torch.ones(graph[name].size, dtype=torch.float64)
        mask[k] = m
        with torch.no_grad(), gated(net, graph, {name: mask}):
            return float(task.loss(net(x[n : n + 1]), y[n : n + 1]))

    for n in range(3):
        for k in range(graph[name].size):
            slope = (loss_of(n, k, 1 + eps) - loss_of(n, k, 1 - eps)) / (2 * eps)
            assert slope == pytest.approx(float(g[name][n, k]), abs=1e-8)


@pytest.mark.parametrize("score", ["fisher", "l1"])
def test_the_long_run_equals_its_slow_twin(score, tiny_resnet):
    """Removals, scores and weights after ten removals with training in between."""
    task = in_double(tiny_resnet)
    task = task.with_training(batch=48, weight_decay=1e-3)  # the last batch is shorter
    net, graph = made(task)
    twin = copy.deepcopy(net)
    order = batches(len(task.train), 48, seeded(3))
    config = method.Config(score, interval=3)
    for stop in method.long_run(net, task, graph, config, at_rate(task, 0.01), seeded(3)):
        if len(stop.removed) == 10:
            break
    removed, _ = slow.long_run(
        twin, {g.name: g.consumers[0].module for g in graph.groups},
        task.train.x, task.train.y, order,
        steps=11, interval=3, lr=0.01, weight_decay=1e-3, score=score,
    )  # fmt: skip
    assert [(r.group, r.unit) for r in stop.removed] == [(g, k) for g, k, _ in removed[:10]]
    assert [r.score for r in stop.removed] == pytest.approx([v for *_, v in removed[:10]])
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-8, atol=1e-10, msg=name)


def test_masked_and_removed_give_the_same_output(tiny_resnet):
    task = in_double(tiny_resnet)
    net, graph = made(task)
    config = method.Config(interval=2)
    for stop in method.long_run(net, task, graph, config, at_rate(task, 0.05), seeded(3)):
        if len(stop.removed) == 12:
            break
    masks = {g.name: torch.ones(g.size, dtype=torch.float64) for g in graph.groups}
    for r in stop.removed:
        masks[r.group][r.unit] = 0
    x = task.example(16)
    with torch.no_grad():
        with gated(net, graph, masks):
            masked = net(x)
        small = apply_recipe(net, graph, stop.recipe)(x)
        assert (masked - net(x)).abs().max() > 1e-3
    assert (masked - small).abs().max() < 1e-10


def test_only_channels_inside_blocks_can_go(tiny_resnet, tiny_densenet):
    _, graph = made(tiny_resnet)
    assert [g.name for g in graph.groups] == [f"stages.{i}.conv1" for i in range(6)]
    _, graph = made(tiny_densenet)
    assert [g.name for g in graph.groups] == [f"blocks.{i}.reduce.2" for i in (0, 1, 6, 7)]


def test_parameters_of_a_block_follow_the_closed_form(tiny_resnet):
    """9·in·mid + 9·mid·out + 2·mid + 2·out (batch norms after the convolutions)."""
    task = tiny_resnet
    net, graph = made(task)
    kept = {g.name: 1 + i % 2 for i, g in enumerate(graph.groups)}
    small = shapes.profile(task, kept, generator=seeded(0))
    block = small.stages[1]  # identity shortcut
    mid, width = kept["stages.1.conv1"], net.stages[1].conv2.out_channels
    expected = 9 * width * mid + 9 * mid * width + 2 * mid + 2 * width
    assert sum(p.numel() for p in block.parameters()) == expected


def ranked(values, beta, task, masks=None):
    _, graph = made(task)
    s = {g.name: torch.tensor(values(g)) for g in graph.groups}
    masks = masks or {g.name: torch.ones(g.size) for g in graph.groups}
    return graph, method.smallest(graph, s, masks, beta, Costs(graph, "macs"))


def test_a_large_beta_removes_the_most_expensive_channel_and_none_the_lowest_score(tiny_resnet):
    task = tiny_resnet

    def last_is_least(g):
        return [float(g.size - k) if g.name == "stages.5.conv1" else 9.0 for k in range(g.size)]

    graph, plain = ranked(last_is_least, 0.0, task)
    assert (plain.group, plain.unit) == ("stages.5.conv1", graph["stages.5.conv1"].size - 1)
    graph, dear = ranked(last_is_least, 1e9, task)
    costs = Costs(graph, "macs")
    most = graph.groups[int(costs.savings(costs.sizes).argmax())].name
    assert dear.group == most != plain.group


def test_beta_weighs_the_share_of_the_macs_saved_now(tiny_resnet):
    graph, found = ranked(lambda g: [0.0] * g.size, 2.0, tiny_resnet)
    costs = Costs(graph, "macs")
    assert found.score == pytest.approx(-2.0 * costs.savings(costs.sizes).max() / costs.dense)


def test_the_last_channel_of_a_block_stays(tiny_resnet):
    _, graph = made(tiny_resnet)
    masks = {g.name: torch.zeros(g.size) for g in graph.groups}
    for g in graph.groups:
        masks[g.name][0] = 1
    s = {g.name: torch.zeros(g.size) for g in graph.groups}
    assert method.smallest(graph, s, masks, 0.0, Costs(graph, "macs")) is None
    masks["stages.3.conv1"][1] = 1
    found = method.smallest(graph, s, masks, 0.0, Costs(graph, "macs"))
    assert (found.group, found.unit) == ("stages.3.conv1", 0)


def test_the_long_run_ends_with_one_channel_a_block(tiny_resnet):
    net, graph = made(tiny_resnet)
    config = method.Config("random", interval=1)
    stops = list(method.long_run(net, tiny_resnet, graph, config, None, seeded(0)))
    assert stops[-1].kept.tolist() == [1] * 6
    assert [len(s.removed) for s in stops] == list(range(len(stops)))
    assert len({(r.group, r.unit) for r in stops[-1].removed}) == len(stops) - 1


def test_l1_has_absolute_values_and_the_signed_curiosity_has_not(tiny_resnet):
    """Published code without abs would rank a filter of large negative weights last."""
    net, graph = made(tiny_resnet)
    name = graph.groups[0].name
    with torch.no_grad():
        weight = net.get_submodule(name).weight
        weight[0] = -5.0
        weight[1] = 0.01
    score = {c: method.scores(net, graph, {}, c, seeded(0))[name] for c in ("l1", "l1_signed")}
    assert int(score["l1"].argmin()) == 1
    assert int(score["l1_signed"].argmin()) == 0
    assert float(score["l1"][0]) == pytest.approx(5.0 * weight[0].numel())


def test_the_signal_ignores_a_rescaling_that_changes_the_norm(tiny_resnet):
    """Batch norm's γ and β times c, the reader's columns over c: the same function, the same Δ."""
    task = in_double(tiny_resnet)
    net, graph = made(task)
    other = copy.deepcopy(net)
    with torch.no_grad():
        block = other.stages[1]
        block.bn1.weight[0] *= 3.0
        block.bn1.bias[0] *= 3.0
        block.conv2.weight[:, 0] /= 3.0
    a, _ = first_interval(task, net, graph)
    b, _ = first_interval(task, other, graph)
    torch.testing.assert_close(a.delta["stages.1.conv1"], b.delta["stages.1.conv1"])


def test_l1_follows_a_permutation_of_the_filters(tiny_resnet):
    """The battery's tiny net leaves l1 a single filter; here many are ranked."""
    net, graph = made(tiny_resnet)
    name = graph.groups[-1].name
    order = torch.randperm(graph[name].size, generator=seeded(2))
    before = method.scores(net, graph, {}, "l1", seeded(0))[name]
    with torch.no_grad():
        net.get_submodule(name).weight.copy_(net.get_submodule(name).weight[order])
    assert torch.equal(method.scores(net, graph, {}, "l1", seeded(0))[name], before[order])


def test_a_dead_channel_scores_nothing_and_goes_first(tiny_resnet):
    net, graph = made(tiny_resnet)
    with torch.no_grad():
        net.stages[2].bn1.weight[1] = 0.0
        net.stages[2].bn1.bias[1] = -1.0
    config = method.Config(interval=1)
    run = method.long_run(net, tiny_resnet, graph, config, None, seeded(0))
    assert float(next(run).delta["stages.2.conv1"][1]) == 0.0
    (first,) = next(run).removed
    assert (first.group, first.unit) == ("stages.2.conv1", 1)


def test_uniform_is_the_widest_equal_share(tiny_resnet):
    _, graph = made(tiny_resnet)
    costs = Costs(graph, "params")
    fixed = costs(np.ones(6, dtype=int))
    for target in (0.9 * costs.dense, 0.6 * costs.dense, fixed):
        widths = shapes.uniform(graph, "params", target)
        kept = np.array([widths[g.name] for g in graph.groups])
        assert costs(kept) <= target
        assert np.ptp(kept / costs.sizes) <= 0.5  # stages of 2, 4 and 8 channels, rounded
        if kept.min() < costs.sizes.min():
            more = np.minimum(kept + 1, costs.sizes)
            assert costs(more) > target
    with pytest.raises(BudgetNotMet):
        shapes.uniform(graph, "params", fixed - 1)


def test_narrow_is_the_widest_net_that_fits(tiny_resnet):
    wide = replace(tiny_resnet, options=tiny_resnet.options | {"width": 0.5})
    _, dense = shapes.dense_costs(wide)
    target = 0.4 * dense["params"]
    factors = [k / 16 for k in range(1, 17)]
    thin = shapes.narrow(wide, "params", target, factors)
    sizes = {
        f: sum(p.numel() for p in build_model(
            "resnet_small", generator=seeded(0), **(wide.options | {"width": 0.5 * f})
        ).parameters())
        for f in factors
    }  # fmt: skip
    best = max(n for n in sizes.values() if n <= target)
    assert sum(p.numel() for p in thin.build(seeded(0)).parameters()) == best
    with pytest.raises(BudgetNotMet):
        shapes.narrow(wide, "params", 10, factors)


def test_a_profile_is_drawn_wide_and_then_thinned(tiny_resnet):
    """conv2 keeps the spread of a layer with all inputs, as the paper's code has it."""
    wide = tiny_resnet.build(seeded(7))
    small = shapes.profile(tiny_resnet, {"stages.5.conv1": 2}, generator=seeded(7))
    assert torch.equal(small.stages[5].conv2.weight, wide.stages[5].conv2.weight[:, :2])
    assert torch.equal(small.stages[5].conv1.weight, wide.stages[5].conv1.weight[:2])


def test_a_shuffled_profile_fits_and_is_another_one(tiny_resnet):
    wide = replace(tiny_resnet, options=tiny_resnet.options | {"width": 1.0})
    _, graph = made(wide)
    costs = Costs(graph, "params")
    widths = {g.name: n for g, n in zip(graph.groups, (16, 12, 8, 30, 5, 9), strict=True)}
    target = costs(np.array(list(widths.values())))
    other = shapes.shuffled(graph, widths, target, seeded(1))
    kept = np.array([other[g.name] for g in graph.groups])
    assert 0.9 * target < costs(kept) <= target
    assert other != widths


def test_a_budget_that_is_hit_exactly_is_met(tiny_resnet):
    net, graph = made(tiny_resnet)
    costs, config = Costs(graph, "params"), method.Config("l1", interval=1)
    run = method.long_run(copy.deepcopy(net), tiny_resnet, graph, config, None, seeded(0))
    for n, stop in zip((0, 1, 2), run, strict=False):
        budget = Budget("params", costs(stop.kept) / costs.dense)
        done = method.compress(net, tiny_resnet, budget, config, tuning=None, generator=seeded(0))
        assert len(done.trace["score"]) == n


class TwoBranches(nn.Module):
    """As torchvision's resnet50 begins: the first block has a shortcut that reads the stem too."""

    def __init__(self, *, grouped: bool):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.a = nn.Conv2d(4, 8, 1)
        self.b = nn.Conv2d(8, 8, 3, padding=1, groups=2 if grouped else 1)
        self.c, self.down = nn.Conv2d(8, 6, 1), nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.stem(x).relu()
        y = self.c(self.b(self.a(x).relu()).relu()) + self.down(x)
        return self.head(y.relu().mean((2, 3)))


@pytest.mark.parametrize("grouped", [False, True])
def test_a_stem_that_two_branches_read_lies_in_no_block(grouped, tiny_task):
    net = TwoBranches(grouped=grouped)
    graph = method.inside_blocks(trace_groups(net, torch.zeros(2, 1, 6, 6)))
    assert [g.name for g in graph.groups] == (["a"] if grouped else ["a", "b"])


def test_a_training_that_diverges_is_told_whenever_it_does(tiny_resnet):
    """On the way, after it, and in the very last step, which no loss follows."""
    for epochs, interval in ((2.0, 1), (2.0, 100), (1 / 8, 1)):
        net, _ = made(tiny_resnet)
        tuning = Training(batch=32, epochs=epochs, lr=1e38, weight_decay=1e4)
        with pytest.raises(FloatingPointError, match="lower the learning rate"):
            method.compress(
                net, tiny_resnet, Budget("params", 0.7), method.Config(interval=interval),
                tuning=tuning, generator=seeded(0),
            )  # fmt: skip


def test_frozen_parameters_stay_and_channels_go_all_the_same(tiny_resnet):
    net, _ = made(tiny_resnet)
    for p in net.parameters():
        p.requires_grad_(False)
    budget, config = Budget("params", 0.7), method.Config(interval=1)
    done = method.compress(net, tiny_resnet, budget, config, tuning=None, generator=seeded(0))
    assert any(row["kept"] < row["channels"] for row in done.table)
    tuning = Training(batch=32, epochs=1, lr=0.01)
    with pytest.raises(ValueError, match="no parameter may move; unfreeze some"):
        method.compress(net, tiny_resnet, budget, config, tuning=tuning, generator=seeded(0))
    for p in net.classifier.parameters():
        p.requires_grad_()
    done = method.compress(net, tiny_resnet, budget, config, tuning=tuning, generator=seeded(0))
    kept = done.recipe.get("stages.0.conv1", list(range(net.stages[0].conv1.out_channels)))
    assert torch.equal(done.model.stages[0].conv1.weight, net.stages[0].conv1.weight[kept])
    assert not torch.equal(done.model.classifier.weight, net.classifier.weight)


@pytest.mark.parametrize("change", [{"criterion": "taylor"}, {"interval": 0}, {"beta": -1.0}])
def test_a_wrong_config_is_refused(change):
    with pytest.raises(ValueError, match="closer_look"):
        method.Config(**change)


def test_compress_says_what_is_reachable(tiny_resnet):
    net, _ = made(tiny_resnet)
    with pytest.raises(BudgetNotMet, match=r"down to 0\.\d+ is reachable"):
        method.compress(net, tiny_resnet, Budget("params", 0.05), tuning=None, generator=seeded(0))


def test_compress_stops_at_the_budget_and_tells_what_went(tiny_resnet):
    net, graph = made(tiny_resnet)
    tuning = Training(batch=32, epochs=10, lr=0.01)
    config = method.Config(interval=2)
    done = method.compress(
        net, tiny_resnet, Budget("params", 0.5), config, tuning=tuning, generator=seeded(0)
    )
    removed = sum(row["channels"] - row["kept"] for row in done.table)
    assert len(done.trace["score"]) == removed > 0
    assert done.steps == done.forward_passes == done.backward_passes == 10 * 8
    assert sum(p.numel() for p in done.model.parameters()) <= 0.5 * Costs(graph, "params").dense


def test_the_intervals_follow_from_the_tuning_and_are_no_longer_than_the_config_says(tiny_resnet):
    """24 steps, at most three before each removal: what is left is spent on the small net."""
    _, graph = made(tiny_resnet)
    costs = Costs(graph, "params")
    most = most_removals(costs, np.ones(6, dtype=int), 0.6 * costs.dense)
    for steps in (24, most // 2):
        due = pace(steps, most + 1, 3)
        marks = [due(k) for k in range(most + 1)]
        assert marks[0] >= 1
        assert marks == sorted(marks)
        assert max(np.diff([0, *marks])) <= 3
        assert marks[-1] == min(steps, 3 * (most + 1))


def test_without_a_tuning_the_signal_is_that_of_the_net_as_it_stands(tiny_resnet):
    """Eval mode, no statistics move: Δ of the first stop is plain Fisher of its batches."""
    task = in_double(tiny_resnet)
    net, graph = made(task)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    config = method.Config(interval=2)
    stop = next(method.long_run(net, task, graph, config, None, seeded(5)))
    order = batches(len(task.train), task.training.batch, seeded(5))
    rows = torch.cat([next(order) for _ in range(2)])
    wanted = fisher(net, graph, task.loss, [(task.train.x[rows], task.train.y[rows])])
    for name, delta in stop.delta.items():
        torch.testing.assert_close(delta, wanted[name])
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
