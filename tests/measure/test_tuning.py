import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from survey_lib.measure.tuning import (
    break_even,
    bytes_for_tasks,
    compare_tuning,
    gradient_bytes,
    optimizer_bytes,
)
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import make_optimizer


@pytest.fixture(scope="module")
def task():
    return load_task("cnn_small", examples=64, width=0.125)


def frozen_but_the_head(net):
    for name, p in net.named_parameters():
        p.requires_grad_(name.startswith("classifier"))
    return net


def test_momentum_is_one_number_for_each_parameter_that_moves_and_adam_keeps_two(task):
    net = task.build(torch.Generator().manual_seed(0))
    weights = sum(p.numel() for p in net.parameters())
    head = sum(p.numel() for p in net.classifier.parameters())
    nets = {"all": net, "head": frozen_but_the_head(task.build(torch.Generator().manual_seed(0)))}
    sgd = compare_tuning(nets, task, replace(task.training, batch=16), rounds=9)
    adam = compare_tuning(nets, task, replace(task.training, batch=16, optimizer="adamw"), rounds=9)
    assert sgd["all"].weight_bytes == sgd["head"].weight_bytes == 4 * weights
    assert (sgd["all"].gradient_bytes, sgd["head"].gradient_bytes) == (4 * weights, 4 * head)
    assert (sgd["all"].optimizer_bytes, sgd["head"].optimizer_bytes) == (4 * weights, 4 * head)
    assert (adam["all"].optimizer_bytes, adam["head"].optimizer_bytes) == (8 * weights, 8 * head)
    assert all(0 < t.step_ms <= t.median_ms for t in (*sgd.values(), *adam.values()))


def test_the_backward_pass_is_timed_too(task):
    """A step costs more than the forward pass alone, on the clock that is used."""
    from survey_lib.measure.latency import compare_latency

    net = task.build(torch.Generator().manual_seed(0))
    step = compare_tuning({"net": net}, task, replace(task.training, batch=64), rounds=9)["net"]
    forward = compare_latency({"net": net}, task.train.x[:64])["net"].minimum * 1000
    assert step.step_ms > 1.5 * forward


def test_the_nets_given_stay_as_they_are(task):
    net = task.build(torch.Generator().manual_seed(0))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    mode = net.training
    compare_tuning({"net": net}, task, replace(task.training, batch=16), rounds=9)
    assert net.training == mode
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert gradient_bytes(net) == 0


def test_what_has_made_no_step_keeps_nothing(task):
    net = nn.Linear(3, 2)
    assert optimizer_bytes(make_optimizer(net, task.training)) == gradient_bytes(net) == 0


def test_bytes_for_tasks_by_hand():
    # a net of 100 and parts of 10 against whole nets of 30: 100 + 10 N = 30 N at N = 5
    assert bytes_for_tasks(5, 10, 100) == bytes_for_tasks(5, 30) == 150
    assert break_even(10, 100, 30) == 5
    assert bytes_for_tasks(0, 10, 100) == 100
    assert break_even(30, 100, 30) == math.inf


def test_bad_input_is_refused(task):
    net = task.build(torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="3 rounds say nothing"):
        compare_tuning({"net": net}, task, task.training, rounds=3)
    with pytest.raises(ValueError, match="no parameter may move"):
        compare_tuning({"net": net.requires_grad_(False)}, task, task.training, rounds=9)
    with pytest.raises(ValueError, match="negative"):
        bytes_for_tasks(-1, 1.0)
