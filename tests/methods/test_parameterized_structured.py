import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from survey_lib.methods.parameterized_structured import method, variants
from survey_lib.methods.parameterized_structured.layers import (
    fold,
    sparsity,
    structured_weights,
)
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import BasicBlock, DenseNetSmall, ResNetSmall
from survey_lib.tasks.task import Training
from survey_lib.tasks.train import fit, total_steps
from tests.conftest import in_double
from tests.oracles import parameterized_structured as slow

SHAPE = (3, 2, 2, 3)
NUMBER = {"column": 12, "channel": 2, "filter": 3, "shape": 6, "layer": 1}
TUNING = Training(epochs=1.0, batch=32, lr=0.05)


def structures(weight, alpha=None, **config):
    made = method.Structures(weight, method.Config(**config))
    if alpha is not None:
        made.alpha.data.copy_(torch.as_tensor(alpha, dtype=weight.dtype).view_as(made.alpha))
    return made


def vector(values):
    """Weights of one structure, as a layer of one input and two outputs."""
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1).requires_grad_()


# ---- forward and backward


@pytest.mark.parametrize(
    ("alpha", "energy", "d_alpha", "d_w"),
    [(0.5, 0.5, 1.0, (1.5, -0.5)), (0.05, 0.0, 1.0, (0.0, 0.0)), (-0.5, -0.5, 1.0, (-1.5, 0.5))],
)
def test_the_dossiers_case_by_hand(alpha, energy, d_alpha, d_w):
    """w = (1, 2), ε = 0.1, E = 3 q₁ − q₂: below ε the weights feel nothing, α still does."""
    w = vector([1.0, 2.0])
    made = structures(w, [alpha], epsilon=0.1)
    e = (torch.tensor([3.0, -1.0], dtype=torch.float64) * made(w).flatten()).sum()
    e.backward()
    assert float(e.detach()) == pytest.approx(energy)
    assert float(made.alpha.grad) == pytest.approx(d_alpha)
    assert w.grad.flatten().tolist() == pytest.approx(d_w)


def test_the_received_sentence_would_let_nothing_come_back():
    """A sum of gradients without the weights is another number: 3 − 1 = 2, not 1."""
    w = vector([1.0, 2.0])
    made = structures(w, [0.05], epsilon=0.1)
    (torch.tensor([3.0, -1.0], dtype=torch.float64) * made(w).flatten()).sum().backward()
    assert float(made.alpha.grad) == 1.0 != 3.0 - 1.0


@pytest.mark.parametrize("granularity", method.AXES)
def test_forward_and_gradients_equal_the_loops(granularity):
    g = seeded(1)
    w = torch.randn(SHAPE, dtype=torch.float64, generator=g, requires_grad=True)
    alpha = torch.randn(NUMBER[granularity], dtype=torch.float64, generator=g)
    dq = torch.randn(SHAPE, dtype=torch.float64, generator=g)
    made = structures(w, alpha, granularity=granularity, epsilon=0.6)
    assert made.alpha.numel() == NUMBER[granularity]
    q = made(w)
    (q * dq).sum().backward()
    args = w.detach().numpy(), alpha.tolist(), 0.6, granularity
    np.testing.assert_allclose(q.detach(), slow.effective(*args), atol=1e-14)
    d_alpha, dw = slow.gradients(dq.numpy(), *args)
    np.testing.assert_allclose(made.alpha.grad.flatten(), d_alpha, atol=1e-12)
    np.testing.assert_allclose(w.grad, dw, atol=1e-14)


def test_a_column_is_a_column_of_the_im2col_matrix():
    w = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(2))
    alpha = torch.randn(12, dtype=torch.float64, generator=seeded(3))
    q = structures(w, alpha, epsilon=0.5)(w).detach().numpy()
    wanted = slow.columns_of(w.numpy()) * slow.nu(alpha.tolist(), 0.5)
    np.testing.assert_allclose(slow.columns_of(q), wanted, atol=1e-14)


def test_above_the_threshold_gradients_equal_central_differences():
    w = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(4))
    made = structures(w, torch.linspace(0.3, 1.4, 12), epsilon=0.1)
    x = torch.randn(2, 2, 5, 5, dtype=torch.float64, generator=seeded(5))

    def energy(alpha):
        made.alpha.data.copy_(alpha)
        return nn.functional.conv2d(x, made(w)).pow(2).sum()

    start = made.alpha.detach().clone()
    energy(start).backward()
    for i in range(12):
        step = torch.zeros_like(start)
        step.view(-1)[i] = 1e-6
        slope = float((energy(start + step) - energy(start - step)).detach()) / 2e-6
        assert float(made.alpha.grad.view(-1)[i]) == pytest.approx(slope, rel=1e-5)


