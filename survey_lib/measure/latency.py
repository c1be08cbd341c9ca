"""Latency, honestly: interleaved, on one thread, with a gate against noise.

A shared machine changes speed by the second. So the contestants take turns within each round and
only their ratios are believed; rounds that spread too much are taken again, and what still
spreads is marked noisy.

On a processor a turn is timed by the clock of the one thread that works, which stands still while
others have the core: on an idle machine that is the time on the wall, on a busy one it is the time
the machine would need if it were idle. On a graphics card it is the time on the wall.
"""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from time import perf_counter, thread_time

import torch
from torch import Tensor, nn

from survey_lib.tasks.modes import evaluating

TRIES = 3
"""How often a set of rounds is taken at most, when it was noisy."""


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass over the whole batch, in the quietest set of rounds."""

    minimum: float
    median: float
    rounds: int
    noisy: bool
    """True when median exceeds minimum by more than a quarter, in every set that was taken."""
    tries: int = 1
    """Sets of rounds taken; more than one where the first was noisy."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, the former number restored after."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def compare_latency(
    models: Mapping[str, nn.Module],
    example: Tensor,
    *,
    rounds: int = 15,
    inner: float = 0.02,
    tries: int = TRIES,
) -> dict[str, Latency]:
    """Time models against each other on the same batch.

    A set of rounds in which any contestant is noisy is taken again, for all of them; the quietest
    set counts.

    Args:
        models: contestants by name, put into eval mode meanwhile.
        example: the batch; images are laid out channels last.
        rounds: turns each takes in a set, at least 15.
        inner: seconds that one turn lasts at least, by repeating the pass.
        tries: sets of rounds at most.

    Raises:
        ValueError: fewer than 15 rounds.
    """
    if rounds < 15:
        raise ValueError(f"latency: {rounds} rounds say nothing; take at least 15")
    if example.ndim == 4:
        example = example.contiguous(memory_format=torch.channels_last)
    best: dict[str, Latency] = {}
    taken = 0
    with one_thread(), ExitStack() as stack:
        for model in models.values():
            stack.enter_context(evaluating(model))
        repeats = {}
        for name, model in models.items():
            _pass(model, example, 1)  # warms up
            repeats[name] = max(1, round(inner / max(1e-7, _pass(model, example, 1))))
        while taken < max(1, tries):
            taken += 1
            times: dict[str, list[float]] = {name: [] for name in models}
            for turn in range(rounds):
                order = list(models.items())
                for name, model in order if turn % 2 else reversed(order):
                    times[name].append(_pass(model, example, repeats[name]))
            found = {name: _summary(t) for name, t in times.items()}
            if not best or _spread(found) < _spread(best):
                best = found
            if not any(result.noisy for result in best.values()):
                break
    return {name: replace(result, tries=taken) for name, result in best.items()}


def _pass(model: nn.Module, example: Tensor, repeats: int) -> float:
    """Seconds of one forward pass, the mean of ``repeats``."""
    clock = perf_counter if example.is_cuda else thread_time
    _wait(example)
    start = clock()
    for _ in range(repeats):
        model(example)
    _wait(example)
    return (clock() - start) / repeats


def _wait(example: Tensor) -> None:
    if example.is_cuda:
        torch.cuda.synchronize(example.device)


def _spread(found: Mapping[str, Latency]) -> float:
    return max((r.median / max(r.minimum, 1e-12) for r in found.values()), default=1.0)


def _summary(times: list[float]) -> Latency:
    low, middle = min(times), statistics.median(times)
    return Latency(low, middle, len(times), middle > 1.25 * low)
