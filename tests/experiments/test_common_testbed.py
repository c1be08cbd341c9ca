"""What is particular to the common testbed; the contract of all is in test_contract.py."""

import itertools
import math
from dataclasses import replace

import pytest
import torch

from survey_lib.evidence.protocol import MissingArm, Rows, tune_grid
from survey_lib.evidence.reading import from_line
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import to_line
from survey_lib.experiments import runner
from survey_lib.experiments.common_testbed import cells, grid, study
from survey_lib.experiments.common_testbed.cells import Cell
from survey_lib.experiments.context import cell_key, measure
from survey_lib.methods import contract
from survey_lib.methods.contract import METHODS
from survey_lib.tasks.data import Split, Splits
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import RECIPES, Task, load_task
from survey_lib.tasks.train import total_steps
from tests.testbed import made_up, numbers, record

SLUG = "common_testbed"
EVERY = [p.name for p in grid.PIECES]
NAMES = ("thinet", "fisher", "taylor", "l2", "l1", "random")


def rows(*pairs):
    return Rows([record(cell, **found) for cell, found in pairs], Cell, study.FREE)


def boards_at(length, keep, values, net="resnet_small"):
    """The six methods' cells at one length and size, accuracies in the order of NAMES."""
    return [
        (Cell("method", 0, net, name, keep=keep, epochs=length),
         {"test_re": a, "test": a - 0.1, "val_re": a})
        for name, a in zip(NAMES, values, strict=True)
    ]  # fmt: skip


# ---- who takes part


def test_every_method_of_the_registry_takes_part_or_refuses_by_itself():
    there = {name for piece in grid.PIECES for name in grid.methods(piece)}
    assert there == set(METHODS)
    channels = {n for n, e in METHODS.items() if (e.kind, e.steers) == ("channels", "budget")}
    assert (
        {"l1", "random", "thinet", "group_fisher"} < set(grid.methods(grid.PIECES[0])) <= channels
    )
    assert "bn_scale" not in grid.able("char_gpt", "channels", "budget")  # it has no batch norm


def test_a_method_entered_later_joins_by_itself(monkeypatch):
    entry = replace(METHODS["l2"], name="later", label="later")
    monkeypatch.setitem(METHODS, "later", entry)
    grid.able.cache_clear()
    try:
        piece = grid.PIECES[0]
        assert "later" in grid.methods(piece)
        roles = {role.name for role in grid._roles()}
        assert f"{piece.net} later {grid.FULL:g} at {grid.SMALL:g}" in roles
        mine = [c for c in grid.unrated(piece, 0) if c.method == "later"]
        assert {(c.epochs, c.keep) for c in mine} == {
            (n, k) for n in piece.lengths for k in piece.sizes
        }
    finally:
        grid.able.cache_clear()


def test_the_numbers_rest_on_the_code_of_every_method():
    parts = runner.code_parts(SLUG)
    assert {f"survey_lib.methods.{e.module}" for e in METHODS.values()} <= set(parts)
    assert "survey_lib.methods.thinet.rows" in parts  # and on what these import


# ---- pieces and rates


def test_pieces_have_names_and_a_price_that_can_be_paid():
    assert len(set(EVERY)) == len(EVERY)
    assert set(grid.RUN) <= set(EVERY)
    assert grid.PIECES[0].name in grid.RUN  # quick is a slice of it
    # core-minutes of rates and study: a piece in two hours on two cores, all in twelve
    assert max(p.minutes for p in grid.PIECES) <= 2 * 2 * 60
    assert sum(p.minutes for p in grid.PIECES) <= 2 * 12 * 60
    # what the study itself took: six hours
    spent = sum(r.provenance["seconds"] for r in recorded("common_testbed", "study"))
    assert 0 < spent <= 2 * 6 * 3600


def test_the_study_without_its_search_for_rates_fits_into_six_hours_on_two_cores():
    assert sum(r.provenance["seconds"] for r in recorded(SLUG)) <= 2 * 6 * 3600


