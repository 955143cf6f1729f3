"""Recordings of calibrations, and what is refused as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpqlab.calibration import calibrate
from dpqlab.calibration.recording import Recording
from dpqlab.errors import CheckpointError


@pytest.fixture
def recording(student, teacher, data, config) -> Recording:
    records = tuple(calibrate(student, teacher, data, config))
    strips = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 1, 4, 4)
    return Recording(
        name="tiny",
        records=records,
        strips=strips,
        strip_steps=(0, 30),
        config=config.to_dict(),
    )


def test_a_recording_comes_back_as_it_was(recording, tmp_path: Path):
    recording.save(tmp_path / "run.npz")
    again = Recording.load(tmp_path / "run.npz")
    assert again.records == recording.records
    assert np.array_equal(again.strips, recording.strips)
    assert (again.name, again.strip_steps) == ("tiny", (0, 30))
    assert again.config["steps"] == 30
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]


@pytest.mark.parametrize("content", [b"", b"no zip at all", b"PK\x03\x04 cut off"])
def test_other_files_are_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "run.npz"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"run\.npz"):
        Recording.load(path)


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        Recording.load(tmp_path / "none.npz")


@pytest.mark.parametrize("change", ["keys", "strips", "steps", "records"])
def test_what_is_not_a_recording_is_refused(recording, tmp_path: Path, change: str):
    path = tmp_path / "run.npz"
    recording.save(path)
    with np.load(path) as file:
        arrays = dict(file)
    if change == "keys":
        arrays["more"] = np.zeros(1)
    elif change == "strips":
        arrays["strips"] = arrays["strips"].astype(np.float32)
    elif change == "steps":
        arrays["strip_steps"] = arrays["strip_steps"][:1]
    else:
        about = arrays["about"].tobytes().replace(b'"revived"', b'"renamed"')
        arrays["about"] = np.frombuffer(about, dtype=np.uint8)
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match=r"run\.npz"):
        Recording.load(path)


def test_objects_are_never_unpickled(tmp_path: Path):
    path = tmp_path / "run.npz"
    objects = np.array([object()], dtype=object)
    np.savez(path, about=objects, strips=objects, strip_steps=objects)
    with pytest.raises(CheckpointError):
        Recording.load(path)
