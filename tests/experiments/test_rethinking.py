"""What is particular to this experiment; the contract of all is in test_contract.py."""

from dataclasses import asdict, replace

import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import Context, measure
from survey_lib.experiments.rethinking import cells, study
from survey_lib.experiments.rethinking.cells import MACS, WEIGHTS, Cell
from survey_lib.measure.macs import count_macs
from survey_lib.tasks.dense import dense_net, seeded
from survey_lib.tasks.train import total_steps

SLUG = "rethinking"


def rows(*pairs):
    records = [
        Record(SLUG, "study", asdict(cell), cell.seed, str(cell), "done", numbers)
        for cell, numbers in pairs
    ]
    return Rows(records, Cell, study.FREE)


def right(make, *accuracies, keeps=MACS, **more):
    """Cells that are right on so many images with statistics re-estimated; stale they are not."""
    return [
        (make(k), {"test_re": a, "test": 0.0} | {n: v[i] for n, v in more.items()})
        for i, (k, a) in enumerate(zip(keeps, accuracies, strict=True))
    ]


def tuned(name, how, *accuracies):
    return right(lambda k: study.tuned(name, 0, k, how), *accuracies, keeps=study.shares(name))


def scratch(name, how, *accuracies, **more):
    return right(
        lambda k: study.scratch(name, 0, k, how), *accuracies, keeps=study.shares(name), **more
    )


# ---- statistics


def test_scratch_is_compared_with_tuned_nets_shape_by_shape():
    found = rows(
        *tuned("l1", "constant", 0.80, 0.70, 0.60), *tuned("l1", "falling", 0.82, 0.76, 0.70),
        *tuned("thinet", "falling", 0.83, 0.77, 0.71),
        *scratch("predefined", "e", 0.80, 0.74, 0.68),
        *scratch("predefined", "b", 0.81, 0.76, 0.71, spent=(1.0, 0.999, 0.995)),
    )  # fmt: skip
    assert study.scratch_b_over_tuned(found) == pytest.approx((0.01 + 0.06 + 0.11) / 3)
    assert study.scratch_b_over_falling(found) == pytest.approx((-0.01 + 0 + 0.01) / 3)
    assert study.scratch_b_over_thinet(found) == pytest.approx((-0.02 - 0.01 + 0) / 3)
    assert study.scratch_b_over_e(found) == pytest.approx((0.01 + 0.02 + 0.03) / 3)
    assert study.falling_over_constant(found) == pytest.approx((0.02 + 0.06 + 0.10) / 3)
    assert study.worst_budget(found) == pytest.approx(0.005)
    with pytest.raises(MissingArm):
        study.scratch_b_over_slimmed(found)


def test_found_shapes_stand_beside_their_own_nets_from_scratch():
    found = rows(
        *tuned("slimming", "constant", 0.8, 0.7, 0.6), *scratch("slimming", "b", 0.8, 0.7, 0.9),
        *tuned("structures", "constant", 0.8, 0.7, 0.6), *scratch("structures", "b", 0.9, 0.7, 0.6),
        *scratch("predefined", "b", 0.1, 0.1, 0.1),
    )  # fmt: skip
    assert study.scratch_b_over_slimmed(found) == pytest.approx(0.1)
    assert study.scratch_b_over_structures(found) == pytest.approx(0.1 / 3)


def test_the_exception_is_asked_at_the_sparsest_mask_with_equal_epochs():
    found = rows(*tuned("magnitude", "constant", 0.8, 0.8, 0.75),
                 *scratch("magnitude", "e", 0.1, 0.1, 0.7),
                 *scratch("magnitude", "b", 0.9, 0.9, 0.9))  # fmt: skip
    assert study.tuned_over_masked_scratch(found) == pytest.approx(0.05)
    assert min(WEIGHTS) == study.SPARSEST


def test_designs_are_compared_at_one_size():
    pairs = [(study.design(n, 0), {"test_re": a})
             for n, a in (("found", 0.85), ("uniform", 0.83), ("guided", 0.84))]  # fmt: skip
    assert study.discovered_over_uniform(rows(*pairs)) == pytest.approx(0.02)
    assert study.guided_over_uniform(rows(*pairs)) == pytest.approx(0.01)


def test_a_tickets_gain_is_over_random_weights_of_equal_scale_at_the_same_rate():
    large, small = 0.2, study.small(0.2)
    accuracy = {"own": (0.80, 0.78), "fresh": (0.79, 0.70), "corrected": (0.83, 0.72)}
    pairs = [(study.ticket(how, 0, rate), {"test_re": a})
             for how, both in accuracy.items()
             for rate, a in zip((large, small), both, strict=True)]  # fmt: skip
    found = rows(*pairs)
    assert study.ticket_gain_large_rate(found) == pytest.approx(0.01)
    assert study.ticket_interaction(found) == pytest.approx(0.07)
    assert study.corrected_over_fresh(found) == pytest.approx((0.04 + 0.02) / 2)
    with pytest.raises(LookupError, match="two rates"):
        study.ticket_gain_large_rate(rows(*pairs[::2]))


