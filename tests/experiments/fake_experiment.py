"""An experiment whose cells do what their ``kind`` says; workers import it by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

DATA = ("fashion_mnist.npz",)


@dataclass(frozen=True)
class Cell:
    kind: str
    seed: int
    folder: str


CELLS: list[Cell] = []


def grid(profile):
    return CELLS if profile == "quick" else []


def run(cell):
    folder = Path(cell.folder)
    with (folder / "runs.txt").open("a") as file:
        file.write(f"{cell.kind} {cell.seed}\n")
    if cell.kind == "raise":
        raise ValueError("this cell always fails")
    if cell.kind == "nan":
        return {"value": float("nan")}
    if cell.kind == "slow":
        time.sleep(0.4)
    first_time = not (folder / f"died-{cell.seed}").exists()
    if cell.kind == "die" or (cell.kind == "die_once" and first_time):
        (folder / f"died-{cell.seed}").touch()
        time.sleep(0.3)  # let the neighbours start, so that they are orphaned too
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": cell.seed * 1.0}


STATISTICS = {"value": lambda rows: rows[0].numbers["value"]}
