import pytest

from survey_lib.evidence.reading import study as recorded_study
from survey_lib.evidence.records import Record
from survey_lib.experiments.pruning_by_explaining import cells, study
from survey_lib.experiments.pruning_by_explaining.cells import Cell
from survey_lib.show.explorers import pruning_by_explaining as chapter


def made_up():
    """Records of the explorer's grid, and some that it leaves out."""
    from dataclasses import asdict

    found = []
    wanted = [
        *study.explored(),
        Cell("lrp", 1),
        Cell("lrp", 0, rules="equation"),
        Cell("fisher", 0),
    ]
    for k, cell in enumerate(wanted):
        numbers = {
            "test_at": [0.9 - 0.01 * i - 0.001 * k for i in range(7)],
            "few_at": [0.95 - 0.01 * i - 0.001 * k for i in range(7)],
            "kept": [{"stem.0": 16 - i, "stages.0.conv1": 16} for i in range(7)],
            "pictures": ["0" * 783 + cells.LEVELS[i] for i in range(7)],
        }
        found.append(Record("pruning_by_explaining", "study", asdict(cell), cell.seed, str(k),
                            "done", numbers))  # fmt: skip
    return found


@pytest.fixture
def recorded():
    return recorded_study("pruning_by_explaining") or made_up()


def test_the_explorer_holds_all_recorded_settings_and_their_real_numbers(recorded):
    runs = chapter.grid(recorded)
    assert len(runs) == len(study.explored()) * len(study.MARKS)
    record = next(r for r in recorded if Cell(**r.config) == Cell("taylor", 0, images=5))
    own = runs[(runs.criterion == "Taylor") & (runs.images == 5)]
    assert own.y.tolist() == record.numbers["test_at"]
    assert own.anew.tolist() == record.numbers["few_at"]
    assert own.picture.tolist() == record.numbers["pictures"]
    for left, kept in zip(own.left, record.numbers["kept"], strict=True):
        assert [int(n) for n in left.split()] == list(kept.values())
    names = [chapter.layer_words(name) for name in record.numbers["kept"][0]]
    assert chapter.layers_of(recorded) == names


def test_the_explorer_inlines_its_grid(recorded):
    made = chapter.explorer(recorded)
    drawn = made.inlined()
    assert len(drawn) == len(made.grid)
    assert set(drawn.picture) == set(made.grid.picture)
    names = {p["name"] for p in made.spec()["params"]}
    assert {"c_criterion", "c_images", "c_gone"} <= names


def test_each_criterion_has_a_colour_of_its_own_and_the_two_taylors_share_one():
    assert len(set(chapter.COLOURS.values())) == len(chapter.NAMES) - 1
    assert chapter.COLOURS["relevance"] == "lrp"


def test_shares_and_layers_in_words():
    assert [chapter.share_words(g) for g in (0.0, 0.3)] == ["none", "30 %"]
    assert chapter.layer_words("stem.0") == "stem"
    assert chapter.layer_words("stages.1.conv2") == "1.conv2"
