import math

import pytest
import torch

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, read_records, study, study_path
from survey_lib.experiments import loss_modelling as experiment
from survey_lib.experiments import runner
from survey_lib.mechanics.masks import prunable_weights
from survey_lib.methods import loss_modelling as method

SLUG = "loss_modelling"
MODELS = experiment.MODELS


def record(criterion, pi=1, lam=0.0, task="mlp", seed=0, **numbers):
    cell = experiment._cell(task, criterion, seed, pi, lam)
    numbers = {"rise_val": numbers.get("rise", 1.0)} | numbers
    return Record(SLUG, "study", runner.plain(cell), seed, "k", "done", numbers)


def test_every_quick_cell_has_its_twin_in_the_study():
    quick, whole = set(experiment.grid("quick")), set(experiment.grid("study"))
    assert quick <= whole
    assert len(whole) == len(experiment.grid("study"))


def test_every_claim_has_its_statistic():
    names = {claim.statistic for claim, _ in runner.claims_and_statistics(SLUG)}
    assert names == set(experiment.STATISTICS)


def test_steps_gain_takes_each_best_penalty_on_validation_and_the_worst_model():
    rows = []
    for criterion, many in zip(MODELS, (0.5, 0.25, 0.8), strict=True):
        rows.append(record(criterion, 1, 0.0, rise=2.0))
        rows.append(record(criterion, 1, 0.1, rise=1.0))
        rows.append(record(criterion, 140, 0.1, rise=many))
        # better on the images it is reported on, worse on validation: not chosen
        rows.append(record(criterion, 140, 1.0, rise=0.01, rise_val=3.0))
    assert experiment.steps_gain(rows) == pytest.approx(math.log(1 / 0.8))


def test_penalty_gain_is_zero_when_no_penalty_is_best():
    rows = [record(c, 1, lam, rise=r) for c in MODELS for lam, r in ((0.0, 1.0), (0.1, 0.5))]
    assert experiment.penalty_gain(rows) == pytest.approx(math.log(2))
    rows += [record("OBD", 1, 0.0, rise=0.4)]
    rows = [r for r in rows if r.config["criterion"] != "OBD" or r.numbers["rise"] in (0.5, 0.4)]
    assert experiment.penalty_gain(rows) == pytest.approx(0.0)


def test_ratios_take_the_longest_pruning_and_the_fully_connected_net():
    rows = [
        record("MP", rise=2.0),
        record("QM", 140, 0.1, rise=1.0),
        record("OBD", 140, 0.1, rise=1.5),
        record("QM", 14, 0.1, rise=0.1),
        record("QM", 14, 0.1, task="cnn_small", rise=0.1),
    ]
    assert experiment.quadratic_over_magnitude(rows) == pytest.approx(math.log(2))
    assert experiment.quadratic_over_obd(rows) == pytest.approx(math.log(1.5))


def test_the_correlation_is_taken_over_the_lower_half_only():
    """Perfect agreement in the lower half, disorder above it, and the other way round."""
    rises, rows = range(1, 13), []
    places = [(c, 1, lam) for c in MODELS for lam in (0.0, 1e-3, 1e-2, 0.1)][:11]
    places.append(("MP", 1, 0.0))
    for (c, pi, lam), rise in zip(places, rises, strict=True):
        gap = rise if rise <= 6 else -rise
        rows.append(record(c, pi, lam, rise=float(rise), gap=float(gap)))
    assert experiment.loss_accuracy_correlation(rows) == pytest.approx(1.0)
    flipped = [
        Record(SLUG, "study", r.config, 0, "k", "done", r.numbers | {"gap": -r.numbers["gap"]})
        for r in rows
    ]
    assert experiment.loss_accuracy_correlation(flipped) == pytest.approx(-1.0)


def test_spearman_by_hand_and_with_ties():
    assert experiment.spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207826817)
    from scipy.stats import spearmanr

    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(9, (2, 30), generator=generator).tolist()
    assert experiment.spearman(x, y) == pytest.approx(spearmanr(x, y)[0])


