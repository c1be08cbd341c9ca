"""Dense nets that travel with the records.

A net that is trained by one recipe on two processors differs: sums differ in their last bits, and
training carries that on. Where a study is run in pieces, on whatever machine there is, the nets of
its replicates are kept in ``results/dense`` and lent to the cache before any cell is run, so that
all pieces start from the same ones.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from survey_lib import files
from survey_lib.tasks.dense import dense_key, dense_net
from survey_lib.tasks.task import Task


def kept_dir() -> Path:
    """Folder of the nets that are kept."""
    return files.results_dir() / "dense"


def name_of(task: Task, seed: int) -> str:
    """File name of a dense net, the same as in the cache; it holds the key of all it depends on."""
    return f"{task.model}-{seed}-{dense_key(task, seed)}.safetensors"


def lend() -> list[Path]:
    """Put the kept nets into the cache, where it has none of that name.

    A net whose code, data or torch is another today is never looked for, since its name has the
    key; it does no harm there.

    Returns:
        The files that are new in the cache; none where it cannot be written, for a run of replicate
        0 alone needs no cache.
    """
    own = files.cache_dir() / "dense"
    missing = [p for p in sorted(kept_dir().glob("*.safetensors")) if not (own / p.name).exists()]
    lent = []
    with contextlib.suppress(OSError):
        for path in missing:
            files.write_atomic(own / path.name, path.read_bytes())
            lent.append(own / path.name)
    return lent


def keep(task: Task, seeds: Iterable[int]) -> list[Path]:
    """Keep dense nets with the records; those that the cache has not are trained now.

    Nets of the same seed that were kept before and have another key are removed.

    Raises:
        ValueError: seed 0, which the package ships.
    """
    kept = []
    for seed in seeds:
        if seed == 0:
            raise ValueError("dense net 0 is shipped with the package; keep those of other seeds")
        dense_net(task, seed)
        name = name_of(task, seed)
        for old in kept_dir().glob(f"{task.model}-{seed}-*.safetensors"):
            if old.name != name:
                old.unlink()
        files.write_atomic(kept_dir() / name, (files.cache_dir() / "dense" / name).read_bytes())
        kept.append(kept_dir() / name)
    return kept
