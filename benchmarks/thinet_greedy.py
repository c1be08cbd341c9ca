"""ThiNet's greedy algorithm at 256 channels: products of rows against running sums and the loop.

Writes ``benchmarks/thinet_greedy.jsonl``: one JSON line a row with both sides of each ratio. All
three choose the same channels; the time of the products includes making them.
"""

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from survey_lib import files
from survey_lib.evidence.records import commit, machine
from survey_lib.methods.thinet import method

CHANNELS, GIVEN_UP = 256, 128


def rows(m: int) -> np.ndarray:
    """Rows (m, 256) whose channels are correlated, as a net's are."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(m, CHANNELS)) @ (
        np.eye(CHANNELS) + 0.2 * rng.normal(size=(CHANNELS, CHANNELS))
    )


def literal(x: np.ndarray, n: int) -> list[int]:
    """Algorithm 1 as printed: every step sums each candidate set anew."""
    given_up: list[int] = []
    for _ in range(n):
        costs = {
            j: float((x[:, [*given_up, j]].sum(1) ** 2).sum())
            for j in range(x.shape[1])
            if j not in given_up
        }
        given_up.append(min(costs, key=costs.__getitem__))
    return given_up


def products(x: np.ndarray, n: int) -> list[int]:
    """The library's form, the products included."""
    return method.greedy(x.T @ x, n)


def seconds(choose: Callable[[np.ndarray, int], list[int]], x: np.ndarray, turns: int) -> tuple:
    """Median time of ``turns`` calls, and the choice."""
    times, chosen = [], []
    for _ in range(turns):
        start = perf_counter()
        chosen = choose(x, GIVEN_UP)
        times.append(perf_counter() - start)
    return median(times), chosen


def measure() -> list[dict]:
    """Each form against the products, on the same rows."""
    found = []
    for m, other, label, turns in (
        (4_000, method.greedy_running_sum, "running sums", 7),
        (100_000, method.greedy_running_sum, "running sums", 3),
        (1_000, literal, "literal loop", 1),
    ):
        x = rows(m)
        slow, as_slow = seconds(other, x, turns)
        fast, as_fast = seconds(products, x, 15)
        found.append(
            {
                "row": f"ThiNet greedy, {CHANNELS} channels, {m} rows, against the {label}",
                "slow_ms": round(1000 * slow, 3),
                "this_ms": round(1000 * fast, 3),
                "speed_up": round(slow / fast, 1),
                "same_choice": as_slow == as_fast,
                "channels": CHANNELS,
                "given_up": GIVEN_UP,
                "rows": m,
                "rounds": turns,
                "threads": 1,
            }
        )
    return found


def main() -> None:
    # numpy reads its number of threads when it is imported: a fresh process, then
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = pool.submit(measure).result()
    shared = {"commit": commit(), "made": datetime.now(UTC).isoformat(timespec="seconds")}
    text = "".join(json.dumps(r | shared | machine()) + "\n" for r in found)
    files.write_atomic(Path(__file__).parent / "thinet_greedy.jsonl", text)
    print(text, end="")


if __name__ == "__main__":
    main()
