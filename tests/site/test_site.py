"""The built site in a browser: every page, light and dark, wide and narrow."""

import contextlib
import re

import pytest

from survey_lib.publish import build, check_site, findings, layout

pytestmark = pytest.mark.site

THEMES = ("light", "dark")
WIDTHS = (1280, 375)
CONTRAST = "color-contrast"
LOOKED_AT = {
    ("light", 1280): {"resultTypes": ["violations"]},
    ("light", 375): {"rules": {CONTRAST: {"enabled": False}}},
    ("dark", 1280): {"runOnly": [CONTRAST]},
    ("dark", 375): None,
}
"""What axe is asked. Colours depend on the theme and take most of its time, all else on the
width."""


BARE = """[...document.querySelectorAll('.cell_output .text_html')]
    .filter(output => !output.querySelector('.survey')).map(output => output.innerHTML)"""
"""Outputs that the page's own style does not know."""


def pages():
    """Pages of the built site, so that each is a test of its own; one stand-in when absent."""
    site = build.site()
    found = sorted(
        path.relative_to(site).as_posix()
        for path in site.rglob("*.html")
        if "_static" not in path.relative_to(site).parts and path != site / "index.html"
    )
    return found or ["(no site)"]


class Visit:
    """One page in one theme and width, with everything the browser complained about."""

    def __init__(self, browser, width, theme):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme
        )
        # the theme keeps the reader's choice here
        self.context.add_init_script(
            f"try {{localStorage.setItem('mode', '{theme}');"
            f"localStorage.setItem('theme', '{theme}')}} catch (e) {{}}"
        )
        self.page = self.context.new_page()
        self.complaints, self.requests = [], []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("requestfailed", lambda r: self.complaints.append(f"failed: {r.url}"))

    def _console(self, message):
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def open(self, url):
        self.page.goto(url)
        self.page.wait_for_load_state("networkidle")
        if self.page.locator("script[src*='mathjax']").count():
            self.page.evaluate("MathJax.startup.promise.then(() => true)")
        return self.page

    def outside(self, allowed):
        return [u for u in self.requests if not u.startswith((allowed, "data:", "blob:"))]


@contextlib.contextmanager
def visit(browser, width=1280, theme="light"):
    """A fresh browser context, closed at the end."""
    one = Visit(browser, width, theme)
    try:
        yield one
    finally:
        one.context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", pages())
def test_page_is_quiet_local_narrow_and_accessible(
    name, theme, width, site, browser, address, screens
):
    from axe_playwright_python.sync_playwright import Axe

    with visit(browser, width, theme) as one:
        page = one.open(f"{address}/{name}")
        label = name.removesuffix(".html").replace("/", "-")
        page.screenshot(path=str(screens / f"{label}-{theme}-{width}.png"), full_page=True)
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        assert one.complaints == []
        assert one.outside(address) == []
        bare = page.evaluate(BARE)
        assert bare == [], "HTML without our class has the theme's light panel in dark mode"
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"the page is {wide} px wide in a window of {width} px"
        unknown = page.locator("mjx-container [fill='red'], mjx-container [data-mml-node=merror]")
        assert unknown.count() == 0, "a formula uses a command that MathJax does not know"
        options = LOOKED_AT[theme, width]
        found = Axe().run(page, options=options).response["violations"] if options else []
        bad = [
            f"{v['id']}: {v['help']}: {[n['html'][:120] for n in v['nodes'][:3]]}"
            for v in found
            if v["impact"] in ("serious", "critical")
        ]
        assert bad == []


@pytest.mark.parametrize("name", pages())
def test_page_works_from_a_file(name, site, browser):
    with visit(browser) as one:
        page = one.open((site / name).as_uri())
        assert page.locator("main h1").last.inner_text().strip()
        if name in with_formulas(site):
            # a stretched brace is an svg inside the formula's own
            made = page.locator("mjx-container > svg").count()
            assert made >= page.locator("span.math, div.math").count() > 0
            assert page.locator("mjx-assistive-mml math").count() == made
        if name in explorers(site):
            for way in ("keyboard", "mouse"):
                explorer_redraws(page, way)
        assert one.complaints == []
        assert one.outside(site.as_uri()) == []


