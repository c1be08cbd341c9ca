"""Draft a new chapter: every file a paper needs, so that only the paper is left to write.

The draft runs from its first cell to its last: the opponents of every method are there already,
and only the paper's own ``compress`` is missing.
"""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_origin

import nbformat
import yaml

from survey_lib import files
from survey_lib.cards.card import GROUPS, Card, parse_card
from survey_lib.publish import folding, layout, setup_cell
from survey_lib.publish.layout import PublishError
from survey_lib.publish.survey_file import Section, choose, read_survey, squeezed, without_accents
from survey_lib.show.markup import markdown

TEMPLATES = Path(__file__).resolve().parent / "templates"
DRAFT = "Draft:"
"""Begins every sentence of a draft that its author still has to write."""

MARKED = ("title", "authors")
"""Words of a card that stand in the notebook's Markdown."""

# group of a card → KIND of its method, and what its budget counts
KINDS: dict[str, tuple[str, str]] = dict(
    zip(
        GROUPS,
        (("weights", "nonzeros"), ("channels", "macs"), ("bits", "bits"), ("channels", "macs")),
        strict=True,
    )
)


def new_chapter(
    slug: str,
    *,
    survey_file: Path | None = None,
    title: str | None = None,
    root: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Write the draft of a chapter: card, method, experiment, notebook, tests, and their entries.

    The card is taken as it is where there is one, else made from a section of ``survey_file``.
    Either everything is written or nothing is.

    Args:
        slug: the paper's short name: lower-case letters, digits and ``_``.
        survey_file: a Markdown file with one ``###`` section a paper (year, authors, gist,
            results, tags). Without ``title`` the section is found by the words of the slug.
        title: title of the paper, or the words that tell its section from the others.
        root: the checkout; by default the one this package runs from.
        say: takes remarks on what was found in the survey file.

    Returns:
        The files written, new ones first, then those that got an entry.

    Raises:
        PublishError: the slug is no plain name, a file is there already, there is neither a card
            nor a section to make it from, the paper has a card under another slug, or a table
            has no place for the entry.
    """
    root = root or layout.root()
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", slug):
        raise PublishError(
            f"{slug!r} is no slug: use lower-case letters and digits, words joined by _"
        )
    new = _new_files(root, slug)
    card_file = root / "survey_lib" / "cards" / f"{slug}.md"
    if card_file.exists():
        card = parse_card(card_file.read_text(encoding="utf-8"), card_file.name, slug)
        texts = {}
    else:
        if survey_file is None:
            raise PublishError(
                f"there is no card survey_lib/cards/{slug}.md: write it, or name the survey file "
                "that describes the paper with --from"
            )
        section = choose(read_survey(survey_file), slug, title, survey_file.name, say)
        bibliography = (root / "book" / "references.bib").read_text(encoding="utf-8")
        text = card_text(section, slug, title, bibliography, survey_file.name)
        card = parse_card(text, card_file.name, slug)
        _refuse_twin(card, root)
        texts = {card_file: text, new.pop("received"): section.text}
    new.pop("received", None)
    for path in [*texts, *new.values()]:
        if path.exists():
            raise PublishError(
                f"{_name(path, root)} exists and is left as it is; nothing was written: "
                "move it away or choose another slug"
            )
    words = _words(card)
    shown = {key: markdown(words[key]) if key in MARKED else words[key] for key in words}
    for name, path in new.items():
        is_page = name == "notebook"
        texts[path] = _notebook(shown, root, card.extras) if is_page else _filled(name, words)
    entries = _entries(root, card)
    _write_all(texts, entries)
    if card_file not in texts:
        say(f"{_name(card_file, root)} is there and is taken as it is")
    return [*texts, *entries]


def _refuse_twin(card: Card, root: Path) -> None:
    """Raise PublishError when another card is of the same paper."""
    for path in sorted((root / "survey_lib" / "cards").glob("*.md")):
        other = parse_card(path.read_text(encoding="utf-8"), path.name)
        if squeezed(other.title).casefold() == squeezed(card.title).casefold():
            raise PublishError(
                f"{_name(path, root)} is of this paper already; run survey new {path.stem}"
            )


def card_text(section: Section, slug: str, title: str | None, bibliography: str, name: str) -> str:
    """The draft of a card in its file's form; what only its author can tell begins with Draft.

    Args:
        section: the paper as the survey has it.
        slug: its short name.
        title: its title where the survey has none.
        bibliography: text of ``references.bib``, so that the key is a new one.
        name: name of the survey file, for messages.

    Raises:
        PublishError: the section lacks title, year, authors or gist.
    """
    title = section.title or squeezed(title or "")
    given = {"title": title, "year": section.year, "authors": section.authors, "gist": section.gist}
    absent = [field for field, value in given.items() if not value]
    if absent:
        raise PublishError(
            f"{name}: the section in line {section.line} has no {' and no '.join(absent)}; "
            "fill that in first"
        )
    front: dict[str, Any] = {
        "slug": slug,
        "title": title,
        "authors": list(section.authors),
        "year": section.year,
        "venue": f"{DRAFT} where it was published",
        "arxiv": "",
        "doi": "",
        "code": "",
        "code_licence": "",
        "tags_received": list(section.tags),
        "tags": list(section.tags),
        "group": _group(section.tags),
        "bibkey": _bibkey(section, title, bibliography),
        "headline": f"{DRAFT} the one sentence a practitioner would repeat to a colleague",
        "scale": f"{DRAFT} our data and nets; the paper: its data and nets",
        "tolerance": {"accuracy": 0.005, "val": 0.005, "nonzeros": 0},
    }
    order = {}
    for field in fields(Card):
        if field.name in front:
            order[field.name] = front[field.name]
        elif field.name != "gist" and field.default is field.default_factory is MISSING:
            order[field.name] = [] if get_origin(field.type) is tuple else f"{DRAFT} {field.name}"
    dumped = yaml.safe_dump(order, sort_keys=False, allow_unicode=True, width=100)
    return f"---\n{dumped}---\n\n{section.gist}\n"


def _group(tags: tuple[str, ...]) -> str:
    """The group the tags point to; the author mends it where they mislead."""
    words = " ".join(tags).lower()
    for pattern, group in (
        (r"adapter|decoder|language model|\bllm\b", GROUPS[3]),
        (r"quanti|\bbits?\b", GROUPS[2]),
        (r"\bunstructured|weight pruning", GROUPS[0]),
    ):
        if re.search(pattern, words):
            return group
    return GROUPS[1]


def _bibkey(section: Section, title: str, bibliography: str) -> str:
    """First author, year, first word of the title that says something; ``b``, ``c`` if taken."""
    author = re.sub(r"[^a-z]", "", without_accents(section.authors[0].split()[-1]).lower())
    small = {"about", "and", "from", "into", "not", "the", "their", "toward", "towards", "with"}
    words = re.findall(r"[a-z0-9]+", without_accents(title).lower())
    word = next((w for w in words if len(w) > 3 and w not in small), words[0])
    base = f"{author}{section.year}{word}"
    for suffix in ("", *"bcdefgh"):
        if f"{{{base}{suffix}," not in bibliography:
            return base + suffix
    raise PublishError(f"book/references.bib has too many entries like {base}")


def _words(card: Card) -> dict[str, str]:
    """What the templates' ``<<name>>`` stand for."""
    names = [a.split()[-1] for a in card.authors]
    by = f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
    # quotes and backslashes would end the docstrings these words stand in
    title = card.title.replace("\\", "/").replace('"', "'")
    return {
        "slug": card.slug,
        "title": title,
        "short": textwrap.shorten(title, 70, placeholder=" …"),
        "authors": ", ".join(card.authors).replace("\\", "/").replace('"', "'"),
        "by": by,
        "year": str(card.year),
        "bibkey": card.bibkey,
        "kind": KINDS[card.group][0],
        "metric": KINDS[card.group][1],
    }


