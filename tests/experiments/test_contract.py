"""What every experiment must satisfy, whatever it asks: cells, grids, rates, statistics."""

import dataclasses

import pytest

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import best_rates, by_cell, tune_grid
from survey_lib.evidence.reading import study
from survey_lib.experiments import EXPERIMENTS, judging, runner
from survey_lib.experiments.context import cell_key, needed

TWO_FILES = [s for s in EXPERIMENTS if runner.experiment(s).cells is not runner.experiment(s).study]


@pytest.fixture(params=EXPERIMENTS)
def experiment(request):
    return runner.experiment(request.param)


@pytest.fixture(params=TWO_FILES)
def asked(request):
    """An experiment of two files."""
    return runner.experiment(request.param)


def test_a_cell_is_frozen_and_has_an_arm_a_seed_and_knobs_with_defaults(asked):
    fields = {f.name: f for f in dataclasses.fields(asked.cells.Cell)}
    assert asked.cells.Cell.__dataclass_params__.frozen
    assert [*fields][:2] == ["arm", "seed"]
    for name, f in fields.items():
        assert name in ("arm", "seed") or f.default is not dataclasses.MISSING, name


def test_every_arm_of_every_grid_can_be_measured(asked):
    for profile in ("smoke", "quick", "study", "tune"):
        assert {c.arm for c in asked.grid(profile)} <= set(asked.cells.ARMS)
    assert {c.arm for c in asked.grid("study")} == set(asked.cells.ARMS)


def test_quick_is_a_slice_of_the_study_and_no_cell_is_there_twice(experiment):
    for profile in ("smoke", "quick", "study", "tune"):
        cells = experiment.grid(profile)
        keys = {cell_key(experiment.slug, c) for c in cells}
        assert len(cells) == len(set(cells)) == len(keys)
    assert set(experiment.grid("quick")) <= set(experiment.grid("study"))


def test_what_a_cell_needs_needs_nothing_of_it(asked):
    for cell in asked.grid("study"):
        for first in needed(cell):
            assert cell not in needed(first)
            assert first.arm in asked.cells.ARMS


def test_every_claim_has_its_statistic_and_every_statistic_its_claim(experiment):
    pairs = judging.claims_and_statistics(experiment.slug)
    assert all(statistic for claim, statistic in pairs if not claim.not_tested)
    names = {claim.statistic for claim, _ in pairs if not claim.not_tested}
    assert names == set(experiment.statistics)


def test_the_committed_study_covers_the_grid_and_every_claim_is_judged(experiment):
    recorded = {r.key for r in study(experiment.slug)}
    if not recorded:
        pytest.skip("no study yet")
    wanted = {cell_key(experiment.slug, c) for c in experiment.grid("study")}
    assert recorded <= wanted
    grows = getattr(experiment.study, "GROWS", False)  # methods may join after it was run
    assert grows or recorded == wanted
    verdicts = judging.verdicts(experiment.slug)
    assert len(verdicts) == len(read_card(experiment.slug).claims)
    waiting = getattr(experiment.study, "WAITING", ())  # for pieces that are still to be run
    judged = [v for v in verdicts if not v.claim.not_tested and v.claim.statistic not in waiting]
    assert judged
    assert all(v.interval is not None for v in judged)
    assert not any(v.changed for v in verdicts)


def test_rates_are_the_best_of_equally_many_and_lie_inside_their_grids(asked):
    roles, replicates = asked.study.ROLES, asked.study.REPLICATES
    assert asked.grid("tune") == tune_grid(roles, replicates)
    if not study(asked.slug):
        pytest.skip("no study yet")
    found = by_cell(study(asked.slug, "tune"), asked.cells.Cell)
    rates = dict(asked.study.RATES)
    if getattr(asked.study, "GROWS", False):  # what has joined since has not been tried yet
        roles = [r for r in roles if r.cells(replicates[0], r.rates[0])[0] in found]
        rates = {r.name: rates[r.name] for r in roles}
        assert roles
    assert best_rates(roles, replicates, found) == rates


def test_the_study_uses_no_validation_replicate(asked):
    if asked.study.REPLICATES:
        assert not {c.seed for c in asked.grid("study")} & set(asked.study.REPLICATES)


def test_every_cell_of_the_study_has_a_rate_that_was_chosen(asked):
    """Or one that its study says was set beforehand. What trains nothing has no rates."""
    rates = set(asked.study.RATES.values()) | set(getattr(asked.study, "BEFOREHAND", ()))
    assert {getattr(c, "lr", 0.0) for c in asked.grid("study")} <= rates | {0.0}


def test_other_ways_to_measure_are_of_claims_and_differ_from_them(asked):
    if not study(asked.slug):
        pytest.skip("no study yet")
    judged = {v.claim.id: v for v in judging.verdicts(asked.slug)}
    for claim, ways in judging.instead(asked.slug).items():
        for words, values in ways.items():
            assert values.keys() <= judged[claim].values.keys(), (claim, words)
            assert len(values) >= 3, (claim, words)
            assert values != judged[claim].values, f"{claim}: {words} measures the same"
    assert len(judging.instead(asked.slug)) == len(asked.instead), "one was lost"
