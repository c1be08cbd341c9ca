import math
from dataclasses import asdict, dataclass

import pytest

from survey_lib.evidence import protocol
from survey_lib.evidence.protocol import (
    Ambiguous,
    EdgeOfGrid,
    MissingArm,
    ProtocolError,
    Role,
    Rows,
    best_rates,
    by_cell,
    interpolate,
    mean,
    smallest_step,
    statistics,
    tune_grid,
)
from survey_lib.evidence.records import Record

REPLICATES = (900, 901, 902)
RATES = (0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Cell:
    arm: str
    seed: int
    width: float = 1.0
    lr: float = 0.0


def role(name="pruned", rates=RATES, comparison="net", **more):
    return Role(name, lambda s, lr: [Cell(name, s, lr=lr)], rates, comparison, **more)


def found(roles, score):
    return {c: {"val": score(c)} for c in tune_grid(roles, REPLICATES)}


def record(cell, **numbers):
    return Record("s", "study", asdict(cell), cell.seed, "k", "done", numbers)


def test_every_rate_of_every_role_is_tried_on_every_replicate_once():
    cells = tune_grid([role("a"), role("b")], REPLICATES)
    assert len(cells) == len(set(cells)) == 2 * 3 * 3
    assert {(c.arm, c.lr) for c in cells} == {(a, r) for a in "ab" for r in RATES}


@pytest.mark.parametrize(
    ("roles", "replicates", "words"),
    [
        ([role()], (900, 900, 901), "chosen on 2 replicates; give 3"),
        ([role("a"), role("b", (0.1, 0.2, 0.3, 0.4))], REPLICATES, "unequal chances in 'net'"),
        ([role("a"), role("a")], REPLICATES, "'a' is there twice"),
        ([role(rates=(0.1, 0.2))], REPLICATES, "three ascending rates"),
        ([role(rates=(0.3, 0.2, 0.1))], REPLICATES, "three ascending rates"),
    ],
)
def test_unequal_chances_are_refused(roles, replicates, words):
    with pytest.raises(ProtocolError, match=words):
        tune_grid(roles, replicates)


def test_other_comparisons_may_try_another_number_of_rates():
    roles = [role("a"), role("b", (0.1, 0.2, 0.3, 0.4), comparison="another net")]
    assert len(tune_grid(roles, REPLICATES)) == 3 * (3 + 4)


def test_the_best_rate_has_the_best_mean_in_the_direction_asked_for():
    up, down = role("up"), role("down", sign=-1)
    numbers = found([up, down], lambda c: c.seed - abs(c.lr - 0.1) * (1 if c.arm == "up" else -1))
    assert best_rates([up, down], REPLICATES, numbers) == {"up": 0.1, "down": 0.1}


@pytest.mark.parametrize("edge", [RATES[0], RATES[-1]])
def test_a_best_rate_at_the_edge_is_an_error_that_shows_the_means(edge):
    numbers = found([role()], lambda c: float(c.lr == edge))
    with pytest.raises(EdgeOfGrid, match=rf"{edge:g}, is at the end .*0.1: 0.0000.*widen"):
        best_rates([role()], REPLICATES, numbers)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("edge", "beside"), [(0.01, 0.1), (10.0, 1.0)])
def test_an_end_that_leads_by_no_more_than_a_standard_error_gives_way(edge, beside, sign):
    """Leads of 2, 3 and -2 hundredths: 1.0 in the mean, standard error 1.53."""
    one = role(rates=(0.01, 0.1, 1.0, 10.0), sign=sign)
    leads = dict(zip(REPLICATES, (0.02, 0.03, -0.02), strict=True))

    def score(cell, shift=0.0):
        return sign * {edge: 0.9 + leads[cell.seed] + shift, beside: 0.9}.get(cell.lr, 0.5)

    assert protocol.best_rate(one, REPLICATES, found([one], score)) == beside
    assert best_rates([one], REPLICATES, found([one], score)) == {"pruned": beside}
    further = found([one], lambda c: score(c, 0.006))  # 1.6 in the mean: more than the error
    assert protocol.best_rate(one, REPLICATES, further) == edge
    with pytest.raises(EdgeOfGrid):
        best_rates([one], REPLICATES, further)


def test_a_rate_inside_never_gives_way_however_little_it_leads():
    one = role()
    numbers = found([one], lambda c: {0.1: 0.9, 1.0: 0.8999 + (c.seed == 900) * 0.0002}[c.lr]
                    if c.lr != 0.01 else 0.5)  # fmt: skip
    assert protocol.best_rate(one, REPLICATES, numbers) == 0.1


