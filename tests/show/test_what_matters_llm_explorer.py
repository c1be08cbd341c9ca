import math

import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments.context import plain
from survey_lib.experiments.what_matters_llm import study
from survey_lib.show import page
from survey_lib.show.explorers import what_matters_llm as explorers

SLUG = "what_matters_llm"
N = 24


def numbers(cell):
    """Made up, in the shape that a cell of the arm ``plane`` gives."""
    left = round(cell.keep * N)
    of = [[j % 2, j * 0.5, round(0.1 + 0.01 * j, 3), int(j < left)] for j in range(N)]
    return {
        "neurons_of": of, "loss": 1.6 + 0.1 * math.log(1 / cell.keep) + cell.lambda_gum / 100,
        "uniqueness": 0.9 + cell.lambda_gum / 1000, "sensitivity": 0.1,
        "layers": {"blocks.0.up": [12, left // 2], "blocks.1.up": [12, left - left // 2]},
    }  # fmt: skip


@pytest.fixture
def recorded():
    return [
        Record(SLUG, "study", plain(cell), 0, str(i), "done", numbers(cell))
        for i, cell in enumerate([*study.explored(), study.whole(0)])
    ]


def test_the_page_holds_every_recorded_setting(recorded):
    drawn = explorers.explorer(recorded).inlined()
    assert len(drawn) == len(study.LEFT) * len(study.LAMBDAS)
    for record in recorded[:-1]:
        row = drawn[
            (drawn.keep == record.config["keep"])
            & (drawn.lambda_gum == record.config["lambda_gum"])
        ].iloc[0]  # fmt: skip
        assert row.loss == record.numbers["loss"]
        some = record.numbers["neurons_of"][:: explorers.EVERY]
        assert list(row.sensitivity) == [s for _, s, _, _ in some]
        assert list(row.U) == [u for _, _, u, _ in some]
        assert list(row.becomes) == [("goes", "stays")[kept] for *_, kept in some]
        assert row.layer_0 + row.layer_1 == round(record.config["keep"] * N)


def test_its_chart_moves_with_both_sliders(recorded):
    made = explorers.explorer(recorded)
    spec = str(made.spec())
    for control in made.controls:
        assert control.kind == "slider"
        assert f"datum.{control.field}" in spec
    assert len(made.html().encode()) < 700_000


def test_live_it_prunes_and_draws(recorded, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin(SLUG, "smoke")
    asked = []

    def measured(slug, cell, digest):
        asked.append(cell)
        return numbers(cell)

    monkeypatch.setattr(explorers, "measure", measured)
    steps = []
    shown = explorers.explorer(recorded, "smoke").live(
        0.25, 4.0, progress=lambda *words: steps.append(words)
    )
    assert "6 of 24 neurons stay" in shown.caption
    assert (asked[0].keep, asked[0].lambda_gum, asked[0].lr) == (0.25, 4.0, 0.0)
    assert len(steps) == 2
    assert explorers.explorer(recorded).live(0.5, 0.0, progress=lambda *_: None)
    assert asked[1].lr == study.RATES["gum"]
