"""Attestation: recorded cells run again with today's code, compared number by number."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from survey_lib import files
from survey_lib.cards.card import is_number as is_finite
from survey_lib.evidence.reading import check_kind, lines, parsed
from survey_lib.evidence.records import Record, RecordError

RELATIVE = 1e-3
"""Allowed between processors where a card says nothing: sums in another order move a float32 by
1e-6, a short chain of them by a little more; counts below a thousand have to be equal."""


# ---- comparing


@dataclass(frozen=True)
class Difference:
    """One number, then and now."""

    path: str
    """Dotted path within the record's numbers."""
    now: Any
    then: Any
    allowed: float
    """Absolute."""

    def __str__(self) -> str:
        """As part of a sentence."""
        return f"{self.path} is {self.now!r}, recorded {self.then!r}; allowed: {self.allowed:g}"


@dataclass(frozen=True)
class Comparison:
    """One cell, then and now."""

    exact: bool
    """Held to the last bit: on the same processor and versions, or because it was equal."""
    compared: int = 0
    worst: float = 0.0
    """Largest absolute difference of a compared number …"""
    where: str = ""
    """… and its path."""
    disagreements: tuple[Difference, ...] = ()


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path → plain value, for all values nested in dictionaries and lists."""
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from leaves(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def is_number(value: Any) -> bool:
    """An int or a float; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def allowance(path: str, then: Any, tolerance: Mapping[str, float]) -> float:
    """What a number may differ by: the first pattern that matches, else :data:`RELATIVE`."""
    for pattern, allowed in tolerance.items():
        if fnmatchcase(path, pattern):
            return float(allowed)
    return RELATIVE * abs(then) if is_number(then) else 0.0


def compare(
    now: Mapping[str, Any],
    then: Mapping[str, Any],
    *,
    exact: bool,
    tolerance: Mapping[str, float],
    inexact: Sequence[str] = (),
) -> Comparison:
    """Compare every leaf of a cell's numbers with those recorded.

    Args:
        now: the numbers that came out.
        then: those recorded.
        exact: ask for equality to the bit; else ``tolerance`` holds for a cell that is not.
        tolerance: pattern of paths → absolute difference; infinite: not compared.
        inexact: patterns of paths that are timings, compared nowhere.

    Returns:
        What was compared and what disagrees: a number too far off, a text or truth value that is
        another, a path that only one side has, or nothing that could be compared.
    """
    if not exact:  # where nothing differs, all of it has been compared
        bits = compare(now, then, exact=True, tolerance={}, inexact=inexact)
        if not bits.disagreements:
            return bits
    old, new = dict(leaves(then)), dict(leaves(now))
    compared, worst, where, found = 0, 0.0, "", []
    for path in [*old, *(p for p in new if p not in old)]:
        a, b = new.get(path, "absent"), old.get(path, "absent")
        allowed = 0.0 if exact else allowance(path, b, tolerance)
        if math.isinf(allowed) or any(fnmatchcase(path, pattern) for pattern in inexact):
            continue
        if is_number(a) and is_number(b):
            compared += 1
            apart = abs(a - b)
            if apart > worst:
                worst, where = apart, path
            agree = apart <= allowed * (1 + 1e-9)
        else:
            agree = path in old and path in new and type(a) is type(b) and a == b
        if not agree:
            found.append(Difference(path, a, b, allowed))
    if not compared:
        found.append(Difference("nothing", "not compared", f"{len(old)} numbers", 0.0))
    return Comparison(exact, compared, worst, where, tuple(found))


VERSIONS = ("torch", "numpy")
SAME = ("processor", "cpu", *VERSIONS)


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True when both were made by the same kind of processor and the same versions.

    A record from before processors were named in detail counts as made elsewhere.
    """
    if not one.get("cpu") or any(one.get(name) != other.get(name) for name in SAME):
        return False
    pythons = [str(m.get("python", "")).split(".")[:2] for m in (one, other)]
    return pythons[0] == pythons[1]


def other_processor(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True when the processor is another one, and is all that is: the versions are the same."""
    return not same_machine(one, other) and all(one.get(n) == other.get(n) for n in VERSIONS)


# ---- attestations, one JSON line each


