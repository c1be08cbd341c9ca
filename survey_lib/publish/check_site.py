"""Checks of the built site: outputs, words for pictures, links, requests, weight."""

import re
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from survey_lib import files
from survey_lib.publish import layout
from survey_lib.publish.findings import Finding, git_lines
from survey_lib.publish.scrub import local_paths

HTML_BUDGET = 1_500_000
"""Bytes of a page's own HTML."""
PAGE_BUDGET = 4_400_000
"""Bytes of a page with the local files it loads."""


def check_site(unbuilt: Collection[str] = ()) -> list[Finding]:
    """Check the built site.

    Args:
        unbuilt: chapters whose failure is told elsewhere; their notice pages are no finding.
    """
    site = files.build_dir() / "html"
    if not (site / "index.html").exists():
        return [Finding("_build/html", "there is no site", "run survey build")]
    found = []
    tracked = set(git_lines(layout.root(), "ls-files"))
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
            if svg.get("role") == "group" and svg.get("aria-label") and svg.find("a"):
                continue  # its parts are links, which an image may not hold; each has its words
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
