"""What is particular to this experiment; the contract of all is in test_contract.py."""

import math
from dataclasses import asdict, replace

import pytest
import torch
from scipy.stats import spearmanr

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.loss_modelling import cells, study
from survey_lib.experiments.loss_modelling.cells import Cell
from survey_lib.mechanics.masks import prunable_weights
from survey_lib.methods import loss_modelling as method

SLUG = "loss_modelling"
MODELS = study.MODELS


def rows(*pairs):
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell, ("lr",))


def risen(family, pi, rise, arms=MODELS, **val):
    """All settings of a net and a step count: ``rise(arm, λ)`` on both kinds of images."""
    return [
        (Cell(seed=0, **s), {"rise": r, "rise_val": val.get("val", {}).get(s["lam"], r)})
        for arm in arms
        for s in study.settings(family, arm, pi)
        for r in [rise(arm, s["lam"])]
    ]


def magnitude(rise, family="mlp"):
    return Cell("MP", 0, family), {"rise": rise, "rise_val": rise}


def test_steps_gain_takes_each_best_penalty_on_validation_and_the_worst_model():
    many = {"LM": 0.5, "QM": 0.25, "OBD": 0.8}
    found = rows(
        *risen("mlp", 1, lambda arm, lam: 1.0 if lam == 1e-2 else 2.0),
        # at λ = 0 better on the images it is reported on, worse on validation: not chosen
        *risen("mlp", 140, lambda arm, lam: many[arm] if lam else 0.01, val={0.0: 3.0}),
    )
    assert study.steps_gain(found) == pytest.approx(math.log(1 / 0.8))


def test_from_fourteen_steps_to_many_each_model_is_asked_alone():
    few = {"LM": 1.0, "QM": 1.2, "OBD": 1.5}
    many = {"LM": 0.8, "QM": 0.6, "OBD": 1.4}
    found = rows(
        *risen("mlp", 14, lambda arm, lam: few[arm]), *risen("mlp", 140, lambda arm, lam: many[arm])
    )
    assert study.slope_gains_from_many(found) == pytest.approx(math.log(1 / 0.8))
    assert study.obd_gains_from_many(found) == pytest.approx(math.log(1.5 / 1.4))
    assert study.slope_over_steps(found) == pytest.approx(math.log(1.4 / 1.2))
    assert study.quadratic_over_obd(found) == pytest.approx(math.log(1.4 / 0.6))


@pytest.mark.parametrize("family", ["mlp", "cnn"])
def test_a_penalty_has_to_beat_none_and_an_endless_one(family):
    """The best λ > 0 is compared with λ = 0 and with magnitude, whichever is lower."""

    def gain(free, best, size):
        some = risen(family, 1, lambda arm, lam: free if lam == 0 else best if lam == 0.1 else 9.0)
        statistic = study.penalty_gain if family == "mlp" else study.penalty_gain_cnn
        return statistic(rows(*some, magnitude(size, family)))

    assert gain(2.0, 1.0, 4.0) == pytest.approx(math.log(2))
    assert gain(4.0, 1.0, 2.0) == pytest.approx(math.log(2))
    assert gain(4.0, 2.0, 2.0) == pytest.approx(0)  # no better than magnitude
    assert gain(1.0, 2.0, 4.0) == pytest.approx(-math.log(2))  # no penalty was best


def test_ratios_to_magnitude_on_both_nets():
    found = rows(
        *risen("mlp", 140, lambda arm, lam: 1.0 if lam == 1e-2 else 5.0, ("QM",)),
        *risen("cnn", 14, lambda arm, lam: {"LM": 0.2, "QM": 0.3, "OBD": 0.4}[arm]),
        magnitude(2.0),
        magnitude(0.8, "cnn"),
    )
    assert study.quadratic_over_magnitude(found) == pytest.approx(math.log(2))
    assert study.models_over_magnitude_cnn(found) == pytest.approx(math.log(2))  # OBD's: the worst


def ranked(test):
    """All tuned runs, their ΔL rising from 0, with ``test(i, n)`` as accuracy."""
    wanted = study.tuned(*MODELS, "MP")
    n = len(wanted)
    numbers = ({"rise": float(i), "test": test(i, n)} for i in range(n))
    return rows(*((Cell(seed=0, **s), x) for s, x in zip(wanted, numbers, strict=True)))


def test_the_correlation_is_taken_over_the_lower_half_only():
    """Agreement there and disorder above it, and the other way round: error is what is ranked."""
    assert study.correlation_of_better_half(
        ranked(lambda i, n: -i if i < round(n / 2) else i)
    ) == pytest.approx(1.0)
    found = ranked(lambda i, n: i if i < round(n / 2) else -100.0 * i)
    assert study.correlation_of_better_half(found) == pytest.approx(-1.0)
    assert study.rank_correlation(found, 1.0, *MODELS, "MP") > 0


def test_spearman_by_hand_and_with_ties():
    assert study.spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207826817)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randint(9, (2, 30), generator=generator).tolist()
    assert study.spearman(x, y) == pytest.approx(spearmanr(x, y)[0])


