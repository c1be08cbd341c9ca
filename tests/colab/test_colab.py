"""The chapters where Colab would run them: its Python, its versions, the wheel, nothing else."""

import json
import os
import shutil
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import nbformat
import pytest

from survey_lib import files
from survey_lib.publish import layout
from tests.colab import environment

pytestmark = pytest.mark.colab

CHAPTERS = sorted(layout.slugs())
WIDGET = "application/vnd.jupyter.widget-view+json"
SMALL = """\
import altair as alt
import ipywidgets
import pandas as pd

from survey_lib.show import page
from survey_lib.show.explorer import Control, Explorer

page.begin("to_prune_or_not", "smoke")
grid = pd.DataFrame({"keep": [0.5, 0.1], "accuracy": [0.875, 0.75]})


def chart(rows, chosen):
    here = alt.datum.keep == chosen["keep"]
    return alt.Chart(rows).transform_filter(here).mark_point().encode(x="keep:Q", y="accuracy:Q")


print(ipywidgets.__version__)
one = Explorer(
    "small", controls=[Control("keep", "Share kept", (0.5, 0.1), 0.5)], grid=grid, chart=chart,
    live=lambda keep: keep, title="How small?", alt="A point.", caption="Move it.",
)
one
"""
MOVED = """\
_, slider, bar, status, output = one.widget().children
slider.value = 0.1
print(output.outputs[0]["data"]["text/plain"], status.value)
"""


@pytest.fixture(scope="session")
def base():
    """The environment before the wheel: its folder, and what is in it."""
    start = time.monotonic()
    folder = environment.base_environment(files.build_dir())
    version = environment.run(folder / "bin" / "python", "--version").strip()
    note = "" if f" {environment.WANTED}." in version else f", not {environment.WANTED} as on Colab"
    print(f"\n{version}{note}; ready after {time.monotonic() - start:.0f} s", file=sys.stderr)
    python = folder / "bin" / "python"
    # a wheel of an earlier run is taken out, so that what follows is an installation
    environment.run(python, "-m", "pip", "uninstall", "--yes", "--quiet", "compression-survey")
    return folder, environment.installed(python)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    return environment.wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="session")
def colab(base, wheel):
    """The environment's Python after ``pip install`` of the wheel, as the set-up cell does it."""
    folder, before = base
    python = folder / "bin" / "python"
    changes = environment.would_change(python, wheel)
    environment.run(python, "-m", "pip", "install", "--quiet", wheel)
    return python, before, environment.installed(python), changes


def execute(python, path, tmp_path, seconds=300, over=None, cache=None):
    """Execute the notebook at ``path`` in place; nothing of this checkout is in reach."""
    env = environment.clean() | {
        "PATH": os.pathsep.join([str(python.parent), os.environ["PATH"]]),
        "SURVEY_PROFILE": "smoke",
        "SURVEY_CACHE": str(cache or tmp_path / "cache"),
        "SURVEY_JOBS": "1",
        "OMP_NUM_THREADS": "1",
        "SURVEY_BUILD": str(tmp_path / "build"),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    if over is not None:
        env["PYTHONPATH"] = str(over)
    script = environment.ROOT / "tests" / "colab" / "execute.py"
    shutil.copy(script, tmp_path / "execute.py")
    command = (python, "-u", tmp_path / "execute.py", path, seconds)
    environment.run(*command, env=env, cwd=path.parent, timeout=seconds)
    return nbformat.read(path, as_version=4)


def shown(cell):
    """MIME types of a cell's last result."""
    return next(set(o.data) for o in reversed(cell.outputs) if "data" in o)


def test_the_environment_is_the_list(base):
    _, before = base
    wrong = {n: before.get(n) for n, v in environment.listed().items() if before.get(n) != v}
    assert wrong == {}


def test_the_wheel_holds_the_library_and_its_records_and_nothing_else(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = environment.sources()
    records = {f"survey_lib/_results/{n.removeprefix('results/')}"
               for n in tracked if n.startswith("results/")}  # fmt: skip
    assert any(name.startswith("survey_lib/_results/study/") for name in records)
    assert records | {n for n in tracked if n.startswith("survey_lib/")} <= names
    outside = {n for n in names if not n.startswith("survey_lib/") and ".dist-info/" not in n}
    assert outside == set()
    assert not any("__pycache__" in n for n in names)


def test_installing_it_changes_no_package_that_is_there(colab):
    _, before, after, changes = colab
    assert changes == []
    assert {n: after.get(n) for n, v in before.items() if after.get(n) != v} == {}
    assert set(after) - set(before) == set(environment.ADDED)


def run_chapter(python, slug, work):
    """Run a chapter alone in an empty folder; what is left of it."""
    folder = work / slug / "empty"
    folder.mkdir(parents=True)
    path = folder / f"{slug}.ipynb"
    shutil.copy(layout.source(slug), path)
    start = time.monotonic()
    # dense nets that two chapters share are trained once
    notebook = execute(python, path, work / slug, cache=work / "cache")
    print(f"\n{slug}: smoke in {time.monotonic() - start:.0f} s", file=sys.stderr)
    return SimpleNamespace(notebook=notebook, folder=folder, build=work / slug / "build")


@pytest.fixture(scope="session")
def runs(colab, request, tmp_path_factory):
    """Slug → its run in the making: as many at a time as there are cores, each on one."""
    work = tmp_path_factory.mktemp("chapters")
    wanted = [i.callspec.params["slug"] for i in request.session.items if "runs" in i.fixturenames]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        yield {slug: pool.submit(run_chapter, colab[0], slug, work) for slug in wanted}


@pytest.mark.parametrize("slug", CHAPTERS)
def test_a_chapter_runs_alone_in_an_empty_folder(slug, runs):
    done = runs[slug].result()
    cells = [cell for cell in done.notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells if cell.source)
    assert [o for c in cells for o in c.outputs if o.output_type == "error"] == []
    (setup,) = [cell for cell in cells if "setup" in layout.tags(cell)]
    assert setup.outputs == []  # the library is there, so the cell does nothing
    assert [p.name for p in done.folder.iterdir()] == [f"{slug}.ipynb"]
    if slug not in layout.NO_CARD:
        (explorer,) = [cell for cell in cells if "explorer" in layout.tags(cell)]
        assert {WIDGET, "text/html"} <= shown(explorer)
        assert (done.build / "records" / slug).is_dir()


@pytest.mark.parametrize("major", ["7", "8"])
def test_an_explorer_shows_both_its_faces_and_answers(major, colab, base, tmp_path):
    over = environment.overlay(files.build_dir(), base[0]) if major == "8" else None
    folder = tmp_path / "empty"
    folder.mkdir()
    path = folder / "small.ipynb"
    sources = (SMALL, MOVED, "import survey_lib\nprint(survey_lib.__file__)")
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    notebook = execute(colab[0], path, tmp_path, over=over)
    first, moved, last = notebook.cells
    version = next(o.text for o in first.outputs if o.output_type == "stream")
    assert version.split(".")[0] == major
    if major == "7":
        assert version.strip() == environment.listed()["ipywidgets"]
    assert {WIDGET, "text/html"} <= shown(first)
    result = first.outputs[-1].data
    assert result[WIDGET]["model_id"]
    spec = result["text/html"].split('type="application/json"')[1].split(">", 1)[1]
    (packed,) = json.loads(spec.split("</script>")[0])["datasets"].values()
    assert 0.875 in [row[packed["columns"].index("accuracy")] for row in packed["rows"]]
    assert moved.outputs[0].text.startswith("0.1 Computed here in")
    assert "site-packages" in last.outputs[0].text