def test_the_sign_does_not_matter_and_the_threshold_is_on_the_size():
    w = torch.randn(SHAPE, dtype=torch.float64, generator=seeded(6))
    alpha = torch.randn(12, dtype=torch.float64, generator=seeded(7))
    a, b = structures(w, alpha, epsilon=0.5), structures(w, -alpha, epsilon=0.5)
    assert torch.equal(a(w), b(-w))
    assert torch.equal(a.kept(), b.kept())
    assert 0 < int(a.kept().sum()) < 12


def test_a_larger_threshold_never_keeps_more():
    w = torch.randn(SHAPE, generator=seeded(8))
    alpha = torch.randn(12, generator=seeded(9))
    kept = [int(structures(w, alpha, epsilon=e).kept().sum()) for e in (0, 0.3, 0.6, 0.99)]
    assert kept == sorted(kept, reverse=True)
    assert kept[0] == 12 > kept[-1]


# ---- the update


def test_decay_on_its_own_group_is_equation_6(tiny_task):
    """Plain momentum, a constant rate: α after five steps, the energy quadratic in α."""
    c = np.array([0.3, -1.2, 0.9])
    alpha = nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([alpha], lr=0.1, momentum=0.9, weight_decay=0.4)
    for _ in range(5):
        alpha.grad = alpha.detach() * 2 - torch.from_numpy(c)
        optimizer.step()
    wanted = slow.equation_6(np.ones(3), lambda a: 2 * a - c, 0.1, 0.9, 0.4, 5)
    np.testing.assert_allclose(alpha.detach(), wanted, atol=1e-14)
    net = tiny_task.build(seeded(0))
    config = method.Config(decay=0.4, rate=3.0)
    made = method.attach(net, config)
    rest, own = method.groups(net, made, config)
    assert own["weight_decay"] == 0.4
    assert own["rate"] == 3.0
    assert "weight_decay" not in rest  # the recipe's
    assert {id(p) for p in own["params"]} == {id(s.alpha) for s in made.values()}
    everything = [*rest["params"], *own["params"]]
    assert len(everything) == len({id(p) for p in everything}) == len(list(net.parameters()))
    l1 = method.groups(net, made, replace(config, penalty="l1"))[1]
    assert l1["weight_decay"] == 0.0


@pytest.mark.parametrize(
    ("c", "lams", "wanted"),
    [((1.0,), (0.25, 0.25), (0.75,)), ((0.2,), (0.25, 0.25), (0.0,)),
     ((0.6, 0.8), (0.16, 0.25), (0.48, 0.64)), ((-1.0,), (0.25, 0.25), (-0.75,))],
)  # fmt: skip
def test_decay_on_both_factors_is_a_soft_threshold(c, lams, wanted):
    """Gradient descent on E = ½ |α w − c|² + ½ λ_α α² + ½ λ_w |w|²."""
    assert slow.soft_threshold(c, *lams) == pytest.approx(wanted)
    w = vector([0.7 * v for v in c])
    made = structures(w, [1.0], epsilon=0.0)
    target = torch.tensor(c, dtype=torch.float64)
    optimizer = torch.optim.SGD(
        [
            {"params": [made.alpha], "weight_decay": lams[0]},
            {"params": [w], "weight_decay": lams[1]},
        ],
        lr=0.1,
    )
    for _ in range(4000):
        optimizer.zero_grad()
        (0.5 * (made(w).flatten() - target).square().sum()).backward()
        optimizer.step()
    assert made(w).flatten().tolist() == pytest.approx(wanted, abs=1e-5)


def test_the_l1_penalty_pulls_by_a_constant(tiny_task):
    """One step without momentum yet: α moves by −η (g + λ sign α), Nesterov's factor 1.9 on it."""
    moved = {}
    for decay in (0.0, 0.1):
        net = tiny_task.build(seeded(0))
        config = method.Config(penalty="l1", decay=decay, rate=1.0, frozen=0.0)
        made = method.attach(net, config)
        recipe = replace(TUNING, schedule="constant", warmup=0.0)
        next(method.train(net, made, tiny_task, recipe, config, generator=seeded(1)))
        moved[decay] = torch.cat([s.alpha.detach().flatten() for s in made.values()])
    torch.testing.assert_close(
        moved[0.1] - moved[0.0], torch.full_like(moved[0.0], -0.05 * 0.1 * 1.9)
    )


def test_without_penalty_and_with_alpha_held_at_one_it_is_an_ordinary_net(tiny_task):
    net = tiny_task.build(seeded(3))
    plain = copy.deepcopy(net)
    config = method.Config(decay=0.0, rate=0.0, epsilon=0.0)
    made = method.attach(net, config)
    for _ in method.train(net, made, tiny_task, TUNING, config, generator=seeded(4)):
        pass
    fold(net, made)
    fit(plain, tiny_task, TUNING, generator=seeded(4))
    x = tiny_task.example(8)
    assert torch.equal(net(x), plain(x))


