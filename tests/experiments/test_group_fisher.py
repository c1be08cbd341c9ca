"""What is particular to this experiment; the contract of all is in test_contract.py."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import Context, measure
from survey_lib.experiments.group_fisher import cells, study
from survey_lib.experiments.group_fisher.cells import Cell
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.statistics import taylor
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.train import History, total_steps

SLUG = "group_fisher"


def rows(*pairs):
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell, ("lr", "dense_lr"))


def to_quarter(name, **numbers):
    return study.path(name, 0, to=cells.QUARTER), numbers


def test_dense_nets_are_trained_before_the_cells_that_need_them():
    arms = [c.arm == "dense" for c in study.GRIDS["study"]()]
    assert arms == sorted(arms, reverse=True)
    assert study.GRIDS["tune"]()[0].arm == "dense"


def test_the_variants_are_told_from_the_settings():
    for name in study.VARIANTS:
        assert study.variant_of(asdict(study.path(name, 0))) == name
    assert study.variant_of(asdict(Cell("path", 0, per="macs", alpha=0.5))) == ""


def test_random_scores_go_down_the_path_of_m_and_nothing_else_differs():
    assert replace(study.path("R", 0), score="fisher") == study.path("M", 0)


def test_the_explorers_paths_hold_every_setting_once():
    settings = [(c.per, c.alpha, c.coupled) for c in study.explored()]
    assert len(settings) == len(set(settings)) == 10
    assert all(c.to == cells.QUARTER and c.seed == 0 for c in study.explored())
    assert set(study.explored()) <= set(study.GRIDS["study"]())


def test_ratios_and_differences_of_paths():
    found = rows(
        to_quarter("M", activations=100, test=0.8, params=200, quarter={"test": 0.7}),
        to_quarter("F", activations=130, test=0.81, params=180),
        to_quarter("U", activations=150, test=0.7, params=90, quarter={"test": 0.66}),
        (study.path("I", 0), {"activations": 160}),
        (study.path("R", 0), {"test": 0.75}),
        (study.path("M", 0, "resnext"), {"activations": 1, "test": 0.1, "params": 1}),
        (replace(study.path("I", 0), lr=0.0, to=0.25), {"path": []}),
        (study.at_once("l1", 0), {"test": 0.79}),
    )
    assert study.flops_over_memory_activations(found) == pytest.approx(1.3)
    assert study.memory_over_flops_accuracy(found) == pytest.approx(-0.01)
    assert study.memory_beside_flops_accuracy(found) == pytest.approx(-0.01)
    assert study.memory_over_raw_at_a_quarter(found) == pytest.approx(0.04)
    assert study.raw_over_memory_parameters(found) == pytest.approx(0.45)
    assert study.internal_over_coupled_activations(found) == pytest.approx(1.6)
    assert study.scores_over_random(found) == pytest.approx(0.05)
    assert study.path_over_l1(found) == pytest.approx(0.01)
    with pytest.raises(MissingArm):
        study.scores_over_random(rows(to_quarter("M", test=0.8)))


def test_differences_of_correlations_take_the_right_net_and_units():
    residual, depthwise = (Cell("ranking", 0, net) for net in ("resnet", "mobilenet"))
    found = rows(
        (residual, {"rho_fisher": 0.7, "rho_taylor": 0.75, "rho_square_first": 0.1,
                    "rho_shared_fisher": 0.6, "rho_shared_square_first": 0.4}),
        (depthwise, {"rho_shared_fisher": 0.5, "rho_shared_square_first": 0.8}),
    )  # fmt: skip
    assert study.fisher_over_taylor(found) == pytest.approx(-0.05)
    assert study.sum_first_in_the_residual_net(found) == pytest.approx(0.2)
    assert study.sum_first_in_the_depthwise_net(found) == pytest.approx(-0.3)


def test_rank_correlation_with_ties_by_hand():
    assert cells.correlation(np.array([1, 2, 3]), np.array([10, 20, 90])) == pytest.approx(1)
    assert cells.correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # ranks 1.5, 1.5, 3 against 1, 2, 3
    tied = cells.correlation(np.array([1, 1, 2]), np.array([1, 2, 3]))
    assert tied == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


@pytest.fixture(scope="module")
def barely_trained():
    cell = Cell("path", 0, per="macs", epochs=0.1, to=0.6)
    task = cells.task_of(cell)
    return cell, task, task.build(seeded(0)).eval()


def test_true_rises_are_those_of_nets_without_the_unit(barely_trained):
    _, task, net = barely_trained
    graph = trace_groups(net, task.example(1))
    x, y = task.train.x[:50], task.train.y[:50]
    units = [("stem.0", 3), ("stages.2.conv2", 40)]
    found = cells.true_rises(net, graph, task, x, y, units)
    with torch.no_grad():
        base = float(task.loss(net(x), y))
        for (name, unit), rise in zip(units, found, strict=True):
            keep = [u for u in range(graph[name].size) if u != unit]
            small = apply_recipe(net, graph, {name: keep})
            assert float(task.loss(small(x), y)) - base == pytest.approx(rise, abs=1e-5)


def test_units_with_one_copy_of_their_mask_have_one_score_whatever_the_order(barely_trained):
    _, task, net = barely_trained
    graph = trace_groups(net, task.example(1))
    x, y = task.train.x[:40], task.train.y[:40]
    scores, copies = cells.all_scores(net, graph, task, x, y)
    for group in graph.prunable:
        assert copies[group.name] == len(group.consumers)  # nothing is carried in this net
        equal = torch.allclose(
            scores["fisher"][group.name], scores["square_first"][group.name], rtol=1e-6
        )
        assert equal == (copies[group.name] == 1)


def test_the_first_order_scores_are_the_usual_one_and_the_size_of_the_mean_slope(barely_trained):
    _, task, net = barely_trained
    graph = trace_groups(net, task.example(1))
    x, y = task.train.x[:40], task.train.y[:40]
    scores, _ = cells.all_scores(net, graph, task, x, y)
    usual = taylor(net, graph, task.loss, [(x, y)])
    for name, found in scores["taylor"].items():
        torch.testing.assert_close(found, usual[name])
        # examples cancel in the sum of their slopes
        assert (scores["first_order"][name] / len(x) < found).any()


def test_in_the_depthwise_net_a_carried_unit_has_a_copy_more():
    task = cells.task_of(Cell("ranking", 0, "mobilenet"))
    net = task.build(seeded(0)).eval()
    graph = trace_groups(net, task.example(1))
    _, copies = cells.all_scores(net, graph, task, task.train.x[:4], task.train.y[:4])
    carried = {
        g.name for g in graph.prunable
        for s in g.slices
        if s.role == "through" and s.tensor == "weight"
        and isinstance(net.get_submodule(s.module), torch.nn.Conv2d)
    }  # fmt: skip
    assert carried
    for g in graph.prunable:
        assert copies[g.name] == len(g.consumers) + (g.name in carried)


def test_a_path_notes_what_is_left_at_every_mark(barely_trained):
    cell, task, net = barely_trained
    numbers = cells.along_the_path(net, task, cell, seeded(1))
    graph = trace_groups(net, task.example(1))
    assert [p["mark"] for p in numbers["path"]] == [0.9, 0.8, 0.7, 0.6]
    for point in numbers["path"]:
        kept = np.array([point["kept"].get(g.name, g.size) for g in graph.groups])
        for metric in ("macs", "activations", "params"):
            assert Costs(graph, metric)(kept) == point[metric]
        assert point["macs"] <= point["mark"] * Costs(graph, "macs").dense
        assert point["steps"] == sum(g.size for g in graph.groups) - kept.sum()
    assert len(set(numbers["removed"])) == len(numbers["removed"])


def test_a_path_that_cannot_reach_its_end_says_so(barely_trained, monkeypatch):
    cell, task, net = barely_trained
    monkeypatch.setattr(cells.method, "one_by_one", lambda *_, **__: (x for x in ()))
    with pytest.raises(ValueError, match=r"ended before 0\.9"):
        cells.along_the_path(net, task, cell, seeded(1))


@pytest.fixture
def few_steps(monkeypatch, barely_trained):
    """The arms on an untrained net; trainings are counted and not made."""
    _, task, net = barely_trained
    made = []

    def counted(model, task, *_, **__):
        made.append(task.training)
        return History([0.0] * total_steps(task))

    monkeypatch.setattr(cells, "fit", counted)
    monkeypatch.setattr(
        cells.channel_baselines, "fit", lambda m, t, how, **_: counted(m, replace(t, training=how))
    )
    monkeypatch.setattr(cells, "standard", lambda *_: {"test": 0.0})
    monkeypatch.setattr(cells, "evaluate", lambda *_: {"accuracy": 0.0})
    monkeypatch.setattr(cells, "recalibrate", lambda *_: True)
    monkeypatch.setattr(cells, "task_of", lambda cell: task)
    monkeypatch.setattr(Context, "dense", lambda self, task: net)
    return task, made


@pytest.mark.parametrize("cell", [
    study.path("M", 0, to=cells.QUARTER), study.path("U", 0, to=cells.QUARTER), study.path("R", 0),
    study.at_once("l1", 0), study.longer(0),
], ids=lambda cell: f"{cell.arm} {cell.per} {cell.score}")  # fmt: skip
def test_every_arm_makes_equally_many_steps_at_the_rate_of_its_role(cell, few_steps):
    task, made = few_steps
    cell = replace(cell, lr=0.07)
    numbers = measure(SLUG, cell, "digest")
    wanted = total_steps(task, replace(task.training, epochs=cells.AFTER))
    assert numbers["steps"] == wanted
    assert {training.lr for training in made} == {0.07}
    assert {training.schedule for training in made} == {"cosine"}
    if "quarter" in numbers:
        assert numbers["quarter"]["steps"] == wanted
        assert total_steps(task, made[1]) < total_steps(task, made[0]) < wanted


def test_a_path_that_leaves_no_step_for_the_tuning_is_refused(few_steps):
    task, _ = few_steps
    with pytest.raises(ValueError, match="none is left"):
        cells.tuning(task, study.path("M", 0), made=10_000)


def test_recorded_paths_meet_their_budget_and_keep_a_unit_everywhere():
    for r in recorded(SLUG):
        if r.config["arm"] != "path":
            continue
        points = r.numbers["path"]
        assert points[-1]["mark"] == r.config["to"]
        assert all(min(p["kept"].values()) >= 1 for p in points)
        macs = [p["macs"] for p in points]
        assert macs == sorted(macs, reverse=True)
        if r.config["lr"]:
            half = next(p for p in points if p["mark"] == cells.HALF)
            assert [r.numbers[k] for k in ("macs", "activations", "params")] == [
                half[k] for k in ("macs", "activations", "params")
            ]
        if not r.config["coupled"]:
            assert all(p["kept"]["stem.0"] == 16 for p in points)


def test_all_arms_of_the_record_made_equally_many_steps():
    steps = {r.numbers["steps"] for r in recorded(SLUG) if "steps" in r.numbers}
    assert len(steps) == 1
