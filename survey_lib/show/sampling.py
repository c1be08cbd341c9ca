"""The test set's own error: what other test data, not other replicates, would change."""

import math
from collections.abc import Sequence

import pandas as pd

from survey_lib.evidence.intervals import t_interval
from survey_lib.show.markup import LIVE_STYLE, Html, escape, number


def error_of_images(accuracy: float, images: int) -> Html:
    """How far ``images`` test images leave an accuracy open, said once on a page.

    The half-width is 1.96 standard errors of a share, the normal approximation of the binomial.

    Args:
        accuracy: a share of the test images, such as the dense net's mean.
        images: how many there are.

    Raises:
        ValueError: the accuracy is no share, or there is no image.
    """
    if not 0 <= accuracy <= 1 or images < 1:
        raise ValueError(
            f"error_of_images wants a share and a number of images, not {accuracy} and {images}"
        )
    half = 100 * 1.96 * math.sqrt(accuracy * (1 - accuracy) / images)
    return _note(
        f"On as many other images the dense net’s accuracy of {number(100 * accuracy, 1)} % could "
        f"as well be up to {number(half, 1)} points higher or lower (95 %, {number(images)} test "
        "images). Intervals over seeds do not hold this: all nets are judged on the same images. "
        "Much of it falls on all nets alike, so it is smaller in their differences."
    )


def error_of_text(losses: Sequence[float] | pd.Series) -> Html:
    """How far the windows of a test text leave a loss open, said once on a page.

    Args:
        losses: nats a token, one a window.
    """
    found = t_interval([float(x) for x in losses])
    mean, half = number(found.mean, 2), number(found.half_width, 2)
    return _note(
        f"On as much other text of this kind the model’s loss of {mean} nats could as well be up "
        f"to {half} higher or lower (95 %, {number(found.n)} windows). Intervals over windows hold "
        "this, paired as they are; intervals over nets or chunks of text do not."
    )


def _note(words: str) -> Html:
    page = f'{LIVE_STYLE}<p class="survey survey-sampling"><b>The test set’s own error.</b> '
    return Html(f"{page}{escape(words)}</p>", f"The test set’s own error. {words}")
