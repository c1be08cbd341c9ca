"""A new chapter: from a survey file to a draft that is checked, tested and built."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from survey_lib.cards.card import parse_card
from survey_lib.publish import layout, scaffold
from survey_lib.publish.check_sources import check_sources
from survey_lib.publish.layout import PublishError
from survey_lib.publish.missing import missing
from survey_lib.publish.survey_file import choose, read_survey
from tests.colab.environment import sources

ROOT = Path(__file__).resolve().parents[2]
BLANK = "### Name\n\n**Year**: \n\n**Authors**:\n\n**Gist**:\n\n**Results**:\n\n**Tags**:\n"
SURVEY = """\
# Structured pruning

### A "Tiny" Paper & its
Method

**Year**: 2031

**Authors**: Ada Lovelace, Grace Hopper† Alan Turing and Émilie du Châtelet

**Gist**:
They cut the smallest column of each layer.

<img src="images/tiny.png" alt="isolated" width="300"/>

Then they tune.

**Results**:

<img src="images/tiny_res.png" width="300"/>

**Tags** Unstructured pruning, MNIST.

### LLM.int8(): Numbers

**Year**: 2022

**Authors**: Tim Dettmers

**Gist**: Eight bits will do.

**Results**:

**Tags**: Quantization, 8-int

### Name

**Year**: 2021

**Authors**: Seul-Ki Yeom

**Gist**: A criterion from explanations.

**Results**:

**Tags**: Pruning

"""
MADE = {
    "survey_lib/cards/{}.md",
    "survey_lib/cards/received/{}.md",
    "survey_lib/methods/{}.py",
    "survey_lib/experiments/{}/__init__.py",
    "survey_lib/experiments/{}/cells.py",
    "survey_lib/experiments/{}/study.py",
    "survey_lib/show/drawings/{}.py",
    "survey_lib/show/explorers/{}.py",
    "notebooks/{}.ipynb",
    "tests/methods/test_{}.py",
    "tests/experiments/test_{}.py",
}
CHANGED = {
    "survey_lib/experiments/__init__.py",
    "book/references.bib",
    "_toc.yml",
}


@pytest.fixture
def survey(tmp_path):
    path = tmp_path / "survey.md"
    path.write_text(SURVEY + BLANK + "\n" + BLANK, encoding="utf-8")
    return path


@pytest.fixture
def tree(tmp_path):
    """A copy of this checkout's sources, data and recorded runs left out."""
    root = tmp_path / "tree"
    for name in sources():
        if name.startswith(("results/", "survey_lib/tasks/data/", "survey_lib/tasks/check")):
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, path)
    return root


