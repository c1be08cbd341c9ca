"""The judge of exactness: is a net pruned exactly, refused in a sentence, or got wrong?

A net is judged in float64 and eval mode with every weight and statistic drawn anew. Several
recipes are applied; each small net must give what the dense net gives when the removed positions
are multiplied by 0 at the input of every function that reads them. Which functions read is told by
the weight they are called with (:class:`tests.oracles.channels.Zeroing`); nothing of the engine's
own checks is used. Beside the output: closed-form parameters and MACs equal those counted, a
second round works, and the net that was handed over is as it was.
"""

import copy
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from survey_lib.measure.macs import MacsError, count_macs
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph, GraphError
from survey_lib.mechanics.surgery import apply_recipe
from tests.oracles.channels import Example, UnmetReader, call, scrambled, tensors, zeroed

EXACT = "exact"
NOTHING = "nothing prunable"
REFUSED = "refused"
WRONG = "wrong"
TOLERANCE = 1e-10
"""Largest difference, relative to how far the output moved."""
OUTPUT = "output of the net"

# The engine's own proof is switched off while it is judged, so that a difference is seen.
_parameters = inspect.signature(apply_recipe).parameters
UNPROVEN = {name: False for name in ("check", "prove", "verify") if name in _parameters}

Recipe = dict[str, list[int]]
Hand = Callable[[nn.Module, Any, Mapping[str, list[int]]], Any]
"""(dense net, example, units kept by group) → the output that removal must give."""


@dataclass(frozen=True)
class Verdict:
    """What the judge found."""

    word: str
    """``exact``, ``nothing prunable``, ``refused`` or ``wrong``."""
    groups: int = 0
    units: int = 0
    """In the groups from which something can go."""
    error: float = 0.0
    """Largest over recipes, relative to how far the output moved."""
    moved: float = 0.0
    """How far the output moved at most, relative to its largest value."""
    reason: str = ""
    """The refusal's sentence, or what is wrong."""
    protected: dict[str, str] = field(default_factory=dict)
    """Why groups stay whole, the output apart."""
    uncounted: str = ""
    """Why MACs could not be counted; empty where they agree."""
    proof: bool = False
    """Refused by the engine's own proof, not by its rules."""

    def __str__(self) -> str:
        if self.word == EXACT:
            return f"exact: {self.groups} groups of {self.units} units, error {self.error:.1e}"
        return f"{self.word}: {self.reason}"


class Wrong(Exception):
    """Ends the judgement; the message says what is wrong."""


def converted(example: Any, dtype: torch.dtype) -> Any:
    """The same input in another type, integers as they are."""
    if isinstance(example, Tensor):
        return example.to(dtype) if example.is_floating_point() else example
    if isinstance(example, dict):
        return {key: converted(value, dtype) for key, value in example.items()}
    return tuple(converted(value, dtype) for value in example)


def digest(t: Tensor) -> str:
    raw = t.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.blake2b(raw.numpy().data, digest_size=16).hexdigest()


