"""One runner for all experiments: cells in processes, stored one by one, resumed by hash.

An experiment is a package of two files. ``cells.py``, what is measured:

- ``Cell``: a frozen dataclass with ``arm``, ``seed`` and knobs, plain values,
- ``ARMS``: arm → function of a :class:`~survey_lib.experiments.context.Context` that gives the
  numbers of a cell (plain values, finite),
- ``DATA``: names of the embedded data files it uses,
- ``INEXACT``: patterns of dotted paths of numbers that are timings,
- ``MODULES``, optional: further modules that the numbers rest on, where they are looked up by name,
- ``needs(cell)``, optional: the cells whose artefacts a cell reads;

and ``study.py``, what is asked: ``GRIDS``, profile → function that gives its cells, and
``STATISTICS``, name → function of one seed's records, one for each claim of the card.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context, parent_process, resource_tracker
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from survey_lib import closure, files
from survey_lib.cards.card import PROFILES, read_card
from survey_lib.evidence import attest
from survey_lib.evidence.reading import from_line
from survey_lib.evidence.records import (
    Record,
    study_path,
    to_line,
    write_records,
)
from survey_lib.experiments import BESIDE, EXPERIMENTS, nets
from survey_lib.experiments.context import artefacts, cell_key, measure, needed, plain

ALL_PROFILES = (*PROFILES, "tune")


class RunError(RuntimeError):
    """A request the runner cannot serve; one sentence that says why."""


@dataclass(frozen=True)
class Experiment:
    """An experiment: its two files."""

    slug: str
    cells: ModuleType
    """What is measured …"""
    study: ModuleType
    """… and what is asked."""

    def grid(self, profile: str) -> list[Any]:
        """The cells of a profile."""
        return self.study.GRIDS[profile]()

    @property
    def statistics(self) -> dict[str, Callable]:
        """Name → function of one seed's records."""
        return self.study.STATISTICS

    @property
    def instead(self) -> dict[str, dict[str, Callable]]:
        """Name of a statistic → other ways to measure the same, in words → a function like it."""
        return getattr(self.study, "INSTEAD", {})

    @property
    def inexact(self) -> tuple[str, ...]:
        """Patterns of numbers that are timings."""
        return getattr(self.cells, "INEXACT", ())

    def cell(self, config: dict[str, Any]) -> Any:
        """The cell of a recorded configuration; knobs added since have their defaults.

        Raises:
            RunError: the configuration names a knob that is gone.
        """
        try:
            return self.cells.Cell(**{k: _frozen(v) for k, v in config.items()})
        except TypeError as error:
            raise RunError(f"{self.slug}: {config} is no cell of today's ({error})") from None

    def by_cell(self, records: Iterable[Record]) -> dict[Any, Record]:
        """Records by their cells; those of no cell of today's are left out."""
        found = {}
        for record in records:
            with contextlib.suppress(RunError):
                found[self.cell(record.config)] = record
        return found


def _frozen(value: Any) -> Any:
    return tuple(_frozen(v) for v in value) if isinstance(value, list) else value


def experiment(slug: str) -> Experiment:
    """The experiment of a chapter; raises RunError naming the slugs there are."""
    known = EXPERIMENTS | BESIDE
    if slug not in known:
        raise RunError(f"no experiment {slug!r}; there are: {', '.join(EXPERIMENTS)}")
    name = known[slug]
    cells, asked = (importlib.import_module(f"{name}.{part}") for part in ("cells", "study"))
    return Experiment(slug, cells, asked)


def code_parts(slug: str) -> dict[str, str]:
    """Module → digest, of the code an experiment's numbers rest on."""
    cells = experiment(slug).cells
    return closure.digests([cells.__name__, *getattr(cells, "MODULES", ())])


def code_digest(slug: str) -> str:
    """Digest of the code an experiment's numbers rest on."""
    return closure.combine(code_parts(slug))


