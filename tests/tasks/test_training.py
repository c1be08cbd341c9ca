"""The open training loop, and batch-norm statistics estimated anew."""

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import MODELS
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import (
    batch_sizes,
    batches,
    evaluate,
    fit,
    layout,
    pass_steps,
    recalibrate,
    total_steps,
    training,
)


def state(net):
    return copy.deepcopy(net.state_dict())


def same(a, b):
    return all(torch.equal(a[k], b[k]) for k in a)


def test_the_loop_stops_where_gradients_are_and_weights_have_not_moved(tiny_mlp_task):
    net = tiny_mlp_task.build(seeded(0))
    weight = next(net.parameters())
    steps = training(net, tiny_mlp_task, generator=seeded(1))
    before = weight.detach().clone()
    step = next(steps)
    assert step.number == 0
    assert step.steps == 48
    assert weight.grad is not None
    assert torch.equal(weight, before)
    step.move()
    moved = weight.detach().clone()
    assert not torch.equal(moved, before)
    step.move()  # a second call moves nothing
    assert torch.equal(weight, moved)
    next(steps)  # nor does going on
    assert torch.equal(weight, moved)


def test_breaking_off_leaves_the_weights_and_the_net_in_eval_mode(tiny_task):
    net = tiny_task.build(seeded(0))
    for step in training(net, tiny_task, generator=seeded(1)):
        assert net.training
        if step.number == 3:
            before = [p.detach().clone() for p in net.parameters()]
            break
    assert not net.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_fit_is_the_loop_to_its_end(tiny_task):
    a, b = tiny_task.build(seeded(0)), tiny_task.build(seeded(0))
    history = fit(a, tiny_task, generator=seeded(1))
    losses = [step.loss for step in training(b, tiny_task, generator=seeded(1))]
    assert same(a.state_dict(), b.state_dict())
    assert history.loss == losses
    assert history.steps == 48
    assert history.examples == 6 * 256


def test_gradients_may_be_changed_and_weights_seen_after_they_moved(tiny_mlp_task):
    """A mask by hand: its weights get no gradient and stay zero in spite of momentum and decay."""
    net = tiny_mlp_task.build(seeded(0))
    weight = net[1].weight
    mask = torch.rand(weight.shape, generator=seeded(2)) > 0.5
    with torch.no_grad():
        weight.mul_(mask)
    for step in training(net, tiny_mlp_task, generator=seeded(1)):
        weight.grad.mul_(mask)
        step.move()
        with torch.no_grad():
            weight.mul_(mask)
        assert int((weight != 0).sum()) <= int(mask.sum())


def test_parameter_groups_have_rates_and_decay_and_the_rest_is_frozen(tiny_mlp_task):
    net = tiny_mlp_task.build(seeded(0))
    before = state(net)
    groups = [{"params": [net[1].weight], "rate": 0.1, "weight_decay": 0.0},
              {"params": [net[3].weight]}]  # fmt: skip
    seen = []
    for step in training(net, tiny_mlp_task, generator=seeded(1), groups=groups):
        seen.append([(g["lr"], g["weight_decay"]) for g in step.optimizer.param_groups])
    for (slow, none), (full, decay) in seen:
        assert slow == pytest.approx(0.1 * full)
        assert (none, decay) == (0.0, 5e-4)
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"1.weight", "3.weight"}
    assert groups[0]["params"] == [net[1].weight]  # the caller's list is the caller's


def test_frozen_parameters_stay_and_a_net_without_any_other_is_refused(tiny_mlp_task):
    net = tiny_mlp_task.build(seeded(0))
    net[1].requires_grad_(False)
    before = state(net)
    fit(net, tiny_mlp_task.with_training(epochs=0.5), generator=seeded(1))
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert "1.weight" not in changed
    assert "3.weight" in changed
    with pytest.raises(ValueError, match="no parameter may move"):
        fit(net.requires_grad_(False), tiny_mlp_task, generator=seeded(1))


def test_a_loss_may_be_added_to_the_tasks(tiny_mlp_task):
    task = tiny_mlp_task.with_training(epochs=2.0)
    plain, held = (task.build(seeded(0)) for _ in range(2))
    fit(plain, task, generator=seeded(1))
    penalty = lambda logits, y, x: (  # noqa: E731
        task.loss(logits, y) + 0.1 * sum(p.square().sum() for p in held.parameters())
    )
    fit(held, task, generator=seeded(1), loss=penalty)
    size = [
        sum(float(p.detach().square().sum()) for p in net.parameters()) for net in (plain, held)
    ]
    assert size[1] < 0.5 * size[0]


def test_a_student_may_learn_from_a_teacher_that_sees_the_same_inputs(tiny_mlp_task):
    task = tiny_mlp_task
    teacher, student = task.build(seeded(5)).eval(), task.build(seeded(0))

    def distance(logits, y, x):
        with torch.no_grad():
            wanted = teacher(x)
        return (logits - wanted).square().mean()

    apart = lambda: float((student(task.val.x) - teacher(task.val.x)).detach().square().mean())  # noqa: E731
    before = apart()
    fit(student, task, generator=seeded(1), loss=distance)
    assert apart() < 0.2 * before


def test_a_constant_schedule_without_an_end_is_the_callers_to_end(tiny_mlp_task):
    recipe = replace(tiny_mlp_task.training, epochs=math.inf, schedule="constant", lr=0.01)
    net = tiny_mlp_task.build(seeded(0))
    steps = list(itertools.islice(training(net, tiny_mlp_task, recipe, generator=seeded(1)), 100))
    assert {s.lr for s in steps} == {0.01}
    assert len(steps) == 100  # past six passes of eight steps
    assert steps[0].steps == math.inf
    with pytest.raises(ValueError, match="no last step"):
        fit(net, tiny_mlp_task.with_training(epochs=math.inf), generator=seeded(1))
    with pytest.raises(ValueError, match="use cosine or constant"):
        fit(net, tiny_mlp_task.with_training(schedule="steps"), generator=seeded(1))


