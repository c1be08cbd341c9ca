"""Figures: one SVG that is right in light and dark, with its PNG, its data and its words."""

import base64
import io
import itertools
import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary
from xml.etree import ElementTree
from zlib import crc32

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Tick
from matplotlib.figure import Figure as MplFigure
from matplotlib.gridspec import GridSpec
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation

from survey_lib import files
from survey_lib.show import page, style
from survey_lib.show.markup import anchor, escape, lead, number

_SVG = "{http://www.w3.org/2000/svg}"
_XLINK = "{http://www.w3.org/1999/xlink}href"
_NARROW = 0.8
"""On a narrow screen one figure point is at least this many px; below, the box scrolls."""
HERO_PANEL_INCHES = 3.1
"""On a phone a panel of the main figure is no higher: the figure belongs on the first screens."""
_END, _THINNED = "survey-line-end", "survey-thinned"
_LABELLED: WeakKeyDictionary[Axes, tuple[list[Line2D], float]] = WeakKeyDictionary()
"""Which lines :func:`label_ends` labelled, so that it can do so again at another height."""
_NUMBER = re.compile(r"[-+−]?[\d.,\u202f]+(\s?[%×a-zA-Z]{1,2})?|\$\\mathdefault\{.*\}\$")
_SPACE = 3.0
"""Pixels between the numbers at two ticks."""


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
        fit_words(fig)
        svg, png = _draw(fig, f"{slug}-{name}")
        narrow = ""
        if _stack(fig, HERO_PANEL_INCHES if hero else math.inf):
            fit_words(fig)
            narrow = _draw(fig, f"{slug}-{name}-narrow")[0]
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


def inline_figure(
    wide: MplFigure, narrow: MplFigure, prefix: str, *, alt: str, caption: str
) -> str:
    """HTML of a figure that stands in a page made without a notebook; no file is kept.

    Args:
        wide: for a screen that has room.
        narrow: for a phone.
        prefix: begins the ids of its parts; unique in the page.
        alt: what it shows, in words.
        caption: first what to see, then what is drawn.
    """
    shown = []
    for fig, name in ((wide, prefix), (narrow, f"{prefix}-n")):
        fit_words(fig)
        shown.append(adaptive_svg(_draw(fig, name)[0], name, alt))
        plt.close(fig)
    return (
        f'<figure class="survey survey-figure"><div class="survey-scroll">{shown[0]}</div>'
        f'<div class="survey-stacked" style="display:none">{shown[1]}</div>'
        f"<figcaption>{lead(caption)}</figcaption></figure>"
    )


def _draw(fig: MplFigure, salt: str) -> tuple[str, bytes]:
    """The figure as SVG text and PNG bytes; the same figure gives the same bytes."""
    svg, png = io.BytesIO(), io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none"}):
        fig.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    fig.savefig(png, format="png", metadata={"Software": None})
    return svg.getvalue().decode(), png.getvalue()


def _stack(fig: MplFigure, highest: float = math.inf) -> bool:
    """Put panels that stand side by side one above the other; False where there are none.

    Args:
        fig: the figure, which is changed.
        highest: inches that a panel may be high at most.
    """
    specs = [spec for ax in fig.axes if (spec := ax.get_subplotspec()) is not None]
    grids = [spec.get_gridspec() for spec in specs]
    if len(specs) < 2 or len(specs) < len(fig.axes) or len(set(map(id, grids))) > 1:
        return False  # one panel, or a colour bar or an inset that belongs to another
    if grids[0].nrows > 1:
        return False
    first, height = fig.axes[0], min(highest, float(fig.get_size_inches()[1]))
    below = GridSpec(len(specs), 1, figure=fig)
    for i, ax in enumerate(fig.axes):
        ax.set_subplotspec(below[i])
        if ax is not first and ax.get_shared_y_axes().joined(ax, first):
            ax.tick_params(labelleft=True)
            ax.set_ylabel(ax.get_ylabel() or first.get_ylabel())
    fig.set_size_inches(style.NARROW_INCHES, height * len(specs))
    for ax in fig.axes:  # labels at line ends were set apart for the height that the panel had
        ends = [made for made in ax.get_children() if made.get_gid() == _END]
        if ends:
            given = _LABELLED[ax]
            for made in ends:
                made.remove()
            label_ends(ax, given[0], gap=given[1])
    return True