# ---- the mask


def trained(task, **config):
    net = task.build(seeded(0))
    settings = method.Config(**config)
    made = method.attach(net, settings)
    seen = []
    for step in method.train(net, made, task, TUNING, settings, generator=seeded(1)):
        seen.append((step.number, {n: s.kept().clone() for n, s in made.items()}))
    return net, made, seen


def test_the_mask_is_frozen_in_time_and_stays(tiny_task):
    _, made, seen = trained(tiny_task, decay=0.3, rate=10.0, epsilon=0.5, frozen=0.5)
    steps = total_steps(tiny_task, TUNING)
    assert len(seen) == steps == 8
    cut = [sum(int((~m).sum()) for m in masks.values()) for _, masks in seen]
    assert cut[3:] == [cut[3]] * 5
    assert cut[0] < cut[3]
    assert all(s.mask is not None for s in made.values())


def test_a_structure_can_come_back():
    """Gradient descent on ½ (q − 1)² from below the threshold."""
    w = vector([1.0])
    made = structures(w, [0.05], epsilon=0.1)
    optimizer = torch.optim.SGD([made.alpha], lr=0.1)
    assert not made.kept().any()
    for _ in range(3):
        optimizer.zero_grad()
        (0.5 * (made(w) - 1).square()).sum().backward()
        optimizer.step()
    assert made.kept().all()


def test_a_fixed_share_is_the_share_of_every_layer_and_the_smallest_go(tiny_task):
    net, made, _ = trained(tiny_task, decay=0.05, share=0.4, rate=10.0)
    for s in made.values():
        n = s.alpha.numel()
        assert int((~s.kept()).sum()) == round(0.4 * n)
        size = s.alpha.detach().abs()
    masks = fold(net, made)
    assert all(len(m.unique()) == 2 for m in masks.values())
    free = structures(torch.randn(SHAPE), torch.arange(1.0, 13.0), share=0.25)
    free.rank()
    assert free.kept().flatten().tolist() == [False] * 3 + [True] * 9
    assert free.nu().flatten().tolist() == [0.0] * 3 + list(map(float, range(4, 13)))
    del size


def test_folding_changes_no_output(tiny_task):
    task = in_double(tiny_task)
    net = task.build(seeded(0)).double()
    config = method.Config(decay=0.3, epsilon=0.7)
    made = method.attach(net, config)
    for i, s in enumerate(made.values()):
        s.alpha.data.copy_(torch.rand(s.alpha.shape, generator=seeded(i)))
    net.eval()
    x = task.example(5)
    before = net(x)
    share = sparsity(made)
    masks = fold(net, made)
    assert torch.equal(net(x), before)
    assert not any(parametrize.is_parametrized(m) for m in net.modules())
    assert 0.5 < share < 0.9
    for name, mask in masks.items():
        weight = net.get_parameter(name)
        assert mask.shape == weight.shape
        assert torch.equal(weight != 0, mask)
    assert [n for n, _ in net.named_parameters()] == [
        n for n, _ in task.build(seeded(0)).named_parameters()
    ]


def test_compress_reports_what_came_out(tiny_task):
    config = method.Config(decay=0.1, epsilon=0.5, rate=10.0)
    found = method.compress(
        tiny_task.build(seeded(0)), tiny_task, None, config, tuning=TUNING, generator=seeded(1)
    )
    kept = sum(int(m.sum()) for m in found.masks.values())
    assert 0 < found.trace["sparsity"][-1] < 1
    assert (
        kept == sum(row["kept"] for row in found.table) < sum(row["weights"] for row in found.table)
    )
    state = dict(found.model.named_parameters())
    assert all((state[n][~m] == 0).all() for n, m in found.masks.items())


# ---- what a filter's parameter in front of batch norm feels


def test_batch_norm_behind_a_filter_makes_the_loss_blind_to_its_parameter():
    """∂E/∂α = 0 for filters and layers, whatever the loss; not so for columns and channels."""
    g = seeded(11)
    x = torch.randn(6, 4, 5, 5, generator=g, dtype=torch.float64)
    c = torch.randn(6, 3, 5, 5, generator=g, dtype=torch.float64)
    size = {}
    for granularity in method.AXES:
        conv = nn.Conv2d(4, 3, 3, padding=1, bias=False).double()
        conv.weight.data.copy_(torch.randn(conv.weight.shape, generator=seeded(12)))
        made = structures(conv.weight, granularity=granularity)
        parametrize.register_parametrization(conv, "weight", made)
        norm = nn.BatchNorm2d(3, eps=1e-12).double()  # torch takes no zero
        (norm(conv(x)) * c).sum().backward()
        size[granularity] = float(made.alpha.grad.abs().max())
    assert size["filter"] < 1e-9
    assert size["layer"] < 1e-9
    assert min(size[g] for g in ("column", "channel", "shape")) > 0.1