def data_hash(slug: str) -> str:
    """Hash of the data files an experiment uses."""
    from survey_lib.tasks.data import SHA256

    return _hash(" ".join(SHA256[name] for name in experiment(slug).cells.DATA))


def artefact_digest(slug: str) -> str:
    """Digest of all that an artefact rests on besides its cell: code, data, torch."""
    import torch

    return _hash(f"{code_digest(slug)} {data_hash(slug)} {torch.__version__}")


def cell_path(slug: str, key: str, code: str, data: str) -> Path:
    """File of one finished cell: its name hashes configuration, code and data."""
    return files.build_dir() / "records" / slug / f"{_hash(f'{key} {code} {data}')}.json"


def _hash(text: str) -> str:
    return files.sha256(text.encode())[:16]


def run_cell(slug: str, cell: Any, digest: str) -> tuple[dict[str, Any], float]:
    """Numbers and seconds of one cell, on one torch thread; runs in a worker process.

    Args:
        slug: the chapter.
        cell: the cell.
        digest: names the artefacts, :func:`artefact_digest`.
    """
    import torch

    torch.set_num_threads(1)
    start = perf_counter()
    return measure(slug, cell, digest), perf_counter() - start


def _attempt(slug: str, cell: Any, digest: str) -> "Result":
    try:
        numbers, seconds = run_cell(slug, cell, digest)
        json.dumps(numbers, allow_nan=False)  # a NaN is a failure of the cell, not of the run
        return numbers, seconds, ""
    except Exception:
        return None, 0.0, traceback.format_exc()


Result = tuple[dict[str, Any] | None, float, str]
"""Numbers (None: it failed), seconds, traceback."""


