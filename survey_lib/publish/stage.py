"""Stage the book: one folder that holds everything a rendering needs, and nothing local.

Executed notebooks lie at the path of their sources, so that the launch, edit and download buttons
of a page point at files that exist in the repository.
"""

import copy
import html
import importlib.metadata
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nbformat
import yaml

from survey_lib import files
from survey_lib.cards.card import CardError, read_card, slugs
from survey_lib.evidence.verdicts import Verdict
from survey_lib.publish import layout
from survey_lib.publish.execute import RECORDER, read_entry
from survey_lib.publish.layout import PublishError

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
# what the page does with a cell, by the tag its author gave it
EFFECTS = {
    "setup": "remove-cell",
    "parameters": "remove-cell",
    "injected-parameters": "remove-cell",
    "hero-slot": "remove-input",
    "solution": "hide-cell",
}
_BUNDLE = "window.surveyVega = {embed: vegaEmbed, vega: vega, vegaLite: vegaLite};"


def stage(unbuilt: Mapping[str, str] | None = None) -> Path:
    """Build the stage afresh and return its folder.

    Args:
        unbuilt: chapters that have no outputs to show, with the reason; each becomes a page
            that says so.

    Raises:
        PublishError: a chapter was not executed from its present code, or holds an error.
    """
    unbuilt = unbuilt or {}
    root, final = layout.root(), files.build_dir() / "stage"
    folder = final.with_name("stage.new")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(root / "_config.yml", folder / "_config.yml")
    _copy_pages(root / "book", folder / "book")
    if (root / "book" / "_static").is_dir():
        shutil.copytree(root / "book" / "_static", folder / "_static")
    (folder / "notebooks").mkdir()
    for slug in layout.slugs():
        notebook = notice(slug, unbuilt[slug]) if slug in unbuilt else staged_notebook(slug)
        _write_notebook(notebook, folder / "notebooks" / f"{slug}.ipynb")
    _write_toc(folder, _papers(folder, unbuilt))
    _timings(folder)
    (folder / "book" / "ledger.md").write_text(ledger_page(), encoding="utf-8")
    (folder / "book" / "run.md").write_text(run_page(), encoding="utf-8")
    _extra_files(folder / "_extra" / "_static")
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return final


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
    _fill_cost(notebook, slug)
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
        if added:
            cell.metadata["tags"] = tags + added
    merged.cells = cells
    return merged


