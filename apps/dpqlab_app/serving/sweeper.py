"""Temporary files of a run: a folder for this user alone, swept by age and size, removed at exit.

Gradio writes each picture that it shows to a file. Its own clean-up (``delete_cache``) asks every
component in turn and fell over under load; this one looks at the folder alone.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PREFIX = "dpqlab-app-"
LEFT_OVER_S = 24 * 3600.0
"""A folder of a run that was killed is removed when nothing has touched it for so long."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """When files go: older than ``age_s``, or the oldest while there are too many of them.

    Files younger than ``grace_s`` stay in any case: a browser may be fetching them.
    """

    age_s: float = 1800.0
    total_bytes: int = 256_000_000
    files: int = 2000
    grace_s: float = 20.0
    every_s: float = 5.0


@contextmanager
def scratch_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder with mode 0700 for this run, and remove it and what is in it at the end.

    Parameters
    ----------
    parent
        Where to make it; None for the system's folder of temporary files.
    """
    base = Path(tempfile.gettempdir()) if parent is None else parent
    remove_left_overs(base)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))  # mkdtemp: mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_left_overs(base: Path, *, now: float | None = None) -> list[Path]:
    """Remove folders of this user's runs that ended without tidying up; return them."""
    now = time.time() if now is None else now
    removed: list[Path] = []
    for folder in base.glob(f"{PREFIX}*"):
        with suppress(OSError):
            status = folder.lstat()
            mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            old = now - status.st_mtime > LEFT_OVER_S
            if mine and old and folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def sweep(
    folder: Path, bounds: Bounds, *, keep: Collection[str] = (), now: float | None = None
) -> list[str]:
    """Delete files below ``folder`` that are too old, then the oldest while they are too many.

    Parameters
    ----------
    keep
        Files that stay and are not counted: the page's own.
    now
        Seconds since the epoch, as file times are; None for the present.

    Returns
    -------
    list of str
        The files that were deleted, oldest first. Texts: thousands of paths as objects would
        show in the server's memory.
    """
    now = time.time() if now is None else now
    found = sorted(_files(folder, keep))
    total, count = sum(size for _, size, _ in found), len(found)
    removed: list[str] = []
    for modified, size, path in found:
        few = total <= bounds.total_bytes and count <= bounds.files
        age = now - modified
        if age <= bounds.grace_s or (age <= bounds.age_s and few):
            continue
        with suppress(OSError):
            os.unlink(path)  # noqa: PTH108
            total, count = total - size, count - 1
            removed.append(path)
            os.rmdir(os.path.dirname(path))  # noqa: PTH106, PTH120  (one folder a file, if it is empty)
    return removed


def _files(folder: Path, keep: Collection[str]) -> Iterator[tuple[float, int, str]]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = f"{root}{os.sep}{name}"
            with suppress(OSError):  # gone in the meantime
                status = os.lstat(path)
                if path not in keep:
                    yield status.st_mtime, status.st_size, path


class Sweeper:
    """A thread that sweeps ``folder`` again and again; what is there at its start stays.

    Parameters
    ----------
    folder
        The run's folder.
    bounds
        What may stay.
    forget
        Called with the files that were deleted, so that others drop what they know of them.
    """

    def __init__(
        self,
        folder: Path,
        bounds: Bounds | None = None,
        forget: Callable[[list[str]], None] = lambda paths: None,
    ) -> None:
        self._folder = folder
        self._bounds = bounds or Bounds()
        self._forget = forget
        self._keep = frozenset(path for _, _, path in _files(folder, ()))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dpqlab-sweeper", daemon=True)

    def __enter__(self) -> Sweeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.wait(self._bounds.every_s):
            try:
                self._forget(sweep(self._folder, self._bounds, keep=self._keep))
                os.utime(self._folder)  # says that this run lives
            except Exception:
                _log.exception("sweeping the temporary files failed; the next round tries again")
