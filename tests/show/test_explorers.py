"""The contract of a chapter's explorer: ``survey_lib/show/explorers/<slug>.py``."""

import importlib
import inspect
import json
import math

import pytest

from survey_lib.evidence.reading import study
from survey_lib.experiments import EXPERIMENTS
from survey_lib.publish import layout
from survey_lib.show import page
from survey_lib.show.explorer import Explorer

CHAPTERS = [slug for slug in EXPERIMENTS if study(slug)]  # a draft has no study yet
HEAVIEST = 700_000
"""Bytes of an explorer's HTML, its data and its table included."""
UNDRAWN = {"common_testbed": {"name", "bytes", "seeds"}}
"""Columns that stand in an explorer's table alone; its chart makes do without them."""


def leaves(value):
    """Every number and word in a record's configuration or numbers."""
    if isinstance(value, dict):
        return set(map(str, value)).union(*map(leaves, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(leaves, value))
    return {value}


@pytest.fixture(params=CHAPTERS)
def made(request):
    """A chapter's explorer as its page makes it, and the records it is made from."""
    page.begin(request.param, "quick")
    module = importlib.import_module(f"survey_lib.show.explorers.{request.param}")
    recorded = study(request.param)
    return module.explorer(recorded), recorded


def test_every_chapter_has_a_study_or_is_a_draft_and_each_is_in_the_book():
    assert CHAPTERS
    assert set(CHAPTERS) <= set(layout.slugs())


def test_it_is_one_and_calls_its_live_function_with_its_controls(made):
    explorer, _ = made
    assert isinstance(explorer, Explorer)
    wanted = {control.field for control in explorer.controls}
    inspect.signature(explorer.live).bind(**dict.fromkeys([*wanted], None)
        | ({"progress": None} if "progress" in inspect.signature(explorer.live).parameters else {})
    )  # fmt: skip


def test_every_setting_has_a_recorded_run(made):
    explorer, _ = made
    fields = [control.field for control in explorer.controls]
    there = set(explorer.grid[fields].drop_duplicates().itertuples(index=False, name=None))
    assert len(there) >= math.prod(len(control.values) for control in explorer.controls)


def test_its_table_shows_numbers_of_the_records(made):
    explorer, recorded = made
    real = set().union(*(leaves(r.config) | leaves(r.numbers) for r in recorded))
    fields = {control.field for control in explorer.controls}
    numbers = [
        column for column in explorer.heads
        if column not in fields and explorer.grid[column].dtype.kind in "fi"
    ]  # fmt: skip
    assert any(set(explorer.grid[column].dropna()) <= real for column in numbers), numbers


def test_the_page_holds_the_grid_and_asks_nobody(made):
    explorer, recorded = made
    html = explorer.html()
    assert len(html.encode()) < HEAVIEST
    spec = explorer.spec()
    assert "http" not in json.dumps(spec)
    inlined = explorer.inlined()
    undrawn = UNDRAWN.get(recorded[0].slug, set())
    assert undrawn <= explorer.heads.keys()
    for column in explorer.heads.keys() - undrawn:
        assert set(inlined[column].dropna()) == set(explorer.grid[column].dropna())
