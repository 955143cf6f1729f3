"""The jobs that are put through it, and what counts as their result."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.survival.faults import NOTHING, Fault
from benchmarks.survival.nursery import Nursery, Outcome, Request

Result = Mapping[str, bytes]
Normal = Callable[[str, bytes], bytes | None]
_JOURNAL = "dpqlab.checkpoint.journal:Journal.write"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, as one would type it.

    Attributes
    ----------
    name, program
        The command, and what runs it.
    line
        What is typed; ``{teacher}``, ``{student}``, ``{images}`` and ``{out}`` stand for paths.
    resume
        What is added to go on with a run that was stopped; a job without is started again.
    unit, interval
        The function whose calls are pieces of work, and how many of them may be done again after a
        kill: those of one layer, batch or interval.
    normal
        Takes a file of the result without what the clock put there; None leaves the file out.
    said
        Whether the result is what the command says, in JSON.
    """

    name: str
    program: str = "dpqlab"
    line: str
    resume: tuple[str, ...] = ()
    unit: str = ""
    interval: int = 1
    normal: Normal = lambda path, data: data
    said: bool = False


def _calibrated(path: str, data: bytes) -> bytes | None:
    """Leave out how long it took, which config and card say, and the hashes of these two."""
    if path.endswith("config.json") and b"quantization_config" in data:
        config = json.loads(data)
        del config["quantization_config"]["provenance"]["calibration_seconds"]
        return json.dumps(config).encode()
    return data if path.endswith((".safetensors", "model_index.json")) else None


def _traced(path: str, data: bytes) -> bytes:
    """Leave out when it was made and how long it took."""
    import numpy as np

    if not path.endswith(".npz"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in sorted(archive.namelist())}
    about = json.loads(np.load(io.BytesIO(parts.pop("about.npy"))).tobytes())
    about["about"] |= {"made": "", "seconds": 0}
    return json.dumps(about).encode() + b"".join(parts.values())


def _trained(path: str, data: bytes) -> bytes:
    """Leave out how long it took."""
    if path.endswith(".jsonl"):
        records = [json.loads(line) for line in data.splitlines()]
        return json.dumps([{**r, "seconds": 0, "remaining": 0} for r in records]).encode()
    if path.endswith("training.json"):
        return json.dumps(json.loads(data) | {"seconds_done": 0}).encode()
    if path.endswith("training.safetensors"):
        from safetensors.torch import load, save

        tensors = load(data)
        del tensors["state.elapsed"]
        return save(tensors)
    return data


_GO_ON = ("--resume", "--overwrite")
JOBS: dict[str, Job] = {
    job.name: job
    for job in (
        Job(
            name="compress",
            line="compress {teacher} {out} --preset vq-1bit",
            resume=_GO_ON,
            unit=_JOURNAL,
        ),
        Job(
            name="prune",
            line="prune {teacher} {out} --d 2 --k 16 --scope layer --across kind --budget 1/2",
            resume=_GO_ON,
            unit=_JOURNAL,
        ),
        Job(
            name="calibrate",
            line="calibrate {student} {out} --teacher {teacher} --data {images} --steps 6 "
            "--batch 4 --every 2 --device cpu",
            resume=_GO_ON,
            unit="dpqlab.calibration.distiller:Distiller.step",
            interval=2,
            normal=_calibrated,
        ),
        Job(
            name="evaluate",
            line="evaluate {student} --images 60 --steps 2 --device cpu --json --journal {out}",
            unit=_JOURNAL,
            said=True,
        ),
        Job(
            name="trace",
            line="trace {teacher} {student} --out {out}.npz --steps 2 --classes 0-5 --batch 2 "
            "--device cpu",
            resume=("--resume",),
            unit=_JOURNAL,
            normal=_traced,
        ),
        Job(
            name="sample",
            line="sample {teacher} {student} --out {out}.png --steps 2 --device cpu",
        ),
        Job(
            name="train",
            program="train",
            # its rate follows whichever is further, steps or time: time must not count
            line="--data {images} --out {out} --batch 8 --every 2 --steps 6 --sheet-every 4 "
            "--seconds 1e9",
            resume=("--resume",),
            unit="recipes.training:noisy_batch",
            interval=4,
            normal=_trained,
        ),
    )
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """A job's folder, emptied for each attempt, and the models that all jobs read."""

    nursery: Nursery
    root: Path

    @classmethod
    def prepared(cls, nursery: Nursery, root: Path) -> Place:
        """Make the teacher, its student and the images."""
        place = cls(nursery=nursery, root=root)
        place.fresh()
        request = Request(program="prepare", arguments=(str(root),), folder=str(place.folder))
        outcome = nursery.run(request)
        if outcome.code:
            raise RuntimeError(f"the models could not be made: {outcome.err}")
        student = Job(name="", line="compress {teacher} {student}")
        if (outcome := place.run(student)).code:
            raise RuntimeError(f"the student could not be made: {outcome.err}")
        return place

    @property
    def folder(self) -> Path:
        """Where jobs write."""
        return self.root / "job"

    @property
    def out(self) -> Path:
        """What they are to make, less a suffix."""
        return self.folder / "m"

    def fresh(self) -> None:
        """Empty the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)

    def run(
        self,
        job: Job,
        more: tuple[str, ...] = (),
        *,
        fault: Fault | None = None,
        signals: tuple[tuple[float, int], ...] = (),
        threads: int = 1,
        limit: int = 0,
    ) -> Outcome:
        """Run a job once, in the folder as it is."""
        names = {name: str(self.root / name) for name in ("teacher", "student", "images")}
        names["out"] = str(self.out)
        request = Request(
            program=job.program,
            arguments=tuple(part.format(**names) for part in job.line.split()) + more,
            folder=str(self.folder),
            fault=fault or NOTHING,
            unit=job.unit,
            signals=signals,
            threads=threads,
            limit=limit,
        )
        return self.nursery.run(request)

    def result(self, job: Job, outcome: Outcome) -> Result:
        """Return what a job made, without what the clock put there."""
        if job.said:
            return {"said": outcome.out.encode()}
        files = [path for path in sorted(self.folder.rglob("*")) if path.is_file()]
        found: dict[str, bytes] = {}
        for path in files:
            name = path.relative_to(self.folder).as_posix()
            data = job.normal(name, path.read_bytes())
            if data is not None:
                found[name] = data
        return found

    def left(self) -> list[str]:
        """Return the names in the folder, hidden ones too."""
        return sorted(path.name for path in self.folder.iterdir())


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A job that nothing happened to: what it made, what it left, and how long it took."""

    result: Result
    left: tuple[str, ...]
    outcome: Outcome


def whole(place: Place, job: Job, *, threads: int = 1) -> Whole:
    """Run a job undisturbed."""
    place.fresh()
    outcome = place.run(job, threads=threads)
    if outcome.code:
        raise RuntimeError(f"{job.name} failed undisturbed: {outcome.err}")
    return Whole(result=place.result(job, outcome), left=tuple(place.left()), outcome=outcome)
