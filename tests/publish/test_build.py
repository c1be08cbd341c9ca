import pytest
from nbformat import v4

from survey_lib.publish import build, check_site, execute, layout, stage

from .test_stage import run, write_executed


@pytest.fixture
def ready(book, monkeypatch):
    """A book whose chapters are executed, so that a build only renders."""
    monkeypatch.setattr(stage, "vega_bundle", lambda: "// vega")
    monkeypatch.setattr(check_site, "git_lines", lambda root, *words: TRACKED)
    (book.package / "cards" / "alpha.md").unlink()
    for slug in ("alpha", "beta"):
        write_executed(book, slug, run(layout.read_notebook(layout.source(slug)), FIGURE))
    outcomes = {"alpha": "ran", "beta": "cached"}
    monkeypatch.setattr(
        execute, "execute", lambda *_: [execute.Outcome(s, w) for s, w in outcomes.items()]
    )
    return book


TRACKED = ["notebooks/alpha.ipynb", "notebooks/beta.ipynb", "book/index.md", "book/how_to_read.md"]
HTML = '<figure><svg role="img"><title>Falls</title><path d="M0 0"/></svg></figure>'
FIGURE = [v4.new_output("display_data", {"text/html": HTML})]


def test_build_renders_once_and_keeps_the_old_site_when_a_page_is_broken(ready, capsys):
    site = build.site()
    assert build.build("quick") == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "1 chapters ran, 1 cached, 0 failed; pages rendered and checked" in said
    assert str(site / "index.html") in said
    first = (site / "notebooks" / "alpha.html").read_text()
    assert "github/owner/name/blob/main/notebooks/alpha.ipynb" in first
    assert first.count("<title>Falls</title>") == 1  # the hero, at the top alone
    assert "rendering 6 pages with jupyter-book" in said
    assert "profile = " not in first
    assert "fontawesome.js" not in first
    # the index of the search is for its own page
    assert "searchindex.js" not in first
    assert "searchindex.js" in (site / "search.html").read_text()
    # MathJax only where a formula is, not on every page above it
    assert "tex-svg.js" not in first
    assert "tex-svg.js" not in (site / "book" / "index.html").read_text()
    assert "tex-svg.js" in (site / "book" / "how_to_read.html").read_text()
    ledger = (site / "book" / "ledger.html").read_text()
    assert "/edit/" not in ledger
    assert "colab.research" not in ledger
    assert "/edit/main/book/index.md" in (site / "book" / "index.html").read_text()
    assert 'url=book/index.html"' in (site / "index.html").read_text()

    stamp = (site / "notebooks" / "alpha.html").stat().st_mtime_ns
    assert build.build("quick") == 0
    assert "nothing changed" in capsys.readouterr().out
    assert (site / "notebooks" / "alpha.html").stat().st_mtime_ns == stamp

    page = ready.root / "book" / "index.md"
    page.write_text(page.read_text() + "\n[nowhere](gone.md)\n")
    assert build.build("quick") == 1
    error = capsys.readouterr().err
    assert "book/index.md" in error
    assert "gone.md" in error
    assert str(ready.root) not in error
    assert (site / "notebooks" / "alpha.html").stat().st_mtime_ns == stamp
    assert build._last_state() == ""  # so that the next build renders


def test_a_failed_chapter_is_named_and_the_others_are_rendered(ready, monkeypatch, capsys):
    failed = execute.Outcome("beta", "failed", 1.0, 6, "ZeroDivisionError: division by zero")
    monkeypatch.setattr(execute, "execute", lambda *_: [execute.Outcome("alpha", "ran"), failed])
    assert build.build("quick") == 1
    said = capsys.readouterr()
    assert "beta, cell 6 failed:\n    ZeroDivisionError" in said.err
    assert "1 failed" in said.out
    site = build.site()
    assert "did not run to its end" in (site / "notebooks" / "beta.html").read_text()
    assert "Falls" in (site / "notebooks" / "alpha.html").read_text()


def test_explain_makes_nothing(book, capsys):
    assert build.build(explain=True) == 0
    assert capsys.readouterr().out == "alpha: never executed\nbeta: never executed\n"
    assert not book.build.exists()


def test_an_installed_package_cannot_build(book, capsys):
    (book.root / "_toc.yml").unlink()
    assert build.build() == 1
    assert "clone the repository" in capsys.readouterr().err


def test_a_stopped_build_says_so_in_one_line(book, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "execute", stop)
    assert build.build() == 130
    assert capsys.readouterr().err.startswith("stopped; finished chapters are kept")
