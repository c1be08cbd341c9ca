import pytest

from survey_lib import files
from survey_lib.experiments import closure


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
    import os

    path.write_text(text)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))


def test_hash_changes_with_an_import_and_not_with_a_stranger(package):
    def hash_():
        return closure.code_hash(["survey_lib.a"], package)

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
    assert (closure.source_hash("x = 1\n") == closure.source_hash(other)) is same


def test_docstrings_of_functions_do_not_count_but_returned_strings_do():
    base = closure.source_hash("def f():\n    '''A.'''\n    return 'x'\n")
    assert base == closure.source_hash("def f():\n    '''B.'''\n    return 'x'\n")
    assert base != closure.source_hash("def f():\n    '''A.'''\n    return 'y'\n")


def test_init_files_hold_only_names():
    """They are left out of the hash, so nothing in them may compute."""
    import ast

    for path in files.PACKAGE.rglob("__init__.py"):
        for node in ast.parse(path.read_text()).body:
            assert isinstance(node, (ast.Expr, ast.Assign, ast.AnnAssign)), f"{path}: {node}"


def test_the_chapters_closure_holds_its_method_and_not_the_runner():
    found = closure.closure(["survey_lib.experiments.to_prune_or_not"])
    assert "survey_lib.methods.to_prune_or_not" in found
    assert "survey_lib.tasks.train" in found
    assert "survey_lib.experiments.runner" not in found
    assert not any(name.startswith("survey_lib.show") for name in found)
