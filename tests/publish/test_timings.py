import json
import re

import pytest

from survey_lib import files
from survey_lib.measure import compare as comparison
from survey_lib.measure.latency import Latency
from survey_lib.mechanics.graph import trace_groups
from survey_lib.publish import timings
from survey_lib.publish.layout import PublishError

BOOK = files.PACKAGE.parent / "book"
BENCHMARKS = BOOK.parent / "benchmarks"
MACHINE = {
    "commit": "abc", "made": "2026-01-02T03:04:05+00:00", "processor": "A fast one", "threads": 1,
    "cores": 2, "system": "Linux", "python": "3.11.0", "torch": "2.9",
}  # fmt: skip


def row(**changes):
    sides = {
        "theirs": {"min": 30.0, "median": 33.0},
        "ours": {"min": 10.0, "median": 11.0},
    }
    return {
        "row": "removal", "case": "resnet18", "ms": sides, "ratio": 3.0, "noisy": False,
        "ratio_is": "theirs ÷ ours", "target": [2, None], **MACHINE, **changes,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "one.jsonl").write_text(json.dumps(row()) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("ratio", "target", "word"),
    [
        (3.0, [2, None], "✓ yes"),
        (1.9, [2, None], "✗ no"),
        (1.0, [0.97, 1.03], "✓ yes"),
        (1.04, [0.97, 1.03], "✗ no"),
        (0.96, [0.97, 1.03], "✗ no"),
        (1.2, [None, 1.15], "✗ no"),
        (9.0, None, "–"),
    ],
)
def test_a_target_is_a_region(ratio, target, word):
    assert timings.reached(row(ratio=ratio, target=target)) == word


def test_the_page_shows_both_sides_the_target_and_the_machine(folder):
    page = timings.fill(f"# Title\n\n{timings.MARK}\n", folder)
    assert timings.MARK not in page
    for words in ("30.00", "33.00", "10.00", "11.00", "≥ 2", "✓ yes", "theirs ÷ ours"):
        assert words in page
    assert "A fast one, 1 thread of 2 cores" in page
    assert "2026-01-02, commit abc" in page


def test_rows_of_several_machines_are_told_apart(folder):
    other = row(row="A/A", processor="A slow one")
    (folder / "two.jsonl").write_text(json.dumps(other) + "\n")
    page = timings.fill(timings.MARK, folder)
    assert re.search(r"- A slow one.*\(A/A\)", page)
    assert re.search(r"- A fast one.*\(removal\)", page)


def test_the_figure_has_a_row_for_each_ratio_and_says_how_many_targets_are_met(folder):
    more = [
        row(case="slow", ratio=1.5),
        row(row="Fisher scores", ratio_is="F ÷ one pass", ratio=1.1, target=[None, 1.15]),
        row(row="half the channels", ratio_is="dense ÷ pruned", ratio=2.0, target=None),
    ]
    (folder / "two.jsonl").write_text("".join(json.dumps(r) + "\n" for r in more))
    page = timings.fill(timings.MARK, folder)
    assert "2 of 3 ratios reach the target" in page
    wide, narrow = re.findall(r"(?s)<svg.*?</svg>", page)
    for svg in (wide, narrow):
        for words in ("theirs ÷ ours (≥ 2)", "F ÷ one pass (≤ 1.15)", "dense ÷ pruned"):
            assert words in svg
    # one fold for each benchmark, its title once
    assert page.count("<details") == 3
    assert page.count("Removing half of every group, the groups known") == 1
    assert page.index("<svg") < page.index("<details")
    assert not re.search(r"\n\s*\n", page[page.index("<figure") : page.index("</figure>")])


def test_efficiency_is_shown_where_it_was_measured(folder):
    found = row(row="half the channels", target=None, mac_ratio=4.0, efficiency=0.75)
    (folder / "two.jsonl").write_text(json.dumps(found) + "\n")
    page = timings.fill(timings.MARK, folder)
    assert "speed-up ÷ MAC ratio" in page
    assert "0.75" in page


