import pytest

from survey_lib.evidence.records import study
from survey_lib.experiments import loss_modelling as experiment
from survey_lib.show import page
from survey_lib.show.explorers import loss_modelling as chapter


def test_the_explorer_holds_all_recorded_settings_and_their_real_numbers():
    recorded = study("loss_modelling")
    rows = chapter.grid(recorded)
    settings = rows[["criterion", "pi", "lam"]].drop_duplicates()
    assert len(settings) == 3 * len(experiment.STEPS["mlp"]) * len(experiment.PENALTIES["mlp"])
    wanted = {"task": "mlp", "criterion": "QM", "pi": 14, "lam": 0.01, "seed": chapter.SEED}
    (one,) = experiment.runs(recorded, **wanted)
    here = rows[(rows.criterion == chapter.NAMES["QM"]) & (rows.pi == 14) & (rows.lam == 0.01)]
    assert set(here.accuracy) == {one.numbers["accuracy"]}
    true = here[here.curve == "true"]
    loss = one.numbers["path"]["loss"]
    assert true.y.iloc[-1] == pytest.approx(loss[-1] - loss[0], abs=1e-4)
    assert true.x.is_monotonic_decreasing
    assert len(here[here.curve == "predicted"]) == len(true)
    layers = here[here.part == "layer"]
    assert layers.x.sum() == sum(kept for _, kept in one.numbers["layers"].values())


def test_the_explorer_inlines_its_grid():
    made = chapter.explorer(study("loss_modelling"))
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
    wanted = {"task": "mlp", "criterion": "LM", "pi": 1, "lam": 0.0, "seed": chapter.SEED}
    (one,) = experiment.runs(study("loss_modelling"), **wanted)
    path = one.numbers["path"]
    rise = float(found.caption.split("rises by ")[1].split()[0])
    assert rise == pytest.approx(path["loss"][-1] - path["loss"][0], abs=0.05)
