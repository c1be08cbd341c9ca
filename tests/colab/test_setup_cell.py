"""The set-up cell as it stands in the chapters, where the library really is absent."""

import json
import subprocess
import sys

import pytest

from survey_lib.publish import layout, setup_cell

# In an interpreter without site-packages (-S), with a stand-in for pip that installs a module.
HARNESS = """\
import json, subprocess, sys, types
source, fails = json.loads(sys.stdin.read())
calls = []
def run(command, **options):
    calls.append(command)
    if not fails:
        sys.modules["survey_lib"] = types.SimpleNamespace(__version__="9.9")
    return types.SimpleNamespace(returncode=int(fails), stdout="", stderr="x\\nERROR: no network")
subprocess.run = run
try:
    exec(source, {})
except RuntimeError as error:
    print(error)
print(json.dumps(calls))
"""


def cell(slug):
    notebook = layout.read_notebook(layout.source(slug))
    (found,) = [c for c in notebook.cells if "setup" in layout.tags(c)]
    return found


def run_absent(source, fails):
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", HARNESS],
        input=json.dumps([source, fails]), capture_output=True, text=True, check=True,
    )  # fmt: skip
    *said, calls = done.stdout.splitlines()
    return said, json.loads(calls)


@pytest.mark.parametrize("slug", layout.slugs())
def test_it_is_the_generated_one(slug):
    url, branch = layout.repository_url(), layout.branch()
    assert cell(slug).source == setup_cell.setup_source(url, branch, setup_cell.extras(slug))


@pytest.mark.parametrize("slug", layout.slugs())
def test_where_the_library_is_absent_pip_takes_it_from_git(slug):
    said, [command] = run_absent(cell(slug).source, fails=False)
    assert command[1:5] == ["-m", "pip", "install", "--quiet"]
    extra = "[llm]" if slug in ("llm_int8", "what_matters_llm") else ""
    wanted = f"compression-survey{extra} @ git+{layout.repository_url()}@{layout.branch()}"
    assert command[5:] == [wanted]
    assert said == ["survey_lib 9.9 is installed"]


def test_a_failing_pip_is_one_sentence():
    said, calls = run_absent(cell(layout.slugs()[0]).source, fails=True)
    assert len(calls) == 1
    url = layout.repository_url()
    source = f"compression-survey @ git+{url}@"
    assert len(said) == 1
    assert said[0].startswith(f"could not install {source}")
    assert said[0].endswith(": ERROR: no network")