@pytest.mark.parametrize("text", ["{", '{"row": 1}', "[]"])
def test_a_damaged_line_is_named(folder, text):
    (folder / "two.jsonl").write_text(json.dumps(row()) + "\n" + text + "\n")
    with pytest.raises(PublishError, match=r"two\.jsonl:2 is no line of timings"):
        timings.read(folder)


def test_nothing_measured_and_no_place_are_errors(tmp_path, folder):
    with pytest.raises(PublishError, match="run make bench"):
        timings.fill(timings.MARK, tmp_path / "empty")
    with pytest.raises(PublishError, match="must hold the line"):
        timings.fill("# Title", folder)


def test_the_committed_timings_fill_the_committed_page():
    rows = timings.read(BOOK.parent / "benchmarks")
    page = timings.fill(
        (BOOK / "benchmarks.md").read_text(encoding="utf-8"), BOOK.parent / "benchmarks"
    )
    assert page.count("<table") == len({(r["row"], r["ratio_is"]) for r in rows})
    assert {r["row"] for r in rows} <= set(timings.WORDS)
    assert timings.SHORT.keys() == timings.WORDS.keys()  # a long heading leaves no room to draw


def test_the_examples_of_the_engine_page_run_and_print_what_it_says(monkeypatch, capsys):
    def no_clock(models, _example, *, rounds):
        return {name: Latency(0.001, 0.001, rounds, False) for name in models}

    monkeypatch.setattr(comparison, "compare_latency", no_clock)
    page = (BOOK / "engine.md").read_text(encoding="utf-8")
    names: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(compile(code, "engine.md", "exec"), names)
    printed = capsys.readouterr().out
    shown = re.search(r"```text\n(.*?)```", page, re.DOTALL)
    assert shown is not None
    assert printed.startswith(shown[1])
    assert "speed-up ÷ MAC ratio" in printed
    graph = trace_groups(names["model"], names["image"])
    assert {k for g in graph.groups for k in g.kinds} == {"plain", "residual"}


def test_the_example_of_a_users_net_is_shown_as_it_was_recorded(tmp_path):
    kept = {"command": "survey prune --x", "printed": "MACs 1 2\n", "made": "2026-01-02T03",
            "commit": "abc"}  # fmt: skip
    (tmp_path / "own_model.json").write_text(json.dumps(kept))
    page = timings.fill_example(f"a\n\n{timings.EXAMPLE}\n\nb", tmp_path)
    assert "```text\n$ survey prune --x\nMACs 1 2\n```" in page
    assert "Recorded on 2026-01-02 at commit abc." in page
    with pytest.raises(PublishError, match="must hold the line"):
        timings.fill_example("nothing", tmp_path)
    (tmp_path / "own_model.json").write_text("{}")
    with pytest.raises(PublishError, match=r"run python -m benchmarks\.own_model"):
        timings.fill_example(timings.EXAMPLE, tmp_path)


