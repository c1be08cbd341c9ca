"""Cards: one paper's facts, its reported results and its claims, read strictly from Markdown.

A card is ``survey_lib/cards/<slug>.md``: YAML front matter between two ``---`` lines, then the
gist in the project's own words. A missing or unknown field is an error that names file and field.
"""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

FOLDER = Path(__file__).resolve().parent
PROFILES = ("smoke", "quick", "study", "full")
GROUPS = ("Pruning weights", "Pruning channels", "Bits", "Adapters and language models")
"""What the papers take away, in the order of the book's map."""
WHEN = ("while it trains", "after training", "while it is tuned", "whenever it runs")
"""When a net is made smaller, seen from its training."""
SITUATIONS = {
    "faster": "A vision net has to run faster on a processor.",
    "file": "A file has to be smaller.",
    "memory": "A language model takes too much memory.",
    "tasks": "There are many tasks, and one net for all of them.",
    "few_images": "There are only a few images, and no time to train.",
    "worth_it": "Is pruning worth it at all?",
}
"""What brings a reader here: key of a card's ``helps`` → sentence of the landing page."""
CLAIM_KINDS = ("paper", "ours", "arithmetic")
"""Who makes a claim, in the order of every list: the paper; this survey or another paper; nobody,
because it follows from definitions. Scoreboards count the first and show the others apart."""
LONGEST_TITLE = 40
WORDS = ("reproduced", "not reproduced", "inconclusive", "not tested here")
"""What a verdict may say."""


_BESIDE_THE_RULE = ("title", "kind", "theirs", "apart")


class CardError(ValueError):
    """A card that cannot be used; the message names the file and the field."""


@dataclass(frozen=True)
class Claim:
    """A sentence turned into a decision rule before anything is run."""

    id: str
    title: str
    """The sentence in a few words, at most ``LONGEST_TITLE`` characters."""
    kind: str
    """One of ``CLAIM_KINDS``."""
    sentence: str
    """What is claimed, in our words."""
    where: str
    """Section, table or figure of the paper."""
    statistic: str
    """Name of the function of the experiment that maps one seed's records to a number."""
    measures: str
    """What that number is, for a reader, with its unit."""
    region: tuple[float | None, float | None]
    """The claim holds where the number lies in [low, high]; None leaves an end open."""
    expected: str
    """The effect expected before the run, with its source."""
    unit: str = ""
    profile: str = "study"
    disputes: tuple[str, ...] = ()
    """Claims of other papers (``slug/claim-id``) that say the opposite."""
    deterministic: bool = False
    """True for bytes and shapes: one run decides."""
    not_tested: str = ""
    """Why the claim cannot be tested here; empty when it can."""
    theirs: float | tuple[float, float] | None = None
    """What the paper has, in the claim's unit: a number, or the ends of several."""
    apart: str = ""
    """Why ours lies where it does beside theirs, in one sentence; for numbers of the paper only."""

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits over the rule, stored with each record.

        How a claim is called and counted (``title``, ``kind``) is no part of its rule, nor is what
        the paper has (``theirs``, ``apart``).
        """
        rule = {k: v for k, v in asdict(self).items() if k not in _BESIDE_THE_RULE}
        return hashlib.sha256(json.dumps(rule, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Withdrawn:
    """A claim that was judged once and replaced: shown with its end, counted nowhere."""

    id: str
    title: str
    sentence: str
    verdict: str
    """The word it had."""
    found: str
    """The numbers the word rested on, with unit, interval and seeds."""
    reason: str
    """Why it is asked no more, or asked otherwise."""


@dataclass(frozen=True)
class Difference:
    """Something that is done otherwise here than in the paper."""

    what: str
    """What is done here, and what the paper does, in one sentence."""
    why: str
    """Why, in one sentence."""


@dataclass(frozen=True)
class Reported:
    """One table or figure of the paper, as data."""

    id: str
    caption: str
    source: str
    """Where the numbers were read, and how sure they are."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    unverified: tuple[str, ...] = ()
    """Columns (or ``all``) whose digits could not be checked against the paper."""


