import importlib.metadata
import json
import sys
import time
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from survey_lib import files
from survey_lib.publish import cache_key, execute, layout, shown
from survey_lib.publish.layout import PublishError

from .conftest import chapter, code, text


def silent(_line):
    pass


@pytest.fixture
def fake_papermill(monkeypatch):
    """papermill in no time: copies the notebook and reports what the fake kernel loaded."""
    ran = []

    def run(slug, profile, cores, timeout, given, made, loaded, running):
        ran.append(slug)
        nbformat.write(nbformat.read(given, as_version=4), made)
        modules = {"survey_lib": "x", "survey_lib.found_late": "x"}
        loaded.write_text(json.dumps({"modules": modules, "core_seconds": 1.5}))

    monkeypatch.setattr(execute, "_papermill", run)
    return ran


def test_two_chapters_one_fails_and_the_other_is_built(book):
    alpha = chapter(
        code("from survey_lib import used\nimport importlib\n%time used.VALUE"),
        code("late = importlib.import_module('survey_lib.' + 'found_late')"),
        code(
            "import os, sys\n"
            "print(profile, os.environ['OMP_NUM_THREADS'], os.environ['SURVEY_JOBS'],\n"
            "      os.environ['SURVEY_PROFILE'], late.VALUE, sys.executable)"
        ),
    )
    book.write("alpha", alpha)
    book.write("beta", chapter(code("one = 1"), code("one / 0  # the culprit")))
    lines = []

    outcomes = execute.execute(None, "smoke", jobs=2, say=lines.append)

    assert [(o.slug, o.status) for o in outcomes] == [("alpha", "ran"), ("beta", "failed")]
    assert lines[0] == "executing 2 chapters, 2 at a time, longest first"
    assert "alpha: starts" in lines[1] + lines[2]
    assert any(line.startswith("alpha: done in") for line in lines)

    # the good one: its own kernel, its share of the cores, the profile as a parameter
    made = layout.read_notebook(layout.executed("alpha"))
    printed = "".join(o.get("text", "") for c in made.cells for o in c.get("outputs", []))
    import os
    import sys

    share = str(max(1, (os.cpu_count() or 1) // 2))
    assert f"smoke {share} {share} smoke 3 {sys.executable}" in printed
    entry = cache_key.read_entry("alpha")
    assert {"survey_lib.used", "survey_lib.found_late", "survey_lib.below"} <= set(entry["modules"])
    assert entry["profile"] == "smoke"
    assert entry["seconds"] > 0
    assert entry["core_seconds"] > 0
    assert entry["versions"]["numpy"] == importlib.metadata.version("numpy")
    assert cache_key.explain("alpha", "smoke") == ["up to date"]

    # the bad one: never counts as built, and says where
    assert not layout.executed("beta").exists()
    assert cache_key.read_entry("beta") is None
    assert outcomes[1].cell == 6
    assert "ZeroDivisionError" in outcomes[1].error
    said = execute.report(outcomes)
    assert said.startswith("beta, cell 6 failed:")
    assert "alpha" not in said
    assert (book.build / "logs" / "beta.log").exists()

    # what the reader gets of the good one
    page = shown.staged_notebook("alpha")
    whole = nbformat.writes(page)
    assert str(book.root) not in whole
    assert "papermill" not in whole.replace("from papermill", "")
    assert execute.RECORDER not in whole
    hidden = [c for c in page.cells if "injected-parameters" in layout.tags(c)]
    assert len(hidden) == 1
    assert "remove-cell" in layout.tags(hidden[0])


def test_a_chapter_that_takes_too_long_is_ended_with_its_kernel(book):
    note = book.root / "kernel.pid"
    source = f"import os, pathlib, time\npathlib.Path({str(note)!r}).write_text(str(os.getpid()))"
    book.write("beta", chapter(code(source), code("time.sleep(600)")))
    [outcome] = execute.execute(["beta"], "quick", timeout=8, say=silent)
    assert outcome.status == "failed"
    assert "longer than 8 s" in outcome.error
    assert not layout.executed("beta").exists()
    kernel = int(note.read_text())
    alive = psutil.pid_exists(kernel) and psutil.Process(kernel).status() != "zombie"
    assert not alive, "the kernel outlived its chapter"


def test_only_what_changed_runs_again(book, fake_papermill):
    book.write(
        "alpha", chapter(code("from survey_lib import used\nfrom survey_lib.tasks import numbers"))
    )
    path = layout.source("alpha")

    def run():
        fake_papermill.clear()
        execute.execute(["alpha"], "quick", say=silent)
        return list(fake_papermill)

    assert cache_key.explain("alpha") == ["never executed"]
    assert run() == ["alpha"]
    assert run() == []

    def edit(name, content):
        target = book.package / name
        old = target.read_text()
        target.write_text(content)
        assert old != content

    # words, tags and layout are not code
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[0].source = "# Another title"
    notebook.cells.insert(2, text("More words."))
    notebook.cells[-1].metadata["tags"] = ["hero", "hide-input"]
    nbformat.write(notebook, path)
    edit("unrelated.py", "VALUE = 5\n")
    edit("used.py", '"""Another docstring."""\n\n# and a comment\nVALUE = 1\n')
    assert cache_key.explain("alpha") == ["up to date"]

    for name, content, reason in [
        ("used.py", "VALUE = 10\n", "survey_lib/used.py changed"),
        ("below.py", "VALUE = 20\n", "survey_lib/below.py changed"),  # two imports down, by name
        ("tasks/data/numbers.txt", "4\n", "survey_lib/tasks/data/numbers.txt changed"),
        ("show/book.mplstyle", "lines.linewidth: 3\n", "survey_lib/show/book.mplstyle changed"),
        ("cards/alpha.md", "second\n", "survey_lib/cards/alpha.md changed"),
        ("methods/alpha.py", '"""Told better."""\n', "survey_lib/methods/alpha.py (text) changed"),
    ]:
        edit(name, content)
        assert cache_key.explain("alpha") == [reason]
        assert run() == ["alpha"]
        assert run() == []
    (book.root / "results" / "study" / "alpha.jsonl").write_text("{}\n")
    assert cache_key.explain("alpha") == ["results/study/alpha.jsonl changed"]
    run()
    (book.package / "found_late.py").unlink()
    assert cache_key.explain("alpha") == [
        "survey_lib/below.py is no longer used or is gone",
        "survey_lib/found_late.py is no longer used or is gone",
    ]
    run()
    assert cache_key.explain("alpha", "smoke") == ["profile changed quick → smoke"]
    notebook.cells[-1].source = "'another hero'"
    nbformat.write(notebook, path)
    assert cache_key.explain("alpha") == ["the notebook's code changed"]


def test_another_chapters_verdicts_are_part_of_what_a_page_rests_on(book, fake_papermill):
    (book.package / "cards" / "beta.md").write_text("first\n")
    record = book.root / "results" / "study" / "beta.jsonl"
    asks = "from survey_lib.experiments.judging import verdicts"
    for line, reasons in [
        (asks, ["results/study/beta.jsonl changed", "survey_lib/cards/beta.md changed"]),
        ("verdicts = str", ["up to date"]),  # a name alone is a word like any other
    ]:
        book.write("alpha", chapter(code(f"{line}\nfor slug in ('beta', 'gamma'):\n    slug")))
        record.write_text("{}\n")
        execute.execute(["alpha"], "quick", say=silent)
        assert cache_key.explain("alpha") == ["up to date"]
        record.write_text("{ }\n")
        card = book.package / "cards" / "beta.md"
        card.write_text(card.read_text() + "more\n")
        assert cache_key.explain("alpha") == reasons


def test_another_version_of_a_package_runs_it_again(book, fake_papermill, monkeypatch):
    execute.execute(["alpha"], "quick", say=silent)
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "99" if name == "numpy" else real(name)
    )
    assert cache_key.explain("alpha") == [f"version of numpy changed {real('numpy')} → 99"]


def test_an_edit_during_the_run_is_not_lost(book, fake_papermill, monkeypatch):
    fast = execute._papermill

    def edited(*arguments):
        fast(*arguments)
        (book.package / "used.py").write_text("VALUE = 7\n")

    monkeypatch.setattr(execute, "_papermill", edited)
    book.write("alpha", chapter(code("from survey_lib import used")))
    execute.execute(["alpha"], "quick", say=silent)
    assert cache_key.explain("alpha") == ["survey_lib/used.py changed"]


def test_longest_chapter_starts_first(book, fake_papermill):
    for slug, seconds in (("alpha", 3.0), ("beta", 9.0)):
        entry = {"parts": {}, "modules": [], "seconds": seconds}
        files.write_atomic(layout.entry(slug), json.dumps(entry))
    execute.execute(None, "quick", jobs=1, say=silent)
    assert fake_papermill == ["beta", "alpha"]


def test_a_failing_run_keeps_what_was_built_but_does_not_call_it_current(
    book, fake_papermill, monkeypatch
):
    execute.execute(["alpha"], "quick", say=silent)
    before = layout.executed("alpha").read_bytes()
    book.write("alpha", chapter(code("1 / 0")))
    monkeypatch.setattr(execute, "_papermill", lambda *_: None)  # ends without having recorded
    [outcome] = execute.execute(["alpha"], "quick", say=silent)
    assert outcome.status == "failed"
    assert layout.executed("alpha").read_bytes() == before
    assert cache_key.explain("alpha") != ["up to date"]
    with pytest.raises(PublishError, match="other code"):
        shown.staged_notebook("alpha")


# A kernel that ends before it answers, as one does that finds its port taken; the second lives.
STILLBORN = """\
import runpy, sys, pathlib
tries = pathlib.Path({tries!r})
tries.write_text(tries.read_text() + "x")
if len(tries.read_text()) < {lives}:
    sys.exit("Address already in use")
sys.argv = ["ipykernel_launcher", "-f", sys.argv[1]]
runpy.run_module("ipykernel_launcher", run_name="__main__")
"""


@pytest.mark.parametrize(("lives", "status", "tried"), [(2, "ran", 2), (99, "failed", 3)])
def test_a_kernel_that_dies_before_it_answers_is_started_again(
    book, tmp_path, monkeypatch, lives, status, tried
):
    folder, tries = tmp_path / "jupyter", tmp_path / "tries"
    tries.write_text("")
    argv = [sys.executable, "-c", STILLBORN.format(tries=str(tries), lives=lives)]
    spec = {"argv": [*argv, "{connection_file}"], "display_name": "", "language": "python"}
    (folder / "kernels" / "survey").mkdir(parents=True)
    (folder / "kernels" / "survey" / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setattr(execute, "_kernels", lambda: folder)
    (outcome,) = execute.execute(["alpha"], "smoke", say=silent)
    assert (outcome.status, len(tries.read_text())) == (status, tried)
    if status == "failed":
        assert execute.NEVER_STARTED in outcome.error


def test_unknown_chapter_and_profile_are_named(book):
    with pytest.raises(PublishError, match=r"no chapter 'gamma'.*alpha.*beta"):
        execute.execute(["gamma"], "quick")
    with pytest.raises(PublishError, match=r"no profile 'fast'.*smoke"):
        execute.execute(None, "fast")


def test_a_damaged_entry_means_never_executed(book, fake_papermill):
    execute.execute(["alpha"], "quick", say=silent)
    layout.entry("alpha").write_text('{"parts": ')
    assert cache_key.explain("alpha") == ["never executed"]


ASK = """from survey_lib.show.exercise import exercise, key_of
question = exercise("toy 1", key_of("toy 1", 7))
answer = ...
question.check(answer)"""


@pytest.mark.parametrize(
    ("asked", "solution", "status", "cell", "words"),
    [
        (ASK, "question.check(7)", "ran", None, ""),
        (ASK, "question.check(8)", "failed", 6, "1 of the solutions are not right"),
        (ASK, "question.check(...)", "failed", 6, "1 of the solutions are not right"),
        (ASK, "'later'", "failed", 6, "1 exercises have 0 solutions"),
        (ASK.replace("= ...", "= 7"), "question.check(7)", "failed", 5, "put the dots back"),
    ],
)
def test_a_solution_that_is_not_right_fails_the_build(
    book, monkeypatch, asked, solution, status, cell, words
):
    def run(slug, profile, cores, timeout, given, made, loaded, running):
        """Run the code cells here, one display each, as the kernel would."""
        names = {}
        notebook = nbformat.read(given, as_version=4)
        for ran in notebook.cells:
            if ran.cell_type == "code" and ("check" in ran.source or "later" in ran.source):
                *lines, last = ran.source.splitlines()
                exec("\n".join(lines), names)
                shown = eval(last, names)
                bundle = getattr(shown, "_repr_mimebundle_", None)
                data = bundle() if bundle else {"text/plain": repr(shown)}
                ran.outputs = [nbformat.v4.new_output("execute_result", data)]
        injected = code("profile = 'smoke'", "injected-parameters")
        notebook.cells.insert(3, injected)
        nbformat.write(notebook, made)
        loaded.write_text(json.dumps({"modules": [], "core_seconds": 1.5}))

    monkeypatch.setattr(execute, "_papermill", run)
    book.write("alpha", chapter(code(asked), code(solution, "solution")))
    (outcome,) = execute.execute(["alpha"], "smoke", say=silent)
    assert (outcome.status, outcome.cell) == (status, cell)
    assert words in outcome.error
    assert layout.executed("alpha").exists() == (status == "ran")


def test_check_names_chapters_whose_solutions_are_not_right(book):
    from survey_lib.publish.solutions import check_solutions

    wrong = code("question.check(8)", "solution")
    data = {"text/html": '<p class="survey survey-check wrong">✗ not yet</p>'}
    wrong.outputs = [nbformat.v4.new_output("display_data", data)]
    for slug, cells in (("alpha", [wrong]), ("beta", [])):
        layout.executed(slug).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(chapter(*cells), layout.executed(slug))
    (finding,) = check_solutions()
    assert finding.file == "notebooks/alpha.ipynb"
    assert "1 of the solutions are not right" in finding.what


def test_a_long_run_says_what_it_is_at(book, monkeypatch):
    monkeypatch.setattr(execute, "HEARTBEAT", 0.05)

    def slow(slug, *_):
        time.sleep(0.4 if slug == "alpha" else 0.01)
        return execute.Outcome(slug, "ran", 0.4)

    monkeypatch.setattr(execute, "_execute_one", slow)
    monkeypatch.setattr(execute, "_last_seconds", lambda slug: 90.0)
    lines = []
    execute.execute(None, "smoke", jobs=2, say=lines.append)
    assert lines[0] == "executing 2 chapters, 2 at a time, longest first, 90 s the last time"
    told = [line for line in lines if "running:" in line]
    assert len(told) >= 2
    assert told[-1] == "1 of 2 done; running: alpha 0 of about 90 s"


def test_lines_of_two_threads_do_not_run_into_each_other(monkeypatch):
    pieces = []
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(write=pieces.append, flush=lambda: None))
    execute.tell("alpha: done")
    assert pieces == ["alpha: done\n"]  # one write: nothing can come between words and line end