@dataclass(frozen=True)
class Attestation:
    """A dated note that recorded cells were run again with today's code, and what came out."""

    slug: str
    digest: str
    """Of the code."""
    data: str
    """Hash of the data files."""
    study: str
    """Hash of the records that it was compared with, all of them."""
    commit: str
    machine: dict[str, Any]
    made: str
    cells: list[dict[str, Any]] = field(default_factory=list)
    """``key``, ``arm``, ``exact`` and ``compared`` (numbers) of each."""
    numbers: int = 0
    """Compared in all."""
    worst: dict[str, Any] = field(default_factory=dict)
    """``difference`` (absolute), ``key`` and ``path``."""
    disagreements: list[str] = field(default_factory=list)
    """Sentences; an attestation with none agrees."""
    against: str = ""
    """Commit whose code gave the numbers that these were compared with, on the same machine; empty
    where they were the recorded ones."""

    @property
    def agrees(self) -> bool:
        """Something was compared, and nothing disagreed."""
        return self.numbers > 0 and not self.disagreements


def attest_path(slug: str) -> Path:
    """File of a study's attestations."""
    return files.results_dir() / "attest" / f"{slug}.jsonl"


def attestations(slug: str) -> list[Attestation]:
    """All attestations of a study, oldest first.

    Raises:
        RecordError: a line is damaged.
    """
    path, found = attest_path(slug), []
    for where, line in lines(path, f"attest/{path.name}"):
        data = parsed(line, where, "attestation")
        if isinstance(data, dict):
            data.setdefault("against", "")  # of before there was such a thing
        if not isinstance(data, dict) or set(data) != {f.name for f in fields(Attestation)}:
            raise RecordError(f"{where}: not an attestation; restore the file")
        for name in ("slug", "digest", "data", "study", "commit", "made", "against"):
            check_kind(data, name, str, where)
        for name, kind in (("machine", dict), ("worst", dict), ("cells", list),
                            ("disagreements", list), ("numbers", int)):  # fmt: skip
            check_kind(data, name, kind, where)
        if data["numbers"] < 0 or not is_finite(data["worst"].get("difference", 0.0)):
            raise RecordError(f"{where}: not an attestation: its numbers are none")
        if not isinstance(data["worst"].get("path", ""), str):
            raise RecordError(f"{where}: field 'worst.path' must be text")
        found.append(Attestation(**data))
    return found


def append(attestation: Attestation) -> Path:
    """Add an attestation to its file."""
    path = attest_path(attestation.slug)
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    line = json.dumps(asdict(attestation), sort_keys=True, allow_nan=False, ensure_ascii=False)
    files.write_atomic(path, before + line + "\n")
    return path


def study_hash(records: Sequence[Record]) -> str:
    """Hash of a study's configurations and numbers, whatever their order."""
    rows = sorted(json.dumps([r.config, r.numbers], sort_keys=True) for r in records)
    return files.sha256("\n".join(rows).encode())[:16]


# ---- where a digest came from


def origins_path() -> Path:
    """File that says what each digest stood for."""
    return files.results_dir() / "origins.json"


def origins() -> dict[str, dict[str, Any]]:
    """Digest → ``modules`` (name → digest), ``commit``, ``made``.

    Raises:
        RecordError: the file is damaged.
    """
    path = origins_path()
    if not path.exists():
        return {}
    try:
        found = parsed(path.read_text(encoding="utf-8"), path.name, "file of origins")
    except (OSError, UnicodeDecodeError):
        raise RecordError(f"{path.name}: cannot be read as text; restore the file") from None
    if not isinstance(found, dict) or not all(
        isinstance(o, dict) and isinstance(o.get("modules"), dict) for o in found.values()
    ):
        raise RecordError(f"{path.name}: must map digests to their modules; restore the file")
    return found


def add_origin(digest: str, modules: Mapping[str, str], commit: str, made: str) -> None:
    """Note what a digest stands for, once."""
    known = origins()
    if digest not in known:
        known[digest] = {"modules": dict(modules), "commit": commit, "made": made}
        text = json.dumps(known, indent=1, sort_keys=True, ensure_ascii=False)
        files.write_atomic(origins_path(), text + "\n")


def changed(then: str, modules: Mapping[str, str]) -> tuple[str, ...] | None:
    """Names of the modules that differ between a digest and ``modules``, also new and gone ones.

    None where the digest's modules are not known.
    """
    known = origins().get(then, {}).get("modules")
    if not known:
        return None
    return tuple(n for n in sorted({*known, *modules}) if known.get(n) != modules.get(n))
