import pytest

from survey_lib.evidence.protocol import Rows
from survey_lib.evidence.reading import study as recorded_study
from survey_lib.experiments.loss_modelling import study
from survey_lib.experiments.loss_modelling.cells import Cell
from survey_lib.show import page
from survey_lib.show.explorers import loss_modelling as chapter


def run(**wanted):
    """The one recorded run of the explorer's replicate."""
    mine = [r for r in recorded_study("loss_modelling") if r.seed == chapter.SEED]
    return Rows(mine, Cell, ("lr",)).one(**wanted)


def test_the_explorer_holds_all_recorded_settings_and_their_real_numbers():
    rows = chapter.grid(recorded_study("loss_modelling"))
    settings = rows[["criterion", "pi", "lam"]].drop_duplicates()
    assert len(settings) == 3 * len(study.STEPS) * len(study.EXPLORED)
    one = run(arm="QM", pi=14, lam=0.01)
    here = rows[(rows.criterion == chapter.NAMES["QM"]) & (rows.pi == 14) & (rows.lam == 0.01)]
    assert set(here.accuracy) == {one["test"]}
    true = here[here.curve == "true"]
    loss = one["path"]["loss"]
    assert true.y.iloc[-1] == pytest.approx(loss[-1] - loss[0], abs=1e-4)
    assert true.x.is_monotonic_decreasing
    assert len(here[here.curve == "predicted"]) == len(true)
    layers = here[here.part == "layer"]
    assert layers.x.sum() == sum(kept for _, kept in one["layers"].values())


def test_optimal_brain_damage_has_a_colour_of_its_own():
    assert set(chapter.COLOURS.values()) == {"loss_models", "obd"}
    assert chapter.COLOURS[chapter.NAMES["OBD"]] == "obd"


def test_the_explorer_inlines_its_grid():
    made = chapter.explorer(recorded_study("loss_modelling"))
    drawn = made.inlined()
    assert len(drawn) == len(made.grid)
    assert set(drawn.accuracy) == set(made.grid.accuracy)
    names = {p["name"] for p in made.spec()["params"]}
    assert {"c_criterion", "c_pi", "c_lam"} <= names


def test_pruning_in_the_explorer_gives_what_was_recorded(tmp_path, monkeypatch):
    """Another machine may round otherwise, so only near."""
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("loss_modelling", "smoke")
    found = chapter.prune(chapter.NAMES["LM"], 1, 0.0, lambda *_: None)
    path = run(arm="LM", pi=1, lam=0.0)["path"]
    rise = float(found.caption.split("rises by ")[1].split()[0])
    assert rise == pytest.approx(path["loss"][-1] - path["loss"][0], abs=0.05)
