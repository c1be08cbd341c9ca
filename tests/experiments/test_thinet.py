"""What is particular to this experiment; the contract of all is in test_contract.py."""

import dataclasses
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.thinet import cells, layers, study
from survey_lib.experiments.thinet.cells import Cell
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.thinet import method, rows, variants
from survey_lib.tasks.dense import dense_net, seeded, shipped_net
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import total_steps

SLUG = "thinet"
SHORT = {"epochs": 0.02, "dense_lr": 0.1, "images": 3, "pairs": 5}


def rows_of(*pairs):
    records = [
        Record(SLUG, "study", dataclasses.asdict(c), c.seed, "k", "done", n) for c, n in pairs
    ]
    return Rows(records, Cell, ("lr", "dense_lr"))


def crossed(before, net="plain", of="test", same=None):
    """All choices, repairs and shares of a net: ``before(choice, scaled, i)`` as accuracy."""
    make = study.crossed if net == "plain" else study.crossed_norm
    return [
        (c, {
            "before": {"test": -9.0, "test_re": -9.0} | {of: before(c.choice, c.scaled, i)},
            "same_channels": {"test": -9.0} | {of: same(i)} if same else {},
        })
        for c in make(0) for i in [study.SHARES.index(c.r)]
    ]  # fmt: skip


# ---- what is asked


def test_the_choice_is_compared_at_equal_repair():
    """Scalars are worth 0.2 everywhere and the choice less: no statistic may mix the two."""
    worth = {"thinet": 0.5, "weight_sum": 0.4, "random": 0.1}
    found = rows_of(*crossed(lambda choice, scaled, i: worth[choice] + 0.2 * scaled + 0.1 * i))
    assert study.choice_alone(found) == pytest.approx(0.1)
    assert study.choice_with_scalars(found) == pytest.approx(0.1)
    assert study.over_random(found) == pytest.approx(0.4)


def test_each_repair_has_its_own_statistic():
    worth = {("thinet", True): 0.7, ("weight_sum", True): 0.6}
    found = rows_of(*crossed(lambda choice, scaled, i: worth.get((choice, scaled), 0.3)))
    assert study.choice_alone(found) == pytest.approx(0.0)
    assert study.choice_with_scalars(found) == pytest.approx(0.1)


def test_nets_with_batch_norm_are_judged_by_fresh_statistics():
    worth = {"thinet": 0.5, "weight_sum": 0.4, "random": 0.0}
    norm = crossed(lambda choice, scaled, i: worth[choice], "norm", "test_re")
    assert study.choice_with_norm(rows_of(*norm)) == pytest.approx(0.1)
    with pytest.raises(MissingArm):
        study.choice_with_norm(rows_of(*crossed(lambda *_: 0.5)))


def test_the_gain_of_rescaling_is_a_mean_over_shares_of_the_same_channels():
    def numbers(net, of):
        return crossed(lambda choice, s, i: 0.8, net, of, lambda i: 0.7 - 0.1 * i)

    assert study.rescaling_gain(rows_of(*numbers("plain", "test"))) == pytest.approx(0.2)
    found = rows_of(*numbers("norm", "test_re"))
    assert study.rescaling_gain_with_norm(found) == pytest.approx(0.2)


def test_fresh_statistics_alone_against_scalars_alone():
    cells_of_thinet = [c for c in study.crossed_norm(0) if c.choice == "thinet" and c.scaled]
    numbers = {
        "before": {"test": 0.3, "test_re": 0.9},
        "same_channels": {"test": 0.1, "test_re": 0.7},
    }
    found = rows_of(*((c, numbers) for c in cells_of_thinet))
    assert study.fresh_statistics_over_scalars(found) == pytest.approx(0.4)


def test_after_tuning_choices_are_compared_at_equal_repair_and_share():
    def cell(choice, r=study.HALF, scaled=True):
        return study.tuned(choice, 0, r, scaled)

    tight = study.TIGHT
    found = rows_of(
        (cell("thinet"), {"test": 0.9}),
        (cell("weight_sum"), {"test": 0.88}),
        (cell("thinet", scaled=False), {"test": 0.86}),
        (cell("weight_sum", scaled=False), {"test": 0.86}),
        (cell("thinet", tight), {"test": 0.85}),
        (cell("random", tight), {"test": 0.8}),
        (cell("random"), {"test": 0.1}),
        (study.at_half("scratch", 0), {"test": 0.91}),
    )
    assert study.choice_after_tuning(found) == pytest.approx(0.01)
    assert study.over_random_after_tuning(found) == pytest.approx(0.05)
    assert study.tuned_over_scratch(found) == pytest.approx(-0.01)


def test_replicates_that_were_not_tuned_are_left_out():
    found = rows_of(*crossed(lambda *_: 0.5))
    for statistic in (study.choice_after_tuning, study.tuned_over_scratch):
        with pytest.raises(MissingArm):
            statistic(found)


