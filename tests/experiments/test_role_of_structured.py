"""What is particular to this experiment; the contract of all is in test_contract.py."""

import itertools
import math
from dataclasses import asdict, replace

import pytest
import torch

from survey_lib.evidence.protocol import Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import measure
from survey_lib.experiments.role_of_structured import cells, study
from survey_lib.experiments.role_of_structured.cells import Cell
from survey_lib.measure.size import count_nonzeros, count_parameters
from survey_lib.mechanics.dead import simplified
from survey_lib.tasks.dense import seeded

SLUG = "role_of_structured"
FREE = ("lr", "dense_lr", "other_lr")


def rows(*pairs):
    """Rows of (cell, numbers)."""
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell, FREE)


def files(*points):
    """The ``coded`` of a net: one (bytes, accuracy) for each number of bits."""
    return {"coded": {
        str(b): {"bytes": size, "val": a, "test": a}
        for b, (size, a) in zip(study.BITS, points, strict=True)
    }}  # fmt: skip


# ---- curves


def test_a_front_holds_what_no_smaller_file_beats_on_validation():
    nets = [(100, 0.7, 0.1), (200, 0.6, 0.9), (300, 0.8, 0.2), (300, 0.75, 0.9), (400, 0.8, 0.9)]
    assert study.front(nets) == [(100, 0.7, 0.1), (300, 0.8, 0.2)]


def test_test_judges_what_validation_picked_and_a_curve_never_falls():
    line = study.curve([(100, 0.7, 0.6), (200, 0.8, 0.9), (300, 0.85, 0.8), (400, 0.9, 0.95)])
    assert [x for x, _ in line] == [math.log(b) for b in (100, 200, 300, 400)]
    assert [y for _, y in line] == pytest.approx([0.6, 0.85, 0.85, 0.95])


def test_bytes_at_an_accuracy_lie_between_those_of_the_neighbours():
    line = [(math.log(100), 0.6), (math.log(400), 0.8), (math.log(800), 0.8), (math.log(1600), 0.9)]
    at = lambda y: math.exp(study.log_bytes(line, y))  # noqa: E731
    assert at(0.6) == pytest.approx(100)
    assert at(0.7) == pytest.approx(200)
    assert at(0.8) == pytest.approx(400)  # the first net that has it
    assert at(0.9) == pytest.approx(1600)
    for outside in (0.59, 0.91):
        with pytest.raises(study.NoOverlap, match="is not on a curve"):
            study.log_bytes(line, outside)


def cells_of(role):
    return [study.cell(role, 0, setting) for setting in study.settings(role)]


def three(role, factor=1.0, shift=0.0):
    """A role's nets: accuracy rises by 0.1 whenever bytes double."""
    pairs = []
    for i, c in enumerate(cells_of(role)):
        points = [(factor * 100 * 2 ** (3 * i + k), 0.1 * (3 * i + k) + shift) for k in range(3)]
        pairs.append((c, files(*points)))
    return pairs


@pytest.mark.parametrize(
    ("statistic", "one", "other"),
    [
        (study.scattered_over_structured_bytes, "lobster", "serene"),
        (study.single_over_rows_bytes, "decay", "decay rows"),
        (study.magnitude_over_lobster_bytes, "magnitude", "lobster"),
        (study.l1_over_serene_bytes, "l1", "serene"),
    ],
)
def test_bytes_are_compared_at_equal_accuracy(statistic, one, other):
    """Thrice the bytes everywhere is ln 3; a better net of equal bytes counts as fewer bytes."""
    assert statistic(rows(*three(one, 3.0), *three(other))) == pytest.approx(math.log(3))
    assert statistic(rows(*three(one), *three(other, shift=0.1))) == pytest.approx(math.log(2))


def test_curves_that_share_no_accuracy_are_not_compared():
    with pytest.raises(study.NoOverlap, match="curves from"):
        study.scattered_over_structured_bytes(rows(*three("lobster"), *three("serene", shift=5.0)))


# ---- the other statistics


