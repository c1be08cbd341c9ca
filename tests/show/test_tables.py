import re

import pandas as pd
import pytest

from survey_lib import files
from survey_lib.cards.card import CardError
from survey_lib.show.tables import (
    compare_reported,
    download_records,
    folded,
    reported_frame,
    table,
    tall,
)

DF = pd.DataFrame(
    {
        "method": ["LRP <new>", "random", "dense"],
        "macs": [26_700, 1_000, None],
        "acc": [0.8812, 0.5, 0.9],
        "low": [0.87, 0.45, None],
        "high": [0.89, 0.55, None],
    }
)


def rows(html):
    return [re.findall(r"<t[hd].*?</t[hd]>", r) for r in re.findall(r"<tr>(.*?)</tr>", html)]


def words(cell):
    return re.sub(r"<[^>]+>", "", cell)


def test_a_table_reads_well():
    shown = table(
        DF, caption="LRP wins. Three rows.", units={"macs": "k"}, decimals={"acc": 3},
        interval_columns={"acc": ("low", "high")},
    )  # fmt: skip
    head, first, _, last = rows(shown.html)
    assert [words(c) for c in head] == ["method", "macs (k)", "acc"]
    assert all('scope="col"' in c for c in head)
    assert 'class="num"' in head[1]
    assert 'class="num"' not in head[0]
    assert first[0].startswith('<th scope="row">')
    assert [words(c) for c in first] == ["LRP &lt;new&gt;", "26\u202f700", "0.881[0.870, 0.890]"]
    assert 'data-value="26700.0"' in first[1]
    assert 'class="interval"' in first[2]
    assert [words(c) for c in last] == ["dense", "–", "0.900"]
    assert "<caption><span><strong>LRP wins.</strong> Three rows.</span></caption>" in shown.html
    assert "LRP <new>" in shown.text


def test_a_column_keeps_the_same_decimals():
    df = pd.DataFrame({"a": [0.5, 0.25, 1.0], "n": [1, 20, 300]})
    _, *body = rows(table(df, caption="x").html)
    assert [words(r[0]) for r in body] == ["0.50", "0.25", "1.00"]
    assert [words(r[1]) for r in body] == ["1", "20", "300"]


def test_a_named_index_is_a_column_and_truth_values_are_words():
    df = pd.DataFrame({"ok": [True, False]}, index=pd.Index(["a", "b"], name="run"))
    head, first, _ = rows(table(df, caption="x").html)
    assert [words(c) for c in head] == ["run", "ok"]
    assert [words(c) for c in first] == ["a", "True"]


def test_the_data_can_be_downloaded(opened):
    html = table(DF, caption="x", name="wins").html
    assert 'href="../_static/figures/a_paper/wins.csv"' in html
    kept = pd.read_csv(files.build_dir() / "figures" / "a_paper" / "wins.csv")
    assert kept["low"].tolist()[:2] == [0.87, 0.45]
    with pytest.raises(ValueError, match="table name"):
        table(DF, caption="x", name="../wins")


@pytest.mark.parametrize(
    "arguments",
    [
        {"caption": "x", "units": {"mac": "k"}},
        {"caption": "x", "interval_columns": {"acc": ("lo", "high")}},
        {"caption": "x", "decimals": {"accuracy": 2}},
    ],
)
def test_a_column_that_is_not_there_is_named(arguments):
    with pytest.raises(ValueError, match=r"no column '(mac|lo|accuracy)'; there are: method"):
        table(DF, **arguments)


def test_a_table_needs_a_caption():
    with pytest.raises(ValueError, match="caption"):
        table(DF, caption=" ")


OURS = pd.DataFrame(
    {
        "sparsity": [0.5, 0.9, 0.99],
        "acc": [0.88, 0.85, 0.6],
        "lo": [0.87, 0.84, 0.5],
        "hi": [0.89, 0.86, 0.7],
    }
)


