"""Stop, and start anew: how a page's work learns that nobody waits for it any more.

A page numbers what it asks for, each time with a larger number (the moment, in ms). Work with a
number looks here between its steps, and ends by itself: what it says is then the last word, whereas
Gradio's ``cancels`` lets a step that was on its way come after it, and answers with an empty result
that its own page may take for an error.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MOST_PAGES = 2000
"""Pages that are remembered; beyond it the one silent for longest is forgotten."""

End = Literal["stopped", "replaced"]
Ended = Callable[[], End | None]
State = Literal["waits", "runs", "ended"]


def never() -> End | None:
    """Go on to the end."""
    return None


@dataclass(kw_only=True)
class _Page:
    asked: float = -1.0
    begun: float = -1.0
    stopped: float = -1.0
    finished: float = -1.0


class Stops:
    """What every page has asked for last, and what of it was stopped.

    Parameters
    ----------
    most
        Pages that are remembered.
    """

    def __init__(self, most: int = MOST_PAGES) -> None:
        self._pages: OrderedDict[str, _Page] = OrderedDict()
        self._most = most
        self._lock = threading.Lock()

    def ask(self, page: str, number: float) -> None:
        """Note what a page asks for: it replaces what the page has asked for before."""
        with self._lock:
            found = self._of(page)
            found.asked = max(found.asked, number)

    def begin(self, page: str, number: float) -> None:
        """Note that the work on what has a number begins, asked for a moment ago or long ago."""
        with self._lock:
            found = self._of(page)
            found.asked, found.begun = max(found.asked, number), max(found.begun, number)

    def stop(self, page: str) -> State:
        """Stop what a page asked for last; say what that was doing."""
        with self._lock:
            found = self._of(page)
            found.stopped = found.asked
            if found.finished >= found.asked:
                return "ended"
            return "runs" if found.begun >= found.asked else "waits"

    def drop(self, page: str) -> None:
        """Have what a page asked for end without a word."""
        with self._lock:
            # numbers are whole: the next one is larger than this
            self._of(page).asked += 0.5

    def finish(self, page: str, number: float) -> None:
        """Note that what had a number has ended."""
        with self._lock:
            found = self._of(page)
            found.finished = max(found.finished, number)

    def ended(self, page: str, number: float) -> End | None:
        """Say whether what has a number is to end, and how; None if it is to go on."""
        with self._lock:
            found = self._of(page)
            if number < found.asked:
                return "replaced"
            return "stopped" if number == found.stopped else None

    def _of(self, page: str) -> _Page:
        found = self._pages.setdefault(page, _Page())
        self._pages.move_to_end(page)
        while len(self._pages) > self._most:
            self._pages.popitem(last=False)
        return found
