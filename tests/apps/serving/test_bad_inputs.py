"""What cannot be drawn, sent by whoever knows the protocol: a sentence comes back, nothing runs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.bad_requests import bad_requests, send
from tests.apps.sites import Answer, Site

CALL = "/gradio_api/call/draw"
JSON = {"Content-Type": "application/json"}
GOOD = {
    "model": '"fashion-dit"',
    "versions": '["best-1bit"]',
    "classes": "[0, 3]",
    "count": "2",
    "seed": "0",
    "steps": "2",
    "guidance": "1.5",
}
"""The arguments of a drawing as JSON; below, one at a time is another."""

BAD = {
    "steps not a number": ("steps", "NaN"),
    "steps infinite": ("steps", "Infinity"),
    "steps minus infinite": ("steps", "-Infinity"),
    "steps larger than any number": ("steps", "1e999"),
    "steps a fraction": ("steps", "2.5"),
    "steps none": ("steps", "0"),
    "steps negative": ("steps", "-3"),
    "steps too many": ("steps", "251"),
    "steps far too many": ("steps", "1" + "0" * 400),
    "steps a text": ("steps", '"20"'),
    "steps a truth": ("steps", "true"),
    "steps missing": ("steps", "null"),
    "steps a list": ("steps", "[20]"),
    "steps an object": ("steps", '{"value": 20}'),
    "seed negative": ("seed", "-1"),
    "seed too large": ("seed", "4294967296"),
    "seed a fraction": ("seed", "0.5"),
    "seed not a number": ("seed", "NaN"),
    "guidance not a number": ("guidance", "NaN"),
    "guidance infinite": ("guidance", "1e400"),
    "guidance too low": ("guidance", "0.99"),
    "guidance too high": ("guidance", "20.5"),
    "guidance a text": ("guidance", '"1.5"'),
    "no image": ("count", "0"),
    "too many images": ("count", "9"),
    "half an image": ("count", "1.5"),
    "no class": ("classes", "[]"),
    "a class that is not there": ("classes", "[10]"),
    "a negative class": ("classes", "[-1]"),
    "half a class": ("classes", "[0.5]"),
    "a class by name": ("classes", '["bag"]'),
    "classes no list": ("classes", '"0,1"'),
    "too many classes": ("classes", json.dumps([0] * 5000)),
    "classes nested": ("classes", "[[0], [1]]"),
    "a model that is not there": ("model", '"dall-e"'),
    "a model by path": ("model", '"../../etc/passwd"'),
    "a model with markup": ("model", '"<img src=x onerror=alert(1)>"'),
    "a model with a zero": ("model", '"fashion-dit\\u0000"'),
    "a model of 10 MB": ("model", '"' + "x" * 10_000_000 + '"'),
    "a model of 100 kB": ("model", '"' + "x" * 100_000 + '"'),
    "a model of half a character": ("model", '"\\ud800"'),
    "no model": ("model", "null"),
    "a model's number": ("model", "7"),
    "a version that is not there": ("versions", '["best-0bit"]'),
    "a version twice": ("versions", '["best-1bit", "best-1bit"]'),
    "too many versions": ("versions", '["vq-2bit", "vq-1bit", "dpq-2bit", "dpq-1bit"]'),
    "versions no list": ("versions", '"best-1bit"'),
    "versions numbers": ("versions", "[1]"),
    "a version by path": ("versions", '["/etc"]'),
}


def body(**changed: str) -> bytes:
    return f'{{"data": [{", ".join((GOOD | changed).values())}]}}'.encode()


def ask(site: Site, data: bytes) -> tuple[Answer, str]:
    """Post ``data``; if the request is taken, follow it. The last answer, and its event's kind."""
    posted = site.send("POST", CALL, headers=JSON, body=data)
    if posted.status != 200:
        return posted, "refused"
    stream = site.send("GET", f"{CALL}/{json.loads(posted.text)['event_id']}")
    kinds = [line[7:] for line in stream.text.splitlines() if line.startswith("event: ")]
    return stream, kinds[-1]


def test_what_is_changed_below_is_good(site: Site) -> None:
    before = site.drawings()
    answer, kind = ask(site, body())
    assert kind == "complete", answer.text[-300:]
    assert site.drawings() == before + 1


@pytest.mark.parametrize(("name", "value"), BAD.values(), ids=BAD.keys())
def test_it_is_refused_with_a_sentence(
    site: Site, capfd: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    before = site.drawings()
    answer, kind = ask(site, body(**{name: value}))
    sentence = said(answer, kind)
    assert 10 < len(sentence) < 700, sentence
    assert "went wrong" not in sentence, "it was foreseen"
    assert "<" not in sentence
    assert site.drawings() == before, "it ran"
    assert "Traceback" not in answer.text + "".join(capfd.readouterr())


def said(answer: Answer, kind: str) -> str:
    """The sentence in a refusal, or in the error event that ends a stream."""
    if kind == "refused":
        assert 400 <= answer.status < 500
        return json.loads(answer.text)["detail"]
    assert (answer.status, kind) == (200, "error")
    event: dict[str, Any] = json.loads(answer.text.rpartition("data: ")[2])
    return event["error"]


REQUESTS = {
    "one value more": b'{"data": ["fashion-dit", [], [0], 1, 0, 2, 1.5, "more"]}',
    "one value fewer": b'{"data": ["fashion-dit", [], [0], 1, 0, 2]}',
    "a thousand values": json.dumps({"data": [0] * 1000}).encode(),
    "no values": b'{"data": []}',
    "values by name": b'{"data": {"model": "fashion-dit"}}',
    "no data": b"{}",
    "not an object": b"[]",
    "nothing": b"",
    "not JSON": b"model=fashion-dit",
    "two objects": b'{"data": []} {"data": []}',
    "bytes": b"\xff\xfe\x00",
    "a session of 1 kB": b'{"session_hash": "' + b"s" * 1000 + b'", "data": []}',
    "a session that is a list": b'{"session_hash": [], "data": ["m", [], [0], 1, 0, 2, 1.5]}',
}


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS.keys())
def test_a_request_of_another_shape_is_refused(site: Site, data: bytes) -> None:
    before = site.drawings()
    answer, kind = ask(site, data)
    assert (answer.status, kind) == (400, "refused"), answer.text[:200]
    assert json.loads(answer.text)["detail"] and "Traceback" not in answer.text
    assert site.drawings() == before


@pytest.mark.parametrize("path", ["queue/join", "run/predict"])
@pytest.mark.parametrize("index", ["-1", "99999", '"draw"', "true", "null", "1.0", "[]"])
def test_a_handler_that_is_not_there_is_refused(site: Site, index: str, path: str) -> None:
    data = f'{{"fn_index": {index}, "session_hash": "s", "data": []}}'.encode()
    answer = site.send("POST", f"/gradio_api/{path}", headers=JSON, body=data)
    assert answer.status == 400 and "no such handler" in answer.text


def test_whole_numbers_may_come_as_floats(site: Site) -> None:
    """That is how JavaScript and sliders write them."""
    _, kind = ask(site, body(steps="2.0", seed="4294967295.0", count="1.0"))
    assert kind == "complete"


def test_no_bad_request_gets_more_than_a_sentence(site: Site) -> None:
    """A part of what ``benchmarks.app_probes`` sends."""
    for one in bad_requests(120, seed=5):
        assert send(site.url, one, site.log).fault is None, one
