"""SIGKILL: at every write step, with files torn in half, and at random moments."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.survival.faults import Fault, Kind
from benchmarks.survival.jobs import Job, Place, Whole
from benchmarks.survival.nursery import Outcome


@dataclass(frozen=True, kw_only=True)
class Survival:
    """How a job came through one attempt on it.

    Attributes
    ----------
    what
        What was done to it.
    hit
        Whether that happened before the job was done.
    same
        Whether the job, once it had gone on, made the bytes that it makes undisturbed, and left
        nothing else behind.
    redone
        Pieces of work that were done twice, in intervals: layers, batches, judgements.
    note
        What went wrong, if anything did.
    """

    what: str
    hit: bool
    same: bool
    redone: int
    note: str = ""


def killed_at_steps(
    place: Place, job: Job, base: Whole, steps: Sequence[int], kind: Kind = "kill"
) -> Iterator[Survival]:
    """Kill a job at some of its write steps, one attempt each, and go on with it."""
    for step in steps:
        place.fresh()
        stopped = place.run(job, fault=Fault(kind=kind, step=step))
        yield survival(place, job, base, stopped, f"{kind} at write step {step}")


def killed_at_random(
    place: Place, job: Job, base: Whole, count: int, generator: random.Random
) -> Iterator[Survival]:
    """Kill a job at moments drawn from the time that it takes, and go on with it."""
    for _ in range(count):
        place.fresh()
        after = generator.uniform(0.0, base.outcome.seconds)
        stopped = place.run(job, signals=((after, signal.SIGKILL),))
        yield survival(place, job, base, stopped, f"kill after {after:.2f} s")


def survival(place: Place, job: Job, base: Whole, stopped: Outcome, what: str) -> Survival:
    """Go on with a job that was stopped, and compare."""
    if stopped.code == 0:
        same = place.result(job, stopped) == base.result
        return Survival(what=what, hit=False, same=same, redone=0)
    # killed as it cleaned up: what it made is there, and nobody need go on
    finished = base.result.items() <= place.result(job, stopped).items()
    again = place.run(job, job.resume)
    twice = max(0, stopped.pieces + again.pieces - base.outcome.pieces)
    redone = 0 if finished else -(-twice // job.interval)
    notes: list[str] = []
    if again.code:
        notes.append(f"exit code {again.code}: {again.err[-300:]}")
    elif place.result(job, again) != base.result:
        notes.append("other bytes")
    elif tuple(place.left()) != base.left:
        notes.append(f"left {place.left()}")
    return Survival(what=what, hit=True, same=not notes, redone=redone, note="; ".join(notes))


def spread(total: int, most: int) -> list[int]:
    """Return at most ``most`` of the numbers from 1 to ``total``, evenly spread, both ends too.

    Examples
    --------
    >>> spread(3, 10), spread(9, 3)
    ([1, 2, 3], [1, 5, 9])
    """
    if total <= most:
        return list(range(1, total + 1))
    return sorted({1 + round(i * (total - 1) / max(1, most - 1)) for i in range(most)})