def contents(model: nn.Module) -> dict[str, Any]:
    """Every tensor of a net, plain attributes too: shape, type, digest, whether it is frozen."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for store in (module._parameters, module._buffers, vars(module)):
            for name, t in store.items():
                if isinstance(t, Tensor):
                    found[f"{path}.{name}"] = (tuple(t.shape), t.dtype, digest(t), t.requires_grad)
    return found


def fingerprint(model: nn.Module) -> dict[str, Any]:
    """Everything about a net that pruning must leave alone, and the random state."""
    found = contents(model)
    for path, module in model.named_modules(remove_duplicate=False):
        hooks = [len(v) for k, v in vars(module).items() if k.endswith("_hooks")]
        numbers = {k: v for k, v in vars(module).items() if isinstance(v, (int, str, float))}
        found[path] = (type(module), hooks, numbers)  # numbers hold the mode
    found["random state"] = digest(torch.random.get_rng_state())
    return found


def disturbed(model: nn.Module) -> None:
    """A net half in train mode and partly frozen, as users hand them over."""
    for i, module in enumerate(model.modules()):
        module.training = i % 3 != 1
    for i, p in enumerate(model.parameters()):
        p.requires_grad_(i % 4 != 2)


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def recipes(graph: ChannelGraph, seeds: int = 3) -> dict[str, Recipe]:
    """As few units left as may be, one as a rule; all but one; and random parts."""
    draw = np.random.default_rng(0)

    def some(count: Callable[[int], int]) -> Recipe:
        return {
            g.name: sorted(draw.choice(g.size, max(g.least, count(g.size)), replace=False).tolist())
            for g in graph.prunable
        }

    found = {"one unit left": some(lambda n: 1), "all but one": some(lambda n: n - 1)}
    for seed in range(seeds):
        found[f"random {seed}"] = some(lambda n: int(draw.integers(1, n + 1)))
    return found


def kept_in(graph: ChannelGraph, recipe: Recipe) -> np.ndarray:
    return np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups])


def distance(got: list[Tensor], want: list[Tensor]) -> float:
    """Largest difference; infinite where shapes differ."""
    if [t.shape for t in got] != [t.shape for t in want]:
        return float("inf")
    far = [(g.double() - w.double()).abs().max().item() for g, w in zip(got, want, strict=True)]
    return max(far, default=0.0)


@torch.no_grad()
def outputs(model: nn.Module, example: Example) -> list[Tensor]:
    return tensors(call(model, example))


class _Bound(nn.Module):
    """A net whose several inputs are fixed but for the first, for the counter."""

    def __init__(self, model: nn.Module, example: tuple | dict):
        super().__init__()
        self.model, self.example = model, example

    def forward(self, _first: Tensor) -> Any:
        return call(self.model, self.example)


def counted_macs(model: nn.Module, example: Example) -> int:
    """MACs per example, of any kind of example."""
    try:  # in float32, which is faster by far; frozen, as some operators have no gradient
        single = copy.deepcopy(model).float(), converted(example, torch.float32)
        single[0].requires_grad_(False)
        outputs(*single)
        model, example = single
    except RuntimeError:  # a net that insists on its type, or is not to be copied
        pass
    if isinstance(example, Tensor):
        return count_macs(model, example)
    return count_macs(_Bound(model, example), tensors(example)[0])


def judge(
    model: nn.Module,
    example: Example,
    *,
    by_hand: Hand | None = None,
    scramble: bool = True,
    seeds: int = 3,
    again: bool = True,
    **options: Any,
) -> Verdict:
    """Judge the engine on one net; the net itself is scrambled and used.

    Args:
        model: any net.
        example: an input, a tuple of them, or a dict of those given by keyword.
        by_hand: what removal must give, worked out without the engine's list of readers.
        scramble: draw weights and statistics anew; off for nets that come scrambled.
        seeds: random recipes beside the two fixed ones.
        again: also prune the small net.
        options: for ``trace_groups``, e.g. ``rules``.
    """
    if scramble:
        try:
            scrambled(model)
        except Exception:  # what cannot be drawn anew is the engine's to refuse
            model.double().eval()
    model.eval()
    example = converted(example, torch.float64)
    try:
        reference = outputs(model, example)
    except Exception:
        reference = None  # an example that the net does not take, or a net that cannot run
    disturbed(model)
    try:
        return _judged(model, example, reference, by_hand, seeds, again, options)
    except Wrong as wrong:
        return Verdict(WRONG, reason=str(wrong))


def _judged(
    model: nn.Module, example: Example, reference: list[Tensor] | None, by_hand: Hand | None,
    seeds: int, again: bool, options: dict[str, Any],
) -> Verdict:  # fmt: skip
    before = fingerprint(model)

    def untouched(who: str) -> None:
        after = fingerprint(model)
        changed = [key for key in before | after if before.get(key) != after.get(key)]
        if changed:
            raise Wrong(f"{who} changed the net: {', '.join(changed[:3])}")

    try:
        graph = trace_groups(model, example, **options)
    except GraphError as error:
        untouched("a refusal")
        if "\n" in str(error) or len(str(error)) > 1200:
            raise Wrong(f"a refusal that is not one sentence: {error}") from None
        return Verdict(REFUSED, reason=str(error))
    except Exception as error:
        raise Wrong(f"crash in trace_groups: {first_line(error)}") from error
    untouched("trace_groups")
    if reference is None:
        raise Wrong("traced, though the net does not run on the example")
    protected = {g.name: g.protected for g in graph.groups if g.protected}
    protected = {name: why for name, why in protected.items() if why != OUTPUT}
    free = graph.prunable
    units = sum(g.size for g in free)
    scale = max((t.abs().max().item() for t in reference), default=0.0)
    if not np.isfinite(scale) or scale == 0:
        raise AssertionError("the scrambled net says nothing finite: the judge cannot judge")
    full = {g.name: list(range(g.size)) for g in free}
    model.eval()
    miscounted, uncounted = _costs(graph, full, model, example)
    disturbed(model)
    if not free:
        if miscounted:
            raise Wrong(miscounted)
        return Verdict(NOTHING, reason="every group is protected", protected=protected)
    worst = most = 0.0
    for name, recipe in recipes(graph, seeds).items():
        try:
            small = apply_recipe(model, graph, recipe, **UNPROVEN)
        except Exception as error:
            raise Wrong(f"crash in apply_recipe ({name}): {first_line(error)}") from error
        untouched("apply_recipe")
        _same_settings(model, small)
        small.eval()
        model.eval()
        try:
            wants = {"the zeroed net": tensors(zeroed(model, graph, recipe, example))}
            if by_hand is not None:
                with torch.no_grad():
                    wants["what is worked out by hand"] = tensors(by_hand(model, example, recipe))
        except UnmetReader as error:
            raise Wrong(str(error)) from None
        disturbed(model)
        try:
            got = outputs(small, example)
        except Exception as error:
            sentence = _proof(model, graph, recipe)
            if sentence:
                return Verdict(REFUSED, len(free), units, reason=sentence, proof=True)
            raise Wrong(f"the pruned net crashes ({name}): {first_line(error)}") from None
        moved = distance(got, reference)
        for against, want in wants.items():
            error = distance(got, want) / max(moved, 1e-6 * scale)
            if not error < TOLERANCE:
                sentence = _proof(model, graph, recipe)
                if sentence:
                    return Verdict(REFUSED, len(free), units, error, reason=sentence, proof=True)
                raise Wrong(f"silent difference of {error:.2g} from {against} ({name})")
            worst = max(worst, error)
        most = max(most, moved / scale)
        wrong, unknown = _costs(graph, recipe, small, example)
        miscounted, uncounted = miscounted or wrong, uncounted or unknown
    gone = any(len(kept) < graph[g].size for g, kept in recipe.items())
    if gone and not most > 1e-9:
        raise Wrong("nothing that was removed mattered to the output")
    if miscounted:
        raise Wrong(miscounted)
    if again:
        _second_round(small, example, got, options)
        _trained_on(model, small, example)
    sentence = _proof(model, graph, recipe)
    if sentence:
        raise Wrong(f"exact, yet its own proof refuses it: {sentence}")
    untouched("the proof")
    return Verdict(EXACT, len(free), units, worst, most, protected=protected, uncounted=uncounted)


def _same_settings(model: nn.Module, small: nn.Module) -> None:
    """Modes and frozen weights of the small net are those of the dense one."""
    modes = {path: m.training for path, m in model.named_modules()}
    frozen = {name: p.requires_grad for name, p in model.named_parameters()}
    if modes != {path: m.training for path, m in small.named_modules()}:
        raise Wrong("the small net has other modes than the dense one")
    if frozen != {name: p.requires_grad for name, p in small.named_parameters()}:
        raise Wrong("the small net has other parameters, or others are frozen")


def _proof(model: nn.Module, graph: ChannelGraph, recipe: Recipe) -> str:
    """The sentence with which ``apply_recipe`` as users call it refuses; empty if it doesn't."""
    try:
        apply_recipe(model, graph, recipe)
    except Exception as error:
        if type(error).__module__.startswith("survey_lib") and "\n" not in str(error):
            return str(error)
        raise Wrong(f"crash in apply_recipe's own proof: {first_line(error)}") from error
    return ""


