import json

import pytest
from typer.testing import CliRunner

from survey_lib.cli import app


def survey(*words):
    return CliRunner().invoke(app, words)


def test_list_names_the_papers():
    result = survey("list", "--json")
    assert result.exit_code == 0
    rows = json.loads(result.stdout)
    assert {"slug", "title", "year", "claims"} == set(rows[0])
    assert "to_prune_or_not" in {r["slug"] for r in rows}


def test_claims_show_verdicts_with_their_intervals():
    rows = json.loads(survey("claims", "--json").stdout)
    assert {r["verdict"] for r in rows} <= {
        "reproduced", "not reproduced", "inconclusive", "not tested here",
    }  # fmt: skip
    for row in rows:
        assert row["low"] <= row["mean"] <= row["high"]
    text = survey("claims").stdout
    assert all(row["claim"] in text for row in rows)


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
