import math

import numpy as np
import pytest
import torch

from survey_lib.show.exercise import Check, exercise, key_of


def asked(truth, digits=3, **more):
    return exercise("toy 1", key_of("toy 1", truth, digits), digits=digits, **more)


@pytest.mark.parametrize(
    ("truth", "answer", "digits"),
    [
        (0.2711, 0.271, 3),
        (0.2711, 0.27105, 3),
        (3, 3.0, 3),
        (64_512, 64_512, 5),
        (np.float32(0.5), 0.5, 3),
        (1 / 3, 0.33, 2),
        ("layer2", " Layer2 ", 3),
        ((1, 2), [1, 2], 3),
        ([1, 2.04], np.array([1.0, 2.0]), 2),
        ([0.5, -1.0], torch.tensor([0.5, -1.0], requires_grad=True), 3),
        ({"a": 1}, {"a": 1.0}, 3),
        ({1, 2}, {2, 1}, 3),
        (["A", "b"], ["a", "B"], 3),
        (True, True, 3),
    ],
)
def test_right_answers(truth, answer, digits):
    made = asked(truth, digits, hint="think", praise="right: well done").check(answer)
    assert made.correct
    assert str(made) == "✓ right: well done"
    assert "think" not in made._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("truth", "answer"),
    [
        (0.2705, 0.272),
        (0.27, "0.27"),
        (1, True),
        (True, 1),
        ([1, 2], [1, 2, 3]),
        (np.ones(2), np.ones((2, 1))),
        ([[1, 2], [3]], [[1], [2, 3]]),
        ([3], 3),
        ({"b": 1}, {"a": 1}),
        (1.0, float("nan")),
        (1.0, object()),
        (0.7, -0.7),
        (1.0, lambda: 1.0),
    ],
)
def test_wrong_answers_get_a_hint_and_never_raise(truth, answer):
    made = asked(truth, hint="count <zeros>").check(answer)
    assert made.state == "wrong"
    assert str(made) == "✗ not yet. count <zeros>"
    assert "count &lt;zeros&gt;" in made._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize("truth", [0.004, -0.0499, 12.25, 1e-9])
def test_zero_is_no_small_number(truth):
    """An answer is compared by its digits, so nothing passes by being small."""
    assert not asked(truth, 1).check(0).correct
    assert not asked(truth, 1).check(0.0).correct
    assert not asked(truth, 1).check(1e-12).correct


@pytest.mark.parametrize("answer", [None, ...])
def test_no_answer_yet_is_neither_right_nor_wrong(answer):
    made = asked(0.7, hint="count <zeros>").check(answer)
    assert made.state == "open"
    assert not made.correct
    assert str(made).startswith("○ your turn")
    page = made._repr_mimebundle_()["text/html"]
    assert "survey-check open" in page
    assert "wrong" not in page
    assert "zeros" not in page


def test_the_edge_between_two_roundings_belongs_to_both():
    """0.0499 and 0.0501 are five hundredths, and so is 0.0449 where the truth is 0.0451."""
    assert asked(0.0499, 1).check(0.05).correct
    assert asked(0.0451, 1).check(0.0449).correct
    assert not asked(0.0451, 1).check(0.043).correct


def test_the_key_gives_the_answer_away_to_nobody():
    key = key_of("toy 1", 0.7)
    assert key != key_of("toy 2", 0.7)  # salted: equal answers have unequal keys
    assert key == key_of("toy 1", 0.7000001)
    assert len(key) == 12


def test_several_answers_may_be_right():
    question = exercise("toy 1", key_of("toy 1", 16384), key_of("toy 1", 1 / 16384))
    assert question.check(128**2).correct
    assert question.check(1 / 128**2).correct
    assert not question.check(128).correct


@pytest.mark.parametrize("keys", [(), ("0.7",), ("A" * 12,), ("0" * 11,)])
def test_keys_must_be_keys(keys):
    with pytest.raises(ValueError, match="toy 1"):
        exercise("toy 1", *keys)


def test_what_cannot_be_compared_has_no_key():
    with pytest.raises(TypeError, match="object"):
        key_of("toy 1", object())
    assert key_of("toy 1", math.inf) != key_of("toy 1", 1e300)


def test_the_words_of_a_check_are_safe_in_a_page():
    page = Check("right", "<b>")._repr_mimebundle_()["text/html"]
    assert "&lt;b&gt;" in page
