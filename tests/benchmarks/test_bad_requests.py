"""Bad requests and their judge: it must see what is wrong, and know what is right."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed: the extra 'app'")

from benchmarks.bad_requests import CALL, Bad, bad_requests, is_good, send
from dpqlab.errors import DPQError
from dpqlab_app.drawing.catalogue import catalogue_of
from dpqlab_app.drawing.settings import DrawSettings

GOOD: list[Any] = ["fashion-dit", ["best-1bit"], [0, 3], 2, 0, 2, 1.5]


def test_a_seed_makes_the_same_requests() -> None:
    assert list(bad_requests(50, seed=3)) == list(bad_requests(50, seed=3))
    assert list(bad_requests(50, seed=3)) != list(bad_requests(50, seed=4))


def test_every_kind_of_request_is_among_them() -> None:
    made = list(bad_requests(400))
    assert len({one.path for one in made}) > 5
    assert any(len(one.body) > 1_000_000 for one in made)
    assert sum(one.path == CALL for one in made) > 250


def test_the_bounds_are_those_of_the_app() -> None:
    """Two readings of one documentation: this one's, and the code's."""
    catalogue = catalogue_of()
    checked = 0
    for one in bad_requests(1500, seed=11):
        if one.path != CALL or one.what == "another body":
            continue
        data = json.loads(one.body)["data"]
        if len(data) != 7:
            continue
        checked += 1
        with pytest.raises(DPQError):
            DrawSettings.from_fields(*data).checked(catalogue)
    assert checked > 800
    edges = [GOOD, ["fashion-dit", [], [9] * 8, 8, 2**32 - 1, 250, 20], [*GOOD[:3], 1.0, 0, 1, 1]]
    for data in edges:
        assert is_good(data)
        DrawSettings.from_fields(*data).checked(catalogue)


class Answers(BaseHTTPRequestHandler):
    """Says whatever a test wants it to say."""

    said: tuple[int, str] = (200, "")
    then: Callable[[], None]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).then()
        self.send_response(self.said[0])
        self.end_headers()
        self.wfile.write(self.said[1].encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ((400, '{"detail": "The number of steps is 0: expected 1 to 250."}'), None),
        ((500, '{"detail": "The number of steps is 0: expected 1 to 250."}'), "status 500"),
        ((400, "Bad Request"), "no sentence"),
        ((400, '{"detail": "no"}'), "no sentence"),
        ((400, '{"detail": "there is no model <img src=x onerror=alert(1)>"}'), "markup"),
        ((400, '{"detail": "Something went wrong here."}'), "not foreseen"),
        ((400, '{"detail": "Traceback (most recent call last): ..."}'), "insides"),
        ((200, "{}"), "no sentence"),
    ],
)
def test_the_judge_sees_what_is_wrong(
    url: str, tmp_path: Path, said: tuple[int, str], fault: str | None
) -> None:
    Answers.said, Answers.then = said, staticmethod(lambda: None)
    one = Bad(path="/elsewhere", body=b"{}", what="x")
    found = send(url, one, tmp_path / "log").fault
    assert found is None if fault is None else fault in str(found)


def test_the_judge_sees_that_something_was_drawn(url: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    Answers.said = (400, '{"detail": "The number of steps is 0: expected 1 to 250."}')
    Answers.then = staticmethod(lambda: log.write_text('{"event": "open"}\n'))
    found = send(url, Bad(path="/elsewhere", body=b"{}", what="x"), log)
    assert found.fault == "something was drawn"
