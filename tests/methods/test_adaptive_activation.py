"""The method against literal twins, the dossier's hand-computed cases, and invariants."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.adaptive_activation import budgeted, method, rounds, scores
from survey_lib.methods.adaptive_activation import training as rewinding
from survey_lib.methods.adaptive_activation.controller import Controller
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Training, load_task
from survey_lib.tasks.train import fit, learning_rate, total_steps
from tests.conftest import in_double
from tests.oracles import adaptive_activation as twin

MORE = Training(epochs=1.0, batch=32, lr=0.05)


@pytest.fixture
def double_task(tiny_task):
    return in_double(tiny_task)


@pytest.fixture
def net(double_task):
    """A net whose batch norms have something to say: no two filters are alike."""
    net = double_task.build(seeded(0)).double().eval()
    for i, m in enumerate(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        m.weight.data = torch.rand(m.weight.shape, generator=seeded(i)).double() + 0.2
        m.bias.data = torch.randn(m.bias.shape, generator=seeded(9 + i)).double() * 0.3
        m.running_var.data *= 0.3
    return net


def walk(reductions, limit, step):
    """Thresholds after each round, as the library's controller has them, and the controller."""
    control, out = Controller(limit, step), []
    for number, reduction in enumerate(reductions):
        good, base = control.judge(number, reduction)
        assert good == (reduction <= limit)
        if base is None:
            out.append(None)
            break
        out.append(control.threshold)
    return out, control


# ---- the controller: no net


def test_the_controllers_trace_computed_by_hand():
    """Limit 1 point, λ = 1: two good rounds, three misses, one good round given up."""
    found, control = walk([0.0, 0.2, 1.5, 1.4, 1.3], 1.0, 1.0)
    assert found == [1.0, 2.0, 1.5, 1.25, 1.0]
    assert control.step == 0.125
    assert [g.number for g in control.good] == [0]
    assert control.misses == 0


def test_which_round_is_taken_up_again():
    control = Controller(1.0, 1.0)
    told = [control.judge(i, r) for i, r in enumerate([0.0, 0.2, 1.5, 1.4, 1.3, 2.0, 0.5])]
    # the third miss still starts from round 1, whose record is then gone; the next from round 0
    assert told == [(True, 0), (True, 1), (False, 1), (False, 1), (False, 1), (False, 0), (True, 6)]


def test_a_limit_that_is_never_broken_gives_an_arithmetic_progression():
    found, _ = walk([0.0] * 12, 0.0, 0.25)
    assert found == [0.25 * r for r in range(1, 13)]


def test_a_limit_that_nothing_meets_ends_at_round_0():
    found, control = walk([0.0, 0.0], -math.inf, 1.0)
    assert found == [None]
    assert control.good == []


def test_a_success_after_a_miss_keeps_the_shorter_step():
    found, control = walk([0.0, 2.0, 0.5, 0.5], 1.0, 1.0)
    assert found == [1.0, 0.5, 1.0, 1.5]
    assert control.step == 0.5


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-2, 4), min_size=1, max_size=25), st.floats(-1, 3), st.floats(0.01, 2))
def test_the_controller_is_its_literal_twin(reductions, limit, step):
    found, control = walk(reductions, limit, step)
    wanted, stack, last = twin.controller(reductions, limit, step)
    assert found == pytest.approx(wanted) if None not in wanted else found == wanted
    assert [g.number for g in control.good] == stack
    assert control.step == last


def test_a_threshold_without_a_step_is_refused():
    with pytest.raises(ValueError, match="needs a step above 0"):
        Controller(1.0, 0.0)


# ---- scores


def test_the_power_comes_after_the_mean_over_the_batch_by_hand():
    """A of shape (2, 1, 1, 2): 3 for p = 1; 10 for p = 2, where the other order has 11."""
    a = [[[1.0, 3.0]], [[3.0, 5.0]]]
    assert twin.attention(a, 1.0) == 3.0
    assert twin.attention(a, 2.0) == 10.0
    mean = torch.tensor(a).mean(0).flatten()[None]  # (1 unit, positions), as the library holds it
    assert mean.pow(2).mean(1).item() == 10.0