def _new_files(root: Path, slug: str) -> dict[str, Path]:
    """Template → file of a new chapter."""
    return {
        "received": root / "survey_lib" / "cards" / "received" / f"{slug}.md",
        "method": root / "survey_lib" / "methods" / f"{slug}.py",
        "experiment": root / "survey_lib" / "experiments" / slug / "__init__.py",
        "cells": root / "survey_lib" / "experiments" / slug / "cells.py",
        "study": root / "survey_lib" / "experiments" / slug / "study.py",
        "drawing": root / "survey_lib" / "show" / "drawings" / f"{slug}.py",
        "explorer": root / "survey_lib" / "show" / "explorers" / f"{slug}.py",
        "notebook": root / "notebooks" / f"{slug}.ipynb",
        "test_method": root / "tests" / "methods" / f"test_{slug}.py",
        "test_study": root / "tests" / "experiments" / f"test_{slug}.py",
    }


def _filled(name: str, words: dict[str, str]) -> str:
    """A template's text with the words put in, its imports in order."""
    suffix = ".txt" if name == "notebook" else ".py.txt"
    text = (TEMPLATES / f"{name}{suffix}").read_text(encoding="utf-8")
    for key, value in words.items():
        text = text.replace(f"<<{key}>>", value)
    return re.sub(r"(?m)(?:^from survey_lib\..*\n)+", _sorted_imports, text)


def _sorted_imports(block: re.Match) -> str:
    lines = block.group().splitlines(keepends=True)
    return "".join(sorted(lines, key=lambda line: (line.split()[1], line.split()[3])))


