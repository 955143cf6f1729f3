"""Models of full size from file to compressed folder: bytes, seconds, resident memory, resuming.

    python -m benchmarks.real_models [--rows best-1bit dpq-2bit ...] [--device cuda]
    python -m benchmarks.real_models --source path/to/DiT-XL-2-256

Each row runs ``dpqlab compress`` in a process of its own. Without ``--source`` the weights are
random, in the geometry of DiT-XL/2 (3 GB are written to ``--scratch``): neither bytes nor seconds
depend on what a model has learned. Sizes are those of all files of the compressed folder, against
the float32 bytes of all parameters, the embedder once. Seconds count from the start of the process
to its end, hashing the source and saving included. The last row kills a run half way, resumes it,
and compares every byte. Five rows take about ten minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.random_dit import write_random_dit
from benchmarks.record import append, make_record
from dpqlab.checkpoint.dense import open_dense
from dpqlab.nn import preset
from dpqlab.nn.targets import targets_of

SUITE = "real_models"
MOST_SECONDS = {"cpu": 900.0, "cuda": 60.0}
MOST_RESIDENT = 2500.0  # MB
RESUME = "resume"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Arguments of ``dpqlab compress``, and the least ratio to float32 that was aimed at."""

    arguments: tuple[str, ...]
    ratio: float | None


ROWS = {
    "best-1bit": Row(arguments=("--preset", "best-1bit"), ratio=24.0),
    "dpq-1bit": Row(arguments=("--preset", "dpq-1bit"), ratio=None),
    "dpq-1bit, budget 1/8": Row(arguments=("--preset", "dpq-1bit", "--budget", "1/8"), ratio=24.0),
    "dpq-1bit, a pool a layer": Row(
        arguments=("--preset", "dpq-1bit", "--across", "layer"), ratio=None
    ),
    "dpq-2bit": Row(arguments=("--preset", "dpq-2bit"), ratio=13.0),
    "best-2bit": Row(arguments=("--preset", "best-2bit"), ratio=13.0),
}
DEFAULT = ("best-1bit", "dpq-1bit", "dpq-1bit, budget 1/8", "dpq-2bit", RESUME)


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished process: its JSON value, wall and processor seconds, largest resident MB."""

    said: dict[str, Any]
    wall: float
    processor: float
    resident: float


def main() -> None:
    """Measure the rows, and append their records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", nargs="+", choices=(*ROWS, RESUME), default=DEFAULT)
    parser.add_argument("--source", type=Path, help="folder of a full-precision pipeline")
    parser.add_argument("--layers", type=int, default=28, help="blocks of the random model (28)")
    parser.add_argument("--scratch", type=Path, help="folder for 4 GB of files (a temporary one)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dry-run", action="store_true", help="print the records, append nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        source = args.source or write_random_dit(Path(scratch) / "random", layers=args.layers)
        name = args.source.name if args.source else f"DiT-XL/2, random, {args.layers} blocks"
        for row in args.rows:
            if row == RESUME:
                found = resumed(source, Path(scratch), args.device)
            else:
                found = measured(row, source, Path(scratch) / "out", args.device)
            for fields in found:
                record = described(fields, name, args.device)
                print(json.dumps(record) if args.dry_run else summary_of(record), flush=True)
                if not args.dry_run:
                    append(record)


def measured(row: str, source: Path, out: Path, device: str) -> list[dict[str, Any]]:
    """Compress once; return what becomes a record each."""
    spec = ROWS[row]
    load = os.getloadavg()[0]
    done = run(["--overwrite", *spec.arguments], source, out, device)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    details = {
        "arguments": list(spec.arguments),
        "bytes_of_all_files": size,
        "fp32_bytes_of_unique_parameters": round(
            done.said["ratio_fp32"] * done.said["bytes_on_disk"]
        ),
        "true_bits_per_weight": done.said["true_bits_per_weight"],
        "relative_error": done.said["relative_error"],
        "wall_seconds": round(done.wall, 1),
        "processor_seconds": round(done.processor, 1),
        "resident_mb": round(done.resident, 1),
        "load_average_before": load,
    }
    ratio = details["fp32_bytes_of_unique_parameters"] / size
    seconds = MOST_SECONDS[device.partition(":")[0]]
    return [
        _fields(row, "smaller than fp32", ratio, "x", goal=spec.ratio, floor=spec.ratio)
        | {"higher_is_better": True, "details": details},
        _fields(row, "seconds", done.wall, "s", goal=seconds, floor=seconds)
        | {"higher_is_better": False, "details": details},
        _fields(row, "peak resident", done.resident, "MB", goal=MOST_RESIDENT, floor=MOST_RESIDENT)
        | {"higher_is_better": False, "details": details},
    ]


def resumed(source: Path, scratch: Path, device: str) -> list[dict[str, Any]]:
    """Kill a run half way, resume it, and count the files that differ from an unbroken run's."""
    arguments = ROWS["best-1bit"].arguments
    folders = [scratch / name / "model" for name in ("whole", "killed")]
    layers = len(targets_of(open_dense(source).skeleton(), preset("best-1bit")))
    whole = run(arguments, source, folders[0], device)
    killed = subprocess.Popen(
        _command(arguments, source, folders[1], device), stdout=subprocess.DEVNULL
    )
    journal = folders[1].with_name("model.partial")
    # by what is done, not by the clock: the second run may be faster than the first
    while len(list(journal.glob("*.safetensors"))) < layers // 2:
        time.sleep(0.2)
        if killed.poll() is not None:
            raise RuntimeError("the run that was to be killed ended before it was")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = run(["--resume", *arguments], source, folders[1], device)
    first, second = (
        {str(p.relative_to(f)): p.read_bytes() for p in f.rglob("*") if p.is_file()}
        for f in folders
    )
    differing = [
        path for path in first.keys() | second.keys() if first.get(path) != second.get(path)
    ]
    details = {
        "files": len(first),
        "wall_seconds_whole": round(whole.wall, 1),
        "layers": layers,
        "wall_seconds_of_the_rest": round(again.wall, 1),
        "layers_that_were_there": again.said["resumed_layers"],
    }
    exact = device == "cpu"  # on a GPU sums may be taken in another order
    fields = _fields(
        RESUME, "files that differ", len(differing), "files", goal=0.0 if exact else None
    )
    return [fields | {"higher_is_better": False, "details": details}]


def run(arguments: Any, source: Path, out: Path, device: str) -> Run:
    """Run the command and measure its process alone."""
    out.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(_command(arguments, source, out, device), stdout=said)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"dpqlab compress ended with {process.returncode}")
        said.seek(0)
        return Run(
            said=json.loads(said.read()),
            wall=wall,
            processor=usage.ru_utime + usage.ru_stime,
            resident=usage.ru_maxrss * 1024 / 1e6,
        )


def described(fields: dict[str, Any], source: str, device: str) -> dict[str, Any]:
    """Return a whole record."""
    fields["details"] |= {"source": source}
    return make_record(SUITE, **fields, device=device)


def summary_of(record: dict[str, Any]) -> str:
    """Return a record as a line to read."""
    return f"{record['row']}: {record['metric']} {record['value']:.4g} {record['unit']}"


def _command(arguments: Any, source: Path, out: Path, device: str) -> list[str]:
    base = [sys.executable, "-m", "dpqlab", "compress", str(source), str(out), "--json"]
    return [*base, "--device", device, *arguments]


def _fields(row: str, metric: str, value: float, unit: str, **bars: Any) -> dict[str, Any]:
    return {"row": row, "metric": metric, "value": value, "unit": unit, **bars}


if __name__ == "__main__":
    main()
