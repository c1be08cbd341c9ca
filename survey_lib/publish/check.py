"""Checks of the sources (fast) and of the built site (after a build).

Each finding says in which file, what is wrong, and what to do about it.
"""

import re
import subprocess
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from survey_lib import files
from survey_lib.cards import card as cards
from survey_lib.publish import layout, setup_cell
from survey_lib.publish.layout import PublishError

MOST_CELLS = 34
HTML_BUDGET = 1_500_000
"""Bytes of a page's own HTML."""
PAGE_BUDGET = 4_400_000
"""Bytes of a page with the local files it loads."""


@dataclass(frozen=True)
class Finding:
    """Something wrong: where, what, and what to do."""

    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.file}: {self.what}; {self.remedy}"


def report(findings: Iterable[Finding]) -> str:
    """The findings, one a line."""
    return "\n".join(str(finding) for finding in findings)


# ---- sources ---------------------------------------------------------------------------------


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
        wanted = setup_cell.setup_source(url, branch, path.stem)
        found += check_notebook(notebook, name, wanted)
    return found + _check_vendor() + _check_address(url)


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
    for tag in ("hero", "hero-slot", "explorer"):
        if name.removesuffix(".ipynb").split("/")[-1] not in layout.NO_CARD:
            count = sum(tag in layout.tags(c) for c in code)
            if count != 1:
                find(f"has {count} cells tagged {tag}", "tag exactly one")
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type != "markdown":
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
    for slug in sorted(notebooks - listed):
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
    origin = _git(root, "remote", "get-url", "origin")
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
    here = [tag for tag in _git(root, "tag", "--points-at", "HEAD") if setup_cell.is_release(tag)]
    if here and ref not in here:
        what = f"this commit is the release {here[0]}, but notebooks install {ref}"
        return [Finding("_config.yml", what, f"run survey sync --ref {here[0]} before tagging")]
    # a tag that is still to be made is a release in the making
    if setup_cell.is_release(ref) and not here and ref in _git(root, "tag", "--list"):
        what = f"notebooks install the release {ref}, and this commit is a later one"
        return [Finding("_config.yml", what, "run survey sync --ref main")]
    return []


def _text_files(root: Path) -> list[Path]:
    kinds = {".py", ".md", ".yml", ".yaml", ".toml", ".cff", ".txt", ".css", ".js", ".ipynb", ".sh"}
    names = _git(root, "ls-files", "--cached", "--others", "--exclude-standard")
    paths = [root / n for n in names if "tests/" not in n and "_vendor/" not in n]
    return [p for p in paths if p.is_file() and (p.suffix in kinds or p.name == "Makefile")]


def _git(root: Path, *words: str) -> list[str]:
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


# ---- the site --------------------------------------------------------------------------------


def check_site(unbuilt: Collection[str] = ()) -> list[Finding]:
    """Check the built site.

    Args:
        unbuilt: chapters whose failure is told elsewhere; their notice pages are no finding.
    """
    site = files.build_dir() / "html"
    if not (site / "index.html").exists():
        return [Finding("_build/html", "there is no site", "run survey build")]
    found = []
    tracked = set(_git(layout.root(), "ls-files"))
    for path in sorted(site.rglob("*.html")):
        if "_static" not in path.relative_to(site).parts:
            found += check_page(path, site, tracked, unbuilt)
    for path in sorted(site.rglob("*.css")):
        text = path.read_text(encoding="utf-8", errors="replace")
        found += _remote_css(text, path.relative_to(site).as_posix())
    found += _check_local_paths(site)
    for page in layout.pages():
        if not (site / f"{page}.html").exists():
            found.append(Finding(f"{page}.html", "is missing from the site", "run survey build"))
    return found


def check_numbers() -> list[Finding]:
    """Compare the runs that the chapters' quick profile made here with their recorded twins.

    Each build is so a check that the committed numbers reproduce; age is no finding.
    """
    # late: the experiments import torch
    from survey_lib.experiments import EXPERIMENTS, runner

    found = []
    for slug in layout.slugs():
        if slug in EXPERIMENTS:
            fresh, recorded = runner.finished(slug, "quick"), runner.study(slug)
            for line in runner.differences(slug, fresh, recorded):
                remedy = "find out what changed, or run the study anew"
                found.append(Finding(f"results/study/{slug}.jsonl", line, remedy))
    return found


def check_page(
    path: Path, site: Path, tracked: Collection[str], unbuilt: Collection[str] = ()
) -> list[Finding]:
    """Check one page: outputs, alternatives in words, links, requests, weight."""
    page = _Page(path, site)
    return [
        *page.outputs(unbuilt),
        *page.alternatives(),
        *page.links(),
        *page.launch_links(tracked),
        *page.requests(),
        *page.weight(),
    ]