def test_each_piece_asks_for_its_cells_and_no_cell_is_asked_for_otherwise():
    cells_ = [r.config for r in made_up(*EVERY)]
    for piece in grid.PIECES:
        mine = [c for c in cells_ if c["net"] == piece.net]
        assert {c["seed"] for c in mine} == set(range(grid.SEEDS))
        for keep in piece.sizes:
            for length in piece.lengths:
                names = {c["method"] for c in mine if (c["keep"], c["epochs"]) == (keep, length)}
                kinds = [grid.able(piece.net, kind, "budget", keep) for kind in piece.kinds]
                assert set(itertools.chain(*kinds)) <= names, piece.name


def test_a_method_takes_part_at_the_sizes_that_it_can_reach():
    piece = next(p for p in grid.PIECES if p.name == "neurons")
    assert grid.points(piece, "l1") == [{"keep": keep} for keep in piece.sizes]
    assert {0.5} <= {p["keep"] for p in grid.points(piece, "what_matters_llm")} < {*piece.sizes}


def test_roles_of_a_comparison_try_equally_many_and_each_has_its_own():
    tune_grid(grid.ROLES, grid.REPLICATES)
    names = [role.name for role in grid.ROLES]
    assert set(names) == set(grid.RATES)
    for cell in grid.GRIDS["study"]():
        assert (grid.role_of(cell) in names) == bool(cell.epochs)
    assert all(c.brief for c in grid.GRIDS["tune"]())
    assert not any(c.brief for c in grid.GRIDS["study"]())


def test_a_piece_may_have_its_rates_before_its_study(monkeypatch):
    monkeypatch.setattr(grid, "RUN", ("resnet",))
    monkeypatch.setattr(grid, "RATED", ("vgg",))
    assert any(role.name.startswith("vgg_small l1 ") for role in grid._roles())
    assert {c.net for c in grid._study()} == {"resnet_small"}


def test_a_rate_is_chosen_at_the_nearest_size_by_ratio(monkeypatch):
    piece = next(p for p in grid.PIECES if p.name == "weights")
    monkeypatch.setitem(grid.TUNED, (piece.net, "weights"), (0.2, 0.05))
    at = {c.keep: grid.tuned_as(c).keep for c in grid.unrated(piece, 0) if c.epochs}
    # 10 % is as far from 20 % as from 5 %: the smaller of the two
    assert at == {0.5: 0.2, 0.2: 0.2, 0.1: 0.05, 0.05: 0.05, 0.02: 0.05}
    knob = Cell("method", 0, method="lobster", knob=4.0, epochs=6.0)
    assert grid.tuned_as(knob) == replace(knob, knob=1.0)
    assert grid.role_of(knob) == "resnet_small lobster 6"
    assert grid.role_of(Cell("longer", 0, epochs=6.0)) == "resnet_small longer 6"
    one = Cell("method", 0, method="magnitude", keep=0.02, epochs=1.0)
    assert grid.role_of(one) == "resnet_small magnitude 1 at 0.05"
    assert grid.comparison(one) == "resnet_small weights 1 at 0.05"


def test_every_net_and_kind_says_at_which_sizes_its_rates_are_chosen():
    asked = {
        (c.net, grid.kind_of(c)): grid.tuned_as(c)
        for piece in grid.PIECES for c in grid.unrated(piece, 0)
        if c.epochs and c.keep < 1
    }  # fmt: skip
    assert set(asked) == set(grid.TUNED)


def test_a_search_is_widened_for_all_and_downwards_only_where_it_has_to(monkeypatch):
    group = grid.comparison(Cell("method", 0, method="l1", keep=grid.SMALL, epochs=grid.FULL))
    roles = [role for role in grid.ROLES if role.comparison == group][:3]
    low, middle, high = roles
    best = {low.name: low.rates[0], middle.name: middle.rates[1], high.name: high.rates[-1]}
    found = [
        record(cell, val_re=0.9 if rate == best[role.name] else 0.5)
        for role in roles for rate in role.rates for s in grid.REPLICATES
        for cell in role.cells(s, rate)
    ]  # fmt: skip
    monkeypatch.setattr(grid, "ROLES", roles)
    monkeypatch.setattr(grid, "recorded", lambda slug, profile: found)
    tries, first = grid.at_edges()
    assert tries == grid.TRIES | {low.comparison: len(low.rates) + 1}
    assert first == grid.FIRST | {low.name: grid.FIRST.get(low.name, 4) - 1}
    assert grid._chosen() == best


