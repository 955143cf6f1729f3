"""Processes that stay for every test that wants one: a new one spends seconds on its imports."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kept:
    """A process that runs one call after another."""

    calls: ProcessPoolExecutor
    pid: int


_KEPT: dict[str, Kept] = {}


def call_in(name: str, work: Callable[..., Any], *args: Any, **environment: str) -> Future[Any]:
    """Call ``work(*args)`` in the process of that name, once what it was given before is done.

    The first call starts the process, with ``environment`` beside the variables of this one: what
    is read when a module is imported must be there by then.
    """
    if name not in _KEPT:
        with _set(environment):  # which the new process inherits
            calls = ProcessPoolExecutor(1, mp.get_context("spawn"), _leave_with_parent)
            _KEPT[name] = Kept(calls, calls.submit(os.getpid).result())
    return _KEPT[name].calls.submit(work, *args)


def all_of(calls: Mapping[str, Future[Any]]) -> None:
    """Wait for calls that wait for each other; where one fails, end their processes and raise."""
    done, _ = wait(calls.values(), return_when=FIRST_EXCEPTION)
    for error in [call.exception() for call in done]:
        if error is not None:
            for name in calls:
                os.kill(_KEPT.pop(name).pid, signal.SIGKILL)
            raise error


@contextmanager
def _set(environment: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _leave_with_parent() -> None:
    """End this process when the one that started it is gone, however that went."""
    parent = mp.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
