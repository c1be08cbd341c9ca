import subprocess

import pytest
from nbformat import v4

from survey_lib.publish import setup_cell
from survey_lib.publish.check_sources import check_notebook, check_sources

from .conftest import chapter, code, text

URL = "https://github.com/owner/name"
SETUP = setup_cell.setup_source(URL)


def spoiled(change):
    notebook = chapter(text("Plain words with `code` and $x_1$.", "results-not"))
    change(notebook)
    return check_notebook(notebook, "notebooks/alpha.ipynb", SETUP)


def test_a_good_notebook_has_no_findings():
    assert spoiled(lambda nb: None) == []


def add(cell):
    return lambda nb: nb.cells.append(cell)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda nb: nb.cells[-1].update(execution_count=3), "holds outputs"),
        (
            lambda nb: nb.cells[-1].update(
                outputs=[v4.new_output("stream", name="stdout", text="1")]
            ),
            "holds outputs",
        ),
        (lambda nb: nb.metadata.update(widgets={}), "notes of a run"),
        (lambda nb: nb.cells[-1].metadata.update(papermill={}), "notes of a run"),
        (lambda nb: nb.cells.extend(text("x") for _ in range(44)), "more than 47"),
        (add(code("\n".join(["1"] * 41))), "has 41 lines, more than 40"),
        (add(code("figure()", "hide-input")), "not folded as their tags say"),
        (lambda nb: nb.cells[1].update(source="import sys"), "set-up cell"),
        (lambda nb: nb.cells.insert(0, code("1")), "set-up cell"),
        (lambda nb: nb.cells.pop(1), "set-up cell"),
        (lambda nb: nb.cells[3].metadata.update(tags=[]), "tagged parameters"),
        (lambda nb: nb.cells[3].update(source="other = 1"), "tagged parameters"),
        (lambda nb: nb.cells[-1].metadata.update(tags=[]), "0 cells tagged hero"),
        (add(text("See {cite}`zhu2017prune`.")), "MyST markup"),
        (add(text("```{note}\nx\n```")), "MyST markup"),
        (add(text("::::{grid}\n::::")), "MyST markup"),
        (add(text("(label)=\n## Head")), "MyST markup"),
        (add(text("It wins by 3 points.", "results")), "holds a digit"),
    ],
)
def test_a_spoiled_notebook_is_found(change, what):
    [finding] = spoiled(change)
    assert what in finding.what
    assert finding.file == "notebooks/alpha.ipynb"


def test_digits_in_link_targets_and_plain_fences_are_fine():
    assert spoiled(add(text("See [the figure](figure-3.svg).", "results"))) == []
    assert spoiled(add(text("```python\nx = {a}`b`\n```"))) == []


def test_sources_in_step(book):
    # alpha has a card that is none, beta has no card at all
    found = {(f.file, f.what) for f in check_sources()}
    assert ("notebooks/beta.ipynb", "has no card") in found
    assert any(file == "survey_lib/cards/alpha.md" and "front matter" in w for file, w in found)
    assert len(found) == 2
    (book.package / "cards" / "gamma.md").write_text("x")
    (book.root / "notebooks" / "alpha.ipynb").rename(book.root / "notebooks" / "delta.ipynb")
    (book.root / "book" / "how_to_read.md").unlink()
    (book.root / "book" / "_vendor" / "mathjax" / "tex-svg.js").write_text("// other")
    new = {(f.file, f.what) for f in check_sources()} - found
    assert {
        ("_toc.yml", "lists notebooks/alpha, which is no notebook"),
        ("notebooks/delta.ipynb", "is not in _toc.yml"),
        ("_toc.yml", "lists book/how_to_read, which is no page"),
        ("book/_vendor/mathjax/tex-svg.js", "is missing or differs from its checksum"),
    } <= new


def test_a_chapter_whose_study_is_to_come_may_wait_outside_the_contents(book, monkeypatch):
    monkeypatch.setattr("survey_lib.experiments.EXPERIMENTS", {"delta": "some.module"})
    (book.root / "notebooks" / "alpha.ipynb").rename(book.root / "notebooks" / "delta.ipynb")
    told = ("notebooks/delta.ipynb", "is not in _toc.yml")
    assert told not in {(f.file, f.what) for f in check_sources()}
    path = book.root / "results" / "study" / "delta.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}\n")
    assert told in {(f.file, f.what) for f in check_sources()}


def test_the_address_stands_in_one_place(book):
    subprocess.run(["git", "init", "-q", "."], cwd=book.root, check=True)
    before = len(check_sources())
    (book.package / "used.py").write_text(f'HOME = "{URL}"\n')
    (book.root / "README.md").write_text(f"See {URL}\n")  # stamped by sync
    found = check_sources()
    assert len(found) == before + 1
    assert any(f.file == "survey_lib/used.py" for f in found)
    remote = ["git", "remote", "add", "origin", "git@github.com:other/place.git"]
    subprocess.run(remote, cwd=book.root, check=True)
    assert any("https://github.com/other/place" in f.remedy for f in check_sources())
