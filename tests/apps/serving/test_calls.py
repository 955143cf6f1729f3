from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from dpqlab.errors import ConfigError
from dpqlab_app.page.handlers import GPU
from dpqlab_app.serving.calls import CALL, JOIN, MOST_WHOLE, RUN, Calls, parse
from dpqlab_app.serving.limits import MOST_TEXT


@pytest.fixture
def calls(tmp_path: Path) -> Calls:
    """A handler that computes, one that does not, one past the queue, one of the browser."""

    def handler(name: str, count: int, **other: Any) -> SimpleNamespace:
        common = {"fn": print, "name": name, "api_name": None, "concurrency_id": "1", "queue": True}
        return SimpleNamespace(inputs=[object()] * count, **common | other)

    draw = handler("draw", 2, api_name="draw", concurrency_id=GPU)
    draw.inputs.append(SimpleNamespace(skip_api=True))
    handlers = {0: draw, 7: handler("tick", 0), 8: handler("ask", 1, queue=False)}
    handlers[9] = handler("copy", 0, fn=None, queue=False)
    return Calls(cast(Any, SimpleNamespace(fns=handlers)), tmp_path)


def call(**request: Any) -> bytes:
    return json.dumps(request).encode()


def test_handlers_are_found_by_number_and_by_name(calls: Calls) -> None:
    by_number = calls.read(JOIN, call(fn_index=0, data=[1, 2, None], session_hash="s"))
    assert by_number == calls.read(f"{CALL}draw", call(data=[1, 2]))
    assert by_number.name == "draw" and by_number.computes
    assert not calls.read(JOIN, call(fn_index=7, data=[])).computes
    now = call(fn_index=8, data=[3], session_hash="s", trigger_id=None, event_data=None)
    assert calls.read(RUN, now).name == "ask"


@pytest.mark.parametrize(
    ("path", "request_", "says"),
    [
        (JOIN, {"fn_index": 5, "data": []}, "no such handler"),
        (JOIN, {"fn_index": True, "data": []}, "no such handler"),
        (JOIN, {"fn_index": "0", "data": []}, "no such handler"),
        (JOIN, {"data": []}, "no such handler"),
        (JOIN, {"fn_index": 9, "data": []}, "no such handler"),
        (RUN, {"fn_index": 9, "data": []}, "no such handler"),
        (JOIN, {"fn_index": 8, "data": [1]}, "not started here"),
        (RUN, {"fn_index": 0, "data": [1, 2], "session_hash": "s"}, "not started here"),
        (RUN, {"fn_index": 8, "data": [], "session_hash": "s"}, "takes 1 values, got 0"),
        (RUN, {"fn_index": 8, "data": [1]}, "session_hash"),
        (RUN, {"fn_index": 8, "data": [1], "session_hash": None}, "session_hash"),
        (RUN, {"fn_index": 8, "data": [1], "session_hash": "s", "event_data": 1}, "event_data"),
        (RUN, {"fn_index": 8, "data": [1], "session_hash": "s", "batched": True}, "'batched'"),
        (RUN, {"fn_index": 8, "data": [1], "session_hash": "s", "trigger_id": []}, "whole"),
        (RUN, {"fn_index": 8, "data": [-1], "session_hash": "s"}, "whole numbers"),
        (RUN, {"fn_index": 8, "data": [1.5], "session_hash": "s"}, "whole numbers"),
        (RUN, {"fn_index": 8, "data": [None], "session_hash": "s"}, "whole numbers"),
        (RUN, {"fn_index": 8, "data": [MOST_WHOLE + 1], "session_hash": "s"}, "whole numbers"),
        (f"{CALL}tick", {"data": []}, "no such handler"),
        (f"{CALL}draw", {}, "must be a list"),
        (f"{CALL}draw", {"data": {"0": 1}}, "must be a list"),
        (f"{CALL}draw", {"data": [1]}, "takes 2 or 3 values, got 1"),
        (f"{CALL}draw", {"data": [1, 2, 3, 4]}, "got 4"),
        (f"{CALL}draw", {"data": [1, "x" * (MOST_TEXT + 1)]}, "characters"),
        (f"{CALL}draw", {"data": [1, {"x" * (MOST_TEXT + 1): 1}]}, "characters"),
        (f"{CALL}draw", {"data": [1, list(range(2000))]}, "at most"),
        (f"{CALL}draw", {"data": [1, 2], "session_hash": "s" * 101}, "session_hash"),
        (f"{CALL}draw", {"data": [1, 2], "session_hash": {}}, "session_hash"),
        (f"{CALL}draw", {"data": [1, {"path": "/etc/passwd"}]}, "files"),
        (f"{CALL}draw", {"data": [1, [[{"path": "http://127.0.0.1/"}]]]}, "files"),
        (f"{CALL}draw", {"data": [1, {"path": 3}]}, "files"),
        (f"{CALL}draw", {"data": [1, 2], "event_data": {"path": "../x"}}, "files"),
    ],
)
def test_malformed_requests_get_a_sentence(
    calls: Calls, path: str, request_: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        calls.read(path, call(**request_))


def test_a_file_of_the_app_itself_may_be_named(calls: Calls, tmp_path: Path) -> None:
    """A picture on the page comes back as an input: what it is, by where it is."""
    own = {"path": str(tmp_path / "aa" / "image.png")}
    assert calls.read(f"{CALL}draw", call(data=[1, own])).name == "draw"
    outside = {"path": str(tmp_path / ".." / "x.png")}
    with pytest.raises(ConfigError, match="files"):
        calls.read(f"{CALL}draw", call(data=[1, outside]))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "not JSON"),
        (b"[]", "JSON object"),
        (b"null", "JSON object"),
        (b'{"data": [NaN]}', "NaN is not a number"),
        (b'{"data": [-Infinity]}', "-Infinity is not a number"),
        (b'{"data": [1e999]}', "too large"),
    ],
)
def test_what_is_not_strict_json_is_refused(body: bytes, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse(body)


def test_names_within_a_refusal_are_those_that_there_are(calls: Calls) -> None:
    with pytest.raises(ConfigError, match="those with a name are draw"):
        calls.read(f"{CALL}paint", call(data=[]))
