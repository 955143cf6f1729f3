"""The gate alone, before an application that says what reached it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest

from dpqlab_app.page.handlers import GPU
from dpqlab_app.serving import reading
from dpqlab_app.serving.addresses import names_of
from dpqlab_app.serving.calls import API, CALL, JOIN, Calls
from dpqlab_app.serving.guard import Guard, Rules
from dpqlab_app.serving.limits import MOST_BODY, MOST_DISCARDED, RateLimit

CONTENT = {"content-type": "application/json"}
DRAW = b'{"data": [1]}'

Ask = Callable[..., httpx.Response]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with the body that arrived, and with a header that must not get out."""
    body = (await receive())["body"] if scope["method"] == "POST" else b""
    headers = [(b"access-control-allow-origin", b"*"), (b"x-own", b"1")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def gate(tmp_path: Path) -> Callable[..., Ask]:
    """Makes a gate of these rules, and a function that asks it."""
    common: dict[str, Any] = {"inputs": [1], "fn": print, "queue": True}
    draw = SimpleNamespace(api_name="draw", name="draw", concurrency_id=GPU, **common)
    tick = SimpleNamespace(api_name="tick", name="tick", concurrency_id="x", **common)
    calls = Calls(cast(Any, SimpleNamespace(fns={0: draw, 1: tick})), tmp_path)

    def build(**rules: Any) -> Ask:
        host = rules.pop("host", "127.0.0.1")
        app = Guard(echo, Rules(names=names_of(host), calls=calls, folder=tmp_path, **rules))

        def ask(method: str, path: str, *, client: str = "10.0.0.1", **more: Any) -> httpx.Response:
            async def go() -> httpx.Response:
                transport = httpx.ASGITransport(cast(Any, app), client=(client, 1))
                base = "http://localhost:7860"
                async with httpx.AsyncClient(transport=transport, base_url=base) as http:
                    return await http.request(method, path, **more)

            return asyncio.run(go())

        return ask

    return build


@pytest.fixture
def ask(gate: Callable[..., Ask]) -> Ask:
    return gate()


@pytest.mark.parametrize(
    "path",
    [
        "/", "/config", "/theme.css", "/favicon.ico", "/assets/index-Dph.js",
        "/static/fonts/a.woff2",
        f"{API}/info", f"{API}/queue/data?session_hash=x", f"{API}/heartbeat/abc",
        f"{API}/call/draw/0123abc",
    ],
)  # fmt: skip
def test_what_the_page_needs_passes(ask: Ask, path: str) -> None:
    assert ask("GET", path).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/docs", "/openapi.json", "/login", "/monitoring", "/monitoring/summary", "/dev/reload",
        f"{API}/openapi.json", f"{API}/upload_progress?upload_id=1", f"{API}/token",
        f"{API}/deep_link", f"{API}/runs", f"{API}/vibe-code", f"{API}/proxy=http://x.hf.space/",
        f"{API}/stream/a/1/2/p",
        f"{API}/file/x", "/assets/../../x", "/etc/passwd", f"{API}/run/draw",
    ],
)  # fmt: skip
def test_what_it_does_not_need_is_not_there(ask: Ask, path: str) -> None:
    assert ask("GET", path).status_code == 404


def test_a_file_is_given_out_from_the_runs_folder_only(ask: Ask, tmp_path: Path) -> None:
    assert ask("GET", f"{API}/file={tmp_path}/aa/image.png").status_code == 200
    for path in ("/etc/passwd", "pyproject.toml", f"{tmp_path}-other/x", "http://127.0.0.1/", ""):
        assert ask("GET", f"{API}/file={path}").status_code == 404


def test_a_body_arrives_as_it_was_sent(ask: Ask) -> None:
    answer = ask("POST", f"{CALL}draw", content=DRAW, headers=CONTENT)
    assert (answer.status_code, answer.content) == (200, DRAW)


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(ask: Ask, method: str) -> None:
    assert ask(method, "/").status_code == 405
    assert ask(method, JOIN).status_code == 404


@pytest.mark.parametrize("content", ["text/plain", "multipart/form-data; boundary=x", ""])
def test_a_body_that_a_foreign_form_could_send_is_refused(ask: Ask, content: str) -> None:
    answer = ask("POST", f"{CALL}draw", content=DRAW, headers={"content-type": content})
    assert answer.status_code == 415 and "files cannot be sent" in answer.json()["detail"]


def test_a_long_body_is_refused_by_what_it_says(ask: Ask) -> None:
    assert ask("POST", JOIN, content=b"x" * (MOST_BODY + 1), headers=CONTENT).status_code == 413


