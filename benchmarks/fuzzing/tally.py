"""Many inputs, one after the other: which they are follows from a seed and their number alone.

So that any of them can be made again, and a million can be judged in several sittings.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.fuzzing.judge import Judge, Outcome, skeletons_once
from benchmarks.fuzzing.mutators import Input, mutated
from benchmarks.fuzzing.seeds import Files, model_config
from dpqlab.checkpoint.atomic import replace_file

SHOWN = 10
"""Faults that are kept in full."""


@dataclass(kw_only=True)
class Tally:
    """What became of the inputs up to a number.

    Attributes
    ----------
    seed, inputs
        The next input is number ``inputs`` of ``seed``.
    loaded, faults
        How many loaded (the others were refused), and of how many something was wrong.
    slowest, largest
        Most processor seconds and MiB that an input took.
    seconds
        Processor time of all of them, with what it took to make and to compare them.
    changes
        How often each change was made.
    shown
        The first faults, in words.
    """

    seed: int = 0
    inputs: int = 0
    loaded: int = 0
    faults: int = 0
    slowest: float = 0.0
    largest: float = 0.0
    seconds: float = 0.0
    changes: Counter[str] = field(default_factory=Counter)
    shown: list[str] = field(default_factory=list)

    def add(self, given: Input, outcome: Outcome) -> None:
        """Count one more."""
        if outcome.fault is not None:
            self.faults += 1
            if len(self.shown) < SHOWN:
                what = f"input {self.inputs} of seed {self.seed}, {', '.join(given.changes)}"
                self.shown.append(f"{what}: {outcome.fault}")
        self.inputs += 1
        self.loaded += outcome.loaded
        self.slowest = max(self.slowest, outcome.seconds)
        self.largest = max(self.largest, outcome.grown)
        self.changes.update(given.changes)

    def save(self, path: Path) -> None:
        """Write it, so that :meth:`read` can go on from here."""
        replace_file(path, json.dumps(vars(self)).encode())

    @classmethod
    def read(cls, path: Path, seed: int) -> Tally:
        """Read what :meth:`save` wrote for this seed; begin anew where there is nothing.

        Raises
        ------
        ValueError
            If it is of another seed.
        """
        if not path.exists():
            return cls(seed=seed)
        found = json.loads(path.read_bytes())
        if found["seed"] != seed:
            raise ValueError(f"{path} is of seed {found['seed']}, not {seed}: choose another file")
        return cls(**(found | {"changes": Counter(found["changes"])}))


def judged(
    seeds: Mapping[str, Files], folder: Path, seed: int, numbers: Iterable[int]
) -> Iterator[tuple[Input, Outcome]]:
    """Make and judge inputs by their numbers.

    Parameters
    ----------
    seeds
        The files of good folders.
    folder
        An empty folder to work in, best in memory.
    seed, numbers
        Which inputs.
    """
    with skeletons_once([model_config(files) for files in seeds.values()]):
        judges = judges_of(seeds, folder)
        for number in numbers:
            source = random.Random(f"{seed}:{number}")
            name = source.choice(list(seeds))
            given = mutated(seeds[name], source.choice)
            yield given, judges[name].judge(given)


def judges_of(seeds: Mapping[str, Files], folder: Path) -> dict[str, Judge]:
    """Return a judge for each seed, who has seen it as it is: what loads once only is loaded now.

    Raises
    ------
    ValueError
        If a seed is not judged good.
    """
    judges: dict[str, Judge] = {}
    for name, files in seeds.items():
        (folder / name).mkdir()
        judges[name] = Judge(folder / name)
        judges[name].judge(Input(files=files, changes=()))
        outcome = judges[name].judge(Input(files=files, changes=()))
        if not outcome.loaded or outcome.fault is not None:
            raise ValueError(f"the seed {name} is no good folder: {outcome}")
    return judges
