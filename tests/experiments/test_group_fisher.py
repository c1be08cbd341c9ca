import numpy as np
import pytest
import torch

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, study
from survey_lib.experiments import group_fisher as experiment
from survey_lib.experiments import runner
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.dense import seeded

SLUG = "group_fisher"


def record(cell, **numbers):
    return Record(SLUG, "study", runner.plain(cell), cell.seed, str(cell), "done", numbers)


def path(name, **numbers):
    return record(experiment.path(name, 0), **numbers)


def test_every_quick_cell_has_its_twin_in_the_study():
    quick, whole = set(experiment.grid("quick")), set(experiment.grid("study"))
    assert quick <= whole
    assert len(whole) == len(experiment.grid("study"))


def test_every_claim_has_its_statistic():
    names = {claim.statistic for claim, _ in runner.claims_and_statistics(SLUG)}
    assert names == set(experiment.STATISTICS)


def test_dense_nets_are_trained_before_the_cells_that_need_them():
    for profile in ("quick", "study", "tune"):
        arms = [c.arm == "dense" for c in experiment.grid(profile)]
        assert arms == sorted(arms, reverse=True)


def test_the_papers_variants_are_told_from_the_settings():
    for name in "MFUI":
        assert experiment.variant_of(runner.plain(experiment.path(name, 0))) == name
    half = experiment.Cell("path", 0, per="macs", alpha=0.5)
    assert experiment.variant_of(runner.plain(half)) == ""


def test_the_explorers_paths_hold_every_setting_once():
    settings = [(c.per, c.alpha, c.coupled) for c in experiment.explored()]
    assert len(settings) == len(set(settings)) == 10
    assert all(c.to == experiment.QUARTER and c.seed == 0 for c in experiment.explored())


def test_ratios_and_differences_of_paths():
    rows = [
        path("M", activations=100, accuracy=0.8, params=200),
        path("F", activations=130, accuracy=0.81, params=180),
        path("U", activations=150, accuracy=0.7, params=90),
        path("I", activations=160, accuracy=0.79, params=220),
        record(experiment.path("M", 0, net="resnext"), activations=1, accuracy=0.1, params=1),
        record(experiment.path("I", 0, tune=False, to=0.25), path=[]),
    ]
    assert experiment.flops_over_memory_activations(rows) == pytest.approx(1.3)
    assert experiment.memory_over_flops_accuracy(rows) == pytest.approx(-0.01)
    assert experiment.flops_over_memory_accuracy(rows) == pytest.approx(0.01)
    assert experiment.memory_over_raw_accuracy(rows) == pytest.approx(0.1)
    assert experiment.raw_over_memory_parameters(rows) == pytest.approx(0.45)
    assert experiment.internal_over_coupled_activations(rows) == pytest.approx(1.6)
    with pytest.raises(MissingArm):
        experiment.memory_over_raw_accuracy(rows[:2])
    with pytest.raises(ValueError, match="2 records"):
        experiment.memory_over_flops_accuracy(rows + rows[:1])


def test_differences_of_correlations():
    cell = experiment.Cell("ranking", 0)
    rows = [record(cell, rho_fisher=0.7, rho_square_first=0.6, rho_first_order=0.75)]
    assert experiment.sum_first_over_square_first(rows) == pytest.approx(0.1)
    assert experiment.fisher_over_first_order(rows) == pytest.approx(-0.05)


def test_rank_correlation_with_ties_by_hand():
    assert experiment.correlation(np.array([1, 2, 3]), np.array([10, 20, 90])) == pytest.approx(1)
    assert experiment.correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == pytest.approx(-1)
    # ranks 1.5, 1.5, 3 against 1, 2, 3
    tied = experiment.correlation(np.array([1, 1, 2]), np.array([1, 2, 3]))
    assert tied == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


@pytest.fixture(scope="module")
def barely_trained():
    cell = experiment.Cell("path", 0, per="macs", epochs=0.1, d=1, tune=False, to=0.6)
    task = experiment.task_of(cell)
    return cell, task, task.build(seeded(0)).eval()


def test_true_rises_are_those_of_nets_without_the_unit(barely_trained):
    _, task, net = barely_trained
    graph = trace_groups(net, task.example(1))
    x, y = task.train.x[:50], task.train.y[:50]
    units = [("stem.0", 3), ("stages.2.conv2", 40)]
    found = experiment.true_rises(net, graph, task, x, y, units)
    with torch.no_grad():
        base = float(task.loss(net(x), y))
        for (name, unit), rise in zip(units, found, strict=True):
            keep = [u for u in range(graph[name].size) if u != unit]
            small = apply_recipe(net, graph, {name: keep})
            assert float(task.loss(small(x), y)) - base == pytest.approx(rise, abs=1e-5)


def test_all_scores_of_a_unit_read_by_one_layer_agree_on_the_order_of_squaring(barely_trained):
    _, task, net = barely_trained
    graph = trace_groups(net, task.example(1))
    scores = experiment.all_scores(net, graph, task, task.train.x[:40], task.train.y[:40])
    for group in graph.prunable:
        alone = len(group.consumers) == 1
        equal = torch.allclose(
            scores["fisher"][group.name], scores["square_first"][group.name], rtol=1e-6
        )
        assert equal == alone
        # the size of a sum is at most the sum of sizes
        assert (scores["first_order"][group.name] <= scores["taylor"][group.name] + 1e-9).all()


def test_a_path_notes_what_is_left_at_every_mark(barely_trained):
    cell, task, net = barely_trained
    numbers = experiment.along_the_path(net, task, cell, seeded(1))
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
    monkeypatch.setattr(experiment.method, "one_by_one", lambda *_, **__: (x for x in ()))
    with pytest.raises(ValueError, match=r"ended before 0\.9"):
        experiment.along_the_path(net, task, cell, seeded(1))


# ---- the committed study


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


def test_recorded_paths_meet_their_budget_and_keep_a_unit_everywhere():
    for r in study(SLUG):
        if r.config["arm"] != "path":
            continue
        points = r.numbers["path"]
        assert points[-1]["mark"] == r.config["to"]
        assert all(min(p["kept"].values()) >= 1 for p in points)
        macs = [p["macs"] for p in points]
        assert macs == sorted(macs, reverse=True)
        if r.config["tune"]:
            half = next(p for p in points if p["mark"] == experiment.HALF)
            assert [r.numbers[k] for k in ("macs", "activations", "params")] == [
                half[k] for k in ("macs", "activations", "params")
            ]
        if not r.config["coupled"]:
            first = points[0]["kept"]
            assert all(p["kept"]["stem.0"] == first["stem.0"] == 16 for p in points)
