import json
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_lib import files
from survey_lib.cards.card import Claim
from survey_lib.evidence import attest, reading, records
from survey_lib.evidence.attest import Attestation
from survey_lib.evidence.records import Record, RecordError
from survey_lib.evidence.verdicts import judge
from tests.damage import as_json, cut, damaged, one_sentence

RECORD = {
    "slug": "s", "profile": "study", "config": {"arm": "a", "seed": 3, "widths": [1, 2]}, "seed": 3,
    "key": "0123456789abcdef", "status": "done", "error": "", "schema": 1,
    "numbers": {"accuracy": 0.8, "macs": 1200, "loss": 0.4, "curves": {"0.5": [0.1, 0.2]},
                "name": "x", "order": [0, 2, 1], "noisy": False, "score": None},
    "provenance": {"claims": {"c": "abc"}, "code": "d", "commit": "e", "seconds": 1.5},
}  # fmt: skip
NOTE = {
    "slug": "s", "digest": "d", "data": "", "study": "h", "commit": "c", "machine": {"cores": 2},
    "made": "t", "cells": [{"key": "k", "arm": "a", "exact": True, "compared": 3}], "numbers": 3,
    "worst": {"difference": 0.1, "key": "k", "path": "accuracy"}, "disagreements": [],
}  # fmt: skip


def with_(path, value):
    """The good record as a line, with one value replaced."""
    made = json.loads(json.dumps(RECORD))
    *above, last = path.split(".")
    at = made
    for key in above:
        at = at[key]
    at[last] = value
    return as_json(made)


def test_every_committed_record_is_written_as_it_was_read():
    found = 0
    for folder in ("study", "tune"):
        for path in sorted((files.results_dir() / folder).glob("*.jsonl")):
            lines = path.read_text().splitlines()
            read = reading.read_records(path)
            found += len(read)
            assert [records.to_line(r) for r in read] == lines
    assert found > 2000


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("seed", "3", "field 'seed' must be a whole number, not '3'"),
        ("seed", True, "field 'seed' must be a whole number, not True"),
        ("config", [], "field 'config' must be a mapping"),
        ("status", "well", "field 'status' must be one of done, failed"),
        ("slug", "../x", "field 'slug' must be a plain name"),
        ("numbers", None, "field 'numbers' must be a mapping, not None"),
        ("numbers.accuracy", "0.8", "field 'numbers.accuracy' must be a number, not '0.8'"),
        ("numbers.accuracy", None, "field 'numbers.accuracy' must be a number, not None"),
        ("numbers.accuracy", [0.8, "x"], "field 'numbers.accuracy.1' must be a number"),
        ("numbers.accuracy", -5, "'numbers.accuracy' must lie in 0 … 1, as shares do, not -5"),
        ("numbers.accuracy", 7, "'numbers.accuracy' must lie in 0 … 1, as shares do, not 7"),
        ("numbers.curves", {"test": {"accuracy": 7}}, "'numbers.curves.test.accuracy' must lie"),
        ("numbers.accuracy", 10**400, "'numbers.accuracy' must be a finite number, not 1000"),
        ("numbers.name", math.nan, "field 'numbers.name' must be a finite number, not nan"),
        ("numbers.order", [1, -math.inf], "'numbers.order.1' must be a finite number, not -inf"),
        ("numbers.macs_gone", 1.5, "'numbers.macs_gone' must lie in 0 … 1, as shares do, not 1.5"),
        ("numbers.macs", 1.5, "field 'numbers.macs' must be a whole number ≥ 0, not 1.5"),
        ("numbers.macs", -1, "field 'numbers.macs' must be a whole number ≥ 0, not -1"),
        ("numbers.loss", -0.1, "field 'numbers.loss' must not be negative"),
        ("provenance.seconds", "long", "'provenance.seconds' must be a number ≥ 0, not 'long'"),
        ("provenance.claims", ["c"], "field 'provenance.claims' must map claims to hashes"),
        ("provenance.commit", 7, "field 'provenance.commit' must be text, not 7"),
        ("numbers.name", "\ud800", "field 'numbers.name' holds half a character"),
    ],
)  # fmt: skip
def test_a_damaged_field_is_named_with_file_and_line(tmp_path, path, value, words):
    file = tmp_path / "s.jsonl"
    file.write_text(f"{as_json(RECORD)}\n\n{json.dumps(json.loads(with_(path, value)))}\n")
    with pytest.raises(RecordError) as error:
        reading.read_records(file)
    assert str(error.value).startswith("s.jsonl:3: ")
    assert words in str(error.value)
    one_sentence(error.value)


