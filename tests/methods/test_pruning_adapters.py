"""SPLoRA and SPPaRA: equation, centre of the kernel, cutting, fusing, and the released code."""

import copy

import pytest
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods.pruning_adapters import method
from survey_lib.methods.pruning_adapters.adapter import (
    Adapter,
    adapter_size,
    adapters,
    apart,
    attach,
    beside,
    break_even,
    frozen,
    fuse,
    learned,
    task_bytes,
)
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model
from survey_lib.tasks.task import Training
from survey_lib.tasks.train import fit
from tests.conftest import in_double
from tests.oracles import pruning_adapters as oracle

LEARN = ("splora", "sppara")


def conv_layer(seed=0, stride=1, kernel=3, **more):
    torch.manual_seed(seed)
    conv = nn.Conv2d(4, 6, kernel, stride, kernel // 2, **more)
    return conv.double()


def adapter_of(layer, learner="splora", rank=2, init=0.5, seed=0):
    return Adapter(layer, learner, rank, init, seeded(seed))


def loud(net, seed=0, scale=0.3):
    """Adapters that say something: W_up far from zero."""
    with torch.no_grad():
        for a in adapters(net).values():
            a.up.copy_(torch.randn(a.up.shape, generator=seeded(seed), dtype=a.up.dtype) * scale)
    return net


# ---- the equation


def test_the_dossiers_case_by_hand():
    """n = 3, m = 2, r = 1: W_t = W_s + (1, 2, 3)ᵀ (10, 20); then input 2 and output 1 go."""
    layer = nn.Linear(3, 2, bias=False)
    a = adapter_of(layer, rank=1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 3, 5], [2, 4, 6]]))  # torch has W transposed
        a.down.copy_(torch.tensor([[1.0], [2], [3]]))
        a.up.copy_(torch.tensor([[10.0, 20]]))
    assert a.adapted().tolist() == [[11, 23, 35], [22, 44, 66]]
    a.layer.weight = nn.Parameter(layer.weight[1:, [0, 2]], requires_grad=False)
    a.cut(1, torch.tensor([0, 2]))
    a.cut(0, torch.tensor([1]))
    assert (a.down.tolist(), a.up.tolist()) == ([[1], [3]], [[20]])
    assert a.adapted().tolist() == [[22, 66]]


def test_cut_is_masked_without_its_zeros():
    layer = nn.Linear(5, 4).double()
    a = adapter_of(layer, rank=3)
    rows, columns = [1, 0, 1, 1, 0], [0, 1, 1, 0]
    wanted = oracle.without_zeros(
        oracle.masked(layer.weight.T.tolist(), a.down.tolist(), a.up.tolist(), rows, columns),
        rows, columns,
    )  # fmt: skip
    kept = [torch.tensor([i for i, v in enumerate(mask) if v]) for mask in (columns, rows)]
    a.layer.weight = nn.Parameter(layer.weight[kept[0]][:, kept[1]], requires_grad=False)
    for axis in (0, 1):
        a.cut(axis, kept[axis])
    torch.testing.assert_close(a.adapted().T, torch.tensor(wanted, dtype=torch.float64))


