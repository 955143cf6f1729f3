"""Requests that nobody should get an answer to but a sentence, made from a seed, and their judge.

Each is a call of the app's ``draw`` with something wrong in it: values out of bounds, of other
types, markup, paths, files, too many or too few, bodies that are no JSON, calls of handlers that
are not there. What is in bounds is decided here, by what the API's documentation says, and not by
the code under test.
"""

from __future__ import annotations

import http.client
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

API = "/gradio_api"
CALL, JOIN, RUN = f"{API}/call/draw", f"{API}/queue/join", f"{API}/run/predict"
MODEL, CLASSES, MOST_VERSIONS = "fashion-dit", 10, 3
WHOLE = {
    3: (1, 8),
    4: (0, 2**32 - 1),
    5: (1, 250),
}  # count, seed, steps: their places, their bounds
GUIDANCE = (1.0, 20.0)
PATIENCE_S = 30.0
MOST_WORDS = 700

_FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
ODD: tuple[Any, ...] = (
    *(None, True, False, "", "x", "20", "NaN", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800"),
    *("<img src=x onerror=alert(1)>", "{{7*7}}", "'; DROP TABLE", "%s%n", "http://127.0.0.1:22/"),
    *(float("nan"), float("inf"), float("-inf"), 1e308, -1, -0.5, 0.5, 2.5, 2**63, 10**400),
    *([], {}, [[]], [None], [float("nan")], [-1], [10**9], ["x"], [{}], {"value": 20}, _FILE),
    *([_FILE], "x" * 20_000, [0] * 5000, ["best-1bit"] * 2, list("abcd")),
)
BODIES = (
    *(b"", b"[]", b"null", b"{}", b'"data"', b"{", b"\xff\xfe\x00", b"model=fashion-dit"),
    *(b'{"data": {}}', b'{"data": null}', b'{"data": [', b"[" * 5000, b'{"data": []} {}'),
    *(b'{"data": [1e999]}', b'{"data": [NaN]}', b" " * 1_000_001),
)


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One request: its path, its body, and a word on what is wrong."""

    path: str
    body: bytes
    what: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a request ended; ``fault`` says what is wrong with that, None if nothing is."""

    status: int
    words: str
    fault: str | None


def bad_requests(count: int, seed: int = 0) -> Iterator[Bad]:
    """Yield ``count`` requests, the same ones for the same seed."""
    chance = random.Random(seed)
    made = 0
    while made < count:
        one = _one(chance)
        if one is not None:
            made += 1
            yield one


def is_good(data: Any) -> bool:
    """Say whether the arguments of ``draw`` are in its documented bounds.

    Lists that are missing count as empty, and whole numbers may come as floats.
    """
    if not isinstance(data, list) or len(data) != 7:
        return False
    model, versions, classes, *numbers, guidance = data
    names = [] if versions is None else versions
    if model != MODEL or not isinstance(names, list) or len(names) > MOST_VERSIONS:
        return False
    if not all(isinstance(n, str) and n in _VERSIONS for n in names) or len({*names}) < len(names):
        return False
    if not isinstance(classes, list) or not classes:
        return False
    bounds = [*((value, (0, CLASSES - 1)) for value in classes)]
    bounds += [(value, WHOLE[place]) for place, value in enumerate(numbers, 3)]
    inside = all(_number(v) and float(v).is_integer() and a <= v <= b for v, (a, b) in bounds)
    return inside and _number(guidance) and GUIDANCE[0] <= guidance <= GUIDANCE[1]


def send(url: str, one: Bad, drawings: Path) -> Verdict:
    """Send a request, follow it to its end, and judge that.

    Parameters
    ----------
    url
        Of the app.
    one
        What to send.
    drawings
        The stub's log: a drawing that begins leaves a line in it.
    """
    before = _begun(drawings)
    status, text = _http(url, "POST", one.path, one.body)
    if status == 200 and one.path == CALL:
        number = json.loads(text)["event_id"]
        status, text = _http(url, "GET", f"{CALL}/{number}", None)
    words = _words(status, text)
    return Verdict(status=status, words=words, fault=_fault(status, text, words, before, drawings))


def _one(chance: random.Random) -> Bad | None:
    kind = chance.random()
    if kind < 0.08:
        return Bad(path=CALL, body=chance.choice(BODIES), what="another body")
    data: list[Any] = [MODEL, ["best-1bit"], [0, 3], 2, 0, 2, 1.5]
    for place in chance.sample(range(7), chance.choice((1, 1, 1, 2, 3))):
        data[place] = _odd(chance, place)
    if chance.random() < 0.08:
        data = data[: chance.randrange(7)] if chance.random() < 0.5 else [*data, chance.choice(ODD)]
    if kind < 0.16:
        index = chance.choice((-1, 10**6, None, "draw", 1.5, [], {}))
        body = {"data": data, "fn_index": index, "session_hash": "s" * chance.choice((1, 8, 5000))}
        path = chance.choice((JOIN, RUN))
        return Bad(path=path, body=json.dumps(body).encode(), what="a handler that is not there")
    if kind < 0.18:
        index, value = chance.randrange(40), chance.choice(("x", -1, 0.5, None, True, [], {}))
        body = {"data": [value], "fn_index": index, "session_hash": "s"}
        return Bad(path=RUN, body=json.dumps(body).encode(), what=f"{value!r} past the queue")
    if kind < 0.22:
        name = chance.choice(("nothing", "../draw", "%2e%2e", "draw/../models/x", "a" * 3000))
        return Bad(path=f"{API}/call/{name}", body=json.dumps({"data": data}).encode(), what=name)
    if is_good(data):
        return None
    return Bad(path=CALL, body=json.dumps({"data": data}).encode(), what=str(data)[:200])


def _odd(chance: random.Random, place: int) -> Any:
    if place in WHOLE and chance.random() < 0.5:
        low, high = WHOLE[place]
        return chance.choice((low - 1, high + 1, low + 0.5, -high, high * 10**6, str(high)))
    if place == 6 and chance.random() < 0.5:
        return chance.choice((0.999, 20.001, -1.5, "1.5", 1e300))
    if place == 2 and chance.random() < 0.5:
        return chance.choice(([CLASSES], [-1], [0, 0.5], ["0"], [0] * 2000 + [CLASSES], "0"))
    return chance.choice(ODD)


_VERSIONS = frozenset(
    ("best-2bit", "best-1.25bit", "best-1bit", "dpq-2bit", "dpq-1bit", "vq-2bit", "vq-1bit")
)


def _number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False


def _http(url: str, method: str, path: str, body: bytes | None) -> tuple[int, str]:
    parts = urlsplit(url)
    line = http.client.HTTPConnection(str(parts.hostname), int(parts.port or 0), timeout=PATIENCE_S)
    try:
        line._validate_path = lambda url: None  # type: ignore[attr-defined]  # sent as it is
        line.request(method, path, body=body, headers={"Content-Type": "application/json"})
        answer = line.getresponse()
        return answer.status, answer.read(2_000_000).decode("utf-8", "replace")
    finally:
        line.close()


def _words(status: int, text: str) -> str:
    """Return the sentence of a refusal, or of the event that ends a stream; "" for none."""
    try:
        if status == 200:
            event = json.loads(text.rpartition("data: ")[2])
            return str(event["error"]) if "event: error" in text else ""
        return str(json.loads(text)["detail"])
    except (ValueError, KeyError, TypeError):
        return ""


def _fault(status: int, text: str, words: str, before: int, drawings: Path) -> str | None:
    if status >= 500:
        return f"status {status}"
    if "Traceback" in text or "site-packages" in text:
        return "shows the code's insides"
    if _begun(drawings) != before:
        return "something was drawn"
    if not 10 < len(words) < MOST_WORDS:
        return f"no sentence: {text[:200]!r}"
    if "<" in words:
        return "repeats markup"
    if "went wrong" in words:
        return "was not foreseen"
    return None


def _begun(log: Path) -> int:
    return log.read_text().count('"open"') if log.exists() else 0
