from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import DenseNet

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.thinet import method, variants
from survey_lib.methods.thinet.rows import (
    Rows,
    calibration_images,
    reading_layer,
    sample_rows,
    seen_and_made,
)
from survey_lib.methods.thinet.shares import kept_numbers, read_by_convolutions
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import fit, total_steps
from tests.conftest import in_double
from tests.oracles import thinet as slow

# The dossier's case, worked by hand: channels 1 and 2 cancel, but only together.
TRAP = np.array([[1, -1, 0.5], [1, -1, 0], [1, -1, 0]])


def draw(m, c, seed=0):
    x = np.random.default_rng(seed).normal(size=(m, c)) @ np.random.default_rng(seed + 1).normal(
        size=(c, c)
    )
    return x, x.sum(1)


class Net(nn.Module):
    """Two convolutions with whatever lies between them, and a head."""

    def __init__(self, between=(), stride=1, padding=1, bias=True, kernel=3, dilation=1):
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3, padding=1)
        self.between = nn.Sequential(nn.ReLU(), *between)
        self.second = nn.Conv2d(5, 4, kernel, stride, padding, dilation, bias=bias)
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    def forward(self, x):
        return self.head(self.second(self.between(self.first(x))))


class Flat(nn.Module):
    """A convolution and pooling, flattened into a linear layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 5, 3, padding=1)
        self.pool = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.second = nn.Linear(5 * 16, 4)

    def forward(self, x):
        return self.second(self.pool(self.first(x)))


NETS = {
    "padded": Net,
    "unpadded": lambda: Net(padding=0),
    "strided": lambda: Net(stride=2),
    "no bias": lambda: Net(bias=False),
    "pool between": lambda: Net(between=(nn.MaxPool2d(2),)),
    "norm between": lambda: Net(between=(nn.BatchNorm2d(5),)),
    "one by one": lambda: Net(kernel=1, padding=0),
    "wide stride and kernel": lambda: Net(kernel=5, stride=3, padding=2),
    "dilated": lambda: Net(dilation=2, padding=2),
    "unlike down and along": lambda: Net(
        kernel=(3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 3)
    ),
    "flattened": Flat,
}


def made(name, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = NETS[name]().double().eval()
        images = torch.randn(6, 2, 8, 8, dtype=torch.float64)
    return net, images, trace_groups(net, images)


# ---- rows


@pytest.mark.parametrize("name", NETS)
def test_parts_sum_to_the_layers_own_output_without_bias(name):
    net, images, graph = made(name)
    rows = sample_rows(net, graph["first"], images, 7, seeded(1))
    assert rows.x.shape == (42, 5)
    assert rows.y.shape == (42,)
    np.testing.assert_allclose(rows.x.sum(1), rows.y, atol=1e-12)
    assert rows.y.std() > 0.01


@pytest.mark.parametrize("name", NETS)
def test_rows_are_the_literal_windows(name):
    net, images, graph = made(name)
    rows = sample_rows(net, graph["first"], images, 3, seeded(1))
    maps, outputs = seen_and_made(net, net.second, images)
    weight = net.second.weight.detach()
    if name == "flattened":
        every = [
            slow.parts_of_linear(weight, maps[i].reshape(5, 4, 4), o)
            for i in range(6)
            for o in range(4)
        ]
    else:
        how = net.second.stride, net.second.padding, net.second.dilation
        every = [
            slow.parts_of_convolution(weight, maps[i], o, u, v, *how)
            for i in range(6)
            for o in range(4)
            for u in range(outputs.shape[2])
            for v in range(outputs.shape[3])
        ]
    distance = np.abs(rows.x[:, None] - np.array(every)[None]).max(2)  # (rows, possible rows)
    assert distance.min(1).max() < 1e-12  # each row is one of the possible ones
    assert len(set(distance.argmin(1))) > 6  # and they are spread over them


def test_rows_come_from_the_net_that_is_given():
    """Cut the first layer's input weights: the parts change, as they do in a partly pruned net."""
    net, images, graph = made("padded")
    before = sample_rows(net, graph["first"], images, 4, seeded(1))
    with torch.no_grad():
        net.first.weight[2] = 0
        net.first.bias[2] = 0
    after = sample_rows(net, graph["first"], images, 4, seeded(1))
    assert (after.x[:, 2] == 0).all()
    np.testing.assert_array_equal(np.delete(before.x, 2, 1), np.delete(after.x, 2, 1))