def test_a_rate_that_was_not_searched_for_is_the_middle_one(monkeypatch):
    monkeypatch.setattr(grid, "recorded", lambda slug, profile: [])
    for role in grid.ROLES:
        assert grid._chosen()[role.name] == role.rates[len(role.rates) // 2]


def test_the_runs_of_a_method_that_takes_part_are_all_there_or_none():
    """What the contract of all experiments does not ask of a grid that grows."""
    there = {r.key for r in recorded(SLUG)}
    if not there:
        pytest.skip("no study yet")
    by_method: dict[str, set[bool]] = {}
    for cell in grid.GRIDS["study"]():
        by_method.setdefault(cell.method, set()).add(cell_key(SLUG, cell) in there)
    assert all(len(found) == 1 for found in by_method.values()), by_method


# ---- statistics


def test_spread_and_order_by_hand():
    some = boards_at(0.0, 0.5, (0.70, 0.60, 0.50, 0.40, 0.30, 0.10))
    some += boards_at(6.0, 0.5, (0.870, 0.871, 0.872, 0.873, 0.874, 0.860))
    some += boards_at(6.0, 0.15, (0.80, 0.81, 0.82, 0.83, 0.84, 0.70))
    found = rows(*some)
    assert study.spread_left(found) == pytest.approx(0.01)  # random stands outside
    # the five are turned round, random is last on both: differences 4, 2, 0, 2, 4, 0
    assert study.order_before_and_after(found) == pytest.approx(1 - 6 * 40 / 210)
    assert study.order_of_sizes(found) == pytest.approx(1.0)
    assert study.random_gap(found) == pytest.approx((0.012 + 0.12) / 2)
    assert study.magnitude_place(found) == 1.0
    assert study.winner_gain(found) == 0.0
    assert study.statistics_gain(found) == pytest.approx(0.1)
    with pytest.raises(MissingArm):
        study.spread_left_after_one(found)


def test_the_spread_without_the_last_leaves_out_the_same_one_on_both_boards():
    some = boards_at(0.0, 0.5, (0.70, 0.60, 0.50, 0.40, 0.30, 0.10))
    some += boards_at(1.0, 0.5, (0.86, 0.40, 0.85, 0.84, 0.83, 0.10))
    (instead,) = study.INSTEAD["spread_left_after_one"].values()
    # Fisher is the last; random stands outside; 0.7, 0.5, 0.4, 0.3 against 0.86, 0.85, 0.84, 0.83
    before = ((0.225**2 + 0.025**2 + 0.075**2 + 0.175**2) / 3) ** 0.5
    narrow = ((0.015**2 + 0.005**2) * 2 / 3) ** 0.5
    assert instead([record(cell, **found) for cell, found in some]) == pytest.approx(
        narrow / before
    )
    assert study.spread_left_after_one(rows(*some)) > 1


def test_on_each_board_whose_spread_a_claim_asks_for_the_last_can_be_left_out():
    tuned = (0.86, 0.40, 0.85, 0.84, 0.83, 0.10)
    for name, net, length in (
        ("spread_left_after_three", "resnet_small", 3.0),
        ("spread_left_depthwise", "mobilenet_small", 6.0),
    ):
        some = boards_at(0.0, 0.5, (0.70, 0.60, 0.50, 0.40, 0.30, 0.10), net)
        some += boards_at(length, 0.5, tuned, net)
        instead = next(f for words, f in study.INSTEAD[name].items() if "the last" in words)
        assert study.STATISTICS[name]([record(c, **n) for c, n in some]) > 1
        assert instead([record(c, **n) for c, n in some]) == pytest.approx(
            ((0.015**2 + 0.005**2) * 2 / (0.225**2 + 0.025**2 + 0.075**2 + 0.175**2)) ** 0.5
        )


def test_an_order_can_be_told_without_those_that_fell():
    some = boards_at(6.0, 0.5, (0.80, 0.10, 0.82, 0.83, 0.84, 0.85))
    some += boards_at(6.0, 0.15, (0.80, 0.10, 0.73, 0.72, 0.71, 0.70))
    (instead,) = study.INSTEAD["order_of_sizes"].values()
    for name, length in (("order_after_one", 1.0), ("order_after_three", 3.0)):
        early = boards_at(length, 0.15, (0.80, 0.10, 0.82, 0.83, 0.84, 0.85))
        (other,) = study.INSTEAD[name].values()
        found = [record(cell, **numbers) for cell, numbers in (*early, *boards_at(
            6.0, 0.15, (0.80, 0.10, 0.73, 0.72, 0.71, 0.70)))]  # fmt: skip
        assert study.STATISTICS[name](found) == pytest.approx(-1 / 7)
        assert other(found) == pytest.approx(-1)
    # ranks 2 1 3 4 5 6 against 6 1 5 4 3 2; without the one that fell the orders are opposite
    assert study.order_of_sizes(rows(*some)) == pytest.approx(-1 / 7)
    assert instead([record(cell, **found) for cell, found in some]) == pytest.approx(-1)
    with pytest.raises(MissingArm):
        study.agreement_of_standing({"l1": 0.8, "l2": 0.81}, {"l1": 0.8, "l2": 0.1})


def test_the_winner_is_picked_on_validation_and_told_on_test():
    some = boards_at(6.0, 0.5, (0.9, 0.8, 0.8, 0.8, 0.85, 0.8))
    some += boards_at(6.0, 0.15, (0.9, 0.8, 0.8, 0.8, 0.85, 0.8))
    lucky = [(c, n | {"val_re": 0.99}) if c.method == "taylor" else (c, n) for c, n in some]
    assert study.winner_gain(rows(*some)) == pytest.approx(0.05)
    assert study.winner_gain(rows(*lucky)) == pytest.approx(-0.05)
    shapes = [
        (Cell("shape", 0, keep=keep, how="inherited", epochs=6.0), {"test_re": value})
        for keep, value in ((0.5, 0.81), (0.15, 0.83))
    ]
    (over_shares,) = study.INSTEAD["winner_gain"].values()
    every = [record(cell, **found) for cell, found in (*some, *shapes)]
    assert over_shares(every) == pytest.approx((0.09 + 0.07) / 2)
    plain = boards_at(6.0, 0.5, (0.9, 0.8, 0.8, 0.8, 0.85, 0.8), "vgg_small")
    plain.append((Cell("shape", 0, "vgg_small", keep=0.5, how="inherited", epochs=6.0),
                  {"test_re": 0.89}))  # fmt: skip
    assert study.winner_over_shares_vgg(rows(*plain)) == pytest.approx(0.01)


def test_the_median_after_all_epochs_is_held_against_the_winner_after_half_of_them():
    some = boards_at(6.0, 0.5, (0.90, 0.89, 0.88, 0.87, 0.86, 0.99))
    some += boards_at(6.0, 0.15, (0.80, 0.79, 0.78, 0.77, 0.76, 0.99))
    some += boards_at(3.0, 0.5, (0.85, 0.84, 0.83, 0.82, 0.81, 0.80))
    some += boards_at(3.0, 0.15, (0.75, 0.79, 0.74, 0.73, 0.72, 0.70))
    # the median of the five without random, minus the first after three: 0.88 - 0.85, 0.78 - 0.79
    assert study.longer_over_better(rows(*some)) == pytest.approx(0.01)
    lucky = [
        (c, n | {"val_re": 0.99}) if (c.method, c.epochs) == ("l1", 3.0) else (c, n)
        for c, n in some
    ]  # fmt: skip
    assert study.longer_over_better(rows(*lucky)) == pytest.approx((0.07 + 0.06) / 2)


def test_one_scale_for_all_layers_is_held_against_magnitude_where_the_raw_score_fell():
    some = boards_at(6.0, 0.15, (0.80, 0.79, 0.50, 0.77, 0.76, 0.70))
    some += boards_at(6.0, 0.5, (0.90, 0.89, 0.40, 0.87, 0.86, 0.85), "mobilenet_small")
    with pytest.raises(MissingArm, match="normalised"):
        study.normalised_over_magnitude(rows(*some))
    for net, keep, value in (("resnet_small", 0.15, 0.75), ("mobilenet_small", 0.5, 0.88)):
        cell = Cell("method", 0, net, "taylor_normalised", keep=keep, epochs=6.0)
        some.append((cell, {"test_re": value, "val_re": value}))
    found = [record(c, **n) for c, n in some]
    assert study.STATISTICS["normalised_over_magnitude"](found) == pytest.approx(0.005)
    (raw,) = study.INSTEAD["normalised_over_magnitude"].values()
    assert raw(found) == pytest.approx(-0.36)


def test_fresh_weights_and_refusals_stand_on_no_board():
    some = boards_at(6.0, 0.5, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4))
    some.append((Cell("method", 0, method="rethinking", keep=0.5, epochs=6.0), {"test_re": 1.0}))
    some.append((Cell("method", 0, method="apoz", keep=0.5, epochs=6.0), {"refused": "no"}))
    some.append((Cell("method", 0, method="magnitude", keep=0.5, epochs=6.0), {"test_re": 1.0}))
    assert set(study.board(rows(*some), "resnet_small", 6.0, 0.5)) == set(NAMES)
    with pytest.raises(MissingArm, match="4 methods"):
        study.board(rows(*some[:4]), "resnet_small", 6.0, 0.5)


