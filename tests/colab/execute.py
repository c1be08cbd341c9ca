"""Runs under the Colab-like interpreter: execute a notebook with nbclient, write it back."""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

path = Path(sys.argv[1])
notebook = nbformat.read(path, as_version=4)
start = time.monotonic()


def tell(cell, cell_index):
    """Say which cell starts, so that a stop shows where it was."""
    print(
        f"{time.monotonic() - start:6.1f} s: cell {cell_index + 1} {cell.get('id', '')}", flush=True
    )


client = NotebookClient(
    notebook,
    kernel_name="python3",
    timeout=int(sys.argv[2]),
    on_cell_start=tell,
    resources={"metadata": {"path": str(path.parent)}},
)
try:
    try:
        client.execute()
    except RuntimeError as why:  # another program took the port that was found for the kernel
        if "died before replying to kernel_info" not in str(why):
            raise
        client.execute()
finally:
    nbformat.write(notebook, path)
print(f"{time.monotonic() - start:.1f} s")
