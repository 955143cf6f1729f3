"""The page as Gradio has it: what is offered, to whom, and how it is wired."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from gradio_client import Client

from benchmarks.app_stub import StubEngine, stub_page
from dpqlab_app.drawing.catalogue import catalogue_of
from dpqlab_app.page import page
from dpqlab_app.page.handlers import GPU
from dpqlab_app.page.page_work import NUMBERED
from dpqlab_app.serving.config import ServerConfig
from dpqlab_app.serving.server import running

ARGUMENTS = ("fashion-dit", ["best-1bit", "vq-2bit"], [0, 3], 3, 7, 5, 1.5)


@pytest.fixture(scope="module")
def blocks() -> Any:
    catalogue = catalogue_of()
    return page.build(StubEngine(catalogue), catalogue)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def visitor() -> Iterator[Client]:
    with running(ServerConfig(port=0), stub_page(step_s=0.0)) as url:
        yield Client(url, verbose=False)


def test_whatever_computes_waits_for_one_worker(blocks: Any) -> None:
    computing = {f.name for f in blocks.fns.values() if f.concurrency_id == GPU}
    assert computing == {"draw", "draw_here", "start", "more"}


def test_handlers_are_the_pages_own_but_two(blocks: Any) -> None:
    public = {f.api_name for f in blocks.fns.values() if f.api_visibility == "public" and f.fn}
    assert public == {"draw", "models"}


def test_everything_goes_through_the_queue(blocks: Any) -> None:
    direct = {f.name for f in blocks.fns.values() if f.fn and not f.queue}
    assert direct == {"ask", "end"}, "these note a click, and what runs must not delay them"


def test_stop_does_not_cancel_but_asks(blocks: Any) -> None:
    """Gradio's own way can end in a bare "Error" on the page."""
    assert not any(f.cancels for f in blocks.fns.values())
    assert [f.name for f in blocks.fns.values()].count("end") == 2
    numbered = [f.name for f in blocks.fns.values() if f.js == NUMBERED]
    assert sorted(numbered) == ["ask", "ask", "draw_here", "start"]


def test_credits_and_the_device_are_on_the_page(blocks: Any) -> None:
    config = json.dumps(blocks.get_config_file(), default=str)
    assert "Zalando" in config
    assert "A stub: it draws noise." in config


def test_the_looks_ask_nobody() -> None:
    looks = page.LAUNCH["css"] + page.LAUNCH["head"]
    assert "http" not in looks
    assert "@import" not in looks


def test_programs_can_draw(visitor: Client) -> None:
    offered: Any = visitor.view_api(return_format="dict", print_info=False)
    assert set(offered["named_endpoints"]) == {"/draw", "/models"}
    assert "steps: 1 to 250" in json.dumps(offered)
    job = visitor.submit(*ARGUMENTS, api_name="/draw")
    last = job.result(timeout=30)
    assert len(job.outputs()) == 5
    assert last["done"]
    assert [len(row["images"]) for row in last["versions"]] == [3, 3, 3]


def test_programs_can_ask_what_there_is(visitor: Client) -> None:
    listed = visitor.predict(api_name="/models")
    assert listed[0]["model"] == "fashion-dit"
