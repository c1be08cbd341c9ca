"""Execute the chapters with papermill: in parallel, longest first, each only when it must.

Every chapter runs in a process and a kernel of its own. A failed chapter stops no other and never
counts as built.
"""

import concurrent.futures
import contextlib
import copy
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat

from survey_lib import files
from survey_lib.cards import card as cards
from survey_lib.publish import layout
from survey_lib.publish.cache_key import PACKAGES, UP_TO_DATE, explain, key_parts, read_entry
from survey_lib.publish.layout import PublishError
from survey_lib.publish.lock import marked
from survey_lib.publish.solutions import wrong_solutions

TIMEOUT = 1800.0
"""Seconds a chapter may take."""
HEARTBEAT = 30.0
"""Seconds after which a build that has nothing to report says what it is at."""
STARTS = 3
"""Times a kernel may be started: jupyter_client picks free ports and lets go of them before the
kernel takes them, so that now and then another program has one of them first."""
NEVER_STARTED = "Kernel died before replying to kernel_info"
RECORDER = "survey-recorder"
"""Tag of the hidden last cell."""

# Runs in the chapter's kernel after its last cell: what was loaded, and the time it took.
_RECORDER_SOURCE = """\
import json, os, sys
loaded = {n: m.__file__ for n, m in list(sys.modules.items())
          if n.split(".")[0] == "survey_lib" and getattr(m, "__file__", None)}
with open(os.environ["SURVEY_LOADED"], "w") as file:
    json.dump({"modules": loaded, "core_seconds": sum(os.times()[:4])}, file)
"""


@dataclass(frozen=True)
class Outcome:
    """What became of one chapter."""

    slug: str
    status: str
    """``ran``, ``cached`` or ``failed``."""
    seconds: float = 0.0
    cell: int | None = None
    """For a failed chapter: number of the cell in the source notebook, from 1."""
    error: str = ""
    """For a failed chapter: the last lines of the traceback or of the log."""


