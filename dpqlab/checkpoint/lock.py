"""One process at a time: a lock beside what is being made.

The operating system holds the lock and lets go of it when a process ends, however it ends. A file
that a killed process left behind therefore locks nothing, and is taken over.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from dpqlab.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None


@contextmanager
def exclusive(target: Path) -> Generator[None]:
    """Hold the lock of ``target`` until the block ends; its parent must exist.

    Parameters
    ----------
    target
        The file or folder that nobody else may make meanwhile. The lock is a hidden file beside it,
        which goes with the lock.

    Raises
    ------
    CheckpointError
        If another process holds the lock, or the file cannot be made.
    """
    if fcntl is None:
        yield
        return
    path = lock_file(target)
    try:
        descriptor = _taken(path)
    except OSError as error:
        raise CheckpointError(
            f"could not make {path}: {error.strerror}; expected a place that can be written to"
        ) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def lock_file(target: Path) -> Path:
    """Return where the lock of a target lies."""
    return target.with_name(f".{target.name}.lock")


def _taken(path: Path) -> int:
    """Return a descriptor that holds the lock of the file that has this name now."""
    assert fcntl is not None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise CheckpointError(
                f"{path} is held by another process (pid {owner or 'unknown'}), which makes the "
                "same: wait for it, or choose another name"
            ) from None
        if _is_named(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return descriptor
        os.close(descriptor)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether a name still is the file that was opened: its last owner may just have deleted it."""
    try:
        named = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(named, os.fstat(descriptor))
