"""The loader against folders that a program made up, flipped bytes, and good folders.

    python -m benchmarks.fuzz_loader [PART ...] [--inputs 1000000] [--minutes 600] [--state FILE]

``inputs``: small good folders with one to three things changed, each written to a scratch folder
and read. It must be refused with a ``CheckpointError`` that names a file, in time and in little
memory; or load, and decode to the same finite weights in dpqlab and in numpy. What does neither is
a fault; the first ten are printed with their number, which with the seed gives them back. With
``--state`` a later run goes on where an earlier one ended, and the record is of both.
``flips``: single bytes of the compressed models that come with dpqlab change; each must be noticed.
``good``: one folder for everything that can be stored must load, bit by bit as it was saved.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch

import dpqlab
from benchmarks.fuzzing.flips import flips
from benchmarks.fuzzing.good import good_folders, trouble
from benchmarks.fuzzing.judge import MEMORY, SECONDS
from benchmarks.fuzzing.seeds import make_seeds, read_files
from benchmarks.fuzzing.tally import Tally, judged
from benchmarks.record import RESULTS, append
from benchmarks.reliability import counted
from dpqlab.checkpoint.layout import MANIFEST

SUITE = "reliability-loader"
INPUTS, FLIPS, GOOD = "folders that a program made up", "single changed bytes", "good folders"
SAVED_EVERY = 5_000
Record = dict[str, Any]


def main() -> None:
    """Run the parts that are asked for, or all; append their records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=600.0, help="most time for the inputs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--state", type=Path, help="where to keep what was done, to go on later")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the records go")
    args = parser.parse_args()
    unknown = sorted(set(args.parts) - PARTS.keys())
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    torch.set_num_threads(1)
    for name in args.parts or PARTS:
        for record in PARTS[name](args):
            print(f"{record['row']}: {record['metric']} {record['value']:.6g} {record['unit']}")
            append(record, args.results)


def inputs(args: argparse.Namespace) -> Iterator[Record]:
    """Judge inputs until there are as many as asked for, or the time is up."""
    tally = Tally(seed=args.seed) if args.state is None else Tally.read(args.state, args.seed)

    def save(tally: Tally) -> None:
        if args.state is not None:
            tally.save(args.state)

    with scratch() as folder:
        made = make_seeds(folder / "seeds")
        seeds = {name: read_files(path) for name, path in made.items()}
        (folder / "judged").mkdir()
        stop, before = time.monotonic() + 60 * args.minutes, tally.seconds - time.process_time()
        outcomes = judged(seeds, folder / "judged", args.seed, count(tally.inputs))
        try:
            while tally.inputs < args.inputs and time.monotonic() < stop:
                known = len(tally.shown)
                tally.add(*next(outcomes))
                tally.seconds = before + time.process_time()
                for line in tally.shown[known:]:
                    print(line, flush=True)
                if tally.inputs % SAVED_EVERY == 0:
                    save(tally)
        finally:  # Ctrl-C too
            save(tally)
    yield from input_records(tally, args.inputs)


def input_records(tally: Tally, asked: int) -> Iterator[Record]:
    """Records of what was counted: how many inputs, and the worst of them."""
    details = {
        "seed": tally.seed,
        "loaded": tally.loaded,
        "refused": tally.inputs - tally.loaded,
        "inputs a second of processor time": tally.inputs / max(tally.seconds, 1e-9),
        "changes": dict(sorted(tally.changes.items())),
        "shown": tally.shown,
    }
    yield counted(
        *(SUITE, INPUTS, "inputs", tally.inputs, "folders"),
        goal=asked,
        higher_is_better=True,
        details=details,
    )
    yield counted(SUITE, INPUTS, "faults", tally.faults, "folders", goal=0)
    yield counted(SUITE, INPUTS, "slowest_input", tally.slowest, "s", goal=SECONDS)
    yield counted(SUITE, INPUTS, "most_memory", tally.largest, "MiB", goal=MEMORY)


def flipped(args: argparse.Namespace) -> Iterator[Record]:
    """Flip bytes of every compressed model that comes with dpqlab, equally many of each."""
    shipped = shipped_folders()
    wrong: list[str] = []
    with scratch() as folder:
        for index, source in enumerate(shipped):
            copy = Path(shutil.copytree(source, folder / source.name))
            numbers = range(index, args.flips, len(shipped))
            made = flips(copy, numbers, args.seed)
            wrong += [f"{source.name}: {flip}" for flip in made if not flip.refused]
            shutil.rmtree(copy)
            print(f"{source.name}: {len(numbers)} flips", flush=True)
    yield counted(
        *(SUITE, FLIPS, "refused", args.flips - len(wrong), "flips"),
        goal=args.flips,
        higher_is_better=True,
        details={
            "seed": args.seed,
            "folders": [source.name for source in shipped],
            "shown": wrong[:10],
        },
    )


def good(_: argparse.Namespace) -> Iterator[Record]:
    """Load a folder of every kind."""
    made = list(good_folders())
    troubles: list[str] = []
    with scratch() as folder:
        for one in made:
            found = trouble(one, folder / "x")
            if found is not None:
                troubles.append(f"{one.name}: {found}")
                print(troubles[-1], flush=True)
            shutil.rmtree(folder / "x")
    yield counted(
        *(SUITE, GOOD, "loaded", len(made) - len(troubles), "folders"),
        goal=len(made),
        higher_is_better=True,
        details={"shown": troubles[:10]},
    )


PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Record]]] = {
    "good": good,
    "flips": flipped,
    "inputs": inputs,
}


def shipped_folders() -> list[Path]:
    """Return the compressed models that come with dpqlab."""
    assets = Path(dpqlab.__file__).parent / "assets"
    return sorted(path.parent for path in assets.glob(f"*/{MANIFEST}"))


@contextmanager
def scratch() -> Iterator[Path]:
    """Yield an empty folder, in memory where there is a place for that."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
