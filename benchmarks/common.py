"""What every row shares: taking turns on one thread, and JSON lines with both sides."""

import gc
import json
import statistics
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from survey_lib import files
from survey_lib.evidence.records import commit, machine
from survey_lib.measure.latency import Latency, one_thread

FOLDER = Path(__file__).parent
ROUNDS = 15
NOISY = 1.25

Side = tuple[Callable[[], Any], Callable[[Any], Any]]
"""Something to do outside the clock, and what is timed on its result."""


def take_turns(sides: Mapping[str, Side], rounds: int = ROUNDS) -> dict[str, Latency]:
    """Seconds of each side: they take turns, one thread, no garbage collection meanwhile."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    with one_thread():
        for prepare, act in sides.values():
            act(prepare())  # warms up
        for turn in range(rounds):
            order = list(sides.items())
            for name, (prepare, act) in order if turn % 2 else reversed(order):
                given = prepare()
                gc.collect()
                gc.disable()
                start = perf_counter()
                act(given)
                times[name].append(perf_counter() - start)
                gc.enable()
    return {
        name: Latency(min(t), statistics.median(t), rounds, statistics.median(t) > NOISY * min(t))
        for name, t in times.items()
    }


def line(
    row: str,
    case: str,
    times: Mapping[str, Latency],
    ratio: tuple[str, str],
    target: tuple[float | None, float | None] | None,
    **more: Any,
) -> dict[str, Any]:
    """One JSON line: both sides, minimum and median, and the ratio of their minima.

    Args:
        row: name of the row.
        case: the net and its input.
        times: each side's seconds.
        ratio: (numerator, denominator), names of sides.
        target: region the ratio should lie in; None where the row only informs.
        more: further fields.
    """
    over, under = ratio
    return {
        "row": row,
        "case": case,
        "ms": {
            name: {"min": round(1000 * t.minimum, 4), "median": round(1000 * t.median, 4)}
            for name, t in times.items()
        },
        "ratio": round(times[over].minimum / times[under].minimum, 4),
        "ratio_of_medians": round(times[over].median / times[under].median, 4),
        "ratio_is": f"{over} ÷ {under}",
        "target": target,
        "noisy": any(times[side].noisy for side in ratio),
        "rounds": times[over].rounds,
        **more,
    }


def write(name: str, rows: list[dict[str, Any]]) -> None:
    """Write ``benchmarks/<name>.jsonl`` with commit, time, machine and versions on every line."""
    shared = {
        "commit": commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "threads": 1,
        **machine(),
    }
    text = "".join(json.dumps(row | shared) + "\n" for row in rows)
    files.write_atomic(FOLDER / f"{name}.jsonl", text)
    for row in rows:
        noisy = ", noisy" if row["noisy"] else ""
        print(f"{row['row']} · {row['case']}: {row['ratio_is']} = {row['ratio']:.3f}{noisy}")
