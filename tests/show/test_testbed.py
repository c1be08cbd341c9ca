"""The testbed's figures, tables and explorer, from made-up records of the right shape."""

import inspect
import json
import math
import re

import pandas as pd
import pytest

from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import INCONCLUSIVE, NOT_TESTED, REPRODUCED, Verdict
from survey_lib.experiments.common_testbed import grid
from survey_lib.experiments.common_testbed.cells import Cell, budget_of, config_of, task_of
from survey_lib.methods.contract import METHODS
from survey_lib.show import page
from survey_lib.show.explorers import common_testbed as made
from survey_lib.show.frames import mean_over
from survey_lib.show.markup import Html
from survey_lib.show.testbed import figures, frames, sentences, tables
from survey_lib.tasks.dense import seeded
from tests.testbed import made_up, record

NET, KEEP = "resnet_small", grid.SMALL
HEAVIEST = 450_000
"""Bytes of the explorer with all pieces; repeated words that a server packs tenfold."""


@pytest.fixture(scope="module")
def first():
    """Records of the first piece alone."""
    return made_up("resnet")


@pytest.fixture(scope="module")
def every():
    """Records of all pieces."""
    return made_up(*(p.name for p in grid.PIECES))


@pytest.fixture(autouse=True)
def opened(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    page.begin("common_testbed", "quick")


def pair(name, keep, epochs, *scores):
    return [
        record(Cell("method", seed, NET, name, keep=keep, epochs=epochs),
               test_re=a, test=a, bytes=100, macs_nonzero=10, nonzeros=10)
        for seed, a in enumerate(scores)
    ]  # fmt: skip


def dense():
    return [record(Cell("dense", s, NET), test_re=0.9, test=0.9, bytes=400, macs=20,
                   macs_nonzero=20, nonzeros=40) for s in range(3)]  # fmt: skip


def test_each_method_stands_beside_int8_at_its_best_size_that_fits():
    def text(method, seed, size, test, **more):
        cell = Cell("method" if method else "dense", seed, frames.TEXT, method, **more)
        return record(cell, val=test - 0.1, test=test, bytes=size)

    records = []
    for seed, luck in enumerate((0.0, 0.02)):
        tuned = {"epochs": 0.25, "lr": 0.01}
        records += [
            text("", seed, 400, 1.5 + luck),
            text("llm_int8", seed, 120, 1.51 + luck, knob=1.0),
            text("l1", seed, 200, 1.52 + luck, keep=0.5, **tuned),  # too large
            text("l1", seed, 110, 1.61 + luck, keep=0.35, **tuned),
            text("l1", seed, 60, 1.71 + luck, keep=0.2, **tuned),
            text("magnitude", seed, 120, 1.63 + luck, keep=0.3, **tuned),
            text("magnitude", seed, 100, 1.60 + 2 * luck, keep=0.2, **tuned),
            text("random", seed, 130, 1.55 + luck, keep=0.35, **tuned),  # a little too large
            record(Cell("shape", seed, frames.TEXT, keep=0.5, how="inherited", **tuned),
                   val=1.6, test=1.7 + luck, bytes=110),
        ]  # fmt: skip
    found = frames.within_int8(frames.nets(records)).set_index("method")
    assert dict(found.keep) == {"l1": 0.35, "magnitude": 0.2, "inherited": 0.5}
    shares = {"l1": 110 / 400, "magnitude": 0.25, "inherited": 110 / 400}
    assert dict(found.share) == pytest.approx(shares)
    gaps = {"l1": 0.1, "magnitude": 0.1, "inherited": 0.19}  # pairs, not means
    assert dict(found.gap) == pytest.approx(gaps)
    assert found.gap_high["l1"] == pytest.approx(0.1)
    assert found.gap_high["magnitude"] > 0.15
    assert frames.within_int8(frames.nets(records[:1])).empty
    html = tables.text_table(frames.nets(records)).html  # ℓ1 alone has nets at half, and the shape
    assert "1.530" in html
    assert "1.710" in html
    assert "ℓ1 within equal shares" in html
    assert "0.100" in html
    assert "magnitude" not in html


def test_a_found_size_stands_beside_the_best_told_one_replicate_by_replicate():
    def net(name, seed, size, val, test, **more):
        cell = Cell("method", seed, NET, name, epochs=6.0, lr=0.1, **more)
        return record(cell, val_re=val, test_re=test, test=test, bytes=100, macs=size,
                      macs_nonzero=size, nonzeros=size)  # fmt: skip

    found = [
        *dense(),
        *[net("l1", s, 10, 0.80, 0.80 + s / 100, keep=0.5) for s in range(3)],
        *[net("l2", s, 10, 0.79 + s / 50, 0.90, keep=0.5) for s in range(3)],  # best but in one
        *[net("l1", s, 19, 0.99, 0.99, keep=0.95) for s in range(3)],  # too large
        *[net("magnitude", s, 10, 0.99, 0.99, keep=0.5) for s in range(3)],  # single weights
        *[net("soft_movement", s, 12, 0.8, 0.85, knob=1.0) for s in range(3)],
        *[net("soft_movement", s, 4, 0.8, 0.6, knob=4.0) for s in range(3)],  # none is as small
        *[net("lobster", s, 12, 0.8, 0.97, knob=1.0) for s in range(3)],
        *[net("soft_movement", s, 20, 0.8, 0.9, knob=0.25) for s in range(3)],  # took nothing
    ]
    table = frames.found_sizes(frames.nets(found)).set_index(["method", "knob"])
    assert dict(table.share) == pytest.approx({
        ("soft_movement", 0.25): 100, ("soft_movement", 1.0): 60, ("soft_movement", 4.0): 20,
        ("lobster", 1.0): 30,
    })  # fmt: skip
    assert table.told["soft_movement", 1.0] == pytest.approx(100 * (0.80 + 0.90 + 0.90) / 3)
    assert table.gap["soft_movement", 1.0] == pytest.approx((-5 + 5 + 5) / 3)
    assert table.gap_low["soft_movement", 1.0] < 0 < table.gap_high["soft_movement", 1.0]
    assert all(math.isnan(table.gap["soft_movement", knob]) for knob in (0.25, 4.0))
    assert table.gap["lobster", 1.0] == pytest.approx(2.0)
    assert frames.found_sizes(frames.nets(dense())).empty
    words = str(sentences.found_words(found))
    assert "at the default of each knob, +1.8 points" in words
    assert "in the median of methods and settings, +1.8 points" in words
    assert sentences.found_words(dense()) is None
    html = tables.found_table(frames.nets(found)).html
    assert "1.67" in html
    assert "nan" not in html


def test_the_best_method_is_held_against_equal_shares_net_by_net(first):
    told = str(sentences.over_shares_words(first))
    assert "leads it by" in told
    assert "points, [" in told
    assert "on the residual net" in told
    assert "depthwise" not in told  # not run in the first piece
    assert sentences.over_shares_words(dense()) is None


def test_a_lead_is_paired_and_a_tie_is_said_as_one():
    records = [*dense(), *pair("l1", 0.5, 6.0, 0.80, 0.70, 0.60),
               *pair("fisher", 0.5, 6.0, 0.81, 0.7101, 0.6099),
               *pair("taylor", 0.5, 6.0, 0.85, 0.70, 0.55),
               *pair("random", 0.5, 6.0, 0.78, 0.6801, 0.5799)]  # fmt: skip
    found = frames.leads(frames.nets(records), NET, 0.5, 6.0)
    assert "l1" not in found.index
    assert found.loc["fisher", "mean"] == pytest.approx(1.0)
    assert dict(found.word) == {"fisher": "better", "taylor": "tie", "random": "worse"}
    told = sentences.counted(frames.nets(records), NET, 0.5)
    assert "after full tuning 1 of 3 methods are better than ℓ1, 1 worse and 1 tie" in told


def test_untuned_fresh_weights_have_no_lead(first):
    df = frames.nets(first)
    assert "rethinking" not in frames.leads(df, NET, KEEP, 0.0).index
    assert "rethinking" in frames.leads(df, NET, KEEP, grid.FULL).index


def test_shares_are_of_the_dense_net_of_the_same_replicate():
    df = frames.nets([*dense(), *pair("l1", 0.5, 6.0, 0.8)])
    row = df[df.method == "l1"].iloc[0]
    assert (row["of MACs"], row["of parameters"], row["of bytes"]) == (0.5, 0.25, 0.25)
    assert math.isnan(row["of milliseconds"])


def test_the_front_holds_what_nothing_smaller_beats():
    records = [*dense()]
    for name, keep, share, score in (("l1", 0.5, 10, 0.8), ("l2", 0.5, 12, 0.79),
                                     ("fisher", 0.15, 4, 0.7)):  # fmt: skip
        cell = Cell("method", 0, NET, name, keep=keep, epochs=6.0)
        records.append(record(cell, test_re=score, test=score, macs_nonzero=share))
    found = frames.pareto_points(frames.nets(records), NET, "MACs").set_index("method")
    assert dict(found.front) == {"l1": True, "l2": False, "fisher": True}


def test_nets_stand_side_by_side_in_the_order_of_the_first(every):
    df = frames.nets(every)
    fig, data = figures.nets_figure(df, (NET, "mobilenet_small"), KEEP)
    left, right = fig.axes
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["residual net", "depthwise net"]
    rows = [t.get_text() for t in left.get_yticklabels()]
    first = data[data.net == NET].set_index("label")["mean"]
    assert [first[r] for r in rows if r in first] == sorted(first, reverse=True)
    own = frames.leads(df, "mobilenet_small", KEEP, grid.FULL, even=True)
    assert dict(data[data.net == "mobilenet_small"]["mean"]) == dict(own["mean"])
    alone = frames.leads(df, "mobilenet_small", KEEP, grid.FULL)
    assert set(own.index) == {*alone.index, "inherited"}
    assert "ℓ1 within equal shares" in rows
    assert left.get_xlim() == right.get_xlim()


def test_methods_that_fell_stand_at_the_edge_as_numbers():
    records = [*dense(), *pair("l1", KEEP, 6.0, 0.80, 0.80), *pair("thinet", KEEP, 6.0, 0.82, 0.83),
               *pair("taylor", KEEP, 6.0, 0.41, 0.39)]  # fmt: skip
    fig, data = figures.nets_figure(frames.nets(records), (NET,), KEEP)
    (ax,) = fig.axes
    (far,) = ax.texts
    assert far.get_text() == "← −40"
    assert ax.get_yticklabels()[far.get_position()[1]].get_text() == "raw Taylor"
    assert ax.get_xlim()[0] > -5
    assert data["mean"]["taylor"] == pytest.approx(-40)


def test_what_kept_weights_are_worth_stands_beside_the_winner_of_each_replicate(every):
    def net(name, seed, val, score):
        cell = Cell("method", seed, NET, name, keep=KEEP, epochs=grid.FULL)
        return record(cell, val_re=val, test_re=score, test=score, bytes=1, macs_nonzero=1,
                      nonzeros=1)  # fmt: skip

    records = [*dense()]
    for seed, (one, other) in enumerate([(0.9, 0.8), (0.7, 0.8), (0.9, 0.8)]):
        records += [net("l1", seed, one, 0.5), net("taylor", seed, other, 0.6),
                    net("rethinking", seed, 1.0, 0.7)]  # fmt: skip
        shape = Cell("shape", seed, NET, keep=KEEP, how="b", epochs=9.0)
        records.append(record(shape, test_re=0.8, test=0.8, bytes=1, macs_nonzero=1, nonzeros=1))
    found = frames.freshness(frames.nets(records), NET, KEEP)
    # ℓ1, Taylor, ℓ1: fresh weights are no rival; "e" and "inherited" were not run
    assert dict(found["mean"].round(9)) == {
        "best": round(100 * (0.5 + 0.6 + 0.5) / 3, 9), "l1": 50, "rethinking": 70, "b": 80,
    }  # fmt: skip
    fig, data = figures.freshness_figure(frames.nets(every), NET, (0.5, KEEP))
    rows = [t.get_text() for t in fig.axes[0].get_yticklabels()]
    assert rows == list(frames.FRESHNESS.values())
    assert len(data) == 2 * len(rows)


def test_single_weights_are_drawn_by_size_and_length(every):
    df = frames.nets(every)
    fig, data = figures.sizes_figure(df, NET, "weights", (0.0, grid.FULL))
    assert set(data.method) == set(grid.able(NET, "weights", "budget"))
    last = {line.get_label(): line for line in fig.axes[1].lines}
    drawn = last[frames.label("magnitude")]
    own = data[(data.method == "magnitude") & (data.epochs == grid.FULL)].sort_values("keep")
    assert list(drawn.get_xdata()) == list(own.keep)
    assert list(drawn.get_ydata()) == pytest.approx(list(100 * own["mean"]))
    assert fig.axes[0].get_xlim()[0] > fig.axes[0].get_xlim()[1]  # the dense net stands left


def test_a_language_model_has_less_loss_higher_up_and_eight_bits_beside_it(every):
    df = frames.nets(every)
    found = frames.pareto_points(df, "char_gpt", "bytes", 0.25)
    assert set(found.kind) == {"channels", "weights", "bits"}
    best = found.loc[found.score.idxmin()]
    assert best.front  # nothing has less loss
    fig, _ = figures.pareto_figure(df, "char_gpt", ("bytes",), 0.25)
    (ax,) = fig.axes
    (bits,) = [line for line in ax.lines if line.get_label() == "bits"]
    (whole,) = [line for line in ax.lines if line.get_label() == "_dense"]
    dense = df[(df.arm == "dense") & (df.net == "char_gpt")].score.mean()
    assert whole.get_ydata()[0] == pytest.approx(-dense)
    assert list(bits.get_ydata()) == pytest.approx([-s for s in found[found.kind == "bits"].score])
    fig.canvas.draw()
    assert all(float(t.get_text()) > 0 for t in ax.get_yticklabels() if t.get_text())
    assert "nats" in ax.get_ylabel()


def test_masks_save_no_time_and_are_not_timed(every):
    df = frames.nets(every)
    assert "weights" in set(frames.pareto_points(df, NET, "bytes").kind)
    assert "weights" not in set(frames.pareto_points(df, NET, "milliseconds").kind)


def test_an_order_is_held_against_itself_first(first, every):
    found = frames.agreements(frames.nets(first), grid.HALF)
    itself = [words for words in found.pair if words.startswith("itself: ")]
    assert itself == list(found.pair[:3])
    assert itself == ["itself: untuned", "itself: tuned", "itself: 15 %, tuned"]
    assert found["mean"][0] > 0.9  # made up so: methods differ before tuning
    assert abs(found["mean"][1]) < 0.7  # and hardly after it
    assert not any("depthwise" in words for words in found.pair)
    more = frames.agreements(frames.nets(every), grid.HALF)
    assert "residual, and depthwise net: tuned" in set(more.pair)
    assert "residual, and depthwise net: 15 %, tuned" in set(more.pair)
    assert {"itself: depthwise net, tuned", "itself: depthwise net, 15 %, tuned"} < set(
        more.pair[:7]
    )
    assert "1 epoch, and 6 epochs" in set(more.pair)
    assert max(map(len, more.pair)) < 45  # the labels leave the figure its room
    assert (more.seeds == grid.SEEDS).all()


def test_figures_are_drawn_from_the_first_piece_and_from_all(first, every):
    from survey_lib.show.figure import figure

    for records in (first, every):
        df = frames.nets(records)
        drawn = {
            "leads": figures.lead_figure(df, NET, grid.HALF),
            "length": figures.tuning_figure(df, NET, KEEP),
            "sizes": figures.pareto_figure(df, NET, ("MACs", "parameters")),
            "shapes": figures.shape_figure(df, NET, KEEP),
            "prices": figures.pareto_figure(df, NET, ("bytes", "milliseconds")),
        }
        found = frames.agreements(df, KEEP)
        drawn["agreement"] = (figures.agreement_figure(found), found)
        for name, (fig, data) in drawn.items():
            shown = figure(fig, name, alt="Points.", caption="See.", data=data)
            assert len(data), name
            assert "<svg" in shown.html


def test_the_board_says_tie_and_has_every_method(every):
    html = tables.board_table(frames.nets(every), NET).html
    for name in grid.methods(grid.PIECES[0]):
        assert METHODS[name].label in html
    assert "<td>tie</td>" in html
    assert "milliseconds" in html


def test_the_page_says_which_pieces_are_there(first):
    html = tables.pieces_table(first).html
    assert html.count("<td>run</td>") == len(grid.RUN)
    assert html.count("<td>planned</td>") == len(grid.PIECES) - len(grid.RUN)
    assert "<td>run</td>" not in tables.pieces_table([]).html


def test_a_method_that_joined_after_the_runs_is_named():
    known = made_up()
    fewer = [r for r in known if r.config["method"] != "taylor"]
    assert frames.to_come(fewer) == ["taylor"]
    assert "still to be run: raw Taylor." in tables.pieces_table(fewer).html
    assert "Joined since" not in tables.pieces_table(known).html


def test_the_board_has_the_dense_net_and_one_shape_beside_the_methods(every):
    html = tables.board_table(frames.nets(every), NET).html
    for words in frames.BESIDE.values():
        assert words in html
    row = html.split("fresh weights, equal MACs</th>")[1].split("</tr>")[0]
    assert "interval" in row  # its lead


def test_refusals_are_told_once_in_their_own_words():
    no = {"refused": "l1: too small"}
    records = [record(Cell("method", s, NET, "l1", keep=0.1), **no) for s in range(3)]
    assert frames.refusals(records).why.tolist() == ["l1: too small"]
    assert frames.nets(records).empty


def test_a_sentence_is_chosen_by_the_word_and_was_written_before(monkeypatch):
    from survey_lib.cards.card import read_card

    claim = read_card("common_testbed").claim("order-turns")
    texts = {"reproduced": "Yes, {mean}.", "not_reproduced": "No.", "inconclusive": "Perhaps."}

    def told(verdict):
        monkeypatch.setitem(page.CONTEXT.verdicts, claim.id, verdict)
        return sentences.say_as_found(claim.id, **texts).text

    assert "Yes, 0.20" in told(Verdict(claim, REPRODUCED, Interval(0.2, 0.1, 0.3, 5)))
    assert "Perhaps." in told(Verdict(claim, INCONCLUSIVE, Interval(0.5, 0.1, 0.9, 5)))
    monkeypatch.setitem(page.CONTEXT.verdicts, claim.id, Verdict(claim, NOT_TESTED))
    assert sentences.say_as_found(claim.id, **texts) is None  # the table of pieces says it


def test_only_the_sentences_that_are_there_are_shown(monkeypatch):
    shown = []
    monkeypatch.setattr(sentences, "display", lambda *them: shown.extend(them))
    one = Html("<p>One.</p>", "One.")
    sentences.tell(None, one, None)
    assert shown == [one]


def test_the_widths_on_the_page_are_those_of_the_net_that_a_method_gives(monkeypatch):
    task = task_of(Cell("dense", 0, NET))
    net = task.build(seeded(0)).eval()
    monkeypatch.setattr(tables, "dense_net", lambda task, seed: net)
    shown = tables.widths_table(NET, KEEP, ["l1", "random"]).text
    for name in ("l1", "random"):
        cell = Cell("method", 0, NET, name, keep=KEEP)
        small = (
            METHODS[name]
            .compress(
                net, task, budget_of(cell), config_of(cell), tuning=None, generator=seeded(0, 1)
            )
            .model
        )
        column = {"l1": 2, "random": 3}[name]
        rows = re.findall(r"(\S+) +(\d+) +(\d+) +(\d+)\n", shown + "\n")
        assert len(rows) > 4
        for row in rows:
            assert int(row[column]) == small.get_submodule(row[0]).weight.shape[0]
            assert int(row[1]) == net.get_submodule(row[0]).weight.shape[0]


def test_a_starved_net_is_told_by_its_parameters_and_its_fall():
    def net(cell, share, score):
        size = {"params": share, "nonzeros": share, "bytes": 4 * share}
        return record(cell, test=score, test_re=score, macs_nonzero=15, **size)

    def method(name, seed):
        return Cell("method", seed, NET, name, keep=KEEP, epochs=grid.FULL)

    records = []
    for s in range(3):
        whole = Cell("dense", s, NET)
        records.append(
            record(whole, test=0.9, test_re=0.9, macs_nonzero=99, nonzeros=100, bytes=400)
        )
        shape = Cell("shape", s, NET, keep=KEEP, how="inherited", epochs=grid.FULL)
        records += [
            net(method("l1", s), 20, 0.80 + 0.01 * s), net(method("l2", s), 5, 0.5),
            net(shape, 30, 0.848 + 0.012 * s), net(method("random", s), 30, 0.849 + 0.011 * s),
        ]  # fmt: skip
    df = frames.nets(records)
    found = frames.shapes(df, NET, KEEP)
    assert found.index.tolist() == ["l2", "l1", "random"]  # fewest parameters first
    assert found.parameters.tolist() == pytest.approx([5, 20, 30])
    assert found.fallen.tolist() == [True, False, False]
    fig, _ = figures.pareto_figure(df, NET, ("parameters",))
    (edge,) = [line for line in fig.axes[0].lines if line.get_label() == "_below"]
    assert list(edge.get_xdata()) == pytest.approx([0.05])  # the one that fell, at the lower edge
    assert edge.get_ydata()[0] == fig.axes[0].get_ylim()[0] == pytest.approx(81 - frames.FALLEN)
    words = sentences.shape_words(df, NET, KEEP).text
    assert "ℓ2 end more than 10 points below the median method" in words
    assert "at most 5 % of the parameters, the others at least 20 %" in words
    assert "budget for all: +5.00 points [+4.50, +5.50], which is a lead" in words
    assert "Against random channels: 0.00 points [−0.25, +0.25], which is a tie" in words


def test_of_many_lines_only_the_opponents_are_named(every):
    fig, data = figures.sizes_figure(frames.nets(every), NET, "channels", (0.0, grid.FULL))
    untuned, tuned = fig.axes
    assert sorted(data.keep.unique()) == [0.15, 0.3, 0.5, 0.7]
    said = [{str(line.get_label()) for line in ax.lines} - {"_", ""} for ax in (untuned, tuned)]
    assert said[0] == {"dense", "ℓ1", "random"}
    assert said[1] == said[0] | {frames.label("rethinking")}
    for ax, epochs in ((untuned, 0.0), (tuned, grid.FULL)):
        drawn = [line for line in ax.lines if len(line.get_xdata()) == 4]
        assert len(drawn) == data[data.epochs == epochs].method.nunique()
    assert tuned.get_xlabel() == "MACs kept"


def test_one_that_lags_behind_is_named_and_the_spread_told_without_it():
    records = [*dense()]
    # before: 10, 20, 40, 50 %; after one epoch 2 points between three and one far behind
    for name, early, late in (("l1", 0.1, 0.80), ("l2", 0.2, 0.81), ("fisher", 0.4, 0.82),
                              ("taylor", 0.5, 0.60), ("random", 0.9, 0.1)):  # fmt: skip
        records += pair(name, 0.5, 0.0, early, early, early)
        records += pair(name, 0.5, 1.0, late, late, late)
    df = frames.nets(records)
    said = sentences.straggler_words(df, NET, 0.5, 1.0)
    assert said is not None
    assert "Taylor is 20 points behind" in said.text
    # of 1/10, 2/10, 4/10 a deviation of 0.153 was left, of 0.80 to 0.82 one of 0.01
    assert "0.0655 of the spread is left" in said.text
    assert sentences.straggler_words(df, NET, 0.5, 6.0) is None  # not run
    more = [*records, *pair("bn_scale", 0.5, 0.0, 0.3, 0.3, 0.3),
            *pair("bn_scale", 0.5, 1.0, 0.65, 0.65, 0.65)]  # fmt: skip
    both = sentences.straggler_words(frames.nets(more), NET, 0.5, 1.0)
    assert both is not None
    assert "Taylor and batch-norm scale are 20 and 15 points behind the median" in both.text
    assert "Without those that fell in each replicate 0.0655 of the spread is left" in both.text
    near = frames.nets([r for r in records if r.config["method"] != "taylor"])
    assert sentences.straggler_words(near, NET, 0.5, 1.0) is None


# ---- the explorer


def test_every_setting_has_a_row_and_the_page_is_light(first, every):
    for records in (first, every):
        explorer = made.explorer(records)
        fields = [c.field for c in explorer.controls]
        there = set(explorer.grid[fields].drop_duplicates().itertuples(index=False, name=None))
        assert len(there) >= math.prod(len(c.values) for c in explorer.controls)
        assert len(explorer.html().encode()) < HEAVIEST
        wanted = dict.fromkeys(fields) | {"progress": None}
        inspect.signature(explorer.live).bind(**wanted)


def test_it_draws_the_means_of_the_records(first):
    rows = made.points(first)
    df = frames.nets(first)
    some = df[(df.method == "l1") & (df.keep == KEEP) & (df.epochs == grid.FULL)]
    row = rows[(rows.method == "l1") & (rows.keep == KEEP) & (rows.tuning == "6 epochs")
               & (rows.unit == "MACs")].iloc[0]  # fmt: skip
    assert row.accuracy == pytest.approx(some.score.mean(), abs=5e-5)
    assert row.share == pytest.approx(KEEP, abs=1e-3)
    raw = rows[(rows.method == "l1") & (rows.tuning == made.AS_LEFT)].iloc[0]
    left = df[(df.method == "l1") & (df.keep == raw.keep) & (df.epochs == 0)]
    assert raw.accuracy == pytest.approx(left.raw.mean(), abs=5e-5)


def test_the_chart_holds_each_row_once_with_all_units(every):
    explorer = made.explorer(every)
    drawn = explorer.inlined()
    assert len(drawn) < len(explorer.grid) / 3
    fields = ["net", "tuning", "method", "kind", "keep", "accuracy", "low", "high"]
    for unit, rows in explorer.grid.groupby("unit"):
        there = drawn.dropna(subset=[unit]).set_index(fields)[unit]
        assert dict(there) == dict(rows.set_index(fields).share)
    spec = json.dumps(explorer.spec(), ensure_ascii=False)
    assert "datum[c_unit]" in spec
    assert '"thinet\\": \\"ThiNet' in spec
    assert '"thinet\\": \\"thinet.html' in spec


def test_the_numbers_have_a_row_for_each_net_method_and_size(every):
    rows = made.points(every)
    shown = made.numbers(rows)
    places = rows[rows.kind != "dense"][["net", "method", "keep"]].drop_duplicates()
    assert shown.html.count("<tr>") == 1 + len(places) + rows.net.nunique()
    df = frames.nets(every)
    some = df[(df.net == NET) & (df.method == "l1") & (df.keep == KEEP) & (df.epochs == grid.FULL)]
    found = mean_over(100 * some.score)
    (own,) = re.findall(
        rf'<tr><th scope="row">residual net</th><td>ℓ1</td><td>channels</td>'
        rf'<td class="num">{KEEP:.2f}</td>(.*?)</tr>', shown.html
    )  # fmt: skip
    last = re.findall(r">([\d.]+)<span class=.interval.>\[([\d.]+), ([\d.]+)\]", own)[-1]
    wanted = [found["mean"], found.low, found.high]
    assert [float(x) for x in last] == pytest.approx(wanted, abs=0.06)


def test_with_several_nets_the_reader_chooses_one(first, every):
    assert [c.field for c in made.explorer(first).controls] == ["keep", "tuning", "unit"]
    explorer = made.explorer(every)
    switch = explorer.controls[-1]
    assert switch.values == ("resnet_small", "mobilenet_small", "vgg_small")  # no net of text
    assert switch.words("vgg_small") == "VGG-like net"
    rows, df = explorer.grid, frames.nets(every)
    chosen = (rows.method == "l1") & (rows.keep == KEEP) & (rows.tuning == "6 epochs")
    (found,) = rows[chosen & (rows.net == "mobilenet_small") & (rows.unit == "MACs")].accuracy
    own = frames.channel_methods(df, "mobilenet_small")
    own = own[(own.method == "l1") & (own.keep == KEEP) & (own.epochs == grid.FULL)]
    assert found == pytest.approx(own.score.mean(), abs=5e-5)
    assert "datum['net'] === c_net" in json.dumps(explorer.spec())


def test_points_open_chapters_that_are_there(first):
    from survey_lib.cards.card import slugs

    pages = set(made.points(first).page) - {""}
    assert {"thinet.html", "group_fisher.html", "rethinking.html"} <= pages
    assert all(p.startswith("../") or p.removesuffix(".html") in slugs() for p in pages)
    assert made.chapter("lobster") == "role_of_structured.html"
    assert made.chapter("l1").startswith("../book/")


def test_live_it_compresses_by_both_opponents(monkeypatch):
    from dataclasses import replace

    from survey_lib.experiments.common_testbed import cells
    from survey_lib.tasks.task import load_task

    whole = load_task(NET)
    few = replace(whole, data=replace(whole.data, train=whole.val, test=whole.val))
    monkeypatch.setattr(cells, "task_of", lambda cell: few)
    monkeypatch.setattr(made, "dense_net", lambda task, seed: load_task(NET).build(
        made.seeded(seed)).eval())  # fmt: skip
    shown = made.compress(0.5, "6 epochs", "MACs", lambda *_: None, profile="smoke")
    assert "ℓ1" in shown.html
    assert "random" in shown.html
    assert isinstance(made.points(made_up("adapters")), pd.DataFrame)


def test_the_slider_has_the_lengths_at_which_channel_methods_were_run(first):
    more = made_up("resnet", "weights")
    assert 1.0 in set(frames.nets(more).epochs)  # single weights alone
    assert made.tunings(frames.nets(more)) == made.tunings(frames.nets(first))


def test_a_caption_names_the_sizes_that_rates_were_chosen_at(monkeypatch):
    monkeypatch.setitem(grid.TUNED, (NET, "weights"), (0.05, 0.2))
    assert tables.tuned_words(NET, "weights") == "20 % and 5 %"


def test_orders_of_two_nets_are_told_without_the_methods_that_fell():
    names = ("l1", "l2", "fisher", "taylor", "apoz", "bn_scale", "thinet", "random")
    here = (0.80, 0.20, 0.81, 0.60, 0.82, 0.83, 0.84, 0.85)  # ℓ2 and Taylor fall
    there = (0.80, 0.20, 0.85, 0.84, 0.83, 0.82, 0.81, 0.20)  # ℓ2 and random do

    def on(net, scores, shift=0.0):
        return [
            record(Cell("method", seed, net, name, keep=0.15, epochs=6.0), test_re=a + shift * seed,
                   test=a, bytes=100, macs_nonzero=10, nonzeros=10)
            for name, a in zip(names, scores, strict=True) for seed in range(3)
        ]  # fmt: skip

    whole = [record(Cell("dense", s, net), test_re=0.9, test=0.9, bytes=400, macs_nonzero=20,
                    nonzeros=40) for net in (NET, "mobilenet_small") for s in range(3)]  # fmt: skip
    df = frames.nets([*whole, *on(NET, here), *on("mobilenet_small", there)])
    said = sentences.fallen_words(df, (NET, "mobilenet_small"), 0.15)
    assert said is not None
    assert said.text.startswith("ℓ2 ends more than 10 points below the median on both nets; ")
    assert "on one of them random and raw Taylor do" in said.text
    # ℓ1, Fisher, APoZ, bn_scale, ThiNet: ranks 1 2 3 4 5 here and 1 5 4 3 2 there
    assert "a rank correlation of 0," in said.text.replace("0.00", "0")
    assert sentences.fallen_words(df, (NET, "vgg_small"), 0.15) is None  # not run
    stand = frames.nets([*whole, *on(NET, (0.8,) * 8), *on("mobilenet_small", (0.8,) * 8)])
    assert sentences.fallen_words(stand, (NET, "mobilenet_small"), 0.15) is None


def test_who_leads_on_another_net_is_counted_and_named():
    records = [
        *dense(),
        *pair("l1", 0.5, 6.0, 0.80, 0.70, 0.60),
        *pair("thinet", 0.5, 6.0, 0.83, 0.73, 0.631),
        *pair("fisher", 0.5, 6.0, 0.79, 0.70, 0.61),
        *pair("l2", 0.5, 6.0, 0.70, 0.60, 0.501),
    ]
    said = sentences.counted_on(frames.nets(records), NET, 0.5).text
    assert "1 of 3 methods end better than ℓ1, 1 worse, and 1 tie" in said
    assert "In front are ThiNet, " in said
    assert said.endswith("by −10.0 to 3.0 points.")
    every = sentences.counted_over(frames.nets(records), (NET, "vgg_small"), (0.5, 0.15))
    assert [one.text for one in every] == [said]


def test_a_tie_of_nets_that_stand_and_nets_that_fell_is_named():
    records = [
        *dense(),
        *pair("l1", 0.5, 6.0, 0.80, 0.70, 0.60),
        *pair("thinet", 0.5, 6.0, 0.80, 0.71, 0.59),
        *pair("l2", 0.5, 6.0, 0.20, 0.10, 0.60),
    ]
    said = sentences.counted_on(frames.nets(records), NET, 0.5).text
    assert "0 worse, and 2 tie (with ℓ2, fallen on some replicates)." in said


def test_equal_shares_are_told_size_by_size():
    records = [
        *dense(),
        *pair("l1", 0.5, 6.0, 0.80, 0.70, 0.60),
        *pair("l1", 0.15, 6.0, 0.80, 0.70, 0.60),
        *[
            record(Cell("shape", seed, NET, keep=keep, how="inherited", epochs=6.0),
                   test=a, test_re=a, params=1, macs=1, nonzeros=1, macs_nonzero=1, bytes=1)
            for keep, values in ((0.5, (0.81, 0.69, 0.60)), (0.15, (0.82, 0.721, 0.619)))
            for seed, a in enumerate(values)
        ],
    ]  # fmt: skip
    said = sentences.shares_words(frames.nets(records), NET, (0.5, 0.15)).text
    assert (
        "Size by size on the residual net: at 50 % 0.0 points [−2.5, +2.5], which is a tie" in said
    )
    assert "at 15 % +2.00 points [+1.75, +2.25], which is a lead." in said


def test_a_size_that_was_not_run_has_no_shapes():
    records = [*dense(), *pair("l1", 0.5, 6.0, 0.80, 0.70, 0.60)]
    assert frames.shapes(frames.nets(records), NET, 0.15).empty
