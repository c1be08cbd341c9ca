"""A survey file: one Markdown section a paper, read as it comes."""

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from survey_lib.publish.layout import PublishError


@dataclass(frozen=True)
class Section:
    """One paper as a survey file has it."""

    title: str
    """Empty where the form's name was left as it came."""
    year: int | None
    authors: tuple[str, ...]
    gist: str
    tags: tuple[str, ...]
    text: str
    """The section as received, pictures replaced by their names."""
    line: int
    """Where it starts in the file, from 1."""

    @property
    def blank(self) -> bool:
        """True for a form that nobody filled in."""
        return not (self.title or self.year or self.authors or self.gist or self.tags)


def read_survey(path: Path) -> list[Section]:
    """The sections of a survey file, blank forms included.

    Raises:
        PublishError: the file is absent, is no text, or has no ``###`` section.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise PublishError(f"there is no survey file {path}") from None
    except UnicodeDecodeError:
        raise PublishError(f"{path.name} is no UTF-8 text") from None
    lines = text.splitlines()
    starts = [i for i, line in enumerate(lines) if re.match(r"#{1,3}(?!#)", line)]
    sections = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        if lines[start].startswith("###"):
            sections.append(_section(lines[start:end], start + 1))
    if not sections:
        raise PublishError(f"{path.name} has no section: a paper starts with '### Its title'")
    return sections


_FIELD = re.compile(r"^\*\*(Year|Authors|Gist|Results|Tags)\*\*:?[ \t]*", re.MULTILINE)
_IMAGE = re.compile(r"<img[^>]*\bsrc=[\"'](?:[^\"']*/)?([^\"'/]+)[\"'][^>]*>")


def _left_out(image: re.Match) -> str:
    return f"[image left out: {image.group(1)}]"


def _section(lines: list[str], line: int) -> Section:
    body = "\n".join(lines).removeprefix("###")
    pieces = _FIELD.split(body)
    title = squeezed(pieces[0])
    values = {name: value.strip() for name, value in zip(pieces[1::2], pieces[2::2], strict=True)}
    year = re.search(r"\d{4}", values.get("Year", ""))
    # a dagger marks a footnote and may stand where a comma should
    authors = re.split(r",|†|\band\b", values.get("Authors", ""))
    tags = values.get("Tags", "").rstrip(".").split(",")
    gist = _IMAGE.sub("", values.get("Gist", ""))
    return Section(
        title="" if title in ("Name", "") else title,
        year=int(year.group()) if year else None,
        authors=tuple(squeezed(a) for a in authors if squeezed(a)),
        gist=re.sub(r"\n{3,}", "\n\n", gist).strip(),
        tags=tuple(squeezed(t) for t in tags if squeezed(t)),
        text=_IMAGE.sub(_left_out, "\n".join(lines)).strip() + "\n",
        line=line,
    )


def choose(
    sections: list[Section],
    slug: str,
    title: str | None,
    name: str,
    say: Callable[[str], None] = print,
) -> Section:
    """The section of a paper.

    With ``title``, the one whose title holds it; a section that has a gist but kept the form's
    empty name is taken when no title fits and there is only one such. Without it, the one whose
    title has all words of the slug.

    Raises:
        PublishError: no section fits, or several do; the message lists the titles.
    """
    blank = [s for s in sections if s.blank]
    if blank:
        where = ", ".join(str(s.line) for s in blank)
        forms = "blank form" if len(blank) == 1 else "blank forms"
        say(f"{name}: {len(blank)} {forms} skipped (line {where})")
    filled = [s for s in sections if not s.blank]
    if title:
        wanted = squeezed(title).casefold()
        fitting = [s for s in filled if wanted in s.title.casefold()]
        fitting = [s for s in fitting if wanted == s.title.casefold()] or fitting
        nameless = [s for s in filled if not s.title]
        if not fitting and len(nameless) == 1:
            say(f"{name}: the section in line {nameless[0].line} has no name; it gets this title")
            fitting = nameless
    else:
        fitting = [s for s in filled if _fits(slug, s.title)]
    if len(fitting) != 1:
        asked = f"{'title' if title else 'slug'} {title or slug!r}"
        found = "several sections fit" if fitting else "no section fits"
        titles = "; ".join(s.title or f"(no name, line {s.line})" for s in fitting or filled)
        raise PublishError(
            f"{name}: {found} the {asked}: {titles or 'all forms are blank'}; choose one by --title"
        )
    return fitting[0]


def _fits(slug: str, title: str) -> bool:
    words = re.findall(r"[a-z0-9]+", without_accents(title).lower())
    return set(slug.split("_")) <= set(words) or slug.replace("_", "") in "".join(words)


def squeezed(text: str) -> str:
    """``text`` with every run of white space as one space."""
    return " ".join(text.split())


def without_accents(text: str) -> str:
    """``text`` in ASCII: accents dropped, what has no plain letter left out."""
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
