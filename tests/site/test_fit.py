"""Every word of every drawing and every column of every table can be seen, at both widths."""

import pytest

from survey_lib.publish import layout
from tests.site.test_site import WIDTHS, pages, visit

pytestmark = pytest.mark.site

# Words of a drawing that end outside it or lie on others. Slanted words are measured against the
# edge only: the boxes around them overlap where they do not.
DRAWINGS = """where => {
  const found = [];
  const words = e => e.textContent.trim().slice(0, 40);
  const turned = e => {
    const m = e.getScreenCTM();
    return Math.abs(m.a * m.b) > 0.01;
  };
  for (const svg of document.querySelectorAll(`${where} svg`)) {
    if (svg.closest("mjx-container") || !svg.getBoundingClientRect().height) continue;
    const box = svg.getBoundingClientRect();
    const seen = [];
    for (const t of svg.querySelectorAll("text")) {
      const r = t.getBoundingClientRect();
      if (!r.width || !words(t)) continue;
      const style = getComputedStyle(t);
      if (style.visibility === "hidden" || Number(style.opacity) <= 0) continue;
      const over = Math.max(
        box.left - r.left, r.right - box.right, box.top - r.top, r.bottom - box.bottom);
      if (over > 2) found.push(`${words(t)}: ${over.toFixed()} px cut off`);
      if (turned(t)) continue;
      for (const [other, q] of seen) {
        const x = Math.min(r.right, q.right) - Math.max(r.left, q.left);
        const y = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
        if (x > 2 && y > 0.4 * Math.min(r.height, q.height))
          found.push(`${words(t)} lies on ${words(other)}`);
      }
      seen.push([t, r]);
    }
  }
  return [...new Set(found)];
}"""

LOWEST = {1280: 900, 375: 1400}
"""Width → where the main figure ends at the latest, in px."""
MOVED = "article .survey-explorer"
"""Where a control may change words."""

# A table wider than its place must scroll there, say so, and keep its first column in view.
TABLES = """() => {
  const found = [];
  for (const table of document.querySelectorAll("article table")) {
    if (!table.offsetWidth) continue;
    let box = table.parentElement;
    while (box.tagName !== "ARTICLE" && getComputedStyle(box).overflowX !== "auto")
      box = box.parentElement;
    const name = (table.caption || table).textContent.trim().slice(0, 40);
    if (box.tagName === "ARTICLE") {
      if (table.getBoundingClientRect().right > box.getBoundingClientRect().right + 1)
        found.push(`${name}: runs off the side`);
      continue;
    }
    if (box.scrollWidth <= box.clientWidth + 1) continue;
    if (!getComputedStyle(box).backgroundImage.includes("gradient"))
      found.push(`${name}: nothing says that there is more`);
    // a cell's own colour would lie over the shade
    const covers = e => !/, 0\\)$|transparent/.test(getComputedStyle(e).backgroundColor);
    for (let e = table.tBodies[0].rows[0].cells[1]; e && e !== box; e = e.parentElement)
      if (covers(e)) found.push(`${name}: a background hides the shade`);
    if (box.tabIndex !== 0) found.push(`${name}: no key scrolls it`);
    const cell = table.tBodies[0].rows[0].cells[0];
    const before = cell.getBoundingClientRect().left;
    box.scrollLeft = box.scrollWidth;
    if (Math.abs(cell.getBoundingClientRect().left - before) > 1)
      found.push(`${name}: the first column scrolls away`);
    const last = table.tBodies[0].rows[0].lastElementChild.getBoundingClientRect();
    if (last.right > box.getBoundingClientRect().right + 1)
      found.push(`${name}: the last column is out of reach`);
    if (cell.offsetWidth > 0.6 * box.clientWidth)
      found.push(`${name}: the first column leaves no room for the others`);
    box.scrollLeft = 0;
  }
  return found;
}"""

# What a cell prints, and equations: what does not fit would be cut without a sign.
LINES = """() => {
  const found = [];
  for (const pre of document.querySelectorAll("article .output.stream pre"))
    if (pre.scrollWidth > pre.clientWidth + 1)
      found.push(`${pre.textContent.trim().slice(0, 40)}: the end of a line is cut`);
  for (const svg of document.querySelectorAll("article mjx-container > svg")) {
    const over = svg.getBoundingClientRect().right - document.documentElement.clientWidth;
    if (over > 0) found.push(`an equation is ${over.toFixed()} px too wide`);
  }
  return found;
}"""

# A box that takes a tab stop when it scrolls must not stop scrolling because of it.
CHANGES = """async () => {
  let count = 0;
  const watch = new MutationObserver(seen => { count += seen.length; });
  const where = document.querySelector("article") || document.body;
  watch.observe(where, { attributes: true, subtree: true });
  await new Promise(done => setTimeout(done, 300));
  return count;
}"""


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", pages())
def test_nothing_is_cut(name, width, site, browser):
    with visit(browser, width) as one:
        page = one.open((site / name).as_uri())
        if name.removeprefix("notebooks/").removesuffix(".html") in layout.chapters():
            main_figure_is_seen(page, LOWEST[width])
        boxes = page.locator(".survey-explorer").all()
        for box in boxes:
            box.locator(".survey-chart[data-drawn]").wait_for(timeout=10_000)
            fills_its_box(box)
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        assert page.evaluate(DRAWINGS, "article") == []
        assert page.evaluate(TABLES) == []
        assert page.evaluate(LINES) == []
        page.wait_for_timeout(700)  # what opened has been drawn, once
        assert page.evaluate(CHANGES) <= 20, "the layout changes back and forth"
        for box in boxes:
            for control in box.locator("[data-param]").all():
                for place in ("last", "first"):
                    nothing_is_cut_at(page, control, place)


def main_figure_is_seen(page, lowest):
    """The main figure is on the first screens, and once on the page."""
    assert page.locator(".survey-hero").count() == 1
    ends = page.locator(".survey-hero svg:visible").bounding_box()
    assert ends["y"] + ends["height"] <= lowest
    assert page.locator(".survey-strip > li").count() <= 3
    assert page.locator("a[href='#main-figure']").count() == 1


def fills_its_box(box):
    """An explorer's chart is as wide as its box and no wider."""
    room = box.locator(".survey-chart").bounding_box()["width"]
    chart = box.locator(".vega-embed svg, svg.marks, canvas").first
    assert 0.9 * room < chart.bounding_box()["width"] <= room + 1


def nothing_is_cut_at(page, control, place):
    """A control set to its last or first value cuts no word of its explorer."""
    if control.is_disabled():  # another one's setting leaves it nothing to change
        return
    control.evaluate(
        """(e, place) => {
          if (e.tagName === "SELECT")
            e.selectedIndex = place === "last" ? e.options.length - 1 : 0;
          else e.value = place === "last" ? e.max : e.min;
          e.dispatchEvent(new Event("input", { bubbles: true }));
        }""",
        place,
    )
    page.wait_for_timeout(200)
    label = control.get_attribute("data-param")
    assert page.evaluate(DRAWINGS, MOVED) == [], f"{label} at its {place} value"
