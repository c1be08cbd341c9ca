"""What is particular to this experiment; the contract of all is in test_contract.py."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import Context, measure, needed
from survey_lib.experiments.llm_int8 import cells, study
from survey_lib.experiments.llm_int8.cells import Cell
from survey_lib.measure.perplexity import window_losses
from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.llm_int8 import method
from survey_lib.tasks.dense import shipped_net
from survey_lib.tasks.task import load_task

SLUG = "llm_int8"
TOKENS = torch.arange(64).view(2, 32)
LARGE, PAPERS, SHIFT = study.LARGE, study.PAPERS, study.SHIFT


def rows(*pairs):
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell)


def planted(added, **options):
    filled = dict.fromkeys(method.KINDS, 0.0) | added
    return Cell("planted", 0, **options), {"added": filled}


def text(kind, loss, **options):
    return Cell("text", 7, kind=kind, **options), {"log_perplexity": loss}


def test_all_rows_of_the_papers_table_read_the_same_chunks_from_end_to_end():
    (reported,) = [t for t in read_card(SLUG).reported if t.id == "perplexity"]
    assert tuple(row[0] for row in reported.rows) == cells.KINDS
    for kind in cells.KINDS:
        plain = [c for c in study.GRIDS["study"]() if c == Cell("text", c.seed, kind=kind)]
        assert [c.seed for c in plain] == list(study.TEXT)
    assert study.TEXT[-1] >= study.CHUNKS - study.EVERY
    assert len(study.TEXT) * cells.CHUNK >= 64  # windows, the least for a fixed model
    assert set(study.PART) <= set(study.TEXT)


def test_quality_is_measured_with_layers_that_store_int8_alone():
    """As bytes are; weights kept beside int8 are asked for by name."""
    asked = [c for c in study.GRIDS["study"]() if c.keep_weights]
    assert {(c.arm, c.kind) for c in asked} == {("planted", ""), ("text", cells.LLM)}
    net = shipped_net("char_gpt")
    for keep in (False, True):
        small = cells.eight_bit(net, cells.LLM, Cell("planted", 0, keep_weights=keep))
        layer = small.get_submodule(cells.EXPLORED)
        assert (layer.weight_half is not None) == keep
    weights = net.get_submodule(cells.EXPLORED).weight
    assert layer.bytes() > 3 * weights.numel()


def test_smoke_needs_no_large_model():
    assert {c.arm for c in study.GRIDS["smoke"]()} == {"planted"}


def test_statistics_of_the_character_model():
    vector, llm, row = cells.VECTOR, cells.LLM, cells.ROW
    some = [planted({llm: 0.001 * i, vector: 0.002}, scale=s) for i, s in enumerate((1, 2, 4, 8))]
    some += [planted({llm: 0.02, vector: 0.01}, scale=PAPERS), planted({}, scale=32)]
    some += [planted({vector: 0.5, row: 0.6, llm: 0.004}, scale=LARGE)]
    some += [planted({llm: 9.0}, scale=128)]  # beyond what the claim asks
    one_sided = {cells.ABSMAX: 5, cells.ZEROPOINT: 4.5, llm: 0.3, cells.LLM_ZEROPOINT: 0.1}
    kept = {llm: 0.03, cells.LLM_ZEROPOINT: 0.02}
    with pytest.raises(MissingArm):
        study.absmax_over_zeropoint(rows(*some))  # the two-sided form must not stand in
    some += [planted(one_sided, scale=LARGE, shift=SHIFT)]
    with pytest.raises(MissingArm):
        study.reading_back(rows(*some))  # nor int8 alone for weights that are kept
    some += [
        planted({llm: 0.001}, scale=PAPERS, keep_weights=True),
        planted({llm: 0.002}, scale=LARGE, keep_weights=True),
        planted(kept, scale=LARGE, shift=SHIFT, keep_weights=True),
    ]
    found = rows(*some)
    assert study.decomposition_loss(found) == pytest.approx(0.02)
    assert study.decomposition_loss_rows_kept(found) == pytest.approx(0.03)
    assert study.reading_back(found) == pytest.approx(0.27)
    assert study.vector_wise_at_the_papers_size(found) == pytest.approx(0.008)
    assert study.vector_wise_when_large(found) == pytest.approx(0.498)
    assert study.row_over_vector_wise(found) == pytest.approx(1.2)
    assert study.absmax_over_zeropoint(found) == pytest.approx(0.5)
    assert study.absmax_over_zeropoint_decomposed(found) == pytest.approx(0.2)
    assert study.absmax_over_zeropoint_rows_kept(found) == pytest.approx(0.01)


def test_statistics_of_the_real_model():
    losses = {cells.FP32: 3.0, cells.ABSMAX: 3.7, cells.ZEROPOINT: 3.5, cells.ROW: 3.3,
              cells.VECTOR: 3.1, cells.LLM: 3.02, cells.LLM_ZEROPOINT: 3.005}  # fmt: skip
    found = rows(
        *(text(kind, loss) for kind, loss in losses.items()),
        text(cells.LLM, 3.004, states_only=True),
        text(cells.LLM, 9.0, scale=LARGE),
        text(cells.VECTOR, 3.12, scale=PAPERS),
        text(cells.VECTOR, 3.6, scale=LARGE),
    )
    assert study.smollm2_decomposition_loss(found) == pytest.approx(0.02)
    assert study.smollm2_decomposition_loss_states(found) == pytest.approx(0.004)
    assert study.smollm2_vector_wise_at_the_papers_size(found) == pytest.approx(0.02)
    assert study.smollm2_vector_wise_when_large(found) == pytest.approx(0.5)
    assert study.smollm2_row_over_vector_wise(found) == pytest.approx(3.0)
    assert study.smollm2_absmax_over_zeropoint(found) == pytest.approx(0.2)
    assert study.smollm2_absmax_over_zeropoint_decomposed(found) == pytest.approx(0.015)


def test_features_at_zero_are_compared_with_as_many_random_ones():
    losses = {"outliers": 5.5, "as many": 3.1, "largest": 11.0, "random": 3.2}
    found = [(Cell("zeroed", 7, zeroed=z), {"log_perplexity": v}) for z, v in losses.items()]
    assert study.criteria_over_random(rows(*found)) == pytest.approx(2.4)
    with pytest.raises(MissingArm):
        study.criteria_over_random(rows(found[0]))
    seen = {"largest_of": [float(i) for i in range(30)], "outliers": [5]}
    chosen = {z: cells.chosen_features(seen, Cell("zeroed", 7, zeroed=z)) for z in losses}
    assert chosen["largest"] == [29, 28, 27, 26, 25, 24, 23]
    assert chosen["outliers"] == [5]
    for random, special in (("random", "largest"), ("as many", "outliers")):
        assert len(set(chosen[random])) == len(chosen[special])
        assert not set(chosen[random]) & {5, *chosen["largest"]}


def test_bytes_of_the_layers_and_of_the_whole_net():
    numbers = {"int8": 51, "float16": 100, "rest_parameters": 25}
    found = rows((Cell("bytes", 0, "smollm2"), numbers))
    assert study.bytes_over_half_precision(found) == pytest.approx(0.51)
    assert study.whole_net_over_half_precision(found) == pytest.approx(101 / 150)


def test_a_statistic_misses_an_arm_by_name():
    for statistic in study.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


def test_planting_leaves_the_function_and_lifts_the_drawn_features_only():
    net = shipped_net("char_gpt")
    cell = Cell("planted", 0, scale=16, features=2, layers=0.5)
    other = cells.planted(net, cell)
    assert torch.equal(net(TOKENS), other(TOKENS))
    before, after = (cells.inputs_of(n, TOKENS) for n in (net, other))
    moved = {}
    for path in decoder(net).linears:
        ratio = after[path].abs().amax(0) / before[path].abs().amax(0)
        moved[path] = (ratio > 2).nonzero().flatten().tolist()
    assert moved["blocks.0.up"] == moved["blocks.2.attention.query"] == []
    assert moved["blocks.1.up"] == moved["blocks.3.attention.query"] == cells.drawn(128, cell)
    assert moved["blocks.1.down"] == []
    assert cells.planted(net, Cell("planted", 0)) is net


def test_replicates_draw_other_features_and_read_other_text():
    draws = {tuple(cells.drawn(128, Cell("planted", s))) for s in range(study.SEEDS)}
    assert len(draws) == study.SEEDS
    assert all(len(set(d)) == 6 for d in draws)
    task = load_task("char_gpt")
    parts = [cells.characters(s)[0] for s in range(study.SEEDS)]
    assert sum(map(len, parts)) == len(task.test)
    assert len({tuple(w.tolist()) for part in parts for w in part}) == len(task.test)
    pilot, _ = cells.characters(cells.PILOT)
    assert torch.equal(pilot, task.val.x[cells.PILOT % cells.PARTS :: cells.PARTS])
    assert min(study.REPLICATES) >= cells.PILOT > study.SEEDS


def test_a_cell_measures_what_the_nets_lose(monkeypatch):
    monkeypatch.setattr(cells, "PARTS", 200)
    cell = Cell("planted", 0, scale=64)
    numbers = measure(SLUG, cell, "digest")
    net = cells.planted(shipped_net("char_gpt"), cell)
    x, y = cells.characters(0)
    small = cells.eight_bit(net, cells.VECTOR, cell)
    lost = (window_losses(small, x, targets=y) - window_losses(net, x, targets=y)).mean()
    assert numbers["added"][cells.VECTOR] == pytest.approx(float(lost), abs=1e-5)
    assert set(numbers["added"]) == set(numbers["errors"]) == set(method.KINDS)
    # 6 of 128 features at 4 of 6 linears of a block, none before out and down; a few of its own
    assert 4 / 6 * 6 / 128 <= numbers["in_16_bit"] < 4 / 6 * 6 / 128 + 0.01


@pytest.fixture
def tiny_text(monkeypatch, tmp_path):
    """The language model's arms on the character model, with a cache of their own."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    net, x = shipped_net("char_gpt"), load_task("char_gpt").val.x
    monkeypatch.setattr(cells, "language_model", lambda: (net, x))
    monkeypatch.setattr(cells, "ZEROED", 3)
    return net, x