def test_a_replicate_that_was_not_run_is_missed_not_averaged_away():
    numbers = found([role()], lambda c: -abs(c.lr - 0.1))
    del numbers[Cell("pruned", 901, lr=0.1)]
    with pytest.raises(MissingArm, match="1 of 3 runs are missing"):
        best_rates([role()], REPLICATES, numbers)


def test_a_role_may_be_decided_by_several_cells_together():
    def cells(seed, lr):
        return [Cell("x", seed, width, lr) for width in (0.5, 1.0)]

    both = Role("both", cells, RATES)
    # alone the narrow net would take 1.0
    numbers = {c: {"val": {0.5: c.lr, 1.0: -10 * abs(c.lr - 0.1)}[c.width]}
               for c in tune_grid([both], REPLICATES)}  # fmt: skip
    assert best_rates([both], REPLICATES, numbers) == {"both": 0.1}


def test_rows_take_the_defaults_for_what_is_not_asked():
    rows = Rows([record(Cell("a", 0), v=1), record(Cell("a", 0, width=0.5), v=2)], Cell)
    assert rows.one(arm="a")["v"] == 1
    assert rows.one(arm="a", width=0.5)["v"] == 2


def test_rows_of_a_free_field_may_be_any():
    rows = Rows([record(Cell("a", 0, lr=0.3), v=1)], Cell, free=("lr",))
    assert rows.one(arm="a")["v"] == 1
    with pytest.raises(MissingArm):
        Rows([record(Cell("a", 0, lr=0.3), v=1)], Cell).one(arm="a")


def test_rows_miss_doubt_and_know_their_fields():
    rows = Rows([record(Cell("a", 0, lr=r), v=r) for r in RATES], Cell, free=("lr",))
    with pytest.raises(MissingArm, match=r"arm.*b"):
        rows.one(arm="b")
    with pytest.raises(Ambiguous, match="3 records"):
        rows.one(arm="a")
    with pytest.raises(TypeError, match="no field wdth"):
        rows.one(arm="a", wdth=1.0)
    assert [n["v"] for n in rows.all(arm="a")] == list(RATES)


def test_a_record_from_before_a_knob_was_there_has_its_default():
    old = Record("s", "study", {"arm": "a", "seed": 0}, 0, "k", "done", {"v": 1})
    assert Rows([old], Cell).one(arm="a")["v"] == 1


def test_failed_runs_are_no_rows():
    failed = Record("s", "study", asdict(Cell("a", 0)), 0, "k", "failed", {"v": 1})
    with pytest.raises(MissingArm):
        Rows([failed], Cell).one(arm="a")


def test_the_best_of_several_is_chosen_on_validation_and_misses_a_candidate():
    rows = Rows([record(Cell("a", 0), val=0.5, test=0.9), record(Cell("b", 0), val=0.6, test=0.1)],
                Cell)  # fmt: skip
    candidates = [{"arm": "a"}, {"arm": "b"}]
    assert rows.best(candidates)["test"] == 0.1
    assert rows.best(candidates, sign=-1)["test"] == 0.9
    with pytest.raises(MissingArm):
        rows.best([*candidates, {"arm": "c"}])


def test_statistics_take_records():
    def double(rows):
        """Twice v."""
        return 2 * rows.one(arm="a")["v"]

    (name, function), = statistics(Cell, double).items()  # fmt: skip
    assert name == "double"
    assert function([record(Cell("a", 0, lr=7.0), v=4)]) == 8.0


def test_by_cell_gives_back_the_cells():
    assert by_cell([record(Cell("a", 3), v=1)], Cell) == {Cell("a", 3): {"v": 1}}


def test_numbers_by_hand():
    assert mean([1, 2, 6]) == 3
    assert smallest_step([1, 3, 4]) == 1
    assert smallest_step([1, 3, 2]) == -1
    assert interpolate([(100.0, 1.0), (1.0, 0.0)], 10) == pytest.approx(0.5)
    for wrong, call in (("nothing", lambda: mean([])), ("outside", lambda: interpolate(
            [(1.0, 0.0), (2.0, 1.0)], 3))):  # fmt: skip
        with pytest.raises(ValueError, match=wrong):
            call()
    assert math.isclose(protocol.mean([0.1] * 10), 0.1)
