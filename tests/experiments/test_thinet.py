import numpy as np
import pytest
import torch

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, study
from survey_lib.experiments import runner
from survey_lib.experiments import thinet as experiment
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.thinet import method
from survey_lib.methods.thinet.rows import Rows
from survey_lib.tasks.dense import seeded, train_dense
from survey_lib.tasks.task import load_task

SLUG = "thinet"


def record(arm, r=1.0, seed=0, bn=False, **numbers):
    cell = experiment._cell(arm, seed, r, bn=bn)
    return Record(SLUG, "study", runner.plain(cell), seed, f"{arm}{r}{bn}", "done", numbers)


def test_every_quick_cell_has_its_twin_in_the_study():
    quick, whole = set(experiment.grid("quick")), set(experiment.grid("study"))
    assert quick <= whole
    assert len(whole) == len(experiment.grid("study"))


def test_every_claim_has_its_statistic():
    names = {claim.statistic for claim, _ in runner.claims_and_statistics(SLUG)}
    assert names == set(experiment.STATISTICS)


def test_dense_nets_are_trained_before_the_cells_that_need_them():
    for profile in ("quick", "study", "tune"):
        arms = [c.arm for c in experiment.grid(profile)]
        free = {"dense", "scratch", "layer"}
        needs = [i for i, arm in enumerate(arms) if arm not in free]
        assert all(arm in free for arm in arms[: needs[0]])
        assert all(arm not in free for arm in arms[needs[0] :])


def test_all_ways_to_choose_get_one_schedule_and_one_rate():
    cells = [c for c in experiment.grid("study") if c.arm in experiment.SELECTORS and c.tune]
    configs = {experiment.tuning_of(load_task("vgg_small"), c, 5) for c in cells}
    assert len(configs) == 1
    assert {c.arm for c in cells} == set(experiment.SELECTORS) - {"forward"}


def test_gains_are_means_over_three_shares():
    rows = []
    for i, r in enumerate(experiment.SHARES):
        rows += [
            record("thinet", r, accuracy_before=0.8, accuracy_same_channels=0.7 - 0.1 * i),
            record("weight_sum", r, accuracy_before=0.5 + 0.1 * i),
            record("random", r, accuracy_before=0.1 * i),
        ]
    rows.append(record("thinet", 0.5, bn=True, accuracy_before=0.0))
    assert experiment.over_weight_sum(rows) == pytest.approx(0.2)
    assert experiment.over_random(rows) == pytest.approx(0.7)
    assert experiment.rescaling_gain(rows) == pytest.approx(0.2)


def test_the_ratio_is_the_median_at_half_the_channels():
    ratios = {
        "a": {"0.5": [1.0, 1.1, 1.2], "0.7": [9.0], "0.3": [9.0]},
        "b": {"0.5": [1.3, 1.4], "0.7": [9.0], "0.3": [9.0]},
    }
    assert experiment.greedy_ratio([record("greedy", ratios=ratios)]) == pytest.approx(1.2)


def test_the_averaging_head_is_compared_with_the_dense_net_of_the_old_head():
    rows = [
        record("dense", accuracy=0.9, params=1000),
        record("dense", bn=True, accuracy=0.1, params=1),
        record("gap", 0.5, accuracy=0.88, params=200),
        record("gap", 0.5, bn=True, accuracy=0.2, params=2),
    ]
    assert experiment.averaging_head_cost(rows) == pytest.approx(-0.02)
    assert experiment.averaging_head_parameters(rows) == pytest.approx(0.8)


def test_tuned_minus_scratch():
    rows = [record("thinet", 0.5, accuracy=0.88), record("scratch", 0.5, accuracy=0.9)]
    assert experiment.tuned_over_scratch(rows) == pytest.approx(-0.02)
    with pytest.raises(MissingArm):
        experiment.tuned_over_scratch(rows[:1])
    with pytest.raises(ValueError, match="2 records"):
        experiment.tuned_over_scratch(rows * 2)


def test_greedy_over_best_on_the_trap_and_on_nothing():
    trap = np.array([[1, -1, 0.5], [1, -1, 0], [1, -1, 0]])
    assert experiment.greedy_over_best(trap.T @ trap, 2) > 1e9  # 2.25 over nothing
    assert experiment.greedy_over_best(trap.T @ trap, 1) == 1
    silent = np.zeros((3, 4))
    silent[:, 0] = 1
    assert experiment.greedy_over_best(silent.T @ silent, 2) == 1


