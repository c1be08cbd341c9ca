import math

import pytest
import torch

from survey_lib.cards.card import read_card
from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record, study
from survey_lib.experiments import llm_int8 as experiment
from survey_lib.experiments import runner
from survey_lib.measure.perplexity import window_losses
from survey_lib.mechanics.decoder import decoder
from survey_lib.methods.llm_int8 import method
from survey_lib.tasks.dense import seeded, shipped_net
from survey_lib.tasks.task import load_task

SLUG = "llm_int8"
TOKENS = torch.arange(64).view(2, 32)


def record(cell, **numbers):
    return Record(SLUG, "study", runner.plain(cell), cell.seed, str(cell), "done", numbers)


def planted(added, seed=0, **options):
    return record(experiment.Cell("planted", seed, **options), added=added)


def test_every_quick_cell_has_its_twin_in_the_study():
    quick, whole = set(experiment.grid("quick")), set(experiment.grid("study"))
    assert quick <= whole
    assert set(experiment.grid("smoke")) <= whole
    assert len(whole) == len(experiment.grid("study"))


def test_every_claim_has_its_statistic():
    names = {claim.statistic for claim, f in runner.claims_and_statistics(SLUG) if f}
    assert names == set(experiment.STATISTICS)


def test_every_row_of_the_papers_table_is_read_and_four_on_the_whole_text():
    (reported,) = [t for t in read_card(SLUG).reported if t.id == "perplexity"]
    assert tuple(row[0] for row in reported.rows) == experiment.KINDS
    cells = [c for c in experiment.grid("study") if c.arm == "table"]
    for kind in experiment.KINDS:
        chunks = experiment.CHUNKS if kind in experiment.FEW else experiment.PART
        assert [c.seed for c in cells if c.kind == kind] == list(range(chunks))


def test_smoke_needs_no_large_model():
    assert {c.net for c in experiment.grid("smoke")} == {"char_gpt"}


def test_statistics_of_planted_nets():
    kinds = (experiment.ABSMAX, experiment.ZEROPOINT, experiment.ROW, experiment.VECTOR,
             experiment.LLM, experiment.LLM_ZEROPOINT)  # fmt: skip
    rows = [
        planted(dict.fromkeys(kinds, 0.0) | {experiment.LLM: 0.001 * i}, scale=s)
        for i, s in enumerate(experiment.SCALES[:-1])
    ]
    rows.append(planted(dict(zip(kinds, (2, 1, 0.7, 0.6, 0.002, 0.001), strict=True)),
                        scale=experiment.LARGEST))  # fmt: skip
    with pytest.raises(MissingArm):
        experiment.absmax_over_zeropoint(rows)  # the two-sided form must not stand in
    rows.append(planted(dict(zip(kinds, (5, 4.5, 0, 0, 0.03, 0.01), strict=True)),
                        scale=experiment.LARGEST, shift=experiment.SHIFT))  # fmt: skip
    assert experiment.worst_decomposition_loss(rows) == pytest.approx(0.005)
    assert experiment.vector_wise_loss(rows) == pytest.approx(0.6)
    assert experiment.row_wise_over_vector_wise(rows) == pytest.approx(0.1)
    assert experiment.absmax_over_zeropoint(rows) == pytest.approx(0.5)
    assert experiment.absmax_over_zeropoint_decomposed(rows) == pytest.approx(0.02)
    with pytest.raises(MissingArm):
        experiment.worst_decomposition_loss(rows[1:])


def test_statistics_of_the_real_model():
    def zeroed(which, loss, seed=3):
        cell = experiment.Cell("zeroed", seed, "smollm2", zeroed=which)
        return record(cell, log_perplexity=loss)

    rows = [zeroed("largest", 9.0), zeroed("random", 3.5), zeroed("outliers", 7.0)]
    assert experiment.outliers_over_random(rows) == pytest.approx(5.5)
    with pytest.raises(MissingArm):
        experiment.outliers_over_random(rows[1:])
    rows = [record(experiment.Cell("bytes", 0, "smollm2"), int8=51, float16=100)]
    assert experiment.bytes_over_half_precision(rows) == pytest.approx(0.51)


