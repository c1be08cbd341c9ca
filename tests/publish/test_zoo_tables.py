import json

import pytest

from survey_lib.publish import zoo
from survey_lib.publish.check_sources import check_sources
from survey_lib.publish.layout import PublishError
from survey_lib.publish.setup_cell import sync


def side(word, **more):
    return {"word": word, "groups": 2, "units": 1234, "error": 3e-15, "reason": "", **more}


ROWS = [
    {"net": "timm:one", "list": "named", "ours": side("exact", input=[3, 64, 64]),
     "torch-pruning": {"word": "exact", "error": 2e-16}},
    {"net": "timm:two", "list": "named", "torch-pruning": {"word": "crashes after changing the net",
     "reason": "running: RuntimeError: a | b"}, "ours": side("refused", reason="b: a <sentence>")},
    {"net": "timm:three", "list": "drawn", "torch-pruning": {"word": "wrong", "reason": "off"},
     "ours": side("nothing prunable", units=0, protected={"a": "normalised", "b": "normalised"})},
]  # fmt: skip
KEPT = {"rows": ROWS, "made": "2026-01-02T03:04:05+00:00", "commit": "abc+",
        "versions": {"torch": "2.9", "timm": "1.0", "torch-pruning": "1.6"}}  # fmt: skip
README = f"# Book\n\n{zoo.BEGIN}\nold\n{zoo.END}\n\nMore.\n"


def write(folder, kept=KEPT):
    folder.mkdir(exist_ok=True)
    (folder / "zoo.json").write_text(json.dumps(kept))


def test_the_summary_counts_each_list_and_side():
    lines = zoo.summary(KEPT).splitlines()
    named, drawn = zoo.LISTS["named"], zoo.LISTS["drawn"]
    assert f"| {named} | 1 | 0 | 1 | 1 | 1 | 0 |" in lines
    assert f"| {drawn} | 0 | 1 | 0 | 0 | 0 | 1 |" in lines
    assert lines[-1].startswith("1 of 3 nets are pruned exactly; none is pruned wrongly.")
    assert "Recorded on 2026-01-02 at commit abc with timm 1.0, torch 2.9" in lines[-1]


def test_a_wrong_net_is_named():
    rows = [*ROWS, {**ROWS[0], "net": "timm:bad", "ours": side("wrong", reason="off")}]
    assert "and wrongly: timm:bad." in zoo.summary({**KEPT, "rows": rows})
    rows = [*ROWS, {**ROWS[0], "net": "timm:slow", "ours": side("no answer", reason="off")}]
    said = zoo.summary({**KEPT, "rows": rows})
    assert "none is pruned wrongly. No answer in time: timm:slow." in said


def test_where_the_peer_was_not_tried_the_record_says_so(tmp_path):
    write(tmp_path, {**KEPT, "rows": [{k: v for k, v in ROWS[0].items() if k != zoo.PEER}]})
    kept = zoo.read(tmp_path / "zoo.json")
    assert f"| {zoo.LISTS['named']} | 1 | 0 | 0 | not tried | – | – |" in zoo.summary(kept)
    assert "| exact, 3e-15 | not tried |" in zoo.tables(kept)


def test_the_page_tells_every_net_and_why():
    page = zoo.fill(f"Above\n\n{zoo.MARK}\n", KEPT)
    assert "| one | 3 × 64 × 64 | 1,234 | exact, 3e-15 | exact, 2e-16 |" in page
    assert "refused: b: a &lt;sentence>" in page
    assert "crashes after changing the net: running: RuntimeError: a \\| b |" in page
    assert "| three | – | – | nothing prunable: normalised | wrong: off |" in page
    with pytest.raises(PublishError, match="must hold the line"):
        zoo.fill("no mark", KEPT)


def test_readme_is_stamped_between_its_marks_and_stamping_again_changes_nothing():
    once = zoo.stamp(README, KEPT)
    assert "old" not in once
    assert once.startswith("# Book\n")
    assert once.endswith("\n\nMore.\n")
    assert zoo.stamp(once, KEPT) == once
    for spoiled in ("none", f"{zoo.END} {zoo.BEGIN}", README + zoo.BEGIN, README + README):
        with pytest.raises(PublishError, match="in this order"):
            zoo.stamp(spoiled, KEPT)


def test_a_record_that_is_none_is_one_sentence(tmp_path):
    with pytest.raises(PublishError, match=r"run python -m tests\.mechanics\.zoo"):
        zoo.read(tmp_path / "zoo.json")
    write(tmp_path, {**KEPT, "rows": [{"net": "x"}]})
    with pytest.raises(PublishError, match="holds no record of the zoo"):
        zoo.read(tmp_path / "zoo.json")


def test_sync_writes_the_table_and_the_check_finds_an_old_one(book, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path / "records"))
    write(tmp_path / "records")
    (book.root / "README.md").write_text(README)
    what = "its table of nets is not results/zoo.json's"
    assert what in {f.what for f in check_sources() if f.file == "README.md"}
    assert "README.md" in {path.name for path in sync()}
    assert not [f for f in check_sources() if f.file == "README.md"]
    write(tmp_path / "records", {**KEPT, "rows": ROWS[:2]})
    assert what in {f.what for f in check_sources() if f.file == "README.md"}
    (tmp_path / "records" / "zoo.json").unlink()
    assert any("holds no record" in f.what for f in check_sources() if f.file == "README.md")
