"""Exercises of an executed chapter: each waits for an answer, and each solution is right."""

from typing import Any

from survey_lib.publish import layout
from survey_lib.publish.findings import Finding
from survey_lib.publish.layout import PublishError

_MARK = "survey survey-check "


def wrong_solutions(notebook: Any) -> list[tuple[int, str]]:
    """What is wrong with the exercises of an executed notebook.

    Args:
        notebook: with its outputs; cells that hold solutions are tagged ``solution``.

    Returns:
        Number of the cell, from 1, and a sentence; empty where all is well.
    """
    found, asked, solved, last = [], 0, 0, 0
    # counted as in the source, which has no cell of injected parameters
    cells = [c for c in notebook.cells if "injected-parameters" not in layout.tags(c)]
    for number, cell in enumerate(cells, 1):
        states = _states(cell)
        if "solution" in layout.tags(cell):
            last = number
            solved += states.count("right")
            if bad := len(states) - states.count("right"):
                found.append((number, f"{bad} of the solutions are not right"))
        else:
            asked += len(states)
            if bad := len(states) - states.count("open"):
                found.append((number, f"{bad} exercises hold an answer; put the dots back"))
    if asked != solved and not found:
        found.append((last or len(cells), f"{asked} exercises have {solved} solutions"))
    return found


def check_solutions() -> list[Finding]:
    """Findings over the chapters as they were last executed."""
    found = []
    for slug in layout.slugs():
        try:
            notebook = layout.read_notebook(layout.executed(slug))
        except PublishError:
            continue  # never executed: the build says so
        found += [
            Finding(f"notebooks/{slug}.ipynb", f"cell {number}: {what}", "mend it and build again")
            for number, what in wrong_solutions(notebook)
        ]
    return found


def _states(cell: Any) -> list[str]:
    """``open``, ``right`` or ``wrong`` of each self-check that a cell shows."""
    pages = [output.get("data", {}).get("text/html", "") for output in cell.get("outputs", [])]
    return [p.split(_MARK, 1)[1].split('"', 1)[0] for p in pages if _MARK in p]
