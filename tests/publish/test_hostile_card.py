"""A card in which every text tries to run a script, through the whole line to pages in Chromium."""

from urllib.parse import quote

import pandas as pd
import pytest
import yaml
from nbformat import v4

from survey_lib.cards import card as cards
from survey_lib.cards.card import read_card
from survey_lib.evidence.intervals import Interval
from survey_lib.evidence.verdicts import REPRODUCED, Verdict
from survey_lib.publish import build, execute, layout, overview, stage
from survey_lib.publish.scaffold import DRAFT, new_chapter
from survey_lib.show import page, tables
from survey_lib.show.markup import markdown, paragraphs, safe
from survey_lib.show.verdicts import say, verdict_table
from tests.browser import chromium

from .conftest import chapter, code
from .test_shown import run, write_executed

SHORT = "<img src=x onerror=evil()>"
EVIL = (
    "</script><script>evil()</script>"
    '<img src=x onerror="evil()"> "onmouseover=evil() '
    '<a href="javascript:evil()">x</a> [x](javascript:evil()) ![x](javascript:evil()) '
    "<javascript:evil()> `<script>evil()</script>` </title><svg onload='evil()'> "
    "{raw-html}`<script>evil()</script>` {{ evil }} $x$ <!-- &lt;script&gt;evil()&lt;/script&gt;"
    "\n\n```{button-link} javascript:evil()\n```\n\n<script>evil()</script>\n"
)
BLOCKS = f"""\
A gist. {EVIL}

<script>evil()</script>

```{{raw}} html
<script>evil()</script>
```

```{{button-link}} javascript:evil()
x
```

:::{{button-link}} javascript:evil()
:::

```{{eval-rst}}
.. raw:: html

   <script>evil()</script>

`x <javascript:evil()>`_
```

    <script>evil()</script>

# A heading
{EVIL}

[x]: javascript:evil()
"""
WATCH = "window.ran = []; window.evil = () => window.ran.push(location.href);"
# attributes and addresses that came out of a card, and scripts that did
FOUND = """() => [...document.querySelectorAll('*')].flatMap(e => [...e.attributes]
    .filter(a => /^on/i.test(a.name) && /evil/.test(a.value)
        || /^\\s*javascript:/i.test(a.value) && /^(href|src|xlink:href|action)$/i.test(a.name))
    .map(a => e.outerHTML.slice(0, 200)))
    .concat([...document.scripts].filter(s => /evil\\(/.test(s.text)
        && s.type !== 'application/json').map(s => s.outerHTML.slice(0, 200)), window.ran)"""
# fields that are no free text: the reader refuses what is no plain name, number or address there
PLAIN = {
    "slug", "arxiv", "doi", "code", "group", "when", "kind", "profile", "statistic", "id",
    "disputes", "bibkey", "tolerance", "unverified", "verdict", "extras",
}  # fmt: skip
REAL = cards.FOLDER


def evil(value, field=""):
    """A card's value with every free text made hostile."""
    if isinstance(value, dict):
        return {k: evil(v, k) for k, v in value.items()}
    if isinstance(value, list):
        return [evil(v, field) for v in value]
    if not isinstance(value, str) or field in PLAIN:
        return value
    return SHORT if field == "title" else f"{value} {EVIL}"


def hostile(slug):
    """The text of ThiNet's card with its free texts made hostile, as that of another paper."""
    head, _ = (REAL / "thinet.md").read_text(encoding="utf-8").split("\n---\n", 1)
    front = evil(yaml.safe_load(head[4:]))
    title = SHORT if slug == "delta" else f"A title: {EVIL}"  # the search finds short ones
    front |= {"slug": slug, "title": title, "short": SHORT}
    for table in front["reported"]:
        table["unverified"] = ["all"]
    for claim in front["claims"]:
        claim["disputes"] = []
    one, other = (front["claims"][i]["id"] for i in (0, 1))
    front["claims"][0]["disputes"] = [f"{'gamma' if slug == 'alpha' else 'alpha'}/{other}"]
    assert one != other
    front["withdrawn"] = [
        {"id": "old", "title": SHORT, "sentence": EVIL, "verdict": "inconclusive", "found": EVIL,
         "reason": EVIL}
    ]  # fmt: skip
    return f"---\n{yaml.safe_dump(front, allow_unicode=True)}\n---\n{BLOCKS}"


@pytest.fixture
def hostile_cards(book):
    """Cards of a chapter (alpha) and of two planned papers in a small book, with received texts."""
    folder = book.package / "cards"
    (folder / "received").mkdir()
    for slug in ("alpha", "gamma", "delta"):
        (folder / f"{slug}.md").write_text(hostile(slug), encoding="utf-8")
        (folder / "received" / f"{slug}.md").write_text(f"### {EVIL}\n\n{BLOCKS}")
    return book


