import math

import pytest

from survey_lib.evidence import attest
from survey_lib.evidence.attest import Attestation, compare
from survey_lib.evidence.records import Record, RecordError, machine

NUMBERS = {
    "accuracy": 0.8,
    "at": {"0.5": {"val": [0.7, 0.6]}},
    "name": "x",
    "ok": True,
    "none": None,
}


def changed(path, value):
    one = {**NUMBERS, "at": {"0.5": {"val": [0.7, 0.6]}}}
    if path == "nested":
        one["at"]["0.5"]["val"][1] = value
    else:
        one[path] = value
    return one


def words(now, then=NUMBERS, **options):
    return compare(now, then, **({"exact": True, "tolerance": {}} | options)).disagreements


def test_every_number_counts_and_equal_ones_agree():
    outcome = compare(NUMBERS, NUMBERS, exact=True, tolerance={})
    assert (outcome.compared, outcome.worst, outcome.disagreements) == (3, 0.0, ())


def test_a_nested_number_in_the_last_bit_is_caught_on_the_same_processor():
    now = changed("nested", math.nextafter(0.6, 1))
    (found,) = words(now)
    assert found.path == "at.0.5.val.1"
    assert "recorded 0.6" in str(found)
    assert words(now, exact=False) == ()


@pytest.mark.parametrize(
    ("path", "value"), [("name", "y"), ("ok", False), ("ok", 1), ("none", 0.0), ("name", 1)]
)
@pytest.mark.parametrize("exact", [True, False])
def test_texts_and_truth_values_are_equal_everywhere(path, value, exact):
    assert [d.path for d in words(changed(path, value), exact=exact)] == [path]


def test_the_first_pattern_that_matches_decides_and_the_rest_is_relative():
    tolerance = {"at.*.val.0": 0.0, "at.*": 0.2, "accuracy": 0.05}
    foreign = {"exact": False, "tolerance": tolerance}
    assert words(changed("nested", 0.75), **foreign) == ()
    assert len(words(changed("nested", 0.85), **foreign)) == 1
    assert words(changed("accuracy", 0.84), **foreign) == ()
    assert words(changed("accuracy", 0.84), exact=False) != ()
    assert words(changed("accuracy", 0.8001), exact=False) == ()
    assert words({"n": 999}, {"n": 998}, exact=False) != ()  # small counts have to be equal
    assert words({"n": 1_000_001}, {"n": 1_000_000}, exact=False) == ()


def test_infinite_tolerance_means_not_compared_and_only_elsewhere():
    now = {"a": 1.0, "path": [1, 2, 3]}
    then = {"a": 1.0, "path": [1, 5]}
    options = {"tolerance": {"path.*": math.inf}}
    assert words(now, then, exact=False, **options) == ()
    assert compare(now, then, exact=False, **options).compared == 1
    assert [d.path for d in words(now, then, exact=True, **options)] == ["path.1", "path.2"]


def test_timings_are_compared_nowhere():
    assert words({"a": 1, "rows": [{"ms": 3.0}]}, {"a": 1, "rows": [{"ms": 9.0}]},
                 inexact=("rows.*.ms",)) == ()  # fmt: skip


@pytest.mark.parametrize("exact", [True, False])
def test_numbers_that_only_one_side_has_disagree(exact):
    less = {k: v for k, v in NUMBERS.items() if k != "accuracy"}
    assert [d.path for d in words(less, exact=exact)] == ["accuracy"]
    assert [d.path for d in words(NUMBERS, less, exact=exact)] == ["accuracy"]


def test_a_comparison_of_nothing_is_a_disagreement():
    (found,) = words({"ms": 1.0}, {"ms": 1.0}, inexact=("ms",))
    assert "not compared" in str(found)
    assert words({}, {}) != ()
    assert words({"a": 1.0}, {"a": 2.0}, exact=False, tolerance={"*": math.inf}) != ()


def test_elsewhere_too_a_cell_without_any_difference_is_equal_to_the_bit():
    outcome = compare(NUMBERS, NUMBERS, exact=False, tolerance={"*": math.inf})
    assert outcome.exact
    assert outcome.compared == 3


def test_which_machines_are_the_same():
    here = machine()
    assert attest.same_machine(here, here)
    assert attest.same_machine(here | {"cores": 64, "python": here["python"] + "rc"}, here)
    for name in ("processor", "cpu", "torch", "numpy", "python"):
        assert not attest.same_machine(here | {name: "another"}, here)
    undetailed = {k: v for k, v in here.items() if k != "cpu"}
    assert not attest.same_machine(undetailed, undetailed)


def test_attestations_are_kept_in_order_and_a_damaged_line_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path))
    assert attest.attestations("s") == []
    notes = [Attestation("s", d, "", "", "c", {}, "t", numbers=3) for d in "ab"]
    for note in notes:
        path = attest.append(note)
    assert attest.attestations("s") == notes
    path.write_text(path.read_text() + "{\n")
    with pytest.raises(RecordError, match=r"attest/s\.jsonl:3: not a JSON attestation"):
        attest.attestations("s")


def test_an_attestation_of_nothing_does_not_agree():
    note = Attestation("s", "d", "", "", "c", {}, "t")
    assert not note.agrees
    assert not Attestation("s", "d", "", "", "c", {}, "t", numbers=3, disagreements=["x"]).agrees


def test_the_hash_of_a_study_is_of_configurations_and_numbers():
    one, two = (Record("s", "study", {"seed": i}, i, "k", "done", {"a": [i]}) for i in (1, 2))
    assert attest.study_hash([one, two]) == attest.study_hash([two, one])
    assert attest.study_hash([one]) != attest.study_hash([two])


def test_what_changed_is_told_by_module_where_the_origin_is_known(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path))
    assert attest.changed("d", {"m": "1"}) is None
    attest.add_origin("d", {"m": "1", "gone": "2", "same": "3"}, "c", "t")
    attest.add_origin("d", {"other": "9"}, "later", "t")  # the first note stands
    assert attest.changed("d", {"m": "4", "new": "5", "same": "3"}) == ("gone", "m", "new")
    assert attest.origins()["d"]["commit"] == "c"
