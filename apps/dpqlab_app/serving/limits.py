"""How much one client may ask, and how much the server takes on: figures, and a sliding window."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

QUEUE_SIZE = 16
"""Requests that may wait; one more is told that the app is busy."""
JOBS_A_MINUTE = 10
"""Requests for pictures that one client may send, where the server is open to others."""
POSTS_A_MINUTE = 240
"""All other requests that change something: moved sliders, opened tabs."""
WRONG_PASSWORDS_A_MINUTE = 10
MOST_BODY = 1_000_000
"""Bytes of a request's body. Settings need a few hundred."""
MOST_DISCARDED = 16_000_000
"""Bytes of a body that is too long that are read and dropped, so that its sender sees why."""
MOST_TEXT = 10_000
"""Characters of one text within a request."""
BODY_SECONDS = 10.0
"""Time for a body to arrive."""
MOST_CONNECTIONS = 512
MOST_SESSIONS = 500
"""Pages whose state is kept; the oldest one is forgotten first."""


class RateLimit:
    """So many events a minute for each client; old clients are forgotten, so memory is bounded.

    Parameters
    ----------
    most
        Events that a client may have in any 60 s.
    clients
        Clients that are remembered; beyond it the one silent for longest is forgotten.
    clock
        Seconds, rising; another one for tests.
    """

    def __init__(
        self, most: int, *, clients: int = 4096, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.most = most
        self._clients = clients
        self._clock = clock
        self._events: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, client: str) -> int:
        """Seconds (whole, at least 1) until ``client`` may go on; 0 when it may now."""
        with self._lock:
            events = self._recent(client)
            if events is None or len(events) < self.most:
                return 0
            return max(1, math.ceil(events[0] + 60 - self._clock()))

    def count(self, client: str) -> None:
        """Note an event of ``client``."""
        with self._lock:
            events = self._recent(client)
            if events is None:
                events = self._events[client] = deque()
            events.append(self._clock())
            self._events.move_to_end(client)
            while len(self._events) > self._clients:
                self._events.popitem(last=False)

    def take(self, client: str) -> int:
        """Count an event if it is allowed; else the seconds to wait."""
        wait = self.wait(client)
        if not wait:
            self.count(client)
        return wait

    def _recent(self, client: str) -> deque[float] | None:
        events = self._events.get(client)
        if events is not None:
            oldest = self._clock() - 60
            while events and events[0] <= oldest:
                events.popleft()
        return events
