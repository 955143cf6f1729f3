"""Reading a request, headers and body, and turning it away."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from dpqlab_app.serving.limits import BODY_SECONDS, MOST_BODY, MOST_DISCARDED

Message = MutableMapping[str, Any]
Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]


class Refusal(Exception):  # noqa: N818  (an answer, not an accident)
    """A request is turned away; ``headers`` go along with the answer."""

    def __init__(
        self, status: int, sentence: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = dict(headers or {})


def read_headers(scope: Scope) -> dict[str, str]:
    """Headers by lower-case name. A name that must not be given twice is refused if it is."""
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name = raw.decode("latin-1").lower()
        if name in headers and name in {"host", "origin", "x-forwarded-host", "authorization"}:
            raise Refusal(400, f"{name} was given twice")
        headers[name] = value.decode("latin-1")
    return headers


def password_in(header: str) -> str | None:
    """The password of an ``Authorization`` header; None without one, empty if malformed."""
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""


async def read_body(headers: Mapping[str, str], receive: Receive) -> bytes:
    """The whole body, its bytes counted as they come, whatever its header said.

    The rest of one that is too long is dropped, for a while: a sender who is cut off in the middle
    of it does not see the answer.
    """
    too_long = Refusal(413, f"A request may have {MOST_BODY} bytes; this one has more.")
    declared = headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:12]) > MOST_DISCARDED:
        raise too_long
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "The connection ended before the request did.")
                part = message.get("body", b"")
                size += len(part)
                if size <= MOST_BODY:
                    body += part
                if size > MOST_DISCARDED:
                    raise too_long
                if not message.get("more_body", False):
                    break
    except TimeoutError:
        raise Refusal(408, "The request took too long to arrive.") from None
    if size > MOST_BODY:
        raise too_long
    return bytes(body)


def replay(body: bytes, receive: Receive) -> Receive:
    """Hand out ``body`` once, then what ``receive`` says: that the client has gone."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
