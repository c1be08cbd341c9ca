"""What a cell is measured with: its dense net, its random draws, and what other cells left for it.

Also the identity of a cell. Whatever is kept lies under a name that hashes the cell and the digest
of code and data, so nothing made by other code is ever read.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from survey_lib import files
from survey_lib.tasks.dense import dense_net, seeded
from survey_lib.tasks.task import Task


def plain(cell: Any) -> dict[str, Any]:
    """A cell's configuration as JSON would give it back."""
    return json.loads(json.dumps(asdict(cell), sort_keys=True))


def cell_key(slug: str, cell: Any) -> str:
    """Sixteen hexadecimal digits that name a cell: its slug and what differs from the defaults.

    A new knob with a default so leaves all keys as they are.
    """
    config = plain(cell)
    for f in fields(cell):
        default = f.default if f.default_factory is MISSING else f.default_factory()
        if default is not MISSING and getattr(cell, f.name) == default:
            del config[f.name]
    text = json.dumps([slug, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def needed(cell: Any) -> Sequence[Any]:
    """The cells whose artefacts a cell reads, by ``needs`` of the module that defines it."""
    needs = getattr(sys.modules[type(cell).__module__], "needs", None)
    return needs(cell) if needs else ()


def artefacts(slug: str, cell: Any, digest: str) -> Path:
    """Folder of what a finished cell left for others; absent until then."""
    name = hashlib.sha256(f"{cell_key(slug, cell)} {digest}".encode()).hexdigest()[:16]
    return files.cache_dir() / "artefacts" / slug / name


@dataclass(frozen=True)
class Context:
    """What an arm is given."""

    slug: str
    cell: Any
    digest: str
    """Of the code and the data that the cell rests on."""

    def generator(self, purpose: int = 1) -> torch.Generator:
        """The cell's own stream of random numbers; ``purpose`` keeps several apart."""
        return seeded(self.cell.seed, purpose)

    def dense(self, task: Task) -> nn.Module:
        """Dense net of the cell's seed, a copy of one's own."""
        return dense_net(task, self.cell.seed)

    def keep(self, name: str) -> Path:
        """Where to write what other cells may read; it is there for them when this one is done."""
        self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch / name

    def kept(self, cell: Any, name: str) -> Path:
        """What a needed cell left under ``name``; the cell is run when it hasn't been.

        Raises:
            ValueError: ``needs`` doesn't name the cell.
            FileNotFoundError: the cell leaves nothing of that name.
        """
        if cell not in needed(self.cell):
            raise ValueError(f"{self.slug}: {cell} is used but not named by needs() of {self.cell}")
        folder = artefacts(self.slug, cell, self.digest)
        if not folder.exists():
            measure(self.slug, cell, self.digest)
        if not (folder / name).exists():
            raise FileNotFoundError(f"{self.slug}: {cell} keeps no {name!r}; see its arm")
        return folder / name

    @property
    def _scratch(self) -> Path:
        folder = artefacts(self.slug, self.cell, self.digest)
        return folder.with_name(f".{folder.name}.{os.getpid()}")


def measure(slug: str, cell: Any, digest: str) -> dict[str, Any]:
    """Numbers of one cell by its arm; what it keeps appears in one step, at the end."""
    arms = sys.modules[type(cell).__module__].ARMS
    if cell.arm not in arms:
        raise ValueError(f"{slug}: no arm {cell.arm!r}; there are: {', '.join(arms)}")
    context = Context(slug, cell, digest)
    folder, scratch = artefacts(slug, cell, digest), context._scratch
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        numbers = arms[cell.arm](context)
        try:
            if scratch.exists():
                scratch.rename(folder)
        except OSError:  # another run has finished the same cell
            if not folder.is_dir():
                raise
        return numbers
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
