"""Peak activation memory: what must be held at once, by liveness over the operators of a pass.

One forward pass is recorded where torch dispatches, so any net will do, attention and control
flow included. A *buffer* is a storage: views and in-place results share it. It lives from the
operator that makes it to the last one that reads any of its views. While an operator runs, its
inputs and outputs are both held. Weights are left out; the input of the net counts until it is
last read, its output to the end. What a kernel takes for itself meanwhile is not seen.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from survey_lib.tasks.modes import evaluating


def _buffer(tensor: Tensor) -> StorageWeakRef:
    # a weak reference lets the memory go, yet no later storage takes its address
    return StorageWeakRef(tensor.untyped_storage())


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


class _Recorder(TorchDispatchMode):
    """Notes for every buffer the first and the last operator that touches it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.weights = {_buffer(t) for t in (*model.parameters(), *model.buffers())}
        self.lives: dict[StorageWeakRef, tuple[int, int, int]] = {}  # first, last, bytes
        self.step = 0

    def touch(self, tree: Any) -> None:
        for tensor in _tensors(tree):
            buffer = _buffer(tensor)
            if buffer not in self.weights:
                first = self.lives.get(buffer, (self.step, 0, 0))[0]
                self.lives[buffer] = (first, self.step, tensor.untyped_storage().nbytes())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self.touch((args, kwargs, result))
        self.step += 1
        return result


def live_bytes(model: nn.Module, example: Tensor) -> list[int]:
    """Bytes held while each operator of a forward pass runs, in the order of the pass.

    Args:
        model: any net, run in eval mode without gradients; left as it is.
        example: the batch; the bytes are those of the whole batch.
    """
    x = example.clone()  # a slice would bring the storage of the whole along
    fused = torch.backends.mha.get_fastpath_enabled()
    try:
        # the fast path runs a whole attention block as one operator and would hide its buffers
        torch.backends.mha.set_fastpath_enabled(False)
        with evaluating(model), torch.no_grad(), _Recorder(model) as recorder:
            recorder.touch(x)
            output = model(x)
            recorder.step = max(0, recorder.step - 1)
            recorder.touch(output)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    held = [0] * (recorder.step + 1)
    for first, last, size in recorder.lives.values():
        for step in range(first, last + 1):
            held[step] += size
    return held


def peak_memory(model: nn.Module, example: Tensor) -> int:
    """Most bytes of activations held at once in a forward pass over the batch ``example``.

    Nets treat images alike, so it grows with the batch: for bytes per image give one image.
    """
    return max(live_bytes(model, example))
