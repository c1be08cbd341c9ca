import subprocess

import pytest

from survey_lib.publish import check_site as checks
from survey_lib.publish.check_site import check_site

PICTURE = '<svg role="img"><title>Falls</title><path d="M0 0"/></svg>'


def page(body, head=""):
    return f"<!DOCTYPE html><html><head>{head}</head><body><main>{body}</main></body></html>"


@pytest.fixture
def site(book):
    folder = book.build / "html"
    (folder / "notebooks").mkdir(parents=True)
    (folder / "book").mkdir()
    (folder / "_static").mkdir()
    (folder / "_static" / "site.css").write_text("a { color: red }")
    (folder / "_static" / "dot.png").write_bytes(b"dot")
    for name in ("book/index", "book/how_to_read", "notebooks/alpha", "notebooks/beta"):
        (folder / f"{name}.html").write_text(page('<h1 id="top">A page</h1>'))
    (folder / "index.html").write_text(page("<h1>A site</h1>"))
    subprocess.run(["git", "init", "-q", "."], cwd=book.root, check=True)
    subprocess.run(["git", "add", "notebooks", "book"], cwd=book.root, check=True)
    return folder


def told(findings):
    return [finding.what for finding in findings]


def test_a_good_site_has_no_findings(site):
    (site / "notebooks" / "alpha.html").write_text(
        page(
            f"<figure>{PICTURE}</figure>"
            '<img src="../_static/dot.png" alt="A dot">'
            '<a href="beta.html#top">beta</a> <a href="../book/index.html">home</a>'
            '<a href="https://elsewhere.example/x">a link may lead outside</a>'
            '<a href="https://colab.research.google.com/github/owner/name/blob/main/'
            'notebooks/alpha.ipynb">Colab</a>'
            '<a href="https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/notebooks/'
            'alpha.ipynb">Binder</a>'
            '<a href="https://github.com/owner/name/edit/main/book/index.md">edit</a>'
            '<script type="application/json">{"$schema": "https://cdn.example/v5.json"}</script>',
            '<link rel="stylesheet" href="../_static/site.css">'
            '<link rel="canonical" href="https://elsewhere.example/alpha.html">',
        )
    )
    assert told(check_site()) == []


def test_a_drawing_made_of_links_needs_a_name_and_no_image_role(site):
    links = '<svg role="group" aria-label="A map"><a href="beta.html"><path d="M0 0"/></a></svg>'
    (site / "notebooks" / "alpha.html").write_text(page(links))
    assert told(check_site()) == []


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ('<img src="../_static/dot.png">', "has no alt text"),
        ('<img src="../_static/dot.png" alt=" ">', "has an empty alt text"),
        ('<img src="../_static/dot.png" alt="../_images/ab12.png">', "file name for its alt"),
        ('<svg><path d="M0 0"/></svg>', "no role=img with a title"),
        ('<svg role="img"><title> </title><path d="M0 0"/></svg>', "no role=img with a title"),
        (
            '<svg role="group"><a href="beta.html"><path d="M0 0"/></a></svg>',
            "no role=img with a title",
        ),
        ('<svg role="img"><title>Nothing</title><g></g></svg>', "an SVG that draws nothing"),
        ("<figure><figcaption>Words</figcaption></figure>", "an empty figure"),
        ('<div class="output traceback"><pre>ValueError</pre></div>', "shows a traceback"),
        ('<div class="survey-unbuilt" data-slug="alpha"></div>', "was not executed"),
        ('<a href="gamma.html">x</a>', "gamma.html, which is missing"),
        ('<a href="beta.html#bottom">x</a>', "beta.html#bottom, an anchor nobody has"),
        ('<a href="#bottom">x</a>', "#bottom, an anchor nobody has"),
        (
            '<a href="https://colab.research.google.com/github/owner/name/blob/main/'
            'executed/alpha.ipynb">x</a>',
            "launches executed/alpha.ipynb, which git does not track",
        ),
        (
            '<a href="https://colab.research.google.com/github/other/name/blob/main/'
            'notebooks/alpha.ipynb">x</a>',
            "which git does not track",
        ),
        (
            '<a href="https://mybinder.org/v2/gh/owner/name/main?urlpath=lab/tree/gone.ipynb">x</a>',
            "launches gone.ipynb",
        ),
        (
            '<a href="https://github.com/owner/name/edit/main/book/ledger.md">x</a>',
            "book/ledger.md",
        ),
        ('<script src="https://far.example/x.js"></script>', "<script> asks https://far.example"),
        ('<script src="//far.example/x.js"></script>', "<script> asks //far.example"),
        ('<img src="https://far.example/x.png" alt="X">', "<img> asks"),
        ('<iframe src="https://far.example/"></iframe>', "<iframe> asks"),
        ('<img srcset="https://far.example/x.png 2x" alt="X">', "<img> asks"),
        ('<p style="background: url(https://far.example/x.png)">x</p>', "CSS asks"),
        ("<style>@import 'https://far.example/x.css';</style>", "CSS asks"),
        ('<script>var a = "https://cdn.far.example/thebe.js";</script>', "a script names"),
    ],
)
def test_a_planted_defect_is_found(site, body, what):
    (site / "notebooks" / "alpha.html").write_text(page(body))
    [finding] = check_site()
    assert what in finding.what
    assert finding.file == "notebooks/alpha.html"
    assert finding.remedy