# ---- which weights


def test_outer_layers_have_no_structure_parameters():
    found = structured_weights(ResNetSmall(width=0.5))
    assert len(found) == 8
    assert not {"stem.0.weight", "classifier.weight"} & set(found)
    net = DenseNetSmall(width=0.5, layers=3)
    assert not {"stem.weight", "classifier.weight"} & set(structured_weights(net))
    block = BasicBlock(4, 4, 1).requires_grad_(False)
    assert structured_weights(block) == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"granularity": "row"}, "no granularity 'row'; use one of column, "),
     ({"penalty": "l2"}, "no penalty 'l2'"), ({"epsilon": 1.0}, "where α starts"),
     ({"decay": -1.0}, "decay ≥ 0"), ({"share": 1.0}, r"must lie in \[0, 1\)")],
)  # fmt: skip
def test_a_bad_config_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        method.Config(**changes)


def test_a_budget_is_refused(tiny_task):
    with pytest.raises(ValueError, match="takes no budget: steer it by decay"):
        method.compress(tiny_task.build(seeded(0)), tiny_task, 0.5, tuning=None,
                        generator=seeded(0))  # fmt: skip


# ---- rivals


def test_norms_by_hand():
    w = {"a": torch.tensor([[1.0, -2.0], [3.0, 4.0]]).view(2, 2, 1, 1)}
    assert variants.norms(w, "column")["a"].flatten().tolist() == [4.0, 6.0]
    assert variants.norms(w, "filter")["a"].flatten().tolist() == [3.0, 7.0]
    assert variants.norms(w, "layer", mean=True)["a"].item() == 2.5


@pytest.mark.parametrize("target", [0.0, 7.0, 20.0, 31.5, 100.0])
def test_the_lowest_go_until_the_cost_is_met(target):
    g = seeded(13)
    scores = {n: torch.rand(k, generator=g) for n, k in (("a", 5), ("b", 9), ("c", 3))}
    costs = {"a": 3.0, "b": 1.0, "c": 4.0}
    masks = variants.cut_lowest(scores, costs, target)
    gone = {(i, j) for i, m in enumerate(masks.values()) for j in range(len(m)) if not m[j]}
    values = [s.tolist() for s in scores.values()]
    assert gone == set(slow.lowest(values, list(costs.values()), target))
    left = sum(costs[n] * int(m.sum()) for n, m in masks.items())
    assert left <= target or target == 0


def test_the_same_share_of_every_layer():
    scores = {n: torch.rand(k, generator=seeded(k)) for n, k in (("a", 10), ("b", 20))}
    masks = variants.cut_lowest(scores, {"a": 1.0, "b": 1.0}, 12.0, "layer")
    assert [int(m.sum()) for m in masks.values()] == [4, 8]
    for name, mask in masks.items():
        assert scores[name][mask].min() > scores[name][~mask].max()
    with pytest.raises(ValueError, match="no scope 'net'"):
        variants.cut_lowest(scores, {"a": 1, "b": 1}, 12, "net")


def test_a_cut_net_is_trained_without_what_was_cut(tiny_task):
    net = tiny_task.build(seeded(0))
    weights = structured_weights(net)
    scores = variants.norms(weights, "column")
    masks = variants.cut_shares(scores, {n: s.numel() // 3 for n, s in scores.items()})
    before = copy.deepcopy(net.state_dict())
    variants.fit_cut(net, masks, tiny_task, TUNING, generator=seeded(1))
    for name, weight in structured_weights(net).items():
        kept = masks[name].expand_as(weight)
        assert (weight[~kept] == 0).all()
        assert not torch.equal(weight[kept], before[name][kept])


def test_macs_of_the_structures_are_those_of_their_layers(tiny_task):
    """By counting: the layers' MACs are their structures' together."""
    from survey_lib.measure.macs import count_macs, count_nonzero_macs

    net = tiny_task.build(seeded(0))
    for granularity in method.AXES:
        cost = variants.structure_macs(net, tiny_task, granularity)
        number = {n: s.numel() for n, s in
                  variants.norms(structured_weights(net), granularity).items()}  # fmt: skip
        whole = sum(cost[n] * number[n] for n in cost)
        cut = copy.deepcopy(net)
        for name in cost:
            cut.get_parameter(name).data.zero_()
        example = tiny_task.example(1)
        assert whole == count_macs(net, example) - count_nonzero_macs(cut, example)
