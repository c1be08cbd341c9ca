"""`make book`: execute → stage → render → check, and nothing twice."""

import hashlib
import html
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from survey_lib import closure, files
from survey_lib.publish import cache_key, execute, layout, shown, stage
from survey_lib.publish.check_numbers import check_numbers
from survey_lib.publish.check_site import check_site
from survey_lib.publish.findings import report
from survey_lib.publish.layout import PublishError
from survey_lib.publish.lock import marked, only_build

TOOLS = ("jupyter-book", "sphinx", "myst-nb", "sphinx-book-theme", "vl-convert-python")


def build(
    profile: str = "quick",
    jobs: int | None = None,
    slugs: Sequence[str] | None = None,
    explain: bool = False,
) -> int:
    """Make the site in ``_build/html`` and say what was done.

    Args:
        profile: profile of the chapters (``smoke``, ``quick``, ``study`` or ``full``).
        jobs: chapters at a time; None means one per core.
        slugs: execute only these; the others are shown as they were last executed.
        explain: only say why each chapter would be executed; nothing is made.

    Returns:
        Exit status: 0 when the site stands, is checked and every asked chapter ran.
    """
    try:
        if explain:
            return _explain(profile, slugs)
        execute.asked(slugs, profile)
        with only_build():
            return _build(profile, jobs, slugs)
    except PublishError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        print(
            f"error: {error.strerror or error}{where}; finished chapters are kept, "
            "run survey build to go on",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print("stopped; finished chapters are kept, run survey build to go on", file=sys.stderr)
        return 130


def _explain(profile: str, slugs: Sequence[str] | None) -> int:
    for slug in execute.asked(slugs, profile):
        print(f"{slug}: {', '.join(cache_key.explain(slug, profile))}")
    return 0


def _build(profile: str, jobs: int | None, slugs: Sequence[str] | None) -> int:
    start = time.monotonic()
    outcomes = execute.execute(slugs, profile, jobs)
    failed = {o.slug: o.error for o in outcomes if o.status == "failed"}
    unbuilt = failed | _never_executed(failed)
    state = inputs_hash(unbuilt)
    if _last_state() == state:
        rendered = "nothing changed, the pages stand as they are"
    else:
        _state_file().unlink(missing_ok=True)
        execute.tell("staging the pages")
        stage.stage(unbuilt)
        execute.tell(f"rendering {_page_count()} pages with jupyter-book, about two seconds each")
        render()
        execute.tell(f"checking them; {time.monotonic() - start:.0f} s so far")
        findings = check_numbers() + check_site(unbuilt)
        if findings:
            print(report(findings), file=sys.stderr)
            print(f"error: the book has {len(findings)} findings", file=sys.stderr)
            return 1
        rendered = "pages rendered and checked"
        files.write_atomic(_state_file(), json.dumps({"inputs": state}))
    for slug in () if failed else unbuilt:
        print(f"{slug}: not executed yet; its page says so")
    ran = sum(o.status == "ran" for o in outcomes)
    cached = sum(o.status == "cached" for o in outcomes)
    print(
        f"{ran} chapters ran, {cached} cached, {len(failed)} failed; {rendered}; "
        f"{time.monotonic() - start:.1f} s\n{site() / 'index.html'}"
    )
    if failed:
        print(execute.report(outcomes), file=sys.stderr)
        return 1
    return 0


def _page_count() -> int:
    folder = files.build_dir() / "stage"
    return sum(path.suffix in (".md", ".ipynb") for path in folder.rglob("*"))


def site() -> Path:
    """Folder of the rendered site."""
    return files.build_dir() / "html"


def render() -> Path:
    """Render the stage with jupyter-book; the old site stays until the new one is complete.

    Raises:
        PublishError: jupyter-book failed or warned; its warnings are in the message.
    """
    work, log = files.build_dir() / "jupyter-book", files.build_dir() / "build.log"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # jupyter-book 1 has no __main__, and its script may not be on the path
    start = "from jupyter_book.cli.main import main; main(prog_name='jupyter-book')"
    command = [sys.executable, "-c", start, "build", str(files.build_dir() / "stage")]
    command += ["--path-output", str(work), "-W", "-n", "--keep-going", "--all"]
    # the Sphinx extension must be the one beside this file
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | marked()
    environment |= {
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "NO_COLOR": "1",
        "PYTHONWARNINGS": "ignore",  # of Sphinx's own plumbing; the book's warnings still fail it
    }
    with log.open("wb") as stream:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment
        )
    if done.returncode:
        text = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text(encoding="utf-8", errors="replace"))
        lines = [line for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
        lines = lines or text.strip().splitlines()[-12:]
        stage_name = str(files.build_dir() / "stage") + os.sep
        shown = "\n".join("  " + line.replace(stage_name, "") for line in lines[:20])
        raise PublishError(
            f"the pages were not rendered; the whole log is {log.parent.name}/{log.name}:\n{shown}"
        )
    made = work / "_build" / "html"
    _write_index(made)
    (made / ".buildinfo").unlink(missing_ok=True)
    old = site().with_name("html.old")
    shutil.rmtree(old, ignore_errors=True)
    if site().exists():
        site().rename(old)
    made.rename(site())
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)
    return site()


def _write_index(made: Path) -> None:
    """The site's address leads to the first page."""
    first = layout.pages()[0] + ".html"
    title = html.escape(str(layout.read_yaml(layout.root() / "_config.yml")["title"]))
    (made / "index.html").write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n"
        f'<meta http-equiv="refresh" content="0; url={first}">\n</head>\n'
        f'<body><main><h1><a href="{first}">{title}</a></h1></main></body>\n</html>\n',
        encoding="utf-8",
    )


def inputs_hash(unbuilt: dict[str, str]) -> str:
    """One hash over everything the pages are made from, so that nothing is rendered twice."""
    root = layout.root()
    paths = [root / "_config.yml", root / "_toc.yml", *(root / "benchmarks").glob("*.jsonl")]
    folders = [root / "book", files.PACKAGE / "cards", files.results_dir()]
    folders += [files.build_dir() / "figures"]
    for slug in layout.slugs():
        paths += [layout.source(slug), layout.executed(slug), layout.entry(slug)]
    for folder in folders:
        paths += [path for path in folder.rglob("*") if "__pycache__" not in path.parts]
    parts = [json.dumps(unbuilt, sort_keys=True)]
    parts += [f"{path} {files.sha256(path)}" for path in sorted(paths) if path.is_file()]
    parts += [closure.module_digest(path) for path in sorted(files.PACKAGE.rglob("*.py"))]
    parts += [importlib.metadata.version(tool) for tool in TOOLS]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _state_file() -> Path:
    return files.build_dir() / "site.json"


def _last_state() -> str:
    try:
        state = json.loads(_state_file().read_text(encoding="utf-8"))["inputs"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return state if (site() / "index.html").exists() else ""


def _never_executed(failed: dict[str, str]) -> dict[str, str]:
    """Chapters left out of a partial build that have no outputs of their present code."""
    found = {}
    for slug in layout.slugs():
        if slug not in failed:
            try:
                shown.staged_notebook(slug)
            except PublishError as error:
                found[slug] = str(error)
    return found
