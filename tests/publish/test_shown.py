from pathlib import Path

import nbformat
import pytest
from nbformat import v4

from survey_lib.publish import execute, layout
from survey_lib.publish.layout import PublishError
from survey_lib.publish.scrub import WIDGET_VIEW
from survey_lib.publish.shown import staged_notebook, with_run_facts

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
    shown = staged_notebook("alpha")
    words = [c.source for c in shown.cells if c.cell_type == "markdown"]
    assert words == ["# A title", "new words", "a paragraph more"]
    codes = [c.source for c in shown.cells if c.cell_type == "code"]
    assert codes[1:4] == ["'slot'", 'profile = "quick"', 'profile = "smoke"']
    assert codes[4:] == ["1 + 1", "'drawing'", "'explorer'", "'hero'"]
    assert [c.execution_count for c in shown.cells if c.cell_type == "code"][-1] == 1


def test_plumbing_is_hidden_and_the_run_leaves_no_trace(book):
    source = chapter(code("answer = 42", "solution"))
    write_executed(book, "alpha", run(source))
    book.write("alpha", source)
    shown = staged_notebook("alpha")
    tags = {c.source.splitlines()[0]: layout.tags(c) for c in shown.cells if c.cell_type == "code"}
    assert "remove-cell" in tags['profile = "quick"']
    assert "remove-cell" in tags['profile = "smoke"']
    assert "remove-cell" in tags["# @title Set-up: run this first"]
    assert "remove-input" in tags["'slot'"]
    assert "hide-cell" in tags["answer = 42"]
    assert set(shown.metadata) == {"kernelspec", "language_info"}
    assert all(set(c.metadata) <= {"tags", "mystnb", "cellView", "jupyter"} for c in shown.cells)
    assert execute.RECORDER not in nbformat.writes(shown)


@pytest.mark.parametrize(
    ("page", "tag", "words"),
    [
        ('<figure class="survey survey-figure">', "hide-input", "Code of this figure"),
        ('<table class="survey-table">', "hide-input", "Code of this table"),
        ('<div class="survey survey-explorer">', "hide-input", "Code of this explorer"),
        ("<p>x</p>", "hide-input", "Code"),
        ('<p class="survey survey-check right">', "solution", "Solutions"),
    ],
)
def test_folded_code_has_one_line_that_says_whose_it_is(book, page, tag, words):
    source = chapter(code("draw()", tag))
    made = run(source)
    (drawn,) = [c for c in made.cells if c.source == "draw()"]
    drawn.outputs = [v4.new_output("display_data", {"text/html": page})]
    write_executed(book, "alpha", made)
    book.write("alpha", source)
    (cell,) = [c for c in staged_notebook("alpha").cells if c.source == "draw()"]
    assert cell.metadata.mystnb.code_prompt_show == words


def test_cells_that_prepare_are_not_on_the_page_but_for_what_they_print(book):
    source = chapter(code("rows = []", "plumbing"), code("print(rows)", "plumbing"))
    made = run(source)
    said = v4.new_output("stream", name="stdout", text="[]")
    for cell in made.cells:
        if cell.source in ("rows = []", "print(rows)"):
            cell.outputs = [said] if "print" in cell.source else []
    write_executed(book, "alpha", made)
    book.write("alpha", source)
    tags = {c.source: layout.tags(c) for c in staged_notebook("alpha").cells}
    assert tags["rows = []"] == ["plumbing", "remove-cell"]
    assert tags["print(rows)"] == ["plumbing", "remove-input"]


def test_paths_widgets_and_images(book):
    here = str(book.root)
    picture = f"iVBOR{here}/x"  # base64 has slashes: it must never be touched
    outputs = [
        v4.new_output("stream", name="stdout", text=f"{here}/notebooks/alpha.ipynb\n"),
        v4.new_output("stream", name="stdout", text="/some/where/ipykernel_42/123.py:1: oh\n"),
        v4.new_output(
            "display_data",
            {"text/html": f"<b>{here}/x</b>", "image/png": picture, WIDGET_VIEW: {"a": 1}},
        ),
        v4.new_output("display_data", {WIDGET_VIEW: {"model_id": "b"}}),
    ]
    source = chapter()
    write_executed(book, "alpha", run(source, outputs))
    book.write("alpha", source)
    cells = staged_notebook("alpha").cells
    [slot], hero = [c for c in cells if "hero-slot" in layout.tags(c)], cells[-1]
    assert [o.get("text") for o in hero.outputs[:2]] == [
        "notebooks/alpha.ipynb\n",
        "123.py:1: oh\n",
    ]
    [shown] = slot.outputs
    assert shown.data["text/html"].endswith("<b>x</b>")
    assert shown.data["image/png"] == picture
    assert len(hero.outputs) == 3


