import re

import pytest
import torch
from torch import nn

from survey_lib.measure.compare import compare
from survey_lib.show.costs import USUAL, Column, cost_table

ROWS = [
    {"name": "dense", "params": 1000, "file_bytes": 4200, "macs": 2_500_000, "min_ms": 1.5,
     "speed_up": 1.0, "efficiency": 1.0},
    {"name": "cut", "params": 500, "file_bytes": 2200, "macs": 1_250_000, "min_ms": 1.0,
     "speed_up": 1.5, "efficiency": 0.75, "noisy": True},
]  # fmt: skip


def heads(page):
    return re.findall(r'<th scope="col"[^>]*>(.*?)</th>', page)


def cells(page):
    """The numbers of a table, as the page sorts them."""
    found = re.findall(r'<td class="num"(?: data-value="([^"]+)")?>([^<]*)', page)
    return [float(exact or words) for exact, words in found]


def test_sizes_macs_and_times_stand_together_with_units(opened):
    made = cost_table(
        ROWS, caption="What is saved.", names={"dense": "dense", "cut": "the cut net"}
    )
    assert [re.sub("<.*?>", "", h) for h in heads(made.html)] == [
        "net", "parameters", "file (kB)", "MACs (M per image)", "time (ms)", "speed-up (×)",
        "speed-up ÷ MAC ratio",
    ]  # fmt: skip
    assert '<th scope="row">the cut net</th>' in made.html
    assert cells(made.html)[6:] == [500.0, 2.2, 1.25, 1.0, 1.5, 0.75]
    assert "the cut net: times spread too much to be believed." in made.html
    assert "dense: times spread" not in made.html


def test_further_fields_bring_their_own_column(opened):
    rows = [row | {"left": 7} for row in ROWS]
    made = cost_table(
        rows, caption="c.", columns=("left", "macs"), more={"left": Column("weights", "k", 0.5, 0)}
    )
    assert cells(made.html)[0] == 14.0


def test_a_net_or_a_field_that_is_not_there_is_named(opened):
    with pytest.raises(ValueError, match="no net 'thin'; there are: dense, cut"):
        cost_table(ROWS, caption="c.", names={"thin": "thin"})
    with pytest.raises(ValueError, match="'dense' has no peak_bytes"):
        cost_table(ROWS, caption="c.", columns=(*USUAL, "peak_bytes"))


def test_a_comparison_made_here_says_on_what(opened):
    nets = {"wide": nn.Linear(8, 8), "narrow": nn.Linear(8, 4)}
    measured = compare(nets, torch.zeros(4, 8))
    made = cost_table(measured, caption="c.", columns=("params", "macs", "min_ms", "mac_ratio"))
    assert "batch of 4" in made.html
    assert 2.0 in cells(made.html)  # half the MACs