def snapshot(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def draft(tree, survey, slug="tiny", **options):
    said = []
    made = scaffold.new_chapter(slug, survey_file=survey, root=tree, say=said.append, **options)
    return {p.relative_to(tree).as_posix() for p in made}, said


# ---- the survey file


def test_a_section_is_read_whole(survey):
    tiny, int8, nameless, *blank = read_survey(survey)
    assert tiny.title == 'A "Tiny" Paper & its Method'
    assert tiny.year == 2031
    assert tiny.authors == ("Ada Lovelace", "Grace Hopper", "Alan Turing", "Émilie du Châtelet")
    assert tiny.gist == "They cut the smallest column of each layer.\n\nThen they tune."
    assert tiny.tags == ("Unstructured pruning", "MNIST")
    assert tiny.text.startswith('### A "Tiny" Paper & its\nMethod\n')
    assert "[image left out: tiny.png]" in tiny.text
    assert "[image left out: tiny_res.png]" in tiny.text
    assert "<img" not in tiny.text
    assert (int8.title, int8.year, int8.gist) == (
        "LLM.int8(): Numbers",
        2022,
        "Eight bits will do.",
    )
    assert (nameless.title, nameless.blank) == ("", False)
    assert [section.blank for section in blank] == [True, True]
    lines = survey.read_text(encoding="utf-8").splitlines()
    assert all(lines[s.line - 1].startswith("###") for s in (tiny, int8, nameless, *blank))


@pytest.mark.parametrize(
    ("slug", "title", "found"),
    [
        ("tiny", None, 'A "Tiny" Paper & its Method'),
        ("llm_int8", None, "LLM.int8(): Numbers"),
        ("int8", "numbers", "LLM.int8(): Numbers"),
        ("explaining", "Pruning by explaining", ""),
    ],
)
def test_the_right_section_is_chosen(survey, slug, title, found):
    said = []
    sections = read_survey(survey)
    chosen = choose(sections, slug, title, "survey.md", said.append)
    assert chosen.title == found
    assert said[0].startswith("survey.md: 2 blank forms skipped (line ")
    assert (len(said) == 2) == (found == "")


@pytest.mark.parametrize(
    ("slug", "title", "message"),
    [
        ("nothing", None, "no section fits the slug 'nothing'.*LLM.int8.*no name, line"),
        ("x", "e", "several sections fit the title 'e'"),
    ],
)
def test_no_section_or_several_are_an_error_that_lists_titles(survey, slug, title, message):
    with pytest.raises(PublishError, match=message):
        choose(read_survey(survey), slug, title, "survey.md", lambda _: None)


def test_files_that_are_no_survey(tmp_path):
    with pytest.raises(PublishError, match="there is no survey file"):
        read_survey(tmp_path / "absent.md")
    (tmp_path / "a.md").write_text("# Only a title\n")
    with pytest.raises(PublishError, match=r"a\.md has no section"):
        read_survey(tmp_path / "a.md")
    (tmp_path / "b.md").write_bytes(b"### \xff\xfe")
    with pytest.raises(PublishError, match=r"b\.md is no UTF-8 text"):
        read_survey(tmp_path / "b.md")


# ---- what is written


def test_a_new_chapter_has_every_file_and_entry(tree, survey):
    before = snapshot(tree)
    made, _ = draft(tree, survey)
    after = snapshot(tree)
    new = {name.format("tiny") for name in MADE}
    assert made == new | CHANGED
    assert set(after) - set(before) == new
    assert {name for name in before if before[name] != after[name]} == CHANGED
    card = parse_card((tree / "survey_lib/cards/tiny.md").read_text("utf-8"), "tiny.md", "tiny")
    assert (card.title, card.year) == ('A "Tiny" Paper & its Method', 2031)
    assert (card.bibkey, card.group) == ("lovelace2031tiny", "Pruning weights")
    assert (card.claims, card.reported) == ((), ())
    text = (tree / "survey_lib/experiments/__init__.py").read_text()
    assert '"tiny": "survey_lib.experiments.tiny",\n}' in text
    bibliography = (tree / "book/references.bib").read_text("utf-8")
    assert "@misc{lovelace2031tiny," in bibliography
    assert "Paper \\& its" in bibliography
    toc = yaml.safe_load((tree / "_toc.yml").read_text())
    (part,) = [p for p in toc["parts"] if p["caption"] == "Pruning weights"]
    assert part["chapters"][-1] == {"file": "notebooks/tiny"}


def test_a_draft_adds_no_finding_and_is_clean_code(tree, survey, monkeypatch):
    from survey_lib import files
    from survey_lib.cards import card as cards

    monkeypatch.setattr(files, "PACKAGE", tree / "survey_lib")
    monkeypatch.setattr(cards, "FOLDER", tree / "survey_lib" / "cards")
    before = check_sources()
    made, _ = draft(tree, survey)
    assert [f for f in check_sources() if f not in before] == []
    notebook = layout.read_notebook(layout.source("tiny"))
    heads = [c.source.split("\n")[0] for c in notebook.cells if c.source.startswith("#")]
    assert [h for h in heads if h.startswith("## ")] == [
        "## The idea", "## In slow motion", "## The code that does it", "## The experiment",
        "## The paper's numbers beside ours", "## Verdicts", "## Explore", "## Try it yourself",
        "## Where to go next",
    ]  # fmt: skip
    python = [name for name in made if name.endswith(".py")]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", *python],
            cwd=tree, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "notebooks/tiny.ipynb"],
        cwd=tree, capture_output=True, text=True,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("slug", ["b", "a_rather_long_name_of_one_paper"])
def test_short_and_long_names_give_clean_code_too(tree, survey, slug):
    made, _ = draft(tree, survey, slug, title="Tiny")
    python = [name for name in made if name.endswith(".py")]
    for words in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *words, "--no-cache", *python],
            cwd=tree, capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", sorted(MADE - {"survey_lib/cards/{}.md"}))
def test_a_file_that_is_there_stops_it_before_anything_is_written(tree, survey, name):
    path = tree / name.format("tiny")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    before = snapshot(tree)
    with pytest.raises(PublishError, match=f"{re.escape(name.format('tiny'))} exists"):
        draft(tree, survey)
    assert snapshot(tree) == before


