import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_lib import files
from survey_lib.cards import card as cards
from survey_lib.cards.card import GROUPS, CardError, parse_card, read_card, received, slugs
from survey_lib.experiments import EXPERIMENTS
from tests.damage import any_deep, as_json, cut, damaged, one_sentence

GOOD = read_card("to_prune_or_not")


def text(**changes):
    """The real card's text with front-matter fields changed; None removes one."""
    from survey_lib.cards.card import card_path

    head, gist = card_path("to_prune_or_not").read_text().split("\n---\n", 1)
    front = yaml.safe_load(head[4:])
    for key, value in changes.items():
        if value is None:
            del front[key]
        else:
            front[key] = value
    return "---\n" + yaml.safe_dump(front, allow_unicode=True) + "\n---\n" + gist


def claim(**changes):
    front = yaml.safe_load(text().split("\n---\n")[0][4:])
    return [front["claims"][0] | changes]


WITHDRAWN = {
    "id": "first-try",
    "title": "First try",
    "sentence": "It was so.",
    "verdict": "inconclusive",
    "found": "+0.1 points [-0.2, 0.4], 5 seeds",
    "reason": "The task was too easy.",
}


@pytest.mark.parametrize("slug", slugs())
def test_every_card_reads_and_has_claims(slug):
    card = read_card(slug)
    assert len(card.claims) >= 3
    assert len(card.gist.split("\n\n")) >= 2
    assert len({c.hash for c in card.claims}) == len(card.claims)
    assert len({c.statistic for c in card.claims}) == len(card.claims)
    for claim in card.claims:
        assert claim.statistic.isidentifier(), claim.id
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id), claim.id
        assert claim.expected, claim.id


def test_cards_and_experiments_are_in_step():
    assert set(EXPERIMENTS) <= set(slugs())


def test_the_survey_has_thirteen_papers_and_enough_claims():
    assert len(slugs()) >= 13
    every = [read_card(slug) for slug in slugs()]
    assert sum(len(card.claims) for card in every) >= 45
    assert {card.group for card in every} == set(GROUPS)
    assert max(Counter(card.bibkey for card in every).values()) == 1
    can_be_tested = {c.slug: sum(not claim.not_tested for claim in c.claims) for c in every}
    assert min(can_be_tested.values()) >= 3, can_be_tested


def test_disputes_name_claims_that_exist():
    disputes = [
        (f"{slug}/{claim.id}", other)
        for slug in slugs()
        for claim in read_card(slug).claims
        for other in claim.disputes
    ]
    assert disputes
    for claim, other in disputes:
        slug, claim_id = other.split("/")
        assert read_card(slug).claim(claim_id), f"{claim} disputes {other}"
        assert slug != claim.split("/")[0]


def test_a_dispute_is_known_on_both_sides():
    # recorded runs hold the hashes of the first chapter's claims, so those cannot point back
    closed = set(EXPERIMENTS)
    for slug in slugs():
        for claim in read_card(slug).claims:
            for other in claim.disputes:
                paper, claim_id = other.split("/")
                back = read_card(paper).claim(claim_id).disputes
                assert f"{slug}/{claim.id}" in back or paper in closed


BLANK = {"blank_1", "blank_2"}
RECEIVED = sorted({path.stem for path in (cards.FOLDER / "received").glob("*.md")} - BLANK)


@pytest.mark.parametrize("slug", RECEIVED)
def test_a_card_says_what_the_received_one_said(slug):
    text = received(slug)
    card = read_card(slug)
    assert "<img" not in text
    tags = re.search(r"(?m)^\*\*Tags\*\*:?(.*)$", text)
    assert tags is not None
    given = [tag.strip() for tag in tags[1].split(",") if tag.strip()]
    assert list(card.tags_received) == given
    if "### Name" in text:
        assert any("blank" in sentence for sentence in card.corrections)
    else:
        # the title may have been broken over two lines
        assert text.lower().split("**year**")[0].split() == ["###", *card.title.lower().split()]
    year = re.search(r"(?m)^\*\*Year\*\*: *(\d+)", text)
    if year is not None and int(year[1]) != card.year:
        assert any(year[1] in sentence for sentence in card.corrections)


def test_thirteen_texts_were_received_and_two_empty_forms():
    assert len(RECEIVED) == 13
    assert set(RECEIVED) <= set(slugs())
    for slug in set(slugs()) - set(RECEIVED):  # papers that joined later have nothing to correct
        assert read_card(slug).corrections == ()
    for blank in sorted(BLANK):
        text = received(blank)
        assert "**Gist**:" in text
        assert not re.search(r"\*\*: *\w", text)
    with pytest.raises(CardError, match="no text was received for 'nope'"):
        received("nope")


