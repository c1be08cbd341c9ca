"""Exercises with a self-check: a wrong answer gets a hint, never a traceback."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from survey_lib.show.markup import LIVE_STYLE, escape


@dataclass(frozen=True)
class Check:
    """What the self-check says; shown by a notebook, asked for ``correct`` by a test."""

    correct: bool
    message: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        kind = "right" if self.correct else "wrong"
        sign, rest = self.message[0], self.message[1:]
        html = (
            f'{LIVE_STYLE}<p class="survey survey-check {kind}">'
            f'<span class="sign">{sign}</span>{escape(rest)}</p>'
        )
        return {"text/html": html, "text/plain": self.message}

    def __str__(self) -> str:
        return self.message


def check(
    answer: Any, *, expected: Any, tolerance: float = 0.0, hint: str = "", praise: str = "right"
) -> Check:
    """Compare a reader's answer with the expected one.

    Args:
        answer: a number, a word, a truth value, or a list, array or mapping of them; ``None`` or
            ``...`` means not answered yet.
        expected: the right answer, or a function that is given the answer and returns True.
        tolerance: largest absolute difference allowed between numbers.
        hint: what to think about after a wrong answer.
        praise: what to say after a right one.
    """
    if answer is None or answer is ...:
        return Check(False, "✗ no answer yet")
    try:
        correct = expected(answer) if callable(expected) else _same(answer, expected, tolerance)
    except Exception:  # whatever a reader types in must give a hint, not a traceback
        correct = False
    # bool() of an array answer would raise here, so only a plain True counts
    if isinstance(correct, bool | np.bool_) and bool(correct):
        return Check(True, f"✓ {praise}")
    return Check(False, f"✗ not yet. {hint}".rstrip())


def _same(answer: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, str):
        return isinstance(answer, str) and answer.strip().casefold() == expected.strip().casefold()
    if isinstance(expected, bool):
        return isinstance(answer, bool | np.bool_) and bool(answer) == expected
    if isinstance(expected, Mapping):
        return set(answer) == set(expected) and all(
            _same(answer[key], value, tolerance) for key, value in expected.items()
        )
    if isinstance(expected, set | frozenset):
        return set(answer) == set(expected)
    if isinstance(expected, Sequence) and any(isinstance(e, str) for e in expected):
        return len(answer) == len(expected) and all(
            _same(a, e, tolerance) for a, e in zip(answer, expected, strict=True)
        )
    if isinstance(answer, bool | str):
        return False
    given, wanted = _numbers(answer), _numbers(expected)
    return given.shape == wanted.shape and bool(
        np.allclose(given, wanted, rtol=0, atol=tolerance * (1 + 1e-9))
    )


def _numbers(value: Any) -> np.ndarray:
    detach: Callable | None = getattr(value, "detach", None)  # a tensor that carries gradients
    return np.asarray(detach().cpu() if detach else value, dtype=np.float64)
