"""The answer to a page whose stream of messages has just ended waits until the page knows it.

Gradio tells a page all that its handlers say through one stream, and ends it with the last handler.
What joins the queue just then is answered on another connection: if that answer overtakes the end
of the stream, the page takes the stream for open, opens no other, and never hears of the handler.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from urllib.parse import parse_qs

from dpqlab_app.serving.calls import API, JOIN
from dpqlab_app.serving.reading import App, Message, Receive, Scope, Send

DATA = f"{API}/queue/data"
WAIT_SECONDS = 0.5
"""How long after the end of a stream an answer reaches its page."""
_LAST_MESSAGE = b'"close_stream"'


class OrderedAnswers:
    """ASGI application before ``app``, which holds back answers to :data:`JOIN`.

    Parameters
    ----------
    app
        Gradio's.
    wait
        Seconds between the end of a page's stream and an answer to that page.
    clock
        Monotonic, in seconds.
    """

    def __init__(
        self, app: App, wait: float = WAIT_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._wait = wait
        self._clock = clock
        self._ended: dict[str, float] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "http" and scope["path"] == DATA:
            await self._stream(scope, receive, send)
        elif scope["type"] == "http" and scope["path"] == JOIN:
            await self._join(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]

        async def noting(message: Message) -> None:
            if _LAST_MESSAGE in message.get("body", b""):
                self._end(session)
            await send(message)

        self._ended.pop(session, None)
        await self._app(scope, receive, noting)

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def reading() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def late(message: Message) -> None:
            if message["type"] == "http.response.start":
                ended = self._ended.get(_session_in(bytes(body)), -self._wait)
                await asyncio.sleep(max(0.0, ended + self._wait - self._clock()))
            await send(message)

        await self._app(scope, reading, late)

    def _end(self, session: str) -> None:
        now = self._clock()
        self._ended = {one: end for one, end in self._ended.items() if end + self._wait > now}
        self._ended[session] = now


def _session_in(body: bytes) -> str:
    try:
        return str(json.loads(body)["session_hash"])
    except (ValueError, LookupError, TypeError):
        return ""