def _costs(
    graph: ChannelGraph, recipe: Recipe, small: nn.Module, example: Example
) -> tuple[str, str]:
    """Closed forms against counts: (what is wrong, why MACs could not be counted)."""
    kept = kept_in(graph, recipe)
    try:
        params, macs = Costs(graph, "params")(kept), Costs(graph, "macs")(kept)
    except Exception as error:
        return f"crash in Costs: {first_line(error)}", ""
    count = sum(p.numel() for p in small.parameters())
    if params != count:
        return f"parameters: {params} by the closed form, {count} counted", ""
    try:
        count = counted_macs(small, example)
    except MacsError as error:
        return "", str(error)
    return (f"MACs: {macs} by the closed form, {count} counted" if macs != count else ""), ""


def _second_round(
    small: nn.Module, example: Example, reference: list[Tensor], options: dict[str, Any]
) -> None:
    """A pruned net can be pruned again, as exactly."""
    try:
        graph = trace_groups(small, example, **options)
        recipe = list(recipes(graph, 1).values())[-1]
        smaller = apply_recipe(small, graph, recipe, **UNPROVEN).eval()
        got, want = outputs(smaller, example), tensors(zeroed(small, graph, recipe, example))
    except Exception as error:
        raise Wrong(f"second round: {first_line(error)}") from error
    scale = max(t.abs().max().item() for t in reference)
    error = distance(got, want) / max(distance(got, reference), 1e-6 * scale)
    if not error < TOLERANCE:
        raise Wrong(f"second round: silent difference of {error:.2g}")


def _trained_on(model: nn.Module, small: nn.Module, example: Example) -> None:
    """The pruned net can be trained, where the dense one can: some operators have no gradient."""
    small, dense = copy.deepcopy(small), copy.deepcopy(model).eval()
    why = _untrainable(small, example)
    if why and not _untrainable(dense, example):
        raise Wrong(f"the smaller net cannot be trained: {why}")
    for name, p in small.named_parameters():
        if p.grad is not None and p.grad.shape != p.shape:
            raise Wrong(f"the gradient of {name} has another shape")


def _untrainable(net: nn.Module, example: Example) -> str:
    """Why no gradient can be had; empty where it can."""
    net.requires_grad_(True)
    try:
        sum(t.square().sum() for t in tensors(call(net, example))).backward()
    except Exception as error:
        return first_line(error)
    return ""
