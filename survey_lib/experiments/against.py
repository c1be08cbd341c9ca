"""Run recorded cells with the code of another commit, on this machine.

Training carries the last bits of sums on, so that a study recorded on one processor cannot be held
against a run on another. But two versions of the code can be held against each other on any one:
where the older one is vouched for and both give the same numbers to the bit, so is the newer.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from survey_lib import files
from survey_lib.experiments import judging
from survey_lib.experiments.runner import RunError

_THERE = """
import json, sys
import survey_lib
from survey_lib.evidence import attest
from survey_lib.experiments import judging, runner


def main():
    asked = json.loads(sys.stdin.read())
    slug, this = asked["slug"], runner.experiment(asked["slug"])
    cells, found = [this.cell(config) for config in asked["configs"]], {}
    places = {cell: str(i) for i, cell in enumerate(cells)}

    def keep(cell, result):
        if cell in places:
            numbers, _, error = result
            found[places[cell]] = {"numbers": numbers, "error": error}

    told = {"code": survey_lib.__file__, "word": judging.state(slug).word,
            "study": attest.study_hash(judging.recorded(slug))}
    if told["study"] == asked["study"] and told["word"] != judging.UNATTESTED:
        runner.execute(slug, cells, keep, jobs=asked["jobs"])
    with open(asked["to"], "w", encoding="utf-8") as file:
        json.dump(told | {"cells": found}, file)


if __name__ == "__main__":  # workers import this file, too
    main()
"""


def run_at(
    commit: str, slug: str, configs: Sequence[dict[str, Any]], *, study: str, jobs: int
) -> list[dict[str, Any]]:
    """Run cells with the code of a commit, in a worktree that is removed afterwards.

    Args:
        commit: anything that git resolves.
        slug: the chapter.
        configs: configurations of the cells.
        study: hash of the records that the commit has to be vouched for.
        jobs: worker processes.

    Returns:
        ``numbers`` (None where the cell failed) and ``error`` of each cell.

    Raises:
        RunError: this is no checkout, git does not know the commit, it has other records, its own
            code is not vouched for, or its run failed.
    """
    root = files.repository()
    if root is None:
        raise RunError(f"{slug}: --against needs a git checkout")
    with tempfile.TemporaryDirectory() as folder:
        tree, script, out = (Path(folder) / n for n in ("tree", "there.py", "out.json"))
        script.write_text(_THERE, encoding="utf-8")
        _run(["git", "worktree", "add", "--detach", str(tree), commit], root, slug)
        try:
            asked = {"slug": slug, "configs": list(configs), "study": study, "jobs": jobs,
                     "to": str(out)}  # fmt: skip
            here = {"PYTHONPATH": str(tree), "SURVEY_BUILD": str(Path(folder) / "build")}
            _run([sys.executable, str(script)], tree, slug, json.dumps(asked), here)
        finally:
            _run(["git", "worktree", "remove", "--force", str(tree)], root, slug)
        told = json.loads(out.read_text(encoding="utf-8"))
        if not Path(told["code"]).resolve().is_relative_to(tree.resolve()):
            # today's code against itself would always agree
            raise RunError(f"{slug}: {told['code']} was run, not the code of {commit}")
    if told["study"] != study:
        raise RunError(f"{slug}: commit {commit} holds other records; name one that has today's")
    if told["word"] == judging.UNATTESTED:
        raise RunError(
            f"{slug}: at commit {commit} the study is unattested itself; go further back"
        )
    return [told["cells"][str(i)] for i in range(len(configs))]


def _run(
    words: list[str], where: Path, slug: str, given: str = "", more: dict[str, str] | None = None
) -> None:
    env = os.environ | (more or {})
    done = subprocess.run(words, cwd=where, input=given, env=env, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason was given"]
        raise RunError(f"{slug}: {' '.join(words[:3])} failed: {lines[-1]}")
