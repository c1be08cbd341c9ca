"""The closing page: sentences that stand on verdicts, and fall with them."""

import re

import pytest

from survey_lib.cards.card import read_card
from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import Verdict
from survey_lib.publish import advice, layout
from survey_lib.publish.layout import PublishError

CLAIM = "thinet/choice-fades"
TREE = f"""
ask: What is it?
ways:
  - if: It is <slow>
    say:
      - text: Do this with `one` thing.
        rests: {{{CLAIM}: reproduced}}
      - thin: Nobody knows more.
    ask: And then?
    ways:
      - if: This
        say: [{{thin: Not that either.}}]
"""


def judged(word="reproduced"):
    claim = read_card("thinet").claim("choice-fades")
    return {"thinet": [Verdict(claim, word, interval=Interval(0.01, 0.0, 0.02, 5))]}


@pytest.fixture
def tree(tmp_path):
    def write(text=TREE):
        path = tmp_path / "advice.yml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_sentence_stands_with_its_verdict_and_number(tree):
    page = advice.fill(f"# Page\n\n{advice.MARK}\n", tree(), judged())
    assert page.startswith("# Page\n\n<div")
    assert page.count("<details><summary>") == 2 == page.count("</details>")
    assert "<summary>It is &lt;slow&gt;</summary>" in page
    assert "Do this with <code>one</code> thing." in page
    [row] = re.findall(r'<ul class="rests">(.*?)</ul>', page)
    assert '<a href="../notebooks/thinet.html#verdict-choice-fades">' in row
    assert "reproduced" in row
    assert "+1.0" in row
    assert row.index("Tuning levels the choice") < row.index("+1.0") < row.index("ThiNet")
    assert "<strong>Not known here.</strong> Nobody knows more." in page
    assert "\n\n" not in page.split("\n\n", 1)[1], "a blank line would end the block"
    assert advice.fill("# Page without it", tree(), judged()) == "# Page without it"


def test_what_the_root_says_is_the_finding_of_another_page(tree):
    at_root = f"say: [{{text: It comes to this. And more., rests: {{{CLAIM}: reproduced}}}}]"
    said = TREE.replace("ask: What", f"{at_root}\nask: What")
    page = advice.fill(f"# Page\n\n{advice.FINDING}\n\nMore.\n", tree(said), judged())
    [row] = re.findall(r'<ul class="rests">(.*?)</ul>', page)
    assert "<strong>It comes to this.</strong> And more." in page
    assert "+1.0" in row
    assert "<details>" not in page
    assert page.endswith("</div>\n\nMore.\n")
    assert "It comes to this." not in advice.fill(advice.MARK, tree(said), judged())
    with pytest.raises(PublishError, match="give the root a 'say'"):
        advice.fill(advice.FINDING, tree(), judged())
    with pytest.raises(PublishError, match="'It comes to this"):
        advice.fill(advice.FINDING, tree(said), judged("inconclusive"))


def test_another_word_stops_the_page(tree):
    with pytest.raises(PublishError, match="thinet/choice-fades as 'reproduced', which is 'inc"):
        advice.fill(advice.MARK, tree(), judged("inconclusive"))
    with pytest.raises(PublishError, match="which is 'not judged' now"):
        advice.fill(advice.MARK, tree(), {})
    with pytest.raises(PublishError, match="thinet/no-such, which is no claim"):
        advice.fill(advice.MARK, tree(TREE.replace(CLAIM, "thinet/no-such")), judged())


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("Nobody knows", "Only 3 know", "holds a digit"),
        ("    ask: And then?\n", "", "both 'ask' and 'ways'"),
        ("        rests: {thinet/choice-fades: reproduced}\n", "", "needs 'text' and the claims"),
        ("{thinet/choice-fades: reproduced}", "{}", "needs 'text' and the claims"),
        ("  - if: It is <slow>", "  - of: It is", "unknown field 'of'"),
        ("[{thin: Not that either.}]", "[]", "'This' says nothing"),
        ("It is <slow>", "''", "must be words"),
    ],
)
def test_a_tree_that_is_none_is_told_in_a_sentence(old, new, told, tree):
    assert old in TREE
    with pytest.raises(PublishError, match=told):
        advice.read(tree(TREE.replace(old, new)))


def test_the_book_says_what_its_studies_say():
    from survey_lib.experiments import EXPERIMENTS, judging

    tree = advice.read(layout.root() / "book" / advice.FILE)
    named = {name.split("/")[0] for s in advice.sentences(tree) for name, _ in s.rests}
    listed = set(layout.slugs())
    assert named <= listed, "advice rests on chapters that are not in the book"
    verdicts = {slug: judging.verdicts(slug) for slug in EXPERIMENTS if slug in named}
    assert advice.stale(tree, verdicts) == []
    assert named == listed, "a chapter that no advice rests on"
    thin = [s for s in advice.sentences(tree) if not s.rests]
    assert thin, "where the book does not know, it says so"
