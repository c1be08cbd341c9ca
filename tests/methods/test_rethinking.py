import copy
from dataclasses import replace
from math import inf

import numpy as np
import pytest
import torch
from torch import nn

from survey_lib.measure.macs import count_macs, count_nonzero_macs
from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.masks import fit_masked
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.rethinking import method, variants
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import fit, learning_rate, total_steps
from tests.conftest import in_double
from tests.oracles import rethinking as slow
from tests.oracles.channels import randomised


@pytest.fixture(scope="module")
def residual(tiny_task):
    """A float64 residual net of six blocks, three of them with shortcuts that project."""
    options = tiny_task.options | {"width": 0.25, "blocks": 2}
    task = in_double(replace(tiny_task, model="resnet_small", options=options))
    return task, randomised(task.build(seeded(1)))


def double(task):
    task = in_double(task)
    return task, task.build(seeded(1)).double().eval()


# ---- the length of Scratch-B


def test_the_papers_vgg_shape_gets_243_epochs_and_drops_its_rate_at_121_and_182():
    epochs = method.longer(160, 313_200_000, 206_100_000)
    assert epochs == 243
    assert (epochs // 2, epochs * 3 // 4) == (121, 182)


@pytest.mark.parametrize(
    ("dense", "small"), [(100, 100), (100, 99), (100, 34), (7, 3), (3_132, 2_061)]
)
def test_it_is_what_one_step_after_the_other_makes_of_the_budget(dense, small):
    assert method.longer(158, dense, small) == slow.steps_b(158, dense, small)


def test_the_cap_is_a_cap():
    assert method.longer(90, 300, 100, cap=2) == 180
    assert method.longer(90, 150, 100, cap=2) == 135
    assert method.longer(90, 300, 100, cap=inf) == 270
    for bad in ((90, 0, 1, 2), (90, 1, 0, 2), (90, 1, 1, 0.5)):
        with pytest.raises(ValueError, match="MACs > 0 and a cap ≥ 1"):
            method.longer(*bad)


def test_the_whole_schedule_is_stretched_over_the_longer_training(tiny_task):
    """A schedule that kept its steps would end at rate 0 while steps are left."""
    e = tiny_task.training
    b = method.scratch_b(tiny_task, e, 300, 100)
    t_e, t_b = total_steps(tiny_task, e), total_steps(tiny_task, b)
    assert t_b == 3 * t_e
    for share in (0.25, 0.5, 0.75):
        at_e = learning_rate(round(share * t_e), t_e, e)
        assert learning_rate(round(share * t_b), t_b, b) == pytest.approx(at_e, rel=0.05)


def test_without_pruning_scratch_b_is_scratch_e_is_the_dense_net(tiny_task):
    """Ratio 1: the same draws, the same steps, the same bits."""
    nets = []
    b = method.scratch_b(tiny_task, tiny_task.training, 100, 100)
    for recipe in (tiny_task.training, b):
        generator = seeded(3)
        net = tiny_task.build(generator)
        fit(net, tiny_task, replace(recipe, epochs=recipe.epochs / 6), generator=generator)
        nets.append(net.state_dict())
    assert all(torch.equal(nets[0][k], nets[1][k]) for k in nets[0])


# ---- filters


def test_the_dossiers_case_ranks_by_absolute_weights():
    """[[1, −1], [0.5, 0.5]]: norms 2 and 1, the second goes; signed sums would take the first."""
    net = nn.Sequential(nn.Conv2d(1, 2, (1, 2), bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1))
    net[0].weight.data = torch.tensor([[1.0, -1.0], [0.5, 0.5]]).view(2, 1, 1, 2)
    graph = trace_groups(net, torch.zeros(1, 1, 4, 4))
    assert method.norms(net, graph)["0"].tolist() == [2.0, 1.0]
    assert method.by_norm(net, graph, {"0": 1}) == {"0": [0]}
    assert net[0].weight.sum((1, 2, 3)).argmin() == 0


def test_norms_are_those_of_the_slow_twin_and_the_largest_stay(tiny_task):
    task, net = double(tiny_task)
    graph = trace_groups(net, task.example(1))
    for group in graph.prunable:
        wanted = slow.norms(net.get_submodule(group.name))
        assert method.norms(net, graph)[group.name].tolist() == pytest.approx(wanted)
        kept = method.by_norm(net, graph, {group.name: 3})[group.name]
        assert sorted(np.argsort(wanted)[-3:].tolist()) == kept


def test_fresh_weights_in_the_inherited_shape(tiny_task):
    net = tiny_task.build(seeded(0)).eval()
    budget, tuning = Budget("macs", 0.5), replace(tiny_task.training, epochs=0.2, lr=1e-9)
    nets = {
        w: method.compress(net, tiny_task, budget, method.Config(w), tuning=tuning,
                           generator=seeded(5))
        for w in method.WEIGHTS
    }  # fmt: skip
    graph = trace_groups(net, tiny_task.example(1))
    cut = dict(apply_recipe(net, graph, nets["fresh"].recipe).named_parameters())
    assert nets["fresh"].recipe == nets["inherited"].recipe
    for name, p in nets["inherited"].model.named_parameters():
        assert torch.allclose(p, cut[name], atol=1e-6)
        other = nets["fresh"].model.get_parameter(name)
        assert other.shape == p.shape
        assert p.ndim < 2 or not torch.allclose(other, p, atol=1e-3)
    same_share = {row["kept"] / row["channels"] for row in nets["fresh"].table}
    assert max(same_share) - min(same_share) < 0.1
    with pytest.raises(ValueError, match="no weights 'old'"):
        method.Config("old")


def test_a_frozen_parameter_is_not_drawn_anew(tiny_task):
    net = tiny_task.build(seeded(0))
    first = next(iter(net.parameters())).requires_grad_(False)
    was, last = first.clone(), net.classifier.weight.clone()
    method.fresh(net, seeded(1))
    assert torch.equal(first, was)
    assert not torch.equal(net.classifier.weight, last)


# ---- masks


def test_one_threshold_for_all_convolutions_and_none_for_the_head(tiny_task):
    net = tiny_task.build(seeded(0))
    weights = method.conv_weights(net)
    assert all(net.get_parameter(n).ndim == 4 for n in weights)
    total = sum(w.numel() for w in weights.values())
    for keep in (1.0, 0.5, 0.05):
        masks = method.magnitude(net, keep)
        assert sum(int(m.sum()) for m in masks.values()) == total - round((1 - keep) * total)
    wanted = slow.largest(weights, total - round(0.95 * total))
    assert all(torch.equal(masks[k], wanted[k]) for k in wanted)
    assert len({float(m.float().mean()) for m in masks.values()}) == len(masks)


def test_the_published_rule_masks_one_more_than_asked_for():
    """Weights .1 to .4 at p = 0.5: three go."""
    assert method.above_threshold([0.1, -0.2, 0.3, -0.4], 0.5) == [False, False, False, True]
    net = nn.Sequential(nn.Conv2d(1, 1, 2, bias=False))
    net[0].weight.data = torch.tensor([0.1, -0.2, 0.3, -0.4]).view(1, 1, 2, 2)
    assert method.magnitude(net, 0.5)["0.weight"].flatten().tolist() == [False, False, True, True]


def test_masked_weights_stay_zero_with_momentum_and_decay(tiny_task):
    net = tiny_task.build(seeded(0))
    masks = method.magnitude(net, 0.2)
    masked = method.under_masks(net, masks)
    recipe = replace(tiny_task.training, epochs=2, weight_decay=0.1)
    before = {n: net.get_parameter(n).clone() for n in masks}
    fit_masked(net, masked, tiny_task, recipe, generator=seeded(1))
    for name, mask in masks.items():
        w = net.get_parameter(name)
        assert (w[~mask] == 0).all()
        assert (w[mask] != before[name][mask]).all()


def test_a_survivor_that_is_zero_for_a_moment_goes_on_learning(tiny_task):
    """The published code derives the mask from the weights again, so that it would freeze."""
    net = tiny_task.build(seeded(0))
    masks = method.magnitude(net, 0.2)
    masked = method.under_masks(net, masks)
    name, mask = next(iter(masks.items()))
    at = tuple(mask.nonzero()[0].tolist())
    net.get_parameter(name).data[at] = 0.0
    recipe = replace(tiny_task.training, epochs=1)
    fit_masked(net, masked, tiny_task, recipe, generator=seeded(1))
    assert net.get_parameter(name)[at] != 0


def test_the_corrected_spread_is_the_published_ones_over_the_dense_one(tiny_task):
    net = tiny_task.build(seeded(0))
    masks, before = method.magnitude(net, 0.1), copy.deepcopy(net)
    method.corrected(net, masks)
    for name, mask in masks.items():
        ratio = (net.get_parameter(name) / before.get_parameter(name)).flatten()
        assert torch.allclose(ratio, torch.full_like(ratio, slow.spread_for(mask)))
    assert torch.equal(net.classifier.weight, before.classifier.weight)


def test_a_mask_costs_its_nonzero_macs(tiny_task):
    net = tiny_task.build(seeded(0))
    method.under_masks(net, method.magnitude(net, 0.1))
    example = tiny_task.example(1)
    head = net.classifier.weight.numel()
    cut = count_nonzero_macs(net, example) - head
    assert 0 < cut < 0.3 * (count_macs(net, example) - head)


# ---- slimming and structures


def test_slimming_adds_exactly_lambda_times_the_sign(tiny_task):
    """As autograd takes the penalty apart, through a whole training."""
    task = replace(in_double(tiny_task), training=replace(tiny_task.training, epochs=1))
    nets = []
    for slowly in (False, True):
        net = task.build(seeded(1)).double()
        if slowly:
            fit(net, task, generator=seeded(2), loss=slow.slimming_loss(net, task, 0.01))
        else:
            variants.slimming_training(net, task, task.training, 0.01, generator=seeded(2))
        nets.append(net.state_dict())
    for key, value in nets[0].items():
        torch.testing.assert_close(value, nets[1][key], rtol=1e-9, atol=1e-11)
    plain = task.build(seeded(1)).double()
    fit(plain, task, generator=seeded(2))
    small, large = (
        sum(float(g.detach().abs().sum()) for g in variants.gammas(n)) for n in (net, plain)
    )
    assert small < large


def test_slimming_ranks_over_all_layers_and_keeps_one_of_each(tiny_task):
    net = tiny_task.build(seeded(0))
    first, *others = (m for m in net.modules() if isinstance(m, nn.BatchNorm2d))
    for norm in others:
        norm.weight.data.fill_(2.0)
    first.weight.data.copy_(torch.linspace(-1, 1, len(first.weight)))
    graph = trace_groups(net, tiny_task.example(1))
    recipe = variants.slimmed(net, graph, Budget("macs", 0.6))
    name = next(g.name for g in graph.prunable)
    kept = recipe[name]
    assert 1 <= len(kept) < len(first.weight)
    assert set(kept) == set(first.weight.abs().argsort()[-len(kept) :].tolist())
    assert all(len(units) == graph[n].size for n, units in recipe.items() if n != name)


@pytest.mark.parametrize("x", [-1.3, -0.2, 0.0, 0.1, 0.7])
def test_the_soft_threshold_is_the_proximal_step(x):
    found = float(variants.soft_threshold(torch.tensor(x, dtype=torch.float64), 0.3))
    assert found == pytest.approx(slow.proximal(x, 0.3), abs=2e-5)


def test_scales_multiply_branches_and_are_folded_in(residual):
    task, net = residual
    x = task.example(5)
    net = copy.deepcopy(net)
    values = {name: 0.3 * i - 0.4 for i, name in enumerate(variants.branches(net))}
    wanted = slow.scaled_forward(net, x, values)
    with variants.scaled(net) as scales, torch.no_grad():
        assert [float(s.detach()) for s in scales.values()] == [1.0] * 6
        for name, s in scales.items():
            s.copy_(torch.tensor(values[name]))
        torch.testing.assert_close(net(x), wanted)
    torch.testing.assert_close(net(x), wanted)
    assert not any(m._forward_hooks for m in net.modules())


def test_a_strong_penalty_closes_branches_and_the_scales_are_trained(residual):
    task, net = residual
    task = task.with_training(epochs=1)
    found = {}
    for strength in (0.0, 5.0):
        other = copy.deepcopy(net)
        _, found[strength] = variants.selection_training(
            other, task, task.training, strength, generator=seeded(1)
        )
    assert all(v not in (0.0, 1.0) for v in found[0.0].values())
    assert 0.0 in found[5.0].values()


def test_a_branch_that_adds_nothing_can_go(residual):
    """Also where the shortcut projects; in float64, exactly."""
    task, net = residual
    x = task.example(6)
    closed = copy.deepcopy(net)
    gone = ["stages.1", "stages.2", "stages.4"]
    with variants.scaled(closed) as scales, torch.no_grad():
        for name in gone:
            scales[name].zero_()
    small = variants.without(closed, gone)
    assert isinstance(small.stages[1], nn.Identity)
    assert isinstance(small.stages[2], nn.Sequential)  # a shortcut of its own
    assert (small(x) - closed(x)).abs().max() < 1e-12
    assert count_macs(small, x[:1]) < count_macs(closed, x[:1])
    assert list(variants.branches(closed)) == list(variants.branches(net))


def test_the_smallest_scales_go_until_the_budget_is_met(residual):
    task, net = residual
    x = task.example(1)
    scales = dict(zip(variants.branches(net), (0.5, -0.1, 0.9, 0.2, -0.8, 0.3), strict=True))
    order = sorted(scales, key=lambda n: abs(scales[n]))
    dense = count_macs(net, x)
    for keep in (1.0, 0.7, 0.4):
        gone = variants.selected(net, scales, keep, x)
        assert gone == order[: len(gone)]
        assert count_macs(variants.without(net, gone), x) <= keep * dense
        if gone:
            assert count_macs(variants.without(net, gone[:-1]), x) > keep * dense
    with pytest.raises(BudgetNotMet, match="one branch alone"):
        variants.selected(net, scales, 0.01, x)


# ---- designs


@pytest.fixture(scope="module")
def vgg():
    task = load_task("vgg_small", width=0.5)
    return trace_groups(task.build(seeded(0)), task.example(1))


def test_stages_are_layers_with_maps_of_one_size(vgg):
    assert [len(names) for names in variants.stages(vgg)] == [1, 2, 3]
    assert [n for names in variants.stages(vgg) for n in names] == [g.name for g in vgg.prunable]


def test_guided_shares_are_means_over_a_stage_and_over_nets(vgg):
    """Two nets, 8-16-16-32-32-32: the second stage keeps 4, 8 of one and 12, 16 of the other."""
    names = [g.name for g in vgg.prunable]
    nets = [dict(zip(names, w, strict=True)) for w in ((4, 4, 8, 8, 16, 32), (8, 12, 16, 8, 8, 8))]
    shares = variants.stage_shares(vgg, nets)
    assert [shares[n] for n in names] == pytest.approx([6 / 8, *[40 / 64] * 2, *[80 / 192] * 3])


def test_a_design_has_its_proportions_and_the_size_asked_for(vgg):
    free = replace(vgg, groups=vgg.prunable)
    costs = Costs(free, "params")
    names, sizes = [g.name for g in free.groups], {g.name: g.size for g in free.groups}
    shares = dict(zip(names, (0.2, 0.4, 0.6, 0.8, 1.0, 0.5), strict=True))
    target = 0.25 * costs.dense
    above = variants.designed(vgg, shares, "params", target, above=True)
    assert above == slow.one_by_one(
        shares, sizes, lambda kept: costs(np.array([*kept.values()])), target
    )
    below = variants.designed(vgg, shares, "params", target, above=False)
    most, least = (costs(np.array([*found.values()])) for found in (above, below))
    assert 0.9 * target < least < target <= most < 1.1 * target
    assert all(0 <= above[n] - below[n] <= 1 for n in names)
    whole = variants.designed(vgg, dict.fromkeys(names, 0.1), "params", costs.dense, above=True)
    assert whole == sizes
    with pytest.raises(ValueError, match="no such net has at least"):
        variants.designed(vgg, shares, "params", 2 * costs.dense, above=True)
    with pytest.raises(ValueError, match="no such net has at most"):
        variants.designed(vgg, shares, "params", 1, above=False)
