"""Pruning runs on record: one model at some budgets, what it stores, loses and draws there.

``recipes/prune_fashion.py`` makes them. A file is an npz without pickled objects; nothing that it
says is believed before it is checked.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dpqlab.checkpoint.atomic import replace_file
from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import CheckpointError, ConfigError

PARTS = ("codes", "table", "pool", "scale", "bias", "kept")
"""Of what is stored, in bits; ``kept`` is all that is not compressed."""
ERRORS = ("weight_error", "weighted_error", "noise_error", "image_error")
MOST_BYTES = 8_000_000  # of a file's arrays, unpacked
MOST_POINTS = 64
_NAMES = {"about", "samples", "teacher"}


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
        text = json.dumps(about, allow_nan=False).encode()
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            about=np.frombuffer(text, dtype=np.uint8),
            samples=self.samples,
            teacher=self.teacher,
        )
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> PruningRun:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is not there, or something else.
        """
        try:
            _check_size(path)
            with np.load(path, allow_pickle=False) as file:
                if set(file.files) != _NAMES:
                    raise ValueError(f"it holds {sorted(file.files)}, not {sorted(_NAMES)}")
                about = json.loads(file["about"].tobytes())
                samples, teacher = file["samples"], file["teacher"]
            return cls(
                name=str(about["name"]),
                points=tuple(_point(values) for values in about["points"]),
                samples=samples,
                teacher=teacher,
                labels=tuple(_count(label) for label in about["labels"]),
                about=dict(about["about"]),
            )
        except (
            OSError,
            EOFError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            zipfile.BadZipFile,
            ConfigError,
        ) as error:
            raise CheckpointError(
                f"{path} cannot be read as a pruning run: {error}; expected a file that "
                "recipes/prune_fashion.py wrote"
            ) from None


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


def _check_size(path: Path) -> None:
    """Refuse an archive that would unpack to more than a run can be."""
    with zipfile.ZipFile(path) as archive:
        total = sum(entry.file_size for entry in archive.infolist())
    if total > MOST_BYTES:
        raise ValueError(f"it unpacks to {total} bytes, more than {MOST_BYTES}")


def _point(values: Mapping[str, Any]) -> RunPoint:
    _check_keys(values, RunPoint)
    parts = values["parts"]
    if set(parts) != set(PARTS):
        raise ValueError(f"parts are {sorted(parts)}, not {sorted(PARTS)}")
    budget = values["budget"]
    return RunPoint(
        budget=None if budget is None else _number(budget),
        share=_number(values["share"]),
        codewords=_count(values["codewords"]),
        parts={name: _count(parts[name]) for name in PARTS},
        true_bits=_number(values["true_bits"]),
        stored_bytes=_count(values["stored_bytes"]),
        weight_error=_number(values["weight_error"]),
        weighted_error=_number(values["weighted_error"]),
        noise_error=_number(values["noise_error"]),
        image_error=_number(values["image_error"]),
        pools=tuple(_pool(pool) for pool in values["pools"]),
    )


def _pool(values: Mapping[str, Any]) -> PoolPoint:
    _check_keys(values, PoolPoint)
    return PoolPoint(
        kind=str(values["kind"]),
        form=str(values["form"]),
        codewords=_count(values["codewords"]),
        share=_number(values["share"]),
        weighted_error=_number(values["weighted_error"]),
    )


def _check_keys(values: Mapping[str, Any], kind: type[RunPoint] | type[PoolPoint]) -> None:
    expected = {field.name for field in fields(kind)}
    if values.keys() != expected:
        raise ValueError(f"a {kind.__name__} has the keys {sorted(values)}")


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is not a finite number of 0 or more")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} is not a count")
    return value
