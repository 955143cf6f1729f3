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
from dpqlab.checkpoint.atomic import replace_file
from dpqlab.errors import CheckpointError

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


def _records(values: Sequence[dict[str, Any]]) -> tuple[CalibrationRecord, ...]:
    names = {field.name for field in fields(CalibrationRecord)}
    for value in values:
        if value.keys() != names:
            raise ValueError(f"a record has the keys {sorted(value)}")
    return tuple(CalibrationRecord.from_dict(value) for value in values)
