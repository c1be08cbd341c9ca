"""Run a sample of recorded cells again with today's code, and compare every number in them."""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from survey_lib.evidence import attest
from survey_lib.evidence.attest import Attestation
from survey_lib.evidence.records import Record, commit, machine
from survey_lib.experiments import judging, runner
from survey_lib.experiments.against import run_at
from survey_lib.experiments.runner import Result, RunError

NETS = ("task", "net", "family")
"""Knobs that say which net; a claim on one says nothing of another."""


def arm(record: Record) -> str:
    """What a record's cell is one of: its arm, and the net where the experiment has several."""
    config = record.config
    words = [config.get("arm", config.get("criterion", "")), *(config.get(n) for n in NETS)]
    return ", ".join(str(word) for word in words if word)


def choose(
    records: Sequence[Record],
    *,
    sample: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
) -> list[Record]:
    """The cells to run again: of each arm the cheapest, then random ones.

    An arm is never left out, whatever the limits.

    Args:
        records: the study's.
        sample: random cells more, at most; without ``seconds`` none by default.
        seconds: stop adding where the recorded seconds in all would be more.
        seed: which random ones.
    """

    def cost(record: Record) -> float:
        return record.provenance.get("seconds", 0.0)

    cheapest: dict[str, Record] = {}
    for record in sorted(records, key=lambda r: (cost(r), r.key)):
        cheapest.setdefault(arm(record), record)
    chosen = list(cheapest.values())
    rest = [r for r in records if r not in chosen]
    random.Random(seed).shuffle(rest)
    left = len(rest) if sample is None and seconds is not None else sample or 0
    spent = sum(map(cost, chosen))
    for record in rest:
        if left and (seconds is None or spent + cost(record) <= seconds):
            chosen.append(record)
            left, spent = left - 1, spent + cost(record)
    return chosen


def verify(
    slug: str,
    *,
    write: bool = False,
    against: str = "",
    sample: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    jobs: int | None = None,
    make_pool: Callable[[int], Executor] = runner.local_pool,
) -> Attestation:
    """Run recorded cells of a study again and compare every number in them.

    Args:
        slug: the chapter.
        write: append the outcome to ``results/attest/<slug>.jsonl``.
        against: a commit whose code is vouched for; its numbers, made here and now, take the place
            of the recorded ones, and have to be equal to the bit. For a change that is to alter
            nothing, on another processor than the study's.
        sample: random cells beside one of each arm.
        seconds: about how long it may take on all workers together, arms apart.
        seed: which random cells.
        jobs: worker processes.
        make_pool: jobs → executor.

    Raises:
        RunError: there is no committed study, or ``write`` in a tree with uncommitted changes; or
            nothing can be held against that commit, see :func:`.against.run_at`.
    """
    head = commit()
    if write and (not head or head.endswith("+")):
        raise RunError(
            f"{slug}: an attestation names a commit, and this tree "
            + ("has uncommitted changes; commit them first" if head else "is no git checkout")
        )
    records = judging.recorded(slug)
    jobs = jobs or runner.default_jobs()
    limit = None if seconds is None else seconds * jobs
    chosen = choose(records, sample=sample, seconds=limit, seed=seed)
    this, here, found = runner.experiment(slug), machine(), []
    twins: dict[Any, Record] = {}
    for record in chosen:
        try:
            twins[this.cell(record.config)] = record
        except RunError as error:
            found.append(str(error))
    if against:
        there = run_at(
            against, slug, [r.config for r in twins.values()],
            study=attest.study_hash(records), jobs=jobs,
        )  # fmt: skip
        for (cell, twin), then in zip(list(twins.items()), there, strict=True):
            if then["numbers"] is None:
                found.append(f"{slug}: cell {twin.key} failed at {against}: {then['error']}")
                del twins[cell]
            else:
                twins[cell] = replace(twin, numbers=then["numbers"], provenance=here)
    cells: list[dict[str, Any]] = []
    worst: dict[str, Any] = {}

    def keep(cell: Any, result: Result) -> None:
        nonlocal worst
        numbers, _, error = result
        if cell not in twins:
            return  # run because another needs it
        twin = twins[cell]
        label = f"{slug}: cell {twin.key} ({arm(twin)}, seed {twin.seed})"
        if numbers is None:
            found.append(f"{label} failed: {error.strip().splitlines()[-1]}")
            return
        fresh = Record(slug, "study", twin.config, cell.seed, twin.key, "done", numbers, "", here)
        outcome = judging.compare(fresh, twin)
        found.extend(f"{label}: {line}" for line in outcome.disagreements)
        cells.append({"key": twin.key, "arm": arm(twin), "exact": outcome.exact,
                      "compared": outcome.compared})  # fmt: skip
        if not worst or outcome.worst > worst["difference"]:
            worst = {"difference": outcome.worst, "key": twin.key, "path": outcome.where}

    runner.execute(slug, list(twins), keep, jobs=jobs, make_pool=make_pool)
    attestation = Attestation(
        slug,
        runner.code_digest(slug),
        runner.data_hash(slug),
        attest.study_hash(records),
        head,
        here,
        datetime.now(UTC).isoformat(timespec="seconds"),
        sorted(cells, key=lambda c: (c["arm"], c["key"])),
        sum(c["compared"] for c in cells),
        worst,
        sorted(found),
        against,
    )
    if write:
        made = attestation.made
        attest.add_origin(attestation.digest, runner.code_parts(slug), head, made)
        attest.append(attestation)
    return attestation
