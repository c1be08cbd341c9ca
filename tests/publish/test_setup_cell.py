import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import nbformat
import pytest

from survey_lib.publish import check_sources, layout, setup_cell
from survey_lib.publish.layout import PublishError

from .conftest import chapter, code, text

URL = "https://github.com/owner/name"


def run_cell(monkeypatch, importable, returncode=0, stderr=""):
    """Execute the set-up cell; returns the commands it would have run."""
    commands = []

    def run(command, **_options):
        commands.append(command)
        return SimpleNamespace(returncode=returncode, stderr=stderr)

    found = object() if importable else None
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(subprocess, "run", run)
    exec(compile(setup_cell.setup_source(URL, "v1"), "setup", "exec"), {})
    return commands


def test_nothing_happens_where_the_library_is(monkeypatch, capsys):
    assert run_cell(monkeypatch, importable=True) == []
    assert capsys.readouterr().out == ""


def test_it_is_installed_where_it_is_not_and_nothing_else_is_upgraded(monkeypatch, capsys):
    [command] = run_cell(monkeypatch, importable=False)
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert command[-1] == f"compression-survey @ git+{URL}@v1"
    assert not {"-U", "--upgrade", "--force-reinstall"} & set(command)
    import survey_lib

    assert survey_lib.__version__ in capsys.readouterr().out


def test_a_chapter_may_need_an_extra_and_no_other_gets_it():
    source = setup_cell.setup_source(URL, "v1", setup_cell.extras("llm_int8"))
    assert f'"compression-survey[llm] @ git+{URL}@v1"' in source
    assert f'"compression-survey @ git+{URL}@v1"' in setup_cell.setup_source(URL, "v1")
    for slug in ("thinet", "common_testbed", "nowhere"):  # the last has no card
        assert setup_cell.extras(slug) == ()


def test_failure_is_one_sentence(monkeypatch):
    with pytest.raises(RuntimeError) as error:
        run_cell(monkeypatch, False, 1, "a long story\nERROR: no network\n")
    assert str(error.value).startswith("could not install compression-survey @ git+")
    assert URL in str(error.value)
    assert str(error.value).endswith(": ERROR: no network")


def test_sync_stamps_a_new_address_everywhere(book):
    badge = (
        "[Colab](https://colab.research.google.com/github/owner/name/blob/main/notebooks/alpha.ipynb)"
        " [Binder](https://mybinder.org/v2/gh/owner/name/main) [code](https://github.com/owner/name)"
        " [a neighbour](https://github.com/owner/name-of-another)"
    )
    book.write("alpha", chapter(text(badge)))
    (book.root / "README.md").write_text(f"# Book\n\n{URL}\n")
    changed = {p.name for p in setup_cell.sync("https://github.com/new-owner/place/")}
    assert changed == {"_config.yml", "README.md", "alpha.ipynb", "beta.ipynb"}
    new = "https://github.com/new-owner/place"
    assert layout.repository_url() == new
    assert (book.root / "README.md").read_text() == f"# Book\n\n{new}\n"
    notebook = layout.read_notebook(layout.source("alpha"))
    words = notebook.cells[4].source
    assert "/github/new-owner/place/blob/main/notebooks/alpha.ipynb" in words
    assert "/v2/gh/new-owner/place/main" in words
    assert "https://github.com/owner/name-of-another" in words
    assert notebook.cells[1].source == setup_cell.setup_source(new)
    assert setup_cell.sync() == []  # once is enough


def test_sync_adds_and_mends_the_setup_cell(book):
    bare, edited = chapter(), chapter()
    bare.cells.pop(1)
    edited.cells[1].source = "import sys"
    edited.cells[1].metadata["tags"] = ["setup"]
    book.write("alpha", bare)
    book.write("beta", edited)
    setup_cell.sync()
    for slug in ("alpha", "beta"):
        notebook = layout.read_notebook(layout.source(slug))
        nbformat.validate(notebook)
        wanted = setup_cell.setup_source(URL)
        assert check_sources.check_notebook(notebook, f"notebooks/{slug}.ipynb", wanted) == []


def test_a_release_installs_itself_and_main_follows(book, monkeypatch):
    tags = {"--list": [], "--points-at": []}
    monkeypatch.setattr(check_sources, "git_lines", lambda root, *words: tags.get(words[1], []))

    def findings():
        return [f.remedy for f in check_sources.check_sources() if "install" in f.what]

    assert setup_cell.sync(ref="v0.3.0")[0].name == "_config.yml"
    assert layout.branch() == "v0.3.0"
    source = layout.read_notebook(layout.source("alpha")).cells[1].source
    assert source == setup_cell.setup_source(URL, "v0.3.0")
    assert findings() == []  # the tag is still to be made
    tags |= {"--list": ["v0.3.0"], "--points-at": ["v0.3.0"]}
    assert findings() == []
    tags["--points-at"] = []  # a later commit
    assert findings() == ["run survey sync --ref main"]
    setup_cell.sync(ref="main")
    assert findings() == []
    tags["--points-at"] = ["v0.4.0"]
    assert findings() == ["run survey sync --ref v0.4.0 before tagging"]
    with pytest.raises(PublishError, match="no name of a tag or branch"):
        setup_cell.sync(ref="v1; rm")


@pytest.mark.parametrize(
    "address", ["https://gitlab.com/a/b", "owner/name", "https://github.com/a"]
)
def test_what_is_no_repository_is_refused(book, address):
    with pytest.raises(PublishError, match="is no GitHub repository"):
        setup_cell.sync(address)
    assert layout.repository_url() == URL


def test_sync_folds_what_only_draws_and_unfolds_the_rest(book):
    source = chapter(
        code("figure()", "hide-input"),
        code("rows = []", "plumbing"),
        code("check(7)", "solution"),
        code("answer = ..."),
    )
    plain = next(c for c in source.cells if c.source == "answer = ...")
    plain.metadata.update({"cellView": "form", "jupyter": {"source_hidden": True, "kept": 1}})
    path = book.write("alpha", source)
    assert path in setup_cell.sync()
    cells = {c.source: c.metadata for c in layout.read_notebook(path).cells}
    for folded in ("figure()", "rows = []", "check(7)"):
        assert cells[folded]["cellView"] == "form"
        assert cells[folded]["jupyter"] == {"source_hidden": True}
    assert "cellView" not in cells["answer = ..."]
    assert cells["answer = ..."]["jupyter"] == {"kept": 1}
    assert path not in setup_cell.sync()