@dataclass(frozen=True)
class Card:
    """One paper: bibliographic facts, gist, reported results, claims."""

    slug: str
    title: str
    authors: tuple[str, ...]
    year: int
    venue: str
    arxiv: str
    doi: str
    code: str
    """Address of the authors' or the best-known code; empty when none is known."""
    code_licence: str
    tags_received: tuple[str, ...]
    tags: tuple[str, ...]
    group: str
    """Where the paper stands on the book's map: one of ``GROUPS``."""
    corrections: tuple[str, ...]
    """What this card says otherwise than the card as received, and why; may be empty."""
    bibkey: str
    headline: str
    """One sentence a practitioner would repeat to a colleague."""
    scale: str
    """Our scale beside the paper's."""
    tolerance: dict[str, float]
    """How far a quick run may lie from its recorded twin, per number."""
    reported: tuple[Reported, ...]
    claims: tuple[Claim, ...]
    gist: str
    withdrawn: tuple[Withdrawn, ...] = ()
    """Claims that were judged and then replaced."""
    faithful: tuple[str, ...] = ()
    """What is done as the paper does it, in sentences for a reader; empty while planned."""
    differs: tuple[Difference, ...] = ()
    """What is done otherwise, and why."""
    short: str = ""
    """The paper's name where there is little room; empty: the slug in words."""
    when: str = ""
    """When the net is made smaller: one of ``WHEN``; empty where the map leaves the paper out."""
    helps: dict[str, str] = dataclasses.field(default_factory=dict)
    """Key of ``SITUATIONS`` → what this paper has to offer there, in one sentence."""
    extras: tuple[str, ...] = ()
    """Extras of the package that the chapter needs, as ``llm``."""
    download_bytes: int = 0
    """What the chapter fetches on its first run."""

    @property
    def brief(self) -> str:
        """The paper's name where there is little room."""
        return self.short or self.slug.replace("_", " ")

    def claim(self, claim_id: str) -> Claim:
        """The claim with this id; raises CardError naming the ids there are."""
        for claim in self.claims:
            if claim.id == claim_id:
                return claim
        known = ", ".join(c.id for c in self.claims)
        raise CardError(f"{self.slug}: no claim {claim_id!r}; the card has: {known}")


def slugs() -> list[str]:
    """Slugs of all cards, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def disputes(slug: str, claim: Claim) -> list[str]:
    """Claims (``slug/claim-id``) that say the opposite, whichever card names the pair."""
    own = f"{slug}/{claim.id}"
    back = (
        f"{paper}/{other.id}"
        for paper in slugs()
        if paper != slug
        for other in read_card(paper).claims
        if own in other.disputes
    )
    return list(dict.fromkeys([*claim.disputes, *back]))


def card_path(slug: str) -> Path:
    """File of a card; raises CardError naming the slugs there are."""
    path = FOLDER / f"{slug}.md"
    if slug not in slugs():
        raise CardError(f"no card {slug!r} in {FOLDER}; there are: {', '.join(slugs())}")
    return path


def read_card(slug: str) -> Card:
    """Read and check the card of ``slug``."""
    path = card_path(slug)
    return _read(path, path.stat().st_mtime_ns, path.stat().st_size)


@lru_cache(maxsize=64)
def _read(path: Path, _modified: int, _size: int) -> Card:
    return parse_card(_text(path), path.name, path.stem)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CardError(f"{path.name}: is no UTF-8 text; restore the file") from None


def received(slug: str) -> str:
    """The survey's text of a card as it was received, word for word.

    Raises:
        CardError: there is none, as for a paper that joined the survey later, or it is no text.
    """
    path = FOLDER / "received" / f"{slug}.md"
    if not path.exists():
        raise CardError(f"no text was received for {slug!r}: {path.parent.name}/ has no such file")
    return _text(path)


def parse_card(text: str, name: str, slug: str | None = None) -> Card:
    """Turn a card's text into a :class:`Card`.

    Raises:
        CardError: front matter missing, a field missing, unknown or of the wrong kind, an address
            that is none, or a number that is not finite.
    """
    parts = text.split("\n---\n", 1)
    if not text.startswith("---\n") or len(parts) != 2:
        raise CardError(f"{name}: must start with front matter between two '---' lines")
    try:
        front = yaml.load(parts[0][4:], _Plain)
    except RecursionError:
        raise CardError(f"{name}: front matter is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or number that is none
        reason = " ".join(str(error).split())
        raise CardError(f"{name}: front matter is not YAML: {reason}") from None
    if not isinstance(front, dict):
        raise CardError(f"{name}: front matter must be a mapping of fields")
    for field, value in front.items():
        if not all(map(_is_plain, _texts_in(value))):
            raise CardError(f"{name}: field {told(field)} holds a control character or half one")
    gist = parts[1].strip()
    if not gist:
        raise CardError(f"{name}: the gist (text after the front matter) is empty")
    lists = {"claims": Claim, "reported": Reported, "withdrawn": Withdrawn, "differs": Difference}
    for field in ("withdrawn", "differs"):
        front.setdefault(field, [])
    for field, kind in lists.items():
        rows = enumerate(_list(front, field, name))
        front[field] = tuple(_build(kind, row, f"{name}: {field}[{i}]") for i, row in rows)
    card = _build(Card, front | {"gist": gist}, name)
    _check(card, name, slug)
    return card


class _Plain(yaml.SafeLoader):
    """YAML without references, by which a few lines can stand for endless ones."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise ComposerError(None, None, "references (*) are not read", mark)
        return super().compose_node(parent, index)


