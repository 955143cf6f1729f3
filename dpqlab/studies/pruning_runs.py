"""Pruning runs on record: one model at some budgets, what it stores, loses and draws there.

``recipes/prune_fashion.py`` makes them. A file is an npz without pickled objects; nothing that it
says is believed before it is checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dpqlab.checkpoint.arrays import ArraySpec, read_described, write_described
from dpqlab.checkpoint.documents import Json, closed
from dpqlab.checkpoint.records import FileKind, count, reading, record_of
from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import ConfigError

PARTS = ("codes", "table", "pool", "scale", "bias", "kept")
"""Of what is stored, in bits; ``kept`` is all that is not compressed."""
ERRORS = ("weight_error", "weighted_error", "noise_error", "image_error")
MOST_POINTS = 64
KIND = FileKind(what="a pruning run", maker="recipes/prune_fashion.py", limit=8_000_000)
_PICTURES = {
    "samples": ArraySpec(kind="u", dtype="uint8", shape=(None,) * 5),
    "teacher": ArraySpec(kind="u", dtype="uint8", shape=(None,) * 4),
}
_ABOUT = {"name": str, "points": list, "labels": list, "about": dict}


@dataclass(frozen=True, kw_only=True)
class PoolPoint:
    """One pool at a budget: the kind of layer it belongs to, and what is left of it.

    ``share`` is what pool and tables take of the bits of the codes; ``weighted_error`` is relative,
    every column counted by its input.
    """

    kind: str
    form: str
    codewords: int
    share: float
    weighted_error: float


@dataclass(frozen=True, kw_only=True)
class RunPoint:
    """The whole model at a budget.

    Attributes
    ----------
    budget
        The most that pool and tables may take of the bits of the codes; None keeps all codewords.
    share
        What they do take, over all pools.
    codewords
        Of all pools.
    parts
        Stored bits of the whole model, see ``PARTS``.
    true_bits
        Bits a weight of the blocks' Linears, everything counted.
    stored_bytes
        Of all tensors of the model.
    weight_error
        ``|W - W'|**2 / |W|**2`` over the compressed layers.
    weighted_error
        The same with every column counted by the second moment of its input.
    noise_error
        ``|e - e'|**2 / |e|**2`` of the predicted noise on the teacher's own trajectories.
    image_error
        Mean square of the difference from the teacher's pictures of the same seeds, 1 being white.
    pools
        In model order.
    """

    budget: float | None
    share: float
    codewords: int
    parts: dict[str, int]
    true_bits: float
    stored_bytes: int
    weight_error: float
    weighted_error: float
    noise_error: float
    image_error: float
    pools: tuple[PoolPoint, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PruningRun:
    """A path of whole models, and what each of them draws from the same seeds.

    Attributes
    ----------
    name
        Of the preset.
    points
        By falling budget, all codewords first.
    samples
        uint8 (R, N, C, H, W): the pictures of every point.
    teacher
        uint8 (N, C, H, W): those of the full-precision model.
    labels
        Class of each picture.
    about
        Source, seed, steps, guidance, measure, form, date, versions: JSON values.
    """

    name: str
    points: tuple[RunPoint, ...]
    samples: np.ndarray
    teacher: np.ndarray
    labels: tuple[int, ...]
    about: dict[str, Any]

    def __post_init__(self) -> None:
        """Refuse what does not fit together."""
        shape, count = self.teacher.shape, len(self.points)
        if not 1 <= count <= MOST_POINTS:
            raise ConfigError(f"a pruning run has 1 to {MOST_POINTS} points: got {count}")
        if self.samples.dtype != np.uint8 or self.teacher.dtype != np.uint8:
            raise ConfigError(f"pictures must be uint8: got {self.samples.dtype}")
        if len(shape) != 4 or shape[0] != len(self.labels) or self.samples.shape != (count, *shape):
            raise ConfigError(
                f"pictures of shape {self.samples.shape} and {shape} do not fit {count} points "
                f"and {len(self.labels)} labels: expected (R, N, C, H, W) and (N, C, H, W)"
            )

    def save(self, path: Path) -> None:
        """Write a compressed npz without pickled objects."""
        about = {
            "name": self.name,
            "points": [asdict(point) for point in self.points],
            "labels": list(self.labels),
            "about": self.about,
        }
        write_described(path, about, {"samples": self.samples, "teacher": self.teacher})

    @classmethod
    def load(cls, path: Path) -> PruningRun:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is not there, or something else.
        """
        with reading(path, KIND):
            about, pictures = read_described(path, _PICTURES, kind=KIND)
            about = closed(about, "its description", _ABOUT)
            return cls(
                name=about["name"],
                points=tuple(_point(values) for values in about["points"]),
                samples=pictures["samples"],
                teacher=pictures["teacher"],
                labels=tuple(count(label) for label in about["labels"]),
                about=about["about"],
            )


def bundled_runs() -> tuple[str, ...]:
    """Return the names of the pruning runs that ship, most true bits first."""
    files = sorted((ASSETS / "fashion-dit-runs").glob("pruning-*.npz"), reverse=True)
    return tuple(file.stem.removeprefix("pruning-") for file in files)


def bundled_run(name: str) -> PruningRun:
    """Load a pruning run that ships.

    Raises
    ------
    ConfigError
        If there is none of that name.
    """
    if name not in bundled_runs():
        raise ConfigError(
            f"no pruning run is called {name!r}: expected one of "
            f"{', '.join(bundled_runs()) or '(none in this installation)'}"
        )
    return PruningRun.load(ASSETS / f"fashion-dit-runs/pruning-{name}.npz")


def front(points: Sequence[RunPoint], error: str) -> tuple[int, ...]:
    """Return the points that no other beats in both true bits and an error, by falling bits.

    Parameters
    ----------
    points
        Any.
    error
        One of ``ERRORS``.
    """
    if error not in ERRORS:
        raise ConfigError(f"unknown error: got {error!r}, expected one of {', '.join(ERRORS)}")
    order = sorted(
        range(len(points)), key=lambda i: (points[i].true_bits, getattr(points[i], error))
    )
    best: list[int] = []
    for i in order:
        if not best or getattr(points[i], error) < getattr(points[best[-1]], error):
            best.append(i)
    return tuple(reversed(best))


def equal_bits(
    one: PruningRun, other: PruningRun, *, within: float = 0.02
) -> tuple[tuple[RunPoint, RunPoint], ...]:
    """Return the pairs of points of two runs that take the same true bits, most bits first.

    Parameters
    ----------
    one, other
        The runs; the first point of every pair is of ``one``.
    within
        By how much the bits may differ, relative to the smaller.
    """
    pairs = [
        (p, q)
        for p in one.points
        for q in other.points
        if max(p.true_bits, q.true_bits) <= (1 + within) * min(p.true_bits, q.true_bits)
    ]
    return tuple(sorted(pairs, key=lambda pair: -pair[0].true_bits))


def _point(values: Json) -> RunPoint:
    point = record_of(RunPoint, values)
    if point.parts.keys() != set(PARTS):
        raise ValueError(f"parts are {sorted(point.parts)}, not {sorted(PARTS)}")
    return replace(point, parts={name: point.parts[name] for name in PARTS})