def test_remote_style_sheet_in_the_head_and_in_a_css_file(site):
    head = '<link rel="stylesheet" href="https://far.example/x.css">'
    (site / "notebooks" / "alpha.html").write_text(page("", head))
    (site / "_static" / "site.css").write_text(
        "/* url(https://a.comment) */ @font-face { src: url(https://far.example/f.woff2) }"
    )
    assert told(check_site()) == [
        "<link> asks https://far.example/x.css",
        "CSS asks https://far.example/f.woff2",
    ]


def test_a_told_failure_is_no_finding(site):
    (site / "notebooks" / "alpha.html").write_text(
        page('<div class="survey-unbuilt" data-slug="alpha"></div>')
    )
    assert check_site(["alpha"]) == []
    assert len(check_site(["beta"])) == 1


def test_local_paths_are_found_in_pages_and_in_downloads(site, book):
    (site / "_sources").mkdir()
    (site / "_sources" / "alpha.ipynb").write_text(f'{{"a": "{book.root}/x.py"}}')
    [finding] = check_site()
    assert finding.file == "_sources/alpha.ipynb"
    assert "local folder" in finding.what


def test_weight_counts_what_the_page_loads_and_what_its_explorer_will(site):
    (site / "_static" / "vendor").mkdir()
    (site / "_static" / "vendor" / "vega.js").write_bytes(b"x" * 1000)
    path = site / "notebooks" / "alpha.html"
    path.write_text(page('<img src="../_static/dot.png?v=1" alt="A dot">'))
    plain = path.stat().st_size + 3
    assert checks.page_weight(path, site) == plain
    path.write_text(
        page('<img src="../_static/dot.png" alt="A dot"><p class="survey-explorer"></p>')
    )
    assert checks.page_weight(path, site) == path.stat().st_size + 3 + 1000


def test_too_heavy_pages_are_found(site, monkeypatch):
    monkeypatch.setattr(checks, "HTML_BUDGET", 1000)
    monkeypatch.setattr(checks, "PAGE_BUDGET", 5000)
    (site / "notebooks" / "alpha.html").write_text(page("x" * 1100))
    (site / "_static" / "dot.png").write_bytes(b"x" * 5000)
    (site / "notebooks" / "beta.html").write_text(
        page('<h1 id="top">B</h1><img src="../_static/dot.png" alt="A dot">')
    )
    found = {f.file: f.what for f in check_site()}
    assert set(found) == {"notebooks/alpha.html", "notebooks/beta.html"}
    assert "its HTML weighs" in found["notebooks/alpha.html"]
    assert "it loads" in found["notebooks/beta.html"]


def test_missing_page_and_missing_site(site, book):
    (site / "notebooks" / "beta.html").unlink()
    assert told(check_site()) == ["is missing from the site"]
    (site / "index.html").unlink()
    assert told(check_site()) == ["there is no site"]