def _list(front: dict, field: str, name: str) -> list:
    value = front.get(field)
    if not isinstance(value, list):
        raise CardError(f"{name}: field {field!r} must be a list")
    return value


_KINDS: dict[Any, type] = {str: str, int: int, bool: bool}


def _build(kind: type, given: Any, name: str) -> Any:
    if not isinstance(given, dict):
        raise CardError(f"{name}: must be a mapping of fields")
    known = {f.name: f for f in fields(kind)}
    for field in given:
        if field not in known:
            raise CardError(f"{name}: unknown field {told(field)}; known are {', '.join(known)}")
    for field, spec in known.items():
        if field not in given and spec.default is MISSING and spec.default_factory is MISSING:
            raise CardError(f"{name}: field {field!r} is missing")
        if field in given and spec.type in _KINDS and type(given[field]) is not spec.type:
            raise CardError(
                f"{name}: field {field!r} must be {_KINDS[spec.type].__name__}, "
                f"not {told(given[field])}"
            )
        if field in given and spec.type == tuple[str, ...] and not _is_texts(given[field]):
            raise CardError(
                f"{name}: field {field!r} must be a list of texts, not {told(given[field])}"
            )
    return kind(**{key: _freeze(value) for key, value in given.items()})


def is_number(value: Any) -> bool:
    """A finite number that a float can hold; a truth value is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond all floats
        return False


def _texts_in(value: Any) -> Iterator[str]:
    """Every text in a value from YAML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from _texts_in(part)


def _is_plain(text: str) -> bool:
    return not re.search("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", text)