@pytest.fixture
def site(hostile_cards, monkeypatch):
    """The small book, built; its chapter shows what is made of a card and of users' own names."""
    book = hostile_cards
    marks = "\n\n".join((overview.MAP, overview.SCOREBOARD, overview.WHICH))
    (book.root / "book" / "index.md").write_text(f"# A small book\n\n## Map\n\n{marks}\n")
    card = read_card("alpha")
    judged = [
        Verdict(claim, REPRODUCED, Interval(0.2, 0.1, 0.3, 5), {0: 0.2, 1: 0.1}, EVIL)
        for claim in card.claims
    ]
    page.begin("alpha")
    shown = [
        page.card_panel(judged, card=card),
        page.facts_panel(card),
        verdict_table(judged),
        say(judged[0], REPRODUCED, EVIL.replace("{", "{{").replace("}", "}}")),
        own_names(),
    ]
    for reported in card.reported:
        ours = tables.reported_frame(card, reported.id)
        on, *columns = reported.columns
        shown.append(tables.compare_reported(card, reported.id, ours, on=on, columns=columns))
    outputs = [v4.new_output("display_data", one._repr_mimebundle_()) for one in shown]
    book.write("alpha", chapter(code("1 + 1", "shows")))
    made = run(layout.read_notebook(layout.source("alpha")))
    (cell,) = (c for c in made.cells if "shows" in layout.tags(c))
    cell.outputs = outputs
    write_executed(book, "alpha", made)
    monkeypatch.setattr(execute, "execute", lambda *_: [])
    monkeypatch.setattr(stage, "vega_bundle", lambda: "// vega")
    monkeypatch.setattr(stage, "_judged", lambda: ({"alpha": judged}, {}))
    monkeypatch.setattr(build, "check_site", lambda *_: [])
    monkeypatch.setattr(build, "check_numbers", list)
    assert build.build("quick") == 0
    return build.site()


def own_names():
    """A table of a user's nets and classes, whose names are those of files and folders."""
    df = pd.DataFrame({"net": [SHORT, EVIL], EVIL: [1, 2], (SHORT): [EVIL, "cat"]})
    return tables.table(df, caption=f"{EVIL}. {SHORT}", units={EVIL: SHORT}, notes=[EVIL])


def test_nothing_in_a_card_runs_on_any_page(site):
    # the page that only leads to another is looked at where it leads
    pages = [p for p in sorted(site.rglob("*.html")) if 'http-equiv="refresh"' not in p.read_text()]
    names = {p.relative_to(site).as_posix() for p in pages}
    assert {"book/ledger.html", "book/papers/gamma.html", "notebooks/alpha.html"} <= names
    found = {}
    with chromium() as browser:
        tab = browser.new_page()
        tab.add_init_script(WATCH)
        for path in pages:
            tab.goto(f"{path.as_uri()}?q={quote(SHORT)}")  # the page of the search looks for it
            if path.name == "search.html":
                tab.wait_for_function("document.querySelector('.search-summary')?.innerText")
            tab.wait_for_timeout(100)  # an image that is not there has to be missed
            found[path.relative_to(site).as_posix()] = tab.evaluate(FOUND)
    assert {name: what for name, what in found.items() if what} == {}


def test_a_title_in_a_drafted_notebook_is_no_markup(hostile_cards, monkeypatch):
    from survey_lib.publish import scaffold

    texts = {}
    monkeypatch.setattr(scaffold, "_write_all", lambda new, entries: texts.update(new))
    (hostile_cards.root / "survey_lib" / "experiments").mkdir()
    table = "EXPERIMENTS: dict[str, str] = {\n}\n"
    (hostile_cards.root / "survey_lib" / "experiments" / "__init__.py").write_text(table)
    (hostile_cards.root / "book" / "references.bib").write_text("")
    new_chapter("gamma")
    (notebook,) = (text for path, text in texts.items() if path.suffix == ".ipynb")
    words = [c.source for c in layout.nbformat.reads(notebook, 4).cells if c.cell_type != "code"]
    assert "&lt;script&gt;" in words[0]
    assert "&lt;script&gt;" in words[-1]
    assert not any("<script" in text or "[x](java" in text for text in words), words
    assert DRAFT in words[0]


def test_escaping_twice_is_escaping_once():
    card = read_card("thinet")
    once = safe(card)
    assert safe(once) == once
    assert safe(EVIL) == safe(safe(EVIL))
    assert "<" not in markdown(safe(EVIL)) + markdown(EVIL)
    assert paragraphs("So *it is*.\n\n5 * 3 * 2 < 31") == (
        "<p>So <em>it is</em>.</p>\n<p>5 * 3 * 2 &lt; 31</p>"
    )
    assert once.claims[0].region == card.claims[0].region
