import numpy as np
import pytest

from survey_lib.evidence.records import Record
from survey_lib.experiments import runner
from survey_lib.experiments.context import measure
from survey_lib.experiments.thinet import layers, study
from survey_lib.experiments.thinet.cells import Cell
from survey_lib.show import page
from survey_lib.show.explorers import thinet as explorers

CHANNELS = {"features.0": 16, "features.3": 32, "features.6": 32, "features.9": 64}


@pytest.fixture(scope="module")
def recorded():
    rng = np.random.default_rng(0)
    rows = []
    for cell in study.explored():
        channels = CHANNELS.get(cell.layer, 64)
        cuts = []
        for r in layers.SHARES:
            keep = max(1, int(channels * r + 1e-9))
            kept = sorted(rng.choice(channels, keep, replace=False).tolist())
            names = ("error", "error_plain", "accuracy", "accuracy_plain", "accuracy_re", "overlap")
            values = dict(zip(names, rng.random(6).round(4).tolist(), strict=True))
            cuts.append({"r": r, "channels": channels, "kept": kept} | values)
        numbers = {"m": 10 * cell.images * cell.pairs, "val_dense": 0.9, "cuts": cuts}
        rows.append(Record("thinet", "study", runner.plain(cell), 0, str(cell), "done", numbers))
    return [*rows, Record("thinet", "study", {"arm": "dense"}, 0, "d", "done", {"accuracy": 1.0})]


def test_the_page_holds_every_recorded_cut(recorded):
    made = explorers.explorer(recorded)
    drawn = made.inlined()
    cuts = [(r, cut) for r in recorded[:-1] for cut in r.numbers["cuts"]]
    assert len(drawn) == len(cuts) == 5 * 3 * 7
    names = explorers.layer_names()
    for record, cut in cuts:
        row = drawn[
            (drawn.layer == names[record.config["layer"]])
            & (drawn.m == record.numbers["m"])
            & (drawn.r == cut["r"])
        ].iloc[0]
        assert row.error == cut["error"]
        assert row.accuracy_plain == cut["accuracy_plain"]
        assert row.accuracy_re == cut["accuracy_re"]
        stays = [i - 1 for i, kept in zip(row["filter"], row.stays, strict=True) if kept]
        assert stays == cut["kept"]
        assert row.removed == cut["channels"] - len(cut["kept"])


def test_live_it_cuts_the_shipped_net_as_the_recorded_cell_did(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("thinet", "smoke")
    figure = explorers.cut("conv 3", 0.5, 50, lambda *_: None)
    images, pairs = explorers.SIZES[50]
    cell = Cell("layer", 0, "norm", layer="features.6", images=images, pairs=pairs)
    monkeypatch.setattr(layers, "SHARES", (0.5,))
    (cut,) = measure("thinet", cell, "digest")["cuts"]
    data = next(p for p in figure.files if p.suffix == ".csv").read_text()
    stays = [line.split(",")[2] == "True" for line in data.splitlines()[1:]]
    assert [i for i, kept in enumerate(stays) if kept] == cut["kept"]
    assert f"{cut['accuracy']:.1%}" in figure.caption
    assert f"{cut['accuracy_re']:.1%}" in figure.caption
