"""What removal must equal: the dense net with channels set to zero wherever they are read."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Example = Tensor | tuple | dict
"""One input, a tuple of positional ones, or a dict of those given by keyword."""


def call(model: nn.Module, example: Example) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple) else model(example)


def tensors(found: Any) -> list[Tensor]:
    """All tensors in a net's output or input, in a fixed order."""
    if isinstance(found, Tensor):
        return [found]
    if isinstance(found, Mapping):
        found = [found[key] for key in sorted(found)]
    if isinstance(found, (list, tuple)):
        return [t for part in found for t in tensors(part)]
    return []


def scrambled(model: nn.Module, seed: int = 0) -> nn.Module:
    """The net itself, in float64 and eval mode, with no norm, scale, bias or statistic trivial.

    Every parameter and every buffer of real numbers is drawn anew; variances are positive.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(t: Tensor) -> Tensor:
        return torch.randn(t.shape, generator=generator, dtype=torch.float64)

    model.double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim < 2:  # biases, and norms' and other scales
                centre = 0.0 if name.endswith("bias") else 1.0
                p.copy_(centre + 0.3 * normal(p))
            else:
                p.copy_(normal(p) / max(1, p[0].numel()) ** 0.5)
        for name, b in model.named_buffers():
            if b.is_floating_point():
                mean = name.endswith(("mean", "bias"))
                b.copy_(0.3 * normal(b) if mean else 0.5 + normal(b).square())
    return model


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """A float64 copy in eval mode in which no norm, scale or bias is trivial."""
    return scrambled(copy.deepcopy(model), seed)


def random_recipe(graph, seed: int) -> dict[str, list[int]]:
    """A recipe that keeps a random, non-empty part of each group."""
    draw = np.random.default_rng(seed)
    return {
        g.name: sorted(draw.choice(g.size, draw.integers(1, g.size + 1), replace=False).tolist())
        for g in graph.prunable
    }


class UnmetReader(AssertionError):
    """A weight that is said to read channels, and that no reading function was called with."""


class Zeroing(TorchFunctionMode):
    """Multiplies positions by 0 at the input of whatever reads them.

    A reader is known by its weight, the very tensor, whoever calls the function. Where a
    function takes many weights at once (attention, recurrent layers) or the weight is a plain
    factor, its columns are set to zero instead of the input's positions, which is the same.
    """

    CONVOLUTION = frozenset({"conv1d", "conv2d", "conv3d"})
    TRANSPOSED = frozenset({"conv_transpose1d", "conv_transpose2d", "conv_transpose3d"})
    FACTOR = frozenset({
        "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "einsum",
        "bilinear", "multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu",
    })  # fmt: skip

    def __init__(
        self, gone: Mapping[int, tuple[Tensor, int, Iterable[int]]], *, of_weight: bool = True
    ):
        """Which positions of which weights' inputs.

        Args:
            gone: id of a weight → the weight, its axis that reads, positions on that axis.
            of_weight: positions in a convolution of groups count along its weight, which is as
                long as one group, and mean the same place of every group; else along its input.
        """
        super().__init__()
        self.of_weight = of_weight
        self.gone = {i: (w, axis, sorted(set(at))) for i, (w, axis, at) in gone.items()}
        self.met: set[int] = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name == "linear" or name in self.CONVOLUTION or name in self.TRANSPOSED:
            args, kwargs = self._silence(name, args, kwargs)
        elif name in self.FACTOR:
            args, kwargs = self._cut(args), self._cut(kwargs)
        return func(*args, **kwargs)

    def _silence(self, name: str, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        given = dict(zip(("input", "weight"), args, strict=False)) | kwargs
        x, weight = given["input"], given["weight"]
        if id(weight) not in self.gone:
            return args, kwargs
        self.met.add(id(weight))
        _, axis, at = self.gone[id(weight)]
        if axis != (0 if name in self.TRANSPOSED else 1):
            raise UnmetReader(f"{name} does not read axis {axis} of its weight")
        space = 0 if name == "linear" else weight.ndim - 2
        channels = x.ndim - 1 - space
        if self.of_weight and name in self.CONVOLUTION:
            per = weight.shape[1]
            at = [g * per + p for g in range(x.shape[channels] // per) for p in at]
        factor = torch.ones(x.shape[channels], dtype=x.dtype, device=x.device)
        factor[at] = 0
        x = x * factor.view([-1 if d == channels else 1 for d in range(x.ndim)])
        if args:
            return (x, *args[1:]), kwargs
        return args, {**kwargs, "input": x}

    def _cut(self, given: Any) -> Any:
        if isinstance(given, Tensor):
            if id(given) not in self.gone:
                return given
            self.met.add(id(given))
            _, axis, at = self.gone[id(given)]
            return given.detach().index_fill(axis, torch.tensor(at, device=given.device), 0)
        if isinstance(given, dict):
            return {key: self._cut(value) for key, value in given.items()}
        if isinstance(given, (tuple, list)):
            return type(given)(self._cut(part) for part in given)
        return given


def read_positions(model: nn.Module, graph, recipe) -> dict[int, tuple[Tensor, int, set[int]]]:
    """For each weight that reads removed units: itself, its axis and the positions gone."""
    found: dict[int, tuple[Tensor, int, set[int]]] = {}
    for group in graph.prunable:
        gone = sorted(set(range(group.size)) - set(recipe.get(group.name, range(group.size))))
        for reader in group.consumers if gone else ():
            weight = getattr(model.get_submodule(reader.module), reader.tensor)
            at = {int(p) for unit in gone for p in reader.positions[unit]}
            _, axis, known = found.setdefault(id(weight), (weight, reader.axis, set()))
            if axis != reader.axis:
                raise UnmetReader(f"{reader.module}.{reader.tensor} reads on two axes")
            known |= at
    return found


@torch.no_grad()
def zeroed(model: nn.Module, graph, recipe, example: Example) -> Any:
    """Output of the dense net, removed channels multiplied by 0 at the input of each reader.

    Raises:
        UnmetReader: a weight of the graph's readers that the net never reads with.
    """
    mode = Zeroing(read_positions(model, graph, recipe))
    with mode:
        output = call(model, example)
    names = {id(p): name for name, p in model.named_parameters(remove_duplicate=False)}
    unmet = [names.get(i, "a tensor") for i in mode.gone if i not in mode.met]
    if unmet:
        raise UnmetReader(f"the forward pass never reads with {', '.join(unmet)}")
    return output


def zeroed_output(model: nn.Module, graph, recipe, x: Example) -> Tensor:
    """The first tensor of :func:`zeroed`: the logits."""
    return tensors(zeroed(model, graph, recipe, x))[0]


@torch.no_grad()
def removal_error(model: nn.Module, graph, recipe, x: Tensor) -> tuple[float, float, nn.Module]:
    """(distance of the small net from the zeroed one, distance from the dense one, small net)."""
    from survey_lib.mechanics.surgery import apply_recipe

    small = apply_recipe(model, graph, recipe)
    out = tensors(small(x))[0]
    off = (out - zeroed_output(model, graph, recipe, x)).abs().max().item()
    return off, (out - tensors(model(x))[0]).abs().max().item(), small


def silenced_output(model: nn.Module, graph, recipe, x: Tensor) -> Tensor:
    """Output of the net whose removed units have zero weights and biases where they are made."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for group in graph.prunable:
            gone = sorted(set(range(group.size)) - set(recipe.get(group.name, range(group.size))))
            for s in group.slices:
                module = model.get_submodule(s.module)
                conv = isinstance(module, (nn.Conv2d, nn.Linear))
                if s.role != "in" and conv:
                    at = torch.tensor([int(p) for u in gone for p in s.positions[u]], dtype=int)
                    getattr(module, s.tensor).index_fill_(s.axis, at, 0)
        return model(x)
