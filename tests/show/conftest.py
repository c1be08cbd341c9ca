from dataclasses import fields

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

mpl.use("agg")

from survey_lib.cards.card import Card, Claim, Reported
from survey_lib.evidence.records import Record
from survey_lib.evidence.verdicts import judge
from survey_lib.show import page


@pytest.fixture(autouse=True)
def _own_page(tmp_path, monkeypatch):
    """Every test has its own build folder, page and matplotlib defaults."""
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path / "build"))
    monkeypatch.setattr(page, "CONTEXT", page.Context())
    with mpl.rc_context():
        yield
    plt.close("all")


@pytest.fixture
def opened():
    page.begin("a_paper", "quick")
    return page.CONTEXT


def claim(ident="small-is-fine", **changes):
    fields = {
        "id": ident,
        "title": "Half can go",
        "kind": "paper",
        "sentence": "Half the weights can go.",
        "where": "Table 2",
        "statistic": "gap",
        "measures": "accuracy pruned minus dense",
        "region": (0.0, None),
        "expected": "+0.01",
    }
    return Claim(**(fields | changes))


def verdict(values, **changes):
    """A verdict judged from one value per seed."""
    made = claim(**changes)
    records = [
        Record("a_paper", "study", {"seed": s}, s, str(s), "done", {"x": v})
        for s, v in enumerate(values)
    ]
    return judge(made, records, lambda rows: rows[0].numbers["x"])


@pytest.fixture
def card():
    """A card whose every text tries to break out of the HTML it is put in."""
    facts = {
        "slug": "a_paper",
        "title": "Fewer & smaller <script>alert(1)</script>",
        "authors": ("Ada <b>B</b>", "Carl D"),
        "year": 2017,
        "venue": "V",
        "arxiv": "1710.01878",
        "doi": "10.1/x",
        "code": "javascript:alert(1)",
        "code_licence": "MIT",
        "tags": ("pruning", "<i>x</i>"),
        "headline": "Cut it & keep it.",
        "scale": "tiny; the paper: large",
        "reported": (
            Reported(
                "main", "Theirs", "Table 1", ("sparsity", "top-1"),
                ((0.9, 61.5), (0, 70.6), (0.5, 69.5)), ("top-1",),
            ),
            Reported("sure", "Theirs", "Table 2", ("sparsity", "top-1"), ((0, 70.6),)),
        ),
        "claims": (),
        "download_bytes": 0,
    }  # fmt: skip
    # the fields that pages do not show are left empty, whichever there are
    return Card(**({f.name: "" for f in fields(Card)} | facts))