def test_later_layers_are_sampled_from_the_partly_pruned_net(tiny_task, monkeypatch):
    """Statistics of the unpruned net would pass every other test of the walk."""
    net = tiny_task.build(seeded(0)).eval()
    seen = []

    def watch(net, group, images, pairs, generator):
        rows = sample_rows(net, group, images, pairs, generator)
        seen.append((group.name, net.features[0].out_channels, rows))
        return rows

    monkeypatch.setattr(method, "sample_rows", watch)
    config = method.Config(r=0.5)
    result = method.compress(net, tiny_task, None, config, tuning=None, generator=seeded(1))
    assert [(name, width) for name, width, _ in seen] == [
        ("features.0", 8), ("features.0", 8), ("features.3", 4), ("features.3", 4)
    ]  # fmt: skip
    # of the dense net the second layer's rows would be others, with the same places drawn
    graph = trace_groups(net, tiny_task.example(1))
    generator = seeded(1)
    images, others = calibration_images(tiny_task, config.images, generator)
    sample_rows(net, graph["features.0"], images, config.pairs, generator)
    sample_rows(net, graph["features.0"], others, config.pairs, generator)
    dense = sample_rows(net, graph["features.3"], images, config.pairs, generator)
    assert np.abs(dense.x - seen[2][2].x).max() > 0.01
    assert result.recipe.keys() == {"features.0", "features.3"}


