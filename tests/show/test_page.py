import json
import re
from dataclasses import replace

import pytest

from survey_lib import files
from survey_lib.cards.card import Difference, read_card
from survey_lib.publish import layout
from survey_lib.show import page

from .conftest import verdict


@pytest.fixture
def verdicts():
    return [
        verdict([0.01, 0.012, 0.011, 0.013, 0.012], ident="a-mlp", title="A & small", unit="nats"),
        verdict(
            [-0.3, -0.31, -0.29, -0.3, -0.3], ident="b", sentence="B & <i>C</i>", kind="arithmetic"
        ),
        verdict([], ident="c", not_tested="too large"),
    ]


def test_the_panel_escapes_whatever_a_card_holds(opened, card, verdicts):
    html = page.card_panel(verdicts, card=card).html
    assert "<script" not in html
    assert "<b>" not in html
    assert "<i>" not in html
    assert "javascript:" not in html
    assert "Fewer &amp; smaller &lt;script&gt;" in html
    assert "B &amp; &lt;i&gt;C" in html


def test_the_first_tested_claims_are_large_and_the_others_stand_in_a_row(opened, card, verdicts):
    html = page.card_panel(verdicts, card=card).html
    large, row = html.split('<ul class="survey-more"')
    assert re.findall(r'<a class="survey-chip ([\w-]+)" href="#([\w-]+)"', large) == [
        ("reproduced", "verdict-a-mlp")
    ]
    assert re.findall(r'<a class="([\w-]+)" href="#([\w-]+)"', row) == [
        ("not-tested-here", "verdict-c"),
        ("not-reproduced", "verdict-b"),  # the paper's own claims come first
    ]
    told = "2 claims of the paper: 1 reproduced, 1 not tested here; 1 by arithmetic"
    assert f"Put to the test: {told}</p>" in html
    assert re.search(r"✓</span> reproduced", large)
    assert re.search(r"✗</span><span class=\"visually-hidden\">not reproduced: ", row)
    assert '<span class="name">A &amp; small</span>' in large
    assert re.search(r"\+0\.0116 nats .*\[\+0\.010[0-9], \+0\.01[0-9]+\]", large)
    assert "nats" not in row


def test_many_more_claims_stand_behind_a_line_that_counts_them(opened, card):
    found = [0.2] * 5 + [-0.2] * 3
    made = [verdict([v] * 5, ident=f"c{i}") for i, v in enumerate(found)]
    few = page.card_panel(made, card=card).html
    assert '<details class="survey-rest"' not in few  # five beside the three large ones
    made += [verdict([], ident=f"n{i}", not_tested="too large") for i in range(2)]
    many = page.card_panel(made, card=card).html
    rest = many.split('<details class="survey-rest">')[1]
    line = re.sub("<[^>]+>", "", rest.split("</summary>")[0])
    assert line == "7 more claims: ✓ 2 reproduced, ✗ 3 not reproduced, – 2 not tested here"
    assert rest.split("</details>")[0].count("<li>") == 7


def test_large_claims_are_the_cards_first_three_whatever_came_out():
    made = [verdict([], ident="x", not_tested="too large")] + [
        verdict([v, v, v, v, v], ident=f"c{i}", unit="share of images", kind=kind)
        for i, (v, kind) in enumerate(
            [(-0.2, "paper"), (0.3, "ours"), (0.1, "paper"), (0.4, "paper"), (0.5, "paper")]
        )
    ]
    assert [v.claim.id for v in page.decisive(made)] == ["c0", "c2", "c3"]
    assert [v.claim.id for v in page.decisive([v for v in made if v.claim.kind == "ours"])] == [
        "c1"
    ]
    assert page.decisive(made[:1]) == []


def test_the_panel_holds_the_papers_facts(opened, card, verdicts):
    html = page.card_panel(verdicts, card=card).html
    for part in ("https://arxiv.org/abs/1710.01878", "https://doi.org/10.1/x", "2017",
                 "Cut it &amp; keep it.", "tiny; the paper: large", "pruning"):  # fmt: skip
        assert part in html
    head = page.card_panel(verdicts, card=card, facts=False).html
    assert "arxiv.org" not in head
    assert '<ul class="survey-strip">' in head
    facts = page.facts_panel(card).html
    assert "arxiv.org" in facts
    assert '<ul class="survey-strip">' not in facts


