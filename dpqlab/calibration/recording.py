"""A calibration on record: the course of the figures, and what the student drew on the way."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from dpqlab.calibration.loop import CalibrationRecord
from dpqlab.checkpoint import read_config
from dpqlab.checkpoint.atomic import replace_file
from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import CheckpointError, ConfigError

RUNS = ASSETS / "fashion-dit-runs"
TEACHER = "teacher"
"""Name of the recording that holds no course, only what the teacher draws from the same seeds."""
_NAMES = {"about", "strips", "strip_steps"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Recording:
    """What a calibration went through.

    Attributes
    ----------
    name
        Of what was calibrated.
    records
        The records in order.
    strips
        uint8 (R, N, C, H, W): N images of the same seeds, drawn R times.
    strip_steps
        The step at which each strip was drawn, (R,).
    config
        The settings, JSON values.
    """

    name: str
    records: tuple[CalibrationRecord, ...]
    strips: np.ndarray
    strip_steps: tuple[int, ...]
    config: dict[str, Any]

    @property
    def true_bits(self) -> float:
        """Bits per weight of what was calibrated, everything included."""
        return self.records[-1].true_bits

    def strip_at(self, step: int) -> np.ndarray:
        """Return the latest strip (N, C, H, W) drawn up to ``step``; the first one before that."""
        drawn = sum(at <= step for at in self.strip_steps)
        return self.strips[max(0, drawn - 1)]

    def save(self, path: Path) -> None:
        """Write a compressed npz without pickled objects."""
        about = {
            "name": self.name,
            "records": [record.to_dict() for record in self.records],
            "config": self.config,
        }
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            about=np.frombuffer(json.dumps(about).encode(), dtype=np.uint8),
            strips=self.strips,
            strip_steps=np.asarray(self.strip_steps, dtype=np.int64),
        )
        replace_file(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                if set(file.files) != _NAMES:
                    raise CheckpointError(f"{path} holds {sorted(file.files)}: no recording")
                about = json.loads(file["about"].tobytes())
                strips, steps = file["strips"], file["strip_steps"]
            if strips.ndim != 5 or strips.dtype != np.uint8 or steps.shape != strips.shape[:1]:
                raise CheckpointError(f"{path} has strips of shape {strips.shape}: no recording")
            return cls(
                name=str(about["name"]),
                records=_records(about["records"]),
                strips=strips,
                strip_steps=tuple(steps.tolist()),
                config=dict(about["config"]),
            )
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise CheckpointError(f"{path} cannot be read as a recording: {error}") from None


def bundled_recordings(folder: Path = RUNS) -> tuple[Recording, ...]:
    """Load every recorded calibration that ships with dpqlab, the fewest true bits first.

    Raises
    ------
    CheckpointError
        If a file there is something else.
    """
    found = [Recording.load(path) for path in sorted(folder.glob("*.npz")) if _is_recording(path)]
    return tuple(sorted((r for r in found if r.records), key=lambda r: (r.true_bits, r.name)))


def bundled_recording(name: str, folder: Path = RUNS) -> Recording:
    """Load one of :func:`bundled_recordings` by the name of its preset, or ``"teacher"``.

    Raises
    ------
    ConfigError
        If there is none of that name; the message lists those there are.
    """
    path = folder / f"{name}.npz"
    known = [found.stem for found in sorted(folder.glob("*.npz")) if _is_recording(found)]
    if path.stem not in known:
        raise ConfigError(
            f"no recorded calibration {name!r}: expected one of {', '.join(known) or '(none here)'}"
        )
    return Recording.load(path)


def recorded_on(name: str) -> str:
    """Return the device that a recorded run took place on, from the model that came of it.

    Empty if that model does not ship with dpqlab, or does not say.
    """
    try:
        provenance = read_config(ASSETS / f"fashion-dit-{name}").quantization.provenance
    except CheckpointError:
        return ""
    return str(provenance.get("calibration_device", ""))


def _is_recording(path: Path) -> bool:
    """Whether a file has the parts of a recording: other runs are kept beside them."""
    try:
        with zipfile.ZipFile(path) as file:
            return {name.removesuffix(".npy") for name in file.namelist()} == _NAMES
    except (OSError, zipfile.BadZipFile):
        return False


def _records(values: Sequence[dict[str, Any]]) -> tuple[CalibrationRecord, ...]:
    names = {field.name for field in fields(CalibrationRecord)}
    for value in values:
        if value.keys() != names:
            raise ValueError(f"a record has the keys {sorted(value)}")
    return tuple(CalibrationRecord.from_dict(value) for value in values)