def bib_entries():
    text = (Path(files.PACKAGE).parent / "book" / "references.bib").read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^@", text)[1:]
    keys = [re.match(r"\w+\{([^,]+),", block)[1] for block in blocks]
    assert len(set(keys)) == len(keys), "a key stands twice"
    return dict(zip(keys, blocks, strict=True))


@pytest.mark.parametrize("slug", slugs())
def test_the_bibliography_knows_each_paper(slug):
    card = read_card(slug)
    entry = bib_entries()[card.bibkey]
    plain = " ".join(re.sub(r"[{}]", "", entry).split()).lower()
    assert card.title.lower() in plain
    assert card.doi.lower() in plain
    assert card.arxiv in plain
    assert families(re.search(r"author\s*= \{(.*)\}", entry)[1]) == [
        folded(author.split()[-1]) for author in card.authors
    ]


def folded(name):
    """A name without accents, as Unicode or as TeX writes them."""
    name = re.sub(r"\{?\\[\"'`^~]\{?(\w)\}?\}?", r"\1", name)
    letters = unicodedata.normalize("NFD", name.lower())
    return "".join(c for c in letters if not unicodedata.combining(c))


def families(authors):
    return [folded(author.split(",")[0]) for author in authors.split(" and ")]


def test_the_bibliography_knows_what_the_methods_cite():
    methods = Path(files.PACKAGE) / "methods"
    cited = {
        key
        for path in methods.rglob("*.py")
        for key in re.findall(r"``([a-z]+\d{4}[a-z0-9]+)``", path.read_text(encoding="utf-8"))
    }
    assert "han2015learning" in cited
    assert cited <= set(bib_entries())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"title": None}, "field 'title' is missing"),
        ({"colour": "red"}, "unknown field 'colour'"),
        ({"year": "2017"}, "field 'year' must be int"),
        ({"claims": "none"}, "field 'claims' must be a list"),
        ({"claims": claim(region=[0.5, 0.1])}, "low > high"),
        ({"claims": claim(region=[None, None])}, "nothing could refute it"),
        ({"claims": claim(region=[0.1])}, "must be \\[low, high\\]"),
        ({"claims": claim(profile="huge")}, "'profile' must be one of"),
        ({"claims": claim(extra=1)}, "claims\\[0\\]: unknown field 'extra'"),
        ({"claims": [*claim(), *claim()]}, "used twice"),
        ({"claims": claim(title="")}, "'title' must have 1 to 40 characters, not 0"),
        ({"claims": claim(title="x" * 41)}, "'title' must have 1 to 40 characters, not 41"),
        ({"claims": claim(kind="theirs")}, "'kind' must be one of paper, ours, arithmetic"),
        ({"claims": claim(theirs=0.3)}, "fields 'theirs' and 'apart' go together"),
        ({"claims": claim(apart="Smaller.")}, "fields 'theirs' and 'apart' go together"),
        ({"claims": claim(theirs="0.3", apart="x")}, "'theirs' must be a number or \\[low, high"),
        ({"claims": claim(theirs=[0.3, 0.1], apart="x")}, "'theirs' must be a number or"),
        ({"claims": claim(theirs=[0.3], apart="x")}, "'theirs' must be a number or"),
        ({"withdrawn": "none"}, "field 'withdrawn' must be a list"),
        ({"withdrawn": [{"id": "w"}]}, "withdrawn\\[0\\]: field 'title' is missing"),
        ({"withdrawn": [WITHDRAWN | {"verdict": "green"}]}, "'verdict' must be one of reproduced"),
        ({"withdrawn": [WITHDRAWN | {"id": "large-sparse-mlp"}]}, "used twice"),
        ({"corrections": None}, "field 'corrections' is missing"),
        ({"corrections": "none"}, "field 'corrections' must be a list of texts"),
        ({"tags": ["a", 2]}, "field 'tags' must be a list of texts"),
        ({"group": "Colours"}, "field 'group' must be one of: Pruning weights, "),
        ({"claims": claim(disputes=["large-sparse-cnn"])}, "must name claims of other papers"),
        ({"claims": claim(disputes=["to_prune_or_not/gap-grows"])}, "claims of other papers"),
        ({"claims": claim(disputes=["thinet/"])}, "claims of other papers"),
        ({"when": "on Sundays"}, "field 'when' must be one of: while it trains, "),
        ({"helps": {"slower": "It is."}}, "no situation 'slower'; there are: faster, file"),
        ({"helps": {"file": 3}}, "'helps' must map situations to texts"),
        ({"faithful": "all"}, "field 'faithful' must be a list of texts"),
        ({"differs": [{"what": "Less."}]}, "differs\\[0\\]: field 'why' is missing"),
        ({"reported": [{"id": "t"}]}, "reported\\[0\\]: field 'caption' is missing"),
        ({"code": "javascript:alert(1)"}, "'code' must be an address that begins with https://"),
        ({"code": "http://x.org/a"}, "'code' must be an address that begins with https://"),
        ({"code": 'https://x.org/"onclick="x'}, "'code' must be an address that begins with https"),
        ({"arxiv": "1710.01878/../x"}, "'arxiv' must be an arXiv number"),
        ({"doi": "javascript:1"}, "'doi' must be a DOI"),
        ({"bibkey": "a}, title={x"}, "'bibkey' must be a key"),
        ({"slug": "../up"}, "'slug' must be lower-case letters"),
        ({"title": "a\x1b[31m"}, "field 'title' holds a control character"),
        ({"headline": "\ud800"}, "holds a control character|not YAML"),
        ({"year": 99999}, "'year' must lie in 1900"),
        ({"download_bytes": -1}, "'download_bytes' must not be negative"),
        ({"tolerance": "wide"}, "'tolerance' must map names"),
        ({"tolerance": {"val": "wide"}}, "must give 'val' a number ≥ 0 or .inf, not 'wide'"),
        ({"tolerance": {"val": float("nan")}}, "must give 'val' a number ≥ 0"),
        ({"tolerance": {"val": -1}}, "must give 'val' a number ≥ 0"),
        ({"claims": claim(id="a b")}, "claim 'a b': field 'id' must be letters and digits"),
        ({"claims": claim(region=5)}, "must be \\[low, high\\]"),
        ({"claims": claim(region=[0.1, float("inf")])}, "must be \\[low, high\\]"),
        ({"claims": claim(region=[True, 1])}, "must be \\[low, high\\]"),
        ({"claims": claim(region=[0, 10**400])}, "must be \\[low, high\\]"),
    ],
)
def test_a_bad_card_names_file_and_field(changes, message):
    with pytest.raises(CardError, match=message) as error:
        parse_card(text(**changes), "some.md")
    assert str(error.value).startswith("some.md")