def test_the_dense_net_counts_at_the_fewest_bits_that_cost_it_nothing():
    coded = {
        "4": {"bytes": 10, "val": 0.80, "test": 0.1}, "5": {"bytes": 20, "val": 0.896, "test": 0.1},
        "6": {"bytes": 30, "val": 0.90, "test": 0.1},
    }  # fmt: skip
    found = rows((study.cell("dense", 0), {"val": 0.9, "params": 100, "coded": coded}))
    assert study.dense_over_coded(found) == 400 / 20


def test_removable_over_ratio_reads_the_right_nets():
    serene = [(c, {"removable": 0.5, "ratio": 0.4 + c.twt}) for c in cells_of("serene")]
    lobster = [(c, {"removable": 0.1, "ratio": 0.4 + c.twt}) for c in cells_of("lobster")]
    assert study.structured_removable(rows(*serene)) == pytest.approx(0.5 / 2.4)
    assert study.scattered_removable(rows(*lobster)) == pytest.approx(0.1 / 0.5)


def test_speed_ups_are_dense_over_simplified_on_one_thread_with_many_images():
    timed = {"1 thread, 64": {"dense": 6.0, "serene": 3.0, "lobster": 5.0},
             "1 thread, 1": {"dense": 1.0, "serene": 9.0, "lobster": 9.0}}  # fmt: skip
    found = rows((study.latency(0), {"timed": timed}))
    assert study.structured_speedup(found) == pytest.approx(math.log(2))
    assert study.scattered_speedup(found) == pytest.approx(math.log(1.2))


def test_sensitivity_is_compared_with_decay_of_the_same_rule():
    def each(role, base):
        return [(c, {"removable": base + c.twt}) for c in cells_of(role)]

    found = rows(*each("serene", 0.1), *each("decay rows", 0.4))
    assert study.rows_of_sensitivity(found) == pytest.approx(-0.3)


def test_lobsters_sensitivity_is_a_mean_over_checks_and_settings():
    found = rows(*((c, {"trace": {"mean_s": [c.twt, 3 * c.twt]}}) for c in cells_of("lobster")))
    assert study.lobster_sensitivity(found) == pytest.approx(2 * sum(study.TWTS) / 3)


def test_fresh_weights_are_compared_at_the_shape_they_got():
    found = rows(*((c, {"test": c.twt}) for c in cells_of("serene")),
                 (study.fresh(0), {"test": 1.5}))  # fmt: skip
    assert study.over_fresh_weights(found) == pytest.approx(0.5)


def test_grouped_over_scattered_is_at_half_of_the_weights():
    grid = [{"rho": r, "q": q, "bytes": 100 * r + q} for r in cells.SHARES for q in cells.STRUCTURE]
    found = rows((study.arranged(), {"grid": grid}))
    assert study.grouped_over_scattered_bytes(found) == pytest.approx(51 / 50)


# ---- cells


def test_what_a_cell_needs_is_in_the_study():
    grid = set(study.GRIDS["study"]())
    for arm in ("fresh", "latency"):
        for c in (c for c in grid if c.arm == arm):
            assert set(cells.needs(c)) <= grid
            assert [n.arm for n in cells.needs(c)] == ["serene", "lobster"][: len(cells.needs(c))]


def test_all_arms_of_a_comparison_have_equally_many_settings_and_rates():
    assert {len(study.settings(r)) for r in study.TUNED} == {3}
    assert len({len(study.TRIED[r]) for r in study.TUNED}) == 1


@pytest.mark.parametrize("rho", [0.25, 0.5, 0.9])
def test_arranging_moves_zeros_and_nothing_else(rho):
    w = torch.randn(20, 11, generator=seeded(0))
    kept = []
    for q in cells.STRUCTURE:
        placed = cells.arrange(w, rho, q, seeded(1))
        kept.append(placed[placed != 0].tolist())
        assert int((placed == 0).sum()) == round(rho * 20) * 11
        empty = int((placed == 0).all(1).sum())
        assert empty >= round(q * round(rho * 20))
    assert all(values == kept[0] for values in kept)
    smallest = min(map(abs, kept[0]))
    assert sum(abs(v) >= smallest for v in w.flatten().tolist()) == len(kept[0])