def fit_words(fig: MplFigure) -> None:
    """Break titles and axis labels that are too long for their place; thin out crowded ticks.

    A layout makes room for the height of a title and not for its width, so that a long one ends
    beyond the figure's edge or in the next panel. Of numbers at ticks that would touch, only some
    stay, the first and the last among them.
    """
    for ax in fig.axes:
        for side in ("left", "center", "right"):
            ax.set_title(" ".join(ax.get_title(side).split()), loc=side)
        for tick in (*ax.xaxis.get_major_ticks(), *ax.yaxis.get_major_ticks()):
            if tick.label1.get_gid() == _THINNED:  # at another width
                tick.label1.set(visible=True, gid=None)
    fig.draw_without_rendering()
    right_edge = float(fig.bbox.x1)
    for ax in fig.axes:
        box = ax.get_window_extent()
        beside = [b for b in (a.get_window_extent() for a in fig.axes)
                  if b.x0 > box.x1 and b.y0 < box.y1 and b.y1 > box.y0]  # fmt: skip
        # the next panel's own labels reach out to its left
        end = min([b.x0 - 0.35 * (b.x0 - box.x1) for b in beside], default=right_edge)
        for title in (
            ax.title,
            getattr(ax, "_left_title", None),
            getattr(ax, "_right_title", None),
        ):
            if title is not None:
                _wrap(title, end - 2 - title.get_window_extent().x0, upright=False)
        across, up = _middle(box.x0, box.x1), _middle(box.y0, box.y1)
        _wrap(ax.xaxis.label, 2 * min(across, right_edge - across), upright=False)
        _wrap(ax.yaxis.label, 2 * min(up, float(fig.bbox.y1) - up), upright=True)
    fig.draw_without_rendering()
    for ax in fig.axes:
        _thin(ax.xaxis.get_major_ticks(), "x0", "x1")
        _thin(ax.yaxis.get_major_ticks(), "y0", "y1")


def _middle(low: float, high: float) -> float:
    return (low + high) / 2


def _wrap(words: Text, room: float, *, upright: bool) -> None:
    """Break a text into lines no longer than ``room`` pixels."""
    text = words.get_text()
    if not text or "$" in text or not words.get_visible():
        return

    def length() -> float:
        box = words.get_window_extent()
        return float(box.height if upright else box.width)

    longest = max(map(len, text.split("\n")))
    while length() > room and longest > 8:
        longest -= 1
        words.set_text(textwrap.fill(text, longest, break_long_words=False))


def _thin(ticks: Sequence[Tick], low: str, high: str) -> None:
    """Hide numbers at ticks until none touches its neighbour; names of rows and columns stay."""
    shown = [t for t in ticks if t.label1.get_visible() and _NUMBER.fullmatch(t.label1.get_text())]
    boxes = {id(tick): tick.label1.get_window_extent() for tick in shown}
    shown.sort(key=lambda tick: getattr(boxes[id(tick)], low))

    def touch(one: Tick, other: Tick) -> bool:
        space = getattr(boxes[id(other)], low) - getattr(boxes[id(one)], high)
        return bool(space < _SPACE)

    kept = shown[:1]
    for tick in shown[1:]:
        last = tick is shown[-1]
        while last and len(kept) > 1 and touch(kept[-1], tick):
            kept.pop().label1.set(visible=False, gid=_THINNED)
        if touch(kept[-1], tick):
            tick.label1.set(visible=False, gid=_THINNED)
        else:
            kept.append(tick)


def adaptive_svg(svg: str, prefix: str, alt: str) -> str:
    """Matplotlib's SVG as an inline one that follows the page's theme.

    Style colours become CSS variables, text takes the page's font, ids that nothing refers to
    go, and the others are told apart by ``prefix``, so that two figures in a page never share one.
    """
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r'url\(#([^)"]+)\)|href="#([^"]+)"', svg))
    referenced = {a or b for a, b in used}
    begins = f"s{np.base_repr(crc32(prefix.encode()) % 36**4, 36).lower()}"  # used thousandfold
    short = {old: f"{begins}-{i}" for i, old in enumerate(sorted(referenced))}
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
    _flatten(root)
    _gather_definitions(root)
    _share_clips(root)
    _share_styles(root)
    colours = _name_colours(root)
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
            f"height:auto;background:var(--pst-color-background, #fff);{colours}"
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


