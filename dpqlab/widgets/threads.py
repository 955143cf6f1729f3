"""How many threads torch uses for what a view computes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Users:
    """Who is in :func:`one_thread` now, over all threads of the process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.usual = 0  # torch's number of threads before the first of them came
        self.here = threading.local()  # depth: how many of them are in this thread

    def enter(self) -> None:
        with self.lock:
            if self.count == 0:
                self.usual = torch.get_num_threads()
            self.count += 1
            self.here.depth = getattr(self.here, "depth", 0) + 1
            torch.set_num_threads(1)

    def leave(self) -> None:
        with self.lock:
            self.count -= 1
            self.here.depth -= 1
            if self.here.depth == 0:
                torch.set_num_threads(self.usual)


_USERS = _Users()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread for many small operations.

    A second one wins them a tenth of the time where a core is free; where none is, the two wait for
    each other at every operation, and all takes five times as long.

    It nests, and threads may be in it at once, in any order: afterwards each has the number from
    before the first came. Torch keeps a number for every thread, and gives a new thread the one
    that was set last in any: so a thread enters before its first operation, or it may take the
    1 of another for the usual number. Leave in the thread that entered.
    """
    _USERS.enter()
    try:
        yield
    finally:
        _USERS.leave()
