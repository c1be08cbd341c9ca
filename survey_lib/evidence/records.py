"""Records: one run each, one JSON line each, with where it came from.

They are read, and checked, by :mod:`survey_lib.evidence.reading`.
"""

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from survey_lib import files

SCHEMA = 1


class RecordError(ValueError):
    """A file of records that cannot be read; the message names file and line."""


@dataclass(frozen=True)
class Record:
    """One run: what was asked, what came out, and where it was made."""

    slug: str
    profile: str
    config: dict[str, Any]
    """The cell's configuration, seed included."""
    seed: int
    key: str
    """Identity of the cell: hash of slug and what differs from the defaults, in every profile."""
    status: str
    """``done`` or ``failed``."""
    numbers: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    """Traceback of a failed cell."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """commit, code, data, claims (id → hash), seconds, made, threads, and what machine() says."""
    schema: int = SCHEMA


def to_line(record: Record) -> str:
    """One JSON line, keys sorted, no NaN."""
    return json.dumps(asdict(record), sort_keys=True, allow_nan=False, ensure_ascii=False)


def write_records(path: Path, records: Iterable[Record]) -> None:
    """Write records sorted by configuration, atomically, so that diffs are small."""
    order = sorted(records, key=lambda r: (json.dumps(r.config, sort_keys=True), r.key))
    files.write_atomic(path, "".join(to_line(r) + "\n" for r in order))


def study_path(slug: str, profile: str = "study") -> Path:
    """File of the committed records of a chapter."""
    return files.results_dir() / profile / f"{slug}.jsonl"


def machine() -> dict[str, Any]:
    """What the numbers were made on: processor, cores, Python and the versions that matter."""
    import numpy
    import torch

    from survey_lib.measure.device import processor, processor_detail

    return {
        "processor": processor(),
        "cpu": processor_detail(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
    }


def commit() -> str:
    """Short hash of the checkout's commit, ``+`` appended when files differ; empty outside git."""
    root = files.repository()
    if root is None:
        return ""
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        dirty = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "survey_lib")
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if dirty else "")


def _git(root: Path, *words: str) -> str:
    result = subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True, timeout=30
    )
    return result.stdout.strip()
