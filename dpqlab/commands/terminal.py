"""What the commands say, and how far they are.

Results go to stdout. With ``--json`` stdout carries one JSON value and nothing else, and all talk
goes to stderr, as progress always does: a live bar with the time left on a terminal, a plain line
every few seconds elsewhere.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

from dpqlab.distributed import launched_rank
from dpqlab.report import clock

PLAIN_WIDTH = 160  # of tables that are piped or logged
PLAIN_SECONDS = 5.0  # between plain progress lines


class Meter(Protocol):
    """A running piece of work."""

    def advance(self, amount: float = 1, note: str = "") -> None:
        """Report ``amount`` more units as done, and what is being worked on."""
        ...


class Terminal:
    """stdout and stderr of a command; of several processes of a team, the first alone talks.

    Parameters
    ----------
    as_json
        Keep stdout for one JSON value.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.silent = launched_rank() > 0
        self.out = _console(stderr=as_json, quiet=self.silent)
        self.err = _console(stderr=True, quiet=self.silent)

    def say(self, *what: RenderableType) -> None:
        """Show text or tables to a person."""
        self.out.print(*what)

    def emit(self, value: Any) -> None:
        """Write the command's JSON value."""
        if self.silent:
            return
        sys.stdout.write(json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    @contextmanager
    def progress(self, title: str, total: float) -> Iterator[Meter]:
        """Show progress on ``total`` units of work with the time left."""
        if not self.err.is_terminal:
            yield _Plain(self.err, title, total)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            TextColumn("left  {task.fields[note]}", style="dim", markup=False),
        )
        with Progress(*columns, console=self.err, transient=True, speed_estimate_period=60) as bar:
            yield _Live(bar, title, total)


class _Live:
    def __init__(self, bar: Progress, title: str, total: float) -> None:
        self.bar, self.task = bar, bar.add_task(title, total=total, note="")

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.bar.update(self.task, advance=amount, note=note)


class _Plain:
    def __init__(self, console: Console, title: str, total: float) -> None:
        self.console, self.title, self.total = console, title, total
        self.done, self.started = 0.0, time.monotonic()
        self.last = self.started

    def advance(self, amount: float = 1, note: str = "") -> None:
        self.done += amount
        now = time.monotonic()
        if now - self.last < PLAIN_SECONDS:
            return
        self.last = now
        left = (now - self.started) * max(0.0, self.total / self.done - 1)
        tail = f" ({note})" if note else ""
        share = min(1.0, self.done / self.total)
        self.console.print(
            f"{self.title}: {share:.0%}, about {clock(left)} left{tail}", highlight=False
        )


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json", action="store_true", help="write one JSON value to stdout, talk to stderr"
    )


def add_resume_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--resume`` and ``--overwrite``, for a command that writes OUT and keeps a journal."""
    parser.add_argument(
        "--resume", action="store_true", help="go on with a run that was stopped, if there is one"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace OUT if it is there; without --resume also drop what a stopped run left",
    )


def megabytes(count: float) -> str:
    """Write bytes as megabytes of 10⁶ bytes.

    Examples
    --------
    >>> megabytes(3_940_000)
    '3.94 MB'
    """
    return f"{count / 1e6:.2f} MB"


def _console(*, stderr: bool, quiet: bool) -> Console:
    console = Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PLAIN_WIDTH
    return console