def fill_hero(notebook: Any, slug: str) -> None:
    """Copy the output of the cell tagged ``hero`` into the cell tagged ``hero-slot``.

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
    slots[0].outputs = copy.deepcopy(shown)
    for output in slots[0].outputs:
        if output.output_type == "execute_result":
            output["execution_count"] = slots[0].execution_count
        if "text/html" in output.data:
            output.data["text/html"] = with_other_ids(output.data["text/html"], "-hero")


DOWNLOADS = {"llm_int8": 92_871_040}
"""Bytes that a chapter fetches on its first run: slug → size."""


def _fill_cost(notebook: Any, slug: str) -> None:
    """Write the seconds of the run into the card panel, which was made before they were known."""
    entry = read_entry(slug)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/html", "")
            if "survey-cost" in text:
                from survey_lib.show.page import fill_cost

                seconds = entry["seconds"] if entry else None
                output.data["text/html"] = fill_cost(text, seconds, DOWNLOADS.get(slug))


def with_other_ids(text: str, suffix: str) -> str:
    """HTML with ``suffix`` on every id and on every reference to one, so that a copy is valid."""
    ids = set(re.findall(r'\bid="([^"]+)"', text))
    text = re.sub(r'\bid="([^"]+)"', rf'id="\1{suffix}"', text)

    def link(found: re.Match) -> str:
        return found.group(0) + (suffix if found.group(1) in ids else "")

    text = re.sub(r"url\(#([^)\"']+)", link, text)
    text = re.sub(r'href="#([^"]+)', link, text)

    def names(found: re.Match) -> str:
        words = [w + (suffix if w in ids else "") for w in found.group(2).split()]
        return f'{found.group(1)}="{" ".join(words)}"'

    return re.sub(r'\b(aria-labelledby|aria-describedby|aria-controls|for)="([^"]*)"', names, text)


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
        keep = {"tags", "mystnb", "cellView"}
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in keep})
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            data = output.get("data", {})
            if len(data) > 1:
                data.pop(WIDGET_VIEW, None)
        cell.outputs = [_without_paths(o) for o in cell.outputs if _shows(o)]
    return notebook


def _shows(output: Any) -> bool:
    # a bare widget (a progress bar) has no state in the book, so nothing could be drawn
    return set(output.get("data", {"text/plain": ""})) != {WIDGET_VIEW}


def local_paths() -> list[str]:
    """Folders of this machine that no page may name, longest first."""
    folders = {str(files.build_dir()), str(layout.root()), str(files.cache_dir()), str(Path.home())}
    return sorted((f for f in folders if len(f) > 1), key=len, reverse=True)


def _without_paths(value: Any) -> Any:
    if isinstance(value, dict):
        # the base64 of an image is no text
        return nbformat.from_dict(
            {k: v if k.startswith("image/p") else _without_paths(v) for k, v in value.items()}
        )
    if isinstance(value, list):
        return [_without_paths(item) for item in value]
    if isinstance(value, str):
        for folder in local_paths():
            value = value.replace(folder + "/", "")
        return re.sub(r"(?:/[\w.-]{1,80}){1,8}/ipykernel_\d+/", "", value)
    return value


def notice(slug: str, reason: str) -> Any:
    """The page of a chapter that has nothing to show, saying why."""
    last = (reason.strip().splitlines() or ["no reason was given"])[-1]
    # other pages link to the verdicts, so that their places must be there
    places = "".join(f'<span id="verdict-{html.escape(i)}"></span>' for i in _claim_ids(slug))
    text = (
        f"# {_title(slug)}\n\n"
        f'<div class="survey-unbuilt" data-slug="{html.escape(slug)}">{places}</div>\n\n'
        "This chapter did not run to its end in this build, so there is nothing to show.\n\n"
        f"```text\n{last}\n```\n"
    )
    cell = nbformat.v4.new_markdown_cell(text)
    cell.id = "notice"
    notebook = nbformat.v4.new_notebook(cells=[cell])
    return _without_paths(scrub(notebook))


def _claim_ids(slug: str) -> list[str]:
    try:
        return [claim.id for claim in read_card(slug).claims]
    except CardError:
        return []


def _title(slug: str) -> str:
    """Title of a chapter up to its colon; the slug where there is no card."""
    try:
        return read_card(slug).title.split(":")[0]
    except CardError:
        return slug


def ledger_page() -> str:
    """The claims ledger: every claim of every card, with its verdict."""
    from survey_lib.evidence.verdicts import SIGNS
    from survey_lib.experiments import EXPERIMENTS
    from survey_lib.experiments.runner import verdicts

    judged = {slug: verdicts(slug) for slug in layout.slugs() if slug in EXPERIMENTS}
    words = [verdict.word for found in judged.values() for verdict in found]
    total = ", ".join(f"{sign} {words.count(word)} {word}" for word, sign in SIGNS.items())
    sections = []
    for slug, found in judged.items():
        card = read_card(slug)
        sections.append(
            f"## {card.title}\n\n"
            f"{', '.join(card.authors)}, {card.year}. "
            f"[To the chapter](../notebooks/{slug}.ipynb)\n\n" + _ledger_table(slug, found)
        )
    return (
        "# The claims ledger\n\n"
        "Which of the papers' claims hold here? Each line is one claim. Its rule was fixed in the "
        "card before anything was run, and the word follows from the interval alone. "
        "[How to read a verdict](how_to_read.md) explains the words.\n\n"
        f"**{len(words)} claims:** {total}.\n\n" + "\n\n".join(sections) + "\n"
    )


def _ledger_table(slug: str, found: Sequence[Verdict]) -> str:
    head = "".join(
        f'<th scope="col" role="columnheader">{words}</th>'
        for words in ("The paper says", "It holds here if", "Found", "Verdict")
    )
    rows = "\n".join(_ledger_row(slug, verdict) for verdict in found)
    return (
        '<div class="survey survey-verdicts"><table role="table">'
        f"<caption>Claims of this paper. Intervals are 95 %, over seeds.</caption>"
        f'<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}\n</tbody></table></div>'
    )


def _ledger_row(slug: str, verdict: Verdict) -> str:
    from survey_lib.publish.overview import dispute_link
    from survey_lib.show.markup import anchor, escape, mean_words, range_words, region_words

    claim, interval = verdict.claim, verdict.interval
    if interval is None:
        number = f'<span class="survey-small">{escape(verdict.reason)}</span>'
    else:
        unit = f" {escape(claim.unit)}" if claim.unit else ""
        number = (
            f'<span class="mean">{mean_words(interval)}{unit}</span>'
            f'<span class="interval">{range_words(interval)}</span>'
        )
    notes = '<span class="survey-small">changed after the run</span>' if verdict.changed else ""
    disputed = "".join(
        f'<span class="survey-small">disputes {dispute_link(other, layout.slugs())}</span>'
        for other in claim.disputes
    )
    address = f"../notebooks/{slug}.html#verdict-{anchor(claim.id)}"
    return (
        f'<tr role="row" class="{anchor(verdict.word)}">'
        f'<th scope="row" role="rowheader">{escape(claim.sentence)}'
        f'<span class="survey-small">{escape(claim.where)}</span>{disputed}</th>'
        '<td role="cell" data-label="It holds here if">'
        f'<span class="region">{region_words(claim.region, escape(claim.unit))}</span>'
        f'<span class="survey-small">{escape(claim.measures)}</span></td>'
        f'<td role="cell" data-label="Found">{number}</td>'
        f'<td role="cell" data-label="Verdict"><a class="word" href="{address}">'
        f'<span class="sign" aria-hidden="true">{verdict.sign}</span> {verdict.word}</a>'
        f"{notes}</td></tr>"
    )


def run_page() -> str:
    """How the pages were made: seconds, profile, versions, machine."""
    entries = {slug: read_entry(slug) for slug in layout.slugs()}
    lines, machines, versions = [], {}, {}
    for slug, entry in entries.items():
        if entry is None:
            lines.append(f"| [{_title(slug)}](../notebooks/{slug}.ipynb) | not executed | | | |")
            continue
        lines.append(
            f"| [{_title(slug)}](../notebooks/{slug}.ipynb) | {entry['profile']} "
            f"| {entry['seconds']:.0f} | {entry['core_seconds']:.0f} | {entry['finished']} |"
        )
        machine = entry["machine"]
        named = (
            f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, "
            f"Python {machine['python']}"
        )
        machines.setdefault(named, []).append(slug)
        text = ", ".join(f"{name} {number}" for name, number in entry["versions"].items() if number)
        versions.setdefault(text, []).append(slug)
    done = [entry for entry in entries.values() if entry]
    total = sum(entry["core_seconds"] for entry in done)
    table = (
        "| Chapter | Profile | Seconds | Core-seconds | Finished |\n"
        "| --- | --- | ---: | ---: | --- |\n" + "\n".join(lines)
    )
    return (
        "# How this page was made\n\n"
        "Each chapter is a notebook that runs from its first cell to its last before the book is "
        "rendered. Nothing on a page is pasted in.\n\n"
        f"{table}\n\n"
        f"All chapters together take {total:.0f} core-seconds: seconds times the cores at work. "
        "A chapter whose code, data and versions are unchanged is not run again; its line then "
        "tells of its last run.\n\n"
        "## Machine\n\n" + _listed(machines, len(done)) + "\n\n"
        "## Versions\n\n" + _listed(versions, len(done)) + "\n"
    )


def _listed(groups: Mapping[str, list[str]], chapters: int) -> str:
    if not groups:
        return "Nothing was executed yet."
    return "\n".join(
        f"- {text}" + ("" if len(slugs) == chapters else f" ({', '.join(slugs)})")
        for text, slugs in groups.items()
    )


def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that leaves one name, ``window.surveyVega``.

    It is wrapped in a function because it declares ``_``, which the theme declares too.
    """
    import vl_convert

    # the version names the cache file: making the bundle takes seconds
    version = importlib.metadata.version("vl-convert-python")
    kept = files.build_dir() / "cache" / f"vega-{version}.js"
    if kept.exists():
        return kept.read_text(encoding="utf-8")
    text = f"(function () {{\n{vl_convert.javascript_bundle(_BUNDLE)}\n}})();\n"
    files.write_atomic(kept, text)
    return text


