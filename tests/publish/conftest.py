"""A book in miniature: two pages, two chapters and a package of its own, in a temporary folder."""

from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat import v4

from survey_lib import files
from survey_lib.cards import card as cards
from survey_lib.publish import setup_cell

CONFIG = """\
title: A small book
author: Somebody
only_build_toc_files: true
repository:
  url: https://github.com/owner/name
  branch: main
execute: {execute_notebooks: "off"}
launch_buttons: {colab_url: "https://colab.research.google.com"}
html: {use_edit_page_button: true, use_repository_button: true}
sphinx:
  recursive_update: true
  config:
    extensions: [myst_nb, jupyter_book, sphinx_comments, sphinx_external_toc, sphinx_book_theme,
                 sphinx_togglebutton, sphinx_copybutton, sphinx_design,
                 sphinx_jupyterbook_latex, sphinx_multitoc_numbering, survey_lib.publish.pages]
    html_context: {default_mode: auto}
    html_extra_path: [_extra]
    mathjax_path: vendor/mathjax/tex-svg.js
    nb_ipywidgets_js: {}
"""
TOC = """\
format: jb-book
root: book/index
parts:
  - caption: Part
    chapters:
      - file: book/how_to_read
      - file: notebooks/alpha
      - file: notebooks/beta
"""
PACKAGE = {
    "__init__.py": '"""A package in miniature."""\n',
    "used.py": '"""Imported by name."""\n\nVALUE = 1\n',
    "below.py": "VALUE = 2\n",
    "found_late.py": "from survey_lib import below\n\nVALUE = below.VALUE + 1\n",
    "unrelated.py": "VALUE = 4\n",
    "tasks/__init__.py": "",
    "tasks/numbers.py": "from pathlib import Path\n",
    "tasks/data/numbers.txt": "1 2 3\n",
    "show/__init__.py": "",
    "show/book.mplstyle": "lines.linewidth: 2\n",
    "methods/__init__.py": "",
    "methods/alpha.py": '"""The method."""\n',
    "cards/alpha.md": "first\n",
}


def code(source, *tags):
    cell = v4.new_code_cell(source)
    cell.metadata["tags"] = list(tags)
    return cell


def text(source, *tags):
    cell = v4.new_markdown_cell(source)
    if tags:
        cell.metadata["tags"] = list(tags)
    return cell


def chapter(*cells):
    """A source notebook that the checks accept, with ``cells`` between parameters and explorer."""
    given = [
        text("# A title"),
        code("'slot'", "hero-slot"),
        code('profile = "quick"', "parameters"),
        *cells,
        code("'drawing'", "drawing"),
        code("'explorer'", "explorer"),
        code("'hero'", "hero"),
    ]
    given.insert(1, setup_cell.setup_cell("https://github.com/owner/name"))
    return v4.new_notebook(cells=given)


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The root of a small checkout; ``files`` and the kernels' PYTHONPATH point into it."""
    root = tmp_path / "checkout"
    for name, content in PACKAGE.items():
        path = root / "survey_lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    (root / "pyproject.toml").write_text("")
    (root / "_config.yml").write_text(CONFIG)
    (root / "_toc.yml").write_text(TOC)
    (root / "book").mkdir()
    (root / "book" / "index.md").write_text("# A small book\n\n[Read](how_to_read.md)\n")
    (root / "book" / "how_to_read.md").write_text("# How to read\n\nWith care: $x^2$.\n")
    vendor = root / "book" / "_vendor" / "mathjax"
    vendor.mkdir(parents=True)
    (vendor / "tex-svg.js").write_text("// no formula here\n")
    (vendor / "SHA256SUMS").write_text(f"{files.sha256(vendor / 'tex-svg.js')}  tex-svg.js\n")
    (root / "notebooks").mkdir()
    (root / "results" / "study").mkdir(parents=True)
    (root / "results" / "study" / "alpha.jsonl").write_text("")
    monkeypatch.setattr(files, "PACKAGE", root / "survey_lib")
    monkeypatch.setattr(cards, "FOLDER", root / "survey_lib" / "cards")
    monkeypatch.setenv("SURVEY_BUILD", str(root / "_build"))

    def write(slug, notebook):
        path = root / "notebooks" / f"{slug}.ipynb"
        nbformat.write(notebook, path)
        return path

    for slug in ("alpha", "beta"):
        write(slug, chapter())
    return SimpleNamespace(
        root=root, build=root / "_build", write=write, package=Path(files.PACKAGE)
    )