def test_the_averaging_head_is_compared_with_both_dense_nets():
    found = rows_of(
        (study.dense(0), {"test": 0.9, "params": 1000}),
        (study.dense(0, "averaged"), {"test": 0.87, "params": 600}),
        (study.dense(0, "norm"), {"test": 0.1, "params": 1}),
        (study.at_half("head", 0), {"test": 0.88, "params": 200}),
    )
    assert study.averaging_head_cost(found) == pytest.approx(-0.02)
    assert study.averaging_head_against_its_own(found) == pytest.approx(0.01)
    assert study.averaging_head_parameters(found) == pytest.approx(0.8)


def test_the_worst_draw_counts_not_the_median():
    ratios = {
        "a": {"0.5": [1.0, 1.1], "0.7": [1.0, 1.0], "0.3": [1.0, 1.0]},
        "b": {"0.5": [1.0, 1.0], "0.7": [1.0, 1.3], "0.3": [1.0, 1.0]},
    }
    found = rows_of((study.of_net(Cell("greedy", 0)), {"ratios": ratios}))
    assert study.greedy_worst(found) == 1.3
    assert len([*study.all_ratios({"ratios": ratios})]) == 12


def test_a_statistic_misses_an_arm_by_name():
    for statistic in study.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


# ---- grids


def test_dense_nets_are_trained_before_the_cells_that_need_them():
    cells_of_study = study.GRIDS["study"]()
    alone = {"dense", "scratch"}
    first = next(i for i, c in enumerate(cells_of_study) if c.arm not in alone)
    assert not any(c.arm in alone for c in cells_of_study[first:])
    trained = {(c.seed, c.net) for c in cells_of_study if c.arm == "dense"}
    assert {(c.seed, c.net) for c in cells_of_study if c.arm != "layer"} <= trained


def test_both_sides_of_each_comparison_are_repaired_and_tuned_alike():
    found = {(c.choice, c.r, c.scaled, c.seed): bool(c.lr)
             for s in range(study.FEW) for c in study.crossed(s)}  # fmt: skip
    for (choice, r, scaled, seed), is_tuned in found.items():
        assert found["thinet", r, scaled, seed] == is_tuned, choice


def test_every_tuned_net_makes_equally_many_steps_and_scratch_as_many_as_both():
    task = load_task("vgg_small").with_training(epochs=cells.EPOCHS)
    recipe, between = cells.tuning_of(task, study.tuned("thinet", 0))
    assert recipe.lr == study.RATES["thinet"]
    share = total_steps(task, recipe) / total_steps(task)
    assert share == pytest.approx(25 / 74, abs=0.02)
    assert share * (1 - between) == pytest.approx(12 / 74, abs=0.02)


# ---- cells


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "LAYER_EPOCHS", 0.0)
    monkeypatch.setattr(cells, "FINAL_EPOCHS", 0.02)


def test_a_repaired_rival_keeps_its_own_channels_and_gets_thinets_scalars(cache):
    cell = Cell("cut", 0, choice="weight_sum", r=0.5, **SHORT)
    task = cells.task_of(cell)
    dense = dense_net(task, 0)
    name = "features.0"
    one = replace(cells.config_of(cell), r=((name, 0.5),))
    both, alone = (
        method.layer_by_layer(
            dense, task, None, one, cells.choice_of(replace(cell, scaled=s)), None, seeded(0)
        )
        for s in (True, False)
    )
    assert both.recipe == alone.recipe
    kept = both.recipe[name]
    generator = seeded(0)
    images, _ = rows.calibration_images(task, cell.images, generator)
    group = trace_groups(dense, task.example(1))[name]
    x = rows.sample_rows(dense, group, images, cell.pairs, generator)
    w = method.rescaling(x.x[:, kept], x.y)
    before, after = (m.model.features[2].weight.detach().double() for m in (alone, both))
    assert torch.allclose(after, before * torch.from_numpy(w)[None, :, None, None], atol=1e-6)


def test_forward_selection_is_not_repaired_twice():
    cell = Cell("cut", 0, choice="forward", r=0.5)
    assert cells.choice_of(cell) is variants.CHOICES["forward"]


def test_a_cut_is_measured_before_tuning_and_after(cache):
    numbers = measure(SLUG, Cell("cut", 0, r=0.5, lr=0.05, **SHORT), "digest")
    assert numbers["before"].keys() == {"val", "test"}  # no batch norm, nothing to estimate anew
    assert numbers["same_channels"].keys() == {"val", "test"}
    assert numbers["steps"] == 7  # one after each layer at least, two at the end
    assert {kept / size for size, kept in numbers["layers"].values()} == {0.5}
    untuned = measure(SLUG, Cell("cut", 0, r=0.5, scaled=False, **SHORT), "digest")
    assert not untuned.keys() & {"test", "same_channels", "steps"}


