"""Faults that a job is given from outside: nothing in the package knows of them.

A *write step* is one request to the system that changes what lies in the job's folder: a file
opened for writing, a folder made, a file synced, renamed, swapped or deleted. Python announces all
of them but the sync to audit hooks, which is where the faults sit.
"""

from __future__ import annotations

import ctypes
import errno
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["none", "kill", "tear", "error", "vanish", "memory"]
_RENAMES = ("os.rename", "os.link")
_REMOVALS = ("os.remove", "os.rmdir", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong, and when.

    Attributes
    ----------
    kind
        ``"kill"``: SIGKILL as the step begins. ``"tear"``: at a sync, half of the file is cut off
        first, as a power cut may do; at other steps like ``"kill"``. ``"error"``: the step fails
        with ``number``, and so do all that write after it. ``"vanish"``: temporary files are
        deleted as the step begins. ``"memory"``: the call ``at`` runs out of memory.
    step
        Which write step, or which call of ``at``, from 1.
    number
        The errno of ``"error"``: ENOSPC, EROFS, EIO.
    at
        ``"module:attribute"`` of the function that ``"memory"`` stands for.
    """

    kind: Kind = "none"
    step: int = 0
    number: int = errno.ENOSPC
    at: str = ""


NOTHING = Fault()


class Watch:
    """Counts the write steps in a folder, notes the pieces of work, and does what the fault says.

    Parameters
    ----------
    folder
        Where the job writes.
    fault
        What goes wrong.
    log
        Descriptor that notes are written to; it outlives a kill.
    """

    def __init__(self, folder: Path, fault: Fault, log: int) -> None:
        self.folder, self.fault, self.log, self.steps = str(folder), fault, log, 0

    def install(self, unit: str) -> None:
        """Begin; ``unit`` names the function whose calls are pieces of work."""
        import sys

        if self.fault.kind == "memory":
            _wrap(self.fault.at, self._memory())
        if unit:
            _wrap(unit, lambda: self.note(b"u"))
        sync = os.fsync

        def synced(descriptor: int) -> None:
            self._step(descriptor)
            sync(descriptor)

        os.fsync = synced  # type: ignore[assignment]
        sys.addaudithook(self._hear)

    def note(self, mark: bytes) -> None:
        """Write one mark: ``w`` for a write step, ``u`` for a piece of work."""
        os.write(self.log, mark)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & _WRITING and self._inside(path):
                self._step()
        elif event == "os.mkdir" or event in _REMOVALS or event in _RENAMES:
            if self._inside(arguments[0]):
                self._step(changes=event not in _REMOVALS)
        elif event == "ctypes.dlsym" and arguments[-1] == "renameat2":
            self._step()

    def _inside(self, path: Any) -> bool:
        return isinstance(path, str | bytes | Path) and os.fsdecode(path).startswith(self.folder)

    def _step(self, descriptor: int | None = None, *, changes: bool = True) -> None:
        self.steps += 1
        self.note(b"w")
        kind, due = self.fault.kind, self.steps == self.fault.step
        if kind == "error" and self.steps >= self.fault.step and changes:
            raise OSError(self.fault.number, os.strerror(self.fault.number))
        if not due:
            return
        if kind == "tear" and descriptor is not None:
            size = os.fstat(descriptor).st_size
            if os.access(f"/proc/self/fd/{descriptor}", os.W_OK) and size:
                ctypes.CDLL(None).ftruncate(descriptor, ctypes.c_long(size // 2))
        if kind in ("kill", "tear"):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "vanish":
            self._vanish()

    def _vanish(self) -> None:
        self.fault = NOTHING
        for path in Path(self.folder).rglob("*"):
            if path.is_file() and (path.suffix == ".part" or ".dpqlab-" in str(path)):
                path.unlink()

    def _memory(self) -> Callable[[], None]:
        calls = [0]

        def fail() -> None:
            calls[0] += 1
            if calls[0] == self.fault.step:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory (simulated)")

        return fail


def _wrap(name: str, before: Callable[[], None]) -> None:
    """Replace a function or method by one that calls ``before`` first, wherever it is imported."""
    import sys

    module_name, _, path = name.partition(":")
    *owners, leaf = path.split(".")
    module: Any = importlib.import_module(module_name)
    owner = module
    for part in owners:
        owner = getattr(owner, part)
    whole = getattr(owner, leaf)

    def watched(*args: Any, **kwargs: Any) -> Any:
        before()
        return whole(*args, **kwargs)

    setattr(owner, leaf, watched)
    if owner is not module:
        return
    for other in list(sys.modules.values()):
        if getattr(other, "__name__", "").startswith(("dpqlab", "recipes")):
            for key, value in list(vars(other).items()):
                if value is whole:
                    setattr(other, key, watched)
