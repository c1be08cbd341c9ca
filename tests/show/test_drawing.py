"""The drawings of the methods: parts, layout, and that each chapter has one of its own."""

import importlib
import re
from xml.etree import ElementTree

import pytest

from survey_lib.publish import layout
from survey_lib.show import drawing as parts
from survey_lib.show import style
from survey_lib.show.drawing import Stage, drawing

WORDS = {"alt": "Two tiles. One <goes> & one stays.", "caption": "One goes. Dashed: gone."}


def stages(title="looked at"):
    tiles = (parts.channel(0, 0, "kept", key="thinet", label="<1>"), parts.channel(30, 0, "gone"))
    return [Stage(title, "Two of them.", tiles), Stage("gone", "One.", tiles[1:])]


def svgs(made):
    return [ElementTree.fromstring(text) for text in re.findall(r"(?s)<svg.*?</svg>", made.html)]


def texts(svg):
    return ["".join(t.itertext()) for t in svg.iter() if t.tag.endswith("}text")]


@pytest.mark.parametrize("slug", layout.chapters())
def test_every_chapter_has_a_drawing_that_says_what_goes(slug):
    made = importlib.import_module(f"survey_lib.show.drawings.{slug}").draw()
    assert made.slug == slug
    wide, narrow = svgs(made)
    width = float(wide.get("viewBox").split()[2])
    assert width <= 700
    assert float(narrow.get("viewBox").split()[2]) <= 320
    assert made.alt.split(". ")[0] == wide[0].text
    assert len(made.alt) > 150
    said = texts(wide)
    assert [t.split(":")[0] for t in said if ": " in t][:1] == ["looked at"]
    assert any(t.startswith("scored: ") for t in said)
    assert any(t.startswith("what goes: ") for t in said)
    # no colour is fixed: each follows the page's theme
    assert not re.search(r'(?:fill|stroke)="#', made.html)


@pytest.mark.parametrize("slug", layout.chapters())
def test_no_two_drawings_share_a_picture(slug):
    def pictures(name):
        made = importlib.import_module(f"survey_lib.show.drawings.{name}").draw()
        return set(re.findall(r'<g transform="translate\([^"]*\)">((?:(?!</?g).)*)</g>', made.html))

    mine = pictures(slug)
    assert len(mine) >= 3
    for other in layout.chapters():
        assert other == slug or not mine & pictures(other)


def test_words_are_escaped_and_ids_are_unique_in_both_widths():
    made = drawing("x", stages(), **WORDS)
    assert "<goes>" not in made.html
    assert "&lt;1&gt;" in made.html
    ids = re.findall(r'\bid="([^"]+)"', made.html)
    assert len(ids) == len(set(ids)) == 4
    wide, narrow = svgs(made)
    assert wide[1].text == "One <goes> & one stays."
    # a phone has the pictures one above the other
    assert float(narrow.get("viewBox").split()[3]) > 1.5 * float(wide.get("viewBox").split()[3])
    assert made._repr_mimebundle_()["text/plain"].endswith(WORDS["alt"])


def test_a_part_that_goes_is_told_by_more_than_its_colour():
    gone, kept = parts.channel(0, 0, "gone"), parts.channel(0, 0, "kept", key="int8")
    assert "stroke-dasharray" in gone
    assert gone.count("<line") == 2
    assert "stroke-dasharray" not in kept
    assert style.css("int8") in kept
    assert "stroke-dasharray" in parts.weight(0, 0, 9, 9, state="gone")
    assert "stroke-dasharray" in parts.score(0, 50, 20, "gone")


def test_a_bar_below_the_line_is_as_long_as_one_above():
    up, down = parts.score(0, 50, 20), parts.score(0, 50, -20)
    assert 'y="30.0"' in up
    assert 'y="50.0"' in down
    assert up.count('height="20.0"') == down.count('height="20.0"') == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alt": " "}, "needs alt text"),
        ({"caption": ""}, "needs alt text"),
        ({"stages": stages()[:1]}, "has 1 pictures"),
        ({"stages": stages("a heading that is much too long to fit")}, "would be cut"),
    ],
)
def test_a_drawing_that_would_not_do_is_refused(change, message):
    given = {"stages": stages()} | WORDS | change
    with pytest.raises(ValueError, match=message):
        drawing("x", given.pop("stages"), **given)


def test_an_unknown_state_is_refused():
    with pytest.raises(ValueError, match="no state 'lost'"):
        parts.channel(0, 0, "lost")
