"""A Colab-like environment: the versions Colab preinstalls, then this tree's wheel on top."""

import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LIST = ROOT / "tests" / "data" / "colab-2026-08.txt"
ADDED = ("compression-survey", "zstandard")
"""What an installation adds to Colab's packages."""
WANTED = "3.13"
"""Colab's Python."""

# what is installed: name → version, told by the environment itself
_FREEZE = """\
import importlib.metadata as m, json
print(json.dumps({d.metadata["Name"]: d.version for d in m.distributions()}))
"""


def listed() -> dict[str, str]:
    """Name → version of the packages on Colab's list."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def clean() -> dict[str, str]:
    """This process's environment without what would let a checkout or another Python in."""
    gone = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "SURVEY_RESULTS", "PYENV_VERSION")
    return {k: v for k, v in os.environ.items() if k not in gone}


def run(*command: object, **options) -> str:
    """Run a command; its output, or an AssertionError with its last lines."""
    words = [str(word) for word in command]
    options = {"env": clean(), "timeout": 900} | options
    try:
        done = subprocess.run(words, capture_output=True, text=True, **options)
        said, end = done.stdout + done.stderr, f"ended with {done.returncode}"
        if done.returncode == 0:
            return said
    except subprocess.TimeoutExpired as late:
        parts = [part or b"" for part in (late.stdout, late.stderr)]
        said = "".join(p if isinstance(p, str) else p.decode(errors="replace") for p in parts)
        end = f"took longer than {late.timeout:g} s"
    tail = "\n".join(said.splitlines()[-25:])
    raise AssertionError(f"{' '.join(words[:6])} … {end}:\n{tail}")


@functools.cache
def uv() -> str | None:
    """The uv command, where it is there and starts."""
    found = shutil.which("uv")
    try:
        return found if found and run(found, "--version") else None
    except AssertionError:  # pyenv leaves a shim that starts nothing
        return None


def _version(python: Path | str) -> tuple[int, int] | None:
    try:
        said = run(python, "-c", "import sys; print(*sys.version_info[:2])", timeout=60)
        major, minor = said.split()
    except (AssertionError, OSError, ValueError):
        return None
    return int(major), int(minor)


@functools.cache
def interpreter() -> str:
    """A Python like Colab's: from pyenv or the path, else the newest one there is."""
    home = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    wanted = [*sorted(home.glob(f"{WANTED}*/bin/python"), reverse=True)]
    wanted += [shutil.which(f"python{WANTED}")]
    others = [shutil.which(f"python{v}") for v in ("3.14", "3.12", "3.11")]
    found = {str(p): v for p in [*wanted, *others] if p and (v := _version(p))}
    exact = [p for p, v in found.items() if f"{v[0]}.{v[1]}" == WANTED]
    if exact:
        return exact[0]
    if not found:
        raise AssertionError("no Python 3.11 or later is on the path; install python3.13")
    return max(found, key=lambda p: found[p])


def installed(python: Path, *paths: Path) -> dict[str, str]:
    """Name → version of everything in an environment."""
    env = clean() | ({"PYTHONPATH": os.pathsep.join(map(str, paths))} if paths else {})
    found = json.loads(run(python, "-c", _FREEZE, env=env))
    return {canonicalize_name(name): version for name, version in found.items()}


def _pip(folder: Path, *words: object) -> None:
    """Install into the environment: by uv, which is many times faster, else by its own pip."""
    python = folder / "bin" / "python"
    if uv():
        run(uv(), "pip", "install", "--quiet", "--python", python, *words, timeout=1800)
    else:
        run(python, "-m", "pip", "install", "--quiet", *words, timeout=3000)


def base_environment(build: Path) -> Path:
    """The environment with Colab's versions, made once for each list; returns its folder."""
    key = hashlib.sha256(LIST.read_bytes() + interpreter().encode()).hexdigest()[:12]
    folder = build / "colab" / f"base-{key}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    if uv():
        run(uv(), "venv", "--quiet", "--python", interpreter(), folder)
    else:
        run(interpreter(), "-m", "venv", folder)
    _pip(folder, "-r", LIST)
    (folder / "complete").touch()
    return folder


def overlay(build: Path, base: Path) -> Path:
    """A folder with today's Jupyter stack and ipywidgets 8, to go before the base's own."""
    folder = build / "colab" / f"{base.name}-widgets8"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _pip(base, "--target", folder, "ipywidgets>=8,<9", "ipykernel>=6.29", "nbclient")
        (folder / "complete").touch()
    return folder


def sources() -> list[str]:
    """Files of this tree that belong to it: tracked, or new and not ignored."""
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = run(*words, cwd=ROOT).split("\0")
    return sorted({n for n in names if n and (ROOT / n).is_file()})


def copy_tree(target: Path) -> Path:
    """A copy of this tree as a commit of it would be."""
    for name in sources():
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)
    return target


def wheel(work: Path) -> Path:
    """The wheel of this tree, built from a copy that holds nothing ignored."""
    tree = copy_tree(work / "tree")
    if uv():
        run(uv(), "build", "--quiet", "--wheel", "--python", interpreter(), "-o", work, tree)
    else:
        run(interpreter(), "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", work, tree)
    (made,) = work.glob("*.whl")
    return made


def would_change(python: Path, package: Path) -> list[str]:
    """Lines of uv's dry run that would remove or add something else than what is ``ADDED``."""
    if not uv():
        return []
    said = run(uv(), "pip", "install", "--dry-run", "--python", python, package)
    lines = [line.strip() for line in said.splitlines() if re.match(r"\s*[-+~] ", line)]
    new = tuple(f"+ {name}" for name in ADDED)
    return [line for line in lines if not line.startswith(new)]