@pytest.mark.parametrize(("p", "kind"), [(1.0, "mean"), (2.0, "mean"), (2.0, "max"), (3.0, "sum")])
def test_attention_is_that_of_the_maps_behind_the_relu(net, double_task, p, kind):
    """Caught by hooks on the ReLUs, one channel, image and position at a time."""
    x, maps = double_task.train.x[:7], {}
    relus = [m for m in net.modules() if isinstance(m, torch.nn.ReLU)]
    handles = [
        m.register_forward_hook(lambda _m, _x, y, i=i: maps.update({i: y}))
        for i, m in enumerate(relus)
    ]
    with torch.no_grad():
        net(x)
    for handle in handles:
        handle.remove()
    graph = trace_groups(net, x[:1])
    found = scores.attention(net, graph, x, p, kind)
    assert [*found] == ["features.0", "features.3", "features.6"]
    for i, s in enumerate(found.values()):
        wanted = [twin.attention(maps[i][:, c].tolist(), p, kind) for c in range(len(s))]
        torch.testing.assert_close(s, torch.tensor(wanted).double())
        if kind == "mean" and p == 2.0:  # the other order is another number
            assert not torch.allclose(s, maps[i].pow(2).mean((0, 2, 3)))


def test_shares_are_of_weights_macs_and_activations_by_hand(net, double_task):
    """8-16-32 filters of 3 × 3 on maps of 4 × 4, 2 × 2 and 1 × 1."""
    graph = trace_groups(net, double_task.example(1))
    weights = [8 * 9, 16 * 8 * 9, 32 * 16 * 9]
    maps = [16, 4, 1]
    wanted = {
        "params": weights,
        "macs": [n * hw for n, hw in zip(weights, maps, strict=True)],
        "activations": [8 * 16, 16 * 4, 32],
    }
    for metric, n in wanted.items():
        found = scores.shares(graph, metric)
        assert [*found.values()] == pytest.approx([v / sum(n) for v in n])


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_who_falls_is_what_the_literal_rule_says(net, double_task, metric):
    x = double_task.train.x[:50]
    graph = trace_groups(net, x[:1])
    s = scores.attention(net, graph, x)
    at = scores.fall_at(s, graph, metric)
    sizes = scores.shares(graph, metric)
    for share in (0.05, 0.3, 0.6):
        threshold = scores.first_step(at, share) * (1 + 1e-9)
        fallen = twin.falls({k: v.tolist() for k, v in s.items()}, sizes, threshold)
        kept = scores.above(graph, at, threshold)
        for group in graph.prunable:
            stay = kept.get(group.name, [*range(group.size)])
            gone = set(range(group.size)) - set(stay)
            if len(fallen[group.name]) < group.size:
                assert gone == set(fallen[group.name])
            else:  # one always stays: the most active
                assert stay == [int(s[group.name].argmax())]
        silent = sum(int((v == 0).sum()) for v in at.values())
        number = round(share * 56)  # where all of these are silent the first that is not goes too
        assert sum(map(len, fallen.values())) == max(number, silent + (silent >= number))


def test_scaling_activations_and_threshold_alike_changes_nothing(net, double_task):
    graph = trace_groups(net, double_task.example(1))
    s = scores.attention(net, graph, double_task.train.x[:30])
    at = scores.fall_at(s, graph, "params")
    scaled = scores.fall_at({k: 8.0 * v for k, v in s.items()}, graph, "params")
    threshold = scores.first_step(at, 0.4)
    assert scores.above(graph, at, threshold) == scores.above(graph, scaled, 8.0 * threshold)


def test_a_threshold_of_zero_takes_silent_filters_alone_and_changes_no_output(net, double_task):
    for path, units in {"features.1": [0, 5], "features.4": [3]}.items():
        norm = net.get_submodule(path)
        norm.weight.data[units], norm.bias.data[units] = 0.0, -0.1  # the ReLU lets nothing through
    x = double_task.train.x[:40]
    graph = trace_groups(net, x[:1])
    at = scores.fall_at(scores.attention(net, graph, x), graph, "params")
    keep = scores.above(graph, at, 0.0)
    gone = {n: sorted(set(range(graph[n].size)) - set(u)) for n, u in keep.items()}
    silent = {"features.0": [0, 5], "features.3": [3]}
    assert {n: set(u) for n, u in silent.items()} == {
        n: set(u) & set(silent[n]) for n, u in gone.items() if n in silent
    }
    assert all(at[n][u] == 0 for n, units in gone.items() for u in units)
    torch.testing.assert_close(apply_recipe(net, graph, keep)(x), net(x), rtol=0, atol=1e-10)


