"""How training is dealt out between removals, worked by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.sharing import for_steps, most_removals, pace, parts
from survey_lib.tasks.train import total_steps


@pytest.mark.parametrize(("target", "least", "removals"), [
    (78, 1, 0),  # 8 · 6 + 6 · 5 weights, whole
    (77, 1, 1),  # of the middle 8 · 1 + 1 · 5 = 13 each
    (65, 1, 1),
    (64, 1, 2),
    (13, 1, 5),
    (26, 2, 4),
])  # fmt: skip
def test_how_many_units_go_before_a_target_is_met(target, least, removals):
    net = nn.Sequential(nn.Linear(8, 6, bias=False), nn.ReLU(), nn.Linear(6, 5, bias=False))
    costs = Costs(trace_groups(net, torch.zeros(1, 8)), "params")
    assert costs.dense == 78
    assert most_removals(costs, np.array([least, 5]), target) == removals


def test_those_that_save_least_go_first():
    """A unit of the first layer saves 4 + 2 weights, of the second 3 + 1; one of each stays."""
    net = nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False),
                        nn.Linear(2, 1, bias=False))  # fmt: skip
    costs = Costs(trace_groups(net, torch.zeros(1, 4)), "params")
    assert costs.savings(costs.sizes).tolist() == [6, 4, 2]
    # 20 → 16 (second) → 11 and 6 (first, 4 + 1 each)
    least = np.array([1, 1, 1])
    assert [most_removals(costs, least, t) for t in (20, 19, 16, 15, 11, 10, 6)] == [
        0, 1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


def test_the_pace_of_removals_by_hand():
    due = pace(10, 4, 100)  # ten steps over four parts
    assert [due(i) for i in range(5)] == [3, 5, 8, 10, 10]
    assert [pace(10, 4, 2)(i) for i in range(6)] == [2, 4, 6, 8, 10, 10]
    assert [pace(2, 4, 9)(i) for i in range(4)] == [1, 1, 2, 2]


def test_parts_add_up():
    assert parts(10, 0.5, 2) == [2, 3, 5]  # marks at 0, 2.5 → 2, 5
    assert parts(7, 0.0, 3) == [0, 0, 0, 7]
    assert parts(9, 1.0, 3) == [3, 3, 3, 0]


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 20])
def test_a_recipe_over_exactly_so_many_steps(steps, tiny_task):
    assert total_steps(tiny_task, for_steps(tiny_task, tiny_task.training, steps)) == steps