def test_bytes_bound_what_is_compared_and_nothing_is_interpolated():
    some = boards_at(6.0, 0.15, (0.80, 0.79, 0.78, 0.77, 0.75, 0.70))
    some = [(c, n | {"bytes": 1000}) for c, n in some]
    masked = [(0.5, 0.9, 5000), (0.1, 0.82, 1000), (0.02, 0.6, 300)]
    some += [
        (Cell("method", 0, method="magnitude", keep=k, epochs=6.0),
         {"val_re": a, "test_re": a, "bytes": b})
        for k, a, b in masked
    ]  # fmt: skip
    assert study.weights_over_channels(rows(*some)) == pytest.approx(0.02)
    with pytest.raises(MissingArm, match="bytes"):
        study.weights_over_channels(rows(*some[:-2]))


def test_a_found_size_is_held_against_the_best_told_one_that_is_no_larger():
    def net(name, size, val, test, **more):
        return (Cell("method", 0, method=name, epochs=6.0, **more),
                {"macs": size, "nonzeros": size, "val_re": val, "test_re": test})  # fmt: skip

    dense = (Cell("dense", 0), {"macs": 1000, "nonzeros": 1000})
    told = [
        net("l1", 500, 0.85, 0.84, keep=0.5), net("l2", 500, 0.86, 0.83, keep=0.5),
        net("l1", 150, 0.70, 0.71, keep=0.15), net("magnitude", 500, 0.99, 0.99, keep=0.5),
    ]  # fmt: skip
    found = [
        net("adaptive_activation", 600, 0.8, 0.81, knob=1.0),  # ℓ2 leads on validation
        net("adaptive_activation", 400, 0.8, 0.75, knob=4.0),  # ℓ1 at 15 %
        net("adaptive_activation", 100, 0.8, 0.50, knob=16.0),  # smaller than all
        net("soft_movement", 1000, 0.9, 0.90, knob=1.0),  # lost nothing
        net("lobster", 500, 0.9, 0.98, knob=1.0),  # weights: magnitude
    ]
    value = study.told_over_found(rows(dense, *told, *found))
    assert value == pytest.approx((0.83 - 0.81 + 0.71 - 0.75 + 0.99 - 0.98) / 3)
    every = [record(cell, **n) for cell, n in (dense, *told, *found)]
    ways = {words: way(every) for words, way in study.INSTEAD["told_over_found"].items()}
    assert ways == pytest.approx({
        "against magnitude alone": (0.84 - 0.81 + 0.71 - 0.75 + 0.99 - 0.98) / 3,
        "at the default of each knob": (0.83 - 0.81 + 0.99 - 0.98) / 2,
        "in the median of methods and settings": 0.99 - 0.98,
    })  # fmt: skip
    with pytest.raises(MissingArm):
        study.told_over_found(rows(dense, *told))


