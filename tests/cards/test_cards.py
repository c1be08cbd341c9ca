import pytest
import yaml
from survey_lib.cards.card import CardError, parse_card, read_card, slugs
from survey_lib.experiments import EXPERIMENTS

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


@pytest.mark.parametrize("slug", slugs())
def test_every_card_reads_and_has_claims(slug):
    card = read_card(slug)
    assert len(card.claims) >= 3
    assert card.gist
    assert all(c.hash for c in card.claims)


def test_cards_and_experiments_are_in_step():
    assert set(EXPERIMENTS) <= set(slugs())


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
        ({"claims": claim() * 2}, "used twice"),
        ({"reported": [{"id": "t"}]}, "reported\\[0\\]: field 'caption' is missing"),
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


def test_a_claims_hash_covers_every_field():
    from dataclasses import fields, replace

    base = GOOD.claims[0]
    for field in fields(base):
        value = getattr(base, field.name)
        other = (not value) if isinstance(value, bool) else ("x",) if isinstance(value, tuple) else "x"
        assert replace(base, **{field.name: other}).hash != base.hash, field.name
