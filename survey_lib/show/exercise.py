"""Exercises with a self-check that knows whether an answer is right and cannot tell it.

The page holds a salted hash of each answer, so neither the cell nor its output gives it away.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from survey_lib.show.markup import LIVE_STYLE, escape

SIGNS = {"open": "○", "right": "✓", "wrong": "✗"}
"""State of an exercise → the sign before its message."""

# An answer whose last asked digit was rounded the other way is right as well: the truth may lie
# next to the edge between two roundings, and another machine on the other side of it.
_SLACK = (0.0, -0.1, 0.1)


@dataclass(frozen=True)
class Check:
    """What the self-check says; shown by a notebook, asked for ``state`` by the build."""

    state: str
    """``open`` (not answered yet), ``right`` or ``wrong``."""
    words: str

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.state == "right"

    @property
    def message(self) -> str:
        """The sign and the words."""
        return f"{SIGNS[self.state]} {self.words}"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        html = (
            f'{LIVE_STYLE}<p class="survey survey-check {self.state}">'
            f'<span class="sign">{SIGNS[self.state]}</span> {escape(self.words)}</p>'
        )
        return {"text/html": html, "text/plain": self.message}

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True)
class Exercise:
    """One question of a chapter; ``check`` says whether an answer is right."""

    name: str
    """Chapter and number, ``thinet 1``; the salt of the key."""
    keys: tuple[str, ...]
    """:func:`key_of` of each right answer."""
    digits: int
    """Significant digits that count."""
    hint: str
    praise: str

    def check(self, answer: Any) -> Check:
        """Compare a reader's answer with the right one; never raises, whatever is typed in.

        Args:
            answer: a number, a word, a truth value, or a list, array or mapping of them; ``None``
                or ``...`` means not answered yet.
        """
        if answer is None or answer is ...:
            return Check("open", "your turn: put an answer in the place of the dots")
        try:
            given = {key_of(self.name, answer, self.digits, slack) for slack in _SLACK}
        except Exception:  # a page of text or a function gets the hint, not a traceback
            given = set()
        if given & set(self.keys):
            return Check("right", self.praise)
        return Check("wrong", f"not yet. {self.hint}".rstrip())


def exercise(
    name: str, *keys: str, digits: int = 3, hint: str = "", praise: str = "right"
) -> Exercise:
    """A question whose answer the notebook does not hold.

    Args:
        name: chapter and number, ``thinet 1``.
        *keys: :func:`key_of` of each answer that is right; most questions have one.
        digits: significant digits that count; the question must name them.
        hint: what to think about after a wrong answer.
        praise: what to say after a right one.

    Raises:
        ValueError: there is no key, or one that :func:`key_of` did not make.
    """
    bad = [k for k in keys if len(k) != _KEY or set(k) - set("0123456789abcdef")]
    if bad or not keys:
        raise ValueError(f"exercise {name!r}: give the keys that key_of makes, not {bad or keys}")
    return Exercise(name, keys, digits, hint, praise)


_KEY = 12


def key_of(name: str, answer: Any, digits: int = 3, slack: float = 0.0) -> str:
    """The salted hash of an answer, rounded to ``digits`` significant digits.

    Args:
        name: of the exercise, the salt.
        answer: as :meth:`Exercise.check` takes it.
        digits: significant digits.
        slack: moves every number by this part of its last digit before it is rounded.

    Raises:
        TypeError: the answer is of no kind that can be compared.
    """
    text = ",".join(_rounded(answer, digits, slack))
    return hashlib.sha256(f"{name}: {text}".encode()).hexdigest()[:_KEY]


def _rounded(answer: Any, digits: int, slack: float) -> Iterator[str]:
    """The parts of an answer as texts that are equal where the answers are."""
    detach: Callable | None = getattr(answer, "detach", None)  # a tensor that carries gradients
    if detach is not None:
        answer = detach().cpu()
    if hasattr(answer, "tolist"):  # a tensor, an array, a number of numpy's
        answer = answer.tolist()
    if isinstance(answer, str):
        yield answer.strip().casefold()
    elif isinstance(answer, bool):
        yield str(answer)
    elif isinstance(answer, int | float):
        yield _number(float(answer), digits, slack)
    elif isinstance(answer, Mapping):
        for key in sorted(answer, key=str):
            yield f"{key}:"
            yield from _rounded(answer[key], digits, slack)
    elif isinstance(answer, Sequence | set | frozenset):
        parts = ["/".join(_rounded(part, digits, slack)) for part in answer]
        yield from sorted(parts) if isinstance(answer, set | frozenset) else parts
        yield f"{len(parts)} in all"
    else:
        raise TypeError(f"{type(answer).__name__} is no answer")


def _number(value: float, digits: int, slack: float) -> str:
    if value == 0 or not math.isfinite(value):
        return str(abs(value))
    last = 10.0 ** (math.floor(math.log10(abs(value))) - digits + 1)
    return np.format_float_scientific(value + slack * last, digits - 1, unique=False)
