"""One build at a time in a tree, and nothing running that a killed one left."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from survey_lib import files
from survey_lib.publish.layout import PublishError

MARK = "SURVEY_OF_BUILD"
"""Variable of the environment of all that a build starts; it holds the build's folder."""


def marked() -> dict[str, str]:
    """What a build adds to the environment of its kernels, so that they are known as its own."""
    return {MARK: str(files.build_dir())}


@contextlib.contextmanager
def only_build() -> Iterator[None]:
    """Hold the tree's lock, after what a killed build left running has been ended.

    The system takes the lock from a process that ends, however it ends.

    Raises:
        PublishError: another build holds the lock; says which process, and since when.
    """
    path = files.build_dir() / "build.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        if not _locked(file.fileno()):
            raise PublishError(
                f"another build of this tree is running ({_holder(path)}); wait for it, or end it"
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} since {time.strftime('%H:%M:%S')}")
        file.flush()
        end_leftovers()
        try:
            yield
        finally:
            file.truncate(0)


def _locked(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # not on Windows, where two builds have to be kept apart by hand
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() or "it has just begun"


def end_leftovers() -> list[int]:
    """End kernels, workers and renderers of builds of this tree that are no more.

    Call it with the lock held: then whatever bears the mark of this tree has lost its build.

    Returns:
        Numbers of the processes that were ended.
    """
    import psutil  # comes with ipykernel

    me = psutil.Process()
    own = {me.pid, *(parent.pid for parent in me.parents())}
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in own and process.environ().get(MARK) == str(files.build_dir()):
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=10)
    return [process.pid for process in found]
