"""One kind of work of a page (a drawing, a trace) between its button and its Stop."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from dpqlab.errors import ConfigError
from dpqlab_app.page.result_view import status_html, stopped_html
from dpqlab_app.page.stops import Ended, Stops

NUMBERED = "(_, ...values) => [dpqlab.number(), ...values]"
"""Puts the number of the click in the place of the first input."""


class PageWork:
    """Joins the buttons of a tab with the work that they start."""

    def __init__(self) -> None:
        self.stops = Stops()

    def wire(self, start: gr.Button, stop: gr.Button, status: gr.HTML) -> gr.Number:
        """Have ``start`` replace what runs, and ``stop`` end it.

        Returns
        -------
        gr.Number
            The number of a click; the first input of the handler that ``start`` starts, which must
            have ``NUMBERED`` as its ``js``.
        """
        number = gr.Number(0, visible=False)

        def ask(request: gr.Request, number: float) -> None:
            self.stops.ask(_page(request), _checked(number))

        def end(request: gr.Request) -> Any:
            # what runs speaks for itself
            words = {"waits": stopped_html(0, 0), "ended": status_html("Nothing is going on.")}
            return words.get(self.stops.stop(_page(request)), gr.skip())

        # Past the queue: whatever is in it ends the page's stream of messages when it is done, and
        # work that joins the queue at that moment is never heard of.
        now: dict[str, Any] = {
            "queue": False,
            "show_progress": "hidden",
            "api_visibility": "private",
        }
        start.click(ask, number, None, js=NUMBERED, trigger_mode="multiple", **now)
        stop.click(end, None, status, **now)
        return number

    def drop(self, request: gr.Request) -> None:
        """Have what runs end without a word."""
        self.stops.drop(_page(request))

    @contextmanager
    def of(self, request: gr.Request, number: float) -> Generator[Ended]:
        """Do what has a number within the block; asks whether it is to end."""
        page, checked = _page(request), _checked(number)
        self.stops.begin(page, checked)
        try:
            yield lambda: self.stops.ended(page, checked)
        finally:
            self.stops.finish(page, checked)


def _page(request: gr.Request) -> str:
    return str(request.session_hash)


def _checked(number: float) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ConfigError(f"the number of a request is {str(number)[:40]!r}: expected a number")
    if not math.isfinite(number) or number != int(number) or number < 0:
        raise ConfigError(f"the number of a request is {number}: expected a whole one, 0 or more")
    return float(number)
