"""The one style: colours, markers and sizes of every figure, Vega charts included.

Figures are drawn in the light values below. In a page each of them becomes a CSS variable with
that value as its fallback, so one figure serves light and dark pages alike.
"""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

# Close to the theme's own values, but found nowhere else: a colour that is exactly one of these
# stands for its variable.
INK = "#222831"
MUTED = "#48566a"
GRID = "#d5d9de"
PAPER = "#fefefe"

PAPER_LIGHT = "#ffffff"
PAPER_DARK = "#14181e"
INK_DARK = "#ced6dd"

FONT_POINTS = 11
SINGLE_INCHES = 5.9
"""Width of a figure with one panel: on a phone its text is still about 8.6 px high."""
WIDE_INCHES = 8.2
"""Width of a figure with panels side by side; on a phone they stand one above the other."""
NARROW_INCHES = 4.4
"""Width of such a figure on a phone: its text is about 12 px high there."""


@dataclass(frozen=True)
class Series:
    """How one method looks in the whole book."""

    label: str
    light: str
    dark: str
    marker: str
    linestyle: str
    variable: str
    """Name of the CSS variable that holds the colour."""
    hollow: bool = False
    """True for markers filled with the paper's colour."""


SERIES = {
    "magnitude": Series("magnitude", "#4477aa", "#77aadd", "o", "-", "--s-magnitude"),
    "fisher": Series("Fisher", "#e65a6d", "#ff8896", "s", "-", "--s-fisher"),
    "thinet": Series("ThiNet", "#228833", "#57b86b", "^", "-", "--s-thinet"),
    "lrp": Series("LRP", "#aa3377", "#d36baa", "D", "-", "--s-lrp"),
    "loss_models": Series("loss models", "#1296be", "#66ccee", "v", "-", "--s-loss-models"),
    "obd": Series("optimal brain damage", "#5f9e1f", "#a5d957", "D", "-", "--s-obd"),
    "random": Series("random", "#8f8f2b", "#c8c86a", "X", "-", "--s-random"),
    "dense": Series("dense", INK, INK_DARK, "*", "--", "--pst-color-text-base"),
    "small_dense": Series(
        "small dense", INK, INK_DARK, "o", "--", "--pst-color-text-base", hollow=True
    ),
    "scratch": Series("from scratch", "#b5651d", "#e5a566", "p", "-.", "--s-scratch"),
    "psp": Series("PSP", "#6f4fb8", "#a98be0", "h", "-", "--s-psp"),
    "serene": Series("SeReNe", "#0e8c7f", "#4fd0c0", "<", "-", "--s-serene"),
    "lobster": Series("LOBSTER", "#c4320a", "#ff7a52", ">", "-", "--s-lobster"),
    "adaptive_activation": Series(
        "adaptive activation", "#7a5c3e", "#c9a57f", "8", "-.", "--s-adaptive"
    ),
    "adapters": Series("adapters", "#5560d8", "#98a2ff", "P", "-.", "--s-adapters"),
    "int8": Series("int8", "#a0731a", "#e8bf5a", "d", "-", "--s-int8"),
    "gum": Series("GUM", "#c03aae", "#f08fe0", "H", "-.", "--s-gum"),
    "oneshot": Series("at once", "#5f7288", "#a6b6c8", "o", ":", "--s-oneshot", hollow=True),
}

# matplotlib's markers as Vega's shapes; paths lie in the box from -1 to 1
_VEGA_SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "<": "triangle-left",
    ">": "triangle-right",
    "D": "diamond",
    "d": "M0,-1L0.6,0L0,1L-0.6,0Z",
    "P": "cross",
    "X": "M-1,-0.6L-0.6,-1L0,-0.4L0.6,-1L1,-0.6L0.4,0L1,0.6L0.6,1L0,0.4L-0.6,1L-1,0.6L-0.4,0Z",
    "p": "M0,-1L0.95,-0.31L0.59,0.81L-0.59,0.81L-0.95,-0.31Z",
    "h": "M0,-1L0.87,-0.5L0.87,0.5L0,1L-0.87,0.5L-0.87,-0.5Z",
    "H": "M-0.5,-0.87L0.5,-0.87L1,0L0.5,0.87L-0.5,0.87L-1,0Z",
    "8": "M-0.4,-1L0.4,-1L1,-0.4L1,0.4L0.4,1L-0.4,1L-1,0.4L-1,-0.4Z",
    "*": "M0,-1L0.24,-0.31L0.95,-0.31L0.38,0.12L0.59,0.81L0,0.4L-0.59,0.81L-0.38,0.12L-0.95,-0.31"
    "L-0.24,-0.31Z",
}

_PAGE_COLOURS = {
    INK: "var(--pst-color-text-base, #222832)",
    MUTED: "var(--pst-color-text-muted, #48566b)",
    GRID: "var(--s-grid, #d5d9de)",
    PAPER: "var(--pst-color-background, #fff)",
}


