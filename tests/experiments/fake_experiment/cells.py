"""An experiment whose cells do what their arm says; workers import it by name."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

DATA = ("fashion_mnist.npz",)


@dataclass(frozen=True)
class Cell:
    arm: str
    seed: int
    folder: str


def run(context):
    cell = context.cell
    folder = Path(cell.folder)
    with (folder / "runs.txt").open("a") as file:
        file.write(f"{cell.arm} {cell.seed}\n")
    if cell.arm == "raise":
        raise ValueError("this cell always fails")
    if cell.arm == "nan":
        return {"value": float("nan")}
    if cell.arm == "slow":
        time.sleep(0.4)
    first_time = not (folder / f"died-{cell.seed}").exists()
    if cell.arm == "die" or (cell.arm == "die_once" and first_time):
        (folder / f"died-{cell.seed}").touch()
        time.sleep(0.3)  # let the neighbours start, so that they are orphaned too
        os.kill(os.getpid(), signal.SIGKILL)
    return {"value": cell.seed * 1.0}


ARMS = dict.fromkeys(("ok", "slow", "raise", "nan", "die", "die_once"), run)
