"""The method against literal loops, against the one-pass statistics of other chapters, by hand."""

import copy
import itertools
import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.relevance.engine import relevance, true_class
from survey_lib.mechanics.relevance.rules import AlphaBeta, Box, Epsilon
from survey_lib.mechanics.statistics import fisher, taylor
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.pruning_by_explaining import choice, criteria, method
from survey_lib.tasks.data import Split
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model
from survey_lib.tasks.task import Task, load_task
from tests.conftest import in_double
from tests.mechanics.relevance_nets import lively
from tests.oracles import relevance as twin


@pytest.fixture
def double_task(tiny_task):
    return in_double(tiny_task)


@pytest.fixture
def net(double_task):
    return lively(double_task.build(seeded(0)))


@pytest.fixture
def few(double_task):
    return method.reference(double_task, 3, seeded(1))


def scored(net, task, few, criterion, **more):
    graph = trace_groups(net, task.example(1))
    config = method.Config(criterion, **more)
    return graph, method.score(net, graph, task, few, config, seeded(0))


# ---- reference images


def test_reference_images_are_so_many_of_each_class_and_of_the_training_split(tiny_task):
    few = method.reference(tiny_task, 5, seeded(3))
    assert few.y.bincount().tolist() == [5, 5, 5, 5]
    rows = {tuple(x.flatten().tolist()) for x in tiny_task.train.x}
    assert all(tuple(x.flatten().tolist()) in rows for x in few.x)
    again, other = (method.reference(tiny_task, 5, seeded(s)) for s in (3, 4))
    assert torch.equal(few.x, again.x)
    assert not torch.equal(few.x, other.x)


def test_where_there_are_fewer_images_all_are_taken(tiny_task):
    assert len(method.reference(tiny_task, 10_000, seeded(0))) == len(tiny_task.train)


# ---- scores


def test_relevance_of_a_filter_is_the_sum_of_its_maps_absolute_relevance(net, double_task, few):
    """Image by image, channel by channel; then each layer's scores sum to one."""
    graph, found = scored(net, double_task, few, "lrp")
    config = method.Config()
    for group in graph.prunable:
        total = torch.zeros(group.size, dtype=torch.float64)
        for x, y in zip(few.x, few.y, strict=True):
            rules = method.rules_of(config, few.x)
            maps = relevance(net, x[None], true_class(y[None]), rules).maps[group.name]
            for p in range(group.size):
                total[p] += maps[0, p].abs().sum()
        torch.testing.assert_close(found[group.name], total / total.sum())
        assert float(found[group.name].sum()) == pytest.approx(1)


@pytest.mark.parametrize("start", ["one", "logit"])
def test_scores_of_a_toy_net_equal_the_literal_twin(start):
    """Sample by sample and message by message through three linear layers, the paper's equation."""
    sizes, g = (2, 5, 4, 3), seeded(7)
    layers = [nn.Linear(a, b).double() for a, b in itertools.pairwise(sizes)]
    net = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])
    net.requires_grad_(False)
    x = torch.randn(6, 2, generator=g, dtype=torch.float64)
    y = torch.arange(6) % 3
    task = Task("noise", _splits(x, y), "toy_mlp", {}, "accuracy")
    _, found = scored(net, task, Split(x, y), "lrp", rules="equation", start=start)
    totals = {"1": np.zeros(5), "3": np.zeros(4)}
    for a0, label in zip(x, y.tolist(), strict=True):
        a1 = torch.relu(layers[0](a0))
        a2 = torch.relu(layers[1](a1))
        z = layers[2](a2)
        r = [float(z[k]) if start == "logit" else 1.0 for k in range(3)]
        r = [value if k == label else 0.0 for k, value in enumerate(r)]
        r2 = twin.alpha_beta(a2.tolist(), layers[2].weight.T.tolist(), r)
        totals["3"] += np.abs(r2)
        totals["1"] += np.abs(twin.alpha_beta(a1.tolist(), layers[1].weight.T.tolist(), r2))
    for name, total in totals.items():
        assert total.sum() > 0.1, "a net through which nothing flows would compare nothing"
        np.testing.assert_allclose(found[name].numpy(), total / total.sum(), rtol=1e-10)


