import re

import pytest
from nbformat import v4

from survey_lib.publish import glossary, layout
from survey_lib.publish.glossary import entries, link_first_uses
from survey_lib.show.markup import anchor

WORDS = [("MAC", "multiply-accumulate"), ("least squares",), ("share kept",), ("nat",)]


def linked(*texts):
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(t) for t in texts])
    link_first_uses(notebook, WORDS)
    return [cell.source for cell in notebook.cells]


def link(name, words):
    return f'<a class="survey-term" href="../book/glossary.html#term-{anchor(name)}">{words}</a>'


def test_the_first_use_leads_to_the_glossary_and_no_later_one():
    first, second = linked("Few MACs, and MACs again.", "One MAC more, one nat.")
    assert first == f"Few {link('MAC', 'MACs')}, and MACs again."
    assert second == f"One MAC more, one {link('nat', 'nat')}."


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("Least squares helps.", "least squares", "Least squares"),
        ("by least\nsquares", "least squares", "least\nsquares"),
        ("multiply-accumulates are counted", "multiply-accumulate", "multiply-accumulates"),
        ("the *share kept* is", "share kept", "share kept"),
    ],
)
def test_a_word_is_found_as_it_stands_in_a_sentence(text, name, words):
    (made,) = linked(text)
    assert made == text.replace(words, link(name, words))


@pytest.mark.parametrize(
    "text",
    [
        "# MACs",
        "`MAC`",
        "$MAC + 1$",
        "$$\nMAC\n$$",
        "```python\nMAC = 1\n```",
        "[what MACs are](elsewhere)",
        '<b title="MAC">x</b>',
        "MACHINE, QMAC, sub-MAC",
        "mac and native",
    ],
)
def test_what_is_no_prose_or_another_word_is_left_alone(text):
    assert linked(text) == [text]


def test_prose_behind_a_formula_is_prose():
    (made,) = linked("`MAC` and $MAC$: a MAC")
    assert made == f"`MAC` and $MAC$: a {link('MAC', 'MAC')}"


def test_the_books_glossary_names_what_it_must_and_no_name_twice():
    names = [name for entry in entries() for name in entry]
    assert len(names) == len({name.casefold() for name in names})
    for name in ("MAC", "nat", "share kept", "tuning", "fine-tuning", "FLOPs", "BN", "replicate"):
        assert name in names
    assert names.index("fine-tuning") == names.index("tuning") + 1  # two names of one entry


def test_every_entry_has_a_definition():
    text = (layout.root() / f"{glossary.PAGE}.md").read_text(encoding="utf-8")
    body = re.search(r"(?ms)^```\{glossary\}\n(.*?)^```", text).group(1)
    for block in re.split(r"\n\s*\n", body.strip("\n")):
        assert re.search(r"(?m)^  \S", block), block


def test_a_book_without_a_glossary_links_nothing(book):
    assert entries() == []