class _Page:
    """One parsed page and what can be wrong with it."""

    def __init__(self, path: Path, site: Path):
        self.path, self.site = path, site
        self.name = path.relative_to(site).as_posix()
        self.soup = _soup(path)
        self.main = self.soup.find("main") or self.soup

    def _finding(self, what: str, remedy: str) -> Finding:
        return Finding(self.name, what, remedy)

    def outputs(self, unbuilt: Collection[str]) -> list[Finding]:
        found = []
        if self.soup.select(".output.traceback, .cell_output .traceback, .papermill-error"):
            found.append(self._finding("shows a traceback", "mend the chapter and build again"))
        for notice in self.soup.select(".survey-unbuilt"):
            if notice.get("data-slug") not in unbuilt:
                found.append(self._finding("the chapter was not executed", "run survey build"))
        for figure in self.main.find_all("figure"):
            if not figure.select("img, svg, table, pre, canvas, .survey-explorer, video"):
                found.append(self._finding("holds an empty figure", "draw something in it"))
        for svg in self.main.find_all("svg"):
            if not svg.select("path, use, text, image, rect, circle, line, polygon, polyline"):
                found.append(self._finding("holds an SVG that draws nothing", "draw something"))
        return found

    def alternatives(self) -> list[Finding]:
        found = []
        for image in self.soup.find_all("img"):
            alt, source = image.get("alt"), image.get("src", "")
            inside = self.main is self.soup or image.find_parent("main") is not None
            if alt is None:
                what = "has no alt text"
            elif inside and not alt.strip() and image.get("role") != "presentation":
                what = "has an empty alt text"
            elif re.search(r"_images/|\.(png|svg|jpe?g)$", alt):
                what = "has a file name for its alt text"
            else:
                continue
            shown = source if len(source) < 60 else source[:57] + "..."
            found.append(self._finding(f"image {shown} {what}", "say in words what it shows"))
        for svg in self.main.find_all("svg"):
            hidden = svg.get("aria-hidden") == "true" or svg.find_parent(
                attrs={"aria-hidden": "true"}
            )
            if hidden or svg.find_parent("svg"):
                continue
            title = svg.find("title")
            if svg.get("role") != "img" or title is None or not title.get_text().strip():
                found.append(
                    self._finding(
                        f"SVG {svg.get('id', 'without id')} has no role=img with a title",
                        "show it through survey_lib.show.figure, which needs alt",
                    )
                )
        return found

    def links(self) -> list[Finding]:
        found = []
        for link in self.soup.find_all("a", href=True):
            parts = urlsplit(link["href"])
            if parts.scheme or parts.netloc:
                continue
            target = self.path
            if parts.path:
                target = (self.path.parent / unquote(parts.path)).resolve()
            if target.is_dir():
                target = target / "index.html"
            if not target.exists():
                found.append(self._finding(f"links to {link['href']}, which is missing", "mend it"))
            elif (
                parts.fragment
                and target.suffix == ".html"
                and unquote(parts.fragment) not in _anchors(target)
            ):
                found.append(
                    self._finding(f"links to {link['href']}, an anchor nobody has", "mend it")
                )
        return found

    def launch_links(self, tracked: Collection[str]) -> list[Finding]:
        found = []
        name = layout.repository_url().removeprefix("https://github.com/")
        for link in self.soup.find_all("a", href=True):
            path = launched_file(link["href"], name)
            if path is not None and path not in tracked:
                found.append(
                    self._finding(
                        f"launches {path}, which git does not track",
                        "add the file to git or drop the link",
                    )
                )
        return found

    def requests(self) -> list[Finding]:
        found = []
        for kind, address in _loaded(self.soup):
            if _remote(address):
                found.append(
                    self._finding(f"<{kind}> asks {address[:80]}", "serve the file from the site")
                )
        for style in self.soup.find_all("style"):
            found += _remote_css(style.get_text(), self.name)
        for element in self.soup.find_all(style=True):
            found += _remote_css(element["style"], self.name)
        for script in self.soup.find_all("script", src=False):
            if script.get("type", "text/javascript") in ("application/json", "text/markdown"):
                continue
            remote = re.search(
                r"https?://[^\"'\s]*(cdn|unpkg|jsdelivr)[^\"'\s]*", script.get_text()
            )
            if remote:
                found.append(
                    self._finding(
                        f"a script names {remote.group(0)[:80]}", "drop it from the config"
                    )
                )
        return found

    def weight(self) -> list[Finding]:
        found = []
        own = self.path.stat().st_size
        if own > HTML_BUDGET:
            found.append(
                self._finding(
                    f"its HTML weighs {own / 1e6:.1f} MB, more than {HTML_BUDGET / 1e6}",
                    "draw fewer points or inline less data",
                )
            )
        whole = page_weight(self.path, self.site)
        if whole > PAGE_BUDGET:
            found.append(
                self._finding(
                    f"it loads {whole / 1e6:.1f} MB, more than {PAGE_BUDGET / 1e6}",
                    "make its images smaller",
                )
            )
        return found


