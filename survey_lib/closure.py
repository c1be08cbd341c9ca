"""What code a run rests on: the modules an experiment imports, and a digest of what they do.

The closure is read from the source (imports at any depth, also inside functions), so nothing is
executed; comments, docstrings and layout don't count, so explaining code better ages nothing. The
digest is the same on every Python: it comes from a walk of our own over the syntax tree, because
``ast.dump`` prints one tree differently from version to version. Only the standard library is used.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = "survey_lib"
PACKAGE = Path(__file__).resolve().parent


def module_file(module: str, package: Path | None = None) -> Path | None:
    """File of a dotted ``survey_lib`` module, or None when there is no such module."""
    base = (package or PACKAGE).joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imports(path: Path) -> frozenset[str]:
    """Names under ``survey_lib`` that a source file imports, as written (absolute)."""
    return _imports(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=1024)
def _imports(path: Path, _modified: int, _size: int) -> frozenset[str]:
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


def digests(modules: Iterable[str], package: Path | None = None) -> dict[str, str]:
    """Module name → digest, over the closure of ``modules``."""
    return {name: module_digest(path) for name, path in closure(modules, package).items()}


def digest(modules: Iterable[str], package: Path | None = None) -> str:
    """One digest over the closure of ``modules``."""
    return combine(digests(modules, package))


def combine(parts: Mapping[str, str]) -> str:
    """One digest of a table module name → digest."""
    return _hash("\n".join(f"{name} {parts[name]}" for name in sorted(parts)))


def module_digest(path: Path) -> str:
    """Digest of a source file."""
    return _module_digest(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=1024)
def _module_digest(path: Path, _modified: int, _size: int) -> str:
    return source_digest(path.read_text(encoding="utf-8"))


def source_digest(text: str) -> str:
    """Digest of what a source text does, sixteen hexadecimal digits: the same on every Python."""
    return _hash("".join(_canonical(ast.parse(text))))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# ---- one text for one tree

IGNORED = {"ctx", "kind", "type_comment", "type_ignores"}
"""Fields that say nothing the rest does not say, or nothing about what is done."""


def _canonical(value: Any) -> Iterator[str]:
    """A syntax tree as text: class names and the fields that are there, by name.

    What is absent (None, an empty list) is left out, so a field that a later Python adds, like
    ``type_params``, counts only where it is used.
    """
    if isinstance(value, list):
        yield "["
        for item in value:
            yield from _canonical(item)
            yield ","
        yield "]"
    elif isinstance(value, ast.AST):
        yield f"{type(value).__name__}("
        for name in sorted(set(value._fields) - IGNORED):
            item = _tidied(value, name)
            if isinstance(value, ast.Constant | ast.MatchSingleton) or item not in (None, []):
                yield f"{name}="
                yield from _canonical(item)
                yield ";"
        yield ")"
    else:
        yield _literal(value)


def _tidied(node: ast.AST, name: str) -> Any:
    """A field without what documents only and without what Pythons parse differently."""
    item = getattr(node, name, None)
    if isinstance(node, ast.JoinedStr):  # constants between the braces: merged, none empty
        return _merged(item or [])
    if isinstance(node, ast.FormattedValue) and name == "format_spec":
        return item if item is not None and _merged(item.values) else None
    if isinstance(item, list):  # bare strings: docstrings, and those under a dataclass's fields
        return [part for part in item if not (isinstance(part, ast.Expr) and _is_text(part.value))]
    return item


def _merged(values: Iterable[ast.expr]) -> list[ast.expr]:
    found: list[ast.expr] = []
    for value in values:
        if _is_text(value) and found and _is_text(found[-1]):
            found[-1] = ast.Constant(found[-1].value + value.value)  # type: ignore[attr-defined]
        elif not _is_text(value) or value.value:  # type: ignore[attr-defined]
            found.append(value)
    return found


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _literal(value: Any) -> str:
    """A constant with its type, in ASCII; hexadecimal, since ``repr`` of a huge int is refused."""
    kind = type(value)
    if kind is int:
        return f"int {value:x}"
    if kind is float:
        return f"float {value.hex()}"
    if kind is complex:
        return f"complex {value.real.hex()} {value.imag.hex()}"
    if kind is str:
        return f"str {json.dumps(value)}"
    if kind is bytes:
        return f"bytes {value.hex()}"
    return repr(value)  # None, True, False, Ellipsis
