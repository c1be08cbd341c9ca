import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from survey_lib.cards.card import read_card
from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from tests.experiments import fake_experiment
from tests.experiments.fake_experiment import Cell

MODULE = "tests.experiments.fake_experiment"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path / "results"))
    monkeypatch.setitem(runner.EXPERIMENTS, "fake", MODULE)
    card = read_card("to_prune_or_not")
    claim = replace(card.claims[0], id="value", statistic="value", profile="quick")
    card = replace(card, slug="fake", claims=(claim,), tolerance={"value": 0.1})
    monkeypatch.setattr(runner, "read_card", lambda slug: card)

    def cells(*kinds):
        made = [Cell(kind, i, str(tmp_path)) for i, kind in enumerate(kinds)]
        monkeypatch.setattr(fake_experiment, "CELLS", made)
        return made

    cells.runs = lambda: Counter((tmp_path / "runs.txt").read_text().split("\n")[:-1])
    return cells


def go(**more):
    return runner.run("fake", "quick", jobs=2, progress=False, **more)


def test_a_second_call_re_runs_nothing(fake):
    fake("ok", "ok", "ok")
    first = go()
    again = go()
    assert [r.numbers for r in first] == [{"value": float(i)} for i in range(3)]
    assert again == first
    assert set(fake.runs().values()) == {1}


def test_a_cell_that_raises_is_recorded_and_the_others_go_on(fake):
    fake("ok", "raise", "nan", "ok")
    records = go()
    assert [r.status for r in records] == ["done", "failed", "failed", "done"]
    assert "this cell always fails" in records[1].error
    assert "JSON" in records[2].error
    go()  # failed cells are tried again, finished ones are not
    assert fake.runs()["raise 1"] == 2
    assert fake.runs()["ok 0"] == 1


def test_a_killed_worker_ends_only_its_cell(fake):
    fake("slow", "die", "slow", "slow", "ok", "ok")
    records = go()
    assert [r.status for r in records] == ["done", "failed", "done", "done", "done", "done"]
    assert "died twice" in records[1].error
    assert fake.runs()["die 1"] == 2


def test_a_cell_killed_once_is_tried_again_alone(fake):
    fake("ok", "die_once", "ok")
    records = go()
    assert [r.status for r in records] == ["done"] * 3
    assert fake.runs()["die_once 1"] == 2


def test_a_killed_run_is_resumed_without_losing_a_cell(fake, tmp_path):
    made = fake(*["slow"] * 8)
    script = textwrap.dedent(f"""
        import dataclasses
        from survey_lib.experiments import runner
        from tests.experiments import fake_experiment as fake
        if __name__ == "__main__":
            runner.EXPERIMENTS["fake"] = "{MODULE}"
            card = dataclasses.replace(runner.read_card("to_prune_or_not"), slug="fake")
            claim = dataclasses.replace(card.claims[0], id="value", statistic="value")
            card = dataclasses.replace(card, claims=(claim,))
            runner.read_card = lambda slug: card
            fake.CELLS = [fake.Cell("slow", i, {str(tmp_path)!r}) for i in range(8)]
            runner.run("fake", "quick", jobs=2, progress=False)
    """)
    path = tmp_path / "script.py"
    path.write_text(script)
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, str(path)],
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
    )
    stored = tmp_path / "build" / "records" / "fake"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(stored.glob("*.json"))) < 3:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = {json.loads(p.read_text())["seed"] for p in stored.glob("*.json")}
    assert 3 <= len(finished) < 8
    before = fake.runs()
    records = go()
    assert [r.status for r in records] == ["done"] * 8
    after = fake.runs()
    assert all(after[f"slow {seed}"] == before[f"slow {seed}"] for seed in finished)
    assert len(list(stored.glob("*.json"))) == len(made)


def test_records_say_where_they_come_from(fake):
    fake("ok")
    (record,) = go()
    assert record.provenance["claims"] == {"value": runner.read_card("fake").claims[0].hash}
    for field in ("commit", "code", "data", "python", "torch", "processor", "seconds", "made"):
        assert field in record.provenance
    assert record.provenance["threads"] == 1


def test_changed_code_runs_a_cell_again(fake, monkeypatch):
    fake("ok")
    go()
    monkeypatch.setattr(runner, "experiment_hash", lambda slug: "other")
    go()
    assert fake.runs()["ok 0"] == 2


def test_a_study_with_a_failed_cell_is_not_written(fake):
    fake("ok", "raise")
    with pytest.raises(runner.RunError, match="1 of 2 cells failed"):
        runner.commit_study("fake", "quick", go())


def test_a_quick_number_away_from_its_twin_is_a_difference(fake):
    fake("ok", "ok")
    fresh = go()
    near = [replace(r, numbers={"value": r.numbers["value"] + 0.05}) for r in fresh]
    far = [replace(r, numbers={"value": r.numbers["value"] + 0.2}) for r in fresh]
    assert runner.differences("fake", fresh, near) == []
    assert len(runner.differences("fake", fresh, far)) == 2
    assert "no recorded twin" in runner.differences("fake", fresh, near[:1])[0]
    lacking = [replace(fresh[0], numbers={})]
    assert "None" in runner.differences("fake", lacking, near)[0]


def test_verdicts_come_from_the_records(fake):
    fake(*["ok"] * 6)
    (verdict,) = runner.verdicts("fake", go())
    assert verdict.values == {i: float(i) for i in range(6)}


def test_unknown_slugs_and_profiles_are_one_sentence():
    with pytest.raises(runner.RunError, match="no experiment 'nope'; there are"):
        runner.run("nope", "quick")
    with pytest.raises(runner.RunError, match="no profile 'fast'"):
        runner.run("to_prune_or_not", "fast")


def test_any_executor_serves(fake):
    from concurrent.futures import ThreadPoolExecutor

    fake("ok", "ok")
    assert [r.status for r in go(make_pool=ThreadPoolExecutor)] == ["done", "done"]


def test_jobs_follow_the_environment(monkeypatch):
    monkeypatch.setenv("SURVEY_JOBS", "7")
    assert runner.default_jobs() == 7
    assert isinstance(Record("s", "p", {}, 0, "k", "done").numbers, dict)
