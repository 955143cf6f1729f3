"""Write a folder all at once: it appears whole, or not at all.

The new content is written beside the target, synced to disk, and then swapped in by one rename.
Where the kernel can exchange two folders (Linux), the old one is in place until the very moment the
new one is. Elsewhere there is a moment between two renames; the old folder then waits under a
hidden name, and the next save puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: orphans are left for the user to delete
    fcntl = None

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextmanager
def staged_folder(target: Path) -> Generator[Path]:
    """Yield an empty folder that replaces ``target`` when the block ends without an exception.

    After an exception, and after being killed at any moment, ``target`` is as it was. What a killed
    run left behind is removed by the next one with the same target.

    Parameters
    ----------
    target
        The folder to create or replace; its parent must exist. A symbolic link is followed.

    Raises
    ------
    FileNotFoundError
        If somebody takes files away from the new folder before it is in place.
    """
    target = target.resolve()
    _recover(target)
    remove_orphans(target)
    staging, lock = _new_staging(target)
    try:
        yield staging
        files = _files_in(staging)
        sync_tree(staging)
        _swap_in(staging, target, files)
        sync_folder(target.parent)
    finally:
        # holds what is now obsolete: the unfinished new content, or the old
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def write_file(file: Path, data: bytes) -> None:
    """Create ``file`` with ``data`` and sync it to disk."""
    with file.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def replace_file(target: Path, data: bytes) -> None:
    """Write a file that appears whole or not at all; one that was there stays until then."""
    # always the same name, so that a killed writer leaves one file at most
    staging = target.with_name(f".{target.name}.part")
    staging.unlink(missing_ok=True)
    try:
        write_file(staging, data)
        staging.replace(target)
        sync_folder(target.parent)
    finally:
        staging.unlink(missing_ok=True)


def sync_tree(folder: Path) -> None:
    """Sync a folder and the folders in it; their files are synced as they are written."""
    for inside, _, _ in os.walk(folder, topdown=False):
        sync_folder(Path(inside))


def sync_folder(folder: Path) -> None:
    """Sync the entries of one folder to disk, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_orphans(target: Path) -> None:
    """Delete what killed saves to ``target`` left behind; a running save holds a lock."""
    for orphan in _beside(target):
        if orphan.is_symlink() or not orphan.is_dir():
            continue
        lock = _lock(orphan)
        if lock is None:
            continue
        shutil.rmtree(orphan, ignore_errors=True)
        os.close(lock)


@contextmanager
def locked_folder(folder: Path) -> Generator[bool]:
    """Hold the lock of a folder until the block ends; yield False if another process holds it."""
    lock = _lock(folder)
    try:
        yield lock is not None or fcntl is None
    finally:
        if lock is not None:
            os.close(lock)


def _swap_in(staging: Path, target: Path, files: set[str]) -> None:
    """Put the new folder in place, or, if files of it have vanished by then, the old one back."""
    if not target.exists():
        staging.rename(target)
        if _files_in(target) != files:
            target.rename(staging)
            raise _vanished(target)
    elif _exchange(staging, target):
        if _files_in(target) != files:
            _exchange(staging, target)
            raise _vanished(target)
    else:
        aside = staging.with_suffix(".old")
        target.rename(aside)
        try:
            staging.rename(target)
            if _files_in(target) != files:
                target.rename(staging)
                raise _vanished(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)


def _files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _vanished(target: Path) -> FileNotFoundError:
    what = "files vanished while they were written"
    return FileNotFoundError(errno.ENOENT, what, str(target))


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    result = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
    return result == 0


def _recover(target: Path) -> None:
    """Put back a folder that a save, killed between two renames, had moved aside."""
    if target.exists():
        return
    for aside in _beside(target):
        if aside.suffix == ".old":
            with suppress(OSError):
                aside.rename(target)
                return


def _new_staging(target: Path) -> tuple[Path, int | None]:
    """Make and lock a folder beside ``target``."""
    while True:
        staging = target.parent / f"{_prefix(target)}{secrets.token_hex(6)}.partial"
        staging.mkdir()
        with suppress(FileNotFoundError):  # another save took it for an orphan before it was locked
            lock = _lock(staging)
            if staging.exists():
                return staging, lock


def _prefix(target: Path) -> str:
    return f".{target.name}.dpqlab-"


def _beside(target: Path) -> list[Path]:
    return [path for path in target.parent.iterdir() if path.name.startswith(_prefix(target))]


def _lock(folder: Path) -> int | None:
    """Lock a folder and return the descriptor that holds the lock; None if somebody else does."""
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
