import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from survey_lib import files
from survey_lib.cards.card import read_card
from survey_lib.cli import app
from survey_lib.evidence.records import Record
from survey_lib.experiments import judging, runner
from tests.experiments.fake_experiment import study as fake_study
from tests.experiments.fake_experiment.cells import Cell
from tests.experiments.fake_package import study as fake_package_study
from tests.experiments.fake_package.cells import Cell as PackageCell

MODULE = "tests.experiments.fake_experiment"


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path / "results"))
    monkeypatch.setitem(runner.EXPERIMENTS, "fake", MODULE)
    card = read_card("to_prune_or_not")
    claim = replace(card.claims[0], id="value", statistic="value", profile="quick", unit="nats")
    card = replace(card, slug="fake", claims=(claim,), tolerance={"value": 0.1})
    for module in (runner, judging):
        monkeypatch.setattr(module, "read_card", lambda slug: card)

    def cells(*kinds):
        made = [Cell(kind, i, str(tmp_path)) for i, kind in enumerate(kinds)]
        monkeypatch.setattr(fake_study, "CELLS", made)
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
        from survey_lib.experiments import judging, runner
        from tests.experiments.fake_experiment import cells, study
        if __name__ == "__main__":
            runner.EXPERIMENTS["fake"] = "{MODULE}"
            card = dataclasses.replace(runner.read_card("to_prune_or_not"), slug="fake")
            claim = dataclasses.replace(card.claims[0], id="value", statistic="value")
            card = dataclasses.replace(card, claims=(claim,))
            runner.read_card = lambda slug: card
            study.CELLS = [cells.Cell("slow", i, {str(tmp_path)!r}) for i in range(8)]
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


@pytest.mark.parametrize("way", ["Ctrl-C", "kill -9"])
def test_a_run_that_is_ended_takes_its_workers_with_it(way, fake, tmp_path):
    script = textwrap.dedent(f"""
        import dataclasses, signal
        from survey_lib.cli import app
        from survey_lib.experiments import judging, runner
        from tests.experiments.fake_experiment import cells, study
        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)  # as where a person types it
            runner.EXPERIMENTS["fake"] = "{MODULE}"
            card = dataclasses.replace(runner.read_card("to_prune_or_not"), slug="fake", claims=())
            runner.read_card = lambda slug: card
            study.CELLS = [cells.Cell("slow", i, {str(tmp_path)!r}) for i in range(500)]
            app(["run", "fake", "--jobs", "2"])
    """)
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    stored = tmp_path / "build" / "records" / "fake"
    _wait_until(lambda: len(list(stored.glob("*.json"))) >= 2)
    if way == "Ctrl-C":  # which a terminal sends to all of them
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    _, said = process.communicate(timeout=60)
    if way == "Ctrl-C":
        assert process.returncode == 130
        assert said.strip().splitlines()[-1] == "survey: stopped; what was finished is kept"
    assert "Traceback" not in said
    _wait_until(lambda: not _alive(process.pid))
    for path in stored.glob("*.json"):
        assert json.loads(path.read_text())["status"] == "done"


@pytest.mark.parametrize("threads", [0, 3])  # any of which may take the signal
def test_ctrl_c_while_a_cell_is_handed_over_is_not_lost(threads):
    over = threading.Event()
    for _ in range(threads):
        threading.Thread(target=over.wait, daemon=True).start()

    class Pool(Executor):
        taken = False

        def submit(self, fn, /, *args, **kwargs):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)  # in which it arrives
            self.taken = True
            return Future()

    pool = Pool()
    was = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            runner._submit(pool, (print,))
    finally:
        signal.signal(signal.SIGINT, was)
        over.set()
    assert pool.taken, "what starts a worker is not cut in two"


def test_a_full_disk_ends_the_run_and_loses_no_stored_cell(fake, tmp_path, monkeypatch):
    fake(*["slow"] * 5)
    real, stored = files.write_atomic, []

    def full(path, content):
        if len(stored) == 2:
            raise OSError(28, "No space left on device", str(path))
        real(path, content)
        stored.append(path)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", full)
        result = CliRunner().invoke(app, ["run", "fake", "--jobs", "2"])
    assert result.exit_code == 1
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("survey: No space left on device: ")
    kept = {json.loads(p.read_text())["seed"] for p in stored}
    assert len(kept) == 2
    before = fake.runs()
    assert [r.status for r in go()] == ["done"] * 5
    assert all(fake.runs()[f"slow {seed}"] == before[f"slow {seed}"] for seed in kept)


def test_a_failed_cell_is_told_in_one_line_with_the_place_of_its_traceback(fake):
    fake("raise")
    result = CliRunner().invoke(app, ["run", "fake", "--jobs", "1"])
    assert result.exit_code == 1
    (line,) = (x for x in result.stderr.splitlines() if x.startswith("failed: "))
    assert "ValueError: this cell always fails; its traceback is in " in line
    assert "Traceback" not in result.output
    assert "Traceback" in Path(line.rpartition(" is in ")[2]).read_text()