def test_gradients_are_clipped_before_the_weights_move(tiny_mlp_task):
    task = tiny_mlp_task.with_training(clip=1e-3)
    net = task.build(seeded(0))
    for step in training(net, task, generator=seeded(1)):
        step.move()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters()))
        assert norm <= 1.001e-3


# ---- batch-norm statistics


@pytest.mark.parametrize("model", MODELS)
def test_the_surveys_own_batches_are_what_they_were(model):
    """To the bit: recorded studies rest on them."""
    task = load_task(model)
    n, batch = len(task.train), task.training.batch
    found = batches(n, batch, seeded(3))
    plain = seeded(3)
    for _ in range(2):
        for rows in torch.randperm(n, generator=plain).split(batch):
            assert torch.equal(next(found), rows)
    assert pass_steps(n, batch) == math.ceil(n / batch)


@pytest.mark.parametrize("n", [10_000, 2_000, 45_000, 50_000, 1_000, 256, 100])
@pytest.mark.parametrize("batch", [128, 64, 50, 48, 32, 500])
def test_a_pass_without_a_single_example_left_over_is_split_as_ever(n, batch):
    assert n % batch != 1
    rows = torch.randperm(n, generator=seeded(0))
    assert batch_sizes(n, batch) == [len(b) for b in rows.split(batch)]
    order, plain = batches(n, batch, seeded(1)), seeded(1)
    for _ in range(2):
        for wanted in torch.randperm(n, generator=plain).split(batch):
            assert torch.equal(next(order), wanted)


@pytest.mark.parametrize(
    ("n", "batch", "sizes"),
    [
        (9, 4, [4, 5]), (5, 4, [5]), (3, 2, [3]), (129, 128, [129]), (257, 128, [128, 129]),
        (8, 4, [4, 4]), (6, 4, [4, 2]), (1, 4, [1]), (3, 1, [1, 1, 1]), (4, 9, [4]), (0, 4, []),
    ],
)  # fmt: skip
def test_a_single_example_left_over_joins_the_batch_before(n, batch, sizes):
    assert batch_sizes(n, batch) == sizes
    assert pass_steps(n, batch) == len(sizes)
    if n:
        order = batches(n, batch, seeded(0))
        for _ in range(3):
            rows = [next(order) for _ in sizes]
            assert [len(r) for r in rows] == sizes
            assert sorted(torch.cat(rows).tolist()) == list(range(n))


def test_batch_norm_behind_a_linear_layer_trains_on_any_number_of_images(tiny_task):
    """On a batch of one torch raises."""
    data = tiny_task.train
    for n, steps in ((33, 1), (65, 2), (64, 2), (66, 3)):
        few = replace(data, x=data.x[:n, :, :2, :2], y=data.y[:n])
        task = replace(tiny_task, data=replace(tiny_task.data, train=few)).with_training(epochs=2)
        net = Twin()
        history = fit(net, task, generator=seeded(0))
        assert history.steps == total_steps(task) == 2 * steps
        assert history.examples == 2 * n
        assert recalibrate(net, few, batch=32) == 1


class Twin(nn.Module):
    """One batch norm between two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        """Logits of flat 2 × 2 images."""
        return self.b(self.drop(self.norm(self.a(x.flatten(1)))))


def test_statistics_are_plain_averages_over_the_batches(tiny_task):
    torch.manual_seed(0)
    net = Twin()
    net.norm.running_mean.fill_(9.0)
    x = torch.randn(50, 1, 2, 2, generator=seeded(0))
    split = replace(tiny_task.train, x=x, y=torch.zeros(50, dtype=torch.long))
    before = {k: v.clone() for k, v in net.named_parameters()}
    modes = {name: m.training for name, m in net.named_modules()}
    assert recalibrate(net, split, batches=3, batch=10) == 1
    with torch.no_grad():
        h = [net.a(x[i : i + 10].flatten(1)) for i in (0, 10, 20)]
    assert torch.allclose(net.norm.running_mean, torch.stack([v.mean(0) for v in h]).mean(0))
    assert torch.allclose(net.norm.running_var, torch.stack([v.var(0) for v in h]).mean(0))
    assert all(torch.equal(before[k], v) for k, v in net.named_parameters())
    assert modes == {name: m.training for name, m in net.named_modules()}
    assert net.norm.momentum == 0.1


def test_a_net_without_batch_norm_is_left_as_it_is(tiny_mlp_task):
    net = tiny_mlp_task.build(seeded(0))
    before = state(net)
    assert recalibrate(net, tiny_mlp_task.train) == 0
    assert same(before, net.state_dict())


def test_statistics_after_a_cut_are_those_of_the_cut_net(tiny_task):
    """Taking a third of the weights shifts what batch norm sees; estimating anew repairs it."""
    net = tiny_task.build(seeded(0))
    fit(net, tiny_task, generator=seeded(1))
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d):
                m.weight.mul_(3.0)
    stale = evaluate(net, tiny_task.test, tiny_task)["loss"]
    recalibrate(net, tiny_task.train)
    assert evaluate(net, tiny_task.test, tiny_task)["loss"] < stale
    assert layout(tiny_task.test.x).is_contiguous(memory_format=torch.channels_last)
