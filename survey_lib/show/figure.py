"""Figures: one SVG that is right in light and dark, with its PNG, its data and its words."""

import base64
import io
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as MplFigure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from survey_lib import files
from survey_lib.show import page, style
from survey_lib.show.markup import anchor, escape, lead, number

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_NARROW = 0.8
"""On a narrow screen one figure point is at least this many px; below, the box scrolls."""


@dataclass(frozen=True)
class Figure:
    """A drawn figure as a notebook shows it."""

    name: str
    alt: str
    caption: str
    html: str
    png: bytes
    files: tuple[Path, ...]
    """SVG, PNG and, where there is data, CSV."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {
            "text/html": self.html,
            "image/png": base64.b64encode(self.png).decode(),
            "text/plain": f"Figure {self.name}: {self.alt}",
        }


def figure(
    fig: Any,
    name: str,
    *,
    alt: str,
    caption: str,
    data: pd.DataFrame | None,
    hero: bool = False,
) -> Figure:
    """Close a matplotlib figure and turn it into what the page shows and keeps.

    Keeps ``<name>.svg``, ``.png`` and ``.csv`` under ``_build/figures/<slug>/``.

    Args:
        fig: a matplotlib figure, or seaborn's grid around one.
        name: letters, digits, ``-`` and ``_``; unique in the page.
        alt: what the figure shows, in words, for those who do not see it.
        caption: first what to see, then what is drawn.
        data: the numbers drawn, one row each; ``None`` only where nothing numeric is drawn.
        hero: True for the page's main figure.

    Raises:
        ValueError: the name is not plain, or alt or caption is empty.
        RuntimeError: no page is open.
    """
    fig = getattr(fig, "figure", fig)
    try:
        if anchor(name) != name or not name:
            raise ValueError(f"figure name must be letters, digits, - and _, not {name!r}")
        for what, words in (("alt", alt), ("caption", caption)):
            if not words.strip():
                raise ValueError(f"figure {name!r}: {what} is empty; say in words what it shows")
        slug = page.current_slug()
        svg, png = _draw(fig, f"{slug}-{name}")
        narrow = _draw(fig, f"{slug}-{name}-narrow")[0] if _stack(fig) else ""
    finally:
        plt.close(fig)
    folder = files.build_dir() / "figures" / slug
    contents: dict[str, str | bytes] = {"svg": svg, "png": png}
    if data is not None:
        named = any(n is not None for n in data.index.names)
        contents["csv"] = data.to_csv(index=named, lineterminator="\n")
    for kind, content in contents.items():
        files.write_atomic(folder / f"{name}.{kind}", content)
    links = "".join(
        f'<a href="../_static/figures/{slug}/{name}.{kind}" download>{kind.upper()}</a>'
        for kind in contents
    )
    group = f'role="group" aria-label="Figure {escape(name)}"'
    shown = adaptive_svg(svg, f"{slug}-{name}", alt)
    stacked = ""
    if narrow:  # the site's style sheet shows it on a phone, in place of the wide one
        inner = adaptive_svg(narrow, f"{slug}-{name}-n", alt)
        stacked = f'<div class="survey-stacked" {group} style="display:none">{inner}</div>'
    html = (
        f'<figure class="survey survey-figure{" survey-hero" if hero else ""}">'
        f'<div class="survey-scroll" {group} style="overflow-x:auto">{shown}</div>{stacked}'
        f"<figcaption>{lead(caption)}"
        f'<span class="survey-links survey-site-only" hidden>{links}</span></figcaption></figure>'
    )
    paths = tuple(folder / f"{name}.{kind}" for kind in contents)
    return Figure(name, alt, caption, html, png, paths)


def _draw(fig: MplFigure, salt: str) -> tuple[str, bytes]:
    """The figure as SVG text and PNG bytes; the same figure gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    fig.savefig(png, format="png", metadata={"Software": None})
    return svg.getvalue().decode(), png.getvalue()


