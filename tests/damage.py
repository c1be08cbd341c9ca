"""Hypothesis strategies that damage what a reader reads: values of the wrong kind, cut texts."""

import copy
import json
import math

from hypothesis import strategies as st

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),  # with nan and infinities
    st.text(max_size=8),
    st.sampled_from(
        [10**400, -(10**400), -5.0, 7.0, math.nan, math.inf, "0.8", "nan", "../x", "\u2028", "\x00",
         [], {}, [[]], "<script>", "javascript:alert(1)"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=3),
)  # fmt: skip


@st.composite
def damaged(draw, given):
    """A deep copy of plain data with one to three values replaced, removed or added."""
    made = copy.deepcopy(given)
    for _ in range(draw(st.integers(1, 3))):
        at = made
        while True:
            keys = sorted(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
                at = at[key]
                continue
            what = draw(st.sampled_from(["replace", "remove", "add", "nest"]))
            if what == "remove":
                del at[key]
            elif what == "nest":
                deep = at[key]
                for _ in range(draw(st.sampled_from([1, 30, 600]))):
                    deep = [deep]
                at[key] = deep
            elif what == "add" and isinstance(at, dict):
                at[draw(st.text(max_size=6))] = draw(ODD)
            else:
                at[key] = draw(ODD)
            break
        if any_deep(made):
            break
    return made


def any_deep(value):
    """Whether data is nested so deeply that recursion over it would fail."""
    level = [value]
    for _ in range(25):
        level = [v for x in level if isinstance(x, dict | list)
                 for v in (x.values() if isinstance(x, dict) else x)]  # fmt: skip
    return bool(level)


def as_json(value):
    """JSON of data that may be nested deeper than Python's own writer goes."""
    if not any_deep(value):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        parts = ((json.dumps(k), as_json(v)) for k, v in value.items())
        return "{" + ", ".join(f"{k}: {v}" for k, v in parts) + "}"
    if isinstance(value, list) and len(value) == 1:
        opened = 0
        while isinstance(value, list) and len(value) == 1:
            value, opened = value[0], opened + 1
        return "[" * opened + as_json(value) + "]" * opened
    return "[" + ", ".join(map(as_json, value)) + "]"


@st.composite
def cut(draw, text):
    """A text of which a part is missing, doubled, or replaced by others' characters."""
    start = draw(st.integers(0, len(text)))
    end = draw(st.integers(start, min(len(text), start + 40)))
    middle = draw(st.one_of(st.just(""), st.text(max_size=8), st.just(text[start:end] * 2)))
    return text[:start] + middle + text[end:]


def one_sentence(error, *starts):
    """Fails where an error's message is no single, bounded line, or starts with none of these."""
    message = str(error)
    assert message.startswith(starts or ("",)), message
    assert message.strip()
    assert "\n" not in message
    assert len(message) < 700, message
