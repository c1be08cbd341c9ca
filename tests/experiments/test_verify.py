import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from survey_lib import cli, files
from survey_lib.cards.card import read_card
from survey_lib.evidence import attest
from survey_lib.evidence.reading import study
from survey_lib.evidence.records import Record, study_path, write_records
from survey_lib.experiments import against, judging, runner, verify
from survey_lib.experiments.runner import RunError
from survey_lib.experiments.verify import choose
from tests.experiments.fake_package import cells
from tests.experiments.fake_package import study as asked
from tests.experiments.fake_package.cells import Cell


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """A committed study of two files: a parent and three children, made here and now."""
    for name in ("BUILD", "RESULTS", "CACHE"):
        monkeypatch.setenv(f"SURVEY_{name}", str(tmp_path / name.lower()))
    monkeypatch.setitem(runner.EXPERIMENTS, "fake", "tests.experiments.fake_package")
    card = replace(read_card("to_prune_or_not"), slug="fake", claims=(), tolerance={})
    for module in (runner, judging):
        monkeypatch.setattr(module, "read_card", lambda slug: card)
    monkeypatch.setattr(verify, "commit", lambda: "0123456789ab")
    made = [
        Cell("parent", 1, str(tmp_path)),
        *(Cell("child", s, str(tmp_path), 1) for s in (1, 2)),
    ]
    monkeypatch.setattr(asked, "CELLS", made)
    records = runner.run("fake", "study", jobs=1, make_pool=ThreadPoolExecutor, progress=False)
    runner.commit_study("fake", "study", records)
    return records


def rewrite(change):
    """Edit the committed records, as a hand might."""
    write_records(study_path("fake"), [change(r) for r in study("fake")])


def edit(record, to):
    numbers = json.loads(json.dumps(record.numbers))
    if "nested" in numbers:
        numbers["nested"]["list"][1]["deep"] = to
    return replace(record, numbers=numbers)


def go(**options):
    return verify.verify("fake", jobs=1, make_pool=ThreadPoolExecutor, **options)


def later_code(monkeypatch):
    monkeypatch.setattr(runner, "code_parts", lambda slug: {"survey_lib.new": "1"})


def test_a_sample_that_agrees_is_written_with_what_it_rests_on(recorded, monkeypatch):
    assert judging.state("fake").word == "current"
    later_code(monkeypatch)
    assert judging.state("fake").word == "unattested"
    note = go(write=True)
    assert note.agrees
    assert {c["arm"] for c in note.cells} == {"parent", "child"}
    assert note.numbers == 1 + 3  # the parent's timing apart
    assert all(c["exact"] for c in note.cells)
    assert attest.attestations("fake") == [note]
    state = judging.state("fake")
    assert (state.word, state.cells, state.numbers, state.worst) == ("attested", 2, 4, 0.0)
    assert state.commit == "0123456789ab"
    assert "survey_lib.new" in attest.origins()[note.digest]["modules"]
    assert state.changed == ("survey_lib.new",) or state.changed is None


def test_a_nested_number_changed_by_hand_is_caught(recorded, monkeypatch):
    later_code(monkeypatch)
    rewrite(lambda r: edit(r, 0.1000001))
    note = go(sample=5, write=True)
    assert not note.agrees
    assert any("nested.list.1.deep is 0.1, recorded 0.1000001" in d for d in note.disagreements)
    assert note.worst["path"] == "nested.list.1.deep"
    assert judging.state("fake").word == "unattested"
    assert not attest.attestations("fake")[-1].agrees


def test_a_record_edited_after_its_attestation_is_attested_no_more(recorded, monkeypatch):
    later_code(monkeypatch)
    go(write=True)
    rewrite(lambda r: edit(r, 0.7))
    assert judging.state("fake").word == "unattested"


def test_a_disagreement_after_an_agreement_counts(recorded, monkeypatch):
    later_code(monkeypatch)
    attest.append(replace(go(write=True), disagreements=["worse"]))
    assert judging.state("fake").word == "unattested"


def test_elsewhere_the_cards_tolerance_holds(recorded, monkeypatch):
    other = {"processor": "another", "cpu": "another"}
    rewrite(lambda r: replace(edit(r, 0.15), provenance=r.provenance | other))
    assert not go().agrees
    card = replace(runner.read_card("fake"), tolerance={"nested.*.deep": 0.06})
    for module in (runner, judging):
        monkeypatch.setattr(module, "read_card", lambda slug: card)
    note = go()
    assert note.agrees
    assert note.worst["difference"] == pytest.approx(0.05)
    assert {c["arm"]: c["exact"] for c in note.cells} == {"parent": True, "child": False}


def test_another_commits_code_takes_the_place_of_the_records(recorded, monkeypatch):
    """As on another processor, where the records' own numbers cannot come out again."""
    rewrite(lambda r: replace(edit(r, 0.7), provenance=r.provenance | {"cpu": "another"}))
    later_code(monkeypatch)
    assert not go().agrees
    asked_for = {}

    def run_at(commit, slug, configs, *, study, jobs):
        asked_for.update(commit=commit, slug=slug, study=study)
        by_config = {json.dumps(r.config, sort_keys=True): r.numbers for r in recorded}
        return [{"numbers": by_config[json.dumps(c, sort_keys=True)], "error": ""} for c in configs]

    monkeypatch.setattr(verify, "run_at", run_at)
    note = go(against="abc", write=True)
    assert note.agrees
    assert note.against == "abc"
    assert all(c["exact"] for c in note.cells)
    assert asked_for == {"commit": "abc", "slug": "fake", "study": note.study}
    assert judging.state("fake").word == "attested"
    assert attest.attestations("fake")[-1] == note

    def off(*args, **options):
        _, *others = run_at(*args, **options)
        return [{"numbers": None, "error": "it broke"}, *others]

    monkeypatch.setattr(verify, "run_at", off)
    (line,) = go(against="abc").disagreements
    assert "failed at abc: it broke" in line