def _copy_pages(source: Path, target: Path) -> None:
    """Copy the prose, leaving out what goes elsewhere in the site (``_static``, ``_vendor``)."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("_static", "_vendor"))


def _papers(folder: Path, unbuilt: Mapping[str, str]) -> list[str]:
    """Fill the landing page's map and scoreboard, write a page for each paper without a chapter.

    A book whose landing page has no place for the map gets neither.
    """
    from survey_lib.experiments import EXPERIMENTS
    from survey_lib.experiments.runner import verdicts
    from survey_lib.publish import overview

    index = folder / "book" / "index.md"
    text = index.read_text(encoding="utf-8")
    if overview.MAP not in text:
        return []
    chapters = layout.slugs()
    papers = [read_card(slug) for slug in slugs()]
    built = set(chapters)  # one that failed has a page that says so
    judged = {s: verdicts(s) for s in chapters if s in EXPERIMENTS and s not in unbuilt}
    index.write_text(overview.fill_landing(text, papers, judged, built), encoding="utf-8")
    (folder / layout.PAPERS).mkdir(parents=True, exist_ok=True)
    planned = [card for card in papers if card.slug not in built]
    for card in planned:
        path = folder / layout.PAPERS / f"{card.slug}.md"
        path.write_text(overview.papers_markdown(card, built), encoding="utf-8")
    return [f"{layout.PAPERS}/{card.slug}" for card in planned]


def _timings(folder: Path) -> None:
    """Fill the pages of the benchmarks and of the engine, in a book that has them."""
    from survey_lib.publish import timings

    for name, fill in (("benchmarks.md", timings.fill), ("engine.md", timings.fill_example)):
        page = folder / "book" / name
        if page.exists():
            text = fill(page.read_text(encoding="utf-8"), layout.root() / "benchmarks")
            page.write_text(text, encoding="utf-8")


def _write_toc(folder: Path, papers: Sequence[str] = ()) -> None:
    toc = layout.read_yaml(layout.root() / "_toc.yml")
    part = {"caption": "Records", "chapters": [{"file": page} for page in layout.GENERATED]}
    if "parts" not in toc:
        raise PublishError("_toc.yml must list its pages under 'parts'")
    if papers:
        chapters = [{"file": page} for page in papers]
        toc["parts"].append({"caption": "Papers to come", "chapters": chapters})
    toc["parts"].append(part)
    (folder / "_toc.yml").write_text(yaml.safe_dump(toc, sort_keys=False), encoding="utf-8")


def _extra_files(static: Path) -> None:
    """Files that pages link to or load on demand; the theme must not put them on every page."""
    vendor = static / "vendor"
    vendor.mkdir(parents=True)
    (vendor / "vega.js").write_text(vega_bundle(), encoding="utf-8")
    mathjax = layout.root() / "book" / "_vendor" / "mathjax"
    shutil.copytree(mathjax, vendor / "mathjax")
    figures = files.build_dir() / "figures"
    if figures.is_dir():
        shutil.copytree(figures, static / "figures")
    for path in sorted(files.results_dir().glob("*/*.jsonl")):
        target = static / "records" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _write_notebook(notebook: Any, path: Path) -> None:
    if (notebook.nbformat, notebook.nbformat_minor) >= (4, 5):
        for i, cell in enumerate(notebook.cells):
            cell["id"] = cell.get("id") or f"cell-{i}"
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