def test_rows_must_fit_their_columns():
    table = {"id": "t", "caption": "c", "source": "s", "columns": ["a", "b"], "rows": [[1]]}
    with pytest.raises(CardError, match="1 values for 2 columns"):
        parse_card(text(reported=[table]), "some.md")
    for rows, words in (
        (5, "'rows' must be a list of lists"),
        ([5], "'rows' must be a list of lists"),
        ([[[1], 2]], "'rows' must hold texts, finite numbers or null"),
        ([[True, 2]], "'rows' must hold texts, finite numbers or null, not True"),
        ([[float("nan"), 2]], "'rows' must hold texts, finite numbers or null, not nan"),
    ):
        with pytest.raises(CardError, match=words):
            parse_card(text(reported=[table | {"rows": rows}]), "some.md")
    with pytest.raises(CardError, match="'columns' must name each column once"):
        parse_card(text(reported=[table | {"columns": ["a", "a"], "rows": []}]), "some.md")
    table |= {"rows": [[1, 2]], "unverified": ["z"]}
    with pytest.raises(CardError, match="no column 'z'"):
        parse_card(text(reported=[table]), "some.md")


def test_slug_and_file_must_agree_and_unknown_slugs_are_named():
    with pytest.raises(CardError, match="the file is named 'other'"):
        parse_card(text(), "other.md", "other")
    with pytest.raises(CardError, match="no card 'nope'"):
        read_card("nope")
    with pytest.raises(CardError, match="no claim 'x'"):
        GOOD.claim("x")


def test_no_front_matter_no_gist():
    with pytest.raises(CardError, match="front matter"):
        parse_card("hello", "a.md")
    with pytest.raises(CardError, match="gist"):
        parse_card(text().split("\n---\n")[0] + "\n---\n", "a.md")


