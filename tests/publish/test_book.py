"""The book's own pages and files."""

import re
from pathlib import Path

from survey_lib import files
from survey_lib.evidence.intervals import seeds_needed, t_interval
from survey_lib.evidence.verdicts import SIGNS, decide
from survey_lib.publish import check_sources, layout

ROOT = Path(__file__).resolve().parents[2]


def test_the_worked_example_is_right():
    text = (ROOT / "book" / "how_to_read.md").read_text(encoding="utf-8")
    example = text[text.index("## A worked example") : text.index("## Profiles")]
    listed = re.search(r"in points: ([\d., ]+)\. Their mean", example).group(1)
    values = [float(v) for v in listed.split(", ")]
    interval = t_interval(values)
    mean = re.search(r"mean is\s+([\d.]+) and the interval is ([\d.]+) to ([\d.]+)\.", example)
    found = (interval.mean, interval.low, interval.high)
    assert [f"{v:.2f}" for v in found] == list(mean.groups())
    regions = [(0.0, None), (-0.5, 0.5), (1.0, None)]
    words = re.findall(r"\*\*([✓✗≈]) ([a-z ]+)\*\*", example)
    assert words == [(SIGNS[decide(interval, r)], decide(interval, r)) for r in regions]
    told = int(re.search(r"about (\d+) seeds", example).group(1))
    assert told == seeds_needed(values, interval.mean - 1.0)


def test_pages_name_the_four_words():
    text = (ROOT / "book" / "how_to_read.md").read_text(encoding="utf-8")
    for word, sign in SIGNS.items():
        assert f"| {sign} {word} |" in text


def test_pages_name_only_commands_that_exist():
    from typer.testing import CliRunner

    from survey_lib import cli

    text = (ROOT / "book" / "how_to_run.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:survey) ([a-z]+)(.*?)(?:#|$)", text, re.MULTILINE)
    assert len(lines) >= 6
    for command, rest in lines:
        shown = CliRunner().invoke(cli.app, [command, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.output)
        for option in re.findall(r"--[a-z]+", rest):
            assert option in plain, f"survey {command} has no {option}"


def test_every_hand_written_page_is_listed_once():
    pages = [p for p in layout.pages() if p.startswith("book/")]
    written = {f"book/{p.stem}" for p in (ROOT / "book").glob("*.md")}
    assert sorted(pages) == sorted(written)


def test_vendored_files_match_their_checksums_and_ask_nobody():
    assert check_sources._check_vendor() == []
    mathjax = (ROOT / "book" / "_vendor" / "mathjax" / "tex-svg.js").read_text(encoding="utf-8")
    assert not re.search(r"https?://[\w.-]*(cdn|unpkg)", mathjax)
    assert files.repository() == ROOT