def test_the_box_says_what_is_faithful_and_what_differs(opened, card):
    assert "survey-faithful" not in page.facts_panel(card).html  # the card says nothing
    told = replace(card, faithful=("As <b>printed</b>.",), differs=(Difference("Less.", "Time."),))
    html = page.facts_panel(told).html
    box = html[html.index('<div class="survey-faithful">') :]
    assert "<li>As &lt;b&gt;printed&lt;/b&gt;.</li>" in box
    assert '<li>Less. <span class="why">Time.</span></li>' in box
    assert "<details>" not in box


@pytest.mark.parametrize(("lines", "shown"), [(5, 5), (6, 4), (12, 4)])
def test_a_long_list_of_differences_is_folded_and_counted(opened, card, lines, shown):
    many = tuple(Difference(f"Line {i}.", "Time.") for i in range(lines))
    html = page.facts_panel(replace(card, differs=many)).html
    box = html[html.index('<div class="survey-faithful">') :]
    first, _, rest = box.partition("<details>")
    assert first.count('class="why"') == shown
    assert rest.count('class="why"') == lines - shown
    assert rest.startswith(f"<summary>{lines - shown} more</summary>" if rest else "")


@pytest.mark.parametrize("slug", layout.chapters())
def test_every_chapters_card_fills_the_box(slug):
    card = read_card(slug)
    assert len(card.faithful) >= 3
    assert len(card.differs) >= 3
    for line in (*card.faithful, *(part for one in card.differs for part in (one.what, one.why))):
        assert line.endswith("."), line


def test_badges_lead_to_this_repository(opened, card, verdicts, monkeypatch, tmp_path):
    (tmp_path / "_config.yml").write_text(
        "repository: {url: 'https://github.com/me/mine/', branch: dev}\n", encoding="utf-8"
    )
    monkeypatch.setattr(files, "repository", lambda: tmp_path)
    html = page.facts_panel(card).html
    assert (
        "https://colab.research.google.com/github/me/mine/blob/dev/notebooks/a_paper.ipynb" in html
    )
    assert "https://github.com/me/mine/blob/dev/survey_lib/methods/a_paper.py" in html
    monkeypatch.setattr(files, "repository", lambda: None)
    assert page.REPOSITORY_DEFAULT in page.facts_panel(card).html


def test_a_broken_config_is_named(monkeypatch, tmp_path):
    (tmp_path / "_config.yml").write_text("repository: [1, 2]\n", encoding="utf-8")
    monkeypatch.setattr(files, "repository", lambda: tmp_path)
    with pytest.raises(ValueError, match=r"_config\.yml: field 'repository'"):
        page.repository()


def test_the_cost_comes_from_the_last_run_and_can_be_filled_in_later(opened, card):
    assert '<span class="survey-cost"></span>' in page.facts_panel(card).html
    path = files.build_dir() / "execute" / "a_paper.json"
    files.write_atomic(path, json.dumps({"seconds": 94.6}))
    html = page.facts_panel(replace(card, download_bytes=92_000_000)).html
    assert "runs in 95 s · downloads 92 MB" in html
    later = page.fill_cost(html, 12.2, 0)
    assert '<span class="survey-cost">runs in 12 s</span>' in later
    files.write_atomic(path, "{not json")
    assert '<span class="survey-cost"></span>' in page.facts_panel(card).html


def test_begin_forgets_the_page_before(opened, verdicts):
    page.remember(verdicts)
    page.begin("other", "smoke")
    assert (page.CONTEXT.slug, page.CONTEXT.profile) == ("other", "smoke")
    assert page.CONTEXT.verdicts == {}


@pytest.mark.parametrize(("slug", "profile"), [("a/b", "quick"), ("", "quick"), ("a", "fast")])
def test_begin_refuses_what_it_does_not_know(slug, profile):
    with pytest.raises(ValueError, match=r"slug must|profile must"):
        page.begin(slug, profile)


def test_a_page_of_no_paper_counts_its_own_questions(opened, card):
    shown = [verdict([0.01, 0.012, 0.011, 0.013, 0.012], ident="a", title="A", kind="ours"),
             verdict([], ident="b", not_tested="later", kind="ours")]  # fmt: skip
    html = page.card_panel(shown, card=card).html
    assert "2 questions of this survey: 1 reproduced, 1 not tested here</p>" in html
    assert "of the paper" not in html
    assert "survey-chip reproduced" in html