def test_arms_of_the_real_model(tiny_text):
    net, x = tiny_text
    plain = measure(SLUG, Cell("text", 2, kind=cells.FP32), "digest")
    assert plain["losses"] == pytest.approx(window_losses(net, x[16:24]).tolist(), abs=1e-4)
    cell = Cell("text", 2, kind=cells.VECTOR, scale=64)
    assert needed(cell) == (cells.FEATURES_OF_SMOLLM2,)
    found = measure(SLUG, cell, "digest")
    assert found["log_perplexity"] > plain["log_perplexity"]
    seen = cells.seen_features(Context(SLUG, cell, "digest"))
    sizes = [seen["largest_of"][i] for i in cells.drawn(128, cell)]
    assert found["largest"] == pytest.approx(64 * max(sizes))
    gone = measure(SLUG, Cell("zeroed", 2, zeroed="largest"), "digest")
    assert gone["features"] == torch.tensor(seen["largest_of"]).topk(3).indices.tolist()
    assert len(gone["losses"]) == cells.HALF
    assert gone["log_perplexity"] > sum(plain["losses"][: cells.HALF]) / cells.HALF


def test_bytes_are_those_of_the_files(tiny_text):
    net, _ = tiny_text
    numbers = measure(SLUG, Cell("bytes", 0, "smollm2"), "digest")
    linears = [net.get_submodule(p) for p in decoder(net).linears]
    inside = sum(p.numel() for m in linears for p in m.parameters())
    assert numbers["rest_parameters"] == sum(p.numel() for p in net.parameters()) - inside
    weights = sum(m.weight.numel() for m in linears)
    assert 2 * weights < numbers["float16"] < 2.1 * weights
    assert weights < numbers["int8"] < 1.1 * weights
    assert numbers["int8_and_float16"] > 3 * weights
    json.dumps(numbers)