def test_curves_start_at_nothing_and_end_as_they_must():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6))
    rows = Rows(x, x.sum(1))
    curves = experiment.error_curves(rows, rows, seeded(0))
    for name, values in curves.items():
        assert len(values) == 6
        assert values[0] == pytest.approx(0, abs=1e-9), name
    for best, greedy, scaled in zip(
        curves["best"], curves["greedy"], curves["scaled"], strict=True
    ):
        assert best <= greedy + 1e-9
        assert scaled <= greedy + 1e-9
    assert curves["greedy"] == curves["greedy_held_out"]


@pytest.fixture(scope="module")
def barely_trained():
    cell = experiment._cell("thinet", 0, 0.5, epochs=0.1, images=3, pairs=5)
    task = experiment.task_of(cell)
    return cell, task, train_dense(task, 0)


def test_gap_and_tiny_have_the_papers_shapes(barely_trained, monkeypatch):
    cell, task, dense = barely_trained
    monkeypatch.setattr(experiment, "LAYER_EPOCHS", 0.0)
    monkeypatch.setattr(experiment, "FINAL_EPOCHS", 0.0)
    shapes = {}
    for arm in experiment.NETS:
        from dataclasses import replace

        net = experiment.other_net(dense, task, replace(cell, arm=arm), seeded(0)).model
        shapes[arm] = [m.out_channels for m in net.features if hasattr(m, "out_channels")]
        assert isinstance(net.classifier[0], torch.nn.AdaptiveAvgPool2d)
        assert net(task.example(2)).shape == (2, 10)
    assert shapes == {"gap": [8, 16, 16, 32, 32, 64], "tiny": [4, 8, 8, 16, 16, 32]}


def test_scratch_has_the_pruned_shape_and_weights_of_its_own(barely_trained, monkeypatch):
    cell, task, dense = barely_trained
    monkeypatch.setattr(experiment, "TUNING_EPOCHS", -cell.epochs + 0.02)
    small = experiment.scratch(task, cell, seeded(0))
    config = experiment.config_of(cell)
    pruned = method.compress(dense, task, None, config, tuning=None, generator=seeded(0)).model
    assert [p.shape for p in small.parameters()] == [p.shape for p in pruned.parameters()]
    bound = (9 * 8) ** -0.5  # torch's default for 8 inputs and 3 × 3 weights
    largest = small.features[2].weight.abs().max()
    assert 0.8 * bound < largest < 1.2 * bound


def test_the_first_unpruned_cut_of_a_layer_is_that_of_the_walk():
    """The explorer's single cut equals a walk of one layer with the same rows."""
    name = experiment.EXPLORED
    cell = experiment._cell("layer", 0, bn=True, layer=name, images=4, pairs=5)
    task, net = load_task("vgg_small"), experiment.shipped_net("vgg_small")
    graph, generator = trace_groups(net, task.example(1)), seeded(0, 2)
    fit, check = experiment.calibration_images(task, cell.images, generator)
    rows, held_out = (
        experiment.sample_rows(net, graph[name], x, cell.pairs, generator) for x in (fit, check)
    )
    found = experiment.cut_one_layer(net, task, name, rows, held_out, 0.5)
    config = method.Config(r=((name, 0.5),), images=4, pairs=5)
    walked = method.compress(net, task, None, config, tuning=None, generator=seeded(0, 2))
    assert walked.recipe[name] == found["kept"]
    assert walked.trace["held_out"] == [pytest.approx(found["error"])]


def test_the_explorer_opens_with_a_layer_it_has():
    assert experiment.EXPLORED in experiment.explored_layers()


def test_the_committed_study_covers_the_grid_and_every_claim_is_judged():
    recorded = {r.key for r in study(SLUG)}
    wanted = {runner.cell_key(SLUG, c) for c in experiment.grid("study")}
    assert recorded == wanted
    words = {v.claim.id: v for v in runner.verdicts(SLUG)}
    assert len(words) == len(read_card(SLUG).claims)
    assert all(v.interval is not None for v in words.values())
    assert not any(v.changed for v in words.values())


def test_the_rates_are_those_that_the_recorded_tries_chose():
    assert experiment.best_rates(study(SLUG, "tune")) == experiment.LEARNING_RATES


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in study(SLUG):
        if r.config["arm"] not in experiment.SELECTORS:
            continue
        for channels, kept in r.numbers["layers"].values():
            assert kept == int(channels * r.config["r"] + 1e-9)
        assert ("accuracy" in r.numbers) == r.config["tune"]
        assert r.numbers["reconstruction"] >= 0


def test_equal_shapes_have_equal_sizes_in_the_study():
    for r in experiment.SHARES:
        sizes = {
            (x.numbers["params"], x.numbers["macs"])
            for x in study(SLUG)
            if x.config["arm"] in (*experiment.SELECTORS, "scratch")
            and x.config["r"] == r
            and not x.config["bn"]
        }
        assert len(sizes) == 1