def test_hero_stands_at_the_top_and_nowhere_else(book):
    source = chapter()
    source.cells[2].metadata["tags"] = ["hero-slot", "remove-cell"]
    outputs = [
        v4.new_output("stream", name="stdout", text="a word"),
        v4.new_output("display_data", {"text/html": FIGURE, "text/plain": "a figure"}),
    ]
    write_executed(book, "alpha", run(source, outputs))
    book.write("alpha", source)
    shown = staged_notebook("alpha")
    [slot] = [c for c in shown.cells if "hero-slot" in layout.tags(c)]
    [hero] = [c for c in shown.cells if "hero" in layout.tags(c)]
    assert layout.tags(slot) == ["hero-slot", "remove-input"]  # not removed: it is filled now
    moved = slot.outputs[0].data["text/html"]
    assert moved == '<span id="main-figure"></span>' + FIGURE
    [words, back] = hero.outputs
    assert words.text == "a word"
    assert "FIGURE" not in back.data["text/html"]
    assert "<svg" not in back.data["text/html"]
    assert 'href="#main-figure"' in back.data["text/html"]


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
        staged_notebook("alpha")


def test_a_hero_that_shows_nothing_is_refused(book):
    source = chapter()
    only_words = [v4.new_output("stream", name="stdout", text="words")]
    write_executed(book, "alpha", run(source, only_words))
    book.write("alpha", source)
    with pytest.raises(PublishError, match="shows nothing"):
        staged_notebook("alpha")


def test_errors_are_refused(book):
    source = chapter()
    error = v4.new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"])
    write_executed(book, "alpha", run(source, [error]))
    book.write("alpha", source)
    with pytest.raises(PublishError, match="ValueError: no"):
        staged_notebook("alpha")
    banner = run(source)
    banner.cells.insert(0, text("An exception", "papermill-error-cell-tag"))
    write_executed(book, "alpha", banner)
    with pytest.raises(PublishError, match="papermill's banner"):
        staged_notebook("alpha")


def test_other_code_is_refused(book):
    source = chapter(code("1 + 1"))
    write_executed(book, "alpha", run(source))
    source.cells[4].source = "1 + 2"
    book.write("alpha", source)
    with pytest.raises(PublishError, match="executed from other code"):
        staged_notebook("alpha")


def test_what_only_the_whole_book_knows_is_written_into_outputs(book):
    source = chapter()
    cost = '<p><span class="survey-cost"></span></p>'
    dispute = '<span class="survey-small survey-dispute" data-claim="b/c">disputed by B</span>'
    made = [v4.new_output("display_data", {"text/html": cost + dispute, "text/plain": "x"})]
    write_executed(book, "alpha", run(source, made))
    book.write("alpha", source)
    (book.package / "cards" / "alpha.md").write_text(card_text())
    layout.entry("alpha").parent.mkdir(parents=True)
    layout.entry("alpha").write_text('{"parts": {}, "modules": [], "seconds": 12.4}')
    notebook = staged_notebook("alpha")
    with_run_facts(notebook, "alpha", lambda name: f'<a href="x">{name}</a>: planned')
    [slot] = [c for c in notebook.cells if "hero-slot" in layout.tags(c)]
    html = slot.outputs[0].data["text/html"]
    assert "runs in 12 s · downloads 93 MB" in html
    assert 'data-claim="b/c">disputed by <a href="x">b/c</a>: planned</span>' in html
    assert slot.outputs[0].data["text/plain"] == "x"


def card_text():
    """A real card's text under the small book's name."""
    from survey_lib import cards

    text = (Path(cards.__file__).parent / "llm_int8.md").read_text(encoding="utf-8")
    return text.replace("slug: llm_int8", "slug: alpha")
