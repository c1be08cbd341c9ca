"""Checks of the sources, which need no built site: notebooks, contents, cards, the address."""

import re
from pathlib import Path
from typing import Any

from survey_lib import files
from survey_lib.cards import card as cards
from survey_lib.publish import folding, layout, setup_cell, zoo
from survey_lib.publish.findings import Finding, git_lines
from survey_lib.publish.layout import PublishError

MOST_CELLS = 47


def check_sources() -> list[Finding]:
    """Check notebooks, table of contents, cards, vendored files and the repository's address."""
    try:
        pages, url, branch = layout.pages(), layout.repository_url(), layout.branch()
    except PublishError as error:
        return [Finding("_config.yml, _toc.yml", str(error), "mend it first")]
    found = _check_toc(pages)
    for path in sorted((layout.root() / "notebooks").glob("*.ipynb")):
        name = f"notebooks/{path.name}"
        try:
            notebook = layout.read_notebook(path)
        except PublishError as error:
            found.append(Finding(name, str(error), "restore it from git"))
            continue
        wanted = setup_cell.setup_source(url, branch, setup_cell.extras(path.stem))
        found += check_notebook(notebook, name, wanted)
    return found + _check_vendor() + _check_address(url) + _check_readme()


def check_notebook(notebook: Any, name: str, setup: str) -> list[Finding]:
    """Check one source notebook; ``setup`` is the source of the generated set-up cell."""
    found = []

    def find(what: str, remedy: str) -> None:
        found.append(Finding(name, what, remedy))

    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if any(c.outputs or c.execution_count is not None for c in code):
        find("holds outputs", "strip them: nbstripout " + name)
    leftovers = {"papermill", "widgets"} & set(notebook.metadata)
    if leftovers or any("papermill" in c.metadata for c in notebook.cells):
        find("holds notes of a run in its metadata", "strip them: nbstripout " + name)
    if len(notebook.cells) > MOST_CELLS:
        find(f"has {len(notebook.cells)} cells, more than {MOST_CELLS}", "merge or cut some")
    marked = [cell for cell in notebook.cells if "setup" in layout.tags(cell)]
    if len(marked) != 1 or not code or code[0] is not marked[0] or marked[0].source != setup:
        find("its first code cell is not the generated set-up cell", "run survey sync")
    parameters = [c for c in code if "parameters" in layout.tags(c)]
    if len(parameters) != 1 or not re.search(r"^profile\s*=", parameters[0].source, re.MULTILINE):
        find(
            "has no single cell tagged parameters that sets profile",
            'add: profile = "quick"  # @param ["smoke", "quick", "study"]',
        )
    for tag in ("hero", "hero-slot", "drawing", "explorer"):
        if name.removesuffix(".ipynb").split("/")[-1] not in layout.NO_CARD:
            count = sum(tag in layout.tags(c) for c in code)
            if count != 1:
                find(f"has {count} cells tagged {tag}", "tag exactly one")
    if not all(folding.is_folded_right(cell) for cell in notebook.cells):
        find("has cells that are not folded as their tags say", "run survey sync")
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "markdown":
            lines = len(cell.source.splitlines())
            if lines > folding.MOST_LINES:
                find(
                    f"cell {number} has {lines} lines, more than {folding.MOST_LINES}",
                    "cut it, or move what other chapters draw alike into survey_lib.show",
                )
            continue
        text = re.sub(r"(?ms)^(`{3,}|~{3,})(?!\s*\{).*?^\1\s*$", "", cell.source)
        myst = re.search(
            r"\{[\w:+.-]+\}`|^\s*(`{3,}|~{3,}|:{3,})\s*\{|^\([\w:-]+\)=\s*$", text, re.MULTILINE
        )
        if myst:
            find(
                f"cell {number} uses MyST markup ({myst.group(0).strip()!r})",
                "write plain Markdown: Colab shows MyST as it stands",
            )
        if "results" in layout.tags(cell) and re.search(r"\d", _without_targets(cell.source)):
            find(
                f"cell {number} is tagged results and holds a digit",
                "let code print numbers from the records",
            )
    return found


def _without_targets(markdown: str) -> str:
    return re.sub(r"\]\([^)]*\)", "]", markdown)


