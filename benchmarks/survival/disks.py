"""A full disk, a folder that cannot be written, a failing one, and temporary files that vanish."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.survival.faults import Fault
from benchmarks.survival.jobs import Job, Place, Whole
from benchmarks.survival.kills import survival
from benchmarks.survival.nursery import Outcome

TROUBLES = {
    "full disk": Fault(kind="error", number=errno.ENOSPC),
    "read-only folder": Fault(kind="error", number=errno.EROFS),
    "failing disk": Fault(kind="error", number=errno.EIO),
    "vanished files": Fault(kind="vanish"),
}


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """How a job took a disk that fails.

    Attributes
    ----------
    what
        What failed, and where.
    hit
        Whether the job failed for it; what can be done without is done without.
    sound
        Whether it said so in one line without a traceback, left alone what it had not begun, and
        went on to the same bytes.
    bytes_named
        Whether the line says how many bytes are needed.
    note
        What went wrong.
    """

    what: str
    hit: bool
    sound: bool
    bytes_named: bool
    note: str = ""


def troubled(
    place: Place, job: Job, base: Whole, name: str, steps: Sequence[int]
) -> Iterator[Trouble]:
    """Let the disk fail from a write step on, one attempt each, then go on with the job."""
    fault = TROUBLES[name]
    for step in steps:
        place.fresh()
        failing = Fault(kind=fault.kind, step=step, number=fault.number)
        outcome = place.run(job, fault=failing)
        yield judged(place, job, base, outcome, f"{name} at write step {step}")


def too_long(place: Place, job: Job, base: Whole, sizes: Sequence[int]) -> Iterator[Trouble]:
    """Let writes fail that make a file longer than some bytes, as a real disk does."""
    for size in sizes:
        place.fresh()
        outcome = place.run(job, limit=size)
        yield judged(place, job, base, outcome, f"files of at most {size} bytes")


def replacing(place: Place, job: Job, base: Whole, steps: Sequence[int]) -> Iterator[Trouble]:
    """Let the disk fail while the job is to replace what it made before, which must stay."""
    more = ("--overwrite",) if "--overwrite" in job.resume else ()
    target = place.folder / base.left[0]
    for step in steps:
        place.fresh()
        place.run(job)
        before = bytes_of(target)
        outcome = place.run(job, more, fault=Fault(kind="error", step=step))
        kept = outcome.code == 0 or bytes_of(target) == before
        trouble = judged(place, job, base, outcome, f"full disk at write step {step}, replacing")
        yield trouble if kept else replace(trouble, sound=False, note="the old one is gone")


def bytes_of(target: Path) -> dict[str, bytes]:
    """Return a file, or the files of a folder, by path."""
    files = [target] if target.is_file() else sorted(target.rglob("*"))
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def judged(place: Place, job: Job, base: Whole, outcome: Outcome, what: str) -> Trouble:
    """Say how a job took it, then go on with it on a sound disk."""
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    last = lines[-1] if lines else ""
    notes: list[str] = []
    if outcome.code not in (0, 2):
        notes.append(f"exit code {outcome.code}")
    if "Traceback" in outcome.err:
        notes.append(f"a traceback: {outcome.err[-800:]}")
    if outcome.code == 2 and not last.startswith((f"dpqlab {job.name}: ", f"{job.name}: ")):
        notes.append(f"it said {last!r}")
    done = survival(place, job, base, outcome, what)
    if not done.same:
        notes.append(done.note)
    return Trouble(
        what=what,
        hit=outcome.code != 0,
        sound=not notes,
        bytes_named="bytes are needed" in last,
        note="; ".join(notes),
    )
