r"""Make the embedded data files from their sources (run once; the result is committed).

Fashion-MNIST comes from the IDX files of Debian's package ``dataset-fashion-mnist`` or of
torchvision's download; the Shakespeare text is the public-domain ``input.txt`` of
``karpathy/char-rnn``; WikiText-2's is the tokenised test part (``wiki.test.tokens``)::

    python -m survey_lib.tasks.make_data --fashion /usr/share/datasets/fashion-mnist \\
        --shakespeare input.txt --wikitext wiki.test.tokens
"""

import argparse
import gzip
import io
from pathlib import Path

import numpy as np

from survey_lib import files
from survey_lib.tasks.data import FOLDER

TRAIN_PER_CLASS, VAL_PER_CLASS, SEED = 1000, 200, 20171025


def read_idx(path: Path) -> np.ndarray:
    """An IDX file (LeCun's format, unsigned bytes), gzipped or not, as an array."""
    data = path.read_bytes()
    data = gzip.decompress(data) if path.suffix == ".gz" else data
    dims = data[3]
    shape = tuple(int.from_bytes(data[4 + 4 * i : 8 + 4 * i], "big") for i in range(dims))
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape)


def find(folder: Path, stem: str) -> Path:
    """The IDX file of that stem in a folder, whatever its ending and punctuation."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name.replace(".", "-").startswith(stem):
            return path
    raise SystemExit(f"{folder}: no file {stem}*; pass the folder that holds the four IDX files")


def fashion(folder: Path) -> bytes:
    """The embedded split as the bytes of one compressed npz: stratified, order drawn once."""
    x, y = (read_idx(find(folder, f"train-{kind}")) for kind in ("images-idx3", "labels-idx1"))
    rng = np.random.default_rng(SEED)
    train, val = [], []
    for label in range(10):
        rows = rng.permutation(np.flatnonzero(y == label))
        train.append(rows[:TRAIN_PER_CLASS])
        val.append(rows[TRAIN_PER_CLASS : TRAIN_PER_CLASS + VAL_PER_CLASS])
    arrays = {}
    for name, rows in (("train", np.concatenate(train)), ("val", np.concatenate(val))):
        rows = rng.permutation(rows)
        arrays |= {f"{name}_x": x[rows], f"{name}_y": y[rows]}
    for kind, key in (("images-idx3", "test_x"), ("labels-idx1", "test_y")):
        arrays[key] = read_idx(find(folder, f"t10k-{kind}"))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def main() -> None:
    """Write the files asked for and print their hashes (to be put into data.py)."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--shakespeare", type=Path)
    parser.add_argument("--wikitext", type=Path)
    given = parser.parse_args()
    made = {}
    if given.fashion:
        made["fashion_mnist.npz"] = fashion(given.fashion)
    texts = {"shakespeare.txt.gz": given.shakespeare, "wikitext2_test.txt.gz": given.wikitext}
    for name, path in texts.items():
        if path:
            made[name] = gzip.compress(path.read_bytes(), 9, mtime=0)
    for name, data in made.items():
        files.write_atomic(FOLDER / name, data)
        print(f'"{name}": "{files.sha256(data)}",  # {len(data):,} bytes')


if __name__ == "__main__":
    main()
