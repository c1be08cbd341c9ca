"""What a committed study says: verdicts on claims, and whether today's code gives its numbers."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from survey_lib import closure
from survey_lib.cards.card import Claim, read_card
from survey_lib.evidence import attest
from survey_lib.evidence.reading import study
from survey_lib.evidence.records import Record, RecordError
from survey_lib.evidence.verdicts import Verdict, judge, measured
from survey_lib.experiments import runner
from survey_lib.experiments.runner import RunError


def claims_and_statistics(slug: str) -> list[tuple[Claim, Callable]]:
    """Each claim of a card with the function that measures it.

    Raises:
        RunError: the experiment lacks a statistic that the card names.
    """
    known = runner.experiment(slug).statistics
    pairs = []
    for claim in read_card(slug).claims:
        if not claim.not_tested and claim.statistic not in known:
            raise RunError(
                f"{slug}: claim {claim.id!r} names the statistic {claim.statistic!r}, which "
                f"the experiment lacks; it has: {', '.join(known)}"
            )
        pairs.append((claim, known.get(claim.statistic)))
    return pairs


def verdicts(slug: str, records: Sequence[Record] | None = None) -> list[Verdict]:
    """Verdicts on all claims of a chapter, by default from its committed study.

    Raises:
        RecordError: a record is damaged, or a claim's statistic cannot be what it says.
    """
    cache: dict[str, list[Record]] = {}

    def rows(profile: str) -> Sequence[Record]:
        if records is not None:
            return records
        return cache.setdefault(profile, study(slug, profile))

    def verdict(claim: Claim, statistic: Callable) -> Verdict:
        found = rows(claim.profile)
        try:
            return judge(claim, found, statistic)
        except RecordError as why:
            where = "" if records is not None else f"{claim.profile}/{slug}.jsonl: "
            raise RecordError(f"{where}{why}") from why

    return [verdict(*pair) for pair in claims_and_statistics(slug)]


def instead(slug: str) -> dict[str, dict[str, dict[int, float]]]:
    """Claim id → other ways to measure it, in words → value by replicate, from the study.

    Raises:
        RunError: another way is given for a statistic that no claim names.
        RecordError: a record is damaged.
    """
    ways = runner.experiment(slug).instead
    pairs = [(c, ways.get(c.statistic, {})) for c, _ in claims_and_statistics(slug)]
    if strange := ways.keys() - {c.statistic for c, _ in pairs}:
        raise RunError(f"{slug}: no claim rests on {', '.join(sorted(strange))}; see INSTEAD")
    found = {
        c.id: {words: measured(c, study(slug, c.profile), way)[1] for words, way in of.items()}
        for c, of in pairs
        if of and not c.not_tested
    }
    return {claim: {w: v for w, v in of.items() if v} for claim, of in found.items()}


CURRENT, ATTESTED, UNATTESTED = "current", "attested", "unattested"


@dataclass(frozen=True)
class State:
    """How a committed study stands to today's code."""

    slug: str
    word: str
    """``current``: all records were made by it; ``attested``: a sample of them, run again with it,
    agrees; ``unattested``: neither."""
    digest: str
    """Of today's code."""
    commit: str = ""
    """At which the records were made (current), or run again (attested)."""
    made: str = ""
    """When that was."""
    cells: int = 0
    """Cells in the sample that was run again …"""
    numbers: int = 0
    """… numbers compared in them …"""
    worst: float = 0.0
    """… and the largest absolute difference among those."""
    where: str = ""
    """Path of that number."""
    changed: tuple[str, ...] | None = ()
    """Modules that changed since the records were made; None where that isn't known."""


def state(slug: str) -> State:
    """Whether a chapter's committed study is current, attested or unattested.

    Raises:
        RunError: there is no such chapter, or no committed study.
    """
    records = recorded(slug)
    parts, data = runner.code_parts(slug), runner.data_hash(slug)
    digest = closure.combine(parts)
    origin = records[-1].provenance
    codes = list(dict.fromkeys(r.provenance.get("code", "") for r in records))
    if codes == [digest] and all(r.provenance.get("data") == data for r in records):
        return State(slug, CURRENT, digest, origin.get("commit", ""), origin.get("made", ""))
    since = [attest.changed(code, parts) for code in codes]
    changed = None if None in since else tuple(sorted({n for names in since for n in names or ()}))
    numbers = attest.study_hash(records)
    for note in reversed(attest.attestations(slug)):
        if (note.digest, note.data, note.study) == (digest, data, numbers):
            if not note.agrees:
                break
            worst = note.worst.get("difference", 0.0), note.worst.get("path", "")
            return State(
                slug, ATTESTED, digest, note.commit, note.made, len(note.cells), note.numbers,
                *worst, changed,
            )  # fmt: skip
    return State(slug, UNATTESTED, digest, changed=changed)


def recorded(slug: str) -> list[Record]:
    """The committed study of a chapter; raises RunError when there is no chapter or no study."""
    records = study(runner.experiment(slug).slug)
    if not records:
        raise RunError(f"{slug}: no committed study; run: survey run {slug} --profile study")
    return records


def differences(slug: str, fresh: Iterable[Record], recorded: Iterable[Record]) -> list[str]:
    """What of fresh runs does not agree with their recorded twins, every number compared.

    Each is a sentence that names cell, number and both values. A fresh cell without a twin is
    one too, and so is a number that only one of the twins has. What :func:`drifted` tells is none.
    """
    return _apart(slug, fresh, recorded)[0]


def drifted(slug: str, fresh: Iterable[Record], recorded: Iterable[Record]) -> list[str]:
    """What of fresh runs is off by more than the card allows, for the processor's sake.

    Training carries the last bits of sums on, on some nets further than a card's tolerance, which
    was set by the processors at hand. Where another processor with the same versions ran the very
    code that the study is current or attested under, nothing but the processor can be the reason.
    """
    return _apart(slug, fresh, recorded)[1]


def _apart(
    slug: str, fresh: Iterable[Record], recorded: Iterable[Record]
) -> tuple[list[str], list[str]]:
    this = runner.experiment(slug)
    twins, found, drift = this.by_cell(recorded), [], []
    for record in fresh:
        label = json.dumps(record.config, sort_keys=True)
        twin = twins.get(this.cell(record.config))
        if record.status != "done":
            found.append(f"{slug}: cell {label} failed: {record.error.strip().splitlines()[-1]}")
        elif twin is None:
            found.append(f"{slug}: cell {label} has no recorded twin; run the study")
        else:
            apart = compare(record, twin).disagreements
            elsewhere = apart and attest.other_processor(twin.provenance, record.provenance)
            kept = drift if elsewhere and _vouched(slug) else found
            kept += [f"{slug}: {line}, in cell {label}" for line in apart]
    return found, drift


def _vouched(slug: str) -> bool:
    """Whether today's code gave the committed study, or a sample of it again."""
    return bool(study(slug)) and state(slug).word != UNATTESTED


def compare(fresh: Record, twin: Record) -> attest.Comparison:
    """Every number of a fresh run against its recorded twin.

    Equal to the bit on the same processor and versions, timings apart; else within the card's
    tolerance.
    """
    return attest.compare(
        fresh.numbers,
        twin.numbers,
        exact=attest.same_machine(twin.provenance, fresh.provenance),
        tolerance=read_card(fresh.slug).tolerance,
        inexact=runner.experiment(fresh.slug).inexact,
    )
