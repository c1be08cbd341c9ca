"""Which cells of a live notebook are folded: those that only draw, prepare or solve.

The tag a cell has for the page says it; ``survey sync`` writes what Colab (``cellView``) and
JupyterLab (``source_hidden``) want to know.
"""

from typing import Any

from survey_lib.publish import layout

PLUMBING = "plumbing"
"""Tag of a cell that prepares what later cells show."""
FOLDED = {PLUMBING, "hide-input", "remove-input", "hide-cell", "solution"}
MOST_LINES = 40
"""Lines of a code cell that a reader can be asked to read."""


def fold(cell: Any) -> None:
    """Write a code cell's folding into its metadata, as its tags ask for."""
    if cell.cell_type != "code" or "setup" in layout.tags(cell):  # that cell brings its own
        return
    jupyter = dict(cell.metadata.get("jupyter", {}))
    if FOLDED & set(layout.tags(cell)):
        cell.metadata["cellView"] = "form"
        cell.metadata["jupyter"] = jupyter | {"source_hidden": True}
        return
    cell.metadata.pop("cellView", None)
    jupyter.pop("source_hidden", None)
    cell.metadata.pop("jupyter", None)
    if jupyter:
        cell.metadata["jupyter"] = jupyter


def is_folded_right(cell: Any) -> bool:
    """Whether :func:`fold` would leave a cell as it is."""
    before = dict(cell.metadata)
    after = type(cell)(cell)
    after.metadata = type(cell.metadata)(before)
    fold(after)
    return dict(after.metadata) == before