def told(value: Any) -> str:
    """A value for a message, cut where it is long; whatever it is, this raises nothing."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a deep nesting
        return f"a {type(value).__name__} that is too long to show"
    return text if len(text) <= 80 else text[:79] + "…"


def _is_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(type(item) is str for item in value)


def _freeze(value: Any) -> Any:
    return tuple(_freeze(v) for v in value) if isinstance(value, list) else value


# what is put into addresses, file names and ids
_PATTERNS = {
    "slug": (r"[a-z0-9_]+", "lower-case letters, digits and _"),
    "bibkey": (r"[A-Za-z0-9_:.-]+", "a key of the bibliography: letters, digits and _:.-"),
    "arxiv": (r"|\d{4}\.\d{4,5}(v\d+)?|[a-z.-]+/\d{7}", "an arXiv number such as 1710.01878"),
    "doi": (r"|10\.\d{4,9}/[^\s\"'<>\\]+", "a DOI such as 10.1109/5.771073"),
    "code": (r"|https://[^\s\"'<>\\]+", "an address that begins with https://"),
}
_IDENT = r"[A-Za-z0-9]+([_-][A-Za-z0-9]+)*"


def _check(card: Card, name: str, slug: str | None) -> None:
    for field, (pattern, words) in _PATTERNS.items():
        given = getattr(card, field)
        if not re.fullmatch(pattern, given):
            raise CardError(f"{name}: field {field!r} must be {words}, not {told(given)}")
    if not 1900 <= card.year <= 2100:
        raise CardError(f"{name}: field 'year' must lie in 1900 … 2100, not {card.year}")
    if card.download_bytes < 0:
        raise CardError(f"{name}: field 'download_bytes' must not be negative")
    _check_tolerance(card.tolerance, name)
    for extra in card.extras:  # stands in the notebook's set-up cell
        if not re.fullmatch(_IDENT, extra):
            raise CardError(f"{name}: field 'extras' must name extras, not {told(extra)}")
    for part, items in (("claim", card.claims), ("withdrawn", card.withdrawn),
                        ("reported", card.reported)):  # fmt: skip
        for item in items:
            if not re.fullmatch(_IDENT, item.id):
                raise CardError(
                    f"{name}: {part} {item.id!r}: field 'id' must be letters and digits, "
                    "joined by - or _"
                )
    if slug is not None and card.slug != slug:
        raise CardError(f"{name}: field 'slug' is {card.slug!r}, the file is named {slug!r}")
    if card.group not in GROUPS:
        raise CardError(f"{name}: field 'group' must be one of: {', '.join(GROUPS)}")
    if card.when and card.when not in WHEN:
        raise CardError(f"{name}: field 'when' must be one of: {', '.join(WHEN)}")
    if not isinstance(card.helps, dict) or not _is_texts(list(card.helps.values())):
        raise CardError(f"{name}: field 'helps' must map situations to texts")
    for situation in card.helps:
        if situation not in SITUATIONS:
            raise CardError(
                f"{name}: field 'helps' knows no situation {told(situation)}; "
                f"there are: {', '.join(SITUATIONS)}"
            )
    ids = [c.id for c in (*card.claims, *card.withdrawn)]
    for old in card.withdrawn:
        if ids.count(old.id) > 1:
            raise CardError(f"{name}: withdrawn {old.id!r}: the id is used twice")
        if old.verdict not in WORDS:
            raise CardError(
                f"{name}: withdrawn {old.id!r}: field 'verdict' must be one of {', '.join(WORDS)}"
            )
    for claim in card.claims:
        where = f"{name}: claim {claim.id!r}"
        if ids.count(claim.id) > 1:
            raise CardError(f"{where}: the id is used twice")
        if not 0 < len(claim.title) <= LONGEST_TITLE:
            raise CardError(
                f"{where}: field 'title' must have 1 to {LONGEST_TITLE} characters, "
                f"not {len(claim.title)}"
            )
        if claim.kind not in CLAIM_KINDS:
            raise CardError(f"{where}: field 'kind' must be one of {', '.join(CLAIM_KINDS)}")
        region = claim.region
        if (
            not isinstance(region, tuple)
            or len(region) != 2
            or not all(r is None or is_number(r) for r in region)
        ):
            raise CardError(f"{where}: field 'region' must be [low, high], null for an open end")
        if region == (None, None) and not claim.not_tested:
            raise CardError(
                f"{where}: field 'region' is open at both ends: nothing could refute it"
            )
        if None not in region and region[0] > region[1]:  # type: ignore[operator]
            raise CardError(f"{where}: field 'region' has low > high")
        if claim.theirs is not None and not _is_span(claim.theirs):
            raise CardError(f"{where}: field 'theirs' must be a number or [low, high]")
        if (claim.theirs is None) != (not claim.apart):
            raise CardError(f"{where}: fields 'theirs' and 'apart' go together")
        if claim.profile not in PROFILES:
            raise CardError(f"{where}: field 'profile' must be one of {', '.join(PROFILES)}")
        for other in claim.disputes:
            paper, slash, its_claim = other.partition("/")
            if not slash or not its_claim or paper == card.slug:
                raise CardError(
                    f"{where}: field 'disputes' must name claims of other papers as "
                    f"slug/claim-id, not {other!r}"
                )
    for table in card.reported:
        if not isinstance(table.rows, tuple) or not all(isinstance(r, tuple) for r in table.rows):
            raise CardError(f"{name}: reported {table.id!r}: field 'rows' must be a list of lists")
        if not table.columns or len(set(table.columns)) < len(table.columns):
            raise CardError(
                f"{name}: reported {table.id!r}: field 'columns' must name each column once"
            )
        for row in table.rows:
            strange = [v for v in row if not (v is None or type(v) is str or is_number(v))]
            if strange:
                raise CardError(
                    f"{name}: reported {table.id!r}: field 'rows' must hold texts, finite numbers "
                    f"or null, not {told(strange[0])}"
                )
            if len(row) != len(table.columns):
                raise CardError(
                    f"{name}: reported {table.id!r}: row {told(list(row))} has {len(row)} values "
                    f"for {len(table.columns)} columns"
                )
        for column in table.unverified:
            if column not in (*table.columns, "all"):
                raise CardError(f"{name}: reported {table.id!r}: no column {column!r} to mark")


def _is_span(value: Any) -> bool:
    """Whether it is a number, or the ends of a range of them."""
    if not isinstance(value, tuple):
        return is_number(value)
    return len(value) == 2 and all(map(is_number, value)) and value[0] < value[1]


def _check_tolerance(tolerance: Any, name: str) -> None:
    """Raise CardError for a tolerance that is no mapping of patterns to numbers ≥ 0 or .inf."""
    where = f"{name}: field 'tolerance'"
    if not isinstance(tolerance, dict) or not all(type(key) is str for key in tolerance):
        raise CardError(f"{where} must map names of numbers to what they may differ by")
    for key, value in tolerance.items():
        if value != math.inf and not (is_number(value) and value >= 0):
            raise CardError(f"{where} must give {key!r} a number ≥ 0 or .inf, not {told(value)}")
