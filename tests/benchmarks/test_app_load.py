from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

import httpx
import pytest

from benchmarks import app_load
from benchmarks.app_client import Answer, Request, ask

Handler = Callable[[httpx.Request], httpx.Response]


def judged(posted: httpx.Response, stream: str = "") -> Answer:
    """How a request ends whose post and whose stream are answered so."""

    def answer(request: httpx.Request) -> httpx.Response:
        return posted if request.method == "POST" else httpx.Response(200, text=stream)

    async def go() -> Answer:
        transport = httpx.MockTransport(answer)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            return await ask(http, Request())

    return asyncio.run(go())


TAKEN = httpx.Response(200, json={"event_id": "e"})


@pytest.mark.parametrize(
    ("posted", "stream", "kind"),
    [
        (TAKEN, "event: generating\ndata: [1]\n\nevent: complete\ndata: [1]\n\n", "result"),
        (TAKEN, 'event: error\ndata: {"error": "no"}\n\n', "error"),
        (TAKEN, "event: generating\ndata: [1]\n\n", "error"),  # ends too soon
        (httpx.Response(503, json={"detail": "Queue is full."}), "", "busy"),
        (httpx.Response(503, json={"detail": "Queue is stopped."}), "", "error"),
        (httpx.Response(503, text="Service Unavailable"), "", "error"),
        (httpx.Response(500, text="Internal Server Error"), "", "error"),
        (httpx.Response(200, text="what?"), "", "error"),
    ],
)
def test_only_pictures_and_a_clean_refusal_are_no_errors(
    posted: httpx.Response, stream: str, kind: str
) -> None:
    assert judged(posted, stream).kind == kind


def test_a_summary_counts_every_answer() -> None:
    answers = [Answer(kind="result", seconds=float(i)) for i in range(100)]
    answers += [Answer(kind="busy", seconds=0.1), Answer(kind="error", seconds=1, text="oh")]
    found = app_load.summary(answers, 10.0)
    assert (found["results"], found["busy"], found["errors"]) == (100, 1, 1)
    assert (found["p50_s"], found["p95_s"], found["first_errors"]) == (50.0, 95.0, ["oh"])


def test_nothing_ended_well_is_a_summary_too() -> None:
    assert app_load.summary([Answer(kind="error", seconds=1)], 1.0)["p95_s"] is None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads memory from /proc")
def test_less_of_it_holds_too() -> None:
    assert app_load.main(["--quick"]) == 0
