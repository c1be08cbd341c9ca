"""Reading records: every line is checked before anything is judged from it.

A line that is damaged, or says what no run can have measured, is an error that names file, line and
field. The records themselves are defined, and written, in :mod:`survey_lib.evidence.records`.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Any

from survey_lib.cards.card import is_number, told
from survey_lib.evidence.records import SCHEMA, Record, RecordError, study_path

DEEPEST = 12
"""Levels of lists and mappings that a line may have."""
STATUSES = ("done", "failed")

SHARE = (
    "accuracy", "accuracy_*", "sparsity", "val", "test", "val_re", "test_re", "*_test", "*_gone",
)  # fmt: skip
"""Names of numbers that are shares, from 0 to 1."""
COUNTS = (
    "params", "parameters", "parameters_*", "nonzeros", "macs", "macs_*", "activations", "bytes",
    "bytes_*", "steps",
)  # fmt: skip
"""Names of whole numbers, none of them negative."""
SIZES = ("loss", "losses", "*_loss", "loss_curve", "log_perplexity", "*_ms", "seconds")
"""Names of numbers that are not negative."""
_LOSSES = {"val": "val_loss", "test": "loss"}
"""A net of text is scored by its loss, which these numbers then are."""


def from_line(line: str, where: str) -> Record:
    """Read one JSON line.

    Raises:
        RecordError: it is no record, or holds a value of the wrong kind, a number that is not
            finite, or one outside of what its name allows; names ``where`` and the field.
    """
    data = parsed(line, where)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise RecordError(f"{where}: schema {SCHEMA} expected; re-run or convert the record")
    known = {f.name for f in fields(Record)}
    needed = {"slug", "profile", "config", "seed", "key", "status"}
    if set(data) - known or needed - set(data):
        raise RecordError(f"{where}: fields differ from a record's: {told(sorted(data))}")
    for field in ("slug", "profile", "key", "status", "error"):
        check_kind(data, field, str, where)
    for field in ("config", "numbers", "provenance"):
        check_kind(data, field, dict, where)
    check_kind(data, "seed", int, where)
    if not re.fullmatch(r"\w+", data["slug"]):
        raise RecordError(f"{where}: field 'slug' must be a plain name, not {told(data['slug'])}")
    if data["status"] not in STATUSES:
        raise RecordError(
            f"{where}: field 'status' must be one of {', '.join(STATUSES)}, "
            f"not {told(data['status'])}"
        )
    _check_provenance(data.get("provenance", {}), where)
    _check_numbers(data.get("numbers", {}), where)
    return Record(**data)


def read_records(path: Path) -> list[Record]:
    """All records of a JSON-lines file; an absent file has none.

    Raises:
        RecordError: the file cannot be read, or a line is damaged; see :func:`from_line`.
    """
    return [from_line(line, where) for where, line in lines(path, path.name)]


def study(slug: str, profile: str = "study") -> list[Record]:
    """The committed records of a chapter that are done.

    Raises:
        RecordError: a line of the file is damaged; see :func:`from_line`.
    """
    return [r for r in read_records(study_path(slug, profile)) if r.status == "done"]


def lines(path: Path, name: str) -> Iterator[tuple[str, str]]:
    """``name:number`` and text of each line of a file that is not blank; an absent file has none.

    Raises:
        RecordError: the file cannot be read as text.
    """
    if not path.exists():
        return
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise RecordError(f"{name}: cannot be read ({reason}); restore the file") from None
    # not splitlines: a record's text may hold what Unicode calls an end of line
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{name}:{number}", line


def parsed(text: str, where: str, what: str = "record") -> Any:
    """The value of a JSON text whose numbers are all finite and whose nesting is shallow.

    Raises:
        RecordError: it is not such a text; names ``where`` and, of a number, the field.
    """
    data, reason = None, "nested too deeply"
    try:
        data = json.loads(text)
        reason = _fault(data)
    except RecursionError:
        pass
    except ValueError as error:  # no JSON, or an integer of thousands of digits
        raise RecordError(f"{where}: not a JSON {what} ({error}); restore the file") from None
    if reason:
        raise RecordError(f"{where}: {reason}; restore the file")
    return data


def _fault(data: Any) -> str:
    """What is wrong with a value from JSON, whatever it stands for; empty where nothing is."""
    level: list[tuple[Any, Any]] = [((), data)]  # path, as (path of the whole, key), and value
    for _ in range(DEEPEST + 1):
        below: list[tuple[Any, Any]] = []
        for path, value in level:
            kind = type(value)
            if kind is dict:
                below += [((path, key), part) for key, part in value.items()]
                if _HALF.search("".join(value)):
                    return f"field {_short(path)!r} holds half a character"
            elif kind is list:
                below += [((path, at), part) for at, part in enumerate(value)]
            elif kind is str:
                if _HALF.search(value):
                    return f"field {_short(path)!r} holds half a character"
            elif (kind is int or kind is float) and not is_number(value):
                return f"field {_short(path)!r} must be a finite number, not {told(value)}"
        level = below
    return f"field {_short(level[0][0])!r} is nested too deeply" if level else ""


_HALF = re.compile("[\ud800-\udfff]")


def _short(path: Any) -> str:
    """A path in words, cut where it is long."""
    parts: list[str] = []
    while path:
        path, key = path
        parts.append(str(key).encode("utf-8", "replace").decode())
    words = ".".join(reversed(parts))
    return words if len(words) <= 60 else words[:59] + "…"


_KINDS = {
    str: "text",
    dict: "a mapping",
    int: "a whole number",
    list: "a list",
    bool: "true or false",
}


def check_kind(data: Mapping[str, Any], field: str, kind: type, where: str) -> None:
    """Raise RecordError where a field is there and not of this kind."""
    if field in data and type(data[field]) is not kind:
        raise RecordError(
            f"{where}: field {field!r} must be {_KINDS[kind]}, not {told(data[field])}"
        )


def _check_provenance(made: Mapping[str, Any], where: str) -> None:
    claims = made.get("claims", {})
    if not isinstance(claims, dict) or not all(isinstance(v, str) for v in claims.values()):
        raise RecordError(f"{where}: field 'provenance.claims' must map claims to hashes")
    for field in ("commit", "code", "data", "made", "processor", "cpu", "python", "torch"):
        if not isinstance(made.get(field, ""), str):
            raise RecordError(
                f"{where}: field 'provenance.{field}' must be text, not {told(made[field])}"
            )
    seconds = made.get("seconds", 0)
    if not is_number(seconds) or seconds < 0:
        raise RecordError(
            f"{where}: field 'provenance.seconds' must be a number ≥ 0, not {told(seconds)}"
        )


def _check_numbers(numbers: Mapping[str, Any], where: str) -> None:
    losses = {n for n, loss in _LOSSES.items() if n in numbers and numbers[n] == numbers.get(loss)}
    waiting: list[tuple[Any, str, Any]] = [((((), "numbers"), n), n, numbers[n]) for n in numbers]
    while waiting:
        path, name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [((path, key), key, v) for key, v in value.items()]
        elif not (unit := _unit(name)):
            continue
        elif isinstance(value, list):
            waiting += [((path, at), name, v) for at, v in enumerate(value)]
        elif wrong := _wrong("size" if name in losses else unit, value):
            raise RecordError(f"{where}: field {_short(path)!r} {wrong}")


@lru_cache(maxsize=1024)
def _unit(name: str) -> str:
    """What a number of this name is; empty where the name doesn't say."""
    for unit, patterns in (("share", SHARE), ("count", COUNTS), ("size", SIZES)):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            return unit
    return ""


def _wrong(unit: str, value: Any) -> str:
    """What is wrong with a value of this unit; empty where nothing is."""
    if not is_number(value):
        return f"must be a number, not {told(value)}"
    if unit == "share" and not 0 <= value <= 1:
        return f"must lie in 0 … 1, as shares do, not {told(value)}"
    if unit == "count" and (value < 0 or value != math.floor(value)):
        return f"must be a whole number ≥ 0, not {told(value)}"
    return f"must not be negative, not {told(value)}" if unit == "size" and value < 0 else ""
