"""A crowd of visitors, by the protocol of Gradio's queue, each request judged.

A request ends in a *result*, or *busy* (the queue was full, and the server said so at once), or it
is an *error*: any other status, an error event, a stream that ends early, silence.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

DRAW = "/gradio_api/call/draw"
PATIENCE_S = 120.0
BUSY = 503


@dataclass(frozen=True, kw_only=True)
class Request:
    """What one visitor asks for, in the order of the arguments of ``draw``."""

    model: str = "fashion-dit"
    versions: tuple[str, ...] = ("best-1bit",)
    classes: tuple[int, ...] = (0, 3)
    count: int = 2
    seed: int = 0
    steps: int = 5
    guidance: float = 1.5

    @property
    def data(self) -> list[object]:
        """The list that Gradio's protocol wants."""
        return [
            self.model,
            list(self.versions),
            list(self.classes),
            self.count,
            self.seed,
            self.steps,
            self.guidance,
        ]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How a request ended; ``text`` says more about errors."""

    kind: str
    seconds: float
    text: str = ""


def client(url: str, connections: int) -> httpx.AsyncClient:
    """A client with as many connections as there are visitors."""
    limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx.AsyncClient(base_url=url, limits=limits, timeout=PATIENCE_S, trust_env=False)


async def ask(http: httpx.AsyncClient, request: Request) -> Answer:
    """Send one request and follow it to its end."""
    started = time.perf_counter()

    def ended(kind: str, text: str = "") -> Answer:
        return Answer(kind=kind, seconds=time.perf_counter() - started, text=text[:300])

    try:
        posted = await http.post(DRAW, json={"data": request.data})
        if posted.status_code == BUSY:
            clean = "full" in posted.json().get("detail", "")
            return ended("busy" if clean else "error", posted.text)
        if posted.status_code != 200:
            return ended("error", f"{posted.status_code} {posted.text}")
        path = f"{DRAW}/{posted.json()['event_id']}"
        async with http.stream("GET", path) as stream:
            event = ""
            async for line in stream.aiter_lines():
                if line.startswith("event: "):
                    event = line.removeprefix("event: ")
                elif event == "complete":
                    return ended("result")
                elif event == "error":
                    return ended("error", line)
        return ended("error", f"the stream ended after event {event!r}")
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return ended("error", f"{type(error).__name__}: {error}")


async def crowd(
    url: str,
    request: Request,
    *,
    clients: int,
    requests: int,
    retry: bool,
    progress: Callable[[int], None] = lambda done: None,
) -> Sequence[Answer]:
    """Let ``clients`` visitors send ``requests`` in all, each its next when the last has ended.

    Parameters
    ----------
    retry
        Whether a visitor who is told that the app is busy asks again a moment later; the answer
        *busy* is kept as well.
    progress
        Called with the number of requests that have ended.
    """
    answers: list[Answer] = []
    left = iter(range(requests))
    done = 0

    async def visitor(number: int, http: httpx.AsyncClient) -> None:
        nonlocal done
        chance = random.Random(number)
        for seed in left:
            while True:
                answer = await ask(http, replace_seed(request, seed))
                answers.append(answer)
                if answer.kind != "busy" or not retry:
                    break
                await asyncio.sleep(chance.uniform(0.1, 0.3))
            done += 1
            progress(done)

    async with client(url, clients) as http:
        await asyncio.gather(*(visitor(number, http) for number in range(clients)))
    return answers


def replace_seed(request: Request, seed: int) -> Request:
    """The same request with another seed, so that no picture repeats."""
    return Request(**{**request.__dict__, "seed": seed})


async def leave_early(url: str, request: Request) -> float:
    """Send a request, read until the first step has arrived, and hang up; the time of that."""
    async with client(url, 2) as http:
        posted = await http.post(DRAW, json={"data": request.data})
        posted.raise_for_status()
        async with http.stream("GET", f"{DRAW}/{posted.json()['event_id']}") as stream:
            async for line in stream.aiter_lines():
                if line.startswith("event: generating"):
                    break
            else:
                raise RuntimeError("the stream ended before the first step")
    return time.time()