@pytest.mark.parametrize("levels", [15, 900, 100_000])
def test_a_deeply_nested_line_is_no_recursion_error(levels):
    deep = "[" * levels + "]" * levels
    for line in (deep, as_json(RECORD).replace('"x"', deep)):
        with pytest.raises(RecordError, match="nested too deeply; restore") as error:
            reading.from_line(line, "s.jsonl:1")
        one_sentence(error.value)


def test_what_json_has_no_words_for_is_refused(tmp_path):
    file = tmp_path / "s.jsonl"
    for text, words in (
        (b"\xff\xfe", "no UTF-8 text"),
        (b"1" * 5000, "not a JSON record"),
        (b"{}", "schema 1 expected"),
        (b'{"schema": 1}', "fields differ"),
    ):
        file.write_bytes(text)
        with pytest.raises(RecordError, match=words) as error:
            reading.read_records(file)
        one_sentence(error.value)
    file.unlink()
    file.mkdir()
    with pytest.raises(RecordError, match="Is a directory"):
        reading.read_records(file)


def test_a_line_end_inside_a_text_ends_no_record(tmp_path):
    file = tmp_path / "s.jsonl"
    made = Record("s", "study", {"seed": 0}, 0, "k", "failed", error="a\u2028b\x85c")
    records.write_records(file, [made])
    assert reading.read_records(file) == [made]


def test_a_share_of_what_is_counted_is_no_count():
    numbers = {"macs_gone": 0.25, "macs": 12}
    assert reading.from_line(with_("numbers", numbers), "s").numbers == numbers


def test_a_loss_may_be_larger_than_one():
    numbers = {"test": 2.1, "loss": 2.1, "val": 2.0, "val_loss": 2.0}
    assert reading.from_line(with_("numbers", numbers), "s").numbers == numbers
    with pytest.raises(RecordError, match="must lie in"):
        reading.from_line(with_("numbers", numbers | {"test": 1.2}), "s")


CLAIM = Claim("c", "t", "paper", "s", "w", "gain", "m", (0.0, None), "e", unit="share of images")


def gain(rows):
    return rows[0].numbers["accuracy"] - 0.5


@settings(max_examples=150, deadline=None)
@given(st.one_of(damaged(RECORD).map(as_json), cut(as_json(RECORD))))
def test_whatever_a_line_holds_it_is_a_record_or_a_sentence(line):
    try:
        record = reading.from_line(line, "s.jsonl:1")
        assert reading.from_line(records.to_line(record), "again") == record
        records.to_line(record).encode()
        judge(CLAIM, [record] * 2, gain)
    except RecordError as error:
        one_sentence(error, "s.jsonl:1: ", "claim 'c', records of seed")


@settings(max_examples=80, deadline=None)
@given(st.one_of(damaged(NOTE).map(as_json), cut(as_json(NOTE))))
def test_whatever_an_attestation_holds_it_is_one_or_a_sentence(line):
    with pytest.MonkeyPatch.context() as patch:
        path = Path(files.build_dir()).parent / "nowhere.jsonl"
        patch.setattr(attest, "attest_path", lambda slug: path)
        patch.setattr(attest, "lines", lambda *_: iter([("attest/s.jsonl:1", line)]))
        try:
            (note,) = attest.attestations("s")
        except RecordError as error:
            one_sentence(error, "attest/s.jsonl:1: ")
        else:
            assert isinstance(note, Attestation)
            assert note.agrees in (True, False)


@pytest.mark.parametrize(
    "text", ["[]", "[" * 50_000, '{"d": {}}', '{"d": 3}', "\x00", '{"a": NaN}']
)
def test_a_damaged_file_of_origins_is_a_sentence(tmp_path, monkeypatch, text):
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path))
    (tmp_path / "origins.json").write_text(text)
    with pytest.raises(RecordError, match=r"origins\.json") as error:
        attest.changed("d", {})
    one_sentence(error.value)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([7.0, 7.1], "seed 0: v is 7, which is no share of images"),
        ([math.inf, 1.0], "seed 0: v is inf"),
        (["a", 0.1], r"seed 0: v cannot be computed \(ValueError"),
        ([[1], 0.1], r"seed 0: v cannot be computed \(TypeError"),
        ([None, 0.1], r"seed 0: v cannot be computed \(TypeError"),
        ([10**400, 0.1], r"seed 0: v cannot be computed \(OverflowError"),
    ],
)
def test_a_statistic_that_cannot_be_is_a_sentence(numbers, words):
    import dataclasses

    claim = dataclasses.replace(CLAIM, statistic="v")
    rows = [Record("s", "study", {}, i, "k", "done", {"v": v}) for i, v in enumerate(numbers)]
    with pytest.raises(RecordError, match=words) as error:
        judge(claim, rows, lambda found: found[0].numbers["v"])
    one_sentence(error.value)