def test_an_attestation_of_before_there_were_others_to_compare_with_is_read(recorded, monkeypatch):
    later_code(monkeypatch)
    note = go(write=True)
    path = attest.attest_path("fake")
    line = json.loads(path.read_text(encoding="utf-8"))
    del line["against"]
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert attest.attestations("fake") == [note]


@pytest.mark.skipif(files.repository() is None, reason="no checkout")
def test_cells_are_run_with_the_code_of_a_commit_in_a_tree_of_its_own(monkeypatch):
    slug = "loss_modelling"
    records = judging.recorded(slug)
    record = min(records, key=lambda r: r.provenance["seconds"])
    hash_ = attest.study_hash(records)
    (found,) = against.run_at("HEAD", slug, [record.config], study=hash_, jobs=1)
    assert found["error"] == ""
    assert found["numbers"].keys() == record.numbers.keys()
    with pytest.raises(RunError, match="holds other records"):
        against.run_at("HEAD", slug, [], study="0" * 16, jobs=1)
    with pytest.raises(RunError, match=r"loss_modelling: git worktree add failed: .*nowhere"):
        against.run_at("nowhere", slug, [], study=hash_, jobs=1)
    elsewhere = against._THERE.replace("survey_lib.__file__", "'/elsewhere.py'")
    monkeypatch.setattr(against, "_THERE", elsewhere)
    with pytest.raises(RunError, match=r"elsewhere\.py was run, not the code of HEAD"):
        against.run_at("HEAD", slug, [], study=hash_, jobs=1)
    listed = subprocess.run(["git", "worktree", "list"], cwd=files.repository(), text=True,
                            capture_output=True, check=True).stdout  # fmt: skip
    assert "/tree " not in listed


def test_an_arm_compared_in_nothing_is_an_error(recorded, monkeypatch):
    def bare(record):
        numbers = {"seconds": 1.0} if record.config["arm"] == "parent" else record.numbers
        return replace(record, numbers=numbers)

    rewrite(bare)
    monkeypatch.setitem(cells.ARMS, "parent", lambda context: {"seconds": 2.0})
    note = go()
    assert not note.agrees
    assert any("(parent, seed 1): nothing is 'not compared'" in d for d in note.disagreements)


@pytest.mark.parametrize("head", ["0123456789ab+", ""])
def test_without_a_clean_commit_nothing_is_written(recorded, monkeypatch, head):
    monkeypatch.setattr(verify, "commit", lambda: head)
    with pytest.raises(runner.RunError, match="names a commit"):
        go(write=True)
    assert attest.attestations("fake") == []
    assert go().agrees


def test_a_configuration_that_is_no_cell_any_more_is_a_disagreement(recorded):
    rewrite(lambda r: replace(r, config=r.config | {"gone": 1}))
    assert "is no cell of today's" in go().disagreements[0]


def test_the_command_skips_what_is_current_and_fails_on_a_disagreement(recorded, monkeypatch):
    def survey(*words):
        return CliRunner().invoke(cli.app, ["verify", "fake", "--jobs", "1", *words])

    result = survey("--changed", "--write")
    assert (result.exit_code, result.stdout) == (0, "fake: current, nothing to do\n")
    later_code(monkeypatch)
    result = survey("--changed", "--write")
    assert result.exit_code == 0
    assert "fake: agrees; 2 cells, 4 numbers, 2 cells to the bit" in result.stdout
    assert "attested, nothing to do" in survey("--changed").stdout
    rewrite(lambda r: edit(r, 0.7))
    result = survey("--changed")
    assert result.exit_code == 1
    assert "recorded 0.7" in result.stderr


# ---- the sample


def rows(*costs):
    return [
        Record("s", "study", {"arm": arm, "net": net, "seed": i}, i, f"k{i}", "done",
               provenance={"seconds": seconds})
        for i, (arm, net, seconds) in enumerate(costs)
    ]  # fmt: skip


COSTS = (("a", "x", 9), ("a", "x", 2), ("a", "y", 7), ("b", "x", 4), ("b", "x", 40), ("a", "x", 3))


def test_of_each_arm_on_each_net_the_cheapest_whatever_the_limit():
    for limits in ({}, {"seconds": 0}, {"sample": 0}):
        assert {r.key for r in choose(rows(*COSTS), **limits)} == {"k1", "k2", "k3"}


def test_then_random_ones_up_to_the_limits():
    records = rows(*COSTS)
    assert len(choose(records, sample=2)) == 5
    assert len(choose(records, sample=99)) == 6
    spent = sum(r.provenance["seconds"] for r in choose(records, seconds=26))
    assert 13 < spent <= 26
    assert {r.key for r in choose(records, seconds=25)} == {"k1", "k2", "k3", "k0", "k5"}
    picks = {tuple(r.key for r in choose(records, sample=1, seed=s)) for s in range(20)}
    assert len(picks) == 3


def test_the_arm_of_an_older_experiment_is_its_criterion():
    (record,) = rows(("a", "x", 1))
    older = replace(record, config={"criterion": "LM", "task": "mlp", "seed": 0})
    assert (verify.arm(record), verify.arm(older)) == ("a, x", "LM, mlp")
