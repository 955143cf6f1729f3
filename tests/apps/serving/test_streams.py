"""An answer never overtakes the end of the stream that its page listens to."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from dpqlab_app.serving.calls import JOIN
from dpqlab_app.serving.streams import DATA, OrderedAnswers

WAIT = 0.4


async def gradio(scope: Any, receive: Any, send: Any) -> None:
    """Ends every stream at once, and answers at once."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    last = b'data: {"msg":"close_stream"}\n\n' if scope["path"] == DATA else b"{}"
    await send({"type": "http.response.body", "body": last})


def seconds(first: str, *, body: bytes, pause: float = 0.0, path: str = JOIN) -> float:
    """How long an answer takes after the stream of ``first`` has ended."""

    async def go() -> float:
        transport = httpx.ASGITransport(app=OrderedAnswers(gradio, wait=WAIT))
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            await client.get(f"{DATA}?session_hash={first}")
            await asyncio.sleep(pause)
            begun = time.monotonic()
            answer = await client.post(path, content=body)
            assert answer.status_code == 200 and answer.content
            return time.monotonic() - begun

    return asyncio.run(go())


def test_an_answer_waits_for_the_page_to_learn_of_the_end() -> None:
    assert seconds("a", body=b'{"session_hash": "a"}') > 0.8 * WAIT


@pytest.mark.parametrize(
    "body",
    [b'{"session_hash": "b"}', b"{}", b"[]", b"not JSON", b""],
    ids=["another page", "none", "a list", "no JSON", "nothing"],
)
def test_others_do_not_wait(body: bytes) -> None:
    assert seconds("a", body=body) < 0.5 * WAIT


def test_nothing_waits_later_or_elsewhere() -> None:
    assert seconds("a", body=b'{"session_hash": "a"}', pause=WAIT) < 0.5 * WAIT
    assert seconds("a", body=b'{"session_hash": "a"}', path="/else") < 0.5 * WAIT


def test_ends_are_forgotten() -> None:
    now = [0.0]
    app = OrderedAnswers(gradio, wait=WAIT, clock=lambda: now[0])

    async def go() -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
            for page in range(200):
                now[0] += WAIT / 10
                await client.get(f"{DATA}?session_hash={page}")

    asyncio.run(go())
    assert len(app._ended) <= 11
