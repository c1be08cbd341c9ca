"""Parents leave a text that their children read."""

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

DATA = ()
INEXACT = ("seconds",)


@dataclass(frozen=True)
class Cell:
    arm: str
    seed: int
    folder: str
    of: int = 0


def needs(cell):
    if cell.arm == "child":
        return (Cell("parent", cell.of, cell.folder),)
    if cell.arm == "grandchild":
        return (Cell("child", cell.of, cell.folder, cell.of),)
    return (cell,) if cell.arm == "circle" else ()


def parent(context):
    cell = _note(context)
    died = Path(cell.folder) / "died"
    if cell.seed == 8 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)  # long enough that a second worker would make it too
    text = str(context.generator().initial_seed())
    context.keep("word.txt").write_text(text)
    if cell.seed == 9:
        raise ValueError("failed after keeping")
    return {"wrote": int(text), "seconds": time.time()}


def child(context):
    cell = _note(context)
    text = context.kept(Cell("parent", cell.of, cell.folder), "word.txt").read_text()
    context.keep("word.txt").write_text(text)
    return {"read": int(text), "nested": {"list": [cell.seed, {"deep": 0.1 * cell.of}]}}


def grandchild(context):
    cell = _note(context)
    older = replace(cell, arm="child", seed=cell.of)
    return {"read": int(context.kept(older, "word.txt").read_text())}


def liar(context):
    cell = context.cell
    return {"read": context.kept(Cell("parent", cell.of, cell.folder), "word.txt").read_text()}


def _note(context):
    cell = context.cell
    with (Path(cell.folder) / "runs.txt").open("a") as file:
        file.write(f"{cell.arm} {cell.seed}\n")
    return cell


ARMS = {"parent": parent, "child": child, "grandchild": grandchild, "liar": liar}