@pytest.mark.parametrize("criterion", ["gradient", "taylor", "taylor_each", "fisher"])
def test_gradient_criteria_equal_the_literal_loop(net, double_task, few, criterion):
    """One image at a time, the map behind the batch norm and before the ReLU."""
    graph, found = scored(net, double_task, few, criterion)
    for group, at in zip(graph.prunable, (1, 4, 7), strict=True):
        assert isinstance(net.features[at], nn.BatchNorm2d)
        seen = []
        for x, y in zip(few.x, few.y, strict=True):
            a = net.features[: at + 1](x[None]).detach().requires_grad_()
            rest = net.classifier(net.features[at + 1 :](a).flatten(1))
            (g,) = torch.autograd.grad(double_task.loss(rest, y[None]), a)
            seen.append((g if criterion == "gradient" else a * g)[0].detach())
        each = torch.stack(seen).flatten(2)  # (N, channels, positions)
        literal = {
            "gradient": each.mean((0, 2)).abs(),
            "taylor": each.mean((0, 2)).abs(),
            "taylor_each": each.mean(2).abs().mean(0),
            "fisher": each.sum(2).square().mean(0) / 2,
        }[criterion]
        if criterion != "fisher":
            literal = literal / literal.square().sum().sqrt()
        torch.testing.assert_close(found[group.name], literal)


def test_fisher_and_taylor_equal_the_one_pass_statistics_at_the_readers(net, double_task, few):
    """Behind a ReLU, a ∂L/∂a is the same before and after it: two ways to one number."""
    graph, found = scored(net, double_task, few, "fisher")
    batches = [(few.x, few.y)]
    for name, wanted in fisher(net, graph, double_task.loss, batches).items():
        torch.testing.assert_close(found[name], wanted)
    _, found = scored(net, double_task, few, "taylor_each")
    for name, wanted in taylor(net, graph, double_task.loss, batches).items():
        torch.testing.assert_close(found[name], wanted / wanted.norm())


def test_signs_of_different_images_cancel_in_the_gradient_and_not_image_by_image():
    """Two images that pull a filter opposite ways: the paper's gradient finds it worth nothing."""
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2, bias=False))
    net = net.double()
    net[0].weight.data = torch.ones(2, 1, 1, 1).double()
    net[2].weight.data = torch.tensor([[1.0, 0.5], [-1.0, 0.5]]).double()
    x, y = torch.tensor([1.0, -1.0]).double().reshape(2, 1, 1, 1), torch.tensor([0, 1])
    found = {
        name: float(criteria.of_gradients(net, x, y, F.cross_entropy, name)["0"][0])
        for name in ("gradient", "taylor", "taylor_each")
    }
    pull = 2 * (1 - 1 / (1 + math.exp(-2)))  # ∂L/∂a of the first image, with its sign turned
    assert found == pytest.approx({"gradient": 0, "taylor": pull, "taylor_each": pull}, abs=1e-12)


def test_weight_is_the_sum_of_absolute_weights_over_the_layers_sum(net, double_task, few):
    graph, found = scored(net, double_task, few, "weight")
    for group in graph.prunable:
        w = net.get_submodule(group.name).weight
        literal = torch.stack([row.abs().sum() for row in w])
        torch.testing.assert_close(found[group.name], (literal / literal.sum()).detach())


@pytest.mark.parametrize("criterion", [c for c in method.CRITERIA if c != "random"])
@pytest.mark.parametrize("name", ["resnet_small", "mobilenet_small", "densenet_small"])
def test_coupled_units_have_the_mean_of_their_layers_scores(name, criterion):
    net = lively(build_model(name, generator=seeded(0), width=0.5))
    x = torch.randn(4, 1, 28, 28, generator=seeded(1), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3])
    task = Task("noise", _splits(x, y), name, {}, "accuracy")
    graph, found = scored(net, task, Split(x, y), criterion)
    coupled = [g for g in graph.prunable if len(criteria.makers(graph, g)) > 1]
    assert coupled or name == "densenet_small"
    norm = criteria.NORMS[criterion]
    for group in graph.prunable:
        s = found[group.name]
        assert s.shape == (group.size,)
        assert (s >= 0).all()
        if norm == "sum" and name != "densenet_small":
            assert float(s.sum()) == pytest.approx(1)
    if criterion == "weight" and coupled:
        group = coupled[0]
        parts = []
        for path in criteria.makers(graph, group):
            w = net.get_submodule(path).weight.detach().abs().flatten(1).sum(1)
            parts.append(w / w.sum())
        torch.testing.assert_close(found[group.name], torch.stack(parts).mean(0))


