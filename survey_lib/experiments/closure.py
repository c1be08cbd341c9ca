"""What code a run rests on: the modules an experiment imports, and a hash of what they do.

The closure is read from the source (imports at any depth, also inside functions), so nothing is
executed; comments, docstrings and layout don't count, so explaining code better re-runs nothing.
"""

import ast
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from survey_lib import files

ROOT = "survey_lib"


def module_file(module: str, package: Path | None = None) -> Path | None:
    """File of a dotted ``survey_lib`` module, or None when there is no such module."""
    base = (package or files.PACKAGE).joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports(path: Path) -> frozenset[str]:
    """Names under ``survey_lib`` that a source file imports, as written (absolute)."""
    return _imports(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=1024)
def _imports(path: Path, _modified: int) -> frozenset[str]:
    return frozenset(source_imports(path.read_text(encoding="utf-8"), str(path)))


def source_imports(source: str, name: str = "<source>") -> set[str]:
    """Names under ``survey_lib`` that a piece of source imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source, name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {n for n in found if n == ROOT or n.startswith(ROOT + ".")}


def closure(modules: Iterable[str], package: Path | None = None) -> dict[str, Path]:
    """Module name → file for ``modules`` and everything of the package they import.

    Names that are no module (a function imported from one) are left out, and so are
    ``__init__`` files: they hold names and tables only, and a new chapter must not age the others.
    """
    found: dict[str, Path] = {}
    todo = list(modules)
    while todo:
        name = todo.pop()
        path = None if name in found else module_file(name, package)
        if path is None or path.name == "__init__.py":
            continue
        found[name] = path
        todo.extend(imports(path))
    return dict(sorted(found.items()))


def source_hash(source: str) -> str:
    """Hash of a source text's syntax tree without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # docstrings and the bare strings under dataclass fields document, they do nothing
            node.body = [b for b in body if not _is_text(b)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def module_hash(path: Path) -> str:
    """Hash of a module's syntax tree without docstrings and comments."""
    return _module_hash(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=1024)
def _module_hash(path: Path, _modified: int, _size: int) -> str:
    return source_hash(path.read_text(encoding="utf-8"))


def code_hash(modules: Iterable[str], package: Path | None = None) -> str:
    """One hash over the closure of ``modules``."""
    text = "\n".join(f"{name} {module_hash(p)}" for name, p in closure(modules, package).items())
    return hashlib.sha256(text.encode()).hexdigest()[:16]
