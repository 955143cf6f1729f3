"""Ctrl-C and SIGTERM: a command stops in the same orderly way for both, with exit codes apart."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

from dpqlab.errors import DPQError

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
LATER = 0.02
"""Seconds until a signal that came at a bad moment is looked at again."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: whoever handles Ctrl-C handles it too."""


@contextmanager
def terminable() -> Generator[None]:
    """Raise KeyboardInterrupt on Ctrl-C and :class:`Terminated` on SIGTERM while the block runs.

    If the block ends with an error of a library after one of them, the first of them is what is
    raised: what a signal raises within C code may come out as such an error. Our own errors and
    the system's stay: they say what could not be saved. While numba
    loads or makes machine code nothing is raised, but a moment later: LLVM calls Python back and
    does not survive an exception there. Handlers are set in the main thread only, and come back at
    the end; Ctrl-C stays ignored where it was.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[KeyboardInterrupt] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if _is_in_llvm(frame):
            later = threading.Timer(LATER, _send, [number])
            later.daemon = True
            later.start()
            return
        came.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        raise came[-1]

    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, stop)}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except (DPQError, OSError):
        raise
    except Exception as error:
        if came:
            raise came[0] from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_in_llvm(frame: FrameType | None) -> bool:
    while frame is not None:
        if str(frame.f_globals.get("__name__")).startswith("llvmlite."):
            return True
        frame = frame.f_back
    return False


def _send(number: int) -> None:
    """Signal the main thread, which may be asleep: a signal to another one would not wake it."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, number)
    else:
        signal.raise_signal(number)


def stop_code(stop: KeyboardInterrupt) -> int:
    """Return the exit code of a command that was stopped: 130 by Ctrl-C, 143 by SIGTERM."""
    return EXIT_TERMINATED if isinstance(stop, Terminated) else EXIT_INTERRUPTED


@contextmanager
def deaf() -> Generator[None]:
    """Ignore what would stop a process that is about to end: its last line is still said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    stops = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in stops]
    try:
        yield
    finally:
        for number, handler in zip(stops, before, strict=True):
            signal.signal(number, handler)
