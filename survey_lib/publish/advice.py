"""What to do, as a tree of questions whose every sentence names its verdicts; and what it comes to.

The sentences at the root of the tree are the survey's finding and stand on the landing page.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from survey_lib.cards.card import CardError, read_card
from survey_lib.publish.disputes import Judged, verdict_on
from survey_lib.publish.layout import PublishError, read_yaml
from survey_lib.show.claims import found, paper
from survey_lib.show.markup import anchor, escape, link, safe

MARK = "<!-- survey: advice -->"
FINDING = "<!-- survey: finding -->"
FILE = "advice.yml"


@dataclass(frozen=True)
class Sentence:
    """One piece of advice, or what no run answers."""

    text: str
    rests: tuple[tuple[str, str], ...] = ()
    """(``slug/claim-id``, the word it must have); empty where the evidence is too thin."""


@dataclass(frozen=True)
class Branch:
    """A situation, what is said about it, and the next question."""

    situation: str
    said: tuple[Sentence, ...]
    question: str = ""
    ways: tuple["Branch", ...] = ()


def read(path: Path) -> Branch:
    """The tree of a file; its root has no situation.

    Raises:
        PublishError: a field is missing, strange or of the wrong kind, or words hold a digit.
    """
    return _branch(read_yaml(path), path.name, "the root", root=True)


def _branch(data: Any, file: str, where: str, *, root: bool = False) -> Branch:
    if not isinstance(data, dict):
        raise PublishError(f"{file}: {where} must be a mapping of fields")
    known = {"say", "ask", "ways"} | (set() if root else {"if"})
    if strange := data.keys() - known:
        raise PublishError(f"{file}: {where} has an unknown field {sorted(map(str, strange))[0]!r}")
    situation = "" if root else _words(data.get("if"), file, f"'if' under {where}")
    here = repr(situation) if situation else where
    said = tuple(_sentence(one, file, here) for one in data.get("say") or ())
    ways = tuple(_branch(one, file, f"a way under {here}") for one in data.get("ways") or ())
    if bool(ways) != ("ask" in data):
        raise PublishError(f"{file}: {here} needs both 'ask' and 'ways', or neither")
    if not said and not ways:
        raise PublishError(f"{file}: {here} says nothing; give it 'say', or 'ask' and 'ways'")
    question = _words(data["ask"], file, f"'ask' of {here}") if ways else ""
    return Branch(situation, said, question, ways)


def _sentence(data: Any, file: str, where: str) -> Sentence:
    fields = data.keys() if isinstance(data, dict) else set()
    if fields == {"thin"}:
        return Sentence(_words(data["thin"], file, f"'thin' of {where}"))
    if fields != {"text", "rests"} or not isinstance(data["rests"], dict) or not data["rests"]:
        raise PublishError(
            f"{file}: a sentence of {where} needs 'text' and the claims it 'rests' on, each with "
            "the word of its verdict; or 'thin' alone"
        )
    rests = tuple((str(name), str(word)) for name, word in data["rests"].items())
    return Sentence(_words(data["text"], file, f"'text' of {where}"), rests)


def _words(given: Any, file: str, where: str) -> str:
    if not isinstance(given, str) or not given.strip():
        raise PublishError(f"{file}: {where} must be words")
    if re.search(r"\d", given):
        raise PublishError(f"{file}: {where} holds a digit; numbers come from the verdicts")
    return given.strip()


def sentences(tree: Branch) -> Iterator[Sentence]:
    """Every sentence of a tree, in reading order."""
    yield from tree.said
    for way in tree.ways:
        yield from sentences(way)


def stale(tree: Branch, judged: Judged) -> list[str]:
    """What the tree rests on and is not so: an unknown claim, one not judged, another word."""
    problems = []
    for sentence in sentences(tree):
        for name, word in sentence.rests:
            told_as = f"the sentence {sentence.text[:50]!r}… rests on {name}"
            try:
                slug, claim_id = name.split("/")
                read_card(slug).claim(claim_id)
            except (CardError, ValueError):
                problems.append(f"{told_as}, which is no claim of a card")
                continue
            verdict = verdict_on(name, judged)
            now = "not judged" if verdict is None else verdict.word
            if now != word:
                problems.append(f"{told_as} as {word!r}, which is {now!r} now; write it anew")
    return problems


def fill(text: str, path: Path, judged: Judged) -> str:
    """A page with its marks replaced: by the tree, or by what is said at its root.

    Args:
        text: the page's Markdown.
        path: of the tree.
        judged: verdicts of the book's chapters.

    Raises:
        PublishError: the file is no tree, a sentence rests on a verdict that has changed, or the
            page asks for a finding and the root says nothing.
    """
    if MARK not in text and FINDING not in text:
        return text
    tree = read(path)
    if problems := stale(tree, judged):
        raise PublishError(f"book/{path.name}: {problems[0]}")
    if FINDING in text and not tree.said:
        raise PublishError(f"book/{path.name}: a page shows the finding; give the root a 'say'")
    if FINDING in text:
        told = "".join(_said(sentence, judged, headline=True) for sentence in tree.said)
        shown = (
            f'<div class="survey survey-advice survey-finding"><ul class="said">{told}</ul></div>'
        )
        return text.replace(FINDING, shown)
    ways = "\n".join(_way(way, judged) for way in tree.ways)
    return text.replace(
        MARK,
        f'<div class="survey survey-advice"><p class="question">{escape(tree.question)}</p>\n'
        f"{ways}\n</div>",
    )


def _way(branch: Branch, judged: Judged) -> str:
    said = "".join(_said(sentence, judged) for sentence in branch.said)
    said = said and f'<ul class="said">{said}</ul>'
    next_ = "".join(_way(way, judged) for way in branch.ways)
    question = branch.question and f'<p class="question">{escape(branch.question)}</p>'
    return (
        f"<details><summary>{escape(branch.situation)}</summary>{said}{question}{next_}</details>"
    )


def _said(sentence: Sentence, judged: Judged, *, headline: bool = False) -> str:
    words = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(sentence.text))
    if headline:
        words = re.sub(r"^[^.]+\.", r"<strong>\g<0></strong>", words)
    if not sentence.rests:
        return f'<li class="thin"><p><strong>Not known here.</strong> {words}</p></li>'
    rows = "".join(f"<li>{_rest(name, judged)}</li>" for name, _ in sentence.rests)
    return f'<li><p>{words}</p><ul class="rests">{rows}</ul></li>'


def _rest(name: str, judged: Judged) -> str:
    """A verdict on one line: sign, claim, number, word, paper."""
    slug, claim_id = name.split("/")
    verdict, card = verdict_on(name, judged), paper(slug)
    if verdict is None:
        raise PublishError(f"{name} is not judged")  # stale() has told of it
    address = f"../notebooks/{slug}.html#verdict-{anchor(claim_id)}"
    number = "" if verdict.interval is None else f" {found(safe(verdict))}"
    return (
        f'<span class="sign" aria-hidden="true">{verdict.sign}</span> '
        f"{link(address, card.claim(claim_id).title)}{number} "
        f'<span class="whose">{verdict.word} · {card.brief}</span>'
    )