def _flatten(node: ElementTree.Element) -> None:
    """Groups that say nothing of their own go; what they hold stays in its order."""
    kept: list[ElementTree.Element] = []
    for child in node:
        _flatten(child)
        if child.tag == "g" and not child.attrib:
            kept += child
        elif len(child) or child.tag not in ("g", "defs"):
            kept.append(child)
    node[:] = kept


def _gather_definitions(root: ElementTree.Element) -> None:
    """All definitions into one group in front: where they stand says nothing, and parts neighbours.

    What refers to one is drawn in its own style, not in that of the place of the definition.
    """
    found: list[ElementTree.Element] = []
    for parent in list(root.iter()):
        for child in [c for c in parent if c.tag == "defs"]:
            parent.remove(child)
            found += child
    if found:
        group = ElementTree.Element("defs")
        group.extend(found)
        root.insert(0, group)


def _share_clips(node: ElementTree.Element) -> None:
    """Neighbours that are clipped alike get it from one group, so that it is written once.

    A clip path lies in the coordinates of what it clips: who moves those keeps it.
    """
    for child in node:
        _share_clips(child)
    kept: list[ElementTree.Element] = []
    for clip, run in itertools.groupby(
        node, key=lambda child: None if "transform" in child.attrib else child.get("clip-path")
    ):
        alike = list(run)
        if clip and len(alike) > 1:
            group = ElementTree.Element("g", {"clip-path": clip})
            for child in alike:
                del child.attrib["clip-path"]
                group.extend([child] if child.attrib or child.tag != "g" else list(child))
            alike = [group]
        kept += alike
    node[:] = kept


def _share_styles(node: ElementTree.Element) -> None:
    """Neighbours of one style get it from a group around them, so that it is written once.

    Opacity of a whole is none of its parts', and what a clip path or a text holds is no group's.
    """
    for child in node:
        _share_styles(child)
    if node.tag in ("defs", "clipPath", "text"):
        return
    kept: list[ElementTree.Element] = []
    for worn, run in itertools.groupby(node, key=lambda child: child.get("style")):
        alike = list(run)
        if worn and len(alike) > 1 and not re.search(r"(^|;)opacity:", worn):
            for child in alike:
                del child.attrib["style"]
            group = ElementTree.Element("g", {"style": worn})
            group.extend(alike)
            alike = [group]
        kept += alike
    node[:] = kept


def _name_colours(root: ElementTree.Element) -> str:
    """Give each colour of the page a short name in the drawing; returns their declarations."""
    names: dict[str, str] = {}
    for node in root.iter():
        if "style" in node.attrib:
            node.set("style", re.sub(
                r"var\([^()]*\)", lambda m: f"var({names.setdefault(m[0], f'--{len(names)}')})",
                node.attrib["style"],
            ))  # fmt: skip
    return "".join(f"{short}:{colour};" for colour, short in names.items())


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
    _LABELLED[ax] = list(lines), gap
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
                gid=_END,
            )  # fmt: skip
        marked = drawn.get_marker() not in (None, "None", "")
        sample = Line2D(
            [1], [y], transform=away, clip_on=False, linestyle="none",
            marker=drawn.get_marker() if marked else "_",
            markersize=mpl.rcParams["lines.markersize"] * (1 if marked else 1.5), color=colour,
            markerfacecolor=drawn.get_markerfacecolor(), markeredgecolor=colour, gid=_END,
        )  # fmt: skip
        ax.add_artist(sample)
        beside = away + ScaledTranslation(size * 0.55 / 72, 0, fig.dpi_scale_trans)
        ax.text(
            1, y, str(drawn.get_label()), transform=beside, va="center_baseline", ha="left",
            color=style.INK, clip_on=False, gid=_END,
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
