import itertools
import math

import pytest

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, study
from survey_lib.experiments import runner
from survey_lib.experiments import to_prune_or_not as experiment

SLUG = "to_prune_or_not"


def record(seed=0, **config):
    cell = experiment._cell(config.pop("task"), config.pop("width"), config.pop("arm"), seed,
                            **config.pop("more", {}))  # fmt: skip
    return Record(SLUG, "study", runner.plain(cell), seed, "k", "done", config)


def pair(task, width, dense, sparse, large=None):
    large = large or experiment.DENSE_WIDTHS[task][0]
    return [
        record(task=task, width=width, arm="dense", **dense),
        record(task=task, width=large, arm="gradual", more={"match": width}, **sparse),
    ]


def test_every_quick_cell_has_its_twin_in_the_study():
    quick, whole = set(experiment.grid("quick")), set(experiment.grid("study"))
    assert quick <= whole
    assert len(whole) == len(experiment.grid("study"))


def test_every_claim_has_its_statistic():
    names = {claim.statistic for claim, _ in runner.claims_and_statistics(SLUG)}
    assert names == set(experiment.STATISTICS)


def test_sparse_cells_keep_exactly_as_many_parameters_as_the_dense_net_they_match():
    for cell in experiment.grid("quick"):
        if cell.match is not None:
            total = experiment.dense_parameters(cell.task, cell.width)
            target = experiment.dense_parameters(cell.task, cell.match)
            assert experiment.kept_share(cell) * total == pytest.approx(target)


def test_gap_is_sparse_minus_dense_averaged_over_budgets():
    rows = []
    for i, w in enumerate(experiment.DENSE_WIDTHS["mlp"][1:]):
        rows += pair("mlp", w, {"accuracy": 0.5}, {"accuracy": 0.5 + 0.1 * i})
    assert experiment.mlp_gap(rows) == pytest.approx(0.15)


def test_language_gap_is_positive_when_the_sparse_perplexity_is_lower():
    rows = []
    for w in experiment.DENSE_WIDTHS["char_gpt"][1:]:
        rows += pair("char_gpt", w, {"perplexity": math.e**2}, {"perplexity": math.e})
    assert experiment.gpt_gap(rows) == pytest.approx(1.0)


def test_gap_growth_compares_smallest_with_largest_budget():
    rows = pair("cnn_small", 0.71, {"accuracy": 0.9}, {"accuracy": 0.91})
    rows += pair("cnn_small", 0.16, {"accuracy": 0.7}, {"accuracy": 0.75})
    assert experiment.gap_growth(rows) == pytest.approx(0.04)


def test_accelerating_loss_is_positive_for_a_cliff():
    large = record(task="cnn_small", width=1.0, arm="dense", accuracy=0.9)
    rows = [
        large,
        pair("cnn_small", 0.32, {}, {"accuracy": 0.89})[1],
        pair("cnn_small", 0.16, {}, {"accuracy": 0.8})[1],
    ]
    assert experiment.accelerating_loss(rows) == pytest.approx(0.09 - 0.01)


def test_half_free_compares_with_the_large_dense_net():
    rows = pair("cnn_small", 0.71, {"accuracy": 0.1}, {"accuracy": 0.88})
    rows.append(record(task="cnn_small", width=1.0, arm="dense", accuracy=0.9))
    assert experiment.half_is_free(rows) == pytest.approx(-0.02)


def test_ablation_statistics_take_the_right_arms():
    base = experiment._ablation(0)
    by_arm = dict(zip(("base", "shot", "linear", "few", "global", "random"), base, strict=True))
    accuracy = {"base": 0.8, "shot": 0.7, "linear": 0.1, "few": 0.79, "global": 0.2, "random": 0.3}
    rows = [
        Record(SLUG, "study", runner.plain(cell), 0, name, "done", {"accuracy": accuracy[name]})
        for name, cell in by_arm.items()
    ]
    assert experiment.gradual_over_one_shot(rows) == pytest.approx(0.1)
    assert experiment.update_interval(rows) == pytest.approx(-0.01)
    rows.append(pair("cnn_small", 0.16, {}, {"accuracy": 0.75})[1])
    assert experiment.medium_start(rows) == pytest.approx(0.05)


def test_interpolation_is_linear_in_log_bytes_and_refuses_to_extrapolate():
    points = [(1.0, 0.0), (100.0, 1.0)]
    assert experiment.interpolate(points, 10) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="outside"):
        experiment.interpolate(points, 101)


def test_equal_bytes_gap_counts_the_mask():
    """A sparse net whose file weighs as much as the next wider dense net is compared with that."""
    widths = experiment.DENSE_WIDTHS["mlp"]
    size = {w: 1000 * 4**i for i, w in enumerate(reversed(widths))}
    accuracy = {w: 0.1 * i for i, w in enumerate(reversed(widths))}
    rows = [
        record(task="mlp", width=w, arm="dense", bytes_dense=size[w], accuracy=accuracy[w])
        for w in widths
    ]
    for wider, w in itertools.pairwise(widths):
        sparse = {"accuracy": accuracy[w], "bytes_bitmask": size[wider]}
        rows.append(pair("mlp", w, {}, sparse)[1])
    assert experiment.gap_at_equal_bytes(rows) == pytest.approx(-0.1)


def test_a_missing_arm_is_a_key_error_and_a_double_one_an_error():
    with pytest.raises(MissingArm):
        experiment.mlp_gap([])
    twice = pair("mlp", 0.5, {"accuracy": 1}, {"accuracy": 1}) * 2
    with pytest.raises(ValueError, match="2 records"):
        experiment._gap(twice, "mlp", 0.5)


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
        layers = r.numbers["layers"]
        if r.config["arm"] == "dense":
            assert r.numbers["nonzeros"] > 0.97 * r.numbers["params"]
            continue
        cut = sum(size - kept for size, kept in layers.values())
        share = experiment.kept_share(experiment.Cell(**r.config))
        assert abs(r.numbers["params"] - cut - share * r.numbers["params"]) <= len(layers)
        assert r.numbers["nonzeros"] <= r.numbers["params"] - cut
        if r.config["arm"] == "gradual":
            assert r.numbers["trace"]["sparsity"] == sorted(r.numbers["trace"]["sparsity"])


def test_random_scores_would_lose_against_magnitude_in_the_study():
    rows = [r for r in study(SLUG) if r.config["match"] == experiment.ABLATED
            and r.config["width"] == experiment.MEDIUM]  # fmt: skip
    by_arm = {}
    for r in rows:
        if r.config["arm"] == "random" or all(
            r.config[k] == v for k, v in experiment.DEFAULT.items()
        ):
            by_arm.setdefault(r.config["arm"], []).append(r.numbers["accuracy"])
    mean = {arm: sum(v) / len(v) for arm, v in by_arm.items()}
    assert mean["gradual"] > mean["random"]
