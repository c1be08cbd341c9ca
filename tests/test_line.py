"""The whole line: one chapter in smoke, from its source notebook to a checked site.

The other chapters are left out, so that their number costs nothing here; each of them runs in
smoke under ``make test-colab`` and ``make test-lab``, and in quick under ``make book``.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SLUG = "to_prune_or_not"


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A build folder with the site in it, and what the build printed."""
    folder = tmp_path_factory.mktemp("line")
    return folder, run(folder)


def run(folder, *words, profile="smoke"):
    command = [sys.executable, "-m", "survey_lib.cli", "build", "--profile", profile]
    command += ["--only", SLUG, *words]
    environment = os.environ | {"SURVEY_BUILD": str(folder), "SURVEY_JOBS": "1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=540
    )


def test_the_site_stands_and_its_chapter_is_whole(build):
    folder, done = build
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith("html/index.html")
    page = (folder / "html" / "notebooks" / f"{SLUG}.html").read_text(encoding="utf-8")
    for part in ("card", "strip", "hero", "verdicts", "explorer"):
        assert f"survey-{part}" in page, part
    assert "Traceback" not in page
    assert page.count("<svg") >= 4
    figures = {p.name for p in (folder / "figures" / SLUG).iterdir()}
    for stem in ("quality_against_size", "schedules", "accuracy_against_bytes"):
        assert {f"{stem}.svg", f"{stem}.png", f"{stem}.csv"} <= figures


def test_the_page_shows_every_claim_with_its_verdict(build):
    from survey_lib.experiments import judging

    page = (build[0] / "html" / "notebooks" / f"{SLUG}.html").read_text(encoding="utf-8")
    for verdict in judging.verdicts(SLUG):
        row = re.search(rf'id="verdict-{verdict.claim.id}" class="([a-z-]+)"', page)
        assert row, verdict.claim.id
        assert row.group(1) == verdict.word.replace(" ", "-")


def test_smoke_runs_were_made_in_this_build(build):
    records = list((build[0] / "records" / SLUG).glob("*.json"))
    made = [json.loads(p.read_text()) for p in records]
    assert len(made) == 5
    assert {r["profile"] for r in made} == {"smoke"}
    assert all(r["status"] == "done" for r in made)


def test_the_explorer_draws_real_records(build):
    from survey_lib.evidence.reading import study

    page = (build[0] / "html" / "notebooks" / f"{SLUG}.html").read_text(encoding="utf-8")
    text = re.search(r'class="survey-spec">(.*?)</script>', page, re.S).group(1)
    (packed,) = json.loads(text.replace("<\\/", "</"))["datasets"].values()
    rows = [dict(zip(packed["columns"], row, strict=True)) for row in packed["rows"]]
    drawn = {(r["keep"], r["exponent"], r["accuracy"], r["bytes"]) for r in rows}
    real = {
        (r.config["keep"], r.config["exponent"], r.numbers["test"], r.numbers["bytes_bitmask"])
        for r in study(SLUG)
        if r.config["keep"] and r.config["family"] == "cnn"
    }
    assert drawn == real
    assert len({(r["keep"], r["exponent"], r["window"]) for r in rows}) == 27


def test_a_second_build_runs_and_renders_nothing(build):
    again = run(build[0])
    assert again.returncode == 0
    assert "cached" in again.stdout
    assert "nothing changed" in again.stdout


def test_explain_says_why_and_makes_nothing(build):
    assert f"{SLUG}: up to date" in run(build[0], "--explain").stdout
    other = run(build[0], "--explain", profile="quick")
    assert "profile changed smoke → quick" in other.stdout


def test_solutions_of_the_exercises_are_right(build):
    """Each solution of the executed notebook is said to be right, each question waits."""
    import nbformat

    notebook = nbformat.read(build[0] / "executed" / f"{SLUG}.ipynb", as_version=4)
    solutions = [c for c in notebook.cells if "solution" in c.metadata.get("tags", [])]
    assert len(solutions) == 1
    told = [str(o["data"].get("text/plain", "")) for o in solutions[0].outputs if "data" in o]
    assert [t[0] for t in told] == ["✓"] * 3, told
    asked = [c for c in notebook.cells if c.get("id", "").startswith("exercise-")]
    assert len(asked) == 3
    for cell in asked:
        told = "".join(str(o.get("data", {}).get("text/plain", "")) for o in cell.outputs)
        assert told.startswith("○ your turn"), cell.id
