import base64
import io
import re
from itertools import pairwise
from xml.etree import ElementTree

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from survey_lib.show import style
from survey_lib.show.figure import (
    HERO_PANEL_INCHES,
    _gather_definitions,
    _share_clips,
    _share_styles,
    _spread,
    adaptive_svg,
    band,
    figure,
    fit_words,
    keep_axis,
    label_ends,
    panels,
)

DATA = pd.DataFrame({"x": [1.0, 0.5, 0.1], "y": [0.9, 0.89, 0.8]})
WORDS = {"alt": "Accuracy falls. It falls <late> & fast.", "caption": "It falls late. One line."}


def drawn():
    fig, ax = plt.subplots()
    band(ax, DATA.x, DATA.y, DATA.y - 0.01, DATA.y + 0.01, "magnitude")
    ax.plot(DATA.x, [0.9] * 3, **style.line("dense"))
    ax.set_ylabel("accuracy <share>")
    return fig


def svg_of(shown):
    return ElementTree.fromstring(re.search(r"<svg.*</svg>", shown.html, flags=re.DOTALL)[0])


def test_inline_svg_follows_the_theme(opened):
    shown = figure(drawn(), "fall", data=DATA, **WORDS)
    inline = re.search(r"<svg.*</svg>", shown.html, flags=re.DOTALL)[0]
    without = re.sub(r"var\([^)]*\)", "", inline)
    assert not re.search(r"#[0-9a-f]{6}\b", without), "a colour the theme cannot change"
    for variable in (
        "--pst-color-text-base",
        "--pst-color-background",
        "--s-grid",
        "--s-magnitude",
    ):
        assert f"var({variable}, #" in inline
    declared = dict(re.findall(r"(--\d+):(var\([^)]*\))", svg_of(shown).get("style")))
    used = set(re.findall(r"var\((--\d+)\)", inline))
    assert used == set(declared), "a short name without its colour, or the other way round"
    assert len(set(declared.values())) == len(declared)
    assert "<g>" not in inline, "a group that groups nothing"
    assert "<style" not in inline, "a style element in an inline SVG styles the whole page"
    assert "DejaVu" not in inline
    assert ">accuracy &lt;share&gt;</text>" in inline


def test_inline_svg_is_an_image_with_words(opened):
    root = svg_of(figure(drawn(), "fall", data=DATA, **WORDS))
    ns = "{http://www.w3.org/2000/svg}"
    assert root.get("role") == "img"
    by_id = {node.get("id"): node for node in root.iter() if node.get("id")}
    title, desc = (by_id[i] for i in root.get("aria-labelledby").split())
    assert (title.tag, title.text) == (f"{ns}title", "Accuracy falls")
    assert (desc.tag, desc.text) == (f"{ns}desc", "It falls <late> & fast.")
    assert float(root.get("viewBox").split()[2]) == pytest.approx(72 * style.SINGLE_INCHES, abs=1)


def test_two_figures_of_a_page_share_no_id_and_every_reference_resolves(opened):
    ids = []
    for name in ("one", "two"):
        html = figure(drawn(), name, data=None, **WORDS).html
        here = re.findall(r'\bid="([^"]+)"', html)
        used = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', html)
        assert used, "the sample must hold references, or this tests nothing"
        assert {a or b for a, b in used} <= set(here)
        ids += here
    assert len(ids) == len(set(ids))


def test_files_are_kept_and_complete(opened):
    shown = figure(drawn(), "fall", data=DATA, **WORDS)
    svg, png, csv = shown.files
    assert svg.parent.name == "a_paper"
    assert "var(" not in svg.read_text(encoding="utf-8")
    assert style.SERIES["magnitude"].light in svg.read_text(encoding="utf-8")
    assert png.read_bytes()[:4] == b"\x89PNG"
    pd.testing.assert_frame_equal(pd.read_csv(csv), DATA)
    for kind in ("svg", "png", "csv"):
        assert f'href="../_static/figures/a_paper/fall.{kind}"' in shown.html
    bundle = shown._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]) == png.read_bytes()
    assert WORDS["alt"] in bundle["text/plain"]


