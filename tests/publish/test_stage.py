import nbformat
import pytest
import yaml
from nbformat import v4

from survey_lib.cards.card import Claim
from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import REPRODUCED, Verdict
from survey_lib.publish import execute, layout, overview, stage
from survey_lib.publish.layout import PublishError

from .conftest import chapter, code, text

FIGURE = (
    '<svg role="img" aria-labelledby="t1"><title id="t1">Falls</title><clipPath id="c1"/>'
    '<g clip-path="url(#c1)"><use href="#m1"/></g><path id="m1" d="M0 0"/></svg>'
    '<a href="#verdict-x">elsewhere</a>'
)


def run(source, outputs=None):
    """What papermill makes of a source notebook, with ``outputs`` on the cell tagged hero."""
    made = execute.with_recorder(source)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.execution_count = 1
            cell.metadata["papermill"] = {"duration": 1.0}
        if "hero" in layout.tags(cell):
            cell.outputs = outputs or [
                v4.new_output("display_data", {"text/html": FIGURE, "text/plain": "a figure"})
            ]
    place = next(i for i, c in enumerate(made.cells) if "parameters" in layout.tags(c))
    made.cells.insert(place + 1, code('profile = "smoke"', "injected-parameters"))
    made.metadata["papermill"] = {"input_path": "/somewhere/alpha.ipynb"}
    made.metadata["widgets"] = {"state": {}}
    return made


def write_executed(book, slug, notebook):
    path = layout.executed(slug)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def test_markdown_comes_from_the_source_and_outputs_from_the_run(book):
    source = chapter(text("old words"), code("1 + 1"))
    write_executed(book, "alpha", run(source))
    source.cells[4].source = "new words"
    source.cells.insert(5, text("a paragraph more"))
    book.write("alpha", source)
    shown = stage.staged_notebook("alpha")
    words = [c.source for c in shown.cells if c.cell_type == "markdown"]
    assert words == ["# A title", "new words", "a paragraph more"]
    codes = [c.source for c in shown.cells if c.cell_type == "code"]
    assert codes[1:4] == ["'slot'", 'profile = "quick"', 'profile = "smoke"']
    assert codes[4:] == ["1 + 1", "'explorer'", "'hero'"]
    assert [c.execution_count for c in shown.cells if c.cell_type == "code"][-1] == 1


def test_plumbing_is_hidden_and_the_run_leaves_no_trace(book):
    source = chapter(code("answer = 42", "solution"))
    write_executed(book, "alpha", run(source))
    book.write("alpha", source)
    shown = stage.staged_notebook("alpha")
    tags = {c.source.splitlines()[0]: layout.tags(c) for c in shown.cells if c.cell_type == "code"}
    assert "remove-cell" in tags['profile = "quick"']
    assert "remove-cell" in tags['profile = "smoke"']
    assert "remove-cell" in tags["# @title Set-up: run this first"]
    assert "remove-input" in tags["'slot'"]
    assert "hide-cell" in tags["answer = 42"]
    assert set(shown.metadata) == {"kernelspec", "language_info"}
    assert all(set(c.metadata) <= {"tags", "mystnb", "cellView"} for c in shown.cells)
    assert execute.RECORDER not in nbformat.writes(shown)


def test_paths_widgets_and_images(book):
    here = str(book.root)
    picture = f"iVBOR{here}/x"  # base64 has slashes: it must never be touched
    outputs = [
        v4.new_output("stream", name="stdout", text=f"{here}/notebooks/alpha.ipynb\n"),
        v4.new_output("stream", name="stdout", text="/some/where/ipykernel_42/123.py:1: oh\n"),
        v4.new_output(
            "display_data",
            {"text/html": f"<b>{here}/x</b>", "image/png": picture, stage.WIDGET_VIEW: {"a": 1}},
        ),
        v4.new_output("display_data", {stage.WIDGET_VIEW: {"model_id": "b"}}),
    ]
    source = chapter()
    write_executed(book, "alpha", run(source, outputs))
    book.write("alpha", source)
    hero = stage.staged_notebook("alpha").cells[-1]
    assert [o.get("text") for o in hero.outputs[:2]] == [
        "notebooks/alpha.ipynb\n",
        "123.py:1: oh\n",
    ]
    assert hero.outputs[2].data == {"text/html": "<b>x</b>", "image/png": picture}
    assert len(hero.outputs) == 3


