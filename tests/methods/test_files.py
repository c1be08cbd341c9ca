"""Rules on the files of the methods themselves."""

from pathlib import Path

import pytest

import survey_lib.methods

ROOM = Path(survey_lib.methods.__file__).parent
FILES = sorted({*ROOM.glob("*.py"), *ROOM.glob("*/method.py")})


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOM).as_posix())
def test_a_method_file_has_at_most_250_lines(path):
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 250, f"{path.name} has {lines} lines: move what is not the paper to a sibling"


def test_the_rule_sees_single_files_and_packages():
    found = {p.relative_to(ROOM).as_posix() for p in FILES}
    assert {"loss_modelling.py", "thinet/method.py", "llm_int8/method.py"} <= found