def test_a_net_in_train_mode_is_sampled_as_it_will_be_used():
    """Statistics of the sampled images would stand in the rows, and move the net's own."""
    net, images, graph = made("norm between")
    quiet = sample_rows(net, graph["first"], images, 4, seeded(1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    rows = sample_rows(net.train(), graph["first"], images, 4, seeded(1))
    np.testing.assert_array_equal(rows.x, quiet.x)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_silent_layer_loses_nothing_or_has_no_share():
    silent = Rows(np.zeros((3, 2)), np.zeros(3))
    assert silent.error([0], np.ones(1)) == 0.0
    cancelled = Rows(np.array([[1.0, -1.0]]), np.zeros(1))
    assert cancelled.error([0], np.ones(1)) == float("inf")


@pytest.mark.parametrize("between", [0.0, 0.5, 1.0])
def test_the_tuning_is_dealt_out_over_layers_and_end(tiny_task, monkeypatch, between):
    net, spent = tiny_task.build(seeded(0)), []

    def watch(net, task, recipe, *, generator):
        steps = total_steps(task, recipe)
        spent.append((steps, [net.features[i].out_channels for i in (0, 3)]))
        return fit(net, task, recipe, generator=generator)

    monkeypatch.setattr(method, "fit", watch)
    tuning = replace(tiny_task.training, epochs=3.0)
    whole = total_steps(tiny_task, tuning)
    config = method.Config(r=0.5, between=between)
    result = method.compress(net, tiny_task, None, config, tuning=tuning, generator=seeded(1))
    half = [round(between * whole * i / 2) for i in (1, 2)]
    due = [
        (half[0], [4, 16]), (half[1] - half[0], [4, 8]), (whole - half[1], [4, 8])
    ]  # fmt: skip
    assert spent == [(steps, widths) for steps, widths in due if steps]
    assert result.steps == whole


def test_the_two_draws_of_images_share_none(tiny_task):
    first, second = calibration_images(tiny_task, 5, seeded(0))
    assert first.shape == second.shape == (20, 1, 8, 8)
    same = (first[:, None] == second[None]).flatten(2).all(2)
    assert not same.any()
    with pytest.raises(ValueError, match=r"class 0 has .* training images; 2000 are needed"):
        calibration_images(tiny_task, 1000, seeded(0))


def test_a_group_with_two_readers_is_refused():
    net = build_model("resnet_small", generator=seeded(0))
    graph = trace_groups(net, torch.zeros(1, 1, 28, 28))
    shared = next(g for g in graph.groups if len(g.consumers) > 1)
    with pytest.raises(ValueError, match="needs one convolution"):
        reading_layer(net, shared)


def test_in_a_residual_net_only_the_convolutions_inside_blocks_are_pruned():
    net = build_model("resnet_small", generator=seeded(0))
    graph = trace_groups(net, torch.zeros(1, 1, 28, 28))
    assert read_by_convolutions(graph) == tuple(f"stages.{i}.conv1" for i in range(3))


def test_in_a_densenet_the_defaults_take_what_a_convolution_reads_alone():
    """The last layer of a dense block is read by one convolution, which reads the others too."""
    torch.manual_seed(0)
    net = DenseNet(4, (2, 2), 8, num_classes=3).eval()
    graph = trace_groups(net, torch.zeros(1, 3, 32, 32))
    assert read_by_convolutions(graph) == tuple(
        f"features.denseblock{b}.denselayer{i}.conv1" for b in (1, 2) for i in (1, 2)
    )
    for name in read_by_convolutions(graph):
        reading_layer(net, graph[name])


# ---- the greedy algorithm


def test_the_trap_of_the_dossier():
    gram = TRAP.T @ TRAP
    assert method.greedy(gram, 2) == [2, 1]  # channel 3 for 0.25, then channel 2
    assert method.greedy_running_sum(TRAP, 2) == [2, 1]
    assert slow.algorithm_1(TRAP.tolist(), 2) == [2, 1]
    assert slow.objective(TRAP, [2]) == 0.25
    assert slow.objective(TRAP, [2, 1]) == 2.25
    assert variants.best_subset(gram, 2) == ([0, 1], 0.0)
    # a sum of single magnitudes, which is another method, would take channel 1 with 3
    single = (TRAP**2).sum(0)
    assert single.tolist() == [3, 3, 0.25]
    w = method.rescaling(TRAP[:, [0]], TRAP.sum(1))
    assert w == pytest.approx([1 / 6], abs=1e-12)
    assert ((TRAP.sum(1) - TRAP[:, [0]] @ w) ** 2).sum() == pytest.approx(1 / 6, abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_products_running_sums_and_the_literal_loop_choose_alike(seed):
    x, _ = draw(40, 9, seed)
    for n in (1, 4, 8):
        literal = slow.algorithm_1(x.tolist(), n)
        assert method.greedy(x.T @ x, n) == literal
        assert method.greedy_running_sum(x, n) == literal


def test_the_objective_is_joint_not_a_sum_of_magnitudes():
    """The largest channel of all goes second, because it cancels the one that went first."""
    a, b, c = np.random.default_rng(0).normal(size=(3, 400))
    x = np.stack([0.5 * a, -0.9 * a, 0.6 * b, 0.6 * c], 1)
    assert method.greedy(x.T @ x, 2) == [0, 1]
    by_magnitude = np.argsort((x**2).sum(0))
    assert by_magnitude[0] == 0
    assert by_magnitude[-1] == 1


def test_objectives_over_kept_and_given_up_are_one():
    x, _ = draw(12, 6)
    for given_up in ([0], [1, 4], [0, 2, 3, 5]):
        kept = [j for j in range(6) if j not in given_up]
        assert slow.objective(x, given_up) == pytest.approx(slow.objective_over_kept(x, kept))


@pytest.mark.parametrize("seed", range(10))
def test_the_best_subset_is_the_literal_one_and_greedy_is_no_better(seed):
    x, _ = draw(15, 8, seed)
    for n in (1, 3, 6):
        best, value = variants.best_subset(x.T @ x, n)
        literal = slow.best_subset(x.tolist(), n)
        assert tuple(best) == literal
        assert value == pytest.approx(slow.objective(x, literal))
        assert slow.objective(x, method.greedy(x.T @ x, n)) >= value * (1 - 1e-9)
    assert method.greedy(x.T @ x, 1) == list(variants.best_subset(x.T @ x, 1)[0])


def test_a_silent_channel_goes_first_for_nothing():
    x, _ = draw(30, 5)
    x[:, 3] = 0
    assert method.greedy(x.T @ x, 1) == [3]
    assert slow.objective(x, [3]) == 0


# ---- the scalars


def test_scalars_are_the_normal_equations_where_these_have_a_solution():
    x, y = draw(50, 6)
    kept = x[:, [0, 2, 5]]
    direct = np.linalg.inv(kept.T @ kept) @ kept.T @ y
    np.testing.assert_allclose(method.rescaling(kept, y), direct, atol=1e-10)
    np.testing.assert_allclose(
        method.rescaling(kept, y), np.linalg.lstsq(kept, y, rcond=None)[0], atol=1e-10
    )


def test_nothing_pruned_leaves_every_scalar_at_one():
    x, y = draw(50, 6)
    np.testing.assert_allclose(method.rescaling(x, y), np.ones(6), atol=1e-12)


def test_scalars_never_raise_the_error_on_their_sample():
    for seed in range(10):
        x, y = draw(30, 7, seed)
        kept = x[:, [1, 3, 4]]
        with_w = ((y - kept @ method.rescaling(kept, y)) ** 2).sum()
        assert with_w <= ((y - kept.sum(1)) ** 2).sum() + 1e-9


def test_a_dead_channel_keeps_the_scalar_one_though_the_products_are_singular():
    x, _ = draw(40, 5)
    x[:, 2] = 0
    y = x.sum(1)
    kept = [0, 2, 4]
    assert np.linalg.matrix_rank(x[:, kept].T @ x[:, kept]) == 2
    w = method.rescaling(x[:, kept], y)
    assert w[1] == pytest.approx(1)
    alone = np.linalg.lstsq(x[:, [0, 4]], y, rcond=None)[0]
    np.testing.assert_allclose(w[[0, 2]], alone, atol=1e-10)


def test_two_equal_channels_share_the_change():
    x, _ = draw(40, 4)
    x[:, 1] = x[:, 0]
    w = method.rescaling(x[:, [0, 1]], x.sum(1))
    assert w[0] == pytest.approx(w[1])


@pytest.mark.parametrize("name", ["padded", "flattened", "pool between"])
def test_folding_is_scaling_the_input_channels(name):
    net, images, graph = made(name)
    w = np.array([0.5, 2.0, -1.0, 1.0, 3.0])
    layer, positions = reading_layer(net, graph["first"])
    assert layer is net.second
    spread = torch.from_numpy(w).repeat_interleave(positions.shape[1])

    def scale(_, x):
        return (x[0] * spread.reshape(1, -1, *[1] * (x[0].ndim - 2)),)

    handle = net.second.register_forward_pre_hook(scale)
    expected = net(images)
    handle.remove()
    bias = net.second.bias.clone()
    method.fold(net.second, positions, w)
    torch.testing.assert_close(net(images), expected, rtol=0, atol=1e-12)
    assert torch.equal(net.second.bias, bias)


@pytest.mark.parametrize("name", NETS)
def test_taking_filters_out_is_masking_them_where_they_are_read(name):
    net, images, graph = made(name)
    layer, positions = reading_layer(net, graph["first"])
    assert layer is net.second
    small = apply_recipe(net, graph, {"first": [0, 3]})
    gone = torch.from_numpy(positions[[1, 2, 4]].ravel())
    handle = net.second.register_forward_pre_hook(lambda _, x: (x[0].index_fill(1, gone, 0.0),))
    expected = net(images)
    handle.remove()
    torch.testing.assert_close(small(images), expected, rtol=0, atol=1e-10)


def test_the_walk_leaves_the_error_it_says(tiny_task):
    """One layer cut: its own rows, recomputed by hand from both nets, give the table's error."""
    net = tiny_task.build(seeded(3)).double().eval()
    task = in_double(tiny_task)
    config = method.Config(r=(("features.3", 0.5),))
    result = method.compress(net, task, None, config, tuning=None, generator=seeded(1))
    images, _ = calibration_images(task, config.images, seeded(1))
    generator = seeded(1)
    calibration_images(task, config.images, generator)
    rows = sample_rows(net, trace_groups(net, task.example(1))["features.3"], images,
                       config.pairs, generator)  # fmt: skip
    kept = result.recipe["features.3"]
    w = np.linalg.lstsq(rows.x[:, kept], rows.y, rcond=None)[0]
    expected = ((rows.y - rows.x[:, kept] @ w) ** 2).sum() / (rows.y**2).sum()
    assert result.trace["layer"] == ["features.3"]
    assert result.trace["error"] == [pytest.approx(expected)]
    # and the small net's layer holds W ŵ
    folded = net.features[6].weight[:, kept] * torch.from_numpy(w)[None, :, None, None]
    torch.testing.assert_close(result.model.features[6].weight, folded, rtol=1e-9, atol=1e-9)


# ---- how much is kept


def test_floor_of_c_r_filters_stay():
    net = build_model("vgg_small", generator=seeded(0))
    graph = trace_groups(net, torch.zeros(1, 1, 28, 28))
    expected = {
        1.0: [16, 32, 32, 64, 64],
        0.7: [11, 22, 22, 44, 44],
        0.5: [8, 16, 16, 32, 32],
        0.3: [4, 9, 9, 19, 19],
        0.01: [1, 1, 1, 1, 1],
    }
    for r, numbers in expected.items():
        assert [*kept_numbers(graph, None, r).values()] == numbers
    # 0.29 × 100 is a hair below 29 in floating point
    assert kept_numbers(trace_groups(Wide(), torch.zeros(1, 1, 8, 8)), None, 0.29) == {"0": 29}


class Wide(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 100, 3), nn.ReLU(), nn.Conv2d(100, 2, 3), nn.Flatten(),
                         nn.Linear(32, 2))  # fmt: skip


@pytest.mark.parametrize("metric", ["macs", "params", "activations"])
def test_a_budget_gives_the_largest_equal_share_that_meets_it(metric):
    net = build_model("vgg_small", generator=seeded(0))
    graph = trace_groups(net, torch.zeros(1, 1, 28, 28))
    costs = Costs(graph, metric)

    def cost(keep):
        return costs(np.array([keep.get(g.name, g.size) for g in graph.groups]))

    for target in (0.9, 0.6, 0.4):
        keep = kept_numbers(graph, Budget(metric, target), None)
        assert cost(keep) <= target * costs.dense
        share = max((k + 1) / graph[n].size for n, k in keep.items())  # surely above r
        more = kept_numbers(graph, None, min(1.0, share))
        assert cost(more) > target * costs.dense


def test_what_cannot_be_met_is_refused():
    net = build_model("vgg_small", generator=seeded(0))
    graph = trace_groups(net, torch.zeros(1, 1, 28, 28))
    with pytest.raises(BudgetNotMet, match=r"with one filter in each"):
        kept_numbers(graph, Budget("macs", 0.001), None)
    with pytest.raises(BudgetNotMet, match=r"at r = 0\.9"):
        kept_numbers(graph, Budget("macs", 0.5), 0.9)
    with pytest.raises(ValueError, match="give a budget"):
        kept_numbers(graph, None, None)
    with pytest.raises(ValueError, match="share kept"):
        method.Config(r=1.5)
    with pytest.raises(ValueError, match="share kept"):
        method.Config(r=(("features.0", 0.0),))
    plain = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    dense = build_model("densenet_small", generator=seeded(0))  # all read by several
    for net, x in ((plain, torch.zeros(1, 1, 8, 8)), (dense, torch.zeros(1, 1, 28, 28))):
        with pytest.raises(ValueError, match="whose channels one other convolution alone reads"):
            kept_numbers(trace_groups(net, x), None, 0.5)


# ---- the opponents


def test_weight_sum_and_zeros_rank_as_their_papers_say():
    net, images, graph = made("padded")
    here = variants.Site(net, graph["first"], images, Rows(np.zeros((1, 5)), np.zeros(1)))
    with torch.no_grad():
        for c, size in enumerate((3.0, 1.0, 5.0, 2.0, 4.0)):
            net.first.weight[c] = size / net.first.weight[c].numel()
    assert variants.weight_sum(here, 3, seeded(0))[0] == [0, 2, 4]
    with torch.no_grad():
        net.first.weight.mul_(0)
        net.first.bias.copy_(torch.tensor([-1.0, 2.0, -3.0, 4.0, -1.0]))
    kept, w = variants.apoz(here, 2, seeded(0))
    assert kept == [1, 3]  # all others are zero everywhere
    assert w.tolist() == [1, 1]


def test_zeros_of_a_flattened_map_are_counted_by_channel():
    net, images, graph = made("flattened")
    here = variants.Site(net, graph["first"], images, Rows(np.zeros((1, 5)), np.zeros(1)))
    with torch.no_grad():
        net.first.weight.mul_(0)
        net.first.bias.copy_(torch.tensor([-1.0, 2.0, -3.0, -4.0, 1.0]))
    assert variants.apoz(here, 2, seeded(0))[0] == [1, 4]


def test_forward_selection_adds_what_explains_most_and_refits():
    x, y = draw(60, 6, 4)
    kept, w = variants.matching_pursuit(x, y, 3)
    residual = y.copy()
    expected = []
    for _ in range(3):  # literal: try every channel with its own best scalar
        losses = {
            j: ((residual - x[:, j] * (x[:, j] @ residual) / (x[:, j] @ x[:, j])) ** 2).sum()
            for j in range(6)
            if j not in expected
        }
        expected.append(min(losses, key=losses.__getitem__))
        fit = np.linalg.lstsq(x[:, expected], y, rcond=None)[0]
        residual = y - x[:, expected] @ fit
    assert kept == expected
    np.testing.assert_allclose(w, fit, atol=1e-9)


def test_forward_selection_escapes_the_trap():
    """With a scalar of its own, the third channel alone explains everything."""
    kept, w = variants.matching_pursuit(TRAP, TRAP.sum(1), 1)
    assert kept == [2]
    assert w == pytest.approx([1.0])


def test_forward_selection_takes_a_silent_channel_last():
    x, _ = draw(20, 4)
    x[:, 1] = 0
    assert variants.matching_pursuit(x, x.sum(1), 4)[0][-1] == 1


def test_the_averaging_head_takes_the_place_of_the_old_one():
    net = load_task("vgg_small", head="fc").build(seeded(0))
    before = [p.clone() for p in net.features.parameters()]
    variants.averaging_head(net, 10, seeded(1))
    assert net(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert all(torch.equal(a, b) for a, b in zip(before, net.features.parameters(), strict=True))
    assert sum(p.numel() for p in net.classifier.parameters()) == 650
    assert net.classifier[2].weight.abs().max() <= 1 / 8
    with pytest.raises(ValueError, match=r"replaces \.classifier"):
        variants.averaging_head(nn.Linear(2, 2), 10, seeded(1))


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match="use one of weight_sum"):
        variants.Config("taylor")
