"""The app as it runs: drawings stream, errors are sentences, work ends with its visitor."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from benchmarks.app_client import Request, ask, client, crowd, leave_early
from benchmarks.app_stub import stub_page
from dpqlab_app.serving.config import ServerConfig
from dpqlab_app.serving.housekeeping import forget, quiet_environment, tidy
from dpqlab_app.serving.server import running
from tests.apps.sites import Site

ROOT = Path(__file__).resolve().parents[3]
GOOD = Request(steps=3).data


@pytest.fixture(scope="module")
def visitor(site: Site) -> Client:
    return Client(site.url, verbose=False)


def test_a_drawing_streams(visitor: Client) -> None:
    job = visitor.submit(*GOOD, api_name="/draw")
    job.result(timeout=30)
    assert len(job.outputs()) == 3


def test_a_bad_setting_gets_a_sentence(visitor: Client) -> None:
    bad = [*GOOD[:5], 1000, 1.5]
    with pytest.raises(AppError, match=r"number of steps is 1000: expected 1 to 250"):
        visitor.predict(*bad, api_name="/draw")


def test_only_what_is_meant_for_others_is_offered(visitor: Client) -> None:
    offered = visitor.view_api(return_format="dict", print_info=False)
    assert set(cast(Any, offered)["named_endpoints"]) == {"/draw", "/models"}


def test_a_full_queue_says_so_at_once_and_serves_the_rest(site: Site) -> None:
    answers = asyncio.run(crowd(site.url, Request(steps=8), clients=30, requests=30, retry=False))
    kinds = [answer.kind for answer in answers]
    assert set(kinds) == {"result", "busy"}, [a.text for a in answers if a.kind == "error"]
    assert 16 <= kinds.count("result") <= 20, "one is drawn, 16 wait"
    assert all(answer.seconds < 3 for answer in answers if answer.kind == "busy")


def test_one_drawing_at_a_time(site: Site) -> None:
    before = len(events(site))
    asyncio.run(crowd(site.url, Request(steps=5), clients=4, requests=8, retry=True))
    kinds = [(event["event"], event["drawing"]) for event in events(site)[before:]]
    open_now: set[int] = set()
    for kind, drawing in kinds:
        if kind == "open":
            open_now.add(drawing)
        elif kind == "close":
            open_now.discard(drawing)
        assert len(open_now) <= 1


def test_work_stops_within_a_step_when_its_visitor_leaves(site: Site) -> None:
    before = len(events(site))
    left = asyncio.run(leave_early(site.url, Request(steps=250)))
    closed = wait_for_close(site, before)
    assert closed - left < 0.01 + 1
    steps = sum(event["event"] == "step" for event in events(site)[before:])
    assert steps < 250


def test_a_waiting_request_whose_visitor_left_is_never_begun(site: Site) -> None:
    before = site.drawings()

    async def impatient() -> None:
        async with client(site.url, 8) as http:
            first = asyncio.create_task(ask(http, Request(steps=60)))
            await asyncio.sleep(0.2)
            second = asyncio.create_task(ask(http, Request(steps=60)))
            await asyncio.sleep(0.2)
            second.cancel()
            assert (await first).kind == "result"

    asyncio.run(impatient())
    time.sleep(0.3)
    assert site.drawings() == before + 1


def events(site: Site) -> list[dict[str, Any]]:
    text = site.log.read_text() if site.log.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def wait_for_close(site: Site, before: int) -> float:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for event in events(site)[before:]:
            if event["event"] == "close":
                return event["time"]
        time.sleep(0.01)
    raise AssertionError("the drawing never ended")


def test_the_runs_folder_is_private_and_a_drawing_leaves_nothing_there(
    site: Site, visitor: Client
) -> None:
    if os.name == "posix":
        assert stat.S_IMODE(site.scratch.stat().st_mode) == 0o700
    before = set(site.scratch.rglob("*"))
    record: Any = visitor.predict(*GOOD, api_name="/draw")
    assert record["versions"][0]["images"][0].startswith("data:image/png;base64,")
    assert set(site.scratch.rglob("*")) == before


def test_pages_of_a_crowd_open(site: Site) -> None:
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda _: site.send("GET", "/").status, range(64)))
    assert set(found) == {200}


def test_nothing_is_left_behind_and_it_ends_soon(tmp_path: Path) -> None:
    """Even with a page open, whose connection says that it lives."""
    build = stub_page(page="plain", step_s=0.0)
    environment = dict(os.environ)
    try:
        with running(ServerConfig(port=0), build) as url:
            scratch = Path(os.environ["GRADIO_TEMP_DIR"])
            assert scratch.is_dir()
            http = httpx.Client(base_url=url, trust_env=False)
            beat = http.send(http.build_request("GET", "/gradio_api/heartbeat/abc"), stream=True)
            assert next(beat.iter_lines()).startswith("data")
            started = time.monotonic()
    finally:
        os.environ.clear()
        os.environ.update(environment)
    assert time.monotonic() - started < 5
    assert not scratch.exists()
    beat.close()
    http.close()


def test_with_a_password_the_client_needs_it() -> None:
    config = ServerConfig(host="0.0.0.0", port=0, password="long enough")
    environment = dict(os.environ)
    try:
        with running(config, stub_page(page="plain", step_s=0.0)) as url:
            assert httpx.get(url, trust_env=False).status_code == 401
            header = httpx.BasicAuth("anyone", "long enough")._auth_header
            known = Client(url, headers={"Authorization": header}, verbose=False)
            known.predict(*GOOD, api_name="/draw")
            path, bad = "/gradio_api/call/draw", {"data": [None] * 7}
            with httpx.Client(base_url=url, auth=("", "long enough"), trust_env=False) as http:
                found = [http.post(path, json=bad).status_code for _ in range(10)]
            assert found == [200] * 9 + [429], "ten drawings a minute"
    finally:
        os.environ.clear()
        os.environ.update(environment)


def test_idle_visitors_are_forgotten_after_two_rounds() -> None:
    class Messages(list[str]):
        def empty(self) -> bool:
            return not self

    queue = SimpleNamespace(
        pending_event_ids_session={"idle": set(), "busy": {"e"}, "lost": {"e"}, "unread": set()},
        pending_messages_per_session={
            "idle": Messages(), "busy": Messages(), "unread": Messages("m")
        },
    )  # fmt: skip
    blocks = cast(Any, SimpleNamespace(_queue=queue))
    idle = tidy(blocks)
    assert idle == {"idle", "lost"} and len(queue.pending_event_ids_session) == 4
    assert tidy(blocks, idle) == set()
    assert set(queue.pending_event_ids_session) == {"busy", "unread"}
    assert set(queue.pending_messages_per_session) == {"busy", "unread"}


def test_swept_files_are_forgotten(tmp_path: Path) -> None:
    gone, here = tmp_path / "gone.png", tmp_path / "here.png"
    blocks = cast(Any, SimpleNamespace(temp_file_sets=[{str(gone), str(here)}, set()]))
    forget(blocks, [str(gone)])
    assert blocks.temp_file_sets == [{str(here)}, set()]


def test_the_environment_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"GRADIO_ALLOWED_PATHS": "/", "GRADIO_SHARE": "True"})
    quiet_environment(tmp_path)
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["GRADIO_SHARE"] == "False"
    assert "GRADIO_ALLOWED_PATHS" not in os.environ


OFFLINE = """
import socket, sys
asked = []
def refuse(*args, **named):
    asked.append(args[0]); raise OSError("no network")
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, *a, **k: (
    look_up(host, *a, **k) if host in ("127.0.0.1", "localhost") else refuse(host)
)
from dpqlab_app.serving.config import ServerConfig
from dpqlab_app.serving.server import running
assert "gradio" not in sys.modules and "torch" not in sys.modules
from benchmarks.app_stub import stub_page
import http.client
with running(ServerConfig(port=0), stub_page(page="plain")) as url:
    connection = http.client.HTTPConnection(url.removeprefix("http://"))
    connection.request("GET", "/")
    assert connection.getresponse().status == 200
import time; time.sleep(1)  # Gradio asks in threads
print("asked", asked)
"""


@pytest.mark.slow
def test_nobody_is_asked_from_start_to_end() -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "apps")])
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    finished = subprocess.run(
        [sys.executable, "-c", OFFLINE],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=env | {"PYTHONPATH": paths},
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "asked []"
