from itertools import islice

import pytest
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.masks import prunable_weights
from survey_lib.methods import to_prune_or_not as method
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.train import batches, fit
from tests.conftest import in_double
from tests.oracles.gradual_pruning import SlowMask, cubic, train_and_prune

# The dossier's table, typed in: s_i = 0, s_f = 0.9, n = 10.
TABLE = [0, 0.2439, 0.4392, 0.5913, 0.7056, 0.7875, 0.8424, 0.8757, 0.8928, 0.8991, 0.9]


def test_schedule_is_the_papers_table():
    mine = [method.sparsity_at(k, 0.0, 0.9, 0, 10) for k in range(11)]
    assert mine == pytest.approx(TABLE, abs=5e-5)


def test_schedule_equals_the_printed_equation_with_any_start():
    for t in range(100, 401, 20):
        expected = cubic(t, 0.1, 0.8, t_0=100, n=15, dt=20)
        assert method.sparsity_at(t, 0.1, 0.8, 100, 300) == pytest.approx(expected, abs=1e-12)


def test_schedule_at_start_end_and_beyond():
    at = lambda t: method.sparsity_at(t, 0.2, 0.9, 50, 100)  # noqa: E731
    assert at(0) == at(50) == pytest.approx(0.2)
    assert at(150) == at(1000) == 0.9
    assert at(100) == pytest.approx(0.9 - 0.7 / 8)  # half-way an eighth of the way is left
    slope = (at(150) - at(149)) / (at(51) - at(50))
    assert slope < 1e-3  # flat at the end, steep at the start


def test_first_update_removes_27_percent_of_the_final_total():
    assert TABLE[1] / 0.9 == pytest.approx(0.271, abs=1e-3)
    assert method.sparsity_at(1, 0, 0.9, 0, 10) / 0.9 == pytest.approx(0.271, abs=1e-3)


def test_updates_start_and_end_where_the_window_does():
    config = method.Config(begin=0.2, end=0.6, n=4)
    assert method.update_steps(config, 100) == {20: 0.0, 30: 0.25, 40: 0.5, 50: 0.75, 60: 1.0}


def test_more_updates_than_steps_still_reach_the_end():
    updates = method.update_steps(method.Config(begin=0.5, end=1.0, n=50), 10)
    assert max(updates) == 9
    assert updates[9] == 1.0


def layer(values):
    return {"w": torch.tensor(values, dtype=torch.float64)}


def test_masks_equal_the_slow_twin_over_many_updates():
    generator = torch.Generator().manual_seed(3)
    start = torch.randn(60, dtype=torch.float64, generator=generator)
    weights = {"w": start.clone()}
    fast, slow = method.MaskedWeights(weights), SlowMask(start)
    returned = 0
    for k in range(25):  # the ramp, then the end level again and again
        s_t = method.sparsity_at(k, 0.0, 0.8, 0, 11)
        before = list(slow.masked)
        fast.prune_to(s_t, "layerwise")
        slow.prune_to(s_t)
        returned += sum(b and not a for b, a in zip(before, slow.masked, strict=True))
        assert weights["w"].tolist() == slow.effective()
        change = 0.6 * torch.randn(60, dtype=torch.float64, generator=generator)
        weights["w"] += change
        fast.apply()
        slow.step(change)
        assert weights["w"].tolist() == slow.effective()
    assert fast.readmitted == returned > 0  # the test would be empty if nothing ever came back


def test_each_layer_has_exactly_round_s_n_zeros_and_keeps_the_largest():
    generator = torch.Generator().manual_seed(0)
    weights = {
        "a": torch.randn(7, 13, generator=generator),
        "b": torch.randn(101, generator=generator),
    }
    size = {k: w.abs().clone() for k, w in weights.items()}
    masked = method.MaskedWeights(weights)
    for s_t in (0.1, 0.333, 0.77, 0.9):
        masked.prune_to(s_t, "layerwise")
        for name, mask in masked.masks.items():
            assert int((~mask).sum()) == round(s_t * mask.numel())
            assert size[name][mask].min() >= size[name][~mask].max()


def test_global_scope_draws_one_threshold():
    weights = {"small": torch.full((50,), 0.1), "large": torch.full((50,), 1.0)}
    masked = method.MaskedWeights(weights)
    masked.prune_to(0.5, "global")
    assert int(masked.masks["small"].sum()) == 0
    assert int(masked.masks["large"].sum()) == 50


def test_a_cut_weight_returns_only_when_a_survivor_shrinks_below_it():
    weights = layer([1.0, 0.5, 2.0, 3.0])
    masked = method.MaskedWeights(weights)
    masked.prune_to(0.25, "layerwise")  # 0.5 goes
    assert weights["w"].tolist() == [1.0, 0.0, 2.0, 3.0]
    weights["w"][0] = 0.3  # a survivor shrinks below 0.5
    masked.prune_to(0.25, "layerwise")
    assert weights["w"].tolist() == [0.0, 0.5, 2.0, 3.0]
    assert masked.readmitted == 1


def test_without_readmission_masks_are_nested():
    generator = torch.Generator().manual_seed(1)
    weights = {"w": torch.randn(200, generator=generator)}
    masked = method.MaskedWeights(weights, readmit=False)
    previous = masked.masks["w"]
    for k in range(1, 11):
        masked.prune_to(method.sparsity_at(k, 0.0, 0.9, 0, 10), "layerwise")
        assert not (masked.masks["w"] & ~previous).any()
        previous = masked.masks["w"]
        weights["w"] += 0.5 * torch.randn(200, generator=generator)
        masked.apply()
    assert masked.readmitted == 0