def test_without_data_there_is_no_link_to_any(opened):
    shown = figure(drawn(), "fall", data=None, **WORDS)
    assert len(shown.files) == 2
    assert ".csv" not in shown.html


def test_the_same_figure_gives_the_same_bytes(opened):
    one, two = (figure(drawn(), "fall", data=DATA, **WORDS) for _ in range(2))
    assert one.html == two.html
    assert one.png == two.png


def test_a_usual_figure_is_light(opened):
    fig, axes = panels(2)
    x = np.geomspace(0.05, 1, 12)
    for ax in axes:
        for i, key in enumerate(("magnitude", "fisher", "thinet", "lrp", "random")):
            band(ax, x, x + i, x + i - 0.1, x + i + 0.1, key)
        label_ends(ax)
    assert len(figure(fig, "many", data=None, **WORDS).html.encode()) < 100_000


def test_figures_are_closed_even_when_refused(opened):
    for changes in ({"alt": " "}, {"caption": ""}):
        fig = drawn()
        with pytest.raises(ValueError, match=f"{next(iter(changes))} is empty"):
            figure(fig, "fall", data=DATA, **(WORDS | changes))
        assert not plt.fignum_exists(fig.number)
    with pytest.raises(ValueError, match="figure name"):
        figure(drawn(), "../fall", data=DATA, **WORDS)
    assert plt.get_fignums() == []


def test_a_figure_needs_an_open_page():
    with pytest.raises(RuntimeError, match=r"page\.begin"):
        figure(drawn(), "fall", data=DATA, **WORDS)


def test_the_hero_is_marked(opened):
    assert "survey-hero" in figure(drawn(), "fall", data=DATA, hero=True, **WORDS).html
    assert "survey-hero" not in figure(drawn(), "fall2", data=DATA, **WORDS).html


def test_seaborn_grids_are_taken_too(opened):
    import seaborn as sns

    grid = sns.displot(DATA, x="y", bins=3)
    assert "<svg" in figure(grid, "dist", data=DATA, **WORDS).html


def test_heat_maps_keep_their_colour_bar(opened):
    import seaborn as sns

    fig, ax = plt.subplots()
    sns.heatmap(DATA, ax=ax, cbar_kws={"label": "share kept"})
    assert ">share kept</text>" in figure(fig, "heat", data=DATA, **WORDS).html


def test_end_labels_keep_apart_beside_the_axes(opened):
    fig, ax = plt.subplots()
    for i, key in enumerate(("magnitude", "fisher", "thinet", "lrp", "random", "dense")):
        ax.plot([0, 1], [0, 1 + i * 0.001], **style.line(key))
    label_ends(ax)
    fig.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in ax.texts if t.get_text()), key=lambda b: b.y0)
    assert len(boxes) == 6
    frame = ax.get_window_extent()
    for low, high in pairwise(boxes):
        assert low.y1 <= high.y0 + 1
    assert all(b.x0 > frame.x1 and b.x1 <= fig.bbox.x1 + 1 for b in boxes)
    # the order of the labels is that of the ends
    labels = [t.get_text() for t in sorted(ax.texts, key=lambda t: t.get_window_extent().y0)]
    assert [x for x in labels if x] == ["magnitude", "Fisher", "ThiNet", "LRP", "random", "dense"]


def test_labels_stay_at_their_ends_where_there_is_room(opened):
    fig, ax = plt.subplots()
    ax.plot([0, 1], [0, 0], **style.line("magnitude"))
    ax.plot([0, 1], [0, 1], **style.line("fisher"))
    label_ends(ax)
    fig.draw_without_rendering()
    for text, y in zip([t for t in ax.texts if t.get_text()], (0, 1), strict=True):
        box = text.get_window_extent()
        assert (box.y0 + box.y1) / 2 == pytest.approx(ax.transData.transform((1, y))[1], abs=5)


