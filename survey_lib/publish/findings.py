"""Findings of the checks: what is wrong, where, and what to do about it."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Finding:
    """Something wrong: where, what, and what to do."""

    file: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.file}: {self.what}; {self.remedy}"


def report(findings: Iterable[Finding]) -> str:
    """The findings, one a line."""
    return "\n".join(str(finding) for finding in findings)


def git_lines(root: Path, *words: str) -> list[str]:
    """What ``git`` prints, line by line; nothing where it fails, as outside a checkout."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()
