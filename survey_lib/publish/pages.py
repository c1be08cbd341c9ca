"""A small Sphinx extension: what the theme puts on pages that have no use for it.

- Pages made at staging have no source, so they get no launch and no edit button.
- A page without formulas doesn't load MathJax because a page below it has some.
- The theme draws its icons twice, by a font and by a script of 1.5 MB; the font is enough.
- The theme loads the whole index of the search on every page, to search as one types; here the
  search has a page of its own.
- The bibliography calls itself a list, but its entries are no list items.
- The theme prints a title as it is, and the search takes headings for HTML: both are escaped.
"""

import html
import json
import re
from pathlib import Path
from typing import Any

from survey_lib.publish.layout import GENERATED, PAPERS

_SEARCH = re.compile(
    r'<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>\s*'
)


def trim_page(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Take from a page the buttons and scripts it has no use for, and markup from its title."""
    if "pagetitle" in context:  # plain text, which the theme's template puts into an <h1>
        context["pagetitle"] = html.escape(context["pagetitle"])
    if pagename in GENERATED or pagename.startswith(f"{PAPERS}/"):
        unwanted = ("launch-buttons", "source-edit-button", "download-source-button")
        context["header_buttons"] = _without(context.get("header_buttons", []), unwanted)
    math = app.env.get_domain("math").data["has_equations"]
    if not math.get(pagename, False):
        context["script_files"] = [
            script
            for script in context.get("script_files", [])
            if app.config.mathjax_path not in str(getattr(script, "filename", script))
        ]


def trim_site(app: Any, exception: Exception | None) -> None:
    """Take the scripts a page has no use for and a wrong role from every page, and unused files."""
    if exception is not None or app.builder.format != "html":
        return
    site = Path(app.outdir)
    escape_headings(site / "searchindex.js")
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        slim = re.sub(r"<script[^>]*/scripts/fontawesome\.js[^>]*></script>\s*", "", text)
        if page.name != "search.html":
            slim = _SEARCH.sub("", slim)
        slim = re.sub(r"\s*<!-- So that users can add custom icons -->", "", slim)
        slim = slim.replace(
            '<div role="list" class="citation-list">', '<div class="citation-list">'
        )
        if slim != text:
            page.write_text(slim, encoding="utf-8")
    for script in (site / "_static" / "scripts").glob("fontawesome.js*"):
        script.unlink()
    # source maps are for the theme's own developers
    for source_map in (site / "_static").rglob("*.map"):
        source_map.unlink()


def escape_headings(index: Path) -> None:
    """Make the headings in Sphinx's index of the search HTML, which its script takes them for."""
    if not index.exists():
        return
    head, opening, rest = index.read_text(encoding="utf-8").partition("(")
    found = json.loads(rest.rstrip().removesuffix(")"))
    for part in ("alltitles", "indexentries"):
        found[part] = {html.escape(words): at for words, at in found.get(part, {}).items()}
    text = json.dumps(found, separators=(",", ":"), sort_keys=True)
    index.write_text(f"{head}{opening}{text})", encoding="utf-8")


def _without(buttons: list[dict[str, Any]], labels: tuple[str, ...]) -> list[dict[str, Any]]:
    kept = []
    for button in buttons:
        if button.get("label") in labels:
            continue
        if "buttons" in button:
            button = button | {"buttons": _without(button["buttons"], labels)}
        kept.append(button)
    return kept


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx, after the theme has made its buttons (its priority is 501)."""
    app.connect("html-page-context", trim_page, priority=900)
    app.connect("build-finished", trim_site, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