def test_the_winner_on_text_has_the_lowest_loss_on_validation():
    losses = {"l1": (1.9, 2.0), "l2": (1.8, 1.95), "fisher": (1.6, 1.7), "random": (1.7, 1.6),
              "taylor": (2.0, 1.5)}  # fmt: skip
    some = [
        (Cell("method", 0, "char_gpt", name, keep=0.5, epochs=0.25), {"val": val, "test": test})
        for name, (val, test) in losses.items()
    ]
    found = rows(*some)
    assert study.winner_gain_text(found) == pytest.approx(0.3)
    assert study._winner_on_text(found, "random") == pytest.approx(-0.1)
    with pytest.raises(MissingArm):
        study.winner_over_shares_text(found)
    even = Cell("shape", 0, "char_gpt", keep=0.5, how="inherited", epochs=0.25)
    found = rows(*some, (even, {"val": 1.65, "test": 1.78}))
    assert study.winner_over_shares_text(found) == pytest.approx(0.08)


def test_int8_is_compared_with_the_best_net_of_no_more_bytes():
    def text(name, loss, bytes_, **more):
        return (Cell("method", 0, "char_gpt", name, **more),
                {"val": loss, "test": loss, "bytes": bytes_})  # fmt: skip

    found = rows(text("llm_int8", 1.50, 1000, knob=1.0),
                 text("magnitude", 1.49, 2000, keep=0.5, epochs=0.25),
                 text("magnitude", 1.56, 900, keep=0.2, epochs=0.25),
                 text("l1", 1.60, 800, keep=0.5, epochs=0.25))  # fmt: skip
    assert study.int8_over_pruned(found) == pytest.approx(0.06)


