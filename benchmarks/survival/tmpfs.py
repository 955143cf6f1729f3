"""A disk that is really full: a small tmpfs in a namespace of its own, where that is allowed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.record import ROOT
from benchmarks.survival.disks import Trouble, bytes_of
from benchmarks.survival.jobs import Job, Place, Whole

SIZES = (48, 96)
"""KiB that the disk holds at first, one attempt each."""
_SCRIPT = """
size=$1; folder=$2; copy=$3; shift 3
mount -t tmpfs -o size=${size}k tmpfs "$folder" || exit 77
"$@"; code=$?
mount -o remount,size=64m "$folder" || exit 77
"$@" --resume --overwrite || exit 78
cp -r "$folder/." "$copy"
exit $code
"""
NOT_ALLOWED = 77


def full_tmpfs(place: Place, job: Job, base: Whole) -> Iterator[Trouble]:
    """Run a job in a process of its own on a disk too small for it, make room, and go on."""
    if shutil.which("unshare") is None:
        return
    names = {name: str(place.root / name) for name in ("teacher", "student", "images")}
    line = job.line.format(**names, out=str(place.out)).split()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for size in SIZES:
        place.fresh()
        copy = place.root / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        copy.mkdir()
        script = ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", str(size)]
        command = [*script, str(place.folder), str(copy), sys.executable, "-m", "dpqlab", *line]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode == NOT_ALLOWED:
            return
        made = {path.removeprefix(f"{copy}/"): data for path, data in bytes_of(copy).items()}
        named = "bytes are needed" in done.stderr
        notes: list[str] = []
        if done.returncode != 2 or "Traceback" in done.stderr:
            notes.append(f"exit code {done.returncode}: {done.stderr[-500:]}")
        elif made != dict(base.result):
            notes.append("other bytes")
        note = "; ".join(notes)
        what = f"a tmpfs of {size} KiB"
        yield Trouble(what=what, hit=True, sound=not notes, bytes_named=named, note=note)
