from dataclasses import asdict

import pytest

from survey_lib.evidence.reading import study as recorded_study
from survey_lib.evidence.records import Record
from survey_lib.experiments.pruning_adapters import cells, study
from survey_lib.show.explorers import pruning_adapters as chapter


def path(cell, k):
    """Made-up numbers of a path."""
    size = 1000 - 10 * k
    whole = 4_000 * cell.rank if cell.arm == "splora" else 90_000
    return {
        "test_at": [0.9 - 0.1 * i - 0.001 * k for i in range(4)],
        "learned_at": [whole // (i + 1) + k for i in range(4)],
        "params_at": [size // (i + 1) for i in range(4)],
        "bytes_at": [4 * whole // (i + 1) + k for i in range(4)],
        "macs_at": [size * 100 // (i + 1) for i in range(4)],
        "source_bytes": 400_000,
        "test_re": 0.5 + 0.001 * k,
    }


def made_up():
    """Records of the explorer's grid, and some that it leaves out."""
    wanted = [study.cell_of("fine", 0, criterion=name) for name in chapter.CRITERIA.values()]
    wanted += study.explored()
    wanted += [
        study.cell_of("dense", 0),
        study.cell_of("splora 4", 1),
        study.cell_of("fine, 5000", 0),
    ]
    wanted += [
        study.cell_of("fine", 0, study.SMALL_LR),
        study.cell_of("splora 4", 0, study.SMALL_LR),
    ]
    return [
        Record("pruning_adapters", "study", asdict(c), c.seed, str(k), "done", path(c, k))
        for k, c in enumerate(wanted)
    ]


@pytest.fixture
def recorded():
    return recorded_study("pruning_adapters") or made_up()


def test_the_explorer_holds_all_settings_and_their_real_numbers(recorded):
    runs = chapter.grid(recorded)
    settings = len(study.RANKS) * len(chapter.CRITERIA) * len(cells.DENSITIES)
    assert len(runs) == 2 * settings
    wanted = asdict(study.cell_of("splora 16", 0, criterion="lrp"))
    record = next(r for r in recorded if r.config == wanted)
    own = runs[(runs["rank"] == 16) & (runs.criterion == "relevance") & (runs.learner == "SPLoRA")]
    for column, name in (
        ("accuracy", "test_at"), ("learned", "learned_at"), ("parameters", "params_at"),
        ("bytes", "bytes_at"),
    ):  # fmt: skip
        assert own[column].tolist() == record.numbers[name]
    assert own.density.tolist() == list(cells.DENSITIES)


def test_fine_pruning_is_the_same_at_every_rank_and_shares_nothing(recorded):
    fine = chapter.grid(recorded).query("learner == 'fine-pruning' and criterion == 'gradient'")
    assert fine.groupby("density").accuracy.nunique().eq(1).all()
    assert set(fine.shared) == {0}


def test_it_pays_where_both_take_the_same(recorded):
    runs = chapter.grid(recorded)
    for _, one in runs.groupby(["rank", "criterion", "density"]):
        ours, theirs = (one[one.learner == name].iloc[0] for name in chapter.LEARNERS)
        if ours.bytes < theirs.bytes:
            assert ours.shared + ours.pays * ours.bytes == pytest.approx(ours.pays * theirs.bytes)
        else:
            assert ours.pays is None or ours.pays != ours.pays


def test_the_explorer_inlines_its_grid_and_steps_over_all_controls(recorded):
    made = chapter.explorer(recorded)
    assert len(made.inlined()) == len(made.grid)
    names = {p["name"] for p in made.spec()["params"]}
    assert {"c_rank", "c_density", "c_criterion"} <= names


def test_the_page_has_a_row_for_each_path_and_density(recorded):
    runs = chapter.paths(recorded)
    wanted = asdict(study.cell_of("splora 4", 1))
    n = next(r for r in recorded if r.config == wanted).numbers
    own = runs[(runs.learner == "splora 4") & (runs.seed == 1) & (runs.images == study.FEW)
               & (runs.criterion == "taylor")]  # fmt: skip
    assert own.learned.tolist() == n["learned_at"]
    assert own.accuracy.tolist() == [100 * a for a in n["test_at"]]
    assert own.weights.tolist() == [100 * p / n["params_at"][0] for p in n["params_at"]]
    assert set(runs.learner) <= set(chapter.LOOKS)
    assert own.anew.tolist()[-1] == 100 * n["test_re"]
    assert own.anew.isna().tolist() == [k != 0.1 for k in own.keep]


def test_runs_at_a_rate_that_is_not_the_learners_own_are_no_paths(recorded):
    assert not chapter.own(asdict(study.cell_of("fine", 0, study.SMALL_LR)))
    assert chapter.own(asdict(study.cell_of("splora 4, 100", 0)))
    runs = chapter.paths(recorded)
    assert not runs.duplicated(["learner", "images", "criterion", "seed", "keep"]).any()


def test_shares_in_words():
    assert [chapter.share_words(d) for d in (1.0, 0.3)] == ["all", "30 %"]