def test_a_comparison_of_a_users_net_is_shown_as_it_was_recorded(tmp_path):
    found = {
        "model": "net.py:build", "data": "imagefolder:my_images",
        "budget": {"metric": "macs", "keep": 0.5}, "seeds": 2, "rates": [0.1], "tune_epochs": 1.0,
        "train_epochs": 2.0, "dense": {"mean": 0.75, "low": None, "high": None, "n": 2},
        "dense_measured": {"macs": 123_456, "params": 10, "file_bytes": 40, "min_ms": 1.5},
        "methods": [{
            "name": "fisher", "label": "Fisher", "lr": 0.1, "rate_at_edge": True,
            "test": {"mean": 0.6125, "low": 0.6095, "high": 0.6155, "n": 2},
            "lead_over_l1": {"mean": 0.1, "low": 0.05, "high": 0.15, "n": 2},
            "macs": 61_728, "params": 5, "seconds": 1.0, "measured": None,
        }],
        "left_out": {"thinet": "no room"}, "failed": {}, "device": "a machine", "machine": {},
    }  # fmt: skip
    kept = {"command": "survey compare --x", "images": {"train": 2000, "test": 10}, "found": found,
            "made": "2026-01-02T03", "commit": "abc"}  # fmt: skip
    (tmp_path / "own_compare.json").write_text(json.dumps(kept))
    page = timings.fill_compared(f"a\n\n{timings.COMPARED}\n\nb", tmp_path)
    for words in (
        "```text\n$ survey compare --x\n```",
        "2,000 images to train on and 10 to test with. Recorded on 2026-01-02 at commit abc.",
        '61.25<span class="interval">[60.95, 61.55]</span>',
        'data-value="123456', "0.1 (edge)", "Left out: thinet: no room.",
        "Better than ℓ1: Fisher.</strong>", "<svg",
    ):  # fmt: skip
        assert words in page
    with pytest.raises(PublishError, match=r"book/own_net\.md must hold the line"):
        timings.fill_compared("nothing", tmp_path)
    del kept["found"]["methods"]
    (tmp_path / "own_compare.json").write_text(json.dumps(kept))
    with pytest.raises(PublishError, match=r"run python -m benchmarks\.own_compare"):
        timings.fill_compared(timings.COMPARED, tmp_path)


def test_the_recorded_comparison_shows_every_method_that_was_asked_for():
    page = timings.fill_compared((BOOK / "own_net.md").read_text(encoding="utf-8"), BENCHMARKS)
    kept = json.loads((BENCHMARKS / "own_compare.json").read_text(encoding="utf-8"))
    labels = [line["label"] for line in kept["found"]["methods"]]
    assert len(labels) > 5
    assert all(label in page for label in labels)
    shown = re.search(r"```text\n\$ (.*?)\n```", page, re.DOTALL)
    assert shown
    assert re.sub(r" \\\n +", " ", shown[1]) == kept["command"]  # one command, in lines
    assert max(map(len, shown[1].splitlines())) < 75
    assert all(line.startswith("    --") for line in shown[1].splitlines()[1:])


def test_what_the_page_says_of_the_worked_run_holds_in_its_record():
    page = (BOOK / "own_net.md").read_text(encoding="utf-8")
    page = " ".join(page.split())
    found = json.loads((BENCHMARKS / "own_compare.json").read_text(encoding="utf-8"))["found"]
    assert "six of the methods, five seeds" in page
    assert (len(found["methods"]) - 1, found["seeds"]) == (6, 5)
    assert "here that is raw Taylor" in page
    leads = {line["label"]: line["lead_over_l1"] for line in found["methods"]}
    told = {name for name, lead in leads.items() if lead and lead["low"] <= 0 <= lead["high"]}
    assert told == {"raw Taylor"}
    assert "leads that with one budget for all by points" in page
    assert leads["ℓ1 (scope local)"]["low"] > 0.01
    assert "Seven rates were tried" in page
    assert len(found["rates"]) == 7
    assert "ten times as many parameters" in page
    sizes = [line["params"] for line in found["methods"] if line["name"] != "longer"]
    assert max(sizes) > 10 * min(sizes)
    assert "all best rates lie inside" in page
    assert not any(line["rate_at_edge"] for line in found["methods"])


def test_the_error_of_each_side_stands_beside_its_time(tmp_path):
    errors = {"theirs": 0.1234, "ours": 0.0085, "a third": 0.5}
    (tmp_path / "one.jsonl").write_text(json.dumps(row(row="int8 linear", errors=errors)) + "\n")
    page = timings.fill(timings.MARK, tmp_path)
    for words in ("One linear layer in eight bits", "error (%)", "12.34", "0.85"):
        assert words in page
    assert "50.00" not in page
