"""The gate before Gradio: who may ask, for what, how much and how often. Plain ASGI middleware.

A request passes in this order: a name of ours, no foreign page, the password where there is one, a
route that the page needs, a body that is small and well formed, not too many. Whoever is refused
gets a status and one sentence (``{"detail": ...}``, which Gradio's page shows).
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpqlab.errors import ConfigError
from dpqlab_app.serving.addresses import Names, foreign_page
from dpqlab_app.serving.calls import API, CALL, JOIN, RUN, Calls
from dpqlab_app.serving.limits import WRONG_PASSWORDS_A_MINUTE, RateLimit
from dpqlab_app.serving.reading import (
    App,
    Message,
    Receive,
    Refusal,
    Scope,
    Send,
    password_in,
    read_body,
    read_headers,
    replay,
)

READ = re.compile(
    r"/|/(?:assets|static|svelte)/[\w./@-]+|/(?:config|theme\.css|favicon\.ico|manifest\.json|robots\.txt)"
    rf"|{API}/(?:info|theme\.css|queue/(?:data|status)|app_id|heartbeat/\w+|call/\w+/\w+|file=.+)",
    re.ASCII,
)
"""What may be read. Not there, though Gradio has it: uploads, proxying, monitoring, run history,
deep links, recordings, its coding agent."""
WRITE = re.compile(rf"{JOIN}|{RUN}|{CALL}\w+/?|{API}/(?:cancel|reset/?)", re.ASCII)

CONTENT_POLICY = "; ".join(
    [
        # Gradio's page has inline scripts and styles, and compiles event scripts
        "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:",
        "connect-src 'self' data: blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    ]
)
HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
}
_CORS = b"access-control-"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What the gate lets in.

    Attributes
    ----------
    names
        Names by which the server may be called.
    calls
        The handlers of the page.
    folder
        Where this run writes; no file outside of it is given out.
    password
        What a visitor must know (HTTP Basic, any user name); None for no password.
    jobs, posts
        How often a client may ask for pictures, and for anything; None for no limit.
    """

    names: Names
    calls: Calls
    folder: Path
    password: str | None = None
    jobs: RateLimit | None = None
    posts: RateLimit | None = None


class Guard:
    """ASGI application that lets pass to ``app`` what ``rules`` allow."""

    def __init__(self, app: App, rules: Rules) -> None:
        self._app = app
        self._rules = rules
        self._wrong = RateLimit(WRONG_PASSWORDS_A_MINUTE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            receive = await self._admit(scope, receive)
        except Refusal as refusal:
            await _answer(send, refusal)
            return
        await self._app(scope, receive, _with_headers(send))

    async def _admit(self, scope: Scope, receive: Receive) -> Receive:
        """Check everything; return what the application is to read the body from."""
        rules, method, path = self._rules, scope["method"], scope["path"]
        headers = read_headers(scope)
        for name in ("host", "x-forwarded-host"):  # Gradio builds addresses from both
            if (name == "host" or name in headers) and not rules.names.allow(headers.get(name, "")):
                raise Refusal(403, f"{name}: the app was not started for this name; see --name")
        if page := foreign_page(headers, method):
            raise Refusal(403, f"this request comes from {page}; open the app itself")
        client = (scope.get("client") or ("?", 0))[0]
        self._check_password(headers, client)
        if method in ("GET", "HEAD"):
            if not READ.fullmatch(path) or not self._may_be_read(path):
                raise Refusal(404, "there is nothing here")
            return receive
        if method != "POST" or not WRITE.fullmatch(path):
            raise Refusal(405 if READ.fullmatch(path) else 404, "this is not possible here")
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            raise Refusal(415, "requests are JSON here; files cannot be sent")
        _limit(rules.posts, client, "Too much at once.")
        body = await read_body(headers, receive)
        if path in (JOIN, RUN) or path.startswith(CALL):
            self._check_call(path, body, client)
        return replay(body, receive)

    def _may_be_read(self, path: str) -> bool:
        if ".." in re.split(r"[/\\\\]", path) or "\0" in path:
            return False
        _, is_file, name = path.partition(f"{API}/file=")
        return not is_file or Path(name).resolve().is_relative_to(self._rules.folder)

    def _check_password(self, headers: Mapping[str, str], client: str) -> None:
        expected = self._rules.password
        if expected is None:
            return
        given = password_in(headers.get("authorization", ""))
        if wait := self._wrong.wait(client):
            raise Refusal(429, f"Too many wrong passwords. Please wait {wait} s.", _retry(wait))
        if given is not None and hmac.compare_digest(given.encode(), expected.encode()):
            return
        if given is not None:
            self._wrong.count(client)
        ask = {"www-authenticate": 'Basic realm="dpqlab (any user name)", charset="UTF-8"'}
        raise Refusal(401, "This app wants a password; any user name will do.", ask)

    def _check_call(self, path: str, body: bytes, client: str) -> None:
        try:
            endpoint = self._rules.calls.read(path, body)
        except ConfigError as error:
            raise Refusal(400, f"Refused: {error}.") from None
        if endpoint.computes:
            _limit(self._rules.jobs, client, "That was a lot of pictures for one minute.")


def _limit(limit: RateLimit | None, client: str, sentence: str) -> None:
    if limit is not None and (wait := limit.take(client)):
        raise Refusal(429, f"{sentence} Please try again in {wait} s.", _retry(wait))


def _retry(seconds: int) -> dict[str, str]:
    return {"retry-after": str(seconds)}


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            # no other origin is allowed in: Gradio's answers to them are dropped
            kept = [(k, v) for k, v in message.get("headers", []) if not k.startswith(_CORS)]
            message = {**message, "headers": kept + _encoded(HEADERS)}
        await send(message)

    return send_with_headers


async def _answer(send: Send, refusal: Refusal) -> None:
    body = json.dumps({"detail": refusal.sentence}).encode()
    own = {"content-type": "application/json", "content-length": str(len(body))}
    headers = _encoded(HEADERS | own | {"connection": "close"} | refusal.headers)
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
