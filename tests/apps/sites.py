"""A running server, and how tests talk to it."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

SECRET = "a-secret-that-no-answer-may-hold"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said."""

    status: int
    headers: Mapping[str, str]
    text: str


@dataclass(frozen=True, kw_only=True)
class Site:
    """A running server.

    ``secret`` is a file that it must not give out, ``scratch`` the folder that it writes to, and
    ``log`` the stub's.
    """

    url: str
    secret: Path
    scratch: Path
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 0)

    def send(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> Answer:
        """Send ``target`` as it is: other clients would tidy up its dots and percent signs."""
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        try:
            connection._validate_path = lambda url: None  # type: ignore[attr-defined]
            connection.request(method, target, body=body, headers=dict(headers or {}))
            response = connection.getresponse()
            text = response.read(2_000_000).decode("utf-8", "replace")
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(status=response.status, headers=named, text=text)
        finally:
            connection.close()

    def drawings(self) -> int:
        """How many have been begun."""
        return self.log.read_text().count('"open"') if self.log.exists() else 0
