"""Put every job through everything, and write the records: ``python -m benchmarks.survival``.

All of it takes an hour or two on two cores; ``--parts`` and ``--jobs`` choose.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, append, make_record
from benchmarks.survival.company import foreign_records, second_jobs, thread_counts
from benchmarks.survival.disks import TROUBLES, Trouble, replacing, too_long, troubled
from benchmarks.survival.jobs import JOBS, Job, Place, Whole, whole
from benchmarks.survival.kills import Survival, killed_at_random, killed_at_steps, spread
from benchmarks.survival.memory import starved
from benchmarks.survival.nursery import nursery
from benchmarks.survival.stops import Stop, stopped_at_random
from benchmarks.survival.tmpfs import full_tmpfs

SUITE = "reliability-jobs"
SHARES = {
    "compress": 0.4,
    "prune": 0.075,
    "calibrate": 0.125,
    "evaluate": 0.05,
    "trace": 0.125,
    "sample": 0.15,
    "train": 0.075,
}
"""Of the kills at random: most for what is quick."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What became of the attempts of one part on one job."""

    metric: str
    attempts: int
    good: int
    details: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How much is done: kills in all, most write steps of a job, and the seed of the moments."""

    kills: int
    most: int
    seed: int


def kills(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """SIGKILL at random moments."""
    count = max(1, round(setting.kills * SHARES[job.name]))
    generator = random.Random(f"{setting.seed} {job.name}")
    yield survived(
        "SIGKILL at random moments", list(killed_at_random(place, job, base, count, generator))
    )


def steps(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """SIGKILL at write steps, with and without a file torn in half."""
    total = base.outcome.steps
    chosen = spread(total, setting.most)
    killed = list(killed_at_steps(place, job, base, chosen))
    yield survived("SIGKILL at write steps", killed, write_steps=total)
    chosen = spread(total, max(2, setting.most // 4))
    torn = list(killed_at_steps(place, job, base, chosen, "tear"))
    yield survived("SIGKILL with a torn file", torn, write_steps=total)


def stops(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """Ctrl-C and SIGTERM, once and twice."""
    if job.program != "dpqlab":
        return  # a recipe has no orderly stop: it is killed, and goes on
    generator = random.Random(f"{setting.seed} {job.name} stop")
    count = max(4, setting.most // 3)
    found: list[Stop] = list(stopped_at_random(place, job, base, count, generator))
    yield Tally(
        metric="Ctrl-C and SIGTERM, once and twice",
        attempts=len(found),
        good=sum(stop.orderly for stop in found),
        details={
            "hit": sum(stop.hit for stop in found),
            "longest_s": round(max(stop.seconds for stop in found), 2),
            "faults": [f"{stop.what}: {stop.note}" for stop in found if not stop.orderly],
        },
    )


def disk(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """Disks that fail."""
    total = base.outcome.steps
    chosen = spread(total, max(2, setting.most // 4))
    for name in TROUBLES:
        yield coped(name, list(troubled(place, job, base, name, chosen)), write_steps=total)
    if job.name == "compress" and (real := list(full_tmpfs(place, job, base))):
        yield coped("a tmpfs that is full", real)
    yield coped("file size limit", list(too_long(place, job, base, (1000, 20_000))))
    if base.left and job.program == "dpqlab":
        few = spread(total, max(2, setting.most // 8))
        yield coped("full disk, replacing", list(replacing(place, job, base, few)))


def memory(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """Memory that runs out."""
    found = list(starved(place, job, base))
    if found:
        yield coped("out of memory", found)


def company(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """A second job, stale locks, foreign and damaged records."""
    for metric, found in (
        ("a second job on one folder", list(second_jobs(place, job, base))),
        ("damaged and foreign records", list(foreign_records(place, job, base))),
    ):
        if found:
            yield coped(metric, found)


def threads(place: Place, job: Job, base: Whole, setting: Setting) -> Iterator[Tally]:
    """The same bytes with one thread and with two."""
    found = list(thread_counts(place, job, base))
    yield coped("same bytes with 1 and 2 threads", found)


PARTS: dict[str, Callable[[Place, Job, Whole, Setting], Iterator[Tally]]] = {
    "kills": kills,
    "steps": steps,
    "stops": stops,
    "disk": disk,
    "memory": memory,
    "company": company,
    "threads": threads,
}


def survived(metric: str, found: Sequence[Survival], **details: Any) -> Tally:
    """Sum up attempts that kill."""
    faults = [f"{one.what}: {one.note}" for one in found if not one.same]
    most = max(one.redone for one in found)
    return Tally(
        metric=metric,
        attempts=len(found),
        good=sum(one.same and one.redone <= 1 for one in found),
        details={"hit": sum(one.hit for one in found), "most_redone": most, "faults": faults}
        | details,
    )


def coped(metric: str, found: Sequence[Trouble], **details: Any) -> Tally:
    """Sum up attempts that are to end in one sentence, or in the same bytes."""
    faults = [f"{one.what}: {one.note}" for one in found if not one.sound]
    return Tally(
        metric=metric,
        attempts=len(found),
        good=sum(one.sound for one in found),
        details={
            "hit": sum(one.hit for one in found),
            "bytes_named": sum(one.bytes_named for one in found),
            "faults": faults,
        }
        | details,
    )


def record_of(job: Job, tally: Tally) -> dict[str, Any]:
    """Return the record: the share of attempts that came out well."""
    # what went wrong is told without saying where this machine keeps things
    faults = [re.sub(r"/\S*/", "", fault) for fault in tally.details["faults"]]
    return make_record(
        SUITE,
        job.name,
        tally.metric,
        tally.good / tally.attempts,
        "share",
        higher_is_better=True,
        goal=1.0,
        floor=1.0,
        limit=1.0,
        details={"attempts": tally.attempts, "good": tally.good}
        | tally.details
        | {"faults": faults},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the suite; the exit code is 1 if a job did not come through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--kills", type=int, default=200, help="at random, all jobs together (200)")
    parser.add_argument("--most", type=int, default=40, help="write steps of a job (40)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    args = parser.parse_args(argv)
    setting = Setting(kills=args.kills, most=args.most, seed=args.seed)
    well = True
    with nursery() as parent, tempfile.TemporaryDirectory() as folder:
        place = Place.prepared(parent, Path(folder))
        for part in args.parts:
            for name in args.jobs:
                job = JOBS[name]
                for tally in PARTS[part](place, job, whole(place, job), setting):
                    append(record_of(job, tally), args.results)
                    well = well and tally.good == tally.attempts
                    said = f"{name}: {tally.metric}: {tally.good} of {tally.attempts}"
                    print(said, tally.details, flush=True)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
