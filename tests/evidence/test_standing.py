"""How firmly a verdict stands."""

import pytest

from survey_lib.evidence.standing import standing, word_of
from tests.show.conftest import verdict

FIRM = [0.010, 0.012, 0.011, 0.013, 0.014, 0.012, 0.011]


def test_a_firm_verdict_needs_five_and_no_single_one():
    found = standing(verdict(FIRM))
    assert found.since == 5  # fewer never give "reproduced"
    assert found.carried_by == ()


def test_a_verdict_that_one_replicate_decides_names_it():
    values = [0.020, 0.030, 0.002, 0.025, -0.008, 0.012, 0.028]
    found = standing(verdict(values, region=(0.0, None)))
    assert verdict(values, region=(0.0, None)).word == "reproduced"
    assert found.since == 7
    lost = [
        seed for seed in range(7)
        if word_of(values[:seed] + values[seed + 1 :], (0.0, None)) != "reproduced"
    ]  # fmt: skip
    assert found.carried_by == tuple(lost) != ()
    assert 4 not in lost, "without the worst one it only stands firmer"


def test_the_rule_of_five_is_no_replicate_that_carries_a_verdict():
    found = standing(verdict(FIRM[:5]))
    assert (found.since, found.carried_by) == (5, ())
    assert word_of(FIRM[:4], (0.0, None)) == "inconclusive"


def test_a_word_that_was_never_another():
    apart = [-0.0100, -0.0101, -0.0110, -0.0120, -0.0110]
    assert standing(verdict(apart)).since == 2  # of one replicate nothing follows
    assert standing(verdict([0.01, -0.01, 0.02, -0.02, 0.0])).since == 1


@pytest.mark.parametrize("values", [[], [0.01] * 5])
def test_nothing_to_break(values):
    assert standing(verdict(values)) is None
