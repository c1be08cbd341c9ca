import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.gates import GateGradients
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.statistics import fisher, gate_gradients
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods import sharing
from survey_lib.methods.group_fisher import grouping, method
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task
from tests.conftest import in_double
from tests.mechanics.toys import TOYS, example
from tests.oracles import group_fisher as slow
from tests.oracles.channels import randomised

COUPLED = {
    "resnet": ("resnet_small", {"width": 0.25}),
    "mobilenet": ("mobilenet_small", {"width": 0.25}),
    "resnext": ("resnet_small", {"width": 0.5, "groups": 2}),
}


@pytest.fixture(scope="module")
def tiny(tiny_task):
    """Name → a float64 task of 40 images in one batch, with a small net of coupled channels."""

    def make(name):
        model, options = COUPLED[name]
        task = in_double(replace(tiny_task, model=model, options=tiny_task.options | options))
        train = replace(task.train, x=task.train.x[:40], y=task.train.y[:40])
        task = replace(task, data=replace(task.data, train=train))
        task = task.with_training(batch=40, weight_decay=0.0)
        return task, randomised(task.build(seeded(1)))

    return make


# ---- groups


CASE = {"a": {"1"}, "b": {"2"}, "c": {"1", "2"}}
"""The dossier's case: b and c share parent 2, and all three must go together."""


def test_algorithm_1_separates_layers_that_share_a_parent_and_union_find_does_not():
    assert grouping.first_match(CASE) == [["a", "c"], ["b"]]
    assert grouping.union_find(CASE) == [["a", "b", "c"]]


def test_algorithm_1_depends_on_the_order_and_union_find_does_not():
    backwards = dict(reversed(CASE.items()))
    assert grouping.as_sets(grouping.first_match(backwards)) == {frozenset("abc")}
    assert grouping.as_sets(grouping.union_find(backwards)) == {frozenset("abc")}


def test_a_layer_joins_the_grouped_convolution_it_reads_from():
    p = {"expand": {"stem"}, "depthwise": {"expand"}, "project": {"depthwise"}}
    assert grouping.union_find(p) == [["expand"], ["depthwise"], ["project"]]
    for groups in (grouping.union_find, grouping.first_match):
        assert groups(p, {"depthwise"}) == [["expand"], ["depthwise", "project"]]


@pytest.mark.parametrize("seed", range(20))
def test_union_find_is_the_closure_of_the_papers_relation(seed):
    draw = np.random.default_rng(seed)
    names = [f"l{i}" for i in range(9)]
    p = {
        n: {names[j] for j in draw.choice(i, min(i, draw.integers(1, 3)), replace=False)}
        for i, n in enumerate(names)
        if i
    }
    grouped = {n for n in p if draw.random() < 0.3}
    assert grouping.as_sets(grouping.union_find(p, grouped)) == slow.closed_groups(p, grouped)


NETS = [
    ("resnet_small", {}), ("resnet_small", {"blocks": 3}), ("resnet_small", {"groups": 4}),
    ("mobilenet_small", {}), ("vgg_small", {}), ("vgg_small", {"head": "fc"}), ("cnn_small", {}),
    ("mlp", {}),
]  # fmt: skip


def traced(name, options):
    task = load_task(name, **options)
    net = task.build(seeded(0))
    return net, trace_groups(net, task.example(1))


@pytest.mark.parametrize(("name", "options"), NETS, ids=str)
def test_union_find_and_the_engine_find_the_same_groups(name, options):
    net, graph = traced(name, options)
    p, grouped = grouping.parents(net)
    found = grouping.as_sets(grouping.union_find(p, grouped))
    assert found == grouping.as_sets(grouping.engine_groups(net, graph))
    assert found == slow.closed_groups(p, grouped)