def test_the_right_end_is_the_one_drawn_right(opened):
    fig, ax = plt.subplots()
    ax.plot([1, 0.1], [5, 0], **style.line("magnitude"))
    ax.plot([1, 0.1], [0, 5], **style.line("fisher"))
    keep_axis(ax, [1, 0.5, 0.1])
    label_ends(ax)
    fig.draw_without_rendering()
    order = sorted((t for t in ax.texts if t.get_text()), key=lambda t: t.get_window_extent().y0)
    assert [t.get_text() for t in order] == ["magnitude", "Fisher"]


def test_seven_lines_are_too_many_to_label(opened):
    _, ax = plt.subplots()
    for i in range(7):
        ax.plot([0, 1], [0, i], label=str(i))
    with pytest.raises(ValueError, match="7 lines"):
        label_ends(ax)


def test_spread_moves_as_little_as_it_must():
    assert _spread([0, 10, 20], 5) == [0, 10, 20]
    assert _spread([10, 10], 4) == [8, 12]
    assert _spread([0, 1, 50], 3) == pytest.approx([-1, 2, 50])


def test_the_compression_axis_runs_from_dense_to_small(opened):
    _, ax = plt.subplots()
    ax.plot([1, 0.5, 0.05], [1, 1, 0])
    keep_axis(ax, [1, 0.5, 0.05])
    left, right = ax.get_xlim()
    assert left > 1 > 0.05 > right
    assert ax.get_xscale() == "log"
    ax.figure.draw_without_rendering()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["5 %", "50 %", "100 %"]
    with pytest.raises(ValueError, match="fractions"):
        keep_axis(ax, [50, 100])


def test_panels_share_an_axis_and_drop_the_spare(opened):
    fig, axes = panels(3)
    assert len(axes) == len(fig.axes) == 3
    axes[0].set_ylim(0, 7)
    assert axes[1].get_ylim() == (0, 7)
    assert fig.get_size_inches()[0] == style.WIDE_INCHES
    assert panels(1)[0].get_size_inches()[0] == style.SINGLE_INCHES
    with pytest.raises(ValueError, match="columns"):
        panels(4, columns=4)


def test_band_draws_the_line_and_its_interval(opened):
    _, ax = plt.subplots()
    line = band(ax, [1, 2], [5, 6], [4, 5], [6, 7], "thinet", label="ours")
    assert line.get_label() == "ours"
    assert line.get_color() == style.SERIES["thinet"].light
    (area,) = ax.collections
    assert area.get_paths()[0].vertices[:, 1].min() == 4
    assert area.get_paths()[0].vertices[:, 1].max() == 7


def test_panels_side_by_side_stand_one_above_the_other_on_a_phone(opened):
    fig, axes = panels(2, sharey=True)
    for ax in axes:
        band(ax, [1, 0.1], [0.9, 0.5], [0.8, 0.4], [1.0, 0.6], "magnitude")
        ax.set_title("panel")
    axes[0].set_ylabel("accuracy")
    shown = figure(fig, "both", data=DATA, **WORDS)
    wide, narrow = (ElementTree.fromstring(s) for s in re.findall(r"(?s)<svg.*?</svg>", shown.html))
    size = [[float(v) for v in svg.get("viewBox").split()[2:]] for svg in (wide, narrow)]
    assert size[1][0] == pytest.approx(72 * style.NARROW_INCHES)
    assert size[1][1] == pytest.approx(2 * size[0][1])
    said = ["".join(svg.itertext()) for svg in (wide, narrow)]
    # the lower panel has a y axis of its own there, with numbers and words
    assert [text.count("accuracy") for text in said] == [1, 2]
    assert [text.count("0.7") for text in said] == [1, 2]
    ids = re.findall(r'\bid="([^"]+)"', shown.html)
    assert len(ids) == len(set(ids))
    assert 'class="survey-stacked"' in shown.html
    assert shown.png  # the file that is kept is the wide one
    assert f'viewBox="{wide.get("viewBox")}"' in shown.files[0].read_text(encoding="utf-8")


