"""Where the book's parts lie: sources, chapters, what is made of them."""

import os
from pathlib import Path
from typing import Any

import nbformat
import yaml

from survey_lib import files

# pages that staging makes from records; they have no source to launch or to edit
GENERATED = ("book/ledger", "book/run")
PAPERS = "book/papers"
"""Folder of the generated pages of papers that have no chapter yet."""
NO_CARD = ("common_testbed",)
"""Notebooks that belong to no paper."""


class PublishError(RuntimeError):
    """The book cannot be made; the message says what, where and what to do."""


KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
"""Metadata of every notebook's kernel: any Python will do."""


def root() -> Path:
    """The checkout the book is built from; raises PublishError for an installed package."""
    found = files.repository()
    if found is None:
        raise PublishError(
            "the book is built from a checkout: clone the repository and install it with "
            "'pip install -e .[book]'"
        )
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; raises PublishError naming the file otherwise."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PublishError(f"{path.name} is missing: restore it from git") from None
    except yaml.YAMLError as error:
        raise PublishError(f"{path.name} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise PublishError(f"{path.name} must hold a mapping of fields")
    return data


def toc_pages(toc: dict[str, Any]) -> list[str]:
    """Pages of a table of contents in reading order, as paths without suffix."""
    pages = [toc["root"]] if "root" in toc else []
    if "file" in toc:
        pages.append(toc["file"])
    for part in ("parts", "chapters", "sections"):
        for entry in toc.get(part, []):
            pages.extend(toc_pages(entry))
    return pages


def pages() -> list[str]:
    """Pages that ``_toc.yml`` lists, as paths without suffix."""
    return toc_pages(read_yaml(root() / "_toc.yml"))


def slugs() -> list[str]:
    """Slugs of the notebooks in the order of ``_toc.yml``."""
    return [page.removeprefix("notebooks/") for page in pages() if page.startswith("notebooks/")]


def chapters() -> list[str]:
    """Slugs of the notebooks that belong to a paper, in the order of ``_toc.yml``."""
    return [slug for slug in slugs() if slug not in NO_CARD]


def source(slug: str) -> Path:
    """The source notebook of a chapter."""
    return root() / "notebooks" / f"{slug}.ipynb"


def executed(slug: str) -> Path:
    """The executed notebook of a chapter; it exists once the chapter has run to its end."""
    return files.build_dir() / "executed" / f"{slug}.ipynb"


def entry(slug: str) -> Path:
    """The cache entry of a chapter: what it was executed from, and how long it took."""
    return files.build_dir() / "execute" / f"{slug}.json"


def log(slug: str) -> Path:
    """What the last execution of a chapter wrote to its terminal."""
    return files.build_dir() / "logs" / f"{slug}.log"


def read_notebook(path: Path) -> Any:
    """Read a notebook as format 4; raises PublishError when it is none."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise PublishError(
            f"{_short(path)} is missing: write it or take it out of _toc.yml"
        ) from None
    except Exception as error:  # nbformat raises its own, jsonschema's and ValueError
        raise PublishError(f"{_short(path)} is not a notebook: {str(error)[:80]}") from None


def tags(cell: Any) -> list[str]:
    """Tags of a cell."""
    return list(cell.metadata.get("tags", []))


def code_sources(notebook: Any) -> list[str]:
    """Sources of the code cells of a source notebook, in order."""
    return [cell.source for cell in notebook.cells if cell.cell_type == "code"]


def repository_url() -> str:
    """Address of the repository; it stands once, in ``_config.yml``."""
    config = read_yaml(root() / "_config.yml")
    try:
        return str(config["repository"]["url"]).rstrip("/")
    except (KeyError, TypeError):
        raise PublishError("_config.yml: field 'repository: url' is missing; set it") from None


def branch() -> str:
    """Branch, or a release's tag, that notebooks install and that buttons point to."""
    config = read_yaml(root() / "_config.yml")
    return str(config.get("repository", {}).get("branch", "main"))


def _short(path: Path) -> str:
    return os.path.join(path.parent.name, path.name)
