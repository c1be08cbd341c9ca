import math

import pytest

from survey_lib.evidence.intervals import t_interval
from survey_lib.show.sampling import error_of_images, error_of_text


def test_ten_thousand_images_leave_six_tenths_of_a_point_open():
    """1.96 · sqrt(0.9 · 0.1 / 10,000) is 0.588 points."""
    made = error_of_images(0.9, 10_000)
    assert "accuracy of 90.0 % could as well be up to 0.6 points higher or lower" in made.text
    assert "10\u202f000 test images" in made.text
    assert "survey-sampling" in made.html


def test_fewer_images_leave_more_open():
    assert "up to 5.9 points" in error_of_images(0.9, 100).text
    assert "up to 0.0 points" in error_of_images(1.0, 100).text


@pytest.mark.parametrize(("accuracy", "images"), [(88.0, 10_000), (-0.1, 10), (0.9, 0)])
def test_what_is_no_share_is_refused(accuracy, images):
    with pytest.raises(ValueError, match="wants a share and a number of images"):
        error_of_images(accuracy, images)


def test_text_has_an_interval_over_its_windows():
    losses = [3.0, 3.4, 2.9, 3.1, 3.2]
    half = t_interval(losses).half_width
    assert math.isclose(half, 0.23884, abs_tol=1e-4)
    made = error_of_text(losses)
    assert "loss of 3.12 nats could as well be up to 0.24 higher or lower" in made.text
    assert "5 windows" in made.text