def test_the_first_threshold_takes_its_share_and_is_never_zero(net, double_task):
    graph = trace_groups(net, double_task.example(1))
    s = scores.attention(net, graph, double_task.train.x[:30])
    at = scores.fall_at(s, graph, "params")
    gone = 56 - sum(
        len(scores.above(graph, at, scores.first_step(at, 0.25)).get(g.name, range(g.size)))
        for g in graph.prunable
    )
    assert gone == 14
    dead = {k: np.zeros_like(v) for k, v in at.items()}
    assert scores.first_step(dead, 0.25) == 1.0
    dead["features.0"][0] = 0.7
    assert scores.first_step(dead, 0.25) == 0.7


# ---- rewinding


def test_a_round_has_the_tail_of_the_schedule(tiny_task, monkeypatch):
    """The rates of the last T − k steps, from the recipe's own definition."""
    recipe = Training(epochs=2.0, batch=32, lr=0.1)
    plan = rewinding.plan(tiny_task, recipe, 0.25, 3)
    assert (plan.whole, plan.k, plan.each, plan.rounds) == (16, 4, 12, 3)
    rates = []
    plain = torch.optim.SGD.step

    def watched(self, *args):
        rates.extend(g["lr"] for g in self.param_groups)
        return plain(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", watched)
    net = tiny_task.build(seeded(0))
    spent = rewinding.retrained(net, tiny_task, recipe, plan.k, plan.each, generator=seeded(0))
    assert spent.steps == 12
    assert rates == pytest.approx([twin.cosine(s, 16, 0.1, 0.05) for s in range(4, 16)])
    assert rates[0] == learning_rate(4, 16, recipe)


def test_the_early_weights_are_those_after_k_steps_and_the_training_is_the_usual_one(tiny_task):
    recipe = Training(epochs=1.0, batch=32, lr=0.05)
    nets = [tiny_task.build(seeded(1)) for _ in range(3)]
    early, spent = rewinding.trained(nets[0], tiny_task, recipe, 3, generator=seeded(2))
    fit(nets[1], tiny_task, recipe, generator=seeded(2))
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(a, b)
    from survey_lib.tasks.train import training

    for step in training(nets[2], tiny_task, recipe, generator=seeded(2)):
        step.move()
        if step.number == 2:
            break
    for a, b in zip(early.state_dict().values(), nets[2].state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert spent.steps == total_steps(tiny_task, recipe)
    zero, _ = rewinding.trained(
        tiny_task.build(seeded(1)), tiny_task, recipe, 0, generator=seeded(2)
    )
    for a, b in zip(zero.parameters(), tiny_task.build(seeded(1)).parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.fixture
def start(tiny_task):
    """Round 0 after two epochs, and half of its first one."""
    recipe = Training(epochs=2.0, batch=32, lr=0.05)
    net = tiny_task.build(seeded(0))
    early, _ = rewinding.trained(net, tiny_task, recipe, 4, generator=seeded(0))
    return rounds.Start(net, early), rewinding.plan(tiny_task, recipe, 0.25, 4)


@pytest.fixture
def before(monkeypatch):
    """The nets as each round's training found them, and the recipe of each."""
    seen = []
    plain = rounds.retrained

    def watched(net, *args, **more):
        seen.append(copy.deepcopy(net))
        return plain(net, *args, **more)

    monkeypatch.setattr(rounds, "retrained", watched)
    return seen


def test_weights_are_rewound_to_epoch_k_bit_by_bit(tiny_task, start, before):
    given, plan = start
    config = method.Config(target=100.0, images=64)
    found = list(rounds.rounds(given, tiny_task, config, plan, seeded(1)))
    graph = trace_groups(given.net, tiny_task.example(1))
    assert len(before) == len(found) - 1 == 4
    for r, net in zip(found[1:], before, strict=True):
        wanted = apply_recipe(given.early, graph, r.recipe).state_dict()
        assert all(torch.equal(wanted[k], v) for k, v in net.state_dict().items())


def test_the_released_codes_rewinding_leaves_the_weights(tiny_task, start, before):
    given, plan = start
    config = method.Config(target=100.0, images=64, rewind="rate")
    found = list(rounds.rounds(given, tiny_task, config, plan, seeded(1)))
    for older, newer, net in zip(found, found[1:], before, strict=False):
        assert newer.base == older.number
        left = {n: [older.recipe[n].index(u) for u in units] for n, units in newer.recipe.items()}
        graph = trace_groups(older.net, tiny_task.example(1))
        wanted = apply_recipe(older.net, graph, left).state_dict()
        assert all(torch.equal(wanted[k], v) for k, v in net.state_dict().items())


# ---- the loop


def test_rounds_follow_the_controller_and_their_masks_are_nested(tiny_task, start):
    """Each round's threshold and verdict are what the twin says of the reductions so far."""
    given, plan = start
    config = method.Config(target=4.0, images=64, first=0.3)
    found = list(rounds.rounds(given, tiny_task, config, plan, seeded(1)))
    assert any(not r.good for r in found)
    assert found[0].reduction == 0.0
    for r in found:
        assert r.good == (r.reduction <= 4.0)
        assert r.reduction == pytest.approx(100 * (found[0].val - r.val))
        base = found[r.base]
        assert base.good
        assert all(set(r.recipe[n]) <= set(base.recipe[n]) for n in r.recipe)
    costs = Costs(trace_groups(given.net, tiny_task.example(1)), "params")
    for r in found:
        now = Costs(trace_groups(r.net, tiny_task.example(1)), "params")
        assert now.dense / costs.dense == r.size
    best = rounds.smallest(found)
    assert best.good
    assert best.size == min(r.size for r in found if r.good)


def test_thresholds_of_the_rounds_are_the_controllers(tiny_task, start, monkeypatch):
    """With scripted accuracies the loop walks the hand-computed trace."""
    given, plan = start
    told = iter([0.9, 0.898, 0.885, 0.886, 0.887])  # losses of 0, 0.2, 1.5, 1.4 and 1.3 points
    monkeypatch.setattr(rounds, "accuracy", lambda *_: next(told))
    config = method.Config(target=1.0, images=64, first=0.3)
    found = list(itertools.islice(rounds.rounds(given, tiny_task, config, plan, seeded(1)), 5))
    lam = found[1].threshold
    steps = [r.threshold / lam for r in found]
    assert [r.base for r in found] == [0, 0, 1, 1, 1]
    # round 2 stands at 2 λ unless nobody fell there; then the misses: 1.5 and 1.25 above T[1]
    assert steps[:2] == [0.0, 1.0]
    assert steps[2] >= 2.0
    assert steps[3] == pytest.approx(steps[2] - 0.5)
    assert [r.good for r in found] == [True, True, False, False, False]


def test_a_cut_that_broke_the_limit_is_not_trained_twice(tiny_task, start):
    given, plan = start
    config = method.Config(target=-0.5, images=64, first=0.02)  # nothing but a gain is kept
    found = list(rounds.rounds(given, tiny_task, config, plan, seeded(1)))
    assert [r.number for r in found] == [0]  # round 0 gains nothing: no good round, the end
    config = method.Config(target=0.0, images=64, first=0.02)
    found = list(rounds.rounds(given, tiny_task, config, plan, seeded(1)))
    cuts = [(r.base, str(sorted(r.recipe.items()))) for r in found[1:]]
    assert len(set(cuts)) == len(cuts)


@pytest.mark.parametrize("metric", ["params", "macs"])
def test_a_size_is_come_near_from_above_and_met_at_the_end(tiny_task, start, metric):
    given, plan = start
    policy = {"params": "memory", "macs": "macs"}[metric]
    config = method.Config(policy, images=64, first=0.15)
    *on_the_way, last = rounds.rounds(
        given, tiny_task, config, plan, seeded(1), Budget(metric, 0.45)
    )
    good = [r for r in on_the_way if r.good]
    assert all(r.size >= 0.45 for r in good)
    assert [r.size for r in good] == sorted((r.size for r in good), reverse=True)
    for r in on_the_way:  # a round that oversteps is known before it is trained
        assert (len(r.loss) == 0) == (r.number == 0 or not r.good)
    assert last.size <= 0.45 < last.size + 0.1
    assert rounds.smallest([*on_the_way, last]) is last
    base = next(r for r in good if r.number == last.base)
    graph = trace_groups(base.net, tiny_task.example(1))
    images = scores.score_images(tiny_task.train.x, 64, seeded(1))
    at = scores.fall_at(scores.attention(base.net, graph, images), graph, metric)
    keep = scores.above(graph, at, last.threshold)  # its threshold takes what it took
    left = {n: [base.recipe[n][u] for u in units] for n, units in keep.items()}
    assert base.recipe | left == last.recipe


def test_the_dense_net_is_given_back_where_no_round_holds(tiny_task):
    net = tiny_task.build(seeded(0)).eval()
    config = method.Config(target=-200.0)
    found = method.compress(net, tiny_task, None, config, tuning=None, generator=seeded(0))
    assert found.recipe == {}
    assert found.trace["good"] == [False]


def test_the_limit_holds_on_validation_whatever_is_left_over(tiny_task):
    """By construction, longer training at the end included."""
    for target in (0.0, 5.0):
        net = tiny_task.build(seeded(2))
        config = method.Config(target=target, rounds=3, images=64, rewind="rate")
        fit(net, tiny_task, MORE, generator=seeded(0))
        found = method.compress(net, tiny_task, None, config, tuning=MORE, generator=seeded(0))
        lost = 100 * (found.trace["val"][0] - rounds.accuracy(found.model, tiny_task))
        assert lost <= target


# ---- bad input


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"policy": "speed"}, "no policy 'speed'; use one of accuracy, memory, macs"),
        ({"saves": "bytes"}, "no saves 'bytes'"),
        ({"rewind": "time"}, "no rewind 'time'; use one of weights, rate"),
        ({"attention": "median"}, "no attention 'median'"),
        ({"k": 1.0}, r"need k in \[0, 1\)"),
        ({"first": 0.0}, "first in"),
        ({"rounds": 0}, "rounds and images ≥ 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        method.Config(**changes)


def test_a_policy_takes_its_own_budget_alone(tiny_task):
    net = tiny_task.build(seeded(0))

    def run(policy, budget):
        config = method.Config(policy)
        return method.compress(net, tiny_task, budget, config, tuning=None, generator=seeded(0))

    with pytest.raises(ValueError, match="policy accuracy takes no budget, its limit is target"):
        run("accuracy", Budget("macs", 0.5))
    with pytest.raises(ValueError, match=r"of params, got macs=0\.5"):
        run("memory", Budget("macs", 0.5))
    with pytest.raises(ValueError, match="policy macs takes a budget of macs, got none"):
        run("macs", None)
    with pytest.raises(BudgetNotMet, match=r"params=0\.001 is out of reach"):
        run("memory", Budget("params", 0.001))
    with pytest.raises(ValueError, match="cannot be budgeted by 'bits'"):
        budgeted.compress(net, tiny_task, Budget("bits", 0.5), tuning=None, generator=seeded(0))


def test_points_of_accuracy_need_a_task_that_has_them(tiny_task):
    from dataclasses import replace

    other = replace(tiny_task, metric="perplexity")
    net = tiny_task.build(seeded(0))
    with pytest.raises(ValueError, match="policy accuracy needs a task that is measured by acc"):
        method.compress(net, other, None, tuning=None, generator=seeded(0))


def test_the_last_head_of_an_attention_keeps_its_width():
    # with one head left, its columns would be a group of their own, which the dense net has not
    task = load_task("char_gpt", width=0.25)
    net = task.build(seeded(0))
    budget = Budget("macs", 0.2)
    found = budgeted.compress(net, task, budget, tuning=None, generator=seeded(0))
    attention = found.model.blocks[0].attention
    head = net.blocks[0].attention.value.out_features // net.blocks[0].attention.heads
    assert len(found.recipe["blocks.0.attention.query"]) == 1
    assert attention.value.out_features == attention.query.out_features == head
