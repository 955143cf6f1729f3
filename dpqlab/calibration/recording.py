"""A calibration on record: the course of the figures, and what the student drew on the way."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dpqlab.calibration.loop import CalibrationRecord
from dpqlab.checkpoint import read_config
from dpqlab.checkpoint.arrays import ABOUT, ArraySpec, names_in, read_described, write_described
from dpqlab.checkpoint.documents import closed
from dpqlab.checkpoint.records import FileKind, reading, record_of
from dpqlab.diffusion.models import ASSETS
from dpqlab.errors import CheckpointError, ConfigError

DEFAULT_MODEL = "fashion-dit"
RUNS = ASSETS / f"{DEFAULT_MODEL}-runs"
TEACHER = "teacher"
"""Name of the recording that holds no course, only what the teacher draws from the same seeds."""
KIND = FileKind(what="a recording", maker="recipes/calibrate_presets.py", limit=1 << 28)
_ABOUT = {"name": str, "records": list, "config": dict}
_STRIPS = {
    "strips": ArraySpec(kind="u", dtype="uint8", shape=(None,) * 5),
    "strip_steps": ArraySpec(kind="iu", shape=(None,)),
}


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
        steps = np.asarray(self.strip_steps, dtype=np.int64)
        write_described(path, about, {"strips": self.strips, "strip_steps": steps})

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read what :meth:`save` wrote.

        Raises
        ------
        CheckpointError
            If the file is missing, damaged, or something else.
        """
        with reading(path, KIND):
            about, arrays = read_described(path, _STRIPS, kind=KIND)
            about = closed(about, "its description", _ABOUT)
            strips, steps = arrays["strips"], arrays["strip_steps"]
            if steps.shape != strips.shape[:1]:
                raise ValueError(f"it has {len(strips)} strips and the steps of {len(steps)}")
            return cls(
                name=about["name"],
                records=tuple(record_of(CalibrationRecord, one) for one in about["records"]),
                strips=strips,
                strip_steps=tuple(steps.tolist()),
                config=about["config"],
            )


def runs_of(model: str) -> Path:
    """Return the folder of what is on record about a bundled full-precision model."""
    return ASSETS / f"{model}-runs"


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


def recorded_on(name: str, model: str = DEFAULT_MODEL) -> str:
    """Return the device that a recorded run took place on, from the model that came of it.

    Empty if that model does not ship with dpqlab, or does not say.
    """
    try:
        provenance = read_config(ASSETS / f"{model}-{name}").quantization.provenance
    except CheckpointError:
        return ""
    return str(provenance.get("calibration_device", ""))


def _is_recording(path: Path) -> bool:
    """Whether a file has the parts of a recording: other runs are kept beside them."""
    return names_in(path) == {ABOUT, *_STRIPS}
