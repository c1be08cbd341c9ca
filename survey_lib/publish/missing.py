"""What a chapter still lacks to be a finished one."""

import re
from pathlib import Path

from survey_lib.cards.card import Card, parse_card
from survey_lib.publish import layout
from survey_lib.publish.scaffold import DRAFT
from survey_lib.publish.survey_file import squeezed
from survey_lib.show.page import method_file

LEAST_CLAIMS = 3


def missing(slug: str, root: Path | None = None) -> list[str]:
    """What a chapter still lacks to be a finished one, a sentence each; looks at files only.

    A chapter of no paper has neither method nor drawing; it lacks what its runs and its page lack.
    """
    root = root or layout.root()
    package, tests = root / "survey_lib", root / "tests"
    if slug in layout.NO_CARD:
        return _missing_in_runs(slug, root) + _missing_in_notebook(slug, root)
    card_file = package / "cards" / f"{slug}.md"
    if not card_file.exists():
        return [f"survey_lib/cards/{slug}.md: there is no card; write it, or survey new {slug}"]
    text = card_file.read_text(encoding="utf-8")
    found = _missing_in_card(parse_card(text, card_file.name, slug), text, root)
    path = method_file(slug, package)
    method, name = _read(path), path.relative_to(root).as_posix()
    if not method:
        found.append(f"{name}: write the method, or survey new {slug}")
    elif re.search(r"^DRAFT\b", method, re.MULTILINE):
        found.append(
            f"{name}: write Config and compress from the paper, then take "
            "out DRAFT (and its mention in the experiment and the tests)"
        )
    if "tests.oracles" not in _read(tests / "methods" / f"test_{slug}.py"):
        found.append(
            f"tests/oracles: write a slow, literal twin of the paper's formulas and use it in "
            f"tests/methods/test_{slug}.py, with the paper's hand-computed cases"
        )
    if f'"{slug}": Entry(' not in _read(package / "methods" / "contract.py"):
        found.append(
            "survey_lib/methods/contract.py: add the method to METHODS, so that the battery tests "
            f'it: "{slug}": Entry(label, kind, steers, module)'
        )
    found += _missing_in_runs(slug, root)
    drawing = _read(package / "show" / "drawings" / f"{slug}.py")
    if not drawing or drawing.startswith(f'"""{DRAFT}'):
        found.append(
            f"survey_lib/show/drawings/{slug}.py: draw what the method looks at, scores and takes "
            "away, with the parts of show/drawing.py"
        )
    return found + _missing_in_notebook(slug, root)


def _missing_in_runs(slug: str, root: Path) -> list[str]:
    package, found = root / "survey_lib", []
    experiment = package / "experiments" / slug
    asked = experiment / "study.py" if experiment.is_dir() else experiment.with_suffix(".py")
    tunes = '"tune": list,' not in _read(asked)  # else no grid
    for profile, why in (("tune", "learning rates chosen on validation"), ("study", "the study")):
        there = (root / "results" / profile / f"{slug}.jsonl").exists()
        if not there and (tunes or profile == "study"):
            found.append(
                f"results/{profile}/{slug}.jsonl: {why}; survey run {slug} --profile {profile}"
            )
    explorer = _read(package / "show" / "explorers" / f"{slug}.py")
    if not explorer or explorer.startswith(f'"""{DRAFT}'):
        found.append(
            f"survey_lib/show/explorers/{slug}.py: let the reader move what is particular to this "
            "paper, and say so in its first line"
        )
    return found


def _missing_in_card(card: Card, text: str, root: Path) -> list[str]:
    name = f"survey_lib/cards/{card.slug}.md"
    found = []
    if len(card.claims) < LEAST_CLAIMS:
        found.append(
            f"{name}: {len(card.claims)} claims; write at least {LEAST_CLAIMS} as decision rules, "
            "and commit them before the study runs"
        )
    if not card.reported:
        found.append(f"{name}: copy the numbers of the paper's main table into reported")
    if not (card.faithful and card.differs):
        found.append(f"{name}: say in faithful and differs what is as in the paper, and what not")
    drafts = re.findall(rf"^(\w+): ['\"]?{DRAFT}", text, re.MULTILINE)
    if drafts:
        found.append(f"{name}: write {', '.join(drafts)}")
    facts = [field for field in ("arxiv", "doi") if not getattr(card, field)]
    if len(facts) == 2:
        found.append(f"{name}: give the paper's arXiv number or DOI, and its code if it has any")
    received = _read(root / "survey_lib" / "cards" / "received" / f"{card.slug}.md")
    received = re.sub(r"\[image left out: [^]]*\]", "", received)
    if squeezed(card.gist) in squeezed(received):
        found.append(f"{name}: tell the gist in your own words; it is still the survey's")
    return found


def _missing_in_notebook(slug: str, root: Path) -> list[str]:
    name, path = f"notebooks/{slug}.ipynb", root / "notebooks" / f"{slug}.ipynb"
    if not path.exists():
        return [f"{name}: write the chapter, or survey new {slug}"]
    notebook = layout.read_notebook(path)
    drafts = []
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and re.search(rf"^({DRAFT}|TODO)", cell.source, re.M):
            head = re.search(r"^#+ *(.+)$", cell.source, re.MULTILINE)
            drafts.append(head.group(1) if head else cell.source.split("\n")[0])
    found = []
    if drafts:
        found.append(f"{name}: write the parts {'; '.join(drafts)}")
    if not any(
        re.search(r"\bsay(_as_found)?\(", source) for source in layout.code_sources(notebook)
    ):
        found.append(f"{name}: say what the verdicts mean, with survey_lib.show.verdicts.say")
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""