def execute(
    slugs: Sequence[str] | None,
    profile: str,
    jobs: int | None = None,
    *,
    timeout: float = TIMEOUT,
    say: Callable[[str], None] | None = None,
) -> list[Outcome]:
    """Execute chapters whose key changed; the others are left as they are.

    Args:
        slugs: chapters to execute; None means all of ``_toc.yml``.
        profile: the value of the parameter ``profile``.
        jobs: chapters at a time; None means one per core.
        timeout: seconds a chapter may take.
        say: takes the lines of progress; None prints them.

    Returns:
        One outcome per chapter, in the order of ``slugs``. Nothing is raised for a chapter
        that fails: look for ``status == "failed"``.

    Raises:
        PublishError: a slug is no chapter, or the profile is unknown.
    """
    say = say or tell
    slugs = asked(slugs, profile)
    reasons = {slug: explain(slug, profile) for slug in slugs}
    outcomes: dict[str, Outcome] = {}
    todo = []
    for slug in slugs:
        if reasons[slug] == [UP_TO_DATE]:
            outcomes[slug] = Outcome(slug, "cached")
            say(f"{slug}: cached")
        else:
            todo.append(slug)
    usual = {slug: _last_seconds(slug) for slug in todo}
    todo.sort(key=lambda slug: -usual[slug])
    cores = os.cpu_count() or 1
    workers = max(1, min(jobs or cores, len(todo)))
    share = max(1, cores // workers)
    if todo:
        say(_announced(todo, workers))
    running: dict[str, subprocess.Popen] = {}
    since: dict[str, float] = {}
    stopped = threading.Event()

    def one(slug: str) -> Outcome:
        if stopped.is_set():
            return Outcome(slug, "failed", error="the build was stopped")
        plural = "" if share == 1 else "s"
        say(f"{slug}: starts on {share} core{plural} ({_short(reasons[slug])})")
        since[slug] = time.monotonic()
        try:
            outcome = _execute_one(slug, profile, share, timeout, running)
        except OSError as why:  # a full disk stops this chapter, not those that are running
            where = f": {why.filename}" if why.filename else ""
            outcome = Outcome(slug, "failed", error=f"{why.strerror or why}{where}")
        since.pop(slug)
        if outcome.status == "ran":
            say(f"{slug}: done in {outcome.seconds:.1f} s")
        else:
            where = f" in cell {outcome.cell}" if outcome.cell else ""
            say(f"{slug}: FAILED{where} after {outcome.seconds:.1f} s")
        return outcome

    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        with _terminate_as_interrupt():
            futures = {pool.submit(one, slug): slug for slug in todo}
            left = set(futures)
            while left:
                done, left = concurrent.futures.wait(
                    left, HEARTBEAT, concurrent.futures.FIRST_COMPLETED
                )
                for future in done:
                    outcomes[futures[future]] = future.result()
                if left and not done:
                    say(_under_way(since, usual, len(todo) - len(left), len(todo)))
    finally:
        stopped.set()
        for process in list(running.values()):
            _kill_tree(process)
        pool.shutdown(cancel_futures=True)
    return [outcomes[slug] for slug in slugs]


def tell(line: str) -> None:
    """Print a line of progress in one piece: chapters finish in threads of their own."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _announced(todo: Sequence[str], workers: int) -> str:
    """What is about to be executed, how many at a time, and how long it took before."""
    chapters = "1 chapter" if len(todo) == 1 else f"{len(todo)} chapters"
    known = [seconds for slug in todo if math.isfinite(seconds := _last_seconds(slug))]
    before = f", {sum(known) / workers:.0f} s the last time" if len(known) == len(todo) else ""
    return f"executing {chapters}, {workers} at a time, longest first{before}"


def _under_way(
    since: Mapping[str, float], usual: Mapping[str, float], done: int, total: int
) -> str:
    """How far the chapters are that run now."""
    now = time.monotonic()
    parts = []
    for slug, start in sorted(dict(since).items()):  # other threads change it
        of = f" of about {usual[slug]:.0f}" if math.isfinite(usual[slug]) else ""
        parts.append(f"{slug} {now - start:.0f}{of} s")
    return f"{done} of {total} done; running: {', '.join(parts)}"


def report(outcomes: Iterable[Outcome]) -> str:
    """What failed, chapter by chapter, with the last lines of the traceback; empty if nothing."""
    blocks = []
    for outcome in outcomes:
        if outcome.status == "failed":
            where = f", cell {outcome.cell}" if outcome.cell else ""
            lines = "\n".join("    " + line for line in outcome.error.splitlines())
            blocks.append(f"{outcome.slug}{where} failed:\n{lines}")
    return "\n".join(blocks)


def asked(slugs: Sequence[str] | None, profile: str) -> list[str]:
    """The chapters asked for, each once; all of ``_toc.yml`` for None.

    Raises:
        PublishError: a slug is no chapter, or the profile is unknown.
    """
    if profile not in cards.PROFILES:
        raise PublishError(f"no profile {profile!r}; there are: {', '.join(cards.PROFILES)}")
    chapters = layout.slugs()
    unknown = [slug for slug in slugs or [] if slug not in chapters]
    if unknown:
        raise PublishError(
            f"no chapter {unknown[0]!r} in _toc.yml; there are: {', '.join(chapters)}"
        )
    return chapters if slugs is None else list(dict.fromkeys(slugs))


def _last_seconds(slug: str) -> float:
    entry = read_entry(slug)
    return math.inf if entry is None else float(entry["seconds"])


def _short(reasons: list[str]) -> str:
    more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
    return ", ".join(reasons[:2]) + more


def _execute_one(
    slug: str, profile: str, cores: int, timeout: float, running: dict[str, subprocess.Popen]
) -> Outcome:
    work = layout.entry(slug).parent
    work.mkdir(parents=True, exist_ok=True)
    given, made = work / f"{slug}.input.ipynb", work / f"{slug}.running.ipynb"
    failed, loaded = work / f"{slug}.failed.ipynb", work / f"{slug}.loaded.json"
    for path in (made, failed, loaded):
        path.unlink(missing_ok=True)
    start = time.monotonic()
    try:
        # the key is taken from the notebook that is run, not from one edited meanwhile
        notebook = layout.read_notebook(layout.source(slug))
        before = key_parts(slug, profile)
        files.write_atomic(given, nbformat.writes(with_recorder(notebook)))
    except PublishError as error:
        return Outcome(slug, "failed", time.monotonic() - start, error=str(error))
    late = _papermill(slug, profile, cores, timeout, given, made, loaded, running)
    seconds = time.monotonic() - start
    given.unlink(missing_ok=True)
    if late is not None or not loaded.exists():
        if made.exists():
            os.replace(made, failed)
        cell, error = _what_failed(slug, failed)
        return Outcome(slug, "failed", seconds, cell, late or error)
    if wrong := wrong_solutions(layout.read_notebook(made)):
        os.replace(made, failed)
        loaded.unlink()
        number, what = wrong[0]
        return Outcome(slug, "failed", seconds, number, what)
    seen = json.loads(loaded.read_text(encoding="utf-8"))
    loaded.unlink()
    modules = sorted(seen["modules"])
    parts = key_parts(slug, profile, modules)
    changed = [name for name, value in before.items() if parts.get(name) != value]
    if changed:  # edited during the run: keep the old value, so that the next build runs it again
        parts |= {name: before[name] for name in changed}
    layout.executed(slug).parent.mkdir(parents=True, exist_ok=True)
    # first the notebook, then the entry that vouches for it
    layout.entry(slug).unlink(missing_ok=True)
    os.replace(made, layout.executed(slug))
    entry = {
        "slug": slug,
        "profile": profile,
        "parts": parts,
        "modules": modules,
        "seconds": round(seconds, 2),
        "core_seconds": round(float(seen["core_seconds"]), 2),
        "cores": cores,
        "finished": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "versions": {name: parts.get(f"version of {name}", "") for name in PACKAGES},
        "machine": machine(),
    }
    files.write_atomic(layout.entry(slug), json.dumps(entry, indent=1, sort_keys=True))
    return Outcome(slug, "ran", seconds)


def with_recorder(notebook: Any) -> Any:
    """A copy of a notebook with the hidden last cell that records what its kernel loaded."""
    notebook = copy.deepcopy(notebook)
    cell = nbformat.v4.new_code_cell(_RECORDER_SOURCE.rstrip("\n"))
    cell.metadata["tags"] = [RECORDER, "remove-cell"]
    if (notebook.nbformat, notebook.nbformat_minor) < (4, 5):
        cell.pop("id", None)
    notebook.cells.append(cell)
    notebook.metadata["kernelspec"] = dict(layout.KERNEL)  # papermill wants to know the language
    return notebook


def machine() -> dict[str, Any]:
    """Processor, cores and system that a chapter runs on."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), re.MULTILINE)
        processor = found.group(1) if found else processor
    return {
        "processor": processor,
        "cores": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _papermill(
    slug: str,
    profile: str,
    cores: int,
    timeout: float,
    given: Path,
    made: Path,
    loaded: Path,
    running: dict[str, subprocess.Popen],
) -> str | None:
    """Run papermill to its end; a sentence when it had to be stopped, else None."""
    threads = {
        name: str(cores) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    }
    paths = [str(files.PACKAGE.parent), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | threads | marked() | {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "JUPYTER_PATH": str(_kernels()),
        "IPYTHONDIR": str(files.build_dir() / "ipython"),
        "SURVEY_BUILD": str(files.build_dir()),
        "SURVEY_PROFILE": profile,
        "SURVEY_STATIC": "1",
        "SURVEY_JOBS": str(cores),
        "SURVEY_LOADED": str(loaded),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }  # fmt: skip
    command = [sys.executable, "-m", "papermill", str(given), str(made)]
    command += ["-p", "profile", profile, "-k", "survey", "--cwd", str(layout.source(slug).parent)]
    command += ["--no-progress-bar", "--log-level", "WARNING", "--start-timeout", "120"]
    log = layout.log(slug)
    log.parent.mkdir(parents=True, exist_ok=True)
    for _ in range(STARTS):
        with log.open("wb") as stream:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
            )
            running[slug] = process
            try:
                process.wait(timeout)
            except subprocess.TimeoutExpired:
                _kill_tree(process)
                return f"took longer than {timeout:g} s and was stopped; see {_relative_log(log)}"
            finally:
                running.pop(slug, None)
        if NEVER_STARTED not in log.read_text(encoding="utf-8", errors="replace"):
            break
    return None


def _kernels() -> Path:
    """A Jupyter folder with one kernel: the interpreter that runs now."""
    folder = files.build_dir() / "jupyter"
    spec = {
        "argv": [
            *(sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            "--HistoryManager.enabled=False",
        ],
        "display_name": "Python 3",
        "language": "python",
    }
    path, text = folder / "kernels" / "survey" / "kernel.json", json.dumps(spec)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.write_atomic(path, text)
    return folder


def _kill_tree(process: subprocess.Popen) -> None:
    """End a process that we started, its kernel and the kernel's workers."""
    import psutil  # comes with ipykernel

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
    except psutil.NoSuchProcess:
        family = []
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    # a killed process lives on until the system has taken its memory back: wait for each of them
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    psutil.wait_procs(family, timeout=10)


@contextlib.contextmanager
def _terminate_as_interrupt():
    """A polite request to end (SIGTERM) cleans up as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _what_failed(slug: str, failed: Path) -> tuple[int | None, str]:
    """Number of the failing cell in the source, and the last lines of its traceback."""
    if failed.exists():
        with contextlib.suppress(PublishError):
            notebook = layout.read_notebook(failed)
            number = 0
            for cell in notebook.cells:
                tags = layout.tags(cell)
                if "papermill-error-cell-tag" in tags or "injected-parameters" in tags:
                    continue
                number += 1
                for output in cell.get("outputs", []):
                    if output.output_type == "error":
                        trace = _plain("\n".join(output.get("traceback", []))).strip()
                        lines = trace.splitlines() or [f"{output.ename}: {output.evalue}"]
                        return number, "\n".join(lines[-6:])
    log = layout.log(slug)
    text = _plain(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else ""
    lines = text.strip().splitlines()[-6:]
    return None, "\n".join(lines) or f"papermill ended without a word; see {_relative_log(log)}"


def _plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _relative_log(log: Path) -> str:
    return f"{files.build_dir().name}/logs/{log.name}"
