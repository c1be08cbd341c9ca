"""What ``survey sync`` stamps: set-up cells, their folding, the address, README's table."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from survey_lib import files
from survey_lib.cards.card import CardError, read_card
from survey_lib.publish import folding, layout, zoo
from survey_lib.publish.layout import PublishError

# Lower bounds only, so that pip keeps every package that is already there.
_SOURCE = """\
# @title Set-up: run this first
# Installs the library where it is absent (Colab) and does nothing elsewhere.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("survey_lib") is None:
    source = "compression-survey{extra} @ git+{url}@{ref}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise RuntimeError(f"could not install {{source}}: {{why}}")
    importlib.invalidate_caches()
    import survey_lib

    print(f"survey_lib {{survey_lib.__version__}} is installed")
"""

# files that may name the repository: each address in them is stamped from _config.yml
STAMPED = (
    "README.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "environment.yml",
    "pyproject.toml",
    "Makefile",
    "book/*.md",
    "notebooks/*.ipynb",
    "survey_lib/show/page.py",
)


def extras(slug: str) -> tuple[str, ...]:
    """Extras of the package that a notebook needs, by its card."""
    try:
        return read_card(slug).extras
    except CardError:
        return ()  # no paper's notebook, or a card that is a finding of its own


def setup_source(repo_url: str, ref: str = "main", extras: Sequence[str] = ()) -> str:
    """Source of the set-up cell for the repository at ``repo_url``, installed at ``ref``.

    The cell does nothing where ``survey_lib`` can be imported; else it installs the library with
    ``extras``.
    """
    extra = f"[{','.join(extras)}]" if extras else ""
    return _SOURCE.format(url=repo_url.rstrip("/"), ref=ref, extra=extra).rstrip("\n")


def setup_cell(repo_url: str, ref: str = "main", extras: Sequence[str] = ()) -> Any:
    """The set-up cell as a notebook cell, folded on Colab and absent from the page."""
    cell = nbformat.v4.new_code_cell(setup_source(repo_url, ref, extras))
    cell.id = "setup"
    cell.metadata.update({"tags": ["setup", "remove-cell"], "cellView": "form"})
    return cell


def stamped_files() -> list[Path]:
    """The files of the checkout whose repository addresses are stamped."""
    root = layout.root()
    return [path for pattern in STAMPED for path in sorted(root.glob(pattern))]


def is_release(ref: str) -> bool:
    """True for the tag of a release, ``v1.2.3``."""
    return re.fullmatch(r"v\d+(\.\d+)*\w*", ref) is not None


def sync(repo_url: str | None = None, ref: str | None = None) -> list[Path]:
    """Stamp the repository's address into notebooks and links; fold cells; README's table.

    Args:
        repo_url: the new address (``https://github.com/owner/name``), written to
            ``_config.yml`` first; None stamps the address that stands there.
        ref: what the notebooks install and the buttons open: the tag of a release, else the
            branch; written to ``_config.yml`` first. None keeps the one that stands there.

    Returns:
        The files that changed.

    Raises:
        PublishError: ``repo_url`` is no address of a GitHub repository, ``ref`` no name of a
            tag or branch, or README has a place for the table of nets and there is no record.
    """
    old, old_ref = layout.repository_url(), layout.branch()
    new = (repo_url or old).rstrip("/").removesuffix(".git")
    if not re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+", new):
        raise PublishError(f"{new!r} is no GitHub repository: give https://github.com/owner/name")
    if ref is not None and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", ref):
        raise PublishError(f"{ref!r} is no name of a tag or branch")
    changed = []
    config = layout.root() / "_config.yml"
    text = config.read_text(encoding="utf-8")
    stamped = text.replace(old, new)
    if ref is not None and ref != old_ref:
        stamped, count = re.subn(r"(?m)^(  branch: ).*$", rf"\g<1>{ref}", stamped)
        if count != 1:
            raise PublishError("_config.yml: field 'repository: branch' is missing; write it there")
    if stamped != text:
        files.write_atomic(config, stamped)
        changed.append(config)
    old_name = old.removeprefix("https://github.com/")
    new_name = new.removeprefix("https://github.com/")
    for path in stamped_files():
        text = path.read_text(encoding="utf-8")
        # also inside Colab (…/github/owner/name/…) and Binder (…/v2/gh/owner/name/…) addresses
        stamped = re.sub(
            rf"(github\.com/|/github/|/v2/gh/){re.escape(old_name)}(?![\w-])",
            lambda found: found.group(1) + new_name,
            text,
        )
        if path.suffix == ".ipynb":
            stamped = _folded(_with_setup(stamped, path, new))
        if path.name == "README.md" and zoo.BEGIN in stamped:
            stamped = zoo.stamp(stamped, zoo.read())
        if stamped != text:
            files.write_atomic(path, stamped)
            changed.append(path)
    return changed


def _with_setup(text: str, path: Path, repo_url: str) -> str:
    notebook = nbformat.reads(text, as_version=4)
    wanted = setup_cell(repo_url, layout.branch(), extras(path.stem))
    places = [i for i, cell in enumerate(notebook.cells) if "setup" in layout.tags(cell)]
    if len(places) > 1:
        raise PublishError(f"notebooks/{path.name} has {len(places)} set-up cells; keep one")
    if places:
        cell = notebook.cells[places[0]]
        if cell.source == wanted.source and cell.metadata == wanted.metadata:
            return text
        wanted.id = cell.get("id", wanted.id)
        notebook.cells[places[0]] = wanted
    else:
        first = next(
            (i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"),
            len(notebook.cells),
        )
        notebook.cells.insert(first, wanted)
    if notebook.nbformat_minor < 5:
        wanted.pop("id", None)
    return nbformat.writes(notebook) + "\n"


def _folded(text: str) -> str:
    """A notebook whose cells are folded as their tags say."""
    notebook = nbformat.reads(text, as_version=4)
    if all(folding.is_folded_right(cell) for cell in notebook.cells):
        return text
    for cell in notebook.cells:
        folding.fold(cell)
    return nbformat.writes(notebook) + "\n"
