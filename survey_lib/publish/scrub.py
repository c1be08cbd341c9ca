"""Take out of a notebook what is no reader's business: notes of a run, widgets, local paths."""

import re
from pathlib import Path
from typing import Any

import nbformat

from survey_lib import files
from survey_lib.publish import layout

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def scrub(notebook: Any) -> Any:
    """Take out what is no reader's business: papermill's notes, widget state, local paths."""
    language = notebook.metadata.get("language_info", {"name": "python"})
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": dict(layout.KERNEL),
            "language_info": language,
        }
    )
    for cell in notebook.cells:
        keep = {"tags", "mystnb", "cellView", "jupyter"}
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in keep})
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET_VIEW, None)
        cell.outputs = [without_paths(o) for o in cell.outputs if _shows(o)]
    return notebook


def _shows(output: Any) -> bool:
    # a bare widget (a progress bar) has no state in the book, so nothing could be drawn
    return set(output.get("data", {"text/plain": ""})) != {WIDGET_VIEW}


def local_paths() -> list[str]:
    """Folders of this machine that no page may name, longest first."""
    folders = {str(files.build_dir()), str(layout.root()), str(files.cache_dir()), str(Path.home())}
    return sorted((f for f in folders if len(f) > 1), key=len, reverse=True)


def without_paths(value: Any) -> Any:
    """``value`` (texts in lists and mappings) with this machine's folders taken from its paths."""
    if isinstance(value, dict):
        # the base64 of an image is no text
        return nbformat.from_dict(
            {k: v if k.startswith("image/p") else without_paths(v) for k, v in value.items()}
        )
    if isinstance(value, list):
        return [without_paths(item) for item in value]
    if isinstance(value, str):
        for folder in local_paths():
            value = value.replace(folder + "/", "")
        return re.sub(r"(?:/[\w.-]{1,80}){1,8}/ipykernel_\d+/", "", value)
    return value