# ---- grids


def test_small_is_a_tenth_of_large():
    assert study.small(0.2) == 0.02
    assert {c.dense_lr for c in study.GRIDS["study"]() if c.arm == "ticket"} == {
        study.RATES["dense"], study.small(study.RATES["dense"])
    }  # fmt: skip


def test_every_way_to_prune_meets_its_nets_from_scratch_in_every_replicate():
    grid = study.GRIDS["study"]()
    for cell in grid:
        if cell.arm == "tuned":
            for how in "eb":
                beside = study.scratch(study.family(cell.method), cell.seed, cell.keep, how)
                assert beside in grid


def test_both_sides_try_equally_many_rates():
    tries = {role.name: len(role.rates) for role in study.ROLES}
    assert set(tries) == set(study.RATES)
    for name in study.METHODS:
        sides = {f"{name} {how}" for how in study.TUNINGS}
        sides |= {study.scratch_role(study.family(name), how) for how in "eb"}
        assert len({tries[side] for side in sides}) == 1, name
    assert 0.001 in study.TRIED["l1 constant"]  # the paper's own


# ---- cells


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Cells of a barely trained net; what they keep lies in a folder of this test."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    few, real = cells.load_task("vgg_small").data.val, cells.task_of

    def task_of(cell):
        task = real(cell)
        return replace(task, data=replace(task.data, train=few, test=few))

    monkeypatch.setattr(cells, "task_of", task_of)
    monkeypatch.setattr(cells, "ROWS", replace(cells.ROWS, images=2, pairs=5))
    return lambda cell: replace(cell, epochs=0.3)


@pytest.fixture
def started(monkeypatch):
    """The nets that are trained, as they were before, and how long."""
    seen = []

    def fit(net, task, recipe=None, *, generator):
        seen.append(({n: p.detach().clone() for n, p in net.named_parameters()},
                     total_steps(task, recipe), recipe))  # fmt: skip
        return type("H", (), {"steps": seen[-1][1]})

    def fit_masked(net, masked, task, recipe, *, generator):
        return fit(net, task, recipe, generator=generator)

    monkeypatch.setattr(cells, "fit", fit)
    monkeypatch.setattr(cells, "fit_masked", fit_masked)
    return seen


@pytest.mark.parametrize("how", ["e", "b"])
@pytest.mark.parametrize("name", ["predefined", "slimming", "structures"])
def test_scratch_costs_equal_epochs_or_equal_macs(short, started, name, how):
    cell = short(study.scratch(name, 0, study.HALF, how))
    numbers = measure(SLUG, cell, "d")
    task = cells.task_of(cell)
    [(_, steps, recipe)] = started[-1:]
    whole = total_steps(task) * count_macs(task.build(seeded(0)), task.example(1))
    if how == "e":
        assert steps == total_steps(task)
    else:
        assert whole - numbers["macs"] < steps * numbers["macs"] <= whole
        assert numbers["spent"] == pytest.approx(steps * numbers["macs"] / whole)
    assert (recipe.schedule, recipe.lr) == ("cosine", cell.lr)
    assert numbers["macs"] <= study.HALF * count_macs(task.build(seeded(0)), task.example(1))


def test_a_longer_scratch_b_keeps_its_budget_to_a_percent(short, started):
    cell = replace(short(study.scratch("predefined", 0, study.HALF, "b")), epochs=8.0)
    assert 0.99 <= measure(SLUG, cell, "d")["spent"] <= 1.0


def test_masks_cost_their_nonzero_macs_up_to_the_cap(short, started):
    for keep, ratio in ((WEIGHTS[0], None), (WEIGHTS[-1], cells.CAP)):
        cell = replace(short(study.scratch("magnitude", 0, keep, "b")), epochs=1.0)
        numbers = measure(SLUG, cell, "d")
        steps = started[-1][1] / total_steps(cells.task_of(cell))
        if ratio:
            assert steps == ratio
        else:
            assert 1.0 < steps < cells.CAP
            assert numbers["spent"] == pytest.approx(1.0, abs=0.06)


