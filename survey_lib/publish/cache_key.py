"""What a chapter's outputs rest on, as named hashes, and why it would be executed again.

The *parts* of the key are kept beside an executed chapter; a chapter runs again when a part
differs, and the difference says why.
"""

import ast
import contextlib
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from survey_lib import closure, files
from survey_lib.cards.card import OWN, own_slugs, slugs
from survey_lib.publish import layout
from survey_lib.show.page import method_file

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "matplotlib",
    "seaborn",
    "altair",
    "ipywidgets",
    "papermill",
)

UP_TO_DATE = "up to date"


def explain(slug: str, profile: str = "quick") -> list[str]:
    """Why a chapter would be executed again, in words; ``["up to date"]`` when it would not."""
    entry = read_entry(slug)
    if entry is None or not layout.executed(slug).exists():
        return ["never executed"]
    old: dict[str, str] = entry["parts"]
    new = key_parts(slug, profile, entry["modules"])
    reasons = []
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) == new.get(name):
            continue
        if name == "profile" or name.startswith("version of "):
            reasons.append(f"{name} changed {old.get(name, 'none')} → {new.get(name, 'none')}")
        elif name not in new:
            reasons.append(f"{name} is no longer used or is gone")
        elif name not in old:
            reasons.append(f"{name} is new")
        else:
            reasons.append(f"{name} changed")
    return reasons or [UP_TO_DATE]


def read_entry(slug: str) -> dict[str, Any] | None:
    """The cache entry of a chapter; None when there is none that can be used."""
    try:
        entry = json.loads(layout.entry(slug).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"parts": dict, "modules": list, "seconds": (int, float)}
    usable = isinstance(entry, dict) and all(
        isinstance(entry.get(name), kind) for name, kind in kinds.items()
    )
    return entry if usable else None


def key_parts(slug: str, profile: str, loaded: Iterable[str] = ()) -> dict[str, str]:
    """Everything a chapter's outputs rest on: name of the part → its hash or value.

    Args:
        slug: the chapter.
        profile: the value of the parameter.
        loaded: ``survey_lib`` modules that its kernel had loaded at the end of its last run.
    """
    root = layout.root()
    sources = layout.code_sources(layout.read_notebook(layout.source(slug)))
    parts = {"the notebook's code": _digest("\n\0".join(sources)), "profile": profile}
    modules = closure.closure(static_imports(sources) | set(loaded), files.PACKAGE)
    for path in modules.values():
        parts[_relative(path, root)] = closure.module_digest(path)
    own = _cards(slug)
    # the chapter prints its method's source, docstrings and comments included
    method = method_file(slug)
    own += [method] if method.name == f"{slug}.py" else sorted(method.parent.glob("*.py"))
    own += sorted(files.results_dir().glob(f"*/{slug}.jsonl"))
    for other in sorted(chapters_judged(sources) - {slug}):
        own += _cards(other)
        own += [files.results_dir() / "study" / f"{other}.jsonl"]
    if any(name.startswith("survey_lib.tasks") for name in modules):
        own += _data_files(files.PACKAGE / "tasks")
    own += _data_files(files.PACKAGE / "show")
    for path in own:
        if path.is_file():
            name = _relative(path, root) + (" (text)" if path.suffix == ".py" else "")
            parts[name] = _file_digest(path)
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            parts[f"version of {package}"] = importlib.metadata.version(package)
    parts["version of Python"] = ".".join(platform.python_version_tuple()[:2])
    return parts


def _cards(slug: str) -> list[Path]:
    """Where a chapter's card may lie."""
    return [files.PACKAGE / "cards" / f"{slug}.md", OWN / f"{slug}.md"]


def chapters_judged(sources: list[str]) -> set[str]:
    """Chapters that code cells name, where they ask for verdicts; else none.

    A page that shows another chapter's verdicts rests on that chapter's card and study as well.
    """
    if "survey_lib.experiments.judging.verdicts" not in static_imports(sources):
        return set()
    known = {*slugs(), *own_slugs()}
    named: set[str] = set()
    for source in sources:
        with contextlib.suppress(SyntaxError):
            nodes = ast.walk(ast.parse(source))
            named |= {n.value for n in nodes if isinstance(n, ast.Constant) and n.value in known}
    return named


def static_imports(sources: Iterable[str]) -> set[str]:
    """Names under ``survey_lib`` that code cells import; lines of IPython magic are left out."""
    found: set[str] = set()
    for source in sources:
        lines = ["pass" if line.startswith(("%", "!")) else line for line in source.splitlines()]
        # a cell that is no Python (a %%magic cell) imports nothing that Python could see
        with contextlib.suppress(SyntaxError):
            found |= closure.source_imports("\n".join(lines))
    return found


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.name


def _data_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc") and path.name[0] != "."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    return files.sha256(path)[:16]