def test_single_panels_and_grids_of_rows_are_drawn_once(opened):
    for n in (1, 4):
        fig, axes = panels(n)
        for ax in axes:
            ax.plot([0, 1], [0, 1])
        shown = figure(fig, f"n{n}", data=None, **WORDS)
        assert shown.html.count("<svg") == 1
    fig, (ax, _) = panels(2)
    fig.colorbar(ax.imshow([[0, 1]]), ax=ax)  # stands beside its panel, wherever that is
    assert figure(fig, "bar", data=None, **WORDS).html.count("<svg") == 1


def texts(fig):
    """Boxes of all words of a drawn figure, in pixels."""
    fig.draw_without_rendering()
    shown = [t for t in fig.findobj(Text) if t.get_visible() and t.get_text().strip()]
    return {t.get_text(): t.get_window_extent() for t in shown}


def test_long_words_are_broken_and_stay_inside():
    style.use_style()
    fig, axes = panels(2)
    axes[0].set(
        title="a large convolutional net, pruned to the one size of its small opponent",
        xlabel="the share of all parameters that is kept, in percent of the dense net’s",
        ylabel="test accuracy minus the dense net’s own, mean over ten replicates",
    )
    axes[1].set_title("medium convolutional net, pruned to one and the same size")
    before = texts(fig)
    assert max(box.x1 for box in before.values()) > fig.bbox.x1 + 1  # it would be cut
    fit_words(fig)
    boxes = texts(fig)
    for words, box in boxes.items():
        assert box.x0 >= -1, words
        assert box.x1 <= fig.bbox.x1 + 1, words
        assert box.y0 >= -1, words
        assert box.y1 <= fig.bbox.y1 + 1, words
    first, second = (next(b for w, b in boxes.items() if w.startswith(s)) for s in ("a la", "medi"))
    assert first.x1 < second.x0
    assert "pruned to the one size of its small opponent" in " ".join("\n".join(boxes).split())


def test_numbers_at_ticks_never_touch_and_the_ends_stay():
    style.use_style()
    fig, (ax,) = panels(1)
    ticks = [1, 0.5, 0.12, 0.11, 0.1, 0.09]
    ax.plot(ticks, ticks)
    keep_axis(ax, ticks)
    fit_words(fig)
    shown = [t.label1 for t in ax.xaxis.get_major_ticks() if t.label1.get_visible()]
    assert {"100 %", "50 %", "9 %"} <= {t.get_text() for t in shown}
    boxes = sorted((t.get_window_extent() for t in shown), key=lambda box: box.x0)
    assert all(b.x0 - a.x1 >= 3 for a, b in pairwise(boxes))
    assert len(shown) < len(ticks)
    fig.set_size_inches(30, 3)
    fit_words(fig)
    again = [t.label1 for t in ax.xaxis.get_major_ticks() if t.label1.get_visible()]
    assert len(again) == len(ticks)  # with room there is no need to hide any
    names = ["a rather long name", "another rather long name", "and a third of them, also long"]
    ax.set_xticks([0.1, 0.11, 0.12], names)
    fig.set_size_inches(4, 3)
    fit_words(fig)
    assert all(t.label1.get_visible() for t in ax.xaxis.get_major_ticks())


def test_a_hero_is_low_on_a_phone_and_its_line_labels_still_do_not_overlap(opened):
    fig, axes = panels(2, height=4)
    for ax in axes:
        for i in range(6):
            ax.plot([0, 1], [0, 1 + i / 100], label=f"line {i}")
        label_ends(ax)
    shown = figure(fig, "low", data=DATA, hero=True, **WORDS)
    narrow = ElementTree.fromstring(re.findall(r"(?s)<svg.*?</svg>", shown.html)[1])
    assert float(narrow.get("viewBox").split()[3]) == pytest.approx(2 * 72 * HERO_PANEL_INCHES)
    ends = [t for t in narrow.iter() if t.tag.endswith("text") and "line" in "".join(t.itertext())]
    assert len(ends) == 12
    heights = sorted(float(t.get("y")) for t in ends)
    assert min(b - a for a, b in pairwise(heights)) > 12


