"""Processes that are cheap to kill: forked from one that has imported everything.

``python -m benchmarks.survival.nursery`` reads a request a line and answers each with a line. A job
runs in a process of its own, which dies by real signals; only the seconds of importing are saved.
The parent computes nothing, so that no thread is lost in a fork.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT
from benchmarks.survival.faults import NOTHING, Fault, Watch

LONGEST = 300.0
"""Seconds after which a job counts as hung."""
PRELOADED = (
    "torch",
    "diffusers",
    "dpqlab.diffusion.pipeline",
    "dpqlab.cli",
    "dpqlab.commands.compress",
    "dpqlab.commands.prune",
    "dpqlab.commands.calibrate",
    "dpqlab.commands.evaluate",
    "dpqlab.commands.trace",
    "dpqlab.commands.sample",
    "dpqlab.diffusion.dit",
    "recipes.train_fashion",
    "PIL.PngImagePlugin",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a process ended.

    Attributes
    ----------
    code
        Exit code; negative for a signal.
    seconds
        From the fork to the end; ``after_signal`` from the first signal on, if one was sent.
    steps, pieces
        Write steps, and pieces of work that were begun to be written.
    out, err
        What it said.
    """

    code: int
    seconds: float
    after_signal: float | None
    steps: int
    pieces: int
    out: str
    err: str


@dataclass(frozen=True, kw_only=True)
class Request:
    """A process to run.

    Attributes
    ----------
    program
        ``"dpqlab"`` or ``"train"``.
    arguments
        Of the program.
    folder
        Where it writes: write steps are counted there.
    fault, unit
        See :class:`benchmarks.survival.faults.Watch`.
    signals
        Seconds after the start, and the signal to send then.
    threads
        Of PyTorch and numba.
    limit
        Most bytes of a file that it may write; 0 is any (``RLIMIT_FSIZE``).
    """

    program: str
    arguments: tuple[str, ...]
    folder: str
    fault: Fault = NOTHING
    unit: str = ""
    signals: tuple[tuple[float, int], ...] = ()
    threads: int = 1
    limit: int = 0


class Nursery:
    """The parent of the jobs, seen from the harness."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def run(self, request: Request) -> Outcome:
        """Run one process to its end."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asdict(request)) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the nursery ended: see what it wrote to stderr")
        return Outcome(**json.loads(line))


@contextmanager
def nursery() -> Iterator[Nursery]:
    """Start the parent; it ends with the block."""
    few = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-m", "benchmarks.survival.nursery"]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | few | {"PYTHONPATH": path}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
    try:
        yield Nursery(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(30)


def serve() -> None:
    """Answer requests until there are no more."""
    import importlib

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        values = json.loads(line)
        values["fault"] = Fault(**values["fault"])
        request = Request(**values)
        answers.write(json.dumps(asdict(_attempt(request))) + "\n")
        answers.flush()


def _attempt(request: Request) -> Outcome:
    folder = Path(request.folder)
    logs = [folder.with_name(f"{folder.name}.{name}") for name in ("out", "err", "marks")]
    for log in logs:
        log.write_bytes(b"")
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _job(request, logs)
    code, first = _wait(child, started, request.signals)
    ended = time.monotonic()
    out, err, marks = (log.read_text("utf-8", "replace") for log in logs)
    for log in logs:
        log.unlink()
    return Outcome(
        code=code,
        seconds=ended - started,
        after_signal=None if first is None else ended - first,
        steps=marks.count("w"),
        pieces=marks.count("u"),
        out=out,
        err=err,
    )


def _wait(
    child: int, started: float, signals: Sequence[Sequence[float]]
) -> tuple[int, float | None]:
    """Send the signals when their time comes; return the exit code, and when the first was sent."""
    first, left = None, [(started + after, int(number)) for after, number in signals]
    left.append((started + LONGEST, signal.SIGKILL))
    handle = os.pidfd_open(child)
    try:
        while True:
            due, number = left[0]
            ready, _, _ = select.select([handle], [], [], max(0.0, due - time.monotonic()))
            if ready:
                break
            os.kill(child, number)
            first = time.monotonic() if first is None else first
            left = left[1:] or [(time.monotonic() + LONGEST, signal.SIGKILL)]
    finally:
        os.close(handle)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), first


def _job(request: Request, logs: Sequence[Path]) -> None:
    """Be the job; never returns."""
    import resource
    import traceback

    import torch

    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        out, err, marks = (os.open(log, os.O_WRONLY | os.O_APPEND) for log in logs)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(out, 1)
        os.dup2(err, 2)
        torch.set_num_threads(request.threads)
        import numba

        numba.set_num_threads(request.threads)
        Watch(Path(request.folder), request.fault, marks).install(request.unit)
        if request.limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (request.limit, request.limit))
        from benchmarks.survival.programs import PROGRAMS

        code = PROGRAMS[request.program](list(request.arguments))
    except KeyboardInterrupt:
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
