"""The page a notebook makes: its context, and the card panel that opens it."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from survey_lib import files
from survey_lib.cards.card import PROFILES, Card, CardError, read_card, received
from survey_lib.evidence.verdicts import NOT_TESTED, SIGNS, Verdict
from survey_lib.show import style
from survey_lib.show.claims import by_kind, of_the_paper, signed_word, tally
from survey_lib.show.markup import (
    LIVE_STYLE,
    Html,
    Safe,
    anchor,
    escape,
    link,
    mean_words,
    paragraphs,
    range_words,
    safe,
    unit_words,
)

if TYPE_CHECKING:
    from survey_lib.experiments.judging import State

REPOSITORY_DEFAULT = "https://github.com/compression-survey/companion"
"""Address used by an installed package, which has no ``_config.yml`` beside it."""

MOST_LARGE = 3
"""Verdicts shown large on a page's first screen; the others stand in a row below."""

_COST = re.compile(r'<span class="survey-cost">[^<]*</span>')


@dataclass
class Context:
    """What the outputs of one notebook share. A kernel runs one notebook, so there is one."""

    slug: str = ""
    """Chapter whose page is being made; empty before :func:`begin`."""
    profile: str = "quick"
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    """Verdicts shown so far, by claim id."""


CONTEXT = Context()


def begin(slug: str, profile: str = "quick") -> None:
    """Open the page of chapter ``slug``: set the figures' style, forget the page before.

    Figures shown from here on are kept under ``_build/figures/<slug>/``.

    Raises:
        ValueError: the profile is unknown, or the slug is not a plain name.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, not {profile!r}")
    if not re.fullmatch(r"[a-z0-9_]+", slug):
        raise ValueError(f"slug must be lower-case letters, digits and _, not {slug!r}")
    CONTEXT.slug, CONTEXT.profile, CONTEXT.verdicts = slug, profile, {}
    style.use_style()


def current_slug() -> str:
    """Slug of the open page.

    Raises:
        RuntimeError: :func:`begin` has not been called.
    """
    if not CONTEXT.slug:
        raise RuntimeError("no page is open; call survey_lib.show.page.begin(slug, profile) first")
    return CONTEXT.slug


def remember(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Keep verdicts so that later cells may name them by claim id; returns them as a list."""
    kept = list(verdicts)
    CONTEXT.verdicts.update({v.claim.id: v for v in kept})
    return kept


def page_verdicts() -> dict[str, Verdict]:
    """Verdicts of the open page by claim id, judged from the committed study on first use."""
    if not CONTEXT.verdicts:
        # late: judging imports the experiment and with it torch
        from survey_lib.experiments.judging import verdicts

        remember(verdicts(current_slug()))
    return CONTEXT.verdicts


def page_instead() -> dict[str, dict[str, dict[int, float]]]:
    """Claim id → other ways to measure it, in words → value by replicate, of the open page."""
    from survey_lib.experiments.judging import instead  # late, as above

    return instead(current_slug())


def page_state() -> "State":
    """How the committed study of the open page stands to today's code.

    Raises:
        RunError: there is no committed study.
    """
    from survey_lib.experiments.judging import state  # late, as above

    return state(current_slug())


def repository() -> tuple[str, str]:
    """Address and branch of the repository: from ``_config.yml`` in a checkout, else built in.

    Raises:
        ValueError: ``_config.yml`` is there but cannot be read.
    """
    root = files.repository()
    config = root / "_config.yml" if root else None
    if config is None or not config.exists():
        return REPOSITORY_DEFAULT, "main"
    try:
        entry = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("repository") or {}
        url, branch = entry.get("url", REPOSITORY_DEFAULT), entry.get("branch", "main")
    except (yaml.YAMLError, AttributeError) as error:
        raise ValueError(f"_config.yml: field 'repository' cannot be read: {error}") from None
    return str(url).rstrip("/"), str(branch)


def card_panel(
    verdicts: Sequence[Verdict] | None = None, *, card: Card | None = None, facts: bool = True
) -> Html:
    """The panel that opens a chapter: headline, verdict strip, the paper's facts, badges.

    Args:
        verdicts: of the card's claims; by default judged from the committed study.
        card: by default the card of the open page.
        facts: False leaves facts and badges to :func:`facts_panel`, below the main figure.
    """
    told = card or read_card(current_slug())
    card = safe(told)
    shown = remember(verdicts) if verdicts is not None else list(page_verdicts().values())
    page = LIVE_STYLE + (
        '<div class="survey survey-card">'
        f'<p class="survey-headline">{card.headline}</p>'
        f"{_strip(shown)}{paper_facts(card) + _badges(card) if facts else ''}</div>"
    )
    lines = [told.headline, f"{told.title}. {', '.join(told.authors)}, {told.year}", told.scale]
    lines += [f"{v.sign} {v.word}: {v.claim.sentence}" for v in shown]
    return Html(page, "\n".join(lines))


