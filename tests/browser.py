"""Chromium for the tests that look at pages: found, started without a network of its own."""

import contextlib
import os
import shutil

import pytest

from survey_lib import files

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium():
    """The system's Chromium; a machine without it fails in CI and skips elsewhere."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        if os.environ.get("CI"):
            pytest.fail("there is no Chromium on this machine: install the package chromium")
        pytest.skip("there is no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def screens():
    """Folder of the screenshots: ``_build/screens/``."""
    folder = files.build_dir() / "screens"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