def _wait_until(happened):
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _alive(group):
    """Processes of this group that run."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def test_records_say_where_they_come_from(fake):
    fake("ok")
    (record,) = go()
    assert record.provenance["claims"] == {"value": runner.read_card("fake").claims[0].hash}
    for name in ("commit", "code", "data", "python", "torch", "processor", "seconds", "made"):
        assert name in record.provenance
    assert record.provenance["threads"] == 1


def test_changed_code_runs_a_cell_again(fake, monkeypatch):
    fake("ok")
    go()
    monkeypatch.setattr(runner, "code_digest", lambda slug: "other")
    go()
    assert fake.runs()["ok 0"] == 2


def test_a_study_with_a_failed_cell_is_not_written(fake):
    fake("ok", "raise")
    with pytest.raises(runner.RunError, match="1 of 2 cells failed"):
        runner.commit_study("fake", "quick", go())


def test_a_quick_number_away_from_its_twin_is_a_difference(fake):
    fake("ok", "ok")
    fresh = go()
    elsewhere = fresh[0].provenance | {"processor": "another"}
    near, far = (
        [replace(r, numbers={"value": r.numbers["value"] + d}, provenance=elsewhere) for r in fresh]
        for d in (0.05, 0.2)
    )
    assert judging.differences("fake", fresh, near) == []
    assert len(judging.differences("fake", fresh, far)) == 2
    assert "no recorded twin" in judging.differences("fake", fresh, near[:1])[0]
    lacking = [replace(fresh[0], numbers={})]
    assert "absent" in judging.differences("fake", lacking, near)[0]


@pytest.mark.parametrize(
    ("word", "changes", "drifts"),
    [
        (judging.CURRENT, {"processor": "another"}, True),
        (judging.ATTESTED, {"cpu": "another"}, True),
        (judging.UNATTESTED, {"processor": "another"}, False),
        (judging.CURRENT, {"processor": "another", "torch": "0"}, False),
        (judging.CURRENT, {}, False),
    ],
)
def test_another_processor_may_drift_where_the_code_is_vouched_for(
    fake, monkeypatch, word, changes, drifts
):
    fake("ok", "ok")
    fresh = go()
    far = [
        replace(r, numbers={"value": r.numbers["value"] + 0.2}, provenance=r.provenance | changes)
        for r in fresh
    ]
    monkeypatch.setattr(judging, "study", lambda slug, profile="study": far)
    monkeypatch.setattr(judging, "state", lambda slug: judging.State(slug, word, ""))
    some, none = judging.drifted("fake", fresh, far), judging.differences("fake", fresh, far)
    assert (len(some), len(none)) == ((2, 0) if drifts else (0, 2))
    assert "no recorded twin" in judging.differences("fake", fresh, far[:1])[-1]


def test_on_the_same_processor_twins_are_equal_to_the_bit(fake):
    fake("ok", "ok")
    fresh = go()
    assert fresh[0].provenance["cpu"]
    near = [replace(r, numbers={"value": r.numbers["value"] + 1e-12}) for r in fresh]
    assert len(judging.differences("fake", fresh, near)) == 2
    assert judging.differences("fake", fresh, fresh) == []


def test_only_missing_cells_are_run_when_asked(fake, monkeypatch):
    fake("ok", "ok", "ok")
    old = go()[:2]
    monkeypatch.setattr(runner, "code_digest", lambda slug: "later code")
    records = go(known=old)
    assert records[:2] == old
    assert [r.provenance["code"] for r in records[2:]] == ["later code"]
    assert fake.runs() == {"ok 0": 1, "ok 1": 1, "ok 2": 2}


def test_a_known_record_whose_default_moved_does_not_stand(fake):
    """Identity is of the configuration, not of a key that hashes what differs from defaults."""
    (cell,) = fake("ok")
    (old,) = go()
    other = replace(old, config=old.config | {"seed": 7})  # same key, another configuration
    fake("ok")
    assert go(known=[other])[0].config == runner.plain(cell)


def test_a_new_knob_leaves_keys_as_they_are():
    @dataclass(frozen=True)
    class Before:
        arm: str
        seed: int
        r: float = 0.5

    @dataclass(frozen=True)
    class After:
        arm: str
        seed: int
        r: float = 0.5
        knob: tuple[int, ...] = (1, 2)
        others: list = field(default_factory=list)

    assert runner.cell_key("s", Before("a", 0)) == runner.cell_key("s", After("a", 0))
    assert runner.cell_key("s", Before("a", 0, 0.5)) == runner.cell_key("s", Before("a", 0))
    keys = {runner.cell_key(s, c) for s in "st" for c in (After("a", 0), After("a", 0, knob=(1,)),
            After("a", 1), After("b", 0), After("a", 0, others=[3]))}  # fmt: skip
    assert len(keys) == 10


# ---- two files, and cells that need others


@pytest.fixture
def package(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path / "build"))
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(runner.EXPERIMENTS, "fake", "tests.experiments.fake_package")
    card = replace(read_card("to_prune_or_not"), slug="fake", claims=(), tolerance={})
    for module in (runner, judging):
        monkeypatch.setattr(module, "read_card", lambda slug: card)

    def cells(*made):
        made = [PackageCell(arm, seed, str(tmp_path), **more) for arm, seed, more in made]
        monkeypatch.setattr(fake_package_study, "CELLS", made)
        return made

    path = tmp_path / "runs.txt"
    cells.runs = lambda: Counter(path.read_text().split("\n")[:-1]) if path.exists() else Counter()
    return cells


def quickly():
    """In threads, which start at once."""
    return go(make_pool=ThreadPoolExecutor)


def test_what_a_cell_needs_is_run_once_and_before_it(package):
    package(*[("child", s, {"of": 0}) for s in range(6)], ("parent", 0, {}))
    records = quickly()
    assert [r.status for r in records] == ["done"] * 7
    assert package.runs()["parent 0"] == 1
    assert {r.numbers["read"] for r in records[:6]} == {records[6].numbers["wrote"]}


def test_a_needed_cell_outside_the_grid_is_run_too_and_not_reported(package):
    package(("grandchild", 0, {"of": 3}), ("child", 3, {"of": 3}))
    records = quickly()
    assert [r.config["arm"] for r in records] == ["grandchild", "child"]
    assert package.runs() == {"parent 3": 1, "child 3": 1, "grandchild 0": 1}


def test_what_needs_a_failed_cell_fails_with_it(package):
    package(("child", 0, {"of": 9}), ("child", 1, {"of": 0}))
    bad, good = quickly()
    assert bad.status == "failed"
    assert "needs" in bad.error
    assert good.status == "done"
    assert package.runs()["child 0"] == 0


def test_a_needed_cell_whose_worker_died_is_tried_again_first(package):
    package(("child", 0, {"of": 8}), ("child", 1, {"of": 0}))
    assert [r.status for r in go()] == ["done", "done"]
    assert package.runs()["parent 8"] == 2


def test_artefacts_are_kept_for_the_next_run_and_not_for_other_code(package, monkeypatch):
    package(("child", 0, {"of": 0}))
    quickly()
    package(("child", 1, {"of": 0}))
    quickly()
    assert package.runs()["parent 0"] == 1
    monkeypatch.setattr(runner, "code_digest", lambda slug: "other")
    quickly()
    assert package.runs()["parent 0"] == 2


def test_a_cell_that_fails_leaves_no_artefact(package, tmp_path):
    package(("parent", 9, {}))
    (record,) = quickly()
    assert "after keeping" in record.error
    assert list((tmp_path / "cache").rglob("*.txt")) == []


def test_needs_that_go_in_a_circle_are_an_error(package):
    package(("circle", 0, {}))
    with pytest.raises(runner.RunError, match="needs itself"):
        quickly()


def test_only_what_is_named_as_needed_may_be_read(package):
    package(("liar", 0, {"of": 1}))
    assert "not named by needs()" in quickly()[0].error


def test_an_arm_that_is_none_is_named(package):
    package(("nobody", 0, {}))
    assert "no arm 'nobody'; there are: parent" in quickly()[0].error


def test_what_is_asked_never_ages_what_was_measured():
    from survey_lib import closure

    this = runner.experiment("to_prune_or_not")
    parts = runner.code_parts("to_prune_or_not")
    assert this.cells.__name__ in parts
    assert (this.study.__name__ in parts) == (this.study is this.cells)
    assert closure.combine(parts) == runner.code_digest("to_prune_or_not")


def test_verdicts_come_from_the_records(fake):
    fake(*["ok"] * 6)
    (verdict,) = judging.verdicts("fake", go())
    assert verdict.values == {i: float(i) for i in range(6)}


def test_unknown_slugs_and_profiles_are_one_sentence():
    with pytest.raises(runner.RunError, match="no experiment 'nope'; there are"):
        runner.run("nope", "quick")
    with pytest.raises(runner.RunError, match="no profile 'fast'"):
        runner.run("to_prune_or_not", "fast")


def test_any_executor_serves(fake):
    fake("ok", "ok")
    assert [r.status for r in go(make_pool=ThreadPoolExecutor)] == ["done", "done"]


def test_jobs_follow_the_environment(monkeypatch):
    monkeypatch.setenv("SURVEY_JOBS", "7")
    assert runner.default_jobs() == 7
    assert isinstance(Record("s", "p", {}, 0, "k", "done").numbers, dict)
