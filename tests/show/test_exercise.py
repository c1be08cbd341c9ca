import numpy as np
import pytest

from survey_lib.show.exercise import check


@pytest.mark.parametrize(
    ("answer", "expected", "tolerance"),
    [
        (0.271, 0.2711, 1e-3),
        (3, 3.0, 0),
        (np.float32(0.5), 0.5, 0),
        (" Layer2 ", "layer2", 0),
        ([1, 2], (1, 2), 0),
        (np.array([1.0, 2.0]), [1, 2.04], 0.05),
        ({"a": 1.0}, {"a": 1}, 0),
        ({2, 1}, {1, 2}, 0),
        (["a", "B"], ["A", "b"], 0),
        (True, True, 0),
        (7, lambda x: x % 7 == 0, 0),
    ],
)
def test_right_answers(answer, expected, tolerance):
    made = check(answer, expected=expected, tolerance=tolerance, hint="think")
    assert made.correct
    assert str(made).startswith("✓")
    assert "think" not in made._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize(
    ("answer", "expected", "tolerance"),
    [
        (0.272, 0.2705, 1e-3),
        ("0.27", 0.27, 0),
        (True, 1, 0),
        (1, True, 0),
        ([1, 2, 3], [1, 2], 0),
        (np.ones((2, 1)), np.ones(2), 0),
        ({"a": 1}, {"b": 1}, 0),
        (float("nan"), 1.0, 10),
        (object(), 1.0, 0),
        ("x", lambda x: x / 2, 0),
        (np.ones(2), lambda x: x > 0, 0),
    ],
)
def test_wrong_answers_get_a_hint_and_never_raise(answer, expected, tolerance):
    made = check(answer, expected=expected, tolerance=tolerance, hint="count <zeros>")
    assert not made.correct
    assert str(made).startswith("✗")
    assert "count &lt;zeros&gt;" in made._repr_mimebundle_()["text/html"]


@pytest.mark.parametrize("answer", [None, ...])
def test_no_answer_yet_gives_nothing_away(answer):
    made = check(answer, expected=answer, hint="count <zeros>")
    assert not made.correct
    assert str(made) == "✗ no answer yet"


def test_tensors_with_gradients_are_answers_too():
    torch = pytest.importorskip("torch")
    assert check(torch.tensor([0.5], requires_grad=True), expected=[0.5]).correct
