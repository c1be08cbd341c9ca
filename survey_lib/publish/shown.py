"""The executed chapter as the book shows it: its outputs under the present source's words."""

import copy
import html
from collections.abc import Callable
from typing import Any

import nbformat

from survey_lib.cards.card import CardError, read_card
from survey_lib.publish import folding, layout
from survey_lib.publish.cache_key import read_entry
from survey_lib.publish.execute import RECORDER
from survey_lib.publish.glossary import link_first_uses
from survey_lib.publish.layout import PublishError
from survey_lib.publish.scrub import scrub, without_paths
from survey_lib.show.claims import paper_name
from survey_lib.show.markup import markdown
from survey_lib.show.page import fill_cost
from survey_lib.show.verdicts import fill_disputes

# what the page does with a cell, by the tag its author gave it
EFFECTS = {
    "setup": "remove-cell",
    "parameters": "remove-cell",
    "injected-parameters": "remove-cell",
    "hero-slot": "remove-input",
    "solution": "hide-cell",
    folding.PLUMBING: "remove-input",
}

# what the line says under which the code of a cell is folded, by what the cell shows
_PROMPTS = (
    ("survey-explorer", "Code of this explorer"),
    ("survey-figure", "Code of this figure"),
    ("survey-table", "Code of this table"),
)
HERO_PLACE = '<span id="main-figure"></span>'
HERO_BACK = (
    '<p class="survey survey-note">This part’s first figure is '
    '<a href="#main-figure">the one at the top of the page</a>.</p>'
)


def staged_notebook(slug: str) -> Any:
    """The executed chapter as the book shows it: its outputs under the present Markdown.

    Raises:
        PublishError: never executed, executed from other code, or holding an error.
    """
    if not layout.executed(slug).exists():
        raise PublishError(f"notebooks/{slug}.ipynb was never executed: run survey build")
    executed = layout.read_notebook(layout.executed(slug))
    refuse_errors(executed, slug)
    notebook = merge(executed, layout.read_notebook(layout.source(slug)), slug)
    fill_hero(notebook, slug)
    link_first_uses(notebook)
    return scrub(notebook)


def refuse_errors(notebook: Any, slug: str) -> None:
    """Raise PublishError when a notebook holds an error output or papermill's error banner."""
    for number, cell in enumerate(notebook.cells, 1):
        errors = [o for o in cell.get("outputs", []) if o.output_type == "error"]
        if errors or "papermill-error-cell-tag" in layout.tags(cell):
            what = f"{errors[0].ename}: {errors[0].evalue}" if errors else "papermill's banner"
            raise PublishError(
                f"notebooks/{slug}.ipynb: cell {number} holds an error ({what}); mend it and "
                "run survey build"
            )


def merge(executed: Any, source: Any, slug: str) -> Any:
    """Outputs of the executed notebook under the cells of the present source.

    Markdown, tags and order come from ``source``; code cells are matched in order and must have
    the same code. The cell that papermill injected stays where it was; the recorder goes.

    Raises:
        PublishError: the code differs.
    """
    own = []  # executed code cells, each with the injected cell that follows it
    for cell in executed.cells:
        if cell.cell_type != "code" or RECORDER in layout.tags(cell):
            continue
        if "injected-parameters" in layout.tags(cell) and own:
            own[-1][1].append(cell)
        else:
            own.append((cell, []))
    codes = [cell for cell in source.cells if cell.cell_type == "code"]
    if [c.source for c in codes] != [c.source for c, _ in own]:
        raise PublishError(
            f"notebooks/{slug}.ipynb was executed from other code than it has now: run survey build"
        )
    merged = copy.deepcopy(source)
    merged.metadata = copy.deepcopy(executed.metadata)
    cells = []
    pairs = iter(own)
    for cell in merged.cells:
        cells.append(cell)
        if cell.cell_type == "code":
            ran, injected = next(pairs)
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
            cells.extend(injected)
    for cell in cells:
        tags = layout.tags(cell)
        if "hero-slot" in tags:  # hidden in a live notebook's page, shown once it is filled
            tags = [tag for tag in tags if tag not in ("remove-cell", "remove-output")]
            cell.metadata["tags"] = tags
        added = [EFFECTS[tag] for tag in tags if tag in EFFECTS and EFFECTS[tag] not in tags]
        if folding.PLUMBING in tags and not cell.outputs:
            added = ["remove-cell"]  # an empty box would only take room
        if added:
            cell.metadata["tags"] = tags + added
        if cell.cell_type == "code":
            _prompt(cell)
    merged.cells = cells
    return merged