def page_weight(path: Path, site: Path) -> int:
    """Bytes of a page and of the local files it loads, those on demand included."""
    soup = _soup(path)
    local = set()
    for _, address in _loaded(soup):
        parts = urlsplit(address)
        if not parts.scheme and not parts.netloc and parts.path:
            local.add((path.parent / unquote(parts.path)).resolve())
    if soup.select(".survey-explorer"):
        local.add((site / "_static" / "vendor" / "vega.js").resolve())
    return path.stat().st_size + sum(p.stat().st_size for p in local if p.is_file())


def launched_file(address: str, repository: str) -> str | None:
    """The file of ``repository`` (owner/name) that an address opens; None when it opens none."""
    parts = urlsplit(address)
    name = re.escape(repository)
    if parts.netloc == "colab.research.google.com":
        found = re.fullmatch(rf"/github/{name}/blob/[^/]+/(.+)", parts.path)
        # a Colab address of another repository is never right
        return unquote(found.group(1)) if found else unquote(parts.path)
    if parts.path.startswith(("/v2/gh/", "/v2/git/")):
        opened = parse_qs(parts.query).get("urlpath", [""])[0]
        right = re.match(rf"/v2/gh/{name}/", parts.path)
        return re.sub(r"^/?(lab/tree|tree|notebooks)/", "", opened) if right else parts.path
    if parts.netloc == "github.com":
        found = re.fullmatch(rf"/{name}/(?:blob|edit|raw)/[^/]+/(.+)", parts.path)
        return unquote(found.group(1)) if found else None
    return None


def _loaded(soup: Any) -> list[tuple[str, str]]:
    """Everything a page asks for by itself: (element, address)."""
    found = []
    for name in ("script", "img", "iframe", "source", "video", "audio", "embed", "track", "input"):
        found += [(name, e["src"]) for e in soup.find_all(name, src=True)]
    for element in soup.find_all(srcset=True):
        found += [(element.name, part.split()[0]) for part in element["srcset"].split(",")]
    found += [("object", e["data"]) for e in soup.find_all("object", data=True)]
    for link in soup.find_all("link", href=True):
        kinds = {kind.lower() for kind in link.get("rel") or []}
        if kinds & {"stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch",
                    "modulepreload", "manifest", "apple-touch-icon"}:  # fmt: skip
            found.append(("link", link["href"]))
    for image in soup.find_all("image"):
        found.append(("image", image.get("href") or image.get("xlink:href") or ""))
    return found


def _remote(address: str) -> bool:
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp")


def _remote_css(text: str, name: str) -> list[Finding]:
    found = []
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    for match in re.finditer(r"(?:url\(\s*|@import\s+)[\"']?((?:https?:)?//[^\"')\s;]+)", text):
        found.append(Finding(name, f"CSS asks {match.group(1)[:80]}", "serve it from the site"))
    return found


def _check_local_paths(site: Path) -> list[Finding]:
    from survey_lib.publish.stage import local_paths

    found = []
    folders = [f"{folder}/".encode() for folder in local_paths()]
    kinds = {".html", ".js", ".css", ".ipynb", ".md", ".svg", ".csv", ".jsonl", ".json", ".txt"}
    for path in sorted(site.rglob("*")):
        if path.suffix not in kinds or "vendor" in path.relative_to(site).parts:
            continue
        data = path.read_bytes()
        for folder in folders:
            if folder in data:
                name = path.relative_to(site).as_posix()
                what = f"names the local folder {folder.decode()}"
                found.append(Finding(name, what, "print paths relative to the checkout"))
                break
    return found


@lru_cache(maxsize=64)
def _parse(path: Path, _modified: int) -> Any:
    from bs4 import BeautifulSoup

    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def _soup(path: Path) -> Any:
    return _parse(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=512)
def _anchors_of(path: Path, modified: int) -> frozenset[str]:
    soup = _parse(path, modified)
    ids = {element["id"] for element in soup.find_all(id=True)}
    return frozenset(
        ids | {element["name"] for element in soup.find_all("a", attrs={"name": True})}
    )


def _anchors(path: Path) -> frozenset[str]:
    return _anchors_of(path, path.stat().st_mtime_ns)
