"""All rows, one after the other: ``make bench``."""

from time import perf_counter

from benchmarks import (
    discovery,
    fisher,
    int8_linear,
    latency,
    macs,
    relevance,
    removal,
    thinet_greedy,
)


def main() -> None:
    for script in (
        discovery,
        removal,
        fisher,
        relevance,
        macs,
        thinet_greedy,
        int8_linear,
        latency,
    ):
        start = perf_counter()
        script.main()
        print(f"  {script.__name__}: {perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
