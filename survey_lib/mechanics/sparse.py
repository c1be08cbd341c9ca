"""Sparse storage: what a pruned tensor costs in bytes, and files that really cost that.

Values are float32. The three encodings of Zhu & Gupta (2017, section on storage):

- dense: 4 N
- bit mask: 4 NNZ + ceil(N / 8), one bit per element whatever the sparsity
- CSR: 4 NNZ values + 4 NNZ column indices (int32) + 4 (rows + 1) row pointers
"""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from survey_lib import files
from survey_lib.tasks.states import distinct, fill

VALUE = 4  # bytes of a float32


class StorageError(RuntimeError):
    """A file of a compressed net that cannot be read, or that belongs to another net."""


def bytes_dense(tensor: Tensor) -> int:
    """4 N bytes."""
    return VALUE * tensor.numel()


def bytes_bitmask(tensor: Tensor) -> int:
    """4 NNZ + ceil(N / 8) bytes."""
    return VALUE * int(tensor.count_nonzero()) + -(-tensor.numel() // 8)


def bytes_csr(tensor: Tensor) -> int:
    """CSR of the tensor as a matrix (first dimension × the rest), int32 indices."""
    nnz = int(tensor.count_nonzero())
    return VALUE * nnz + 4 * nnz + 4 * (tensor.shape[0] + 1)


def bytes_csr_gap(tensor: Tensor, bits: int = 4) -> int:
    """CSR(C): each non-zero stores its distance to the one before in ``bits`` bits.

    A gap of more than 2^bits − 1 elements costs a padding zero (value and index) every 2^bits − 1
    elements; row pointers are int32. The index bits are packed.
    """
    longest = 2**bits - 1
    entries = 0
    for row in tensor.detach().flatten(1).cpu().numpy():
        columns = np.flatnonzero(row)
        gaps = np.diff(columns, prepend=-1)  # 1 for neighbours
        entries += len(columns) + int(((gaps - 1) // longest).sum())
    return VALUE * entries + -(-entries * bits // 8) + 4 * (tensor.shape[0] + 1)


ENCODINGS = {"dense": bytes_dense, "bitmask": bytes_bitmask, "csr": bytes_csr}


def model_bytes(model: nn.Module, encoding: str = "dense") -> int:
    """Bytes of all floating-point tensors of a net, running statistics included.

    Matrices and kernels are encoded where that is smaller than dense, as a writer would; a tensor
    that layers share counts once.

    Raises:
        ValueError: an encoding that isn't ``dense``, ``bitmask`` or ``csr``.
    """
    if encoding not in ENCODINGS:
        raise ValueError(f"no encoding {encoding!r}; use one of {', '.join(ENCODINGS)}")
    encode = ENCODINGS[encoding]
    return sum(
        min(bytes_dense(t), encode(t)) if t.ndim > 1 else bytes_dense(t)
        for t in distinct(model)[0].values()
        if t.is_floating_point()
    )


def save_sparse(model: nn.Module, path: Path) -> int:
    """Write a net with its zero entries left out (bit masks); returns the tensors' bytes.

    Tensors for which a mask would cost more are stored dense; one that layers share is stored
    once. The file is safetensors.
    """
    tensors: dict[str, Tensor] = {}
    shapes: dict[str, list[int]] = {}
    whole, tied = distinct(model)
    for name, t in whole.items():
        if t.ndim > 1 and t.dtype == torch.float32 and bytes_bitmask(t) < bytes_dense(t):
            mask = t.flatten() != 0
            tensors[f"{name}|values"] = t.flatten()[mask]
            tensors[f"{name}|bits"] = torch.from_numpy(np.packbits(mask.numpy()))
            shapes[name] = list(t.shape)
        else:
            tensors[name] = t
    meta = {"format": "survey-bitmask-1", "shapes": json.dumps(shapes)}
    if tied:
        meta["tied"] = json.dumps(tied)
    files.write_atomic(path, save(tensors, metadata=meta))
    return sum(t.numel() * t.element_size() for t in tensors.values())


def load_sparse(model: nn.Module, path: Path) -> nn.Module:
    """Fill ``model`` (built by its constructor) from a file of :func:`save_sparse`.

    Raises:
        StorageError: the file is absent, damaged, or belongs to another net.
    """
    if not path.exists():
        raise StorageError(f"{path}: no such file")
    try:
        with safe_open(str(path), framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise StorageError(f"{path}: not a readable safetensors file ({error})") from None
    if meta.get("format") != "survey-bitmask-1":
        raise StorageError(f"{path}: not written by save_sparse")
    for name, shape in json.loads(meta["shapes"]).items():
        size = int(np.prod(shape))
        bits = tensors.pop(f"{name}|bits").numpy()
        mask = torch.from_numpy(np.unpackbits(bits, count=size)).bool()
        full = torch.zeros(size)
        full[mask] = tensors.pop(f"{name}|values")
        tensors[name] = full.view(shape)
    try:
        fill(model, tensors, json.loads(meta.get("tied", "{}")))
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise StorageError(f"{path}: belongs to another net: {reason}") from None
    return model