@pytest.mark.parametrize("learner", LEARN)
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_the_source_and_a_pointwise_one_beside_it(learner, stride):
    layer = conv_layer(stride=stride, bias=False)
    a = adapter_of(layer, learner)
    x = torch.randn(2, 4, 7, 7, generator=seeded(1), dtype=torch.float64)
    wanted = oracle.convolution(x, layer.weight, stride, 1) + oracle.pointwise(
        x, a.product(), stride
    )
    torch.testing.assert_close(a(x), wanted)
    torch.testing.assert_close(beside(a, x), wanted)
    torch.testing.assert_close(a.fused()(x), wanted)


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_only_the_centre_of_the_kernel_differs_from_the_source(kernel):
    layer = conv_layer(kernel=kernel)
    a = adapter_of(layer)
    delta = a.adapted() - layer.weight
    torch.testing.assert_close(delta[:, :, kernel // 2, kernel // 2], (a.down @ a.up).T)
    delta[:, :, kernel // 2, kernel // 2] = 0
    assert not delta.any()


def test_both_ways_have_the_same_gradients():
    layer = conv_layer(stride=2)
    a = adapter_of(layer)
    x = torch.randn(3, 4, 8, 8, generator=seeded(1), dtype=torch.float64)
    found = [
        torch.autograd.grad(way(x).square().sum(), [a.down, a.up, layer.bias])
        for way in (a, lambda x: beside(a, x))
    ]
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_kernels_without_a_centre_are_refused():
    with pytest.raises(ValueError, match="a kernel of 2 × 2 has no centre"):
        adapter_of(nn.Conv2d(3, 4, 2))


def test_initial_values_are_those_of_the_released_code():
    """W_down within 1 / √(r n), W_up within init, both filling their range; the source barely
    moves."""
    layer = nn.Linear(300, 200, bias=False)
    a = adapter_of(layer, rank=4, init=1e-4)
    bound = 1 / (4 * 300) ** 0.5
    assert 0.98 * bound < a.down.abs().max() <= bound
    assert 0.98e-4 < a.up.abs().max() <= 1e-4
    assert abs(float(a.down.detach().mean())) < 0.05 * bound
    assert 0 < (a.adapted() - layer.weight).abs().max() < 4 * bound * 1e-4


# ---- counts


def test_sizes_are_those_of_the_librarys_tests():
    """3 of 5 inputs, 2 of 4 outputs: 3 r + 2 r, and 2 biases."""
    for r in (1, 3):
        layer = nn.Linear(5, 4)
        a = adapter_of(layer, rank=r)
        assert a.size == adapter_size(5, 4, r) == 9 * r
        layer.weight = nn.Parameter(layer.weight[:2, :3], requires_grad=False)
        layer.bias = nn.Parameter(layer.bias[:2])
        a.cut(0, torch.tensor([1, 3]))
        a.cut(1, torch.tensor([0, 2, 4]))
        assert a.size == adapter_size(3, 2, r) == 5 * r
        assert learned(a) == 5 * r + 2


def test_break_even_is_where_both_sides_have_as_many():
    assert break_even(48, 16) == 12
    assert adapter_size(48, 16, 12) == 48 * 16
    assert break_even(6, 6, taps=9) == 27


def test_what_moves_is_adapters_norms_biases_and_the_head():
    """vgg_small at width 1, by hand: r Σ (n + m) + 2 · 272 + 64 · 5 + 5."""
    net = build_model("vgg_small", generator=seeded(0), classes=5)
    pairs = [(1, 16), (16, 32), (32, 32), (32, 64), (64, 64), (64, 64)]
    rest = 2 * 272 + 64 * 5 + 5
    assert sum(n + m for n, m in pairs) == 481
    for rank in (1, 4):
        found = attach(net, "splora", rank, 1e-4, seeded(0))
        assert learned(found) == 481 * rank + rest
        assert task_bytes(found, 272) == 4 * (481 * rank + rest + 2 * 272) + 34
    assert learned(attach(net, "sppara", 1, 1e-4, seeded(0))) == 11792 + rest
    assert learned(attach(net, "head", 1, 1e-4, seeded(0))) == rest
    whole = attach(net, "fine", 1, 1e-4, seeded(0))
    assert learned(whole) == sum(p.numel() for p in net.parameters())


# ---- nets


@pytest.fixture(scope="module")
def adapted(tiny_task):
    """(task, net with loud adapters, graph) in float64, batch norm with statistics of its own."""
    task = in_double(tiny_task)
    net = build_model("vgg_small", generator=seeded(3), **task.options).double()
    fit(net, task, Training(epochs=1, batch=32, lr=0.05), generator=seeded(0))
    net = loud(attach(net, "splora", 2, 0.1, seeded(1))).eval()
    return task, net, trace_groups(fuse(net), task.example(1))


def some(graph, seed=0):
    """A recipe that takes about half of every group."""
    keep = {}
    for g in graph.prunable:
        drawn = torch.randperm(g.size, generator=seeded(seed))[: max(1, g.size // 2)]
        keep[g.name] = sorted(drawn.tolist())
    return keep


def test_fused_is_unfused_and_has_no_adapter(adapted):
    task, net, _ = adapted
    plain = fuse(net)
    assert not adapters(plain)
    assert all(p.requires_grad for p in plain.parameters())
    for way in (net, apart(net)):
        torch.testing.assert_close(plain(task.example(9)), way(task.example(9)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("learner", LEARN)
def test_pruned_then_fused_is_fused_then_pruned(learner, adapted):
    task, net, graph = adapted
    net = loud(attach(frozen(net).requires_grad_(True), learner, 2, 0.1, seeded(1))).eval()
    keep = some(graph)
    first = method.removed(net, graph, keep)
    other = apply_recipe(fuse(net), graph, keep).eval()
    x = task.example(9)
    torch.testing.assert_close(first(x), other(x), atol=1e-10, rtol=0)
    fused, wanted = fuse(first).state_dict(), other.state_dict()
    assert fused.keys() == wanted.keys()
    for key in fused:
        torch.testing.assert_close(fused[key], wanted[key])
    for path, a in adapters(first).items():
        m, n = a.layer.weight.shape[:2]
        assert a.size == (adapter_size(n, m, 2) if learner == "splora" else n * m), path


def test_cut_twice_is_cut_once(adapted):
    task, net, graph = adapted
    once = {g.name: list(range(1, g.size)) for g in graph.prunable}
    small = method.removed(net, graph, once)
    again = trace_groups(fuse(small), task.example(1))
    twice = method.removed(small, again, {g.name: [0] for g in again.prunable})
    straight = method.removed(net, graph, {g.name: [1] for g in graph.prunable})
    x = task.example(5)
    torch.testing.assert_close(twice(x), straight(x))


def test_the_frozen_weights_stay_to_the_bit(adapted):
    task, net, _ = adapted
    net = copy.deepcopy(net)
    before = {p: a.layer.weight.clone() for p, a in adapters(net).items()}
    factors = {p: (a.down.clone(), a.up.clone()) for p, a in adapters(net).items()}
    fit(net, task, Training(epochs=1, batch=32, lr=0.05), generator=seeded(0))
    for path, a in adapters(net).items():
        assert torch.equal(a.layer.weight, before[path])
        assert not torch.equal(a.down, factors[path][0])
        assert not torch.equal(a.up, factors[path][1])


def test_with_zeros_above_it_is_the_source(adapted):
    _, net, _ = adapted
    net = copy.deepcopy(net)
    for a in adapters(net).values():
        nn.init.zeros_(a.up)
    source, plain = frozen(net).state_dict(), fuse(net).state_dict()
    assert all(torch.equal(source[k], plain[k]) for k in source)


def test_scores_are_of_the_adapted_weight(adapted):
    """An adapter that cancels a filter makes it the first to go, though W_s has it whole."""
    task, net, graph = adapted
    net = attach(frozen(net).requires_grad_(True), "sppara", 1, 0.0, seeded(0)).eval()
    name = graph.prunable[1].name
    a = adapters(net)[name]
    with torch.no_grad():
        a.layer.weight[2, :] = 0
        a.layer.weight[2, :, 1, 1] = 5.0
        a.up[:, 2] = -5.0
    config = method.Config("sppara", criterion="weight", step=0.02)
    stop = next(method.rounds(net, task, task.train, config, seeded(0)))
    assert stop.scores[name].argmin() == 2
    assert stop.scores[name][2] == 0
    assert 2 not in stop.recipe[name]


def test_rounds_take_shares_of_the_source_net(adapted):
    """A tenth of the original number each, to the nearest unit, whatever is left."""
    task, net, graph = adapted
    total = sum(g.size for g in graph.prunable)
    config = method.Config(criterion="weight")
    left = []
    for stop in method.rounds(net, task, task.train, config, seeded(0)):
        left.append(sum(map(len, stop.recipe.values())))
    wanted = [round(total * (1 - k / 10)) for k in range(1, 9)]
    assert left[:8] == wanted


def test_a_full_matrix_fits_what_fine_tuning_fits():
    """On 1 × 1 layers rank min(n, m) reaches any weight: ΔW = W − W_s."""
    layer = conv_layer(kernel=1, bias=False)
    target = torch.randn(6, 4, generator=seeded(5), dtype=torch.float64)
    a = adapter_of(layer, rank=4)
    u, s, v = torch.linalg.svd((target - layer.weight[:, :, 0, 0]).T, full_matrices=False)
    with torch.no_grad():
        a.down.copy_(u * s)
        a.up.copy_(v)
    torch.testing.assert_close(a.adapted()[:, :, 0, 0], target)


# ---- the released package

# it indexes by a list of slices, which torch will read as something else one day
OLD_INDEXING = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")


@OLD_INDEXING
@pytest.mark.parametrize("make", [lambda: nn.Linear(7, 5), conv_layer,
                                  lambda: conv_layer(stride=2, bias=False)])  # fmt: skip
def test_splora_is_that_of_the_package(make):
    peer = pytest.importorskip("sp_adapters.splora")
    layer = make().double()
    theirs = peer.SPLoRALinear if isinstance(layer, nn.Linear) else peer.SPLoRAConv2d
    theirs = theirs.from_module(layer, rank=3, init_range=0.5).double()
    ours = adapter_of(copy.deepcopy(layer), rank=3)
    with torch.no_grad():
        ours.down.copy_(theirs.adapter.rows[0].T)
        ours.up.copy_(theirs.adapter.cols[0].T)
    shape = (3, 7) if isinstance(layer, nn.Linear) else (3, 4, 6, 6)
    x = torch.randn(shape, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.adapted(), theirs.adapted_weight.data)
    torch.testing.assert_close(ours.fused()(x), theirs.to_module()(x))
    assert ours.down.shape == (layer.weight.shape[1], 3)
    # drawn as theirs are: W_down by a fan of r n, because theirs has an axis more
    bound = (3 * layer.weight.shape[1]) ** -0.5
    assert theirs.adapter.rows.abs().max() <= bound
    assert 0.8 * bound < theirs.adapter.rows.abs().max()


@OLD_INDEXING
def test_sppara_is_that_of_the_package():
    peer = pytest.importorskip("sp_adapters.sppara")
    layer = conv_layer()
    theirs = peer.SPPaRAConv2d.from_module(layer).double()
    ours = adapter_of(copy.deepcopy(layer), "sppara")
    with torch.no_grad():
        theirs.adapter.copy_(torch.randn(6, 4, generator=seeded(3)))
        ours.up.copy_(theirs.adapter.T)
    x = torch.randn(2, 4, 5, 5, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))


# ---- compress


def test_the_fused_net_is_what_its_adapters_say(tiny_task):
    model = tiny_task.build(seeded(0)).eval()
    tuning = Training(epochs=2, batch=32, lr=0.05)
    config = method.Config(rank=2)
    found = method.compress(
        model, tiny_task, Budget("macs", 0.5), config, tuning=tuning, generator=seeded(1)
    )
    assert not adapters(found.model)
    graph = trace_groups(model, tiny_task.example(1))
    cut = dict(apply_recipe(model, graph, found.recipe).named_parameters())
    for path, weight in found.model.named_parameters():
        if weight.ndim == 4:  # W_t − W_s: of rank 2, at the centre alone
            delta = (weight - cut[path]).detach()
            centre = delta[:, :, 1, 1].clone()
            assert torch.linalg.matrix_rank(centre, atol=1e-6) <= 2
            assert centre.any()
            delta[:, :, 1, 1] = 0
            assert not delta.any(), path
    for row in found.table:
        assert row["learned"] > 0


def test_learners_differ_in_what_moves(tiny_task):
    model = tiny_task.build(seeded(0)).eval()
    tuning = Training(epochs=1, batch=32, lr=0.05)
    moved = {}
    for learner in ("splora", "sppara", "head", "fine"):
        found = method.compress(
            model, tiny_task, Budget("macs", 1.0), method.Config(learner),
            tuning=tuning, generator=seeded(1),
        )  # fmt: skip
        before = dict(model.named_parameters())
        moved[learner] = {
            n: int((p != before[n]).sum()) for n, p in found.model.named_parameters() if p.ndim == 4
        }
    assert not any(moved["head"].values())
    for name, p in model.named_parameters():
        if p.ndim == 4:
            assert 0 < moved["splora"][name] <= p.numel() / 9
            assert 0 < moved["sppara"][name] <= p.numel() / 9
            assert moved["fine"][name] > p.numel() / 2


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no learner 'lora'; use one of splora, sppara"):
        method.Config("lora")
    with pytest.raises(ValueError, match="rank=0"):
        method.Config(rank=0)
    with pytest.raises(ValueError, match="no criterion 'magic'"):
        method.Config(criterion="magic")