def test_with_batch_norm_accuracy_is_measured_twice_and_the_net_stays_as_it_was():
    task, net = load_task("vgg_small"), shipped_net("vgg_small")
    task = replace(task, data=replace(task.data, val=short(task.val), test=short(task.test)))
    with torch.no_grad():
        net.features[1].running_mean.add_(3.0)  # a statistic that is no longer true
    state = {k: v.clone() for k, v in net.state_dict().items()}
    found = cells.quality(net, task)
    assert found["test"] < 0.5 < found["test_re"]
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def short(split):
    return replace(split, x=split.x[:300], y=split.y[:300])


def test_the_head_is_averaging_and_the_shape_thinets(cache):
    found = measure(SLUG, Cell("head", 0, r=0.5, lr=0.05, **SHORT), "digest")
    widths = [12, 24, 24, 48, 48]
    half = [1, *(w // 2 for w in widths), 48]
    convolutions = sum(9 * a * b + b for a, b in itertools.pairwise(half))
    assert found["params"] == convolutions + 10 * 48 + 10
    scratch = measure(SLUG, Cell("scratch", 0, r=0.5, lr=0.05, **SHORT), "digest")
    cut = measure(SLUG, Cell("cut", 0, r=0.5, lr=0.05, **SHORT), "digest")
    assert scratch["params"] == cut["params"]
    assert scratch["steps"] == cut["steps"] + 2


@pytest.mark.parametrize("arm", ["scratch", "longer", "head"])
def test_what_is_trained_is_measured_after_its_training(cache, monkeypatch, arm):
    """The net that is measured is the net that the last training left."""
    trained, seen = [], []
    fit, standard = cells.fit, cells.standard

    def noted(model, *args, **more):
        history = fit(model, *args, **more)
        trained.append([p.clone() for p in model.parameters()])
        return history

    def looked(model, task):
        seen.append([p.clone() for p in model.parameters()])
        return standard(model, task)

    for module in (cells, method):
        monkeypatch.setattr(module, "fit", noted)
    monkeypatch.setattr(cells, "standard", looked)
    measure(SLUG, Cell(arm, 0, r=1.0 if arm == "longer" else 0.5, lr=0.05, **SHORT), "digest")
    assert all(torch.equal(a, b) for a, b in zip(trained[-1], seen[-1], strict=True))


def test_greedy_over_best_on_the_trap_and_on_nothing():
    trap = np.array([[1, -1, 0.5], [1, -1, 0], [1, -1, 0]])
    assert layers.greedy_over_best(trap.T @ trap, 2) > 1e9  # 2.25 over nothing
    assert layers.greedy_over_best(trap.T @ trap, 1) == 1
    silent = np.zeros((3, 4))
    silent[:, 0] = 1
    assert layers.greedy_over_best(silent.T @ silent, 2) == 1


def test_curves_start_at_nothing_and_end_as_they_must():
    x = np.random.default_rng(0).normal(size=(50, 6))
    some = rows.Rows(x, x.sum(1))
    curves = layers.error_curves(some, some, seeded(0))
    for name, values in curves.items():
        assert len(values) == 6
        assert values[0] == pytest.approx(0, abs=1e-9), name
    for best, greedy, scaled in zip(
        curves["best"], curves["greedy"], curves["scaled"], strict=True
    ):
        assert best <= greedy + 1e-9
        assert scaled <= greedy + 1e-9
    assert curves["greedy"] == curves["greedy_held_out"]


def test_the_explorers_cut_of_a_layer_is_that_of_a_walk():
    name = study.EXPLORED
    numbers, _ = layers.one_layer(name, 4, 5, [0.5], seeded(0, 2))
    task, net = load_task("vgg_small"), shipped_net("vgg_small")
    config = method.Config(r=((name, 0.5),), images=4, pairs=5)
    walked = method.compress(net, task, None, config, tuning=None, generator=seeded(0, 2))
    (found,) = numbers["cuts"]
    assert walked.recipe[name] == found["kept"]
    assert walked.trace["held_out"] == [pytest.approx(found["error"])]
    assert found["accuracy_re"] > found["accuracy_plain"]


# ---- the committed study


def test_records_are_consistent_with_their_configuration():
    for r in recorded(SLUG):
        if r.config["arm"] != "cut":
            continue
        for channels, kept in r.numbers["layers"].values():
            assert kept == int(channels * r.config["r"] + 1e-9)
        assert ("test" in r.numbers) == bool(r.config["lr"])
        assert ("test_re" in r.numbers["before"]) == (r.config["net"] == "norm")


def test_equal_shapes_have_equal_sizes_in_the_study():
    for r in study.SHARES:
        sizes = {
            (x.numbers["params"], x.numbers["macs"])
            for x in recorded(SLUG)
            if x.config["arm"] in ("cut", "scratch") and x.config["lr"] and x.config["r"] == r
        }
        assert len(sizes) <= 1
