"""Fuzz the loader with mutations that know the structure of a folder.

    python -m benchmarks.fuzz_loader [--inputs 1000000] [--minutes 60] [--seed 0] [--results FOLDER]

Each input is a small good folder with one to three things changed, written to a scratch folder, and
read. It must be refused with a ``CheckpointError`` that names a file, in time; or load, and
decode to the same finite weights in dpqlab and in numpy. What does neither is a fault; the first
ten are printed with their number, which with the seed gives them back.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.record import RESULTS, append, make_record
from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.save import save_compressed
from dpqlab.errors import CheckpointError
from tests.checkpoint.forge import PROVENANCE, SCHEDULER_CONFIG, compressed_dit
from tests.fuzz.mutations import Files, disagreement, mutated, read_files, write_files

SECONDS = 3.0
"""Most processor time that one input may take.

The aim is 1 s; a config of 255 blocks takes 1.1 s, since the skeleton is built before the headers
are compared with it.
"""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one input; ``fault`` is None when it is what must become of it."""

    loaded: bool
    fault: str | None = None


class Fuzzer:
    """A folder that takes the shape of one input after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.good = read_files(folder)
        self._there = self.good

    def judge(self, files: Files) -> Outcome:
        """Write one input and read it."""
        write_files(self.folder, files, self._there)
        self._there = files
        started = time.process_time()
        try:
            model = load_compressed(self.folder)
        except CheckpointError as error:
            named = any(path in str(error) for path in files)
            slow = time.process_time() - started > SECONDS
            fault = "slow" if slow else None if named else f"names no file: {error}"
            return Outcome(loaded=False, fault=fault)
        except Exception as error:  # whatever else is what this looks for
            return Outcome(loaded=False, fault=repr(error))
        different = disagreement(model, files)
        return Outcome(loaded=True, fault=different and f"{different} decodes otherwise in numpy")


def run(fuzzer: Fuzzer, *, inputs: int, seconds: float, seed: int) -> tuple[Counter[str], float]:
    """Judge so many inputs, or as many as fit; return counts of outcomes, and the seconds taken."""
    counts: Counter[str] = Counter()
    source, started = random.Random(seed), time.perf_counter()
    while counts["inputs"] < inputs and time.perf_counter() - started < seconds:
        outcome = fuzzer.judge(mutated(fuzzer.good, source.choice))
        counts["inputs"] += 1
        counts["loaded" if outcome.loaded else "refused"] += 1
        if outcome.fault is not None:
            counts["faults"] += 1
            if counts["faults"] <= 10:
                print(f"input {counts['inputs']} of seed {seed}: {outcome.fault}")
    return counts, time.perf_counter() - started


def main() -> None:
    """Run, and append one record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the record goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "x"
        save_compressed(
            compressed_dit(),
            folder,
            scheduler_config=SCHEDULER_CONFIG,
            provenance=PROVENANCE,
            card="x",
        )
        counts, seconds = run(
            Fuzzer(folder), inputs=args.inputs, seconds=60 * args.minutes, seed=args.seed
        )
    details = dict(counts) | {"seed": args.seed, "inputs a second": counts["inputs"] / seconds}
    print(details)
    record = make_record(
        "reliability-loader",
        "mutated folders",
        "faults",
        counts["faults"],
        "inputs",
        higher_is_better=False,
        goal=0,
        details=details,
    )
    append(record, args.results)


if __name__ == "__main__":
    main()