def test_claims_wait_for_the_pieces_that_they_name():
    """With a piece the statistic can be computed, without it not."""
    names = {s for some in study.WAITS.values() for s in some}
    assert names < set(study.STATISTICS)
    seed = [r for r in made_up("resnet") if r.seed == 0]
    for name in set(study.STATISTICS) - names:
        study.STATISTICS[name](seed)
    for piece, some in study.WAITS.items():
        more = {
            "bits": ("neurons", "bits"),
            "mobilenet at half": ("mobilenet at 15 %", "mobilenet untuned", "mobilenet at half"),
        }.get(piece, (piece,))
        both = {r.key: r for r in made_up("resnet", *more) if r.seed == 0}
        for name in some:
            with pytest.raises(MissingArm):
                study.STATISTICS[name](seed)
            study.STATISTICS[name](list(both.values()))


# ---- cells


@pytest.fixture
def short(tmp_path, monkeypatch):
    """Cells of an untrained dense net on a few images; what they keep lies in the test's folder."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))

    def task_of(cell):
        if cell.net == "char_gpt":
            x = torch.randint(65, (8, 33), generator=seeded(0))
            few = Split(x[:, :-1].contiguous(), x[:, 1:].contiguous())
            data = Splits(few, few, few, tuple(map(chr, range(65))), hash="noise")
            options = {"width": 0.5, "layers": 2}
            task = Task("noise/char_gpt", data, "char_gpt", options, "perplexity")
        else:
            whole = load_task(cell.net, width=0.5)
            few = Split(whole.val.x[:256], whole.val.y[:256])
            task = replace(whole, data=replace(whole.data, train=few, val=few, test=few))
        return task.with_training(epochs=1.0)

    monkeypatch.setattr(cells, "task_of", task_of)
    monkeypatch.setattr(cells, "compare_latency", lambda nets, batch, inner: {
        name: type("T", (), {"minimum": 0.001 * (i + 1)}) for i, name in enumerate(nets)
    })  # fmt: skip
    return lambda cell: measure(SLUG, cell, "d")


def test_a_method_is_measured_at_its_budget_and_tuned_to_the_step(short):
    cell = Cell("method", 0, "resnet_small", "l1", keep=0.5)
    whole, before = short(Cell("dense", 0)), short(cell)
    after = short(replace(cell, epochs=2.0, lr=0.05))
    assert before["steps"] == 0
    assert after["steps"] == 4
    for found in (before, after):
        assert 0.3 * whole["macs"] < found["macs"] <= 0.5 * whole["macs"]
        assert found["bytes"] == found["bytes_dense"] < whole["bytes"]
        assert (found["dense_ms"], found["net_ms"]) == (1.0, 2.0)
    assert before["test_re"] != after["test_re"]


def test_masks_are_stored_in_the_smaller_of_three_ways(short):
    found = short(Cell("method", 0, "resnet_small", "magnitude", keep=0.2))
    assert found["bytes"] == min(found["bytes_bitmask"], found["bytes_csr"]) < found["bytes_dense"]
    assert found["nonzeros"] <= 0.2 * found["params"]


def test_a_refusal_is_a_sentence_and_no_failure(short):
    found = short(Cell("method", 0, "resnet_small", "l1", keep=1e-6))
    assert list(found) == ["refused"]
    assert "channel_baselines" in found["refused"]
    assert "refused" in short(Cell("method", 0, "resnet_small", "llm_int8", knob=1.0))


def test_to_choose_a_rate_only_validation_is_measured(short):
    cell = Cell("method", 0, "resnet_small", "l1", keep=0.5, epochs=1.0, lr=0.05)
    whole, brief = short(cell), short(replace(cell, brief=True))
    assert brief["val_re"] == whole["val_re"]
    assert not {"test", "test_re", "net_ms"} & set(brief)


def test_who_finds_its_own_size_is_judged_by_it_too(short):
    cell = Cell("method", 0, "resnet_small", "parameterized_structured", knob=1.0, epochs=1.0,
                lr=0.02, brief=True)  # fmt: skip
    found = short(cell)
    price = 0.01 * math.log2(found["macs_nonzero"])
    assert found["merit"] == pytest.approx(found["val_re"] - price, abs=1e-12)
    assert grid._role(cell).score == "merit"
    assert grid._role(replace(cell, method="l1", knob=0.0, keep=0.5)).score == "val_re"


def test_a_language_models_rate_is_chosen_by_a_loss_that_can_be_read_back():
    cell = Cell("method", 0, "char_gpt", "l1", keep=0.5, epochs=0.25, lr=0.01, brief=True)
    task = load_task("char_gpt", width=0.25)
    found = cells.measured(cell, task, task.build(seeded(0)).eval())
    assert found["val"] > 1  # nats, no share
    assert from_line(to_line(record(cell, **found)), "here").numbers == found
    assert grid._role(cell).score in found


def test_a_knob_is_turned_in_its_defaults():
    for name, entry in METHODS.items():
        if entry.steers == "outcome":
            cell = Cell("method", 0, method=name, knob=4.0)
            default = getattr(entry.config(), entry.knob)
            assert getattr(cells.config_of(cell), entry.knob) == 4 * default
            assert cells.budget_of(cell) is None
        else:
            config = cells.config_of(Cell("method", 0, method=name, keep=0.5))
            given = cells.SETTINGS.get(name, {})
            assert config == contract.find(name).config(**given)


def test_one_shape_is_trained_for_equal_tuning_epochs_or_macs(short):
    cell = Cell("shape", 0, "resnet_small", keep=0.5, epochs=1.0, lr=0.05)
    found = {how: short(replace(cell, how=how)) for how in ("inherited", "e", "b")}
    assert found["inherited"]["macs"] == found["e"]["macs"] == found["b"]["macs"]
    task = cells.task_of(cell)
    assert found["inherited"]["steps"] == found["e"]["steps"] == total_steps(task)
    dense = short(Cell("dense", 0))["macs"]
    assert found["b"]["steps"] == int(total_steps(task) * dense / found["e"]["macs"])
    assert found["inherited"]["loss"] != found["e"]["loss"]
    assert short(Cell("longer", 0, epochs=1.0, lr=0.05))["steps"] == 2


def test_eight_bits_take_a_quarter_of_the_layers_bytes(short):
    dense = short(Cell("dense", 0, "char_gpt"))
    found = short(Cell("method", 0, "char_gpt", "llm_int8", knob=1.0))
    assert 0.25 * dense["bytes"] < found["bytes"] < 0.6 * dense["bytes"]
    assert found["test"] != dense["test"]
    assert "test_re" not in found


def test_recipes_of_the_nets_are_the_books():
    for piece in grid.PIECES:
        assert grid.rate(piece.net, 5) == RECIPES[piece.net].lr
        assert cells.task_of(Cell("dense", 0, piece.net)).training == RECIPES[piece.net]


def test_made_up_numbers_are_of_the_right_shape(short):
    real = short(Cell("method", 0, "resnet_small", "l1", keep=0.5))
    assert set(numbers(Cell("method", 0, "resnet_small", "l1", keep=0.5))) <= set(real)