def test_the_explored_product_is_the_methods_own():
    X, W = cells.explored_product(16)
    token = cells.explored_token()
    for kind in cells.EXPLORED_KINDS:
        found = cells.explored_setting(X, W, kind, 6.0, token)
        C = method.KINDS[kind](X, W)
        assert found["error"] == pytest.approx(float((C - X @ W).norm() / (X @ W).norm()), rel=0.01)
        steps = [abs(a - b) for a, b in zip(found["value"], found["rounded"], strict=True)]
        assert max(steps) < (0.03 if kind == cells.LLM else 2)
        assert found["zeros"] == sum(v == 0 for v in found["rounded"])
    strict = cells.explored_setting(X, W, cells.LLM, 3.0, token)
    loose = cells.explored_setting(X, W, cells.LLM, math.inf, token)
    assert strict["outliers"] >= len(cells.drawn(128, Cell("explore", 0)))
    assert loose["outliers"] == 0
    assert loose["error"] == cells.explored_setting(X, W, cells.VECTOR, 6.0, token)["error"]


def test_without_planting_hardly_a_feature_reaches_six():
    """The character model has no outlier features of its own, so what is planted is all."""
    x, _ = cells.characters(0)
    inputs = cells.inputs_of(shipped_net("char_gpt"), x[:16])
    over = [int((X.abs().amax(0) >= method.ALPHA).sum()) for X in inputs.values()]
    assert sum(over) <= 2


# ---- the committed study


def test_recorded_chunks_are_windows_of_one_text():
    for r in (r for r in recorded(SLUG) if "losses" in r.numbers):
        windows = cells.HALF if r.config["arm"] == "zeroed" else cells.CHUNK
        assert len(r.numbers["losses"]) == windows
        mean = sum(r.numbers["losses"]) / windows
        assert r.numbers["log_perplexity"] == pytest.approx(mean, abs=1e-5)


def test_recorded_planting_did_not_change_the_net():
    losses = {}
    for r in (r for r in recorded(SLUG) if r.config["arm"] == "planted"):
        losses.setdefault(r.seed, []).append(r.numbers["loss"])
    assert len(losses) == study.SEEDS
    assert all(max(x) - min(x) < 1e-5 for x in losses.values())
