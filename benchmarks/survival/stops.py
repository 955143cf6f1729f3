"""Ctrl-C and SIGTERM, once and twice, at random moments."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.survival.jobs import Job, Place, Whole
from benchmarks.survival.kills import survival
from benchmarks.survival.nursery import Outcome

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
AGAIN = 0.2
"""Seconds between two signals."""
LONGEST = 10.0
"""Seconds that a job may take to stop."""


@dataclass(frozen=True, kw_only=True)
class Stop:
    """How a job took a signal.

    Attributes
    ----------
    what
        Which signals, and when.
    hit
        Whether they came before the job was done.
    orderly
        Whether it ended in time, with the right code and no traceback, and went on to the same
        bytes.
    seconds
        From the first signal to the end.
    note
        What went wrong.
    """

    what: str
    hit: bool
    orderly: bool
    seconds: float
    note: str = ""


def stopped_at_random(
    place: Place, job: Job, base: Whole, count: int, generator: random.Random
) -> Iterator[Stop]:
    """Stop a job ``count`` times: by either signal, once or twice, in turn."""
    ways = [(number, times) for number in CODES for times in (1, 2)]
    for index in range(count):
        number, times = ways[index % len(ways)]
        place.fresh()
        after = generator.uniform(0.0, base.outcome.seconds)
        signals = tuple((after + AGAIN * i, int(number)) for i in range(times))
        outcome = place.run(job, signals=signals)
        what = f"{times} x {number.name} after {after:.2f} s"
        yield judged(place, job, base, outcome, what, CODES[number])


def judged(place: Place, job: Job, base: Whole, outcome: Outcome, what: str, code: int) -> Stop:
    """Say how a job took it, then go on with it."""
    seconds = outcome.after_signal or 0.0
    notes: list[str] = []
    unborn = outcome.code < 0 and not outcome.steps
    # no handler is there before the program begins, and nothing to lose
    if outcome.code not in (0, code) and not unborn:
        notes.append(f"exit code {outcome.code}: {outcome.err[-300:]}")
    if "Traceback" in outcome.err:
        notes.append(f"a traceback: {outcome.err[-600:]}")
    if seconds > LONGEST:
        notes.append(f"{seconds:.1f} s to stop")
    done = survival(place, job, base, outcome, what)
    if not done.same:
        notes.append(done.note)
    return Stop(what=what, hit=done.hit, orderly=not notes, seconds=seconds, note="; ".join(notes))
