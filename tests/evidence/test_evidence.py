import json
import math
from dataclasses import replace

import numpy as np
import pytest

from survey_lib import files
from survey_lib.cards.card import Claim
from survey_lib.evidence import reading, records, verdicts
from survey_lib.evidence.intervals import Interval, seeds_needed, t_interval
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record


def test_t_interval_by_hand():
    # mean 3, sd sqrt(2.5), t(0.975, 4) = 2.7764
    interval = t_interval([1, 2, 3, 4, 5])
    assert interval.mean == 3
    assert interval.half_width == pytest.approx(2.7764 * math.sqrt(2.5 / 5), abs=1e-4)


def test_five_seeds_cover_the_truth_in_95_percent_of_studies():
    rng = np.random.default_rng(0)
    draws = rng.normal(0.3, 2.0, (4000, 5)).tolist()
    hits = sum(i.low <= 0.3 <= i.high for i in map(t_interval, draws))
    assert 0.93 < hits / 4000 < 0.97


def test_half_widths_at_3_5_and_10_seeds_are_the_designs():
    for n, expected in ((3, 2.5), (5, 1.24), (10, 0.715)):
        base = np.arange(n) - (n - 1) / 2
        unit = base / base.std(ddof=1)
        assert t_interval(unit.tolist()).half_width == pytest.approx(expected, rel=0.02)


def test_equal_values_give_the_point_one_value_gives_the_line():
    assert t_interval([0.1] * 3) == Interval(0.1, 0.1, 0.1, 3)
    assert t_interval([0.1]).high == math.inf
    with pytest.raises(ValueError, match="at least one"):
        t_interval([])
    with pytest.raises(ValueError, match="finite"):
        t_interval([1.0, math.nan])


def test_seeds_needed_is_the_smallest_that_does():
    values = [0.0, 1.0, 2.0, 3.0]
    n = seeds_needed(values, 0.5)
    sd = np.std(values, ddof=1)
    from scipy.stats import t

    reach = lambda k: t.ppf(0.975, k - 1) * sd / math.sqrt(k)  # noqa: E731
    assert reach(n) <= 0.5 < reach(n - 1)
    assert seeds_needed([1.0], 0.5) is None


CLAIM = Claim("c", "t", "paper", "s", "w", "stat", "m", (0.0, None), "e")


@pytest.mark.parametrize(
    ("low", "high", "region", "word"),
    [
        (0.1, 0.3, (0.0, None), "reproduced"),
        (-0.1, 0.3, (0.0, None), "inconclusive"),
        (-0.3, -0.1, (0.0, None), "not reproduced"),
        (-0.1, 0.1, (-0.2, 0.2), "reproduced"),
        (-0.3, 0.3, (-0.2, 0.2), "inconclusive"),
        (0.3, 0.4, (-0.2, 0.2), "not reproduced"),
        (0.0, 0.3, (0.0, None), "reproduced"),
        (-0.3, 0.0, (None, 0.0), "reproduced"),
    ],
)
def test_decision_rule(low, high, region, word):
    assert verdicts.decide(Interval((low + high) / 2, low, high, 5), region) == word


def rows(values, **provenance):
    return [
        Record("s", "study", {"seed": i}, i, f"k{i}", "done", {"v": v}, provenance=provenance)
        for i, v in enumerate(values)
    ]


def stat(records):
    return records[0].numbers["v"]


def test_fewer_than_five_seeds_never_reproduce():
    four = verdicts.judge(CLAIM, rows([0.1, 0.11, 0.12, 0.13]), stat)
    assert four.word == "inconclusive"
    assert "at least 5" in four.reason
    assert verdicts.judge(CLAIM, rows([0.1, 0.11, 0.12, 0.13, 0.14]), stat).word == "reproduced"
    assert verdicts.judge(CLAIM, rows([-0.1, -0.11, -0.12]), stat).word == "not reproduced"


def test_inconclusive_says_how_many_seeds_it_would_take():
    verdict = verdicts.judge(CLAIM, rows([-0.1, 0.3, 0.1, 0.2, -0.05]), stat)
    assert verdict.word == "inconclusive"
    assert verdict.seeds_needed == seeds_needed([-0.1, 0.3, 0.1, 0.2, -0.05], 0.09)
    assert verdict.reason == "the interval crosses the edge"


def test_failed_records_and_missing_arms_do_not_count():
    records = [*rows([0.1] * 6), replace(rows([9.0])[0], seed=77, status="failed")]
    assert sorted(verdicts.judge(CLAIM, records, stat).values) == [0, 1, 2, 3, 4, 5]

    def needs_other_arm(_):
        raise MissingArm("arm")

    assert verdicts.judge(CLAIM, records, needs_other_arm).word == "not tested here"


def test_a_typo_in_a_statistic_is_no_missing_arm():
    with pytest.raises(records.RecordError, match=r"seed 0: stat cannot be .*KeyError: 'accurcay'"):
        verdicts.judge(CLAIM, rows([0.1] * 6), lambda found: found[0].numbers["accurcay"])


def test_deterministic_claims_need_one_run_and_refuse_two_answers():
    claim = replace(CLAIM, deterministic=True)
    assert verdicts.judge(claim, rows([0.4]), stat).word == "reproduced"
    with pytest.raises(ValueError, match="deterministic"):
        verdicts.judge(claim, rows([0.4, 0.5]), stat)


def test_a_claim_edited_after_the_run_is_marked():
    records = rows([0.1] * 5, claims={"c": CLAIM.hash})
    assert not verdicts.judge(CLAIM, records, stat).changed
    assert verdicts.judge(replace(CLAIM, region=(-1.0, None)), records, stat).changed


def test_a_claim_that_cannot_be_tested_says_why():
    verdict = verdicts.judge(replace(CLAIM, not_tested="needs 13 B parameters"), [], stat)
    assert (verdict.word, verdict.reason) == ("not tested here", "needs 13 B parameters")


def test_records_round_trip_sorted_and_whole(tmp_path):
    path = tmp_path / "r.jsonl"
    given = rows([0.3, 0.1, 0.2])
    records.write_records(path, reversed(given))
    assert reading.read_records(path) == given
    assert reading.read_records(tmp_path / "absent.jsonl") == []


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "r.jsonl"
    records.write_records(path, rows([0.3, 0.1]))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(records.RecordError, match=r"r\.jsonl:2: not a JSON record"):
        reading.read_records(path)
    path.write_text(json.dumps({"schema": 99}))
    with pytest.raises(records.RecordError, match="schema 1 expected"):
        reading.read_records(path)


def test_nan_is_not_written():
    with pytest.raises(ValueError, match="JSON"):
        records.to_line(rows([math.nan])[0])


def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomic(path, "old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