def test_first_address_leads_to_the_first_page(site, browser):
    with visit(browser) as one:
        one.page.goto((site / "index.html").as_uri())
        one.page.wait_for_url(f"**/{layout.pages()[0]}.html")
        assert one.page.locator("article h1").count() == 1
        assert one.page.locator(".survey-finding .rests a").count() >= 3, "no finding up front"


def with_formulas(site):
    """Pages that hold formulas."""
    return [n for n in pages() if "tex-svg.js" in (site / n).read_text(encoding="utf-8")]


def test_there_are_formulas_and_explorers(site):
    assert with_formulas(site)
    assert {f"notebooks/{slug}.html" for slug in layout.chapters()} <= set(explorers(site))


def explorers(site):
    """Pages that hold an explorer."""
    return [n for n in pages() if "survey-explorer" in (site / n).read_text(encoding="utf-8")]


def drawn(page):
    """The first explorer's box and its chart, once it has found its width."""
    box = page.locator(".survey-explorer").first
    box.scroll_into_view_if_needed()
    box.locator(".survey-chart[data-drawn]").wait_for(timeout=10_000)
    return box, box.locator(".vega-embed svg, svg.marks, canvas").first


def explorer_redraws(page, way):
    """Move the first slider to its other end; the chart must change."""
    box, drawing = drawn(page)
    slider = box.locator("input[type=range]").first
    assert slider.count() == 1, "the explorer has no slider"
    before = picture(drawing)
    at_low = slider.input_value() == slider.get_attribute("min")
    if way == "keyboard":
        slider.focus()
        page.keyboard.press("End" if at_low else "Home")
    else:
        slider.scroll_into_view_if_needed()  # the chart may be higher than the screen
        size = slider.bounding_box()
        page.mouse.click(
            size["x"] + size["width"] * (0.98 if at_low else 0.02),
            size["y"] + size["height"] / 2,
        )
    for _ in range(40):
        after = picture(box.locator(".vega-embed svg, svg.marks, canvas").first)
        if after != before:
            break
        page.wait_for_timeout(50)
    assert after != before, f"the chart stayed as it was: {way}"


def picture(drawing):
    """What a chart shows: the SVG's markup, or the canvas's pixels."""
    return drawing.evaluate("e => e.tagName === 'CANVAS' ? e.toDataURL() : e.outerHTML")


def test_explorer_offers_a_table(site, browser):
    for name in explorers(site):
        context = browser.new_context(java_script_enabled=False)
        try:
            page = context.new_page()
            page.goto((site / name).as_uri())
            assert page.locator(".survey-explorer table tbody tr").count() > 1
        finally:
            context.close()


def test_chapters_have_launch_buttons_and_generated_pages_have_none(site):
    tracked = set(findings.git_lines(layout.root(), "ls-files"))
    name = layout.repository_url().removeprefix("https://github.com/")
    for slug in layout.slugs():
        text = (site / "notebooks" / f"{slug}.html").read_text(encoding="utf-8")
        links = re.findall(r'href="(https://[^"]+)"', text)
        opened = {check_site.launched_file(link, name) for link in links} - {None}
        assert f"notebooks/{slug}.ipynb" in opened
        assert any("colab.research" in link for link in links)
        assert any("mybinder" in link for link in links)
        assert opened <= tracked
    for page in layout.GENERATED:
        text = (site / f"{page}.html").read_text(encoding="utf-8")
        assert "/edit/" not in text
        assert "colab.research" not in text


def test_the_checks_find_nothing(site):
    assert findings.report(check_site.check_site()) == ""
