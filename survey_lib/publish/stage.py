"""Stage the book: one folder that holds everything a rendering needs, and nothing local.

Executed notebooks lie at the path of their sources, so that the launch, edit and download buttons
of a page point at files that exist in the repository.
"""

import importlib.metadata
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import yaml

from survey_lib import files
from survey_lib.cards.card import read_card, slugs
from survey_lib.evidence.verdicts import Verdict
from survey_lib.publish import advice, layout, overview, timings, zoo
from survey_lib.publish.disputes import Judged, told
from survey_lib.publish.layout import PublishError
from survey_lib.publish.ledger import ledger_page, runs_of
from survey_lib.publish.run_page import run_page
from survey_lib.publish.shown import notice, staged_notebook, with_run_facts

if TYPE_CHECKING:
    from survey_lib.experiments.judging import State

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
    judged, states = _judged()
    for slug in layout.slugs():
        if slug in unbuilt:
            notebook = notice(slug, unbuilt[slug])
        else:
            notebook = staged_notebook(slug)
            with_run_facts(notebook, slug, lambda name: told(name, judged, "notebooks"))
        _write_notebook(notebook, folder / "notebooks" / f"{slug}.ipynb")
    _write_toc(folder, _papers(folder, judged, unbuilt))
    _timings(folder)
    _advice(folder, judged)
    (folder / "book" / "ledger.md").write_text(
        ledger_page(judged, states, runs_of(judged)), encoding="utf-8"
    )
    (folder / "book" / "run.md").write_text(run_page(), encoding="utf-8")
    _extra_files(folder / "_extra" / "_static")
    shutil.rmtree(final, ignore_errors=True)
    folder.rename(final)
    return final


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


def _judged() -> tuple[dict[str, list[Verdict]], dict[str, "State"]]:
    """Verdicts, and the state of the study, of each chapter that has an experiment."""
    # late: the experiments import torch
    from survey_lib.experiments import EXPERIMENTS, judging

    judged = {slug: judging.verdicts(slug) for slug in layout.slugs() if slug in EXPERIMENTS}
    return judged, {slug: judging.state(slug) for slug in judged if judging.study(slug)}


def _papers(folder: Path, judged: Judged, unbuilt: Mapping[str, str]) -> list[str]:
    """Fill the landing page's map and scoreboard, write a page for each paper without a chapter.

    A book whose landing page has no place for the map gets neither.
    """
    index = folder / "book" / "index.md"
    text = index.read_text(encoding="utf-8")
    if overview.MAP not in text:
        return []
    papers = [read_card(slug) for slug in slugs()]
    built = set(layout.slugs())  # one that failed has a page that says so
    shown = {slug: found for slug, found in judged.items() if slug not in unbuilt}
    index.write_text(overview.fill_landing(text, papers, shown, built), encoding="utf-8")
    (folder / layout.PAPERS).mkdir(parents=True, exist_ok=True)
    planned = [card for card in papers if card.slug not in built]
    for card in planned:
        path = folder / layout.PAPERS / f"{card.slug}.md"
        path.write_text(overview.papers_markdown(card, judged), encoding="utf-8")
    return [f"{layout.PAPERS}/{card.slug}" for card in planned]


def _timings(folder: Path) -> None:
    """Fill the pages that show recorded commands and times, in a book that has them."""
    filled = {
        "benchmarks.md": timings.fill,
        "engine.md": timings.fill_example,
        "own_net.md": timings.fill_compared,
    }
    for name, fill in filled.items():
        page = folder / "book" / name
        if page.exists():
            text = fill(page.read_text(encoding="utf-8"), layout.root() / "benchmarks")
            if zoo.MARK in text:
                text = zoo.fill(text, zoo.read())
            page.write_text(text, encoding="utf-8")


def _advice(folder: Path, judged: Judged) -> None:
    """Fill the pages that show the tree or its finding, in a book that has one; it is no page."""
    tree = folder / "book" / advice.FILE
    if not tree.exists():
        return
    for page in (folder / "book").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        if (filled := advice.fill(text, tree, judged)) != text:
            page.write_text(filled, encoding="utf-8")
    tree.unlink()


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
