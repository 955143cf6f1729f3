"""How much memory this process has: now, and at most while something runs."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

_EVERY = 0.002  # seconds between two looks


def resident_bytes() -> int:
    """Return what this process has in memory now, libraries and mapped files included.

    Where the system does not tell (macOS), it is the most that the process ever had; 0 on Windows.
    """
    try:
        import resource
    except ImportError:
        return 0
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return _most_by_getrusage()


def most_resident_bytes() -> int:
    """Return the most that this process has had in memory; 0 where the system does not tell.

    On Linux that is this program's own. ``getrusage`` begins with what the process had before it
    became this program, which was its parent's: a small program that a large one starts would
    count as large.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line[:6] == "VmHWM:")
    except (OSError, StopIteration):
        return _most_by_getrusage()


def _most_by_getrusage() -> int:
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class PeakMemory:
    """Watch :func:`resident_bytes` while a block runs; peaks of less than 2 ms may be missed.

    Attributes
    ----------
    before, peak
        At its beginning, and at most, bytes.

    Examples
    --------
    >>> with PeakMemory() as memory:
    ...     _ = [0] * 1000
    >>> memory.peak >= memory.before
    True
    """

    def __init__(self) -> None:
        self.before = self.peak = 0
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = resident_bytes()
        self._watcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._watcher.join()
        self.peak = max(self.peak, resident_bytes())

    def _watch(self) -> None:
        while not self._over.wait(_EVERY):
            self.peak = max(self.peak, resident_bytes())