def worn(node, above=()):
    """(tag, declarations) of every leaf, those of the groups around it first."""
    own = (*above, *(d for d in node.get("style", "").split(";") if d))
    if not len(node):
        return [(node.tag, node.get("x"), dict(d.split(":", 1) for d in own))]
    return [one for child in node for one in worn(child, own)]


def test_a_style_of_neighbours_is_written_once_and_worn_by_all():
    source = (
        '<g><use x="1" style="fill:red"/><use x="2" style="fill:red"/><use x="3"/>'
        '<path style="opacity:0.5"/><path style="opacity:0.5"/>'
        '<g style="fill:blue"><use x="4" style="stroke:red"/><use x="5" style="stroke:red"/></g>'
        '<text><tspan style="fill:red"/><tspan style="fill:red"/></text>'
        '<defs><path style="fill:red"/><path style="fill:red"/></defs></g>'
    )
    root = ElementTree.fromstring(source)
    before = worn(root)
    _share_styles(root)
    assert worn(root) == before
    assert ElementTree.tostring(root, encoding="unicode").count("fill:red") == 1 + 2 + 2
    assert [n.tag for n in root] == ["g", "use", "path", "path", "g", "text", "defs"]


def clipped(node, by=""):
    """(tag, x, clip path) of every leaf."""
    by = node.get("clip-path", by)
    if not len(node):
        return [(node.tag, node.get("x"), by)]
    return [one for child in node for one in clipped(child, by)]


def test_a_clip_path_of_neighbours_is_written_once_and_moves_with_none():
    source = (
        '<g><g clip-path="a"><use x="1"/></g><g clip-path="a"><use x="2"/><use x="3"/></g>'
        '<path x="4" clip-path="a"/><path x="5" clip-path="b"/><use x="6"/>'
        '<g clip-path="b" style="fill:red"><use x="7"/></g><g clip-path="b"><use x="8"/></g>'
        '<g clip-path="c" transform="translate(1 1)"><use x="9"/></g>'
        '<g clip-path="c" transform="translate(1 1)"><use x="10"/></g></g>'
    )
    root = ElementTree.fromstring(source)
    before = clipped(root)
    _share_clips(root)
    assert clipped(root) == before
    said = ElementTree.tostring(root, encoding="unicode")
    assert [said.count(f'clip-path="{c}"') for c in "abc"] == [1, 2, 2]
    assert [n.tag for n in root[0]] == ["use", "use", "use", "path"]
    assert 'style="fill:red"><use x="7"' in said


def test_definitions_stand_in_front_once():
    root = ElementTree.fromstring(
        '<svg><g><defs><path id="a"/></defs><use x="1"/></g><defs><clipPath id="b"/></defs></svg>'
    )
    _gather_definitions(root)
    assert [n.tag for n in root] == ["defs", "g"]
    assert sorted(n.get("id", "") for n in root[0]) == ["a", "b"]
    assert [n.tag for n in root[1]] == ["use"]
    bare = ElementTree.fromstring("<svg><g/></svg>")
    _gather_definitions(bare)
    assert [n.tag for n in bare] == ["g"]


def test_a_drawing_of_many_points_wears_what_matplotlib_gave_it():
    fig, ax = plt.subplots()
    ax.scatter(range(30), range(30), color="#4477aa", alpha=0.8)
    fig.savefig(file := io.BytesIO(), format="svg")
    plt.close(fig)
    svg = adaptive_svg(file.getvalue().decode(), "p", "Points.")
    assert svg.count("<use") >= 30
    assert svg.count("fill-opacity:0.8") == 1
