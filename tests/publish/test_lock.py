"""Builds that were ended, two builds in one tree, disks that take no more."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from survey_lib.publish import build, execute, layout, lock
from survey_lib.publish.layout import PublishError

from .conftest import chapter, code

ROOT = Path(__file__).resolve().parents[2]
# what `survey build` does up to the pages, in the small checkout it is given
DRIVER = """
import sys
from pathlib import Path
from survey_lib import files
from survey_lib.cards import card
files.PACKAGE = Path(sys.argv[1]) / "survey_lib"
card.FOLDER = files.PACKAGE / "cards"
from survey_lib.publish import execute, lock
with lock.only_build():
    print("begun", flush=True)
    execute.execute(None, "smoke")
"""
WORKS = """
import subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("../begun", "a").write("x")
time.sleep(600)
"""


def sleeper(book, **more):
    """A process that does nothing, with the environment of what a build starts."""
    environment = os.environ | {lock.MARK: str(book.build)} | more
    process = subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); import time; time.sleep(600)"],
        env=environment,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()  # it runs, with its environment
    process.stdout.close()
    return process


def of_build(book):
    """Processes that bear the mark of the small book's builds."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(lock.MARK) == str(book.build):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def test_a_second_build_says_who_holds_the_tree(book, monkeypatch, capsys):
    monkeypatch.setattr(execute, "execute", lambda *_: pytest.fail("it was built"))
    with lock.only_build():
        assert build.build("smoke") == 1
    said = capsys.readouterr().err
    assert f"another build of this tree is running (process {os.getpid()} since " in said
    assert said.count("\n") == 1
    with lock.only_build(), pytest.raises(PublishError, match="another build"), lock.only_build():
        pass
    with lock.only_build():  # and it is given back
        pass


def test_what_a_killed_build_left_is_ended_and_nothing_else(book):
    left = sleeper(book)
    other = sleeper(book, **{lock.MARK: str(book.build) + "-of-another-tree"})
    try:
        with lock.only_build():
            assert not psutil.pid_exists(left.pid)
            assert other.poll() is None
    finally:
        for process in (left, other):
            process.kill()
            process.wait()


def test_a_full_disk_is_a_sentence_and_keeps_what_was_finished(book, monkeypatch, capsys):
    book.write("alpha", chapter(code("1 + 1")))

    def one(slug, *_):
        if slug == "beta":
            raise OSError(28, "No space left on device", "/x/beta.ipynb")
        layout.executed(slug).parent.mkdir(parents=True, exist_ok=True)
        layout.executed(slug).write_text("done")
        return execute.Outcome(slug, "ran")

    monkeypatch.setattr(execute, "_execute_one", one)
    outcomes = execute.execute(None, "smoke", 1)
    assert {o.slug: o.status for o in outcomes} == {"alpha": "ran", "beta": "failed"}
    assert "No space left on device: /x/beta.ipynb" in execute.report(outcomes)
    assert layout.executed("alpha").read_text() == "done"

    def full(*_):
        raise OSError(28, "No space left on device", "/x/stage")

    monkeypatch.setattr(build.stage, "stage", full)
    assert build.build("smoke") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No space left on device: /x/stage; finished chapters are kept")
    assert said.count("\n") == 1


def test_a_build_folder_that_cannot_be_made_is_a_sentence(book, monkeypatch, capsys):
    monkeypatch.setenv("SURVEY_BUILD", "/proc/nowhere")
    assert build.build("smoke") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: No such file or directory: /proc/nowhere")
    assert said.count("\n") == 1


def begin(book):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SURVEY_BUILD": str(book.build)}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(book.root)], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.slow
def test_a_build_killed_at_any_moment_leaves_nothing_that_the_next_one_meets(book):
    for slug in ("alpha", "beta"):
        book.write(slug, chapter(code(WORKS)))
    moments = random.Random(0)
    met = 0
    for _ in range(10):
        (book.root / "begun").unlink(missing_ok=True)
        process = begin(book)
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        if moments.random() < 0.5:  # in the middle of a cell, with a worker of its own
            end = time.monotonic() + 120
            while not (book.root / "begun").exists():
                assert time.monotonic() < end, "no chapter began"
                time.sleep(0.05)
        time.sleep(moments.uniform(0, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        met += len(of_build(book))
        with lock.only_build():
            assert [p.cmdline() for p in of_build(book) if p.is_running()] == []
    assert met >= 10  # there was something to end
    assert not layout.executed("alpha").exists()
