"""pyproject.toml, constraints.txt and environment.yml say the same."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What Colab preinstalled in August 2026: lower bounds may not ask for more.
COLAB = {
    "torch": "2.11.0", "torchvision": "0.26.0", "numpy": "2.1.3", "scipy": "1.16.3",
    "pandas": "2.2.3", "matplotlib": "3.10.0", "seaborn": "0.13.2", "ipywidgets": "7.7.1",
    "altair": "5.5.0", "safetensors": "0.8.0", "pooch": "1.9.0", "platformdirs": "4.11.3",
    "tqdm": "4.67.3", "typer": "0.27.1", "pyyaml": "6.0.3",
}  # fmt: skip
# What is added there: wheels without dependencies of their own, so that nothing else changes.
ADDED = {"zstandard"}


def pins():
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        name, _, version = line.split(";")[0].strip().partition("==")
        found[canonicalize_name(name)] = Version(version)
    return found


def requirements():
    texts = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        texts += extra
    return [Requirement(t) for t in texts]


def test_every_requirement_is_pinned_within_its_bounds():
    locked = pins()
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{name}: run make lock"
        assert locked[name] in requirement.specifier, f"{name}: run make lock"


def test_lower_bounds_ask_for_nothing_that_colab_lacks():
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        assert name in COLAB or name in ADDED, text
        assert name in ADDED or Version(COLAB[name]) in requirement.specifier, text
        assert not re.search(r"[<~=]=|<", str(requirement.specifier).replace(">=", "")), text


def test_conda_installs_this_package_with_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    (pip,) = [d["pip"] for d in environment["dependencies"] if isinstance(d, dict)]
    assert pip == ["-c constraints.txt", "-e .[book,llm]"]
    (python,) = [d for d in environment["dependencies"] if str(d).startswith("python=")]
    assert python.removeprefix("python=") in ("3.11", "3.12", "3.13")


def test_constraints_name_no_host_and_no_path():
    text = (ROOT / "constraints.txt").read_text()
    assert "://" not in text
    assert " @ " not in text
    assert "/" not in text


def test_importing_the_package_is_light():
    code = "import sys, survey_lib; print(sorted(m for m in ('torch', 'numpy', 'pandas', " \
           "'matplotlib', 'altair') if m in sys.modules))"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_library_reads_no_pickle():
    for path in (ROOT / "survey_lib").rglob("*.py"):
        text = path.read_text()
        found = re.search(r"\bimport pickle|torch\.load\(|allow_pickle=True|joblib\.load", text)
        assert not found, path