def test_the_residual_stream_is_one_group_and_the_inside_of_a_block_another():
    net, _ = traced("resnet_small", {"blocks": 2})
    groups = grouping.as_sets(grouping.union_find(*grouping.parents(net)))
    stream = {"stages.0.conv1", "stages.1.conv1", "stages.2.conv1", "stages.2.shortcut.0"}
    assert frozenset(stream) in groups
    assert frozenset({"stages.1.conv2"}) in groups


def test_where_maps_are_concatenated_the_engine_is_finer():
    net, graph = traced("densenet_small", {})
    layers = grouping.union_find(*grouping.parents(net))
    channels = grouping.engine_groups(net, graph)
    assert len(layers) < len(channels)
    assert all(any(set(c) <= set(g) for g in layers) for c in channels)


# ---- scores


def test_gradients_that_cancel_over_layers_score_nothing():
    g = torch.tensor([[[1.0], [-1.0]], [[-1.0], [1.0]]])  # (copies, N, units)
    assert method.importance(g, "fisher").tolist() == [0]
    assert method.importance(g, "square_first").tolist() == [4]
    same = g[[0, 0]]
    assert method.importance(same, "fisher").tolist() == [8]
    assert method.importance(same, "square_first").tolist() == [4]
    assert method.importance(same, "first_order").tolist() == [0]


@pytest.mark.parametrize("score", ["fisher", "square_first", "first_order"])
@pytest.mark.parametrize("name", COUPLED)
def test_scores_equal_those_of_masks_as_variables(name, score, tiny):
    task, net = tiny(name)
    graph = trace_groups(net, task.example(1))
    x, y = task.train.x, task.train.y
    ones = {g.name: torch.ones(g.size, dtype=x.dtype) for g in graph.prunable}
    wanted = slow.scores(net, graph, task, x, y, ones, score)
    for group, copies in gate_gradients(net, graph, task.loss, x, y).single().items():
        found = method.importance(torch.stack(list(copies.values())), score).abs()
        torch.testing.assert_close(found, wanted[group], rtol=1e-10, atol=1e-12)


def test_without_coupling_both_orders_are_plain_fisher(tiny_task):
    task = in_double(tiny_task)
    net = task.build(seeded(0)).double()
    graph = trace_groups(net, task.example(1))
    plain = fisher(net, graph, task.loss, [(task.train.x, task.train.y)])
    gates = gate_gradients(net, graph, task.loss, task.train.x, task.train.y).single()
    for name, copies in gates.items():
        g = torch.stack(list(copies.values()))
        for score in ("fisher", "square_first"):
            found = method.importance(g, score) / (2 * len(task.train))
            torch.testing.assert_close(found, plain[name])


class Grouped(nn.Module):
    """Two layers around a convolution in groups, or around its block-diagonal twin."""

    def __init__(self, groups):
        super().__init__()
        self.a = nn.Conv2d(1, 8, 3)
        self.b = nn.Conv2d(8, 8, 3, groups=groups)
        self.c = nn.Linear(8, 3)

    def forward(self, x):
        y = torch.relu(self.b(torch.relu(self.a(x))))
        return self.c(y.mean((2, 3)))


def test_a_grouped_convolution_has_the_gradients_of_its_block_diagonal_twin():
    x, y = torch.randn(7, 1, 8, 8, dtype=torch.float64, generator=seeded(0)), torch.arange(7) % 3
    grouped = Grouped(4).double()
    dense = Grouped(1).double()
    dense.load_state_dict(grouped.state_dict() | {"b.weight": torch.zeros(8, 8, 3, 3)})
    with torch.no_grad():
        for k in range(4):
            at = slice(2 * k, 2 * k + 2)
            dense.b.weight[at, at] = grouped.b.weight[at]
    loss = nn.functional.cross_entropy
    one, two = (trace_groups(net, x[:1]) for net in (grouped, dense))
    # a unit of the grouped net is two channels of the map that b reads, and two of that c reads
    found = gate_gradients(grouped, one, loss, x, y).single()["a"]  # (N, 4) by layer
    twin = gate_gradients(dense, two, loss, x, y).coupled()
    torch.testing.assert_close(found["b"], twin["a"].unflatten(1, (4, 2)).sum(2))
    torch.testing.assert_close(found["c"], twin["b"].unflatten(1, (4, 2)).sum(2))
    both = gate_gradients(grouped, one, loss, x, y).coupled()["a"]
    torch.testing.assert_close(both, found["b"] + found["c"])


