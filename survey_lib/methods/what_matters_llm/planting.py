r"""Copies of neurons planted into a decoder without changing what it computes.

A neuron's row of :math:`W_{fc}` (and of the gate) is repeated; its column of :math:`W_{proj}` is
dealt out over the copies, :math:`1/c` each. The layer gets wider by the copies, the sum is what it
was. Neurons and copies put out the same, so their similarity is 1.

Not the paper's: it finds likeness in trained nets, it plants none.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from survey_lib.mechanics.decoder import decoder


@torch.no_grad()
def plant_copies(
    model: nn.Module, chosen: Sequence[Sequence[int]], copies: int
) -> tuple[nn.Module, list[list[list[int]]]]:
    """A wider net with the same function, and the sets of neurons that are alike.

    Args:
        model: ``char_gpt`` or a Hugging Face decoder with a gate/up/down MLP; left as it is.
        chosen: neurons of each layer, in order.
        copies: of each chosen neuron in all, itself counted.

    Returns:
        The net, and by layer the sets of neurons that are copies of each other.

    Raises:
        GraphError: the model is built otherwise.
        ValueError: fewer than one copy, another number of layers, a neuron twice, or none such.
    """
    net = copy.deepcopy(model)
    layers = decoder(net).layers
    if copies < 1 or len(chosen) != len(layers):
        raise ValueError(
            f"plant_copies: need copies ≥ 1 and neurons for each of {len(layers)} layers, "
            f"got {copies} and {len(chosen)}"
        )
    sets = []
    for layer, some in zip(layers, chosen, strict=True):
        down: Any = net.get_submodule(layer.mlp_out)
        n = down.in_features
        if len(set(some)) != len(some) or not all(0 <= i < n for i in some):
            raise ValueError(f"{layer.path}: need distinct neurons 0 … {n - 1}, got {list(some)}")
        extra = [i for i in some for _ in range(copies - 1)]
        at = torch.tensor([*range(n), *extra], dtype=torch.int64, device=down.weight.device)
        share = torch.ones(len(at), dtype=down.weight.dtype, device=down.weight.device)
        share[torch.isin(at, at.new_tensor(list(some)))] = 1 / copies
        for path in layer.mlp.readers:
            reader: Any = net.get_submodule(path)
            _wider(reader, "weight", reader.weight[at])
            if reader.bias is not None:
                _wider(reader, "bias", reader.bias[at])
            reader.out_features = len(at)
        _wider(down, "weight", down.weight[:, at] * share)
        down.in_features = len(at)
        mlp: Any = getattr(net.get_submodule(layer.path), "mlp", None)
        if mlp is not None:
            mlp.intermediate_size = len(at)  # Hugging Face's layers remember it
        step = copies - 1
        sets.append([[i, *range(n + k * step, n + (k + 1) * step)] for k, i in enumerate(some)])
    return net, sets


def _wider(module: nn.Module, name: str, value: Tensor) -> None:
    flag = getattr(module, name).requires_grad
    setattr(module, name, nn.Parameter(value.clone(), requires_grad=flag))