def _check_toc(pages: list[str]) -> list[Finding]:
    root, found = layout.root(), []
    notebooks = {p.stem for p in (root / "notebooks").glob("*.ipynb")}
    listed = {page.removeprefix("notebooks/") for page in pages if page.startswith("notebooks/")}
    papers = set(cards.slugs())
    for slug in sorted(listed - notebooks):
        found.append(Finding("_toc.yml", f"lists notebooks/{slug}, which is no notebook", "add it"))
    for slug in sorted(notebooks - listed - _waiting(root)):
        found.append(Finding(f"notebooks/{slug}.ipynb", "is not in _toc.yml", "list it there"))
    for slug in sorted(listed - papers - set(layout.NO_CARD)):
        found.append(Finding(f"notebooks/{slug}.ipynb", "has no card", "write its card"))
    for page in pages:
        if page in layout.GENERATED:
            found.append(Finding("_toc.yml", f"lists {page}, which is generated", "take it out"))
        elif page.startswith("book/") and not (root / f"{page}.md").exists():
            found.append(Finding("_toc.yml", f"lists {page}, which is no page", "add the page"))
    for slug in sorted(papers):
        try:
            cards.read_card(slug)
        except cards.CardError as error:
            found.append(Finding(f"survey_lib/cards/{slug}.md", str(error), "mend the card"))
    return found


def _waiting(root: Path) -> set[str]:
    """Chapters whose study is still to be run: their notebooks may stand outside the contents."""
    from survey_lib.experiments import EXPERIMENTS

    run = {path.stem for path in (root / "results" / "study").glob("*.jsonl")}
    return set(EXPERIMENTS) - run


def _check_readme() -> list[Finding]:
    """README's table of nets is what the record says."""
    path = layout.root() / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    if zoo.BEGIN not in text:
        return []
    try:
        same = zoo.stamp(text, zoo.read()) == text
    except PublishError as error:
        return [Finding("README.md", str(error), "mend it first")]
    if same:
        return []
    return [Finding("README.md", "its table of nets is not results/zoo.json's", "run survey sync")]


def _check_vendor() -> list[Finding]:
    found = []
    for sums in sorted((layout.root() / "book" / "_vendor").glob("*/SHA256SUMS")):
        for line in sums.read_text(encoding="utf-8").splitlines():
            digest, name = line.split()
            path = sums.parent / name
            if not path.exists() or files.sha256(path) != digest:
                found.append(
                    Finding(
                        f"book/_vendor/{sums.parent.name}/{name}",
                        "is missing or differs from its checksum",
                        "restore it from git",
                    )
                )
    return found


def _check_address(url: str) -> list[Finding]:
    """The address stands in ``_config.yml`` and in the files that ``survey sync`` stamps."""
    root, found = layout.root(), []
    stamped = {*setup_cell.stamped_files(), root / "_config.yml"}
    for path in _text_files(root):
        if path not in stamped and url in path.read_text(encoding="utf-8", errors="replace"):
            found.append(
                Finding(
                    path.relative_to(root).as_posix(),
                    "names the repository's address, which stands in _config.yml",
                    "read it from there, or add the file to setup_cell.STAMPED",
                )
            )
    origin = git_lines(root, "remote", "get-url", "origin")
    if origin:
        name = re.sub(r"^(https://github\.com/|git@github\.com:)", "", origin[0])
        name = name.removesuffix("/").removesuffix(".git")
        if "github.com" in origin[0] and name != url.removeprefix("https://github.com/"):
            found.append(
                Finding(
                    "_config.yml",
                    f"names {url}, but the remote origin is {origin[0]}",
                    f"run survey sync --repo https://github.com/{name}",
                )
            )
    return found + _check_ref()


def _check_ref() -> list[Finding]:
    """Notebooks of a release install that release; all others install the branch."""
    root, ref = layout.root(), layout.branch()
    tags = git_lines(root, "tag", "--points-at", "HEAD")
    here = [tag for tag in tags if setup_cell.is_release(tag)]
    if here and ref not in here:
        what = f"this commit is the release {here[0]}, but notebooks install {ref}"
        return [Finding("_config.yml", what, f"run survey sync --ref {here[0]} before tagging")]
    # a tag that is still to be made is a release in the making
    if setup_cell.is_release(ref) and not here and ref in git_lines(root, "tag", "--list"):
        what = f"notebooks install the release {ref}, and this commit is a later one"
        return [Finding("_config.yml", what, "run survey sync --ref main")]
    return []


def _text_files(root: Path) -> list[Path]:
    kinds = {".py", ".md", ".yml", ".yaml", ".toml", ".cff", ".txt", ".css", ".js", ".ipynb", ".sh"}
    names = git_lines(root, "ls-files", "--cached", "--others", "--exclude-standard")
    paths = [root / n for n in names if "tests/" not in n and "_vendor/" not in n]
    return [p for p in paths if p.is_file() and (p.suffix in kinds or p.name == "Makefile")]