def test_the_tuned_runs_compared_are_chosen_on_validation():
    rows = [
        record("LM", 14, 0.1, accuracy=0.80, val=0.9),
        record("LM", 140, 0.1, accuracy=0.99, val=0.8),
        record("QM", 14, 0.1, accuracy=0.79, val=0.9),
        record("QM", 1, 0.1),  # not tuned
    ]
    assert experiment.linear_minus_quadratic(rows) == pytest.approx(0.01)


def test_a_missing_arm_is_a_key_error():
    for statistic in experiment.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


def test_the_papers_counts():
    """784-300-100-10 without biases: 266,200 weights, of which 3,069 stay at κ = 0.98847."""
    net = experiment.dense_task("mlp").build(torch.Generator().manual_seed(0))
    total = sum(w.numel() for w in prunable_weights(net, spare_first_conv=False).values())
    assert total == 266_200
    assert total - round(experiment.KAPPA["mlp"] * total) == 3_069
    assert experiment.KAPPA["mlp"] == pytest.approx(1 - 0.8**20, abs=5e-6)
    assert experiment.KAPPA["cnn_small"] == pytest.approx(1 - 0.8**14, abs=5e-5)


def test_the_convolutional_net_has_no_batch_norm():
    net = experiment.dense_task("cnn_small").build(torch.Generator().manual_seed(0))
    assert not any("norm" in type(m).__name__.lower() for m in net.modules())


def test_learning_rates_are_the_best_on_validation_with_as_many_tries_for_each_side():
    tuned = read_records(study_path(SLUG, "tune"))
    assert experiment.best_rates(tuned) == experiment.LEARNING_RATES
    for task in experiment.KAPPA:
        for criterion in (*MODELS, "MP", "dense"):
            tried = {
                (r.config["lr"], r.seed)
                for r in tuned
                if r.config["task"] == task and r.config["criterion"] == criterion
            }
            assert len(tried) == len(experiment.TRIED_RATES[task]) * len(experiment.TUNE_SEEDS)
    assert not set(experiment.TUNE_SEEDS) & {r.seed for r in study(SLUG)}


def test_the_committed_study_covers_the_grid_and_every_claim_is_judged():
    recorded = {r.key for r in study(SLUG)}
    wanted = {runner.cell_key(SLUG, c) for c in experiment.grid("study")}
    assert recorded == wanted
    words = {v.claim.id: v for v in runner.verdicts(SLUG)}
    assert len(words) == len(read_card(SLUG).claims)
    assert all(v.interval is not None for v in words.values())
    assert not any(v.changed for v in words.values())


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in study(SLUG):
        layers, path, kappa = r.numbers["layers"], r.numbers["path"], experiment.KAPPA
        if r.config["criterion"] == "dense":
            assert not layers
            assert r.numbers["rise"] == 0
            continue
        size, kept = (sum(column) for column in zip(*layers.values(), strict=True))
        assert kept == size - round(kappa[r.config["task"]] * size)
        if r.config["criterion"] == "random":
            continue
        assert len(path["loss"]) == min(r.config["pi"], experiment.PATH_POINTS) + 1
        if r.config["pi"] <= experiment.PATH_POINTS:
            first = method.sparsity_at(1, r.config["pi"], kappa[r.config["task"]])
            assert path["sparsity"][1] == pytest.approx(first, abs=1e-4)
        assert r.numbers["rise_seen"] == pytest.approx(path["loss"][-1] - path["loss"][0], abs=2e-3)


def test_runs_on_one_dense_net_share_it_and_magnitude_beats_random_masks():
    by_net = {}
    for r in study(SLUG):
        by_net.setdefault((r.config["task"], r.seed), []).append(r)
    for rows in by_net.values():
        assert len({r.numbers["accuracy_dense"] for r in rows}) == 1
        named = {r.config["criterion"]: r.numbers for r in rows}
        assert named["MP"]["accuracy"] > named["random"]["accuracy"]