def test_a_long_body_is_refused_by_what_it_is(ask: Ask) -> None:
    """Sent in chunks, without a length; reading stops at the limit."""
    sent: list[int] = []

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            sent.append(1)
            yield b"x" * 65536

    assert ask("POST", JOIN, content=endless(), headers=CONTENT).status_code == 413
    assert len(sent) <= MOST_DISCARDED // 65536 + 2


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "9" * 400, "abc"])
def test_a_length_that_is_none_is_refused(ask: Ask, length: str) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", length.encode())]
    assert ask("POST", JOIN, content=b"{}", headers=headers).status_code == 413


def test_a_body_that_does_not_come_is_not_waited_for(
    gate: Callable[..., Ask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BODY_SECONDS", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)
        yield b"}"

    assert gate()("POST", JOIN, content=slow(), headers=CONTENT).status_code == 408


def test_a_malformed_call_gets_a_sentence(ask: Ask) -> None:
    answer = ask("POST", f"{CALL}draw", content=b'{"data": [NaN]}', headers=CONTENT)
    assert answer.status_code == 400 and "NaN is not a number" in answer.json()["detail"]


def test_foreign_names_and_pages_are_refused(ask: Ask) -> None:
    assert ask("GET", "/", headers={"host": "evil.example"}).status_code == 403
    assert ask("GET", "/", headers={"x-forwarded-host": "evil.example"}).status_code == 403
    assert ask("GET", "/", headers={"origin": "http://evil.example"}).status_code == 403
    assert ask("GET", "/", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    twice = [("host", "localhost"), ("host", "evil.example")]
    assert ask("GET", "/", headers=twice).status_code == 400


def test_answers_are_for_this_page_alone(ask: Ask) -> None:
    for answer in (ask("GET", "/"), ask("GET", "/nothing")):
        assert not any(name.startswith("access-control") for name in answer.headers)
        assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert ask("GET", "/").headers["x-own"] == "1"


def test_without_the_password_nothing_is_there(gate: Callable[..., Ask]) -> None:
    ask = gate(password="long enough")
    for path in ("/", "/theme.css", "/docs", f"{API}/info"):
        answer = ask("GET", path)
        assert answer.status_code == 401 and "Basic" in answer.headers["www-authenticate"]
    assert ask("POST", f"{CALL}draw", content=DRAW, headers=CONTENT).status_code == 401
    assert ask("GET", "/", auth=("anyone", "long enough")).status_code == 200
    assert ask("GET", "/", auth=("", "long enough")).status_code == 200


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic bG9uZyBlbm91Z2g=", "Bearer long enough", "basic "]
)
def test_malformed_passwords_are_wrong_ones(gate: Callable[..., Ask], header: str) -> None:
    ask = gate(password="long enough")
    assert ask("GET", "/", headers={"authorization": header}).status_code == 401


def test_passwords_cannot_be_tried_out(gate: Callable[..., Ask]) -> None:
    ask = gate(password="long enough")
    assert {ask("GET", "/").status_code for _ in range(30)} == {401}, "asking is no guess"
    found = [ask("GET", "/", auth=("x", str(i))).status_code for i in range(30)]
    assert found == [401] * 10 + [429] * 20
    assert ask("GET", "/", auth=("x", "long enough")).status_code == 429, (
        "nor is the right one told"
    )
    assert ask("GET", "/", auth=("x", "long enough"), client="10.0.0.2").status_code == 200


def test_a_client_gets_so_many_drawings_a_minute(gate: Callable[..., Ask]) -> None:
    ask = gate(jobs=RateLimit(10))
    found = [ask("POST", f"{CALL}draw", content=DRAW, headers=CONTENT) for _ in range(12)]
    assert [answer.status_code for answer in found] == [200] * 10 + [429] * 2
    assert 50 <= int(found[-1].headers["retry-after"]) <= 60
    assert "try again in" in found[-1].json()["detail"]
    tick = ask("POST", JOIN, content=b'{"fn_index": 1, "data": [1]}', headers=CONTENT)
    assert tick.status_code == 200, "what does not compute is not counted"
    other = ask("POST", f"{CALL}draw", content=DRAW, headers=CONTENT, client="10.0.0.2")
    assert other.status_code == 200


def test_websockets_are_closed() -> None:
    sent: list[Any] = []

    async def go() -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        gate = Guard(echo, cast(Any, None))
        await gate({"type": "websocket"}, cast(Any, None), send)

    asyncio.run(go())
    assert sent == [{"type": "websocket.close", "code": 1008}]