def test_a_card_that_is_there_is_used_and_left_alone(tree):
    path = tree / "survey_lib/cards/own.md"
    text = (ROOT / "survey_lib/cards/to_prune_or_not.md").read_text("utf-8")
    path.write_text(text.replace("slug: to_prune_or_not", "slug: own"), "utf-8")
    bibliography = (tree / "book/references.bib").read_text("utf-8")
    made, said = draft(tree, None, "own")
    assert said == ["survey_lib/cards/own.md is there and is taken as it is"]
    assert "slug: own" in path.read_text("utf-8")
    assert not made & {"survey_lib/cards/own.md", "book/references.bib"}
    assert (tree / "book/references.bib").read_text("utf-8") == bibliography


def test_a_paper_that_has_a_card_gets_no_second_one(tree, tmp_path):
    path = tmp_path / "s.md"
    title = "To prune, or not to prune:  Exploring the efficacy of pruning for model compression"
    path.write_text(f"### {title}\n\n**Year**: 2017\n\n**Authors**: A B\n\n**Gist**: Cut.\n")
    before = snapshot(tree)
    with pytest.raises(PublishError, match=r"cards/to_prune_or_not\.md is of this paper already"):
        draft(tree, path, "prune")
    assert snapshot(tree) == before


def test_a_full_disk_leaves_the_tree_as_it_was(tree, survey, monkeypatch):
    from survey_lib import files

    before, write, left = snapshot(tree), files.write_atomic, [12]

    def fails_at_the_twelfth(path, content):
        left[0] -= 1
        if left[0] == 0:
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(files, "write_atomic", fails_at_the_twelfth)
    with pytest.raises(OSError, match="No space left"):
        draft(tree, survey)
    assert left[0] < 0  # some files were written, changed ones put back
    assert snapshot(tree) == before


@pytest.mark.parametrize(
    ("slug", "source", "title", "message"),
    [
        ("Tiny", True, None, "'Tiny' is no slug"),
        ("../tiny", True, None, "is no slug"),
        ("tiny", False, None, r"there is no card survey_lib/cards/tiny\.md.*--from"),
        ("to_prune_or_not", False, None, "exists and is left as it is; nothing was written"),
    ],
)
def test_bad_requests_are_one_sentence_and_write_nothing(
    tree, survey, slug, source, title, message
):
    before = snapshot(tree)
    with pytest.raises(PublishError, match=message) as error:
        draft(tree, survey if source else None, slug, title=title)
    assert "\n" not in str(error.value)
    assert snapshot(tree) == before


def test_a_section_that_lacks_a_fact_names_it(tree, tmp_path):
    path = tmp_path / "s.md"
    path.write_text("### A Tiny Paper\n\n**Year**:\n\n**Authors**:\n\n**Gist**: Cut.\n")
    with pytest.raises(PublishError, match=r"s\.md: the section in line 1 has no year and no auth"):
        draft(tree, path)


TOC = "format: jb-book\nroot: book/index\nparts:\n  - caption: {}\n    chapters:\n      - file: a\n"


def test_a_part_that_is_absent_goes_before_the_reference():
    text = TOC.format("Start") + "  - caption: Reference\n    chapters:\n      - file: z\n"
    parts = yaml.safe_load(scaffold.with_toc_line(text, "tiny", "Bits"))["parts"]
    assert [p["caption"] for p in parts] == ["Start", "Bits", "Reference"]
    assert parts[1]["chapters"] == [{"file": "notebooks/tiny"}]
    alone = yaml.safe_load(scaffold.with_toc_line(TOC.format("Start"), "tiny", "Bits"))["parts"]
    assert [p["caption"] for p in alone] == ["Start", "Bits"]


def test_a_table_of_contents_of_another_shape_is_refused():
    with pytest.raises(PublishError, match="unknown shape"):
        scaffold.with_toc_line("root: a\nchapters: [{file: b}]\n", "tiny", "Bits")
    listed = scaffold.with_toc_line(TOC.format("Bits"), "tiny", "Bits")
    with pytest.raises(PublishError, match="lists notebooks/tiny already"):
        scaffold.with_toc_line(listed, "tiny", "Bits")


# ---- what is missing


