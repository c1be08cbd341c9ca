import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from survey_lib import closure, files

EXERCISE = r'''
"""A module that holds about every construct."""
from __future__ import annotations
import a.b as c, d
from e import (f, g as h)
from . import near

@h(1)
class K(c.Base, metaclass=d):
    """Documented."""
    x: int = 1
    """So is the field."""
    y: "str"

    def m(self, p, /, q: int = 2, *args: int, r, s=None, **more) -> None:
        """And the method."""
        nonlocal_, (u, *v) = p, q
        global z
        del u.w, v[0]
        return lambda k, *, l=3: (yield)

async def co(it):
    async with it as x, x:
        async for i in it:
            await i
    return [i async for i in it if i if not i]

numbers = [0, -1, 10**5000, 0xFFFFFFFFFFFFFFFFFFFFFFFF, 1.5e-7, 1e999, 2j, True, None, ...]
words = ["a" "b", b"\x00\xff", u"old", r"\d", "\u00e9\U0001F600", "\N{SNOWMAN}"]
shown = f"{x!r:>{width}}{{}}{y}" f"" "z" f"{a + b = }" f"{x:}" f"{d['k']:%Y-{m:02}}"
table = {1: 2, **more, "k": {*s}, "g": {v: k for k, v in p.items()}}
x = a if b else c; x += (y := 4) // 3 @ 2 ** -1; x[1:2, ::3, ...] = a < b <= c is not d not in e
try:
    assert x, "why"
except (A, B) as error:
    raise C from error
except D:
    pass
else:
    pass
finally:
    while x:
        break
    else:
        x = ~y
try:
    pass
except* E:
    x = g[1, *h]
match x:
    case {"k": 1 | None, **rest} if rest: pass
    case [K(1, y=2), *_] | "s" | -1.5: pass
    case a.b | (_ as other): pass
for i, j in zip(x, *y, **z): continue
'''
DIGEST = "938f5bacfcd5c247"


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "survey_lib"
    (root / "room").mkdir(parents=True)
    (root / "__init__.py").write_text("")
    (root / "room" / "__init__.py").write_text("NAMES = {}")
    (root / "a.py").write_text("from survey_lib.room import b\nimport math\n")
    (root / "room" / "b.py").write_text("def f():\n    from survey_lib import c\n    return c\n")
    (root / "c.py").write_text("x = 1\n")
    (root / "d.py").write_text("y = 1\n")
    return root


def test_closure_follows_imports_also_inside_functions(package):
    found = closure.closure(["survey_lib.a"], package)
    assert list(found) == ["survey_lib.a", "survey_lib.c", "survey_lib.room.b"]


def rewrite(path, text):
    path.write_text(text)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def test_hash_changes_with_an_import_and_not_with_a_stranger(package):
    def hash_():
        return closure.digest(["survey_lib.a"], package)

    before = hash_()
    rewrite(package / "d.py", "y = 2\n")
    rewrite(package / "room" / "__init__.py", "NAMES = {'new': 'chapter'}")
    assert hash_() == before
    rewrite(package / "c.py", "x = 2\n")
    assert hash_() != before


@pytest.mark.parametrize(
    ("other", "same"),
    [
        ('"""Doc."""\nx = 1  # why\n', True),
        ("x   =   1\n", True),
        ("x = 2\n", False),
        ("x = '1'\n", False),
        ("y = 1\n", False),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(other, same):
    assert (closure.source_digest("x = 1\n") == closure.source_digest(other)) is same


def test_docstrings_of_functions_do_not_count_but_returned_strings_do():
    base = closure.source_digest("def f():\n    '''A.'''\n    return 'x'\n")
    assert base == closure.source_digest("def f():\n    '''B.'''\n    return 'x'\n")
    assert base != closure.source_digest("def f():\n    '''A.'''\n    return 'y'\n")


def test_init_files_hold_only_names():
    """They are left out of the hash, so nothing in them may compute."""
    for path in files.PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text()).body:
            assert isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign)), f"{path}: {node}"


def test_the_chapters_closure_holds_its_method_and_not_the_runner():
    found = closure.closure(["survey_lib.experiments.to_prune_or_not.cells"])
    assert "survey_lib.methods.to_prune_or_not" in found
    assert "survey_lib.tasks.train" in found
    assert "survey_lib.experiments.context" in found
    assert "survey_lib.experiments.to_prune_or_not.study" not in found
    assert "survey_lib.experiments.runner" not in found
    assert not any(name.startswith("survey_lib.evidence") for name in found)
    assert not any(name.startswith("survey_lib.show") for name in found)


def test_the_digest_of_a_text_is_this_one():
    assert closure.source_digest(EXERCISE) == DIGEST


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_every_python_gives_the_same_digest(minor, tmp_path):
    python = _python(minor)
    if python is None:
        pytest.skip(f"no Python 3.{minor} on this machine")
    text = tmp_path / "exercise.py"
    text.write_text(EXERCISE, encoding="utf-8")
    script = (
        "import importlib.util as u, pathlib, sys\n"
        "s = u.spec_from_file_location('closure', sys.argv[1]); m = u.module_from_spec(s)\n"
        "s.loader.exec_module(m)\n"
        "print(m.source_digest(pathlib.Path(sys.argv[2]).read_text(encoding='utf-8')))\n"
        "print(m.digest(['survey_lib.cli']))\n"
    )
    # closure.py by its path: another Python need not have this project's packages
    words = [python, "-I", "-W", "error", "-c", script, closure.__file__, str(text)]
    answer = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    assert answer == [DIGEST, closure.digest(["survey_lib.cli"])]


def _python(minor):
    """An interpreter that runs: a shim on the path may stand for a version that isn't chosen."""
    if sys.version_info[:2] == (3, minor):
        return sys.executable
    homes = [Path.home() / ".pyenv/versions", Path.home() / ".local/share/uv/python"]
    found = [str(p) for home in homes for p in sorted(home.glob(f"*3.{minor}.*/bin/python3"))]
    for python in [shutil.which(f"python3.{minor}"), *found]:
        if python and not subprocess.run([python, "-c", ""], capture_output=True).returncode:
            return python
    return None


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x = 1", "x = 1.0"),
        ("x = 1", "x = True"),
        ("x = 'a'", "x = b'a'"),
        ("x = None", "x = ..."),
        ("def f(*, a, b=1): pass", "def f(*, a=1, b): pass"),
        ("x = {**a, 1: 2}", "x = {1: 2, **a}"),
        ("x = f'{a}b'", "x = f'a{b}'"),
        ("x = f'{a!r}'", "x = f'{a}'"),
        ("match x:\n case None: pass", "match x:\n case True: pass"),
        ("if a:\n  b\nc", "if a:\n  b\n  c"),
        ("x = [a, [b]]", "x = [[a], b]"),
        ("from . import a", "from .. import a"),
    ],
)
def test_what_differs_in_deed_differs_in_digest(one, other):
    assert closure.source_digest(one) != closure.source_digest(other)


def test_what_a_later_python_parses_differently_is_one():
    assert closure.source_digest("x = f'{a:}'") == closure.source_digest("x = f'{a}'")
    tree = ast.parse("x = f'ab{c}'")
    values = tree.body[0].value.values  # type: ignore[attr-defined]
    values[:1] = [ast.Constant("a"), ast.Constant(""), ast.Constant("b")]
    assert closure._hash("".join(closure._canonical(tree))) == closure.source_digest("x = f'ab{c}'")
