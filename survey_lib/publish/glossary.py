"""The glossary's words, linked where a chapter uses them first."""

import re
from pathlib import Path
from typing import Any

from survey_lib.publish import layout
from survey_lib.show.markup import anchor, escape

PAGE = "book/glossary"

# what is no prose: fences, formulas, code, links with their words, HTML, headings
_NO_PROSE = re.compile(
    r"(?ms)^(`{3,}|~{3,}).*?^\1\s*$|\$\$.*?\$\$|\$[^$\n]+\$|`[^`]*`|!?\[[^\]]*\]\([^)]*\)|<[^>]+>"
    r"|^#[^\n]*$"
)


def entries(path: Path | None = None) -> list[tuple[str, ...]]:
    """Names of each entry, the main one first; none where the book has no glossary."""
    path = path or layout.root() / f"{PAGE}.md"
    if not path.exists():
        return []
    found = re.search(r"(?ms)^```\{glossary\}\n(.*?)^```", path.read_text(encoding="utf-8"))
    made: list[tuple[str, ...]] = []
    for block in re.split(r"\n\s*\n", found.group(1).strip("\n")) if found else ():
        names = tuple(line for line in block.splitlines() if line and not line.startswith(" "))
        if names:
            made.append(names)
    return made


def link_first_uses(notebook: Any, glossary: list[tuple[str, ...]] | None = None) -> None:
    """Make a link of the first use of each entry in a chapter's prose; the notebook is changed.

    Args:
        notebook: a chapter as the book shows it.
        glossary: as :func:`entries` gives them; by default those of the book.
    """
    waiting = entries() if glossary is None else list(glossary)
    for cell in notebook.cells:
        if cell.cell_type != "markdown" or not waiting:
            continue
        for names in list(waiting):
            linked = _linked(cell.source, names)
            if linked is not None:
                cell.source = linked
                waiting.remove(names)


def _linked(text: str, names: tuple[str, ...]) -> str | None:
    """``text`` with its first use of one of ``names`` as a link; None where there is none."""
    longest = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w-])({'|'.join(map(_pattern, longest))})(?![\w-])")
    start = 0
    for barrier in [*_NO_PROSE.finditer(text), None]:
        end = barrier.start() if barrier else len(text)
        found = pattern.search(text, start, end)
        if found:
            name = next(n for n in longest if re.fullmatch(_pattern(n), found.group()))
            link = (
                f'<a class="survey-term" href="../{PAGE}.html#term-{anchor(name)}">'
                f"{escape(found.group())}</a>"
            )
            return text[: found.start()] + link + text[found.end() :]
        start = barrier.end() if barrier else end
    return None


def _pattern(name: str) -> str:
    """A name as it may stand in a sentence: capitalised, in the plural, over a line's end."""
    words = r"\s+".join(map(re.escape, name.split()))
    if name[0].islower():
        words = f"[{name[0]}{name[0].upper()}]{words[1:]}"
    return words + ("" if name.endswith("s") else "s?")