def _splits(x, y):
    from survey_lib.tasks.data import Splits

    part = Split(x, y)
    return Splits(part, part, part, tuple("abcdefghij"), hash="noise")


def test_scores_are_taken_in_eval_mode(double_task, few):
    net = lively(double_task.build(seeded(0)))
    _, quiet = scored(net, double_task, few, "lrp")
    _, busy = scored(net.train(), double_task, few, "lrp")
    assert all(torch.equal(quiet[k], busy[k]) for k in quiet)
    assert net.training


def test_permuting_filters_permutes_their_scores(net, double_task, few):
    _, before = scored(net, double_task, few, "lrp")
    order = torch.randperm(net.features[0].out_channels, generator=seeded(0))
    other = copy.deepcopy(net)
    other.features[0].weight.data = net.features[0].weight.data[order]
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(other.features[1], name).data.copy_(getattr(net.features[1], name)[order])
    other.features[3].weight.data = net.features[3].weight.data[:, order]
    _, after = scored(other, double_task, few, "lrp")
    torch.testing.assert_close(after["features.0"], before["features.0"][order])


def test_the_released_rules_and_the_equations():
    x = torch.tensor([[-2.0, 3.0]])
    released = method.rules_of(method.Config(), x)
    assert released.conv == AlphaBeta(1, 0)
    assert released.first == Box(-2.0, 3.0)
    assert released.linear == released.sums == released.pools == Epsilon(1e-6)
    equation = method.rules_of(method.Config(rules="equation", alpha=2), x)
    assert equation.conv == equation.linear == AlphaBeta(2, 1)
    assert equation.first is None


# ---- what goes


class Fake:
    """Groups of given sizes."""

    def __init__(self, *sizes, least=1):
        groups = (choice_group(f"g{i}", n, least) for i, n in enumerate(sizes))
        self.groups = self.prunable = tuple(groups)
        self.model = "fake"


def choice_group(name, size, least):
    from survey_lib.mechanics.groups import ChannelGroup

    return ChannelGroup(name, size, (), least=least)


def test_one_ranking_over_all_layers_and_the_last_unit_stays():
    graph = Fake(3, 2)
    s = {"g0": torch.tensor([0.1, 0.2, 0.3]), "g1": torch.tensor([0.25, 0.9])}
    never = lambda kept: False  # noqa: E731
    assert choice.cut(graph, s, 1, never) == {"g0": [1, 2]}
    assert choice.cut(graph, s, 3, never) == {"g0": [2], "g1": [1]}
    assert choice.cut(graph, s, 5, never) == {"g0": [2], "g1": [1]}  # no group is emptied
    two = Fake(3, 2, least=2)
    assert choice.cut(two, s, 5, never) == {"g0": [1, 2]}


def test_of_equal_scores_the_earlier_layer_and_the_lower_index_go_first():
    s = {"g0": torch.ones(2), "g1": torch.ones(3)}
    assert choice.cut(Fake(2, 3), s, 2, lambda kept: False) == {"g0": [1], "g1": [1, 2]}


def test_nothing_goes_once_it_is_enough():
    s = {"g0": torch.arange(3.0), "g1": 10 + torch.arange(2.0)}
    left = choice.cut(Fake(3, 2), s, 3, lambda kept: kept.sum() <= 4)
    assert left == {"g0": [1, 2]}


def test_a_depthwise_layer_of_which_one_channel_is_left_does_not_end_the_rounds(tiny_task):
    """It is an ordinary layer then, and ties no more: the net has a group more than before."""
    classes = len(tiny_task.data.classes)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3, groups=2), nn.ReLU(),
        nn.Conv2d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, classes),
    )  # fmt: skip
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.weight[0] = 1e-3  # goes first
    graph = trace_groups(net, tiny_task.example(1))
    name = next(g.name for g in graph.prunable if g.size == 2)
    small = apply_recipe(net, graph, {name: [1]})
    assert len(trace_groups(small, tiny_task.example(1)).groups) == len(graph.groups) + 1
    config = method.Config("weight", step=0.1)
    found = method.compress(
        net, tiny_task, Budget("macs", 0.36), config, tuning=None, generator=seeded(0)
    )
    assert found.recipe[name] == [1]
    assert len(found.trace["units"]) > 1
    costs = Costs(graph, "macs")
    sizes = [len(found.recipe.get(g.name, range(g.size))) for g in graph.groups]
    after = Costs(trace_groups(found.model, tiny_task.example(1)), "macs")
    assert costs(np.array(sizes)) == after.dense <= 0.36 * costs.dense


