import re
from itertools import combinations

import matplotlib as mpl
import numpy as np
import pytest

from survey_lib import files
from survey_lib.show import style


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def contrast(a, b):
    high, low = sorted((linear(c) @ [0.2126, 0.7152, 0.0722] for c in (a, b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_what_black_on_white_is_known_to_be():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("key", style.SERIES)
def test_every_series_stands_out_on_both_backgrounds(key):
    look = style.SERIES[key]
    assert contrast(look.light, style.PAPER_LIGHT) >= 3
    assert contrast(look.dark, style.PAPER_DARK) >= 3


def test_no_two_methods_look_alike():
    looks = [(s.light, s.marker, s.linestyle, s.hollow) for s in style.SERIES.values()]
    assert len(set(looks)) == len(looks)
    for kind in ("light", "dark"):
        colours = [getattr(s, kind) for s in style.SERIES.values() if s.light != style.INK]
        assert len(set(colours)) == len(colours)


# Machado, Oliveira and Fernandes 2009, severity 1
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
          [-0.011820, 0.042940, 0.968881]]  # fmt: skip
PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
          [-0.003882, -0.048116, 1.051998]]  # fmt: skip


def lab(rgb):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    t = xyz @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("matrix", [np.eye(3), DEUTAN, PROTAN], ids=["all", "deutan", "protan"])
@pytest.mark.parametrize("kind", ["light", "dark"])
def test_the_methods_drawn_together_stay_apart_for_the_colour_blind(kind, matrix):
    core = ("magnitude", "fisher", "thinet", "lrp", "loss_models", "random")
    seen = {k: lab(np.array(matrix) @ linear(getattr(style.SERIES[k], kind))) for k in core}
    for a, b in combinations(core, 2):
        # markers differ too, so colours need not be far apart, but may not coincide
        assert style.SERIES[a].marker != style.SERIES[b].marker
        assert np.linalg.norm(seen[a] - seen[b]) >= 8, (a, b)


def css_variables(selector):
    text = (files.PACKAGE.parent / "book" / "_static" / "survey.css").read_text(encoding="utf-8")
    block = re.search(re.escape(selector) + r"\s*\{(.*?)\}", text, flags=re.DOTALL)
    assert block, selector
    return dict(re.findall(r"(--[\w-]+):\s*([^;]+);", block[1]))


@pytest.mark.parametrize("key", [k for k, s in style.SERIES.items() if s.light != style.INK])
def test_the_style_sheet_has_the_same_colours(key):
    look = style.SERIES[key]
    assert css_variables(":root")[look.variable] == look.light
    assert css_variables('html[data-theme="dark"]')[look.variable] == look.dark


def test_use_style_keeps_text_as_text_and_draws_in_colours_the_page_knows():
    style.use_style()
    assert mpl.rcParams["svg.fonttype"] == "none"
    known = style.page_colours()
    for name in (
        "axes.edgecolor",
        "axes.labelcolor",
        "text.color",
        "grid.color",
        "figure.facecolor",
    ):
        assert mpl.rcParams[name] in known, name
    assert all(c["color"] in known for c in mpl.rcParams["axes.prop_cycle"])


def test_an_unknown_method_is_named():
    with pytest.raises(KeyError, match=r"no series 'lpr'.*lrp"):
        style.series("lpr")


def test_reference_nets_are_dashed_ink():
    for key in ("dense", "small_dense"):
        assert style.SERIES[key].light == style.INK
        assert style.line(key)["linestyle"] == "--"
    assert style.line("small_dense")["markerfacecolor"] == style.PAPER
    assert style.line("lrp", label="LRP, tuned")["label"] == "LRP, tuned"


def test_every_marker_has_a_shape_in_vega():
    made = style.vega_method("method", list(style.SERIES))
    shapes = made["shape"].to_dict()["scale"]["range"]
    assert len(shapes) == len(style.SERIES)
    assert made["color"].to_dict()["scale"]["range"][0] == "var(--s-magnitude, #4477aa)"
    assert made["color"].to_dict()["scale"]["domain"] == made["shape"].to_dict()["scale"]["domain"]
