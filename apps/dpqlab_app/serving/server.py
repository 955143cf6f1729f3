"""Serve the page: an environment that asks nobody, the gate, one worker, temporary files that go.

gradio is imported inside functions only, after :func:`quiet_environment`: it reads some of its
settings once. uvicorn runs the page below :class:`~dpqlab_app.serving.guard.Guard`, because
middleware that Gradio is given stands behind its own, which answers foreign pages.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpqlab_app.serving.addresses import names_of
from dpqlab_app.serving.config import ServerConfig
from dpqlab_app.serving.housekeeping import forget, quiet_environment, tidy
from dpqlab_app.serving.limits import (
    JOBS_A_MINUTE,
    MOST_CONNECTIONS,
    MOST_SESSIONS,
    POSTS_A_MINUTE,
    QUEUE_SIZE,
    RateLimit,
)
from dpqlab_app.serving.sockets import address_of, bind
from dpqlab_app.serving.sweeper import Sweeper, scratch_folder

if TYPE_CHECKING:
    import gradio as gr
    import uvicorn

    Build = Callable[[ServerConfig], tuple[gr.Blocks, Mapping[str, Any]]]

CLOSING_SECONDS = 2
TIDY_SECONDS = 5
STARTING_SECONDS = 60.0


def build_page(config: ServerConfig) -> tuple[gr.Blocks, Mapping[str, Any]]:
    """The page with its engine, and the launch arguments that belong to its looks."""
    from dpqlab_app.drawing.catalogue import catalogue_of
    from dpqlab_app.drawing.engine import Engine
    from dpqlab_app.page import page

    catalogue = catalogue_of(config.folders)
    engine = Engine(catalogue, device=config.device)
    return page.build(engine, catalogue), page.LAUNCH


def application(
    blocks: gr.Blocks, looks: Mapping[str, Any], config: ServerConfig, scratch: Path
) -> Any:
    """The ASGI application: the page behind the gate."""
    import gradio as gr
    from fastapi import FastAPI

    from dpqlab_app.page.messages import explain_errors
    from dpqlab_app.serving.calls import Calls
    from dpqlab_app.serving.guard import Guard, Rules
    from dpqlab_app.serving.streams import OrderedAnswers

    # one computing handler at a time: they share the concurrency_id; api_open: none past the queue
    blocks.queue(max_size=QUEUE_SIZE, default_concurrency_limit=4, api_open=False)
    blocks.state_session_capacity = MOST_SESSIONS
    explain_errors(blocks)
    settled: dict[str, Any] = {
        "path": "/",
        "show_error": False,
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "max_file_size": 1,
        "allowed_paths": [],
    }
    parent = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    gr.mount_gradio_app(parent, blocks, **{"footer_links": ["api"], **looks, **settled})
    rules = Rules(
        names=names_of(config.host, config.names),
        calls=Calls(blocks, scratch),
        folder=scratch,
        password=config.password,
        jobs=RateLimit(JOBS_A_MINUTE) if config.is_open else None,
        posts=RateLimit(POSTS_A_MINUTE) if config.is_open else None,
    )
    return Guard(OrderedAnswers(parent), rules)


@contextlib.contextmanager
def prepared(
    config: ServerConfig, build: Build | None = None
) -> Iterator[tuple[uvicorn.Server, socket.socket]]:
    """A server that is ready to run on a socket that is bound, with all that it needs around it.

    Parameters
    ----------
    config
        Where and for whom.
    build
        Builds the page and its looks; None for the app's own.
    """
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder()).resolve()
        bound = stack.enter_context(bind(config.host, config.port))
        quiet_environment(scratch)
        blocks, looks = (build or build_page)(config)
        stack.enter_context(Sweeper(scratch, forget=lambda paths: forget(blocks, paths)))
        app = application(blocks, looks, config, scratch)
        yield _server(app, blocks), bound


def _server(app: Any, blocks: gr.Blocks) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        idle: frozenset[str] = frozenset()

        async def on_tick(self, counter: int) -> bool:  # every tenth of a second
            if counter % (10 * TIDY_SECONDS) == 0:
                self.idle = frozenset(tidy(blocks, self.idle))
            return await super().on_tick(counter)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            blocks.app.stop_event.set()  # ends the connections by which open pages show they live
            blocks._queue.close()
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            with contextlib.suppress(asyncio.CancelledError):
                await super().shutdown(sockets)

    settings = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=CLOSING_SECONDS,
        timeout_keep_alive=30,
    )
    return Server(settings)


@contextlib.contextmanager
def running(config: ServerConfig, build: Build | None = None) -> Iterator[str]:
    """Serve in a thread while the block runs; yields the address. For tests and measurements."""
    with prepared(config, build) as (server, bound):
        thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
        thread.start()
        wait_until_started(server, thread)
        try:
            yield address_of(bound)
        finally:
            server.should_exit = True
            thread.join(timeout=CLOSING_SECONDS + 5)


def wait_until_started(server: uvicorn.Server, thread: threading.Thread | None = None) -> None:
    """Return when ``server`` answers.

    Raises
    ------
    RuntimeError
        When it ended instead, or took too long.
    """
    until = time.monotonic() + STARTING_SECONDS
    while not server.started:
        if time.monotonic() > until or (thread is not None and not thread.is_alive()):
            raise RuntimeError("the server did not start; the log says why")
        time.sleep(0.01)


@dataclass(frozen=True, kw_only=True)
class Started:
    """What is said once the server answers: the address to open on this machine."""

    url: str


def serve(config: ServerConfig, started: Callable[[Started], None]) -> None:
    """Serve until Ctrl-C; say where by ``started``, and open a browser if asked to."""
    # uvicorn hands a signal on when it has shut down: what stands around it must still tidy up
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), prepared(config) as (server, bound):

        def announce() -> None:
            wait_until_started(server)
            url = address_of(bound)
            started(Started(url=url))
            if config.browser and has_screen():
                webbrowser.open(url)

        threading.Thread(target=announce, daemon=True).start()
        server.run([bound])


def has_screen() -> bool:
    """Whether a browser with a window can open here (text browsers would take the terminal)."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