def page_colours() -> dict[str, str]:
    """Colour drawn by matplotlib (``#rrggbb``, lower case) → CSS value used in a page."""
    series = {s.light: css(key) for key, s in SERIES.items() if s.light != INK}
    return _PAGE_COLOURS | series


def series(key: str) -> Series:
    """The look of a method.

    Raises:
        KeyError: there is no such method; the message lists those there are.
    """
    if key not in SERIES:
        raise KeyError(f"no series {key!r} in the style; there are: {', '.join(SERIES)}")
    return SERIES[key]


def css(key: str) -> str:
    """The CSS value of a method's colour, ``var(--s-magnitude, #4477aa)``."""
    look = series(key)
    return f"var({look.variable}, {look.light})"


def css_grid() -> str:
    """The CSS value of what is faint: grids, and what is gone."""
    return _PAGE_COLOURS[GRID]


def line(key: str, **changes: Any) -> dict[str, Any]:
    """Arguments for ``ax.plot`` that draw a method's line; ``changes`` replace single ones."""
    look = series(key)
    return {
        "color": look.light,
        "marker": look.marker,
        "linestyle": look.linestyle,
        "markerfacecolor": PAPER if look.hollow else look.light,
        "markeredgecolor": look.light,
        "label": look.label,
    } | changes


def palette(keys: Iterable[str]) -> dict[str, str]:
    """Method key → drawn colour, for seaborn's ``palette``."""
    return {key: series(key).light for key in keys}


def use_style() -> None:
    """Set matplotlib's defaults for every figure that follows; seaborn works on top of them."""
    import matplotlib as mpl
    from cycler import cycler

    # seaborn's grids bring their own layout, and matplotlib tells every reader so
    warnings.filterwarnings("ignore", message="The figure layout has changed to tight")
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial"],
            "font.size": FONT_POINTS,
            "axes.titlesize": FONT_POINTS,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 9,
            "axes.labelsize": FONT_POINTS,
            "axes.labelpad": 6,
            "xtick.labelsize": FONT_POINTS,
            "ytick.labelsize": FONT_POINTS,
            "legend.fontsize": FONT_POINTS,
            "legend.frameon": False,
            "figure.figsize": (SINGLE_INCHES, 3.7),
            "figure.dpi": 100,
            "figure.constrained_layout.use": True,
            "figure.constrained_layout.wspace": 0.06,
            "figure.constrained_layout.hspace": 0.06,
            "figure.facecolor": PAPER,
            "savefig.facecolor": PAPER,
            "savefig.dpi": 160,
            "axes.facecolor": PAPER,
            "axes.edgecolor": MUTED,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "xtick.major.width": 0.8,
            "ytick.major.width": 0.8,
            "xtick.minor.visible": False,
            "ytick.minor.visible": False,
            "axes.linewidth": 0.8,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.grid.axis": "y",
            "axes.axisbelow": True,
            "axes.unicode_minus": True,
            "grid.color": GRID,
            "grid.linewidth": 0.7,
            "lines.linewidth": 1.8,
            "lines.markersize": 5.5,
            "image.cmap": "cividis",
            "axes.prop_cycle": cycler(
                color=[s.light for k, s in SERIES.items() if s.light != INK and k != "oneshot"]
            ),
        }
    )


def vega_config() -> dict[str, Any]:
    """Config of every Vega-Lite chart; colours are CSS values that the page's script resolves."""
    ink, muted, grid = (_PAGE_COLOURS[c] for c in (INK, MUTED, GRID))
    words = {"labelColor": ink, "titleColor": ink, "labelFontSize": 13, "titleFontSize": 13}
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif",
        "view": {"stroke": None},
        "axis": words
        | {
            "titleFontWeight": "normal",
            "gridColor": grid,
            "domainColor": muted,
            "tickColor": muted,
            "titlePadding": 8,
            "labelSeparation": 6,
        },
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False, "labelPadding": 9},
        "legend": words
        | {"titleFontWeight": "normal", "orient": "top", "title": None}
        | {"symbolBaseFillColor": ink, "symbolBaseStrokeColor": ink, "columnPadding": 16},
        "header": words,
        "title": {"color": ink, "anchor": "start", "fontSize": 14, "fontWeight": "bold"},
        "text": {"color": ink, "fontSize": 13},
        "rule": {"color": muted},
        "line": {"strokeWidth": 2.2},
        "point": {"filled": True, "size": 70},
    }


def vega_method(
    field: str, keys: Sequence[str], labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """Encodings ``color`` and ``shape`` of a Vega-Lite chart, with one legend over methods.

    Args:
        field: column that names the method.
        keys: methods, in the order of the legend.
        labels: the values that ``field`` holds for them; the keys themselves by default.
    """
    domain = list(labels if labels is not None else keys)
    shapes = [_VEGA_SHAPES[series(key).marker] for key in keys]
    # equal titles and domains make Vega-Lite merge the two legends into one
    return {
        "color": alt.Color(
            f"{field}:N", scale=alt.Scale(domain=domain, range=[css(key) for key in keys])
        ),
        "shape": alt.Shape(f"{field}:N", scale=alt.Scale(domain=domain, range=shapes)),
    }
