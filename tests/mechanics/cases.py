"""Small nets as cases: what is made of each, and how that is checked."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from survey_lib.mechanics.graph import trace_groups
from tests.mechanics.judge import EXACT, NOTHING, REFUSED, Hand, converted, judge
from tests.oracles.channels import Example


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7))


ROWS = normal(4, 6)
TOKENS = normal(4, 5, 6)
IMAGES = normal(2, 3, 8, 8)


class Body(nn.Module):
    """A layer ``a``, whatever ``between`` does with its output, and a reader ``b``."""

    def __init__(self, between: Callable, a: nn.Module, b: nn.Module, **more: Any):
        super().__init__()
        self.a, self.b, self.between = a, b, between
        for name, value in more.items():
            if isinstance(value, nn.Parameter) or not isinstance(value, Tensor):
                setattr(self, name, value)
            else:
                self.register_buffer(name, value)

    def forward(self, x):
        return self.b(self.between(self, self.a(x)))


def rows(between: Callable, after: int = 8, **more: Any) -> Body:
    return Body(between, nn.Linear(6, 8), nn.Linear(after, 2), **more)


def maps(between: Callable, after: int = 8, **more: Any) -> Body:
    return Body(between, nn.Conv2d(3, 8, 1), nn.Conv2d(after, 2, 1), **more)


def silent(y: Tensor, kept: dict[str, list[int]], name: str = "a", axis: int = 1) -> Tensor:
    """``y`` with all but the kept channels set to zero."""
    units = kept.get(name, range(y.shape[axis]))
    mask = torch.zeros(y.shape[axis], dtype=y.dtype)
    mask[list(units)] = 1
    return y * mask.view([-1 if d == axis % y.ndim else 1 for d in range(y.ndim)])


def read_by_b(net: Body, x: Tensor, kept: dict[str, list[int]]) -> Tensor:
    """What removal in ``a`` must give: zero where ``b`` reads, everything else as it was."""
    y = net.between(net, net.a(x))
    return net.b(silent(y, kept, axis=-1 if isinstance(net.b, nn.Linear) else 1))


@dataclass
class Case:
    make: Callable[[], nn.Module]
    example: Example
    words: tuple[str, ...] = (EXACT,)
    protected: dict[str, str] = field(default_factory=dict)
    """Group → words of its reason."""
    free: tuple[str, ...] = ()
    """Groups from which something can go."""
    says: str = ""
    """Words of the refusal."""
    by_hand: Hand | None = None
    options: dict[str, Any] = field(default_factory=dict)
    """For ``trace_groups``."""


def whole(make: Callable[[], nn.Module], example: Example, why: str = "", **more: Any) -> Case:
    """Everything is protected, ``a`` for the reason given."""
    return Case(make, example, (NOTHING,), {"a": why}, **more)


def free(make: Callable[[], nn.Module], example: Example, **more: Any) -> Case:
    """Exact, and something can go from ``a``."""
    return Case(make, example, (EXACT,), free=("a",), **more)


def refused(make: Callable[[], nn.Module], example: Example, says: str) -> Case:
    return Case(make, example, (REFUSED,), says=says)


def check(case: Case) -> None:
    torch.manual_seed(0)
    model = case.make()
    found = judge(model, case.example, by_hand=case.by_hand, **case.options)
    assert found.word in case.words, str(found)
    assert not found.proof, f"found by the proof only, not by the rules: {found.reason}"
    if found.word == REFUSED:
        assert re.search(case.says, found.reason), found.reason
        return
    for name, why in case.protected.items():
        assert name in found.protected, f"{name} is free: {found}"
        assert re.search(why, found.protected[name]), found.protected[name]
    assert not set(case.free) & set(found.protected), found.protected
    graph = trace_groups(model, converted(case.example, torch.float64), **case.options)
    names = {g.name for g in graph.prunable}
    assert set(case.free) <= names, names


def table(cases: dict[str, Case]):
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())
