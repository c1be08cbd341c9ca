"""One runner for all experiments: cells in processes, stored one by one, resumed by hash.

An experiment module (``survey_lib/experiments/<slug>.py``) offers

- ``grid(profile) -> list[Cell]``: frozen dataclasses with a ``seed`` and plain values,
- ``run(cell) -> dict``: the numbers of one cell (plain values, finite),
- ``DATA``: names of the embedded data files it uses,
- ``STATISTICS``: name → function of one seed's records, one for each claim of the card.
"""

import importlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any

from survey_lib import files
from survey_lib.cards.card import PROFILES, Claim, read_card
from survey_lib.evidence.records import (
    Record,
    config_key,
    from_line,
    read_records,
    study,
    study_path,
    to_line,
    write_records,
)
from survey_lib.evidence.verdicts import Verdict, judge
from survey_lib.experiments import EXPERIMENTS
from survey_lib.experiments.closure import code_hash

ALL_PROFILES = (*PROFILES, "tune")


class RunError(RuntimeError):
    """A request the runner cannot serve; one sentence that says why."""


def experiment(slug: str) -> ModuleType:
    """The experiment module of a chapter; raises RunError naming the slugs there are."""
    if slug not in EXPERIMENTS:
        raise RunError(f"no experiment {slug!r}; there are: {', '.join(EXPERIMENTS)}")
    return importlib.import_module(EXPERIMENTS[slug])


def experiment_hash(slug: str) -> str:
    """Hash of the code an experiment's numbers rest on."""
    return code_hash([EXPERIMENTS[slug]])


def data_hash(slug: str) -> str:
    """Hash of the data files an experiment uses."""
    from survey_lib.tasks.data import SHA256

    text = " ".join(SHA256[name] for name in experiment(slug).DATA)
    return sha256(text.encode()).hexdigest()[:16]


def cell_path(slug: str, key: str, code: str, data: str) -> Path:
    """File of one finished cell: its name hashes configuration, code and data."""
    name = sha256(f"{key} {code} {data}".encode()).hexdigest()[:16]
    return files.build_dir() / "records" / slug / f"{name}.json"


def plain(cell: Any) -> dict[str, Any]:
    """A cell's configuration as JSON would give it back."""
    return json.loads(json.dumps(asdict(cell), sort_keys=True))


def run_cell(module: str, cell: Any) -> tuple[dict[str, Any], float]:
    """Numbers and seconds of one cell, on one torch thread; runs in a worker process."""
    import torch

    torch.set_num_threads(1)
    start = perf_counter()
    numbers = importlib.import_module(module).run(cell)
    return numbers, perf_counter() - start


def _attempt(module: str, cell: Any) -> tuple[dict[str, Any] | None, float, str]:
    try:
        numbers, seconds = run_cell(module, cell)
        json.dumps(numbers, allow_nan=False)  # a NaN is a failure of the cell, not of the run
        return numbers, seconds, ""
    except Exception:
        return None, 0.0, traceback.format_exc()


def local_pool(jobs: int) -> Executor:
    """Spawned processes, because a forked torch with threads can hang."""
    return ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_quiet)


def _quiet() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


def default_jobs() -> int:
    """Worker processes: ``SURVEY_JOBS``, else the cores this process may use; one on CUDA."""
    if os.environ.get("SURVEY_JOBS"):
        return max(1, int(os.environ["SURVEY_JOBS"]))
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
    cells = experiment(slug).grid(profile)
    store = _Store(slug, profile)
    by_key = {r.key: r for r in known if r.status == "done"}
    found = {store.key(c): by_key.get(store.key(c)) or store.load(c) for c in cells}
    todo = [c for c in cells if found[store.key(c)] is None]
    jobs = min(jobs or default_jobs(), max(1, len(todo)))
    with _bar(len(cells), f"{slug} {profile}", progress) as bar:
        bar.update(len(cells) - len(todo))

        def keep(cell: Any, result: tuple) -> None:
            found[store.key(cell)] = store.save(cell, *result)
            bar.update()

        orphans = _run_all(slug, todo, jobs, make_pool, keep)
        for cell in orphans:  # each alone, so that only the guilty one fails
            if _run_all(slug, [cell], 1, make_pool, keep):
                reason = "the worker process died twice (killed, or out of memory)"
                keep(cell, (None, 0.0, reason))
    return [record for record in found.values() if record is not None]


def _run_all(
    slug: str,
    cells: Sequence[Any],
    jobs: int,
    make_pool: Callable[[int], Executor],
    keep: Callable[[Any, tuple], None],
) -> list[Any]:
    """Run cells in a pool; returns those whose worker died under them."""
    if not cells:
        return []
    orphans: list[Any] = []
    waiting = list(cells)
    with make_pool(jobs) as pool:
        # no more than jobs + 1 in flight, so that a dying worker orphans few
        flying: dict[Future, Any] = {}
        try:
            while waiting or flying:
                while waiting and len(flying) <= jobs:
                    flying[pool.submit(_attempt, EXPERIMENTS[slug], waiting[0])] = waiting[0]
                    waiting.pop(0)  # only now: submit fails when a worker has died meanwhile
                done = next(as_completed(flying))
                cell = flying.pop(done)
                try:
                    keep(cell, done.result())
                except BrokenExecutor:
                    orphans.append(cell)
                    raise
        except BrokenExecutor:
            for future, cell in flying.items():
                if future.done() and not future.exception():
                    keep(cell, future.result())
                else:
                    orphans.append(cell)
    return orphans + _run_all(slug, waiting, jobs, make_pool, keep)


