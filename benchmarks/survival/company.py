"""Jobs that are not alone: another holds the folder, or something else lies there."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.survival.disks import Trouble, judged
from benchmarks.survival.faults import Fault
from benchmarks.survival.jobs import Job, Place, Whole, whole

LOCKED = {
    "compress": "m.partial",
    "prune": "m.partial",
    "calibrate": ".m.calibration.lock",
    "evaluate": "m.partial",
    "trace": "m.npz.partial",
    "train": ".m.lock",
}
"""What a job locks, in its folder."""
HELD = ("in use by another process", "held by another process")


def second_jobs(place: Place, job: Job, base: Whole) -> Iterator[Trouble]:
    """Start a job while another process holds what it locks, and after that process was killed."""
    if job.name not in LOCKED:
        return
    place.fresh()
    half = place.run(job, fault=Fault(kind="kill", step=base.outcome.steps // 2))
    lock = place.folder / LOCKED[job.name]
    lock.touch() if lock.suffix == ".lock" else lock.mkdir(exist_ok=True)
    with held(lock):
        refused = place.run(job, job.resume)
    said = refused.code == 2 and any(sign in refused.err for sign in HELD)
    # its owner is dead now, and the lock was never given back
    trouble = judged(place, job, base, half, "another process holds it, then is killed")
    fault = "" if said else f"it was not refused: {refused.code} {refused.err[-300:]}"
    # the first process was killed, which is no fault of the second
    notes = [note for note in (trouble.note.replace("exit code -9", "").strip("; "), fault) if note]
    yield replace(trouble, sound=not notes, note="; ".join(notes))


@contextmanager
def held(lock: Path) -> Iterator[None]:
    """Let another process hold a lock, and kill it at the end."""
    import fcntl

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        descriptor = os.open(lock, os.O_RDONLY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(writing, b"!")
        time.sleep(600)
        os._exit(0)
    try:
        os.read(reading, 1)
        yield
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reading)
        os.close(writing)


def foreign_records(place: Place, job: Job, base: Whole) -> Iterator[Trouble]:
    """Damage what a killed job left to go on from: it is noticed, and done again."""
    for name, damage in DAMAGES.items():
        place.fresh()
        half = place.run(job, fault=Fault(kind="kill", step=base.outcome.steps * 2 // 3))
        records = [path for path in place.folder.rglob("*.safetensors") if _resumed(path)]
        records += place.folder.glob("*.calibration")
        if half.code == 0 or not records:
            continue
        damage(sorted(records))
        told = place.run(job, job.resume)
        notes: list[str] = []
        if told.code == 2 and "again" in told.err:
            # it says so, and what to do: drop the record
            for path in place.folder.iterdir():
                if path.suffix == ".calibration" or path.name == "m":
                    _drop(path)
            told = place.run(job, ("--overwrite",) if job.program == "dpqlab" else ())
        if told.code:
            notes.append(f"exit code {told.code}: {told.err[-300:]}")
        elif place.result(job, told) != base.result:
            notes.append("other bytes")
        note = "; ".join(notes)
        yield Trouble(what=name, hit=True, sound=not notes, bytes_named=False, note=note)


def thread_counts(place: Place, job: Job, base: Whole) -> Iterator[Trouble]:
    """Compare one thread with two."""
    other = whole(place, job, threads=2)
    different = [name for name in base.result if other.result.get(name) != base.result[name]]
    yield Trouble(
        what="2 threads",
        hit=True,
        sound=not different,
        bytes_named=False,
        note=f"other bytes in {', '.join(different)}" if different else "",
    )


def _resumed(path: Path) -> bool:
    return ".partial" in str(path.parent) or path.name == "training.safetensors"


def _drop(path: Path) -> None:
    import shutil

    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _half(paths: list[Path]) -> None:
    for path in paths:
        os.truncate(path, path.stat().st_size // 2)


def _flip(paths: list[Path]) -> None:
    for path in paths:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)


def _swap(paths: list[Path]) -> None:
    """Give each record the content of the next."""
    contents = [path.read_bytes() for path in paths]
    for path, data in zip(paths, contents[1:] + contents[:1], strict=True):
        path.write_bytes(data)


def _foreign(paths: list[Path]) -> None:
    for path in paths:
        path.write_bytes(b"nothing of ours")


DAMAGES = {"half-written": _half, "a bit flipped": _flip, "swapped": _swap, "foreign": _foreign}
