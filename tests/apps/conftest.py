from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.app_stub import stub_page
from dpqlab_app.serving.config import ServerConfig
from dpqlab_app.serving.server import running
from tests.apps.sites import SECRET, Site
from tests.apps.tiny_models import (  # noqa: F401 - fixtures
    tiny_catalogue,
    tiny_engine,
    tiny_folders,
    tiny_settings,
)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The app over a stub that draws noise, 10 ms a step; the server as it is shipped."""
    folder = tmp_path_factory.mktemp("site")
    secret = folder / "secret.txt"
    secret.write_text(SECRET)
    log = folder / "events.jsonl"
    environment = dict(os.environ)
    with running(ServerConfig(port=0), stub_page(step_s=0.01, log=log)) as url:
        scratch = Path(os.environ["GRADIO_TEMP_DIR"])
        yield Site(url=url, secret=secret, scratch=scratch, log=log)
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody may be made to ask, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(SECRET.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
