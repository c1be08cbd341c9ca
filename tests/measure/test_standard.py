import copy

import pytest
import torch

from survey_lib.measure.standard import standard
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.train import evaluate, fit


def test_numbers_of_a_net_and_the_net_stays_as_it_is(tiny_task):
    net = tiny_task.build(seeded(0))
    fit(net, tiny_task, generator=seeded(0))
    before = copy.deepcopy(net.state_dict())
    numbers = standard(net, tiny_task)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert numbers["val"] == evaluate(net, tiny_task.val, tiny_task)["accuracy"]
    assert numbers["test"] == evaluate(net, tiny_task.test, tiny_task)["accuracy"]
    assert numbers["loss"] == evaluate(net, tiny_task.test, tiny_task)["loss"]
    assert numbers["params"] == sum(p.numel() for p in net.parameters())
    assert 0 < numbers["macs_nonzero"] <= numbers["macs"]


def test_shifted_statistics_are_told_by_the_second_number(tiny_task):
    """A net whose running means are wrong is as good as before once they are estimated anew."""
    net = tiny_task.build(seeded(0))
    fit(net, tiny_task, generator=seeded(0))
    right = standard(net, tiny_task)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.add_(5 * module.running_var.sqrt())
    wrong = standard(net, tiny_task)
    assert wrong["test"] < right["test"] - 0.2
    assert wrong["test_re"] == pytest.approx(right["test_re"])
    assert right["test_re"] == pytest.approx(right["test"], abs=0.05)


def test_a_net_without_batch_norm_has_no_second_number(tiny_mlp_task):
    assert "test_re" not in standard(tiny_mlp_task.build(seeded(0)), tiny_mlp_task)