def test_tuned_runs_are_chosen_on_validation_and_judged_on_test():
    found = []
    for s in study.tuned(*MODELS, "MP"):
        numbers = {"val": 0.8, "test": 0.7, "rise": 1.0, "rise_val": 1.0}
        if (s["arm"], s.get("pi"), s.get("lam")) == ("LM", 14, 0.1):
            numbers |= {"val": 0.9, "test": 0.8}
        if (s["arm"], s.get("pi"), s.get("lam")) == ("QM", 140, 0.0):
            numbers |= {"val": 0.85, "test": 0.78, "rise_val": 0.1}
        if (s["arm"], s.get("pi"), s.get("lam")) == ("LM", 1, 0.0):
            numbers |= {"test": 0.99}  # the best on test is not the one chosen
        found.append((Cell(seed=0, **s), numbers))
    found = rows(*found)
    assert study.linear_minus_quadratic(found) == pytest.approx(0.02)
    assert study.linear_minus_magnitude(found) == pytest.approx(0.1)
    assert study.cost_of_choosing_by_loss(found) == pytest.approx(0.02)


def test_penalties_that_are_not_tuned_are_never_taken_for_the_most_accurate():
    assert all(s.get("lam", 0) <= study.TUNED_UP_TO for s in study.tuned(*MODELS, "MP"))
    for c in study.GRIDS["study"]():
        tuned = c.family == "mlp" and c.lam <= study.TUNED_UP_TO
        assert bool(c.lr) == tuned, c


def test_a_statistic_misses_an_arm_by_name():
    for statistic in study.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


def test_the_papers_counts():
    """784-300-100-10 without biases: 266,200 weights, of which 3,069 stay at κ = 0.98847."""
    net = cells.task_of("mlp").build(torch.Generator().manual_seed(0))
    total = sum(w.numel() for w in prunable_weights(net, spare_first_conv=False).values())
    kappa = {name: family.kappa for name, family in cells.FAMILIES.items()}
    assert total == 266_200
    assert total - round(kappa["mlp"] * total) == 3_069
    assert kappa["mlp"] == pytest.approx(1 - 0.8**20, abs=5e-6)
    assert kappa["cnn"] == pytest.approx(1 - 0.8**14, abs=5e-5)


def test_the_convolutional_net_has_no_batch_norm():
    net = cells.task_of("cnn").build(torch.Generator().manual_seed(0))
    assert not any("norm" in type(m).__name__.lower() for m in net.modules())


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_mlp_task):
    """The experiment on four classes of blobs, with a cache of its own."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "task_of", lambda family: tiny_mlp_task)
    monkeypatch.setattr(cells, "EXAMPLES", 60)
    few = {name: replace(f, kappa=0.9, epochs=1.0) for name, f in cells.FAMILIES.items()}
    monkeypatch.setattr(cells, "FAMILIES", few)
    cells._dense.cache_clear()
    yield lambda arm, **knobs: measure(SLUG, Cell(arm, 0, **knobs), "digest")
    cells._dense.cache_clear()


def test_arms_differ_in_what_goes_and_not_in_how_much(small):
    found = {arm: small(arm, lr=0.1) for arm in cells.ARMS}
    kept = {a: sum(k for _, k in n["layers"].values()) for a, n in found.items() if n["layers"]}
    assert set(kept) == set(cells.ARMS) - {"dense"}
    assert len(set(kept.values())) == 1
    assert len({n["dense_test"] for n in found.values()}) == 1
    assert found["dense"]["rise"] == 0
    assert all(found[a]["rise"] != 0 for a in kept)
    assert all(math.isfinite(n["test"]) for n in found.values())


def test_without_a_rate_nothing_is_trained(small):
    cut, tuned = small("MP"), small("MP", lr=0.1)
    assert cut["test"] == cut["pruned_test"] == tuned["pruned_test"]
    assert cut["rise"] == tuned["rise"]
    assert cut["loss"] != tuned["loss"]


def test_the_reported_rise_is_on_images_the_criteria_have_not_seen(small, tiny_mlp_task):
    numbers = small("LM", pi=3)
    seen, others = cells.images_of(tiny_mlp_task, 0)
    assert len(seen) == 60
    assert len(seen) + len(others) == len(tiny_mlp_task.train)
    path = numbers["path"]["loss"]
    assert numbers["rise_seen"] == pytest.approx(path[-1] - path[0], abs=2e-4)
    assert numbers["rise"] != numbers["rise_seen"]


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in recorded(SLUG):
        cell = Cell(**r.config)
        layers, path, kappa = r.numbers["layers"], r.numbers["path"], cells.FAMILIES
        if cell.arm == "dense":
            assert not layers
            assert r.numbers["rise"] == 0
            continue
        size, kept = (sum(column) for column in zip(*layers.values(), strict=True))
        assert kept == size - round(kappa[cell.family].kappa * size)
        if cell.arm == "random":
            continue
        assert len(path["loss"]) == min(cell.pi, cells.PATH_POINTS) + 1
        if cell.pi <= cells.PATH_POINTS:
            first = method.sparsity_at(1, cell.pi, kappa[cell.family].kappa)
            assert path["sparsity"][1] == pytest.approx(first, abs=1e-4)
        assert r.numbers["rise_seen"] == pytest.approx(path["loss"][-1] - path["loss"][0], abs=2e-3)


def test_runs_on_one_dense_net_share_it_and_magnitude_beats_random_masks():
    by_seed = {}
    for r in recorded(SLUG):
        by_seed.setdefault(r.seed, []).append(r)
    for found in by_seed.values():
        for family in cells.FAMILIES:
            accuracies = {r.numbers["dense_test"] for r in found if r.config["family"] == family}
            assert len(accuracies) <= 1
        here = Rows(found, Cell, ("lr",))
        assert here.one(arm="MP")["test"] > here.one(arm="random")["test"]
