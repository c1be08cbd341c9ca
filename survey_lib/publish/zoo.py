"""What the channel engine made of real nets, beside torch-pruning: tables for README and book.

``results/zoo.json`` is written by ``python -m tests.mechanics.zoo``; nothing here is by hand.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from survey_lib import files
from survey_lib.publish.layout import PublishError

MARK = "<!-- survey: zoo -->"
"""Where the page on the channel engine shows the nets, on a line of its own."""
BEGIN, END = "<!-- survey: zoo begins -->", "<!-- survey: zoo ends -->"
"""Between these lines README counts them; ``survey sync`` writes what stands there."""
LISTS = {
    "torchvision": "torchvision, one net or more of each family",
    "named": "timm, one net a family",
    "drawn": "timm, drawn by a rule before the engine could follow any of them",
    "project": "this project",
}
"""Lists of nets in the order of the tables, with their titles."""
EXACT, NOTHING, REFUSED, WRONG = "exact", "nothing prunable", "refused", "wrong"
UNTRIED, NO_ANSWER = "not tried", "no answer"
OURS, PEER = "ours", "torch-pruning"

Row = Mapping[str, Any]


def read(path: Path | None = None) -> dict[str, Any]:
    """The recorded zoo.

    Raises:
        PublishError: there is no record, or it is not what ``tests.mechanics.zoo`` writes.
    """
    path = path or files.results_dir() / "zoo.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        for row in kept["rows"]:
            _ = row["net"], row["list"], row[OURS]["word"]
            row.setdefault(PEER, {"word": UNTRIED})
        _ = kept["versions"]["timm"], kept["versions"][PEER], kept["made"], kept["commit"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise PublishError(
            f"results/{path.name} holds no record of the zoo: run python -m tests.mechanics.zoo"
        ) from None
    return kept


def fill(page: str, kept: Mapping[str, Any]) -> str:
    """The page's Markdown with one table a list of nets at the mark.

    Raises:
        PublishError: the mark is missing or stands twice.
    """
    if page.count(MARK) != 1:
        raise PublishError(f"book/engine.md must hold the line {MARK} once: put it there")
    return page.replace(MARK, tables(kept))


def stamp(readme: str, kept: Mapping[str, Any]) -> str:
    """README's Markdown with the counts between its two marks.

    Raises:
        PublishError: the marks are missing, stand twice or the wrong way round.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in rest or END in after + before:
        raise PublishError(f"README.md must hold the lines {BEGIN} and {END} once, in this order")
    return f"{before}{BEGIN}\n\n{summary(kept)}\n\n{END}{after}"


def summary(kept: Mapping[str, Any]) -> str:
    """How many nets of each list each side prunes exactly, as a table with a sentence below."""
    lines = [
        "| nets | exact | nothing to prune | refused | torch-pruning: exact "
        "| crashes or no answer | wrong |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    rows: Sequence[Row] = kept["rows"]
    for name, title in LISTS.items():
        found = [row for row in rows if row["list"] == name]
        if found:
            lines.append(f"| {title} | " + " | ".join(map(str, _counts(found))) + " |")
    ours = [row[OURS]["word"] for row in rows]
    wrong = [row["net"] for row in rows if row[OURS]["word"] == WRONG]
    open_ = [row["net"] for row in rows if row[OURS]["word"] == NO_ANSWER]
    said = f"{ours.count(EXACT)} of {len(rows)} nets are pruned exactly"
    said += f" and wrongly: {', '.join(wrong)}." if wrong else "; none is pruned wrongly."
    said += f" No answer in time: {', '.join(open_)}." if open_ else ""
    return "\n".join([*lines, "", f"{said} {_versions(kept)}"])


def _counts(rows: Sequence[Row]) -> list[int | str]:
    """Ours: exact, nothing, refused; the peer's: exact, crashes or no answer, others."""
    ours, peer = [r[OURS]["word"] for r in rows], [r[PEER]["word"] for r in rows]
    peer = [word for word in peer if word != UNTRIED]
    if not peer:
        return [*(ours.count(word) for word in (EXACT, NOTHING, REFUSED)), UNTRIED, "–", "–"]
    crashes = sum(word.startswith("crashes") or word == NO_ANSWER for word in peer)
    exact = peer.count(EXACT)
    return [
        *(ours.count(word) for word in (EXACT, NOTHING, REFUSED)),
        exact, crashes, len(peer) - exact - crashes,
    ]  # fmt: skip


def tables(kept: Mapping[str, Any]) -> str:
    """One table a list: every net, its units, what each side made of it and why."""
    parts = []
    for name, title in LISTS.items():
        rows = [row for row in kept["rows"] if row["list"] == name]
        if rows:
            head = f"| {title} | input | prunable units | this engine | torch-pruning |"
            body = "\n".join(_line(row) for row in rows)
            parts.append(f"{head}\n| --- | --- | --: | --- | --- |\n{body}")
    return "\n\n".join([*parts, _versions(kept)])


def _line(row: Row) -> str:
    ours, peer = row[OURS], row[PEER]
    shape = " × ".join(map(str, ours.get("input", ()))) or "–"
    units = f"{ours['units']:,}" if ours.get("units") else "–"
    net = row["net"].partition(":")[2]
    return f"| {net} | {shape} | {units} | {_told(ours)} | {_told(peer)} |"


def _told(side: Row) -> str:
    """A verdict and its reason, in a table's cell."""
    if side["word"] == EXACT:
        return f"exact, {side['error']:.0e}"
    reasons = dict.fromkeys(side.get("protected", {}).values())
    reason = side.get("reason", "")
    if side["word"] == NOTHING and reasons:
        reason = "; ".join(list(reasons)[:2])
    reason = " ".join(str(reason).split()).replace("|", "\\|").replace("<", "&lt;")
    if len(reason) > 220:
        reason = reason[:219].rstrip() + "…"
    return f"{side['word']}: {reason}" if reason else str(side["word"])


def _versions(kept: Mapping[str, Any]) -> str:
    found = kept["versions"]
    libraries = ", ".join(f"{name} {found[name]}" for name in sorted(found))
    at = kept["commit"].removesuffix("+")
    return f"Recorded on {kept['made'][:10]} at commit {at} with {libraries}."
