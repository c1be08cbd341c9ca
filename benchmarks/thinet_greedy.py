"""ThiNet's greedy algorithm at 256 channels: products of rows against running sums and the loop.

All three choose the same channels; the time of the products includes making them.
"""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from benchmarks.common import line, take_turns, write
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


def measure() -> list[dict]:
    """Each form against the products, on the same rows."""
    found = []
    for m, other, label in (
        (4_000, method.greedy_running_sum, "running sums"),
        (20_000, method.greedy_running_sum, "running sums"),
        (250, literal, "literal loop"),
    ):
        x = rows(m)
        if other(x, GIVEN_UP) != products(x, GIVEN_UP):
            raise RuntimeError(f"ThiNet greedy: the {label} choose other channels")
        sides = {
            "products": (lambda: None, lambda _, x=x: products(x, GIVEN_UP)),
            label: (lambda: None, lambda _, x=x, act=other: act(x, GIVEN_UP)),
        }
        case = f"{CHANNELS} channels, {GIVEN_UP} given up, {m} rows"
        found.append(
            line("ThiNet greedy", case, take_turns(sides), (label, "products"), (20.0, None))
        )
    return found


def main() -> None:
    # numpy reads its number of threads when it is imported: a fresh process, then
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        write("thinet_greedy", pool.submit(measure).result())


if __name__ == "__main__":
    main()
