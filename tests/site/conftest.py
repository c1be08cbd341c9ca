import functools
import http.server
import os
import threading

import pytest

from survey_lib.publish import build
from tests.browser import chromium, screens  # noqa: F401 (screens is a fixture)


@pytest.fixture(scope="session")
def site():
    folder = build.site()
    if not (folder / "index.html").exists():
        if os.environ.get("CI"):
            pytest.fail("there is no built site: run make book first")
        pytest.skip("there is no built site: run make book")
    return folder


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def address(site):
    handler = functools.partial(_Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def browser(site):
    with chromium() as one:
        yield one