def test_each_round_takes_a_share_of_the_dense_nets_units(net, double_task, few):
    total = sum(g.size for g in trace_groups(net, double_task.example(1)).prunable)
    config = method.Config("lrp", step=0.1)
    stops = []
    for stop in method.rounds(net, double_task, few, config, seeded(0)):
        stops.append(sum(map(len, stop.recipe.values())))
        if len(stops) == 5:
            break
    each = round(0.1 * total)
    assert stops == [total - (i + 1) * each for i in range(5)]


@pytest.mark.parametrize("criterion", method.CRITERIA)
def test_the_recipe_of_a_round_names_units_of_the_dense_net(net, double_task, few, criterion):
    """Removing them at once gives the net that the rounds led to, to the bit."""
    graph = trace_groups(net, double_task.example(1))
    config = method.Config(criterion, step=0.15)
    for number, stop in enumerate(method.rounds(net, double_task, few, config, seeded(0))):
        at_once = apply_recipe(net, graph, stop.recipe).state_dict()
        assert all(torch.equal(v, at_once[k]) for k, v in stop.net.state_dict().items())
        if number == 2:
            break
    assert number == 2


def test_scores_are_made_anew_each_round(net, double_task, few):
    """Once filters that carried relevance have gone, the others' shares are other ones."""
    runs = method.rounds(net, double_task, few, method.Config("lrp", step=0.2), seeded(0))
    stops = [next(runs) for _ in range(4)]
    graph = trace_groups(net, double_task.example(1))
    at = {name: range(graph[name].size) for name in stops[0].scores}
    changed = set()
    for one, other in itertools.pairwise(stops):
        for name, s in one.scores.items():
            left = s[[list(at[name]).index(u) for u in one.recipe[name]]]
            if not torch.allclose(left / left.sum(), other.scores[name]):
                changed.add(name)
        at = one.recipe
    assert changed


def test_rounds_end_when_one_unit_of_each_group_is_left(net, double_task, few):
    *_, last = method.rounds(net, double_task, few, method.Config(step=0.5), seeded(0))
    assert all(len(units) == 1 for units in last.recipe.values())


def test_a_filter_that_no_decision_rests_on_goes_first(net, double_task, few):
    """Its readers are all zero: relevance, Taylor and Fisher see it, the weights' size doesn't."""
    net.features[0].weight.data[3] *= 100
    net.features[3].weight.data[:, 3] = 0
    for criterion in ("lrp", "taylor", "fisher"):
        _, s = scored(net, double_task, few, criterion)
        assert float(s["features.0"][3]) == pytest.approx(0, abs=1e-12)
    _, s = scored(net, double_task, few, "weight")
    assert int(s["features.0"].argmax()) == 3


def test_a_tuning_is_shared_out_over_rounds_and_end(tiny_task):
    found = method.compress(
        tiny_task.build(seeded(0)), tiny_task, Budget("macs", 0.5),
        method.Config(images=4, step=0.1), tuning=tiny_task.training, generator=seeded(0),
    )  # fmt: skip
    assert found.steps == 48
    assert np.all(np.diff(found.trace["units"]) < 0)
    assert found.forward_passes == 48 + len(found.trace["units"])


@pytest.mark.parametrize(
    "bad",
    [{"criterion": "magic"}, {"rules": "mine"}, {"start": "none"}, {"images": 0}, {"step": 0},
     {"alpha": 0.5}, {"between": 2}],
)  # fmt: skip
def test_bad_configurations_are_refused(bad):
    with pytest.raises(ValueError, match="pruning_by_explaining: "):
        method.Config(**bad)


def test_what_a_round_found_cannot_be_changed():
    stop = method.Stop(nn.Identity(), {}, {})
    with pytest.raises(FrozenInstanceError):
        stop.recipe = {"a": [0]}


def test_a_task_without_classes_is_refused_in_one_sentence():
    task = load_task("char_gpt", width=0.25)
    net = task.build(seeded(0))
    with pytest.raises(ValueError, match=r"the class of an input, and .*char_gpt has none"):
        method.compress(net, task, Budget("macs", 0.5), tuning=None, generator=seeded(0))
