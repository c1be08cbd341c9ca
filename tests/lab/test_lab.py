"""A chapter in a real JupyterLab: run all cells, move a slider, press Run, see a result."""

import shutil
import time

import nbformat
import pytest

from survey_lib.publish import layout

pytestmark = pytest.mark.site

CAP = 300
"""Seconds a chapter may take here, in smoke; a quiet machine needs about 25."""
PATIENCE = 120
"""Seconds that anything smaller may take: a busy machine is no failure."""
SWALLOWED = 20
"""Seconds after which a click that ran nothing is taken for one that did not arrive."""
# What the open notebook knows of its code cells; prompts of folded cells are not on the page.
STATE = """() => jupyterapp.shell.currentWidget.content.model.sharedModel.cells
  .filter(cell => cell.cell_type === 'code' && cell.source.trim())
  .map(cell => ({ran: cell.execution_count !== null, errors: cell.outputs
    .filter(output => output.output_type === 'error')
    .map(output => `${output.ename}: ${output.evalue}`)}))"""
SMALL = """\
import altair as alt
import matplotlib.pyplot as plt
import pandas as pd

from survey_lib.show import page
from survey_lib.show.explorer import Control, Explorer
from survey_lib.show.figure import figure

page.begin("to_prune_or_not", "smoke")
grid = pd.DataFrame({"keep": [0.5, 0.25, 0.1], "accuracy": [0.875, 0.8125, 0.75]})


def chart(rows, chosen):
    here = alt.datum.keep == chosen["keep"]
    return alt.Chart(rows).transform_filter(here).mark_point().encode(x="keep:Q", y="accuracy:Q")


def live(keep):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, keep])
    return figure(fig, "live", alt=f"A line to {keep}.", caption=f"Computed for {keep}.", data=None)


Explorer(
    "small", controls=[Control("keep", "Share kept", (0.5, 0.25, 0.1), 0.5)], grid=grid,
    chart=chart, live=live, slow=SLOW, title="How small?", alt="A point.", caption="Move it.",
)
"""


class Lab:
    """A notebook open in JupyterLab, as a reader has it before them."""

    def __init__(self, page, lab, name):
        self.page = page
        page.set_default_timeout(1000 * PATIENCE)
        page.goto(f"{lab.address}/lab/tree/{name}?token={lab.token}&reset")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        # a page without a kernel calls itself idle too
        page.wait_for_function(
            "() => document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status"
            " === 'idle' && !/No Kernel/.test("
            "document.querySelector('.jp-Toolbar-kernelName').innerText)",
        )

    def run_all(self, seconds):
        """Menu Run, item Run All Cells; wait until every code cell has run.

        A notebook that has just opened may swallow the click: where nothing runs and the kernel
        stays idle, it is clicked once more, as a reader would.
        """
        self._click_run_all()
        again = time.monotonic()
        end = again + seconds
        while True:
            if time.monotonic() > again + SWALLOWED and self._nothing_runs():
                self._click_run_all()
                again = time.monotonic()
            cells = self.page.evaluate(STATE)
            assert [error for cell in cells for error in cell["errors"]] == []
            done = sum(cell["ran"] for cell in cells)
            if done == len(cells) > 0:
                return
            assert time.monotonic() < end, f"{done} of {len(cells)} cells in {seconds} s"
            self.page.wait_for_timeout(250)

    def _click_run_all(self):
        self.page.locator(".lm-MenuBar-item", has_text="Run").first.click()
        item = self.page.locator("[data-command='runmenu:run-all']")
        item.wait_for()
        item.click()

    def _nothing_runs(self):
        status = "document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status"
        return self.page.evaluate(status) == "idle" and not any(
            cell["ran"] for cell in self.page.evaluate(STATE)
        )

    def explorer(self):
        """The output area that holds the controls."""
        box = self.page.locator(".jp-OutputArea-output", has=self.page.locator(".widget-vbox"))
        box.last.wait_for()
        box.last.scroll_into_view_if_needed()
        return box.last


def step(page, box, key="ArrowRight"):
    """Press a key on the first slider; returns what it said before and after."""
    slider = box.locator(".widget-hslider, .jupyter-widget-hslider").first
    told = slider.locator(".widget-readout")
    before = told.inner_text()
    handle = slider.locator(".noUi-handle")
    handle.focus()
    page.keyboard.press(key)
    end = time.monotonic() + PATIENCE
    while told.inner_text() == before and time.monotonic() < end:
        page.wait_for_timeout(50)
    return before, told.inner_text()


def until(page, words, found):
    """Wait until ``found()`` is true; the assertion says what was waited for."""
    end = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < end, f"{words} did not happen in {PATIENCE} s"
        page.wait_for_timeout(100)


def small(lab, name, slow):
    cells = [nbformat.v4.new_code_cell(SMALL.replace("SLOW", str(slow)))]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = dict(layout.KERNEL)
    nbformat.write(notebook, lab.folder / name)
    return name


def test_a_fast_explorer_answers_to_each_step(lab, page):
    one = Lab(page.page, lab, small(lab, "fast.ipynb", False))
    one.run_all(PATIENCE)
    box = one.explorer()
    assert box.locator("table").count() == 1  # recorded numbers, before anything is computed
    before, after = step(page.page, box)
    assert before != after
    until(page.page, "a new figure", lambda: "Computed for 0.25" in box.inner_text())
    assert box.get_by_role("img", name="A line to 0.25").count() == 1
    assert page.refused == []


def test_a_slow_explorer_waits_for_its_button(lab, page):
    one = Lab(page.page, lab, small(lab, "slow.ipynb", True))
    one.run_all(PATIENCE)
    box = one.explorer()
    step(page.page, box)
    until(page.page, "the hint", lambda: "Press Run to compute" in box.inner_text())
    assert box.locator("figure").count() == 0
    box.get_by_role("button", name="Run", exact=True).press("Enter")
    until(page.page, "a new figure", lambda: "Computed for 0.25" in box.inner_text())
    until(page.page, "the time it took", lambda: "Computed here in" in box.inner_text())
    assert page.refused == []


@pytest.mark.parametrize("slug", layout.slugs())
def test_a_chapter_runs_and_its_explorer_computes(slug, lab, page, screens):
    shutil.copy(layout.source(slug), lab.folder / f"{slug}.ipynb")
    one = Lab(page.page, lab, f"{slug}.ipynb")
    try:
        one.run_all(CAP)
        if slug in layout.NO_CARD:
            return
        box = one.explorer()
        handle = box.locator(".noUi-handle").first
        now, top = (handle.get_attribute(f"aria-value{x}") for x in ("now", "max"))
        before, after = step(page.page, box, "Home" if now == top else "End")
        assert before != after
        old = box.locator(".jp-OutputArea").last.inner_html()
        run = box.get_by_role("button", name="Run", exact=True)
        if run.count():  # a fast explorer answers to the step itself
            run.click()
        until(page.page, "the result", lambda: "Computed here" in box.inner_text())
        assert "That did not work" not in box.inner_text()
        new = box.locator(".jp-OutputArea").last
        until(page.page, "a new output", lambda: new.inner_html() != old)
        assert new.locator("figure svg, table, img").count() >= 1
        new.evaluate("e => e.scrollIntoView({block: 'end'})")
    finally:
        page.page.screenshot(path=str(screens / f"lab-{slug}.png"))
    assert page.refused == []