def test_a_claims_hash_covers_its_rule_and_not_its_name():
    from dataclasses import fields, replace

    base = GOOD.claims[0]
    for field in fields(base):
        value = getattr(base, field.name)
        other = (
            (not value) if isinstance(value, bool) else ("x",) if isinstance(value, tuple) else "x"
        )
        changed = replace(base, **{field.name: other}).hash != base.hash
        beside = ("title", "kind", "theirs", "apart")
        assert changed == (field.name not in beside), field.name


def test_hashes_are_those_that_records_hold():
    assert read_card("to_prune_or_not").claim("large-sparse-mlp").hash == "8093f4ead666"
    assert read_card("thinet").claim("next-layer-beats-random").hash == "12bb1292cca2"


def test_a_withdrawn_claim_is_told_and_not_counted():
    card = parse_card(text(withdrawn=[WITHDRAWN]), "some.md")
    assert [w.id for w in card.withdrawn] == ["first-try"]
    assert card.claims == GOOD.claims
    with pytest.raises(CardError, match="no claim 'first-try'"):
        card.claim("first-try")


def test_a_dispute_is_found_from_both_sides():
    named = read_card("closer_look").claim("reduced-beats-pruned")
    assert cards.disputes("closer_look", named) == ["to_prune_or_not/large-sparse-cnn"]
    large = GOOD.claim("large-sparse-cnn")  # whose card names no pair
    assert "closer_look/reduced-beats-pruned" in cards.disputes("to_prune_or_not", large)


@pytest.mark.parametrize("slug", slugs())
def test_each_paper_speaks_for_itself(slug):
    claims = read_card(slug).claims
    assert sum(c.kind == "paper" for c in claims) >= 2
    assert len({c.title for c in claims}) == len(claims)


LAUGHS = "a: &a [x, x]\n" + "\n".join(f"b{i}: &b{i} [*a, *a]" for i in range(9))


@pytest.mark.parametrize(
    ("front", "words"),
    [
        (LAUGHS, "references"),
        ("a: &a [*a]", "references"),
        ("a: " + "[" * 1500 + "]" * 1500, "nested too deeply"),
        ("year: 2017-13-45", "not YAML: month must be in"),
        (f"year: {'9' * 5000}", "not YAML"),
        (f"year: 0x{'f' * 5000}", "is missing|must be"),
        ("? [a, b]\n: c", "unknown field|not YAML"),
        ("a: \x00", "not YAML"),
        ("!!python/object/apply:os.system [ls]", "not YAML"),
        ("- a", "must be a mapping"),
        ("", "must be a mapping"),
    ],
)
def test_front_matter_that_is_none_is_a_sentence(front, words):
    with pytest.raises(CardError, match=words) as error:
        parse_card(f"---\n{front}\n---\ngist", "some.md")
    one_sentence(error.value, "some.md: ")


def small():
    """Front matter of a real card with one claim and one table, so that it is read quickly."""
    front = yaml.safe_load(text().split("\n---\n")[0][4:])
    front["claims"], front["corrections"] = front["claims"][:1], front["corrections"][:1]
    front["reported"] = [front["reported"][0] | {"rows": front["reported"][0]["rows"][:1]}]
    front["withdrawn"], front["differs"] = [WITHDRAWN], [{"what": "Less.", "why": "Time."}]
    front["faithful"], front["authors"], front["tolerance"] = ["All."], ["A"], {"val": 0.1}
    return front | {"headline": "h", "scale": "s", "tags": ["a"], "tags_received": ["a"]}


def as_card(front):
    body = as_json(front) if any_deep(front) else yaml.safe_dump(front, allow_unicode=True)
    return f"---\n{body}\n---\nThe gist."


@settings(max_examples=50, deadline=None)
@given(st.one_of(damaged(small()).map(as_card), cut(as_card(small()))))
def test_whatever_a_card_holds_it_is_one_or_a_sentence(given_text):
    from survey_lib.publish.overview import papers_markdown

    try:
        card = parse_card(given_text, "some.md")
    except CardError as error:
        one_sentence(error, "some.md: ")
    else:
        assert all(claim.hash for claim in card.claims)
        assert papers_markdown(card).encode()


def test_a_card_that_is_no_text_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "FOLDER", tmp_path)
    (tmp_path / "received").mkdir()
    for path in (tmp_path / "x.md", tmp_path / "received" / "x.md"):
        path.write_bytes(b"\xff\xfe")
    for read in (read_card, received):
        with pytest.raises(CardError, match=r"x\.md: is no UTF-8 text"):
            read("x")