def test_what_is_missing_shrinks_as_the_chapter_grows(tree, survey):
    draft(tree, survey)
    text = "\n".join(missing("tiny", tree))
    for words in (
        "0 claims", "into reported", "write venue, headline, scale", "arXiv number or DOI",
        "still the survey's", "take out DRAFT", "tests/oracles", "methods/contract.py: add the",
        "results/tune/tiny.jsonl", "results/study/tiny.jsonl", "write the parts", "verdicts.say",
        "explorers/tiny.py: let the reader move", "drawings/tiny.py: draw what the method looks at",
        "faithful and differs",
    ):  # fmt: skip
        assert words in text, words
    method = tree / "survey_lib/methods/tiny.py"
    method.write_text(method.read_text().replace("DRAFT = True", "STEPS = 3"))
    card = tree / "survey_lib/cards/tiny.md"
    grown = card.read_text("utf-8").replace("They cut", "Its authors cut")
    card.write_text(grown.replace("doi: ''", "doi: 10.1000/2"), "utf-8")
    study = tree / "results/study/tiny.jsonl"
    study.parent.mkdir(parents=True)
    study.write_text("")
    fewer = "\n".join(missing("tiny", tree))
    for words in ("take out DRAFT", "still the survey's", "arXiv number", "results/study"):
        assert words not in fewer, words
    assert "0 claims" in fewer


def test_a_method_may_be_a_folder_with_variants(tree, survey):
    draft(tree, survey)
    method = tree / "survey_lib/methods/tiny.py"
    folder = method.with_suffix("")
    folder.mkdir()
    method.rename(folder / "method.py")
    found = [f for f in missing("tiny", tree) if "take out DRAFT" in f]
    assert len(found) == 1
    assert found[0].startswith("survey_lib/methods/tiny/method.py: write Config and compress")


def test_a_chapter_that_trains_nothing_needs_no_tries(tree, survey):
    draft(tree, survey)

    def lacking():
        found = [f for f in missing("tiny", tree) if f.startswith("results/")]
        return [f.split("/")[1] for f in found]

    assert lacking() == ["tune", "study"]
    path = tree / "survey_lib" / "experiments" / "tiny" / "study.py"
    path.write_text(path.read_text("utf-8") + '\nGRIDS = {"tune": list, "study": _study}\n')
    assert lacking() == ["study"]


@pytest.mark.parametrize("slug", layout.chapters())
def test_a_chapter_of_the_book_lacks_nothing(slug):
    assert missing(slug, ROOT) == []
    assert missing("nothing", ROOT)[0].startswith("survey_lib/cards/nothing.md: there is")


# ---- the draft at work


@pytest.fixture
def checkout(tmp_path, survey):
    """A copy of the whole tree under git with the draft in it, and a way to run its commands."""
    from tests.colab.environment import copy_tree

    root = copy_tree(tmp_path / "checkout")
    scaffold.new_chapter("tiny", survey_file=survey, root=root, say=lambda _: None)
    for words in (["init", "-q"], ["add", "-A"]):
        subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)
    env = os.environ | {
        "PYTHONPATH": str(root),
        "SURVEY_CACHE": str(tmp_path / "cache"),
        "SURVEY_BUILD": str(tmp_path / "build"),
        "SURVEY_JOBS": "2",
    }

    def run(*words):
        return subprocess.run(
            [sys.executable, *words], cwd=root, env=env, capture_output=True, text=True, timeout=400
        )

    return run, tmp_path / "build"


def test_a_draft_is_tested_and_built(checkout):
    run, build = checkout
    tested = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist",
        "tests/methods/test_tiny.py", "tests/experiments/test_tiny.py",
    )  # fmt: skip
    assert "2 passed, 1 xfailed" in tested.stdout, tested.stdout + tested.stderr
    checked = run("-m", "survey_lib.cli", "check", "--sources")
    assert checked.returncode == 0, checked.stderr
    assert "draft: tiny is not finished" in checked.stdout
    assert "survey_lib/cards/tiny.md: 0 claims" in checked.stdout
    # the other chapters' pages say that they were not executed, which is no matter of the draft
    built = run("-m", "survey_lib.cli", "build", "--profile", "smoke", "--only", "tiny")
    page = build / "html" / "notebooks" / "tiny.html"
    assert page.exists(), built.stdout + built.stderr
    assert "tiny" not in built.stderr, built.stderr  # no finding in the draft's own page
    html = page.read_text(encoding="utf-8")
    for part in ("survey-card", "survey-hero", "survey-explorer", "survey-check"):
        assert part in html, part
    assert "Traceback" not in html
    assert "A &quot;Tiny&quot; Paper &amp; its Method" in html
