import dataclasses
import re
from html.parser import HTMLParser

import pytest

from survey_lib.cards.card import GROUPS, SITUATIONS, Claim, Reported, read_card, slugs
from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import (
    INCONCLUSIVE,
    NOT_REPRODUCED,
    NOT_TESTED,
    REPRODUCED,
    Verdict,
)
from survey_lib.publish import overview
from survey_lib.publish.layout import PublishError
from survey_lib.publish.papers_map import map_figure

EVIL = '<script>alert("x")</script>'
VOID = {"br", "img", "hr", "input", "meta", "link"}


class Balance(HTMLParser):
    """Fails on tags that are not closed in order; gathers links and ids."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.ids, self.names = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.names.append(tag)
        found = dict(attrs)
        self.links += [found["href"]] if "href" in found else []
        self.ids += [found["id"]] if "id" in found else []

    def handle_endtag(self, tag):
        assert self.open
        assert self.open.pop() == tag


def parsed(markup):
    parser = Balance()
    parser.feed(markup)
    parser.close()
    assert parser.open == []
    return parser


def claim(claim_id="a-claim", **changes):
    rule = ("Small wins", "Table 1", "gain", "gain", (0.0, None), "+1")
    base = Claim(claim_id, "Small", "paper", *rule, unit="points")
    return dataclasses.replace(base, **changes)


def verdict(claim_id, word):
    interval = None if word == NOT_TESTED else Interval(1.1, 0.8, 1.4, 5)
    return Verdict(claim(claim_id), word, interval)


@pytest.fixture
def evil():
    """A card that holds a script wherever a text may stand."""
    return dataclasses.replace(
        read_card("thinet"),
        title=f"Title {EVIL} with *stars* and $dollars$",
        headline=f"Headline {EVIL}",
        gist=f"Gist {EVIL} with *emphasis*.\n\nMore.",
        venue=EVIL,
        code=f'https://x/"{EVIL}',
        tags=(EVIL,),
        corrections=(f"Correction {EVIL}",),
        reported=(Reported("t", f"Caption {EVIL}", EVIL, (EVIL, "b"), ((EVIL, 1.5),)),),
        claims=(
            claim(sentence=f"Sentence {EVIL}", expected=EVIL, where=EVIL, measures=EVIL, unit=EVIL),
        ),
    )


def every_card():
    return [read_card(slug) for slug in slugs()]


def test_the_map_holds_each_paper_once_in_its_group_and_links_only_built_ones():
    page = overview.map_markdown(every_card(), {"to_prune_or_not"})
    assert re.findall(r"(?m)^### (.+)$", page) == list(GROUPS)
    found = parsed(page)
    assert sorted(found.ids) == sorted(f"paper-{slug}" for slug in slugs())
    chapters = [address for address in found.links if "notebooks" in address]
    assert chapters == ["../notebooks/to_prune_or_not.html"]
    papers = {address for address in found.links if address.startswith("papers/")}
    assert papers == {f"papers/{slug}.html" for slug in slugs() if slug != "to_prune_or_not"}
    for card in every_card():
        part = page.split(f'id="paper-{card.slug}"')[1].split("</li>")[0]
        assert str(card.year) in part
        assert ("planned" in part) == (card.slug != "to_prune_or_not")
    bits = page.split("### Bits")[1].split("###")[0]
    assert "LLM.int8()" in bits
    assert "ThiNet" not in bits
    assert ">ready</span>" in page


def test_a_whole_book_does_not_say_of_each_chapter_that_it_is_ready():
    cards = every_card()
    assert ">ready</span>" not in overview.map_markdown(cards, set(slugs()))
    assert "hollow" in map_figure(cards, {"thinet"})
    assert "hollow" not in map_figure(cards, set(slugs()))


def test_the_table_of_situations_comes_from_the_cards_with_ready_chapters_first():
    page = overview.which_markdown(every_card(), {"thinet", "llm_int8"})
    rows = dict(
        re.findall(r'<th scope="row">([^<]+)</th><td><ul>(.*?)</ul></td>', page, flags=re.DOTALL)
    )
    assert list(rows) == [SITUATIONS[key] for key in SITUATIONS]
    fast = rows[SITUATIONS["faster"]]
    assert fast.startswith('<li class="ready"><a href="../notebooks/thinet.html">ThiNet</a>: takes')
    assert (
        '<a href="papers/group_fisher.html">Group Fisher pruning</a> <span class="state">' in fast
    )
    assert len(re.findall("<li ", page)) == sum(len(card.helps) for card in every_card())
    for card in every_card():
        assert card.helps, f"{card.slug} helps nobody"
    evil = dataclasses.replace(every_card()[0], helps={"file": EVIL}, short=EVIL)
    assert "<script" not in overview.which_markdown([evil], set())


def test_the_figure_of_the_map_shows_each_paper_at_its_year_with_its_mark():
    cards = every_card()
    page = map_figure(cards, {"thinet"})
    wide, narrow = re.findall(r"(?s)<svg.*?</svg>", page)
    for svg in (wide, narrow):
        assert len(re.findall(r"<a href=", svg)) == len(cards)
        assert svg.count('class="ready"') == 1
        assert '<a href="../notebooks/thinet.html" class="ready"' in svg
        assert 'aria-label="Rethinking pruning, 2018, after training, planned"' in svg
        corners = [points.count(",") for points in re.findall(r'<polygon points="([^"]+)"', svg)]
        assert svg.count("<circle") == sum(c.when == "while it trains" for c in cards)
        assert corners.count(3) == sum(c.when == "after training" for c in cards)
        # older papers stand further to the left, whatever their row
        pattern = r'aria-label="([^,"]+)[^"]*"><title>.*?<text[^>]* x="([\d.]+)"'
        at = {name: float(x) for name, x in re.findall(pattern, svg)}
        assert at["ThiNet"] < at["Rethinking pruning"] < at["LLM.int8()"]
    assert "<script" not in map_figure(
        [dataclasses.replace(cards[0], headline=EVIL, short=EVIL)], set()
    )
    assert map_figure([dataclasses.replace(cards[0], when="")], set()) == ""


def test_within_a_group_older_papers_come_first():
    page = overview.map_markdown(every_card(), set())
    channels = page.split("### Pruning channels")[1].split("###")[0]
    years = [int(year) for year in re.findall(r'class="year">(\d+)<', channels)]
    assert len(years) >= 5
    assert years == sorted(years)


def test_the_scoreboard_counts_words_and_links_each_claim():
    board = overview.scoreboard_markdown(
        {
            "to_prune_or_not": [
                verdict("one", REPRODUCED),
                verdict("two", NOT_REPRODUCED),
                verdict("three", REPRODUCED),
            ],
            "thinet": [verdict("four", INCONCLUSIVE), verdict("five", NOT_TESTED)],
            "rethinking": [],
        }
    )
    assert "5 claims of the papers in 2 chapters" in board
    for words in ("2 reproduced", "1 not reproduced", "1 inconclusive", "1 not tested here"):
        assert f"</span> {words}</span>" in board
    found = parsed(board)
    assert "../notebooks/to_prune_or_not.html#verdict-two" in found.links
    assert "../notebooks/thinet.html#verdict-five" in found.links
    assert not any("rethinking" in address for address in found.links)
    row = board.split("<tr>")[2]
    assert re.findall(r'<td class="num">(\d)</td>', row) == ["2", "1", "0", "0"]
    assert 'aria-label="not reproduced: Small">✗</a>' in row
    assert "not counted" not in board
    assert "\n\n" not in board.strip()  # a blank line would end the block of HTML


def test_the_scoreboard_counts_the_papers_claims_and_names_the_others_apart():
    others = [
        Verdict(claim("mine", kind="ours"), REPRODUCED),
        Verdict(claim("sum", kind="arithmetic"), REPRODUCED),
        Verdict(claim("sum-too", kind="arithmetic"), REPRODUCED),
    ]
    board = overview.scoreboard_markdown({"thinet": [verdict("one", NOT_REPRODUCED), *others]})
    assert "1 claim of the papers in 1 chapter" in board
    assert "</span> 0 reproduced</span>" in board
    assert "Judged too, and not counted: 1 of ours and 2 by arithmetic." in board
    assert [a for a in parsed(board).links if "#" in a] == ["../notebooks/thinet.html#verdict-one"]


def test_a_chapter_of_no_paper_has_no_row_and_its_questions_are_named_apart():
    own = [
        Verdict(claim("x", kind="ours"), REPRODUCED),
        Verdict(claim("y", kind="ours"), NOT_TESTED),
    ]
    board = overview.scoreboard_markdown(
        {"thinet": [verdict("one", REPRODUCED)], "common_testbed": own}
    )
    assert "1 claim of the papers in 1 chapter" in board
    assert "not counted: 2 of ours" in board
    assert "common_testbed" not in board


def test_the_scoreboard_of_nothing_says_so():
    assert overview.scoreboard_markdown({}) == "No chapter has verdicts yet.\n"
    assert overview.scoreboard_markdown({"thinet": []}) == "No chapter has verdicts yet.\n"


def test_a_scoreboard_escapes_claims():
    shown = [Verdict(claim(sentence=EVIL), INCONCLUSIVE, Interval(0, -1, 1, 5))]
    assert "<script" not in overview.scoreboard_markdown({"thinet": shown})


def test_scripts_in_a_card_are_shown_as_words(evil):
    for page in (overview.papers_markdown(evil), overview.map_markdown([evil], set())):
        assert "<script" not in page
        assert "&lt;script&gt;" in page
        parsed(page)
    page = overview.papers_markdown(evil)
    # title, headline, gist, venue, tag, code address, caption, source, column, cell, sentence,
    # expected, where, measures, unit, correction: each is there, none as a tag
    assert page.count("&lt;script&gt;") >= 16
    assert page.startswith("# Title &lt;script&gt;")
    assert r"\*stars\* and \$dollars\$" in page.splitlines()[0]
    assert "with <em>emphasis</em>." in page


def test_an_address_that_runs_code_becomes_no_link():
    card = dataclasses.replace(read_card("thinet"), code="javascript:alert(1)")
    assert not any("javascript" in a for a in parsed(overview.papers_markdown(card)).links)


@pytest.mark.parametrize("slug", slugs())
def test_the_page_of_a_paper_holds_the_whole_card(slug):
    card = read_card(slug)
    page = overview.papers_markdown(card)
    found = parsed(page)
    assert [i for i in found.ids if i.startswith("claim-")] == [
        f"claim-{c.id}" for c in card.claims
    ]
    assert len(set(found.ids)) == len(found.ids)
    assert found.names.count("table") == len(card.reported) + 1
    assert re.findall(r"(?m)^#+ .*$", page)[0] == f"# {overview.markdown(card.title)}"
    assert page.count("† not checked") == sum(bool(table.unverified) for table in card.reported)
    last = page.split("## The card as received")[1]
    assert last.count("<li>") == len(card.corrections)
    if "<details>" in last:
        folded = last.split("<details>")[1].split("</details>")[0]
        assert "**Gist**" in folded
        assert "\n" not in folded
    # outside of HTML a line that starts with a tag would start a block that ends at a blank line
    for block in page.split("\n\n"):
        if block.startswith("<"):
            parsed(block)


def test_unchecked_columns_carry_the_dagger_and_others_do_not():
    page = overview.papers_markdown(read_card("thinet"))
    checked, unchecked = page.split("<table")[1], page.split("<table")[2]
    assert "dagger" not in checked
    assert "67" in unchecked.split("dagger")[0]
    card = read_card("thinet")
    half = dataclasses.replace(card.reported[0], unverified=("top-5 (%)",))
    page = overview.papers_markdown(dataclasses.replace(card, reported=(half,)))
    assert page.count('class="dagger"') == len(half.rows)


def test_the_papers_digits_are_shown_as_they_are():
    page = overview.papers_markdown(read_card("thinet"))
    first = page.split("<table")[1]
    cells = re.findall(r'<td class="num"[^>]*>([^<]*)<', first)
    assert {"69.80", "138.24", "1.32", "30.94"} <= set(cells)
    speed = overview.papers_markdown(read_card("llm_int8")).split("<table")[3]
    assert re.findall(r'class="num"[^>]*>([\d.]+)</td>', speed)[:2] == ["0.14", "0.51"]


def test_claims_show_rule_expectation_and_dispute():
    page = overview.papers_markdown(read_card("thinet"), {"closer_look": []})
    row = page.split('id="claim-tuned-beats-scratch"')[1].split("</tr>")[0]
    assert "≥ 0 points" in row
    assert "planned" in row
    assert "rethinking.html#claim-scratch-b-not-worse" in row
    assert "../../notebooks/closer_look.html#verdict-scratch-beats-pruned" in row
    page = overview.papers_markdown(read_card("llm_int8"))
    row = page.split('id="claim-outliers-emerge-with-scale"')[1].split("</tr>")[0]
    assert "not tested here" in row
    assert "13 billion" in row
    assert "planned" not in row


def test_links_between_pages_of_papers_lead_to_a_row():
    pages = {slug: parsed(overview.papers_markdown(read_card(slug))) for slug in slugs()}
    between = 0
    for found in pages.values():
        for address in found.links:
            inside = re.fullmatch(r"(\w+)\.html#(.+)", address)
            if inside:
                between += 1
                assert inside[2] in pages[inside[1]].ids
    assert between >= 5


def test_a_card_that_was_never_received_says_so(evil):
    page = overview.papers_markdown(dataclasses.replace(evil, slug="the_fourteenth"))
    assert "joined the survey later" in page
    assert "<details>" not in page


def test_a_landing_page_is_filled_at_its_marks():
    page = f"# Title\n\n{overview.MAP}\n\nBetween.\n\n{overview.SCOREBOARD}\n\n{overview.WHICH}\n"
    shown = {"thinet": [verdict("four", INCONCLUSIVE)]}
    filled = overview.fill_landing(page, every_card(), shown, {"thinet"})
    assert "<!--" not in filled
    assert (
        filled.index("### Bits") < filled.index("Between.") < filled.index("1 claim of the papers")
    )
    assert filled.startswith('# Title\n\n<figure class="survey')
    assert "A file has to be smaller." in filled
    for wrong in ("# Title\n", page + overview.MAP):
        with pytest.raises(PublishError, match="must hold the line <!-- survey: map --> once"):
            overview.fill_landing(wrong, every_card(), shown, set())
