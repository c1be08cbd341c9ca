import numpy as np
import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.context import measure
from survey_lib.experiments.group_fisher import cells, study
from survey_lib.show import page
from survey_lib.show.explorers import group_fisher as explorers


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    costs, sizes = explorers.dense_costs()
    rows = []
    for cell in study.explored():
        points = [
            {
                "mark": mark,
                "val": round(float(rng.random()), 4),
                "kept": {g: int(rng.integers(1, n + 1)) for g, n in sizes.items()},
                "steps": 3,
                **{k: int(c * mark) for k, c in costs.items()},
            }
            for mark in cells.MARKS
        ]
        rows.append(
            Record("group_fisher", "study", runner.plain(cell), 0, str(cell), "done",
                   {"path": points})
        )  # fmt: skip
    other = runner.plain(study.path("M", 0, net="resnext"))
    return [*rows, Record("group_fisher", "study", other, 0, "x", "done", {"path": []})]


def test_the_page_holds_every_point_of_every_path(recorded):
    drawn = explorers.explorer(recorded).inlined()
    assert len(drawn) == 2 * 2 * 3 * len(cells.MARKS)
    _, sizes = explorers.dense_costs()
    seen = set()
    for coupled in explorers.COUPLED:
        for saving in explorers.SAVING:
            for alpha in study.ALPHAS:
                cell = explorers.cell(coupled, saving, alpha)
                seen.add(cell)
                record = next(r for r in recorded if r.key == str(cell))
                for point in record.numbers["path"]:
                    row = drawn[
                        (drawn.coupled == coupled) & (drawn.saving == saving)
                        & (drawn.alpha == alpha) & (drawn.mark == point["mark"])
                    ].iloc[0]  # fmt: skip
                    assert row.accuracy == point["val"]
                    kept = [f"{point['kept'][g]} of {sizes[g]}" for g in explorers.PLACES]
                    assert row.units == kept
    assert seen == set(study.explored())  # without Δ both savings are one path


def test_every_group_of_the_net_has_its_place():
    assert set(explorers.dense_costs()[1]) == set(explorers.PLACES)


def test_live_it_walks_as_the_recorded_cell_did(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    page.begin("group_fisher", "smoke")
    short = [c for c in study._smoke() if c.arm == "path" and c.per == "macs"]
    monkeypatch.setattr(study, "explored", lambda: short)
    figure = explorers.walk("coupled channels too", "MACs", 1.0, 0.9, lambda *_: None)
    numbers = measure("group_fisher", short[0], "digest")
    data = next(p for p in figure.files if p.suffix == ".csv").read_text().splitlines()[1:]
    found = dict(line.split(",") for line in data)
    assert {k: int(v) for k, v in found.items()} == numbers["path"][-1]["kept"]
    assert f"{numbers['path'][-1]['val']:.1%}" in figure.caption
