"""Every word of every drawing and every column of every table can be seen, at both widths."""

import pytest

from tests.site.test_site import WIDTHS, pages, visit

pytestmark = pytest.mark.site

# Words of a drawing that end outside it or lie on others. Slanted words are measured against the
# edge only: the boxes around them overlap where they do not.
DRAWINGS = """() => {
  const found = [];
  const words = e => e.textContent.trim().slice(0, 40);
  const turned = e => {
    const m = e.getScreenCTM();
    return Math.abs(m.a * m.b) > 0.01;
  };
  for (const svg of document.querySelectorAll("article svg")) {
    if (svg.closest("mjx-container") || !svg.getBoundingClientRect().height) continue;
    const box = svg.getBoundingClientRect();
    const seen = [...svg.querySelectorAll("text")].filter(t => {
      const style = getComputedStyle(t);
      return words(t) && style.visibility !== "hidden" && Number(style.opacity) > 0
        && t.getBoundingClientRect().width;
    });
    seen.forEach((t, i) => {
      const r = t.getBoundingClientRect();
      const over = Math.max(
        box.left - r.left, r.right - box.right, box.top - r.top, r.bottom - box.bottom);
      if (over > 2) found.push(`${words(t)}: ${over.toFixed()} px cut off`);
      for (const other of turned(t) ? [] : seen.slice(0, i)) {
        if (turned(other)) continue;
        const q = other.getBoundingClientRect();
        const x = Math.min(r.right, q.right) - Math.max(r.left, q.left);
        const y = Math.min(r.bottom, q.bottom) - Math.max(r.top, q.top);
        if (x > 2 && y > 0.4 * Math.min(r.height, q.height))
          found.push(`${words(t)} lies on ${words(other)}`);
      }
    });
  }
  return [...new Set(found)];
}"""

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
        for box in page.locator(".survey-explorer").all():
            box.locator(".survey-chart[data-drawn]").wait_for(timeout=10_000)
        page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
        assert page.evaluate(DRAWINGS) == []
        assert page.evaluate(TABLES) == []
        assert page.evaluate(LINES) == []
        page.wait_for_timeout(700)  # what opened has been drawn, once
        assert page.evaluate(CHANGES) <= 20, "the layout changes back and forth"


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", [name for name in pages() if name.startswith("notebooks/")])
def test_nothing_is_cut_after_a_control_moved(name, width, site, browser):
    with visit(browser, width) as one:
        page = one.open((site / name).as_uri())
        for box in page.locator(".survey-explorer").all():
            box.locator(".survey-chart[data-drawn]").wait_for(timeout=10_000)
            for control in box.locator("[data-param]").all():
                for place in ("last", "first"):
                    if control.is_disabled():  # another one's setting leaves it nothing to change
                        continue
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
                    assert page.evaluate(DRAWINGS) == [], f"{label} at its {place} value"