def _notebook(words: dict[str, str], root: Path, extras: Sequence[str]) -> str:
    config = layout.read_yaml(root / "_config.yml")["repository"]
    cells = []
    for block in re.split(r"(?m)^%{4} ", _filled("notebook", words))[1:]:
        head, _, source = block.partition("\n")
        kind, _, rest = head.partition(" ")
        if kind == "setup":
            cells.append(setup_cell.setup_cell(config["url"], config.get("branch", "main"), extras))
            continue
        made = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
        cell = made[kind](source.strip("\n"))
        ident, _, tags = rest.partition(" ")
        cell.id = ident
        if tags:
            cell.metadata["tags"] = tags.strip("[]").split(", ")
        folding.fold(cell)
        cells.append(cell)
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata.update(
        {"kernelspec": dict(layout.KERNEL), "language_info": {"name": "python"}}
    )
    return nbformat.writes(notebook) + "\n"


def _entries(root: Path, card: Card) -> dict[Path, str]:
    """The files that list chapters, with the new one's entry."""
    entries = {}
    # the method joins its table when it is written: what stands there is tested
    path = root / "survey_lib" / "experiments" / "__init__.py"
    entries[path] = _with_entry(path.read_text(encoding="utf-8"), card.slug)
    bibliography = root / "book" / "references.bib"
    text = bibliography.read_text(encoding="utf-8")
    if f"{{{card.bibkey}," not in text:
        entries[bibliography] = text.rstrip("\n") + "\n\n" + _bib_entry(card)
    toc = root / "_toc.yml"
    entries[toc] = with_toc_line(toc.read_text(encoding="utf-8"), card.slug, card.group)
    return entries


def _with_entry(text: str, slug: str) -> str:
    name = "survey_lib/experiments/__init__.py"
    if f'"{slug}":' in text:
        raise PublishError(f"{name} lists {slug} already; take it out first")
    pattern = r"(?ms)^(EXPERIMENTS\b[^\n]*= \{\n.*?)^\}"
    line = f'    "{slug}": "survey_lib.experiments.{slug}",\n'
    new, count = re.subn(pattern, lambda m: f"{m.group(1)}{line}}}", text, count=1)
    if count != 1:
        raise PublishError(f"{name} has no table EXPERIMENTS to add to")
    return new


def with_toc_line(text: str, slug: str, caption: str) -> str:
    """A table of contents with the chapter at the end of the part with this caption.

    A part that is not there is put before the part Reference, or at the end.

    Raises:
        PublishError: the chapter is listed already, or the file has another shape.
    """
    before = layout.toc_pages(yaml.safe_load(text))
    page = f"notebooks/{slug}"
    if page in before:
        raise PublishError(f"_toc.yml lists {page} already; take it out first")
    lines = text.rstrip("\n").split("\n")
    heads = {
        m.group(1).strip("\"'"): i
        for i, line in enumerate(lines)
        if (m := re.match(r"  - caption: *(.+?) *$", line))
    }
    if caption in heads:
        later = [i for i in heads.values() if i > heads[caption]]
        end = min(later, default=len(lines))
        while not lines[end - 1].strip():
            end -= 1
        lines.insert(end, f"      - file: {page}")
    else:
        part = [f"  - caption: {caption}", "    chapters:", f"      - file: {page}"]
        at = heads.get("Reference", len(lines))
        lines[at:at] = part
    new = "\n".join(lines) + "\n"
    try:
        after = layout.toc_pages(yaml.safe_load(new))
    except yaml.YAMLError:
        after = []
    if [p for p in after if p != page] != before or after.count(page) != 1:
        raise PublishError(f"_toc.yml has an unknown shape; list {page} there by hand first")
    return new


def _bib_entry(card: Card) -> str:
    def name(author: str) -> str:
        *first, last = author.split()
        return f"{last}, {' '.join(first)}" if first else f"{{{last}}}"

    title = re.sub(r"([&%#_$])", r"\\\1", card.title)
    rows = {
        "title": f"{{{title}}}",
        "author": " and ".join(name(a) for a in card.authors),
        "year": str(card.year),
    }
    if card.arxiv:
        rows |= {"eprint": card.arxiv, "archiveprefix": "arXiv"}
    if card.doi:
        rows["doi"] = card.doi
    body = ",\n".join(f"  {key:13} = {{{value}}}" for key, value in rows.items())
    return f"@misc{{{card.bibkey},\n{body}\n}}\n"


def _write_all(texts: dict[Path, str], entries: dict[Path, str]) -> None:
    """Write new files and changed ones; on a failure put everything back."""
    old = {path: path.read_bytes() for path in entries}
    done: list[Path] = []
    try:
        for path, text in (texts | entries).items():
            done.append(path)
            files.write_atomic(path, text)
    except BaseException:
        for path in done:
            if path in old:
                files.write_atomic(path, old[path])
            else:
                path.unlink(missing_ok=True)
        raise


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