def _stack(fig: MplFigure) -> bool:
    """Put panels that stand side by side one above the other; False where there are none."""
    specs = [spec for ax in fig.axes if (spec := ax.get_subplotspec()) is not None]
    grids = [spec.get_gridspec() for spec in specs]
    if len(specs) < 2 or len(specs) < len(fig.axes) or len(set(map(id, grids))) > 1:
        return False  # one panel, or a colour bar or an inset that belongs to another
    if grids[0].nrows > 1:
        return False
    first, height = fig.axes[0], float(fig.get_size_inches()[1])
    below = GridSpec(len(specs), 1, figure=fig)
    for i, ax in enumerate(fig.axes):
        ax.set_subplotspec(below[i])
        for side in ("left", "center", "right"):
            ax.set_title(textwrap.fill(ax.get_title(side), 34), loc=side)
        if ax is not first and ax.get_shared_y_axes().joined(ax, first):
            ax.tick_params(labelleft=True)
            ax.set_ylabel(ax.get_ylabel() or first.get_ylabel())
    fig.set_size_inches(style.NARROW_INCHES, height * len(specs))
    return True


def adaptive_svg(svg: str, prefix: str, alt: str) -> str:
    """Matplotlib's SVG as an inline one that follows the page's theme.

    Style colours become CSS variables, text takes the page's font, ids that nothing refers to
    go, and the others get ``prefix``, so that two figures in a page never share one.
    """
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', svg))
    referenced = {a or b for a, b in used}
    short = {old: f"{prefix}-{i}" for i, old in enumerate(sorted(referenced))}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for node in root.iter():
        node.tag = node.tag.removeprefix(_SVG)
        old = node.attrib.pop("id", None)
        if old in short:
            node.set("id", short[old])
        target = node.attrib.pop(_XLINK, None)
        if target is not None:
            node.set("href", f"#{short[target[1:]]}" if target.startswith("#") else target)
        for key, value in list(node.attrib.items()):
            node.set(key, re.sub(r"url\(#([^)]+)\)", lambda m: f"url(#{short[m[1]]})", value))
        if "style" in node.attrib:
            node.set("style", _adapt(node.attrib["style"]))
        for key in ("d", "x", "y"):
            if key in node.attrib:
                node.set(key, _shorten(node.attrib[key]))
        if re.match(r"rotate\(-?0 ", node.get("transform", "")):
            del node.attrib["transform"]
        if node.tag not in ("text", "tspan"):
            node.text = None
        if node.tag != "tspan":
            node.tail = None
    _drop_empty(root)
    width = float(root.get("viewBox", "0 0 0 0").split()[2])
    first, _, rest = alt.strip().partition(". ")
    ids = f"{prefix}-title", f"{prefix}-desc"
    attributes = {
        "viewBox": root.get("viewBox", ""),
        "role": "img",
        "aria-labelledby": " ".join(ids) if rest else ids[0],
        "stroke-linejoin": "round",
        "font-family": "var(--pst-font-family-base, system-ui, sans-serif)",
        # here and not in the style sheet: notebooks outside the book show it at this size too
        "style": (
            f"width:100%;min-width:{width * _NARROW:.0f}px;max-width:{width * 4 / 3:.0f}px;"
            "height:auto;background:var(--pst-color-background, #fff)"
        ),
    }
    root.attrib.clear()
    root.attrib.update({"xmlns": _SVG[1:-1]} | attributes)
    if rest:
        description = ElementTree.Element("desc", {"id": ids[1]})
        description.text = rest
        root.insert(0, description)
    title = ElementTree.Element("title", {"id": ids[0]})
    title.text = first.rstrip(".")
    root.insert(0, title)
    return ElementTree.tostring(root, encoding="unicode")


