"""Where things lie, and how they are written so that a crash loses nothing."""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import platformdirs

PACKAGE = Path(__file__).resolve().parent


def repository() -> Path | None:
    """The root of the checkout this package runs from, or None for an installed package."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").exists() and (root / "_toc.yml").exists() else None


def build_dir() -> Path:
    """Folder for everything that is made: ``SURVEY_BUILD``, else ``_build`` in the checkout."""
    if os.environ.get("SURVEY_BUILD"):
        return Path(os.environ["SURVEY_BUILD"]).resolve()
    return (repository() or Path.cwd()) / "_build"


def cache_dir() -> Path:
    """Folder for downloads and trained dense nets: ``SURVEY_CACHE``, else the user's cache."""
    if os.environ.get("SURVEY_CACHE"):
        return Path(os.environ["SURVEY_CACHE"]).resolve()
    return Path(platformdirs.user_cache_dir("compression-survey"))


def results_dir() -> Path:
    """Folder of the committed records.

    ``SURVEY_RESULTS``, else ``results/`` in a checkout, else the copy inside the package.
    """
    if os.environ.get("SURVEY_RESULTS"):
        return Path(os.environ["SURVEY_RESULTS"]).resolve()
    root = repository()
    return root / "results" if root else PACKAGE / "_results"


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write ``content`` to ``path`` in one step: readers see the old file or the new, never half.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is then unchanged.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def sha256(data: bytes | Path) -> str:
    """Hexadecimal SHA-256 of bytes or of a file's bytes."""
    return hashlib.sha256(data.read_bytes() if isinstance(data, Path) else data).hexdigest()