def _prompt(cell: Any) -> None:
    """Say in one line what is folded; the theme's own line names neither figure nor table."""
    html = "".join(o.get("data", {}).get("text/html", "") for o in cell.get("outputs", []))
    words = next((words for mark, words in _PROMPTS if mark in html), "Code")
    if "solution" in layout.tags(cell):
        words = "Solutions"
    cell.metadata["mystnb"] = {"code_prompt_show": words, "code_prompt_hide": words}


def fill_hero(notebook: Any, slug: str) -> None:
    """Move the output of the cell tagged ``hero`` into the cell tagged ``hero-slot``.

    The figure is printed once, at the top; where it was drawn stands a line that leads there.

    Raises:
        PublishError: one of the two is missing, or the hero shows nothing.
    """
    heroes = [c for c in notebook.cells if "hero" in layout.tags(c)]
    slots = [c for c in notebook.cells if "hero-slot" in layout.tags(c)]
    if not heroes and not slots:
        return
    where = f"notebooks/{slug}.ipynb"
    if len(heroes) != 1 or len(slots) != 1:
        raise PublishError(
            f"{where} needs one cell tagged hero and one tagged hero-slot; "
            f"it has {len(heroes)} and {len(slots)}"
        )
    shown = [o for o in heroes[0].outputs if o.output_type in ("display_data", "execute_result")]
    if not shown:
        raise PublishError(f"{where}: the cell tagged hero shows nothing; end it with the figure")
    for output in shown:
        if output.output_type == "execute_result":
            output["execution_count"] = slots[0].execution_count
    if "text/html" in shown[0].data:
        shown[0].data["text/html"] = HERO_PLACE + shown[0].data["text/html"]
    back = {"text/html": HERO_BACK, "text/plain": "The figure stands at the top of the page."}
    words = [o for o in heroes[0].outputs if o not in shown]  # what the cell printed stays
    heroes[0].outputs = [*words, nbformat.v4.new_output("display_data", back)]
    slots[0].outputs = shown


def with_run_facts(notebook: Any, slug: str, dispute: Callable[[str], str]) -> None:
    """Write into the outputs what only the whole book knows: the run's cost, other chapters' words.

    Args:
        notebook: with the outputs of the run; it is changed.
        slug: the chapter.
        dispute: HTML that tells how a disputing claim (``slug/claim-id``) stands.
    """
    entry = read_entry(slug)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/html", "")
            if "survey-cost" in text:
                seconds = entry["seconds"] if entry else None
                text = fill_cost(text, seconds, read_card(slug).download_bytes)
            if "survey-dispute" in text:
                text = fill_disputes(text, dispute)
            if text:
                output.data["text/html"] = text


def notice(slug: str, reason: str) -> Any:
    """The page of a chapter that has nothing to show, saying why."""
    last = (reason.strip().splitlines() or ["no reason was given"])[-1]
    # other pages link to the verdicts, so that their places must be there
    places = "".join(f'<span id="verdict-{html.escape(i)}"></span>' for i in _claim_ids(slug))
    text = (
        f"# {markdown(paper_name(slug))}\n\n"
        f'<div class="survey-unbuilt" data-slug="{html.escape(slug)}">{places}</div>\n\n'
        "This chapter did not run to its end in this build, so there is nothing to show.\n\n"
        f"```text\n{last}\n```\n"
    )
    cell = nbformat.v4.new_markdown_cell(text)
    cell.id = "notice"
    notebook = nbformat.v4.new_notebook(cells=[cell])
    return without_paths(scrub(notebook))


def _claim_ids(slug: str) -> list[str]:
    try:
        return [claim.id for claim in read_card(slug).claims]
    except CardError:
        return []
