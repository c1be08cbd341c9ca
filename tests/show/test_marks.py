import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from survey_lib.show import marks, style
from survey_lib.show.figure import label_ends

FOUND = pd.DataFrame(
    {"mean": [1.0, -2.0], "low": [0.5, -2.5], "high": [1.5, -1.0]}, index=["thinet", "random"]
)
LOOKS = {
    "random": ("random", {"label": "at random"}),
    "absent": ("dense", {"label": "not run"}),
    "thinet": ("thinet", {"marker": "v"}),
}


@pytest.fixture
def ax():
    return plt.subplots()[1]


def points(ax):
    """Where markers stand, by colour."""
    return {
        str(line.get_color()): tuple(float(v) for v in line.get_xydata()[0])
        for line in ax.get_lines()
        if line.get_marker() not in ("None", "", "|") and len(line.get_xydata())
    }


def test_a_forest_has_a_row_for_each_look_from_top_to_bottom(ax):
    marks.forest(ax, FOUND, LOOKS)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["at random", "not run", "thinet"]
    found = points(ax)
    assert found[style.series("random").light] == (-2.0, 0.0)
    assert found[style.series("thinet").light] == (1.0, 2.0)  # the absent row keeps its place
    top, bottom = ax.get_ylim()[1], ax.get_ylim()[0]
    assert top < bottom  # the first row is the upper one
    ends = [c.get_segments()[0][:, 0].tolist() for c in ax.collections]
    assert sorted(ends) == [[-2.5, -1.0], [0.5, 1.5]]


def test_a_forest_shows_single_values_and_the_line_of_no_change(ax):
    dots = pd.Series([0.9, 1.1, -2.0], index=["thinet", "thinet", "random"])
    marks.forest(ax, FOUND, LOOKS, dots=dots, zero=True)
    drawn = [x.get_xdata().tolist() for x in ax.get_lines() if x.get_label() == "_dots"]
    assert sorted(drawn) == [[-2.0], [0.9, 1.1]]
    (zero,) = [x for x in ax.get_lines() if x.get_label() == "_zero"]
    assert list(zero.get_xdata()) == [0, 0]


def test_two_forests_share_rows_and_a_legend_names_each_once(ax):
    marks.forest(ax, FOUND, LOOKS, shift=-0.15, label="all units")
    marks.forest(ax, FOUND, LOOKS, shift=0.15, label="some")
    assert ax.get_legend_handles_labels()[1] == ["all units", "some"]
    heights = sorted(float(x.get_ydata()[0]) for x in ax.get_lines() if len(x.get_ydata()) == 1)
    assert {-0.15, 0.15, 1.85, 2.15} <= set(np.round(heights, 2))


def test_a_whisker_can_be_labelled_at_its_end(ax):
    row = {"mean": 0.8, "low": 0.7, "high": 0.85}
    marks.whisker(ax, 0.5, row, "magnitude", label="ℓ1, at once")
    assert points(ax)[style.series("magnitude").light] == (0.5, 0.8)
    label_ends(ax)
    assert [t.get_text() for t in ax.texts if t.get_text()] == ["ℓ1, at once"]
    (bar,) = ax.collections
    np.testing.assert_allclose(bar.get_segments()[0], [[0.5, 0.7], [0.5, 0.85]])


def test_runs_of_this_page_are_crosses_without_a_label(ax):
    marks.crosses(ax, [1, 2], [3, 4])
    (line,) = ax.get_lines()
    assert line.get_marker() == "x"
    assert line.get_color() == style.MUTED
    label_ends(ax)
    assert not ax.texts


@pytest.mark.parametrize(("below", "va"), [(False, "bottom"), (True, "top")])
def test_the_dense_line_is_dashed_and_named_where_the_axis_begins(ax, below, va):
    ax.set_xlim(1, 0.1)
    marks.dense_line(ax, 0.9, below=below)
    (line,) = ax.get_lines()
    assert line.get_linestyle() == "--"
    assert list(line.get_ydata()) == [0.9, 0.9]
    (word,) = ax.texts
    assert word.get_text() == "dense"
    assert word.get_va() == va
    assert word.xy == (0, 0.9)  # in parts of the axis, so that a reversed one is named there too