def facts_panel(card: Card | None = None) -> Html:
    """The paper's facts, scales, badges, and what is done as in the paper and what otherwise."""
    told = card or read_card(current_slug())
    card = safe(told)
    return Html(
        f'{LIVE_STYLE}<div class="survey survey-card">{paper_facts(card)}{_badges(card)}'
        f"{_card_text(card, paragraphs(told.gist))}{differences(card)}</div>",
        f"{told.title}. {', '.join(told.authors)}, {told.year}\n{told.scale}",
    )


def differences(card: Card) -> str:
    """HTML of the box *faithful / differs here and why*; empty for a card that says nothing yet."""
    if not (card.faithful or card.differs):
        return ""
    card = safe(card)
    same = list(card.faithful)
    other = [f'{one.what} <span class="why">{one.why}</span>' for one in card.differs]
    return (
        '<div class="survey-faithful">'
        f'<section><p class="head">Faithful to the paper</p>{_first_few(same)}</section>'
        f'<section><p class="head">Differs here, and why</p>{_first_few(other)}</section></div>'
    )


SHOWN = 4
"""Lines of the box *faithful / differs* that are not folded, where there are two more or more."""


def _first_few(lines: Sequence[str]) -> str:
    """A list of which the first lines are shown and the others, counted, are folded."""
    items = [f"<li>{line}</li>" for line in lines]
    shown = SHOWN if len(items) > SHOWN + 1 else len(items)
    first, rest = "".join(items[:shown]), "".join(items[shown:])
    folded = f"<details><summary>{len(items) - shown} more</summary><ul>{rest}</ul></details>"
    return f"<ul>{first}</ul>{folded if rest else ''}"


def corrections(card: Card) -> str:
    """HTML list of what the card says otherwise than the text as it was received."""
    return f"<ul>{''.join(f'<li>{line}</li>' for line in safe(card).corrections)}</ul>"


def received_text(slug: str) -> str:
    """HTML of the survey's text of a paper as received; empty for one that was added later."""
    try:
        return escape(received(slug))
    except CardError:
        return ""


def _card_text(card: Card, gist: str) -> str:
    """Gist, the card as received and what was corrected in it, folded."""
    text, count = received_text(card.slug), len(card.corrections) or "nothing"
    folded = text and (
        f'<details class="survey-received"><summary>The card as received, and '
        f"what was corrected in it: {count}</summary><pre>{text}</pre>"
        f"{corrections(card)}</details>"
    )
    return (
        f'<details class="survey-gist"><summary>The paper in a minute</summary>{gist}</details>'
        + folded
    )


