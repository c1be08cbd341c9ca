import math

import pytest

from survey_lib.evidence.intervals import Interval, t_interval
from survey_lib.show import markup


@pytest.mark.parametrize(
    ("value", "decimals", "words"),
    [
        (0.5, None, "0.5"),
        (-0.01, None, "−0.01"),
        (26700, None, "26\u202f700"),
        (12345.678, 1, "12\u202f345.7"),
        (-0.0001, 2, "0.00"),
        (2.0, None, "2"),
        (1e-6, None, "1.00e−06"),
        (math.inf, None, "∞"),
        (-math.inf, 2, "−∞"),
        (math.nan, None, "–"),
    ],
)
def test_numbers_in_words(value, decimals, words):
    assert markup.number(value, decimals) == words


@pytest.mark.parametrize(
    ("region", "unit", "words"),
    [
        ((0.0, None), "", "≥ 0"),
        ((None, 0.02), "nats", "≤ +0.02 nats"),
        ((-0.01, 0.01), "", "between −0.01 and 0.01"),
        ((3, 3), "bytes", "exactly 3 bytes"),
    ],
)
def test_regions_in_words(region, unit, words):
    assert markup.region_words(region, unit) == words


def test_mean_and_interval_share_the_decimals_the_half_width_supports():
    interval = Interval(0.123456, 0.111111, 0.135801, 5)
    assert markup.mean_words(interval) == "0.123"
    assert markup.range_words(interval) == "[0.111, 0.136]"
    assert markup.decimals_for(Interval(512.0, 400.0, 624.0, 5)) == 0


def test_intervals_that_are_none_say_so():
    assert markup.range_words(t_interval([0.3])) == "one seed: no interval"
    assert markup.range_words(t_interval([0.3, 0.3])) == "the same in all 2 runs"
    assert markup.range_words(Interval(4, 4, 4, 1)) == "one run decides"


def test_only_web_addresses_and_paths_become_links():
    assert markup.link("https://x.org/?a=1&b", "go") == '<a href="https://x.org/?a=1&amp;b">go</a>'
    assert markup.link("../a.svg", "a") == '<a href="../a.svg">a</a>'
    assert markup.link("javascript:alert(1)", "<b>") == "&lt;b&gt;"
    assert markup.link("JaVaScript:alert(1)", "x") == "x"


def test_the_first_sentence_of_a_caption_is_set_off_and_escaped():
    assert markup.lead("A < B. Bands are 95 % t.") == (
        "<strong>A &lt; B.</strong> Bands are 95 % t."
    )
    assert markup.lead("At 0.5 all agree") == "<strong>At 0.5 all agree</strong>"


def test_differences_of_accuracy_are_told_in_points_with_their_sign():
    share = markup.SHARE_OF_IMAGES
    gain, loss = Interval(0.01234, 0.0111, 0.0136, 5), Interval(-0.07, -0.09, 0.05, 5)
    assert markup.mean_words(gain, share) == "+1.23"
    assert markup.range_words(gain, unit=share) == "[+1.11, +1.36]"
    assert markup.mean_words(loss, share) == "−7.0"
    assert markup.range_words(loss, unit=share) == "[−9.0, +5.0]"
    assert markup.mean_words(gain, "nats") == "+0.0123"
    assert markup.amount(0.07, share) == "+7"
    assert markup.amount(0.0, share) == "0"
    assert markup.amount(0.00001, share, 1) == "0.0"
    assert markup.region_words((-0.005, 0.005), share) == "between −0.5 and +0.5 points"
    assert markup.region_words((0.0, None), share) == "≥ 0 points"


def test_shares_are_told_in_percent_and_ratios_as_times():
    gone, file = Interval(0.798, 0.797, 0.799, 5), Interval(0.503, 0.503, 0.503, 1)
    assert f"{markup.mean_words(gone, 'share of parameters')} % of parameters" == (
        f"79.80 {markup.unit_words('share of parameters')}"
    )
    assert markup.region_words((0.5, None), "share of parameters") == "≥ 50 % of parameters"
    assert f"{markup.mean_words(file, 'ratio')} {markup.unit_words('ratio')}" == "0.503 times"
    assert markup.amount(-0.2, "correlation") == "−0.2"
    assert markup.amount(5e-12, "logits") == "5.00e−12"