class _Store:
    """Finished cells of one chapter on disk."""

    def __init__(self, slug: str, profile: str):
        from survey_lib.evidence.records import commit, machine

        self.slug, self.profile = slug, profile
        self.code, self.data = experiment_hash(slug), data_hash(slug)
        self.claims = {c.id: c.hash for c in read_card(slug).claims}
        self.origin = {"commit": commit(), **machine()}

    def key(self, cell: Any) -> str:
        return config_key(self.slug, plain(cell))

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


def _bar(total: int, label: str, show: bool) -> Any:
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
    return path


def claims_and_statistics(slug: str) -> list[tuple[Claim, Callable]]:
    """Each claim of a card with the function that measures it.

    Raises:
        RunError: the experiment lacks a statistic that the card names.
    """
    known = experiment(slug).STATISTICS
    pairs = []
    for claim in read_card(slug).claims:
        if not claim.not_tested and claim.statistic not in known:
            raise RunError(
                f"{slug}: claim {claim.id!r} names the statistic {claim.statistic!r}, which "
                f"experiments/{slug}.py lacks; it has: {', '.join(known)}"
            )
        pairs.append((claim, known.get(claim.statistic)))
    return pairs


def verdicts(slug: str, records: Sequence[Record] | None = None) -> list[Verdict]:
    """Verdicts on all claims of a chapter, by default from its committed study."""
    cache: dict[str, list[Record]] = {}

    def rows(profile: str) -> Sequence[Record]:
        if records is not None:
            return records
        return cache.setdefault(profile, study(slug, profile))

    return [judge(claim, rows(claim.profile), stat) for claim, stat in claims_and_statistics(slug)]


def is_stale(slug: str, records: Sequence[Record]) -> bool:
    """True when the code of the experiment changed since the records were made."""
    now = experiment_hash(slug)
    return any(r.provenance.get("code") != now for r in records)


def differences(slug: str, fresh: Sequence[Record], recorded: Sequence[Record]) -> list[str]:
    """Numbers of fresh runs that lie further from their recorded twins than the card allows.

    Each is a sentence that names cell, number and both values. A fresh cell without a twin is
    one too, and so is a twin's number that the fresh run lacks.
    """
    tolerance = read_card(slug).tolerance
    twins = {r.key: r for r in recorded}
    found = []
    for record in fresh:
        label = json.dumps(record.config, sort_keys=True)
        twin = twins.get(record.key)
        if record.status != "done":
            found.append(f"{slug}: cell {label} failed: {record.error.strip().splitlines()[-1]}")
        elif twin is None:
            found.append(f"{slug}: cell {label} has no recorded twin; run the study")
        else:
            for name, allowed in tolerance.items():
                if name not in twin.numbers:
                    continue
                a, b = record.numbers.get(name), twin.numbers[name]
                if a is None or abs(a - b) > allowed:
                    found.append(
                        f"{slug}: {name} of cell {label} is {a}, recorded {b}; "
                        f"more than {allowed} apart"
                    )
    return found


def finished(slug: str, profile: str) -> list[Record]:
    """Records of a profile's cells already stored in the build folder, none run."""
    store = _Store(slug, profile)
    rows = (store.load(cell) for cell in experiment(slug).grid(profile))
    return [r for r in rows if r is not None]


def verify(slug: str, sample: int, seed: int, *, jobs: int | None = None) -> list[str]:
    """Re-run ``sample`` random cells of the committed study and compare.

    Returns the differences in sentences; an empty list is a pass.

    Raises:
        RunError: there is no committed study.
    """
    import random

    grid = experiment(slug).grid("study")
    recorded = read_records(study_path(slug))
    if not recorded:
        raise RunError(f"{slug}: no committed study; run: survey run {slug} --profile study")
    cells = {config_key(slug, plain(c)): c for c in grid}
    known = [r for r in recorded if r.key in cells]
    chosen = random.Random(seed).sample(known, min(sample, len(known)))
    fresh: list[Record] = []
    store = _Store(slug, "study")

    def keep(cell: Any, result: tuple) -> None:
        numbers, _, error = result
        status = "done" if numbers is not None else "failed"
        config = plain(cell)
        fresh.append(
            Record(slug, "study", config, cell.seed, store.key(cell), status, numbers or {}, error)
        )

    lost = _run_all(
        slug, [cells[r.key] for r in chosen], min(jobs or default_jobs(), sample), local_pool, keep
    )
    for cell in lost:
        keep(cell, (None, 0.0, "the worker process died"))
    gone = [f"{slug}: recorded cell {r.config} is not in the grid" for r in recorded
            if r.key not in cells]  # fmt: skip
    return differences(slug, fresh, recorded) + gone