def test_fresh_weights_depend_on_the_generator_alone():
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    a = [p.clone() for p in cells.renewed(net, seeded(1)).parameters()]
    state = torch.get_rng_state()
    b = [p.clone() for p in cells.renewed(net, seeded(1)).parameters()]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_task):
    """The experiment on four classes of blobs, with a cache of its own."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    task = replace(tiny_task, options=tiny_task.options | {"bn": False})
    monkeypatch.setattr(
        cells, "task_of", lambda c: task.with_training(epochs=c.dense_epochs, lr=c.dense_lr)
    )
    monkeypatch.setattr(cells, "ROUNDS", 15)
    return lambda c: measure(SLUG, replace(c, dense_epochs=2.0, epochs=2.0), "digest")


def test_every_arm_makes_equally_many_steps_after_the_dense_net(small):
    grid = [study.cell(r, 0, study.settings(r)[1]) for r in study.TUNED]
    found = {r: small(c) for r, c in zip(study.TUNED, grid, strict=True)}
    assert {n["steps"] for n in found.values()} == {16}
    for role, numbers in found.items():
        assert set(numbers["coded"]) == {str(b) for b in study.BITS}
        assert numbers["simple"]["params"] <= numbers["params"], role
        assert 0 <= numbers["removable"] <= 1
    # of channels that are gone, what is gone counts
    assert found["l1"]["ratio"] == pytest.approx(found["l1"]["removable"])
    assert found["l1"]["ratio"] > 0.3


def test_fresh_weights_are_trained_in_serenes_shape_for_all_of_its_steps(small, tiny_task):
    numbers = small(replace(study.fresh(0), lam=0.02, twt=3.0))
    assert numbers["steps"] == 32
    shape = small(replace(study.cell("serene", 0, 3.0), lam=0.02))["simple"]["params"]
    assert numbers["params"] == shape


def test_latency_times_the_nets_that_the_others_left(small):
    numbers = small(study.latency(0))
    assert set(numbers["timed"]) == {f"{t} thread{'s' * (t > 1)}, {b}"
                                     for t in cells.THREADS for b in cells.BATCHES}  # fmt: skip
    for one in numbers["timed"].values():
        assert all(v > 0 for k, v in one.items() if k != "noisy")
    serene = small(study.cell("serene", 0, study.MOST))
    assert numbers["sizes"]["serene"]["params"] == serene["simple"]["params"]
    assert numbers["sizes"]["serene, whole"]["nonzeros"] == serene["nonzeros"]


# ---- the study


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in recorded(SLUG):
        n = r.numbers
        if r.config["arm"] in ("latency", "arranged"):
            continue
        assert set(n["coded"]) == {str(b) for b in study.BITS}
        sizes = [n["coded"][str(b)]["bytes"] for b in study.BITS]
        assert all(a <= b + 4 for a, b in itertools.pairwise(sizes))  # a net that died: 72, 73
        assert n["simple"]["params"] <= n["params"]
        if r.config["arm"] == "magnitude":
            assert n["nonzeros"] <= r.config["keep"] * n["params"] + 1
        if r.config["arm"] in ("serene", "lobster", "decay"):
            trace, twt = n["trace"], r.config["twt"]
            pairs = zip(trace["before"], trace["after"], strict=True)
            assert all(after <= (1 + twt) * before + 1e-5 for before, after in pairs)
            share = {"serene": 0.01, "lobster": 1e-4, "decay": -1}[r.config["arm"]]
            assert min(trace["mean_s"]) > share


def test_a_dead_unit_of_the_projects_net_is_counted_once():
    net = cells.task_of(Cell("dense", 0, dense_lr=0.1)).build(seeded(0))
    whole = count_parameters(net)
    net.features[2].weight.data[:3] = 0
    net.features[2].bias.data[:3] = -1
    small = simplified(net, torch.zeros(2, 1, 28, 28)).model
    assert count_nonzeros(net) == whole - 3 * 24 * 9
    assert count_parameters(small) == whole - 3 * (24 * 9 + 1) - 3 * 96 * 9
