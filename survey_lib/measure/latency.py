"""Latency, honestly: interleaved, on one thread, with a gate against noise.

A shared machine changes speed by the second. So the contestants take turns within each round and
only their ratios are believed; one that spreads too much is marked noisy.
"""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Latency:
    """Seconds of one forward pass over the whole batch."""

    minimum: float
    median: float
    rounds: int
    noisy: bool
    """True when median exceeds minimum by more than a quarter."""


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
    models: Mapping[str, nn.Module], example: Tensor, *, rounds: int = 15, inner: float = 0.02
) -> dict[str, Latency]:
    """Time models against each other on the same batch.

    Args:
        models: contestants by name, put into eval mode meanwhile.
        example: the batch.
        rounds: turns each takes, at least 15.
        inner: seconds that one turn lasts at least, by repeating the pass.

    Raises:
        ValueError: fewer than 15 rounds.
    """
    if rounds < 15:
        raise ValueError(f"latency: {rounds} rounds say nothing; take at least 15")
    if example.ndim == 4:
        example = example.contiguous(memory_format=torch.channels_last)
    modes = {name: model.training for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with one_thread():
        repeats = {}
        for name, model in models.items():
            model.eval()
            model(example)
            start = perf_counter()
            model(example)
            repeats[name] = max(1, round(inner / max(1e-7, perf_counter() - start)))
        for turn in range(rounds):
            order = list(models.items())
            for name, model in order if turn % 2 else reversed(order):
                start = perf_counter()
                for _ in range(repeats[name]):
                    model(example)
                times[name].append((perf_counter() - start) / repeats[name])
    for name, model in models.items():
        model.train(modes[name])
    return {name: _summary(t) for name, t in times.items()}


def _summary(times: list[float]) -> Latency:
    low, middle = min(times), statistics.median(times)
    return Latency(low, middle, len(times), middle > 1.25 * low)
