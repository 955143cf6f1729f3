"""Requests that start a handler, read strictly before Gradio sees them.

Gradio takes ``NaN`` for JSON, any number of values, texts of any length, and files by address.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dpqlab.errors import ConfigError
from dpqlab_app.page.handlers import GPU
from dpqlab_app.serving.limits import MOST_TEXT

if TYPE_CHECKING:
    import gradio as gr

API = "/gradio_api"
JOIN = f"{API}/queue/join"
CALL = f"{API}/call/"
RUN = f"{API}/run/predict"
"""Where the page starts the handlers that do not queue."""
MOST_WHOLE = 2**53
"""The largest whole number that a browser counts to."""
MOST_VALUES = 1000
"""Values of all kinds within one request."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A handler as requests name it; ``sizes`` are the lengths that its ``data`` may have."""

    name: str
    sizes: frozenset[int]
    computes: bool
    queues: bool


class Calls:
    """The handlers of a page, by number and by name.

    Parameters
    ----------
    blocks
        The page.
    folder
        Where the app's own files are: the only files that a request may name.
    """

    def __init__(self, blocks: gr.Blocks, folder: Path) -> None:
        self._folder = folder
        self._by_index: dict[int, Endpoint] = {}
        self._by_name: dict[str, Endpoint] = {}
        for index, function in blocks.fns.items():
            if function.fn is None:  # done by the browser alone
                continue
            public = [block for block in function.inputs if not getattr(block, "skip_api", False)]
            endpoint = Endpoint(
                name=str(function.api_name or function.name),
                sizes=frozenset({len(function.inputs), len(public)}),
                computes=function.concurrency_id == GPU,
                queues=function.queue,
            )
            self._by_index[index] = endpoint
            if function.api_name:
                self._by_name[str(function.api_name)] = endpoint

    def read(self, path: str, body: bytes) -> Endpoint:
        """The endpoint that a request asks for.

        Raises
        ------
        ConfigError
            With a sentence about what is wrong with the request.
        """
        request = parse(body)
        if path in (JOIN, RUN):
            endpoint = self._by_index.get(_whole(request.get("fn_index")))
            if endpoint is not None and endpoint.queues != (path == JOIN):
                raise ConfigError(f"{endpoint.name} is not started here: use {JOIN} or {RUN}")
        else:
            endpoint = self._by_name.get(path.removeprefix(CALL).strip("/"))
        if endpoint is None:
            names = ", ".join(sorted(self._by_name)) or "none"
            raise ConfigError(f"there is no such handler here; those with a name are {names}")
        data = request.get("data")
        if not isinstance(data, list):
            raise ConfigError(f"'data' must be a list of values, got {type(data).__name__}")
        if len(data) not in endpoint.sizes:
            sizes = " or ".join(str(size) for size in sorted(endpoint.sizes))
            raise ConfigError(f"{endpoint.name} takes {sizes} values, got {len(data)}")
        session = request.get("session_hash", "")
        if not (session is None or (isinstance(session, str) and len(session) <= 100)):
            raise ConfigError("'session_hash' must be a short text")
        for value in _objects(request):
            self._refuse_foreign_file(value)
        if path == RUN:
            _check_direct(request)
        return endpoint

    def _refuse_foreign_file(self, value: dict[str, Any]) -> None:
        path = value.get("path")
        if path is None:
            return
        # what Gradio would fetch, or read, on behalf of the request
        inside = isinstance(path, str) and Path(path).resolve().is_relative_to(self._folder)
        if not inside or "\0" in path:
            raise ConfigError("files cannot be sent to this app, nor addresses of files")


def parse(body: bytes) -> dict[str, Any]:
    """Read a JSON object without NaN and infinities, and of bounded size.

    Raises
    ------
    ConfigError
        With a sentence about what is wrong with it.
    """
    try:
        request = json.loads(body, parse_constant=_no_number, parse_float=_finite)
        values = sum(1 for _ in _walk(request))
    except ConfigError:
        raise
    except (ValueError, RecursionError):
        raise ConfigError("this request is not JSON that can be read") from None
    if not isinstance(request, dict):
        raise ConfigError(f"a request is a JSON object, got {type(request).__name__}")
    if values > MOST_VALUES:
        raise ConfigError(f"a request holds at most {MOST_VALUES} values, got {values}")
    return request


def _check_direct(request: dict[str, Any]) -> None:
    """Refuse what the page does not send there: Gradio answers a failure of its own with a 500."""
    parts = {"data", "fn_index", "trigger_id", "session_hash", "event_data"}
    if extra := sorted(request.keys() - parts):
        raise ConfigError(f"{extra[0][:40]!r} is no part of such a request")
    if not isinstance(request.get("session_hash"), str) or request.get("event_data") is not None:
        raise ConfigError("such a request has a 'session_hash' and no 'event_data'")
    trigger = request.get("trigger_id")
    numbers = [*request["data"], *([] if trigger is None else [trigger])]
    if not all(0 <= _whole(number) <= MOST_WHOLE for number in numbers):
        raise ConfigError("such a request has whole numbers only, 0 or more")


def _no_number(name: str) -> NoReturn:
    raise ConfigError(f"{name} is not a number that can be used here")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ConfigError(f"{text[:20]} is too large a number")
    return value


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _walk(value: Any) -> Iterator[Any]:
    """``value`` and all within it; refuses long texts on the way. No recursion: depth is theirs."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, str) and len(value) > MOST_TEXT:
            raise ConfigError(f"a text may have {MOST_TEXT} characters, one here has {len(value)}")
        if isinstance(value, dict):
            waiting += [*value, *value.values()]
        elif isinstance(value, list):
            waiting += value


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    return (part for part in _walk(value) if isinstance(part, dict))
