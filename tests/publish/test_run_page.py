import json

from survey_lib.publish import layout
from survey_lib.publish.run_page import run_page


def test_run_page_tells_what_the_entries_say(book):
    entry = {
        "parts": {},
        "modules": [],
        "seconds": 61.2,
        "core_seconds": 118.0,
        "profile": "quick",
        "finished": "2031-01-02 03:04 UTC",
        "versions": {"torch": "9.9"},
        "machine": {"processor": "Abacus", "cores": 3, "system": "Linux", "python": "3.14"},
    }
    layout.entry("alpha").parent.mkdir(parents=True)
    layout.entry("alpha").write_text(json.dumps(entry))
    page = run_page()
    assert "| [alpha](../notebooks/alpha.ipynb) | quick | 61 | 118 | 2031-01-02 03:04 UTC |" in page
    assert "[beta](../notebooks/beta.ipynb) | not executed" in page
    assert "Abacus, 3 cores, Linux, Python 3.14" in page
    assert "torch 9.9" in page