def test_the_papers_numbers_stand_beside_ours(opened, card):
    shown = compare_reported(
        card, "main", OURS, on="sparsity", columns=["acc"], interval_columns={"acc": ("lo", "hi")},
        units={"acc": "share"}, name="beside",
    )  # fmt: skip
    top, second, *body = rows(shown.html)
    assert [words(c) for c in top] == ["sparsity", "the paper", "here"]
    assert 'rowspan="2"' in top[0]
    assert 'scope="colgroup"' in top[1]
    assert [words(c) for c in second] == ["top-1", "acc (share)"]
    # in the paper's order, what only we have last, every number where it belongs
    assert [[words(c) for c in r] for r in body] == [
        ["0.90", "61.5†", "0.85[0.84, 0.86]"],
        ["0.00", "70.6†", "–"],
        ["0.50", "69.5†", "0.88[0.87, 0.89]"],
        ["0.99", "–", "0.60[0.50, 0.70]"],
    ]
    assert "† not checked against the paper itself." in shown.html
    assert "Source: Table 1." in shown.html
    assert "tiny; the paper: large" in shown.html
    kept = pd.read_csv(files.build_dir() / "figures" / "a_paper" / "beside.csv")
    assert kept["here acc"].tolist()[0] == 0.85


def test_what_was_checked_has_no_dagger(opened, card):
    html = compare_reported(card, "sure", OURS, on="sparsity", columns=["acc"]).html
    assert "†" not in html


def test_a_key_the_paper_repeats_gets_ours_each_time(opened, card):
    from dataclasses import replace

    twice = replace(card.reported[0], rows=((0.5, 1), (0.5, 2)))
    html = compare_reported(
        replace(card, reported=(twice,)), "main", OURS[:1], on="sparsity", columns=["acc"]
    ).html
    _, _, *body = rows(html)
    assert [[words(c) for c in r] for r in body] == [["0.5", "1†", "0.88"], ["0.5", "2†", "0.88"]]


def test_compare_names_what_is_missing(opened, card):
    with pytest.raises(CardError, match="no reported table 'other'; there are: main, sure"):
        compare_reported(card, "other", OURS, on="sparsity", columns=["acc"])
    with pytest.raises(ValueError, match="the card's table 'main' lacks 'kept'"):
        compare_reported(card, "main", OURS.assign(kept=1), on="kept", columns=["acc"])
    with pytest.raises(ValueError, match="ours 'main' lacks 'top'"):
        compare_reported(card, "main", OURS, on="sparsity", columns=["top"])
    twice = pd.concat([OURS, OURS])
    with pytest.raises(ValueError, match="two rows of ours"):
        compare_reported(card, "main", twice, on="sparsity", columns=["acc"])


def test_the_records_can_be_downloaded(opened):
    assert 'href="../_static/records/study/a_paper.jsonl"' in download_records().html


def test_a_table_of_the_paper_becomes_a_frame(card):
    df = reported_frame(card, "main")
    assert df.columns.tolist() == ["sparsity", "top-1"]
    assert df["top-1"].tolist() == [61.5, 70.6, 69.5]
    with pytest.raises(CardError, match="no reported table 'other'; there are: main, sure"):
        reported_frame(card, "other")


def test_a_number_that_the_words_do_not_say_whole_stands_beside_them():
    df = pd.DataFrame({"a": [0.5, 0.123456], "b": [1200.0, 3.0], "c": [-1.0, 2.0]})
    _, *body = rows(table(df, caption="x", decimals={"a": 2}).html)
    told = [[re.findall(r'data-value="([^"]+)"', cell) for cell in row] for row in body]
    assert told == [[[], ["1200.0"], ["-1.0"]], [["0.123456"], [], []]]  # 1 200 and −1 are words
    assert [words(row[0]) for row in body] == ["0.50", "0.12"]


def test_a_long_table_has_a_box_and_one_that_few_look_up_a_fold():
    one = table(pd.DataFrame({"a": [1]}), caption="One number.")
    assert tall(one).html == f'<div class="survey survey-tall">{one.html}</div>'
    shut = folded("A & B", one)
    assert shut.html.startswith('<details class="survey survey-timings"><summary>A &amp; B</')
    assert one.html in shut.html
    assert shut.text == tall(one).text == one.text