def local_pool(jobs: int) -> Executor:
    """Spawned processes, because a forked torch with threads can hang."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_quiet)


def _quiet() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    parent = parent_process()
    if parent is not None:  # a worker must not outlive a run that was killed
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _submit(pool: Executor, words: tuple) -> Future:
    """Hand a call to a pool; a worker that starts for it leaves Ctrl-C to us."""
    main = threading.current_thread() is threading.main_thread()
    if not main or not hasattr(signal, "pthread_sigmask"):
        return pool.submit(*words)
    resource_tracker.ensure_running()  # when it starts, it lets signals through again
    missed: list[int] = []  # another thread may take the signal, so that blocking alone won't do
    heard = signal.signal(signal.SIGINT, lambda number, _: missed.append(number))
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a new process inherits it
    try:
        return pool.submit(*words)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        signal.signal(signal.SIGINT, signal.SIG_DFL if heard is None else heard)
        if missed:
            signal.raise_signal(signal.SIGINT)


def _end_workers(pool: Executor) -> None:
    """End the local processes of a pool, whatever they are at."""
    processes = list((getattr(pool, "_processes", None) or {}).values())
    for process in processes:
        process.kill()
    if processes:  # another kind of pool is shut down by who made it
        pool.shutdown(wait=False, cancel_futures=True)


def default_jobs() -> int:
    """Worker processes: ``SURVEY_JOBS``, else the cores this process may use; one on CUDA.

    Raises:
        RunError: ``SURVEY_JOBS`` is no number.
    """
    if given := os.environ.get("SURVEY_JOBS"):
        if not given.isdecimal():
            raise RunError(f"SURVEY_JOBS must be a number of processes, not {given!r}")
        return max(1, int(given))
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run(
    slug: str,
    profile: str = "quick",
    *,
    jobs: int | None = None,
    make_pool: Callable[[int], Executor] = local_pool,
    progress: bool = True,
    known: Sequence[Record] = (),
) -> list[Record]:
    """Run the cells of a profile that are not yet done, and return the records of all.

    Each finished cell is stored at once; a second call re-runs none of them. When a worker dies
    (killed, out of memory) the pool is made anew and the cells it held are tried once more, each
    alone; one that kills its worker again is recorded as failed. Others are not touched.

    Args:
        slug: the chapter.
        profile: which cells.
        jobs: worker processes, by default :func:`default_jobs`.
        make_pool: jobs → executor; local processes by default, or a cluster's.
        progress: show one bar on standard error.
        known: records that stand for their cells although the code may have changed since.

    Raises:
        RunError: unknown slug or profile.
    """
    if profile not in ALL_PROFILES:
        raise RunError(f"no profile {profile!r}; use one of {', '.join(ALL_PROFILES)}")
    this = experiment(slug)
    store = _Store(slug, profile)
    old = this.by_cell(r for r in known if r.status == "done")
    cells = dict.fromkeys(this.grid(profile))
    found = {cell: old.get(cell) or store.load(cell) for cell in cells}
    todo = [cell for cell in cells if found[cell] is None]
    with bar(len(cells), f"{slug} {profile}", progress) as shown:
        shown.update(len(cells) - len(todo))

        def keep(cell: Any, result: Result) -> None:
            if cell not in found:  # run because another needs it
                if store.load(cell) is None:
                    store.save(cell, *result)
            elif found[cell] is None:
                found[cell] = store.save(cell, *result)
                shown.update()

        execute(slug, todo, keep, jobs=jobs, make_pool=make_pool)
    return [record for record in found.values() if record is not None]


DIED = "the worker process died twice (killed, or out of memory)"


def execute(
    slug: str,
    todo: Sequence[Any],
    keep: Callable[[Any, Result], None],
    *,
    jobs: int | None = None,
    make_pool: Callable[[int], Executor] = local_pool,
) -> None:
    """Run cells, each after those it needs, and hand every result to ``keep`` as it comes.

    Needed cells whose artefacts are not there are run too, each once. Cells whose worker died are
    tried once more, each alone, so that only the guilty one fails; what needs it fails with it.

    Raises:
        RunError: cells need each other in a circle.
    """
    nets.lend()
    digest = artefact_digest(slug)
    needs = _with_needs(slug, todo, digest)
    waiting = list(needs)
    jobs = min(jobs or default_jobs(), max(1, len(waiting)))
    succeeded: dict[Any, bool] = {}

    def finish(cell: Any, result: Result) -> None:
        succeeded[cell] = result[0] is not None
        keep(cell, result)

    def ready() -> Any:
        """The first cell that nothing is to be waited for; None when there is none."""
        for cell in list(waiting):
            if all(n in succeeded for n in needs[cell]):
                waiting.remove(cell)
                failed = [n for n in needs[cell] if not succeeded[n]]
                if not failed:
                    return cell
                finish(cell, (None, 0.0, f"it needs {failed[0]}, which failed"))
        return None

    def fly(take: Callable[[], Any], jobs: int) -> list[Any]:
        return _fly(lambda cell: (_attempt, slug, cell, digest), take, jobs, make_pool,
                    finish, waiting)  # fmt: skip

    while waiting:
        orphans: list[Any] = []
        while lost := fly(ready, jobs):
            orphans += lost
        for cell in orphans:
            alone = [cell]
            if fly(lambda alone=alone: alone.pop() if alone else None, 1):
                finish(
                    cell, (None, 0.0, "the worker process died twice (killed, or out of memory)")
                )


def _fly(
    call: Callable[[Any], tuple],
    take: Callable[[], Any],
    jobs: int,
    make_pool: Callable[[int], Executor],
    finish: Callable[[Any, Result], None],
    waiting: list[Any],
) -> list[Any]:
    """Run what ``take`` gives until it gives None and all is done, or until a worker dies.

    Returns the cells whose worker died under them; one that was not submitted waits again.
    """
    orphans: list[Any] = []
    with make_pool(jobs) as pool:
        # no more than jobs + 1 in flight, so that a dying worker orphans few
        flying: dict[Future, Any] = {}
        try:
            while True:
                while len(flying) <= jobs and (cell := take()) is not None:
                    try:
                        flying[_submit(pool, call(cell))] = cell
                    except BrokenExecutor:  # a worker has died meanwhile
                        waiting.insert(0, cell)
                        raise
                if not flying:
                    break
                done = next(as_completed(flying))
                cell = flying.pop(done)
                try:
                    finish(cell, done.result())
                except BrokenExecutor:
                    orphans.append(cell)
                    raise
        except BrokenExecutor:
            for future, cell in flying.items():
                if future.done() and not future.exception():
                    finish(cell, future.result())
                else:
                    orphans.append(cell)
        except BaseException:  # Ctrl-C, or a disk that is full: nobody waits for the others
            _end_workers(pool)
            raise
    return orphans


def _with_needs(slug: str, todo: Sequence[Any], digest: str) -> dict[Any, list[Any]]:
    """Cell → those of the cells to run that it needs; for ``todo`` and what has to be made."""
    found: dict[Any, list[Any]] = {}
    asked = set(todo)

    def visit(cell: Any, path: tuple[Any, ...]) -> None:
        if cell in path:
            raise RunError(f"{slug}: {cell} needs itself, by way of what it needs; mend needs()")
        if cell not in found:
            needs = [
                n for n in needed(cell) if n in asked or not artefacts(slug, n, digest).exists()
            ]
            for need in needs:
                visit(need, (*path, cell))
            found[cell] = needs

    for cell in todo:
        visit(cell, ())
    return found


class _Store:
    """Finished cells of one chapter on disk."""

    def __init__(self, slug: str, profile: str):
        from survey_lib.evidence.records import commit, machine

        self.slug, self.profile = slug, profile
        self.code, self.data = code_digest(slug), data_hash(slug)
        # no claim is judged on a search for rates, and its records are many
        judged = () if profile == "tune" else read_card(slug).claims
        self.claims = {c.id: c.hash for c in judged}
        self.origin = {"commit": commit(), **machine()}

    def key(self, cell: Any) -> str:
        return cell_key(self.slug, cell)

    def path(self, cell: Any) -> Path:
        return cell_path(self.slug, self.key(cell), self.code, self.data)

    def load(self, cell: Any) -> Record | None:
        """The finished record of a cell; failed and damaged ones are run again."""
        path = self.path(cell)
        if not path.exists():
            return None
        try:
            record = from_line(path.read_text(encoding="utf-8"), path.name)
        except ValueError:
            return None
        return record if record.status == "done" else None

    def save(self, cell: Any, numbers: dict | None, seconds: float, error: str) -> Record:
        record = Record(
            self.slug,
            self.profile,
            plain(cell),
            cell.seed,
            self.key(cell),
            "failed" if numbers is None else "done",
            numbers or {},
            error,
            {
                **self.origin,
                "code": self.code,
                "data": self.data,
                "claims": self.claims,
                "seconds": round(seconds, 2),
                "threads": 1,
                "made": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        files.write_atomic(self.path(cell), to_line(record) + "\n")
        return record


def bar(total: int, label: str, show: bool) -> Any:
    """The one progress bar of a run, on standard error."""
    from tqdm import tqdm

    return tqdm(total=total, desc=label, unit="cell", disable=not show, dynamic_ncols=True)


def commit_study(slug: str, profile: str, records: Iterable[Record]) -> Path:
    """Write the records of a finished run to ``results/<profile>/<slug>.jsonl``.

    Raises:
        RunError: a cell failed; nothing is written.
    """
    records = list(records)
    failed = [r for r in records if r.status != "done"]
    if failed:
        last = failed[0].error.strip().splitlines()[-1]
        raise RunError(f"{slug}: {len(failed)} of {len(records)} cells failed, first: {last}")
    path = study_path(slug, profile)
    write_records(path, records)
    now = code_digest(slug)
    for record in records:
        if record.provenance.get("code") == now:
            origin = record.provenance
            attest.add_origin(now, code_parts(slug), origin["commit"], origin["made"])
            break
    return path


def finished(slug: str, profile: str) -> list[Record]:
    """Records of a profile's cells already stored in the build folder, none run."""
    store = _Store(slug, profile)
    rows = (store.load(cell) for cell in experiment(slug).grid(profile))
    return [r for r in rows if r is not None]