def test_tuned_nets_are_the_inherited_ones_and_cost_a_quarter(short, started):
    """The three predefined ways share widths; constant and falling share their steps."""
    task = cells.task_of(short(study.dense(0)))
    dense = dense_net(task, 0)
    own = {float(v) for v in dense.features[3].weight.detach().flatten()}
    shapes = []
    for name in (*cells.PREDEFINED, "slimming"):
        for how in study.TUNINGS:
            cell = short(study.tuned(name, 0, study.HALF, how))
            numbers = measure(SLUG, cell, "d")
            weights, steps, recipe = started[-1]
            assert steps == max(1, round(0.25 * 0.3 * 16))
            assert recipe.schedule == ("constant" if how == "constant" else "cosine")
            assert recipe.lr == cell.lr
        if name in cells.PREDEFINED:
            shapes.append(numbers["shape"])
        if name == "l1":
            assert {float(v) for v in weights["features.3.weight"].flatten()} <= own
    assert shapes[0] == shapes[1] == shapes[2]
    assert {kept for _, kept in shapes[0].values()} != {n for n, _ in shapes[0].values()}


def test_found_shapes_come_from_the_net_that_was_trained_to_be_sparse(short, started):
    first = short(study.cell("sparse", 0, "slimming"))
    measure(SLUG, first, "d")
    cell = short(study.tuned("slimming", 0, study.HALF, "falling"))
    net, _ = cells.sparse_net(Context(SLUG, cell, "d"), cells.task_of(cell))
    numbers = measure(SLUG, cell, "d")
    weights = started[-1][0]
    own = {float(v) for v in net.features[3].weight.detach().flatten()}
    assert {float(v) for v in weights["features.3.weight"].flatten()} <= own
    again = measure(SLUG, short(study.scratch("slimming", 0, study.HALF, "e")), "d")
    assert again["shape"] == numbers["shape"]
    assert not {float(v) for v in started[-1][0]["features.3.weight"].flatten()} & own


def test_masked_scratch_has_the_mask_and_corrected_random_weights(short, started):
    tuned_ = measure(SLUG, short(study.tuned("magnitude", 0, 0.2, "constant")), "d")
    inherited = started[-1][0]
    fresh = measure(SLUG, short(study.scratch("magnitude", 0, 0.2, "e")), "d")
    new = started[-1][0]
    assert fresh["shape"] == tuned_["shape"]
    task = cells.task_of(short(study.dense(0)))
    drawn = dict(task.build(seeded(0, 3)).named_parameters())
    for name, (size, kept) in fresh["shape"].items():
        there = new[name] != 0
        assert torch.equal(there, inherited[name] != 0)
        assert int(there.sum()) == kept
        assert torch.allclose(new[name][there], drawn[name][there] * (size / kept) ** 0.5)


def test_a_ticket_starts_as_the_dense_net_did_and_all_share_its_mask(short, started):
    nets = {}
    for how in study.INITS:
        measure(SLUG, short(study.ticket(how, 0, 0.1)), "d")
        nets[how] = started[-1][0]
    task = cells.task_of(short(study.ticket("own", 0, 0.1)))
    first = dict(task.build(seeded(0)).named_parameters())
    for name, w in nets["own"].items():
        there = w != 0
        if w.ndim == 4:
            assert torch.equal(w[there], first[name][there])
            assert torch.equal(nets["fresh"][name] != 0, there)
            factor = (w.numel() / int(there.sum())) ** 0.5
            assert torch.allclose(nets["corrected"][name], factor * nets["fresh"][name])
            assert not torch.equal(nets["fresh"][name], w)


def test_uniform_widths_have_no_fewer_parameters_than_found_and_guided_ones(short, started):
    size = {}
    for name in study.DESIGNS:
        numbers = measure(SLUG, short(study.design(name, 0)), "d")
        size[name] = numbers["params"]
        kept = [k / n for n, k in numbers["shape"].values()]
        if name == "uniform":
            assert max(kept) - min(kept) < 0.07
        if name == "guided":
            assert numbers["shape"]["features.3"] == numbers["shape"]["features.6"]
    assert size["found"] <= size["uniform"] >= size["guided"]
    dense = sum(p.numel() for p in cells.task_of(Cell("dense", 0)).build(seeded(0)).parameters())
    assert 0.2 * dense < size["found"] <= 0.25 * dense


# ---- the committed study


@pytest.mark.skipif(not recorded(SLUG), reason="no study yet")
def test_equal_cost_is_equal_in_the_study():
    for seed in range(study.SEEDS):
        found = Rows([r for r in recorded(SLUG) if r.seed == seed], Cell, study.FREE)
        for keep in MACS:
            assert 0.99 <= study.anew(found, "predefined", keep, "b", "spent") <= 1.0
            constant, falling = (
                study.after(found, "l1", keep, how, "steps") for how in study.TUNINGS
            )
            assert constant == falling
