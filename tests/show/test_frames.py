import math

import pandas as pd
import pytest

from survey_lib.evidence.reading import study
from survey_lib.evidence.records import Record
from survey_lib.methods import to_prune_or_not as method
from survey_lib.show import page
from survey_lib.show.explorers import to_prune_or_not as chapter
from survey_lib.show.frames import against_dense, frame, mean_over, over_seeds
from survey_lib.show.source import source


def record(seed, value, status="done"):
    config = {"seed": seed, "width": 1.0, "match": None}
    numbers = {"accuracy": value, "width": 7, "curve": [1, 2]}
    return Record("s", "study", config, seed, f"k{seed}", status, numbers)


def test_frames_hold_configuration_and_plain_numbers_of_finished_runs():
    df = frame([record(0, 0.5), record(1, 0.7), record(2, 9.0, "failed")])
    assert df.accuracy.tolist() == [0.5, 0.7]
    assert df.width.tolist() == [1.0, 1.0]  # the configuration is not overwritten
    assert df.number_width.tolist() == [7, 7]
    assert "curve" not in df


def test_means_carry_their_interval_and_missing_keys_count_as_a_group():
    df = frame([record(i, v) for i, v in enumerate((1, 2, 3, 4, 5))])
    (row,) = over_seeds(df, ["width", "match"], "accuracy").to_dict("records")
    assert row["mean"] == 3
    assert row["seeds"] == 5
    assert row["high"] - 3 == pytest.approx(2.7764 * math.sqrt(2.5 / 5), abs=1e-4)
    single = over_seeds(df[:1], ["width"], "accuracy")
    assert pd.isna(single.low[0])


def test_source_shows_the_librarys_own_lines_with_their_place():
    shown = source(method.sparsity_at, method.MaskedWeights.mask_gradients)
    assert "** exponent" in shown.text
    assert "w.grad.mul_(self.masks[name])" in shown.text
    url, branch = page.repository()
    assert shown.address().startswith(
        f"{url}/blob/{branch}/survey_lib/methods/to_prune_or_not.py#L"
    )
    line = int(shown.address().rsplit("L", 1)[1])
    assert shown.path.read_text().splitlines()[line - 1].startswith("def sparsity_at")
    with pytest.raises(ValueError, match="at least one"):
        source()


def test_the_chapters_explorer_holds_all_recorded_settings_and_their_real_numbers():
    rows = chapter.grid(study("to_prune_or_not"))
    settings = rows[["keep", "exponent", "window"]].drop_duplicates()
    assert len(settings) == 27
    one = next(
        r
        for r in study("to_prune_or_not")
        if (r.config["keep"], r.config["exponent"], r.config["begin"]) == (0.1, 3.0, 0.5)
        and r.config["family"] == "cnn"
    )
    here = rows[(rows.keep == 0.1) & (rows.exponent == 3.0) & (rows.window == "late")]
    assert set(here.accuracy) == {one.numbers["test"]}
    steps = here[here.part == "schedule"]
    assert steps.y.iloc[-1] == one.numbers["trace"]["sparsity"][-1]
    assert steps.x.is_monotonic_increasing
    layers = here[here.part == "layer"]
    assert layers.x.sum() == sum(kept for _, kept in one.numbers["layers"].values())


def test_the_chapters_explorer_inlines_its_grid():
    made = chapter.explorer(study("to_prune_or_not"))
    drawn = made.inlined()
    assert len(drawn) == len(made.grid)
    assert set(drawn.accuracy) == set(made.grid.accuracy)
    names = {p["name"] for p in made.spec()["params"]}
    assert {"c_keep", "c_exponent", "c_window"} <= names


def test_the_facts_hold_the_card_as_received_and_its_corrections():
    from survey_lib.cards.card import read_card, received

    card = read_card("to_prune_or_not")
    html = page.facts_panel(card).html
    assert "The card as received" in html
    assert len(received("to_prune_or_not")) > 100
    for sentence in card.corrections:
        assert page.escape(sentence) in html
    assert page.escape(card.gist.split("\n\n")[0].split("\n")[0]) in html


def test_changes_are_against_the_dense_net_of_the_same_seed():
    df = pd.DataFrame(
        {
            "arm": ["dense", "cut", "dense", "cut", "cut", "cut"],
            "seed": [0, 0, 1, 1, 2, 0],
            "accuracy": [0.9, 0.91, 0.8, 0.79, 0.5, float("nan")],
        }
    )
    made = against_dense(df)
    assert made.change.round(6).tolist() == [0, 1, 0, -1]  # seed 2 has no dense net to compare
    with pytest.raises(ValueError, match=r"seeds \[1\] have two runs of 'dense'"):
        against_dense(pd.concat([df, df[2:3]]))


def test_the_mean_of_one_value_a_seed_has_the_interval_of_a_group():
    row = mean_over([1, 2, 3, 4, 5])
    assert row["mean"] == 3
    assert row["seeds"] == 5
    assert row["high"] - 3 == pytest.approx(2.7764 * math.sqrt(2.5 / 5), abs=1e-4)