class Chain(nn.Module):
    """y = w₃ m w₂ m w₁ x in each of two channels: convolution, depthwise convolution, layer."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(1, 2, 1, bias=False)
        self.deep = nn.Conv2d(2, 2, 1, groups=2, bias=False)
        self.head = nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([2.0, 1.0]).view(2, 1, 1, 1))
            self.deep.weight.copy_(torch.tensor([3.0, -1.0]).view(2, 1, 1, 1))
            self.head.weight.copy_(torch.tensor([[5.0, 4.0]]))

    def forward(self, x):
        return self.head(self.deep(self.a(x)).flatten(1))


def test_the_depthwise_convolution_s_own_mask_worked_by_hand():
    """A channel of the map before it and its own output go together, so ∂y/∂m = 2 · w₃ w₂ w₁ x.

    Channel 0 gives 30 for x = 1, channel 1 gives −4; over x = 1 and x = −1 the scores are
    (60² + 60²) / 4 = 1800 and (8² + 8²) / 4 = 32. Without the convolution's own mask they would be
    a quarter of that.
    """
    net = Chain().double()
    x = torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1)
    graph = trace_groups(net, x)
    out = lambda z, y: z.mean()  # noqa: E731
    copies = gate_gradients(net, graph, out, x, x).single()["a"]
    assert {k: g.tolist() for k, g in copies.items()} == {
        "deep": [[30.0, -4.0], [-30.0, 4.0]],
        "head": [[30.0, -4.0], [-30.0, 4.0]],
    }
    assert fisher(net, graph, out, [(x, x)])["a"].tolist() == [1800.0, 32.0]
    assert method.importance(torch.stack(list(copies.values())), "fisher").tolist() == [7200, 128]


@pytest.mark.parametrize(
    "kind",
    ["plain", "residual", "depthwise", "depthwise multiplier", "grouped", "flattened", "scaled",
     "called twice"],
)  # fmt: skip
@pytest.mark.parametrize("score", ["fisher", "square_first", "first_order"])
def test_every_kind_of_coupling_has_the_masks_of_the_papers_text(kind, score):
    net = randomised(TOYS[kind]())
    x, y = example(net, 5), torch.arange(5) % 3
    graph = trace_groups(net, x)
    task = SimpleNamespace(loss=nn.functional.cross_entropy)
    ones = {g.name: torch.ones(g.size, dtype=x.dtype) for g in graph.prunable}
    wanted = slow.scores(net, graph, task, x, y, ones, score)
    for group, copies in gate_gradients(net, graph, task.loss, x, y).single().items():
        found = method.importance(torch.stack(list(copies.values())), score).abs()
        torch.testing.assert_close(found, wanted[group], rtol=1e-10, atol=1e-12)
        assert wanted[group].abs().max() > 1e-8


# ---- what a removal saves


def by_hand():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 10),
    )  # fmt: skip


def test_savings_worked_by_hand():
    graph = trace_groups(by_hand(), torch.zeros(1, 3, 32, 32))
    kept = np.array([g.size for g in graph.groups])
    at = [g.name for g in graph.groups].index("0")
    assert Costs(graph, "macs").savings(kept)[at] == 36_864 + 27_648 == 64_512
    assert Costs(graph, "activations").savings(kept)[at] == 1024


def test_the_smallest_score_for_its_saving_goes():
    s = {"a": torch.tensor([3.0, 4.0, 0.0]), "b": torch.tensor([1.0, 2.0])}
    allowed = {"a": torch.tensor([True, True, False]), "b": torch.ones(2, dtype=torch.bool)}
    assert method.choose(s, allowed, {"a": 1, "b": 1}, 1.0) == ("b", 0, 1.0)
    assert method.choose(s, allowed, {"a": 10, "b": 2}, 1.0) == ("a", 0, 0.3)
    assert method.choose(s, allowed, {"a": 10, "b": 2}, 0.0) == ("b", 0, 1.0)
    allowed["b"][1] = False  # the last unit of a group stays
    assert method.choose(s, allowed, {"a": 1, "b": 1}, 1.0) == ("a", 0, 3.0)
    allowed["a"][0] = False
    assert method.choose(s, allowed, {"a": 1, "b": 1}, 1.0) is None


# ---- the loop


@pytest.mark.parametrize("per", ["activations", "macs", ""])
@pytest.mark.parametrize("name", COUPLED)
def test_the_path_is_that_of_algorithm_2_by_the_letter(name, per, tiny):
    task, net = tiny(name)
    graph = trace_groups(net, task.example(1))
    wanted = slow.path(copy.deepcopy(net), graph, task, task.train.x, task.train.y, 8, per)
    still = replace(task.training, lr=0.0)
    config = method.Config(per=per, d=1)
    steps = method.one_by_one(net, graph, task, config, still, generator=seeded(0))
    found = [next(steps) for _ in wanted]
    assert [(r.group, r.unit) for r in found] == [w[:2] for w in wanted]
    assert [r.score for r in found] == pytest.approx([w[2] for w in wanted], rel=1e-8)


@pytest.mark.parametrize("changes", [{"alpha": 0.5}, {"score": "first_order"}])
def test_other_exponents_and_scores_go_the_same_way(changes, tiny):
    """The first-order score is signed until its size is taken, of the sum over all examples."""
    task, net = tiny("mobilenet")
    task = replace(task, training=replace(task.training, batch=20))  # the sum goes over batches
    net.eval()
    graph = trace_groups(net, task.example(1))
    config = method.Config(per="macs", d=2, **changes)
    kind, alpha = config.score, config.alpha
    x, y = task.train.x, task.train.y
    wanted = slow.path(copy.deepcopy(net), graph, task, x, y, 8, "macs", kind, alpha, train=False)
    steps = method.one_by_one(net, graph, task, config, None, generator=seeded(0))
    found = [next(steps) for _ in wanted]
    assert [(r.group, r.unit) for r in found] == [w[:2] for w in wanted]
    assert [r.score for r in found] == pytest.approx([w[2] for w in wanted], rel=1e-8)


def test_the_rate_on_the_way_is_small_and_the_tuning_has_its_own(tiny_task, monkeypatch):
    net, rates = tiny_task.build(seeded(0)), {}
    real_fit, real_training = sharing.fit, sharing.training
    monkeypatch.setattr(
        sharing, "fit", lambda *a, **k: rates.update(end=a[2].lr) or real_fit(*a, **k)
    )
    monkeypatch.setattr(
        sharing, "training", lambda *a, **k: rates.update(way=a[2].lr) or real_training(*a, **k)
    )
    tuning = replace(tiny_task.training, epochs=2.0, lr=0.1)
    method.compress(
        net, tiny_task, Budget("macs", 0.5), method.Config(rate=0.04), tuning=tuning,
        generator=seeded(0),
    )  # fmt: skip
    assert rates == pytest.approx({"way": 0.004, "end": 0.1})


def test_the_path_ends_with_one_unit_in_each_group(tiny):
    task, net = tiny("resnet")
    graph = trace_groups(net, task.example(1))
    config = method.Config(per="", d=1)
    moving = replace(task.training, lr=0.004)
    steps = list(method.one_by_one(net, graph, task, config, moving, generator=seeded(0)))
    assert len(steps) == sum(g.size - 1 for g in graph.prunable)
    assert {len(units) for units in steps[-1].recipe.values()} == {1}


def test_what_the_masks_hide_can_be_removed(tiny):
    task, net = tiny("mobilenet")
    graph = trace_groups(net, task.example(1))
    moving = replace(task.training, lr=0.004)
    steps = method.one_by_one(net, graph, task, method.Config(d=1), moving, generator=seeded(0))
    last = [next(steps) for _ in range(20)][-1]
    net.eval()
    masked = net(task.example(8))
    steps.close()
    assert (masked - net(task.example(8))).abs().max() > 1e-4
    small = apply_recipe(net, graph, last.recipe)
    torch.testing.assert_close(small(task.example(8)), masked, rtol=0, atol=1e-10)
    assert not any(m._forward_pre_hooks for m in net.modules())


def test_inside_only_leaves_residual_streams_whole(tiny):
    task, net = tiny("resnet")
    config = method.Config(coupled=False, d=1)
    result = method.compress(
        net, task, Budget("macs", 0.5), config, tuning=None, generator=seeded(0)
    )
    graph = trace_groups(net, task.example(1))
    assert set(result.recipe) <= {g.name for g in graph.groups if g.kinds == ("plain",)}
    with pytest.raises(BudgetNotMet, match="out of reach"):
        method.compress(net, task, Budget("macs", 0.02), config, tuning=None, generator=seeded(0))


def test_a_score_does_not_depend_on_how_examples_are_batched(tiny_task):
    task = in_double(replace(tiny_task, options=tiny_task.options | {"bn": False}))
    net = randomised(task.build(seeded(0)))
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("bias"):
                p.add_(3.0)  # so that few units are dead
    graph = trace_groups(net, task.example(1))
    paths = []
    for d, batch in ((1, 256), (2, 128), (3, 100)):  # the last batch of 100 is one of 56
        still = replace(task.training, lr=0.0, batch=batch)
        config = method.Config(d=d)
        steps = method.one_by_one(net, graph, task, config, still, generator=seeded(0))
        paths.append([next(steps) for _ in range(8)][3:])
        steps.close()
    assert all(step.score > 1e-6 for step in paths[0])  # dead units went first
    for found in paths[1:]:
        assert [(s.group, s.unit) for s in found] == [(s.group, s.unit) for s in paths[0]]
        wanted = [s.score for s in paths[0]]
        assert [s.score for s in found] == pytest.approx(wanted, rel=1e-9, abs=0)


def test_the_net_trains_while_units_go(tiny_task):
    net = tiny_task.build(seeded(0))
    graph = trace_groups(net, tiny_task.example(1))
    before = {k: v.clone() for k, v in net.named_parameters()}
    moving = replace(tiny_task.training, lr=0.004)
    path = method.one_by_one(net, graph, tiny_task, method.Config(d=4), moving, generator=seeded(0))
    step = next(path)
    path.close()
    assert len(step.loss) == 4
    assert all(not torch.equal(before[k], v) for k, v in net.named_parameters())


def test_watching_sees_the_masked_input(tiny_task):
    """A masked unit's own gradient is nothing, so it can never look important."""
    from survey_lib.mechanics.gates import gated

    net = tiny_task.build(seeded(0)).eval()
    graph = trace_groups(net, tiny_task.example(1))
    group = graph.prunable[0]
    mask = torch.ones(group.size)
    mask[2] = 0
    with gated(net, graph, {group.name: mask}), GateGradients(net, graph) as watched:
        tiny_task.loss(net(tiny_task.train.x[:9]), tiny_task.train.y[:9]).backward()
    g = watched.coupled()[group.name]
    assert g[:, 2].abs().max() == 0 < g[:, 1].abs().max()


@pytest.mark.parametrize(
    "wrong", [{"per": "bytes"}, {"score": "hessian"}, {"d": 0}, {"alpha": -1.0}, {"path": 0.0}]
)
def test_a_wrong_setting_is_one_sentence(wrong):
    with pytest.raises(ValueError, match="group_fisher: "):
        method.Config(**wrong)
