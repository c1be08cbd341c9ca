"""One-shot channel baselines: hand cases, planted channels, and that the choice matters."""

from dataclasses import replace

import pytest
import torch

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.selection import ScoreError
from survey_lib.methods import channel_baselines as method
from survey_lib.methods.sharing import for_steps
from survey_lib.tasks.dense import seeded, train_dense
from survey_lib.tasks.train import evaluate, total_steps
from tests.mechanics.toys import Residual, example


def residual():
    """Two convolutions (a: 2 → 6, b: 6 → 6) and a batch norm on one coupled group."""
    model = Residual().double()
    with torch.no_grad():
        model.a.weight.copy_(torch.arange(1.0, 7)[:, None, None, None].expand_as(model.a.weight))
        model.b.weight.fill_(-0.5)
        model.norm.weight.copy_(torch.tensor([3.0, -2.0, 1.0, 0.0, -5.0, 4.0]))
    return model, trace_groups(model, example(model))


def test_norms_of_a_coupled_unit_by_hand():
    model, graph = residual()
    rows = method.filters(model, graph["a"])
    assert rows.shape == (6, 2 * 9 + 6 * 9)
    # Σ|w| of unit i: 18 · (i + 1) from a, 54 · 0.5 from b
    assert rows.abs().sum(1).tolist() == [18.0 * (i + 1) + 27 for i in range(6)]
    squares = [18.0 * (i + 1) ** 2 + 54 * 0.25 for i in range(6)]
    assert torch.allclose(rows.square().sum(1), torch.tensor(squares).double())


def test_the_scale_is_read_without_its_sign():
    model, graph = residual()
    assert method.bn_scale(model, graph["a"]).tolist() == [3, 2, 1, 0, 5, 4]


def test_a_group_without_batch_norm_is_named(tiny_mlp_task):
    model = tiny_mlp_task.build(seeded(0))
    with pytest.raises(ScoreError, match="1: no batch norm carries it; use another criterion"):
        method.compress(model, tiny_mlp_task, Budget("macs", 0.5), method.Config("bn_scale"),
                        tuning=None, generator=seeded(0))  # fmt: skip


@pytest.mark.parametrize("criterion", method.GRADIENTS)
def test_a_channel_that_nobody_reads_goes_first_whatever_its_norm(criterion, tiny_task):
    model = tiny_task.build(seeded(0))
    with torch.no_grad():
        model.features[0].weight[3] = 50.0
        model.features[3].weight[:, 3] = 0.0
    graph = trace_groups(model, tiny_task.example(1))
    by_data = method.score(model, graph, tiny_task, method.Config(criterion), generator=seeded(0))
    by_norm = method.score(model, graph, tiny_task, method.Config("l1"), generator=seeded(0))
    assert int(by_data["features.0"].argmin()) == 3
    assert by_data["features.0"][3] == 0
    assert int(by_norm["features.0"].argmax()) == 3


def test_normalised_scores_have_length_one_in_each_group(tiny_task):
    """By hand in float64: each group's scores have length one."""
    model = tiny_task.build(seeded(0)).double()
    graph = trace_groups(model, tiny_task.example(1).double())
    data = tiny_task.data.train
    task = replace(tiny_task, data=replace(tiny_task.data, train=replace(data, x=data.x.double())))
    raw, own = (
        method.score(model, graph, task, method.Config(name), generator=seeded(0))
        for name in ("taylor", "taylor_normalised")
    )
    for name, scores in raw.items():
        by_hand = [float(s) / sum(float(t) ** 2 for t in scores) ** 0.5 for s in scores]
        assert own[name].tolist() == pytest.approx(by_hand, rel=1e-12)
        assert float(own[name].square().sum()) == pytest.approx(1)


def test_a_group_that_nobody_reads_has_no_normalised_score(tiny_task):
    model = tiny_task.build(seeded(0))
    with torch.no_grad():
        model.features[3].weight.zero_()
    graph = trace_groups(model, tiny_task.example(1))
    found = method.score(
        model, graph, tiny_task, method.Config("taylor_normalised"), generator=seeded(0)
    )
    assert found["features.0"].tolist() == [0.0] * len(found["features.0"])


def test_the_data_is_seen_once_and_in_order(tiny_task):
    found = list(method.batches(tiny_task, 70, torch.device("cpu")))
    assert [len(x) for x, _ in found] == [32, 32, 6]
    assert torch.equal(torch.cat([x for x, _ in found]), tiny_task.train.x[:70])


@pytest.mark.parametrize("criterion", method.CRITERIA)
def test_the_budget_is_met_and_the_passes_are_counted(criterion, tiny_task):
    model = tiny_task.build(seeded(0))
    config = method.Config(criterion, examples=64)
    result = method.compress(
        model, tiny_task, Budget("macs", 0.5), config, tuning=None, generator=seeded(0)
    )
    graph = trace_groups(model, tiny_task.example(1))
    small = trace_groups(result.model, tiny_task.example(1))
    assert Costs(small, "macs").dense <= 0.5 * Costs(graph, "macs").dense
    assert result.backward_passes == (2 if criterion in method.GRADIENTS else 0)


def test_out_of_reach_and_unknown(tiny_task):
    model = tiny_task.build(seeded(0))
    with pytest.raises(BudgetNotMet, match="is reachable"):
        method.compress(model, tiny_task, Budget("macs", 0.001), tuning=None, generator=seeded(0))
    with pytest.raises(ValueError, match="no criterion 'l0'"):
        method.Config("l0")
    with pytest.raises(ValueError, match="examples must be at least 1"):
        method.Config(examples=0)


def test_the_choice_matters_before_tuning(tiny_task):
    """Over four nets Fisher keeps more of the loss than random units do."""
    loss = {"fisher": 0.0, "random": 0.0}
    for seed in range(4):
        model = train_dense(tiny_task, seed)
        for criterion in loss:
            config = method.Config(criterion, scope="local")
            result = method.compress(
                model, tiny_task, Budget("macs", 0.5), config, tuning=None, generator=seeded(seed)
            )
            loss[criterion] += evaluate(result.model, tiny_task.test, tiny_task)["loss"]
    assert loss["fisher"] < 0.8 * loss["random"]


def test_a_recipe_over_so_many_steps_makes_as_many_where_a_single_image_is_left_over(tiny_task):
    """65 images in batches of 32 are two batches, not three."""
    data, few = tiny_task.data, replace(tiny_task.train, x=tiny_task.train.x[:65],
                                        y=tiny_task.train.y[:65])  # fmt: skip
    task = replace(tiny_task, data=replace(data, train=few))
    for steps in (1, 2, 3, 7, 100):
        assert total_steps(task, for_steps(task, task.training, steps)) == steps
