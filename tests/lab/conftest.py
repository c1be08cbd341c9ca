"""A real JupyterLab on this machine: a token, the loopback, folders of its own, no browser."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.browser import chromium, screens  # noqa: F401 (screens is a fixture)

SETTINGS = {
    # no window of announcements, and nobody is asked for a newer version
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    # off-screen cells are drawn too, so that a test finds them
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
}


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _settle(folder: Path) -> None:
    for name, values in SETTINGS.items():
        package, plugin = name.split(":")
        path = folder / "settings" / package / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """A running JupyterLab: its address, its token, the folder it shows."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    shown = folder / "notebooks"
    shown.mkdir()
    _settle(folder)
    port, token = _free_port(), secrets.token_hex(16)
    env = os.environ | {
        "SURVEY_PROFILE": "smoke",
        "SURVEY_JOBS": "1",  # two chapters run at a time
        "OMP_NUM_THREADS": "1",
        "SURVEY_BUILD": str(folder / "build"),
        "IPYTHONDIR": str(folder / "ipython"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(folder / "workspaces"),
        "JUPYTER_TOKEN": token,
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--ServerApp.root_dir={shown}"]
    # lets a test ask the open notebook itself what has run
    command += ["--LabApp.expose_app_in_browser=True"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, f"{address}/api/status?token={token}", folder / "log")
        yield SimpleNamespace(address=address, token=token, folder=shown)
    finally:
        # the server ends its kernels, and they their workers
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)


def _wait(process: subprocess.Popen, url: str, log: Path, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="session")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture
def page(lab, browser):
    """A browser page that reaches nothing but this machine, and the requests it was refused."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    refused: list[str] = []

    def gate(route):
        if route.request.url.startswith((lab.address, "data:", "blob:")):
            route.continue_()
        else:
            refused.append(route.request.url)
            route.abort()

    context.route("**/*", gate)
    yield SimpleNamespace(page=context.new_page(), refused=refused)
    context.close()
