"""A chapter on paper: nothing is cut at the right, and nothing that tells is folded shut."""

import os
import shutil
import subprocess
import unicodedata

import pytest
from bs4 import BeautifulSoup

from survey_lib.cards.card import read_card
from survey_lib.publish import layout
from tests.browser import ARGUMENTS

pytestmark = pytest.mark.site


def squeezed(text):
    """Letters and signs alone: paper breaks lines where it likes, and joins f and i."""
    return "".join(unicodedata.normalize("NFKC", text).split())


def printed(page, folder):
    """Text of a page as Chromium prints it."""
    try:
        import pypdf
    except ImportError:
        if os.environ.get("CI"):
            raise
        pytest.skip("there is no pypdf here: make install")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        assert not os.environ.get("CI"), "there is no Chromium on this machine"
        pytest.skip("there is no Chromium on this machine")
    paper = folder / "page.pdf"
    command = [path, "--headless", *ARGUMENTS, "--virtual-time-budget=10000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--no-pdf-header-footer"]
    command += [f"--print-to-pdf={paper}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return "\n".join(sheet.extract_text() for sheet in pypdf.PdfReader(paper).pages)


@pytest.mark.parametrize("slug", layout.chapters())
def test_a_chapter_prints_whole(slug, site, tmp_path):
    page = site / "notebooks" / f"{slug}.html"
    paper = squeezed(printed(page, tmp_path))
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("article")
    lines = [
        line
        for block in article.find_all("pre")
        if block.find_parent("details") is None
        for line in block.get_text().splitlines()
    ]
    assert len(lines) > 20
    cut = [line for line in lines if squeezed(line) not in paper]
    assert cut == []
    sentences = read_card(slug).gist.replace("*", "").split(". ")
    away = [sentence for sentence in sentences if squeezed(sentence) not in paper]
    assert len(away) <= 1, away  # one may go over to the next sheet
    assert "Showcodecellsource" not in paper
    headings = [squeezed(h.get_text().rstrip("#")) for h in article.find_all("h2")]
    assert all(heading in paper for heading in headings)
    cells = [
        squeezed(cell.get_text())
        for cell in article.select(".survey-tablebox :is(td, th)")
        if cell.find_parent("details") is None
    ]
    assert [cell for cell in cells if cell not in paper] == []


def test_folded_tables_of_times_are_printed_open(site, tmp_path):
    page = site / "book" / "benchmarks.html"
    paper = squeezed(printed(page, tmp_path))
    article = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").find("article")
    cells = [squeezed(cell.get_text()) for cell in article.select(".survey-timings td.num")]
    assert len(cells) > 50
    assert [cell for cell in cells if cell not in paper] == []
