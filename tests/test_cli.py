import json

import pytest
from typer.testing import CliRunner

from survey_lib.cards.card import read_card, slugs
from survey_lib.cli import app
from survey_lib.experiments import EXPERIMENTS


def survey(*words):
    return CliRunner().invoke(app, words)


def test_list_names_the_papers():
    result = survey("list", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert [r["slug"] for r in rows] == slugs()
    assert {r["slug"] for r in rows if r["chapter"]} == set(EXPERIMENTS)
    for row in rows:
        card = read_card(row["slug"])
        told = [row[f] for f in ("title", "year", "group", "claims")]
        assert told == [card.title, card.year, card.group, len(card.claims)]
    text = survey("list").stdout
    assert all(row["title"] in text for row in rows)


def test_claims_show_verdicts_with_their_intervals():
    rows = json.loads(survey("claims", "--json").stdout)
    assert {r["verdict"] for r in rows} <= {
        "reproduced", "not reproduced", "inconclusive", "not tested here",
    }  # fmt: skip
    for row in rows:
        if row["verdict"] != "not tested here":
            assert row["low"] <= row["mean"] <= row["high"]
        else:
            assert row["reason"]
        assert (row["effect"] == "") == (row["verdict"] == "not tested here")
    shown = {row["claim"]: row for row in rows}
    for row in rows:  # accuracy in points with a sign, as on the pages
        if row["unit"] == "share of images" and row["effect"]:
            value = row["effect"].split()[0].replace("\u2212", "-")
            assert row["effect"].split()[1] == "points,"
            last = 0.1 ** len(value.partition(".")[2])  # of the digits that are shown
            assert float(value) == pytest.approx(100 * row["mean"], rel=0.02, abs=0.6 * last)
            assert value[0] in "+-" or float(value) == 0
    assert " nats, [" in shown["large-sparse-lm"]["effect"]
    text = survey("claims").stdout
    assert all(row["title"] in text and row["effect"] in text for row in rows)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "nope"), "no experiment 'nope'; there are"),
        (("run", "to_prune_or_not", "--profile", "fast"), "no profile 'fast'"),
        (("run", "to_prune_or_not", "--dask", "tcp://x"), "cluster extra"),
        (("verify", "nope"), "no experiment 'nope'"),
        (("train", "nope"), "no task 'nope'"),
    ],
)
def test_bad_words_get_one_sentence(words, message):
    result = survey(*words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output


def test_without_a_slug_every_chapter_runs(monkeypatch):
    from survey_lib.experiments import runner

    ran = []
    monkeypatch.setattr(runner, "run", lambda slug, profile, **_: ran.append((slug, profile)) or [])
    assert survey("run", "--profile", "smoke").exit_code == 0
    assert ran == [(slug, "smoke") for slug in EXPERIMENTS]


def test_check_names_drafts_and_does_not_fail_for_them(monkeypatch):
    from survey_lib.publish import missing

    monkeypatch.setattr(missing, "missing", lambda slug: ["a study", "an explorer"])
    result = survey("check", "--sources")
    assert result.exit_code == 0, result.stderr
    for slug in EXPERIMENTS:
        assert f"draft: {slug} is not finished; it lacks:\n  a study\n  an expl" in result.stdout
    assert result.stdout.endswith("checked: nothing found\n")
