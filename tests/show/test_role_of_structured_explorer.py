from dataclasses import replace

import pytest
import torch

from survey_lib.evidence.records import Record
from survey_lib.experiments.context import plain
from survey_lib.experiments.role_of_structured import cells, study
from survey_lib.measure import coding
from survey_lib.show import page
from survey_lib.show.explorers import role_of_structured as explorers
from survey_lib.tasks.dense import seeded

LEVELS = torch.randint(1, 9, (96, 432), generator=torch.Generator().manual_seed(0))


def file_of(scale):
    coders = dict.fromkeys(explorers.CODERS, 0.0)
    return {c: scale * (1000.0 + i) for i, c in enumerate(coders)} | {"test": 0.8 + scale / 100}


def record(cell, numbers):
    return Record("role_of_structured", "study", plain(cell), cell.seed, "x", "done", numbers)


@pytest.fixture(scope="module")
def recorded():
    """The real arrangement of a made-up matrix, and made-up nets of two replicates."""
    grid = []
    for rho in cells.SHARES:
        for q in cells.STRUCTURE:
            placed = cells.arrange(LEVELS, rho, q, seeded(0, 4))
            part = coding.Quantised(placed.numpy(), 0.1)
            grid.append({"rho": rho, "q": q} | cells.sized({"layer": part}))
    found = [record(study.arranged(), {"grid": grid, "rows": 96, "columns": 432})]
    roles = [("dense", 0.0), *((r, study.settings(r)[0]) for r in study.TUNED)]
    for at, (role, setting) in enumerate(roles):
        for seed in (0, 1):
            coded = {str(b): file_of(at + b + 10 * seed) for b in cells.BITS}
            found.append(record(study.cell(role, seed, setting), {"coded": coded}))
    mine = study.cell("serene", 0, study.MOST)
    return [*found, record(replace(mine, arm="latency", zeros=""), {"timed": {}})]


def test_the_matrix_of_the_chart_is_the_one_that_was_recorded(recorded):
    drawn = explorers.explorer(recorded).inlined()
    maps = drawn[drawn.part == "map"]
    assert len(maps) == len(cells.SHARES) * len(cells.STRUCTURE)
    for _, row in maps.iterrows():
        placed = cells.arrange(LEVELS, row.rho, row.q, seeded(0, 4))
        corner = placed[: explorers.SHOWN[0], : explorers.SHOWN[1]]
        assert list(zip(row.y, row.x, strict=True)) == [tuple(p) for p in corner.nonzero().tolist()]


def test_bytes_are_those_of_the_records_and_the_tick_those_of_scattered_zeros(recorded):
    drawn = explorers.explorer(recorded).inlined()
    matrix = drawn[drawn.part == "matrix"]
    real = {(g["rho"], g["q"]): g for g in recorded[0].numbers["grid"]}
    for _, row in matrix.iterrows():
        coder = next(k for k, words in explorers.CODERS.items() if words == row.coder)
        assert row.bytes == real[row.rho, row.q][coder]
        assert row.at_first == real[row.rho, 0.0][coder]
        assert row["empty"] == round(row.q * round(row.rho * 96))


def test_the_caption_tells_the_opening(recorded):
    drawn = explorers.explorer(recorded)
    real = {(g["rho"], g["q"]): g for g in recorded[0].numbers["grid"]}
    assert "At first 48 of 96 rows are empty" in drawn.caption
    assert f"needs {real[0.5, 1.0]['bytes']:,.0f} bytes" in drawn.caption
    assert f"scattered {real[0.5, 0.0]['bytes']:,.0f} (the tick)" in drawn.caption


def test_rows_help_every_coder_but_the_blind_one(recorded):
    rows = explorers.grid(recorded)
    last = rows[(rows.part == "matrix") & (rows.q == 1)]
    blind = last.coder == explorers.CODERS["entropy"]
    assert (last.bytes[blind] == last.at_first[blind]).all()
    assert (last.bytes[~blind] < last.at_first[~blind]).all()


def test_every_net_of_replicate_0_is_a_point_under_every_coder(recorded):
    rows = explorers.grid(recorded)
    points = rows[rows.part == "net"]
    assert set(points.net) == {words for words, _, _ in explorers.NETS.values()}
    assert len(points) == len(explorers.NETS) * len(cells.BITS) * len(explorers.CODERS)
    one = points[(points.net == "SeReNe") & (points.bits == 6)].set_index("coder")
    (mine,) = [n["coded"]["6"] for role, _, n in explorers.nets(recorded) if role == "serene"]
    assert one.bytes[explorers.CODERS["zstd"]] == mine["zstd"]
    assert set(one.accuracy) == {mine["test"]}


def test_live_it_codes_as_the_records_say(recorded, tmp_path, monkeypatch):
    class Net:
        def get_parameter(self, name):
            assert name == cells.LAYER
            return LEVELS.double()

    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    monkeypatch.setattr(explorers, "dense_net", lambda task, seed: Net())
    monkeypatch.setattr(coding, "quantise", lambda w, bits: coding.Quantised(w.int().numpy(), 0.1))
    page.begin("role_of_structured", "smoke")
    figure = explorers.pack(0.75, 0.5, explorers.CODERS["zstd"], "smoke")
    real = {(g["rho"], g["q"]): g for g in recorded[0].numbers["grid"]}
    assert f"{real[0.75, 0.5]['zstd']:,.0f} bytes" in figure.caption
    assert f"scattered {real[0.75, 0.0]['zstd']:,.0f}" in figure.caption