def test_planting_leaves_the_function_and_lifts_the_chosen_features_only():
    net = shipped_net("char_gpt")
    cell = experiment.Cell("planted", 0, scale=16, features=2, layers=0.5)
    other = experiment.planted(net, cell, seeded(0, 3))
    assert torch.equal(net(TOKENS), other(TOKENS))
    before, after = (experiment.inputs_of(n, TOKENS) for n in (net, other))
    moved = {}
    for path in decoder(net).linears:
        ratio = after[path].abs().amax(0) / before[path].abs().amax(0)
        moved[path] = set((ratio > 2).nonzero().flatten().tolist())
    layers = {path: len(found) for path, found in moved.items()}
    assert layers["blocks.0.up"] == layers["blocks.2.attention.query"] == 0
    assert layers["blocks.1.up"] == layers["blocks.3.attention.query"] == 2
    assert layers["blocks.1.down"] == 0
    assert len(experiment.planted_features()) == experiment.FEATURES
    all_six = experiment.planted(net, experiment.Cell("planted", 0, scale=2), seeded(0, 3))
    ratio = experiment.inputs_of(all_six, TOKENS)["blocks.1.up"] / before["blocks.1.up"]
    assert (ratio[0] == 2).nonzero().flatten().tolist() == experiment.planted_features()


def test_a_cell_measures_what_the_nets_lose(monkeypatch):
    monkeypatch.setattr(experiment, "EVERY", 100)
    cell = experiment.Cell("planted", 0, scale=64)
    numbers = experiment.run(cell)
    net, x, y = experiment.character_net(cell)
    small = experiment.eight_bit(net, experiment.VECTOR, cell)
    lost = (window_losses(small, x, targets=y) - window_losses(net, x, targets=y)).mean()
    assert numbers["added"][experiment.VECTOR] == pytest.approx(float(lost), abs=1e-5)
    assert set(numbers["added"]) == set(numbers["errors"]) == set(method.KINDS)
    assert numbers["llm_int8"] == pytest.approx(numbers["added"][experiment.LLM], abs=1e-6)
    # 6 of 128 features at 4 of 6 linears of a block, none before out and down
    assert numbers["in_16_bit"] == pytest.approx(4 / 6 * 6 / 128)


def test_without_outliers_every_feature_is_in_eight_bits():
    net, x, _ = experiment.character_net(experiment.Cell("planted", 0))
    largest = max(float(X.abs().max()) for X in experiment.inputs_of(net, x[:4]).values())
    assert largest < method.ALPHA


def test_the_explored_product_is_the_methods_own():
    X, W = experiment.explored_product(16)
    assert load_task("char_gpt").build(seeded(0)).get_submodule(experiment.EXPLORED) is not None
    token = experiment.explored_token()
    for kind in experiment.EXPLORED_KINDS:
        found = experiment.explored_setting(X, W, kind, 6.0, token)
        C = method.KINDS[kind](X, W)
        assert found["error"] == pytest.approx(float((C - X @ W).norm() / (X @ W).norm()), rel=0.01)
        steps = [abs(a - b) for a, b in zip(found["value"], found["rounded"], strict=True)]
        assert max(steps) < (0.02 if kind == experiment.LLM else 2)
    strict = experiment.explored_setting(X, W, experiment.LLM, 3.0, token)
    loose = experiment.explored_setting(X, W, experiment.LLM, math.inf, token)
    assert strict["outliers"] >= experiment.FEATURES
    assert loose["outliers"] == 0
    assert (
        loose["error"] == experiment.explored_setting(X, W, experiment.VECTOR, 6.0, token)["error"]
    )


# ---- the committed study


def test_the_committed_study_covers_the_grid_and_every_claim_is_judged():
    recorded = {r.key for r in study(SLUG)}
    wanted = {runner.cell_key(SLUG, c) for c in experiment.grid("study")}
    assert recorded == wanted
    words = {v.claim.id: v for v in runner.verdicts(SLUG)}
    assert len(words) == len(read_card(SLUG).claims)
    assert all(v.interval is not None for v in words.values() if not v.claim.not_tested)
    assert not any(v.changed for v in words.values())


def test_recorded_chunks_are_windows_of_one_text():
    rows = [r for r in study(SLUG) if "losses" in r.numbers]
    assert all(len(r.numbers["losses"]) == experiment.CHUNK for r in rows)
    for r in rows:
        mean = sum(r.numbers["losses"]) / experiment.CHUNK
        assert r.numbers["log_perplexity"] == pytest.approx(mean, abs=1e-5)


def test_recorded_planting_did_not_change_a_net():
    losses = {}
    for r in study(SLUG):
        if r.config["arm"] == "planted" and r.config["net"] == "char_gpt":
            losses.setdefault(r.seed, []).append(r.numbers["loss"])
    assert len(losses) == experiment.SEEDS
    assert all(max(x) - min(x) < 1e-6 for x in losses.values())
