import nbformat
import pytest
import yaml

from survey_lib.publish import layout, stage
from survey_lib.publish.layout import PublishError

from .test_shown import run, write_executed


def test_stage_holds_sources_at_their_paths_and_generated_pages(book, monkeypatch):
    monkeypatch.setattr(stage, "vega_bundle", lambda: "// vega")
    source = layout.read_notebook(layout.source("alpha"))
    write_executed(book, "alpha", run(source))
    figures = book.build / "figures" / "alpha"
    figures.mkdir(parents=True)
    (figures / "hero.csv").write_text("a\n1\n")
    (book.root / "book" / "_static").mkdir()
    (book.root / "book" / "_static" / "survey.css").write_text("b {}")
    folder = stage.stage({"beta": "ZeroDivisionError: <b>\nat " + str(book.root) + "/x"})
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    assert {
        "_config.yml",
        "_static/survey.css",
        "notebooks/alpha.ipynb",
        "notebooks/beta.ipynb",
        "book/index.md",
        "book/ledger.md",
        "book/run.md",
        "_extra/_static/vendor/vega.js",
        "_extra/_static/vendor/mathjax/tex-svg.js",
        "_extra/_static/figures/alpha/hero.csv",
        "_extra/_static/records/study/alpha.jsonl",
    } <= names
    # a file under _static would be loaded by every page
    assert not any(n.startswith(("_static/vendor", "book/_")) for n in names)
    toc = yaml.safe_load((folder / "_toc.yml").read_text())
    assert layout.toc_pages(toc)[-2:] == list(layout.GENERATED)
    assert layout.pages()[-1] == "notebooks/beta"  # the source's own list is as it was
    notice = nbformat.read(folder / "notebooks" / "beta.ipynb", as_version=4).cells[0].source
    assert "did not run to its end" in notice
    assert "at x" in notice
    assert 'id="verdict-' not in notice  # beta has no card
    assert str(book.root) not in notice
    with pytest.raises(PublishError, match="never executed"):
        stage.stage()