def test_one_update_equals_torch_prune():
    linear = nn.Linear(30, 20)
    weights = {"weight": linear.weight.detach().clone()}
    masked = method.MaskedWeights(weights)
    masked.prune_to(0.37, "layerwise")
    from torch.nn.utils import prune

    prune.l1_unstructured(linear, "weight", amount=round(0.37 * 600))
    assert torch.equal(linear.weight_mask.bool(), masked.masks["weight"])


def test_cut_weights_stay_zero_under_momentum_and_decay(tiny_task):
    budget, config = Budget("nonzeros", 0.3), method.Config(begin=0.2, end=0.5, n=3)
    result = method.compress(
        tiny_task.build(seeded(0)),
        tiny_task,
        budget,
        config,
        tuning=tiny_task.training,
        generator=seeded(0),
    )
    state = dict(result.model.named_parameters())
    for name, mask in result.masks.items():
        assert (state[name][~mask] == 0).all()
        assert (state[name][mask] != 0).all()
    assert tiny_task.training.weight_decay > 0


@pytest.mark.parametrize("readmit", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.3])
def test_the_whole_method_is_its_slow_twin(tiny_task, readmit, clip):
    """Gradients under the mask, momentum, clipping, readmission, s_i, exponent, time of updates."""
    task = in_double(tiny_task).with_training(
        epochs=6.0, lr=0.3, clip=clip, weight_decay=0.03, schedule="constant", warmup=0.0
    )
    config = method.Config(s_i=0.2, exponent=2.0, begin=0.1, end=0.8, n=6, readmit=readmit)
    result = method.compress(
        task.build(seeded(0)).double(), task, Budget("nonzeros", 0.3), config,
        tuning=task.training, generator=seeded(1),
    )  # fmt: skip
    twin = task.build(seeded(0)).double()
    weights = prunable_weights(twin)
    total, prunable = (sum(p.numel() for p in ps) for ps in (twin.parameters(), weights.values()))
    s_f, steps = 0.7 * total / prunable, result.steps
    assert steps == 48
    schedule = {  # equation 1, with the window from step 4.8 to 38.4
        round(4.8 + 33.6 * k / 6): s_f + (0.2 - s_f) * (1 - k / 6) ** 2 for k in range(7)
    }
    rows = islice(batches(len(task.train), task.training.batch, seeded(1)), steps)
    masks = train_and_prune(twin, list(weights), rows, task, task.training, schedule, readmit)
    assert all(torch.equal(result.masks[n], m.bool()) for n, m in masks.items())
    for (name, a), b in zip(twin.named_parameters(), result.model.parameters(), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=1e-10, msg=name)
    assert (result.trace["readmitted"][-1] > 0) == readmit


def test_keeping_everything_is_ordinary_training(tiny_task):
    plain = tiny_task.build(seeded(5))
    fit(plain, tiny_task, generator=seeded(6))
    result = method.compress(
        tiny_task.build(seeded(5)),
        tiny_task,
        Budget("nonzeros", 1.0),
        tuning=tiny_task.training,
        generator=seeded(6),
    )
    for a, b in zip(plain.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_n_1_prunes_once_at_the_end_of_the_window(tiny_task):
    config = method.Config(begin=0.1, end=0.5, n=1)
    result = method.compress(
        tiny_task.build(seeded(0)),
        tiny_task,
        Budget("nonzeros", 0.5),
        config,
        tuning=tiny_task.training,
        generator=seeded(0),
    )
    assert result.trace["sparsity"][0] == 0.0
    assert len(result.trace["sparsity"]) == 2
    kept = sum(p.count_nonzero() for p in result.model.parameters())
    total = sum(p.numel() for p in result.model.parameters())
    assert abs(int(kept) - 0.5 * total) <= len(result.masks)


def test_mobilenet_arithmetic_of_the_dossier():
    """Non-zeros of MobileNet v1 when first and depthwise convolutions are spared."""
    widths = [(32, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512)]
    widths += [(512, 512)] * 5 + [(512, 1024), (1024, 1024)]
    blocks = [nn.Conv2d(3, 32, 3, bias=False)]
    for a, b in widths:
        blocks += [nn.Conv2d(a, a, 3, groups=a, bias=False), nn.Conv2d(a, b, 1, bias=False)]
    net = nn.Sequential(*blocks, nn.Linear(1024, 1000, bias=False))
    total = sum(p.numel() for p in net.parameters())
    pruned = sum(w.numel() for w in prunable_weights(net).values())
    assert total == 4_209_088
    assert total - pruned == 45_504
    millions = [(0.5, 2.13), (0.25, 1.09), (0.1, 0.46), (0.05, 0.25)]
    for density, reported in millions:
        assert round((density * pruned + 45_504) / 1e6, 2) == reported


def test_a_budget_below_the_spared_layers_is_refused():
    net = nn.Sequential(nn.Conv2d(3, 100, 3), nn.ReLU(), nn.Conv2d(100, 1, 1))
    with pytest.raises(BudgetNotMet, match=r"more than 0\.96"):
        method.final_sparsity(net, prunable_weights(net), Budget("nonzeros", 0.5))


def test_budget_of_another_metric_is_refused():
    net = nn.Linear(3, 3)
    with pytest.raises(ValueError, match="nonzeros"):
        method.final_sparsity(net, prunable_weights(net), Budget("macs", 0.5))


@pytest.mark.parametrize(
    "bad", [{"begin": 0.7, "end": 0.2}, {"n": 0}, {"exponent": 0}, {"s_i": 1}, {"scope": "all"}]
)
def test_bad_configurations_are_refused(bad):
    with pytest.raises(ValueError, match=r"need|no scope"):
        method.Config(**bad)