def _adapt(declarations: str) -> str:
    """A style attribute with colours as variables and without font families."""
    colours = style.page_colours()
    kept = []
    for declaration in declarations.split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if not key or key == "font-family":
            continue
        if key == "font":  # older matplotlib: [style] [weight] size family
            match = re.match(r"(?:(italic|oblique)\s+)?(?:(\w+)\s+)?([\d.]+px)", value)
            if match:
                kept += [f"font-style:{match[1]}"] if match[1] else []
                kept += [f"font-weight:{match[2]}"] if match[2] else []
                kept.append(f"font-size:{match[3]}")
                continue
        kept.append(f"{key}:{colours.get(value.lower(), value)}")
    return ";".join(kept)


def _shorten(path: str) -> str:
    """Coordinates to a hundredth of a point, on one line."""
    path = re.sub(r"-?\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), path)
    return re.sub(r"\s+", " ", path).strip()


def _drop_empty(node: ElementTree.Element) -> None:
    for child in list(node):
        _drop_empty(child)
        if child.tag in ("g", "defs") and len(child) == 0:
            node.remove(child)


def panels(
    n: int, *, columns: int = 2, height: float = 3.2, sharex: bool = False, sharey: bool = True
) -> tuple[MplFigure, list[Axes]]:
    """A figure of ``n`` small multiples, at most ``columns`` side by side.

    A single row stands one above the other on a phone, so captions speak of the first and the
    second panel, not of left and right.

    Args:
        n: number of panels.
        columns: panels in a row; three at most stay readable on a phone.
        height: of one row, in inches.
        sharex: one x axis for all.
        sharey: one y axis for all; before and after tuning need it.

    Raises:
        ValueError: ``n`` is not positive or more than three columns are asked for.
    """
    if n < 1 or not 1 <= columns <= 3:
        raise ValueError(f"panels need n ≥ 1 and 1 to 3 columns, got n={n}, columns={columns}")
    columns = min(columns, n)
    rows = math.ceil(n / columns)
    width = style.SINGLE_INCHES if columns == 1 else style.WIDE_INCHES
    fig, grid = plt.subplots(
        rows, columns, figsize=(width, height * rows), sharex=sharex, sharey=sharey, squeeze=False
    )
    axes = list(grid.flat)
    for spare in axes[n:]:
        spare.remove()
    return fig, axes[:n]


def band(
    ax: Axes, x: Sequence[float], mean: Sequence[float], low: Sequence[float],
    high: Sequence[float], key: str, **changes: Any,
) -> Line2D:  # fmt: skip
    """Draw a method's line with its interval as a band.

    Args:
        ax: where to draw.
        x: positions.
        mean: of each position.
        low: lower end of each 95 % interval.
        high: upper end of each 95 % interval.
        key: the method, see :data:`survey_lib.show.style.SERIES`.
        **changes: replace single properties of the line, such as ``label``.
    """
    look = style.line(key, **changes)
    ax.fill_between(x, low, high, color=look["color"], alpha=0.16, linewidth=0)
    return ax.plot(x, mean, **look)[0]


def keep_axis(ax: Axes, ticks: Sequence[float], label: str = "fraction kept") -> None:
    """Make x the compression axis: dense on the left, small on the right, in percent kept.

    Logarithmic where it spans more than a decade. ``ticks`` are fractions, such as 1, 0.5, 0.1.

    Raises:
        ValueError: a tick is not in (0, 1].
    """
    if not ticks or not all(0 < t <= 1 for t in ticks):
        raise ValueError(f"ticks of the compression axis must be fractions in (0, 1], got {ticks}")
    if max(ticks) > 10 * min(ticks):
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(sorted(ticks)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{number(round(100 * t, 4))} %"))
    left, right = ax.get_xlim()
    ax.set_xlim(max(left, right), min(left, right))
    ax.set_xlabel(label)


def label_ends(ax: Axes, lines: Sequence[Line2D] | None = None, *, gap: float = 10) -> None:
    """Label lines at their right ends instead of by a legend; call it last.

    Each label stands right of the axes at the height of its line's end, with the line's marker
    before it and a thin lead from the end; labels that would overlap move apart.

    Args:
        ax: the axes.
        lines: by default all whose label does not start with ``_``.
        gap: points between the axes and the labels.

    Raises:
        ValueError: more than six lines; a legend reads better then.
    """
    if lines is None:
        lines = [x for x in ax.get_lines() if not str(x.get_label()).startswith("_")]
    if len(lines) > 6:
        raise ValueError(f"{len(lines)} lines are too many to label at their ends; use a legend")
    fig: Any = getattr(ax.figure, "figure", ax.figure)  # a subfigure knows its figure
    if not lines:
        return
    fig.draw_without_rendering()  # settles the layout, so that heights are known
    box = ax.get_window_extent()
    size = mpl.rcParams["font.size"]
    pixels = fig.dpi / 72
    step = 1.3 * size * pixels
    ends = []
    for drawn in lines:
        # x and y may be masked, categorical or empty; display coordinates settle the first two
        points = ax.transData.transform(drawn.get_xydata())  # type: ignore[arg-type]
        points = points[np.isfinite(points).all(axis=1)]
        if len(points):
            ends.append((points[np.argmax(points[:, 0])], drawn))
    ends.sort(key=lambda pair: float(pair[0][1]))
    heights = _spread([float(p[1]) for p, _ in ends], step)
    if heights:  # keep the block of labels beside the axes
        up = max(0.0, box.y0 - heights[0])
        heights = [h + up - max(0.0, heights[-1] + up - box.y1) for h in heights]
    for (point, drawn), height in zip(ends, heights, strict=True):
        y = (height - box.y0) / box.height
        x = (float(point[0]) - box.x0) / box.width
        y_end = (float(point[1]) - box.y0) / box.height
        away = ax.transAxes + ScaledTranslation(gap / 72, 0, fig.dpi_scale_trans)
        start = ax.transAxes.transform((x, y_end))
        stop = away.transform((1, y))
        colour = drawn.get_color()
        if np.hypot(*(stop - start)) > 1.2 * gap * pixels:
            ax.annotate(
                "",
                xy=(x, y_end),
                xycoords="axes fraction",
                xytext=(1, y),
                textcoords=away,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.7, "shrinkA": 4,
                            "shrinkB": 4, "alpha": 0.7},
                annotation_clip=False,
            )  # fmt: skip
        marked = drawn.get_marker() not in (None, "None", "")
        sample = Line2D(
            [1], [y], transform=away, clip_on=False, linestyle="none",
            marker=drawn.get_marker() if marked else "_",
            markersize=mpl.rcParams["lines.markersize"] * (1 if marked else 1.5), color=colour,
            markerfacecolor=drawn.get_markerfacecolor(), markeredgecolor=colour,
        )  # fmt: skip
        ax.add_artist(sample)
        beside = away + ScaledTranslation(size * 0.55 / 72, 0, fig.dpi_scale_trans)
        ax.text(
            1, y, str(drawn.get_label()), transform=beside, va="center_baseline", ha="left",
            color=style.INK, clip_on=False,
        )  # fmt: skip


def _spread(wanted: list[float], step: float) -> list[float]:
    """Heights at least ``step`` apart, in the given rising order, as near as can be."""
    # least squares under an order: pool neighbours whose means, less their offsets, disagree
    blocks: list[list[float]] = []
    for i, height in enumerate(wanted):
        blocks.append([height - i * step, 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            value, count = blocks.pop()
            blocks[-1][0] = (blocks[-1][0] * blocks[-1][1] + value * count) / (
                blocks[-1][1] + count
            )
            blocks[-1][1] += count
    flat = [value for value, count in blocks for _ in range(int(count))]
    return [value + i * step for i, value in enumerate(flat)]