def decisive(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The claims a page shows large: the card's first ones that the paper makes and a run judged.

    The card's order was fixed before anything was run, so nobody picks by the outcome. A card
    without such claims has its first tested ones here, of whatever kind.
    """
    tested = [v for v in by_kind(verdicts) if v.word != NOT_TESTED]
    return (of_the_paper(tested) or tested)[:MOST_LARGE]


FOLDED = 6
"""More claims than these beside the large ones stand behind a line that counts them."""


def _strip(verdicts: Sequence[Verdict]) -> str:
    verdicts = safe(list(verdicts))
    large = decisive(verdicts)
    rest = [v for v in by_kind(verdicts) if v not in large]
    chips = "".join(f"<li>{_chip(v)}</li>" for v in large)
    more = "".join(f"<li>{_small_chip(v)}</li>" for v in rest)
    more = more and f'<ul class="survey-more" aria-label="The other claims">{more}</ul>'
    if len(rest) > FOLDED:
        more = f'<details class="survey-rest"><summary>{_counted(rest)}</summary>{more}</details>'
    return (
        f'<p class="survey-kicker">Put to the test: {tally(verdicts, "the paper")}</p>'
        + (chips and f'<ul class="survey-strip">{chips}</ul>')
        + more
    )


def _counted(verdicts: Sequence[Verdict]) -> str:
    """How many claims got each word, for a line that stands for them."""
    words = Counter(v.word for v in verdicts)
    told = (
        f'<span class="{anchor(word)}"><span class="word">{sign}</span> {words[word]} {word}</span>'
        for word, sign in SIGNS.items()
        if words[word]
    )
    return f"{len(verdicts)} more claims: {', '.join(told)}"


def _chip(verdict: Verdict) -> str:
    claim, interval = verdict.claim, verdict.interval
    numbers = ""
    if interval is not None:
        numbers = (
            f'<span class="numbers">{_found(verdict)} '
            f'<span class="range">{range_words(interval, unit=claim.unit)}</span></span>'
        )
    return (
        f'<a class="survey-chip {anchor(verdict.word)}" href="#verdict-{anchor(claim.id)}" '
        f'title="{claim.sentence}"><span class="word">{signed_word(verdict.word)}</span> '
        f'<span class="name">{claim.title}</span> {numbers}</a>'
    )


def _small_chip(verdict: Verdict) -> str:
    claim = verdict.claim
    numbers = f' <span class="numbers">{_found(verdict)}</span>' if verdict.interval else ""
    return (
        f'<a class="{anchor(verdict.word)}" href="#verdict-{anchor(claim.id)}" '
        f'title="{verdict.word}: {claim.sentence}"><span class="word">'
        f'<span class="sign" aria-hidden="true">{verdict.sign}</span>'
        f'<span class="visually-hidden">{verdict.word}: </span></span>'
        f'<span class="name">{claim.title}</span>{numbers}</a>'
    )


def _found(verdict: Verdict) -> str:
    """A judged claim's mean with its unit."""
    assert verdict.interval is not None
    unit = verdict.claim.unit
    return f"{mean_words(verdict.interval, unit)} {escape(unit_words(unit))}".strip()


def paper_facts(card: Card, *, titled: bool = True) -> str:
    """HTML of the paper's facts: title, authors, links, scale, tags.

    Args:
        card: the paper.
        titled: False where the title stands above already.
    """
    card, links = safe(card), []
    if card.arxiv:
        links.append(link(Safe(f"https://arxiv.org/abs/{card.arxiv}"), Safe(f"arXiv:{card.arxiv}")))
    if card.doi:
        links.append(link(Safe(f"https://doi.org/{card.doi}"), "DOI"))
    if card.code:
        licence = f" (licence: {card.code_licence})" if card.code_licence else ""
        links.append(link(card.code, "code") + licence)
    elif card.code_licence:
        links.append(card.code_licence)  # says why there is no code
    tags = "".join(f"<li>{tag}</li>" for tag in card.tags)
    return (
        '<div class="survey-paper">'
        + (f'<p class="title"><cite>{card.title}</cite></p>' if titled else "")
        + f'<p class="by">{", ".join(card.authors)} · {card.year} · '
        f"{card.venue}</p>"
        + (f'<p class="links">{" · ".join(links)}</p>' if links else "")
        + f'<p class="scale"><strong>Scale.</strong> {card.scale}</p>'
        + (f'<ul class="tags" aria-label="Tags">{tags}</ul>' if tags else "")
        + "</div>"
    )


def _badges(card: Card) -> str:
    slug, (url, branch) = card.slug, repository()
    items = []
    if url.startswith("https://github.com/"):
        colab = url.replace("https://github.com/", "https://colab.research.google.com/github/")
        items.append(link(f"{colab}/blob/{branch}/notebooks/{slug}.ipynb", "Run on Colab"))
    path = method_file(slug).relative_to(files.PACKAGE).as_posix()
    method = f"{url}/blob/{branch}/survey_lib/{path}"
    items.append(link(method, "Read the method’s code"))
    # the address inside the site is dead elsewhere, so the style sheet of the site unhides it
    download = link(f"../_sources/notebooks/{slug}.ipynb", "Download the notebook", download="")
    cost = cost_words(_last_seconds(slug), card.download_bytes)
    return (
        f'<p class="survey-badges">{"".join(items)}<span class="survey-site-only" hidden>'
        f'{download}</span><span class="survey-cost">{cost}</span></p>'
    )


def method_file(slug: str, package: Path | None = None) -> Path:
    """The file of a paper's method: ``methods/<slug>.py``, or its ``method.py`` in a folder."""
    folder = (package or files.PACKAGE) / "methods" / slug
    return folder / "method.py" if folder.is_dir() else folder.with_suffix(".py")


def _last_seconds(slug: str) -> float | None:
    path = files.build_dir() / "execute" / f"{slug}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("seconds")
    except (OSError, ValueError, AttributeError):
        return None  # not run yet: the panel then says nothing about it


def cost_words(seconds: float | None, download_bytes: int) -> str:
    """What running the page costs, ``runs in 95 s · downloads 92 MB``; empty when unknown."""
    words = [f"runs in {max(1, round(seconds))} s"] if seconds is not None else []
    if download_bytes:
        words.append(f"downloads {download_bytes / 1e6:.0f} MB")
    return " · ".join(words)


def fill_cost(page: str, seconds: float | None, download_bytes: int) -> str:
    """``page`` (a panel's HTML) with the cost of the run that made it, known only afterwards."""
    words = cost_words(seconds, download_bytes)
    return _COST.sub(f'<span class="survey-cost">{words}</span>', page)