def test_hero_is_copied_to_the_top_with_ids_of_its_own(book):
    source = chapter()
    source.cells[2].metadata["tags"] = ["hero-slot", "remove-cell"]
    write_executed(book, "alpha", run(source))
    book.write("alpha", source)
    shown = stage.staged_notebook("alpha")
    [slot] = [c for c in shown.cells if "hero-slot" in layout.tags(c)]
    [hero] = [c for c in shown.cells if "hero" in layout.tags(c)]
    assert layout.tags(slot) == ["hero-slot", "remove-input"]  # not removed: it is filled now
    copy = slot.outputs[0].data["text/html"]
    assert hero.outputs[0].data["text/html"] == FIGURE
    for changed in ('id="t1-hero"', 'aria-labelledby="t1-hero"', "url(#c1-hero)", '"#m1-hero"'):
        assert changed in copy
    assert 'href="#verdict-x"' in copy  # leads out of the figure


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda nb: nb.cells[-1].metadata.update(tags=[]), "it has 0 and 1"),
        (lambda nb: nb.cells[2].metadata.update(tags=["hero"]), "it has 2 and 0"),
    ],
)
def test_half_a_hero_is_refused(book, spoil, message):
    source = chapter()
    spoil(source)
    write_executed(book, "alpha", run(source))
    book.write("alpha", source)
    with pytest.raises(PublishError, match=message):
        stage.staged_notebook("alpha")


def test_a_hero_that_shows_nothing_is_refused(book):
    source = chapter()
    only_words = [v4.new_output("stream", name="stdout", text="words")]
    write_executed(book, "alpha", run(source, only_words))
    book.write("alpha", source)
    with pytest.raises(PublishError, match="shows nothing"):
        stage.staged_notebook("alpha")


def test_errors_are_refused(book):
    source = chapter()
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    write_executed(book, "alpha", run(source, [error]))
    book.write("alpha", source)
    with pytest.raises(PublishError, match="ValueError: no"):
        stage.staged_notebook("alpha")
    banner = run(source)
    banner.cells.insert(0, text("An exception", "papermill-error-cell-tag"))
    write_executed(book, "alpha", banner)
    with pytest.raises(PublishError, match="papermill's banner"):
        stage.staged_notebook("alpha")


def test_other_code_is_refused(book):
    source = chapter(code("1 + 1"))
    write_executed(book, "alpha", run(source))
    source.cells[4].source = "1 + 2"
    book.write("alpha", source)
    with pytest.raises(PublishError, match="executed from other code"):
        stage.staged_notebook("alpha")


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


def test_run_page_tells_what_the_entries_say(book):
    import json

    entry = {
        "parts": {},
        "modules": [],
        "seconds": 61.2,
        "core_seconds": 118.0,
        "profile": "quick",
        "finished": "2031-01-02 03:04 UTC",
        "versions": {"torch": "9.9"},
        "machine": {"processor": "Abacus", "cores": 3, "system": "Linux", "python": "3.14"},
    }
    layout.entry("alpha").parent.mkdir(parents=True)
    layout.entry("alpha").write_text(json.dumps(entry))
    page = stage.run_page()
    assert "| [alpha](../notebooks/alpha.ipynb) | quick | 61 | 118 | 2031-01-02 03:04 UTC |" in page
    assert "[beta](../notebooks/beta.ipynb) | not executed" in page
    assert "Abacus, 3 cores, Linux, Python 3.14" in page
    assert "torch 9.9" in page


def test_ledger_lists_each_claim_with_its_interval_and_escapes(book, monkeypatch):
    from types import SimpleNamespace

    from survey_lib.experiments import EXPERIMENTS, runner

    claim = Claim(
        "a-claim", "Small <script> wins", "Table 1", "gain", "gain", (0.0, None), "", unit="points",
        disputes=("beta/other-claim",),
    )  # fmt: skip
    verdict = Verdict(claim, REPRODUCED, Interval(1.1, 0.76, 1.44, 5), {0: 1.1})
    monkeypatch.setitem(EXPERIMENTS, "alpha", "no.module")
    monkeypatch.setattr(runner, "verdicts", lambda slug: [verdict])
    card = SimpleNamespace(title="Alpha", authors=("A. Author",), year=2031)
    monkeypatch.setattr(stage, "read_card", lambda slug: card)
    monkeypatch.setattr(overview, "read_card", lambda slug: SimpleNamespace(title="Beta: more"))
    page = stage.ledger_page()
    assert 'disputes <a href="../notebooks/beta.html#verdict-other-claim">Beta: other claim' in page
    assert "**1 claims:** ✓ 1 reproduced, ✗ 0 not reproduced" in page
    assert "../notebooks/alpha.html#verdict-a-claim" in page
    assert "[0.76, 1.44]" in page
    assert "1.10 points" in page
    assert "≥ 0 points" in page
    assert "<script>" not in page
    assert "Small &lt;script&gt; wins" in page
