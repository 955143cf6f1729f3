"""What Gradio would do by itself: ask the network, and forget nothing. Here that is undone."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import gradio as gr


def quiet_environment(scratch: Path) -> None:
    """Set what Gradio and its libraries read from the environment; before gradio is imported."""
    os.environ.update(
        {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": str(scratch),
            "GRADIO_EXAMPLES_CACHE": str(scratch / "examples"),
            "GRADIO_SHARE": "False",
            "GRADIO_SSR_MODE": "False",
            "GRADIO_MCP_SERVER": "False",
            # for a dashboard that is off it tabulates past requests, after each one
            "GRADIO_ANALYTICS_MAX_EVENTS": "1",
            "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
            "HF_HUB_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "DO_NOT_TRACK": "1",
        }
    )
    for name in ("GRADIO_ALLOWED_PATHS", "GRADIO_ROOT_PATH", "GRADIO_WATCH_DIRS"):
        os.environ.pop(name, None)


def forget(blocks: gr.Blocks, paths: list[str]) -> None:
    """Let Gradio forget files that are gone: it remembers each one that it wrote."""
    for names in blocks.temp_file_sets:
        names.difference_update(paths)


def tidy(blocks: gr.Blocks, idle_before: Collection[str] = ()) -> set[str]:
    """Drop what Gradio's queue keeps of visitors who were idle before and still are.

    It keeps a queue of messages for each session (2,000 of them) and a set of requests (all of
    them, for ever); a session that comes back gets new ones. Call it in the server's event loop.

    Returns
    -------
    set of str
        The sessions that are idle now: for the next call.
    """
    queue = blocks._queue
    events, messages = queue.pending_event_ids_session, queue.pending_messages_per_session
    idle = {
        session
        for session, waiting in events.items()
        if session not in messages or (not waiting and messages[session].empty())
    }
    for session in idle.intersection(idle_before):
        del events[session]
        messages.pop(session, None)
    return idle.difference(idle_before)
