"""Recordings of calibrations, and what is refused as one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpqlab.calibration import calibrate
from dpqlab.calibration.recording import Recording
from dpqlab.errors import CheckpointError
from tests.archives import change_npz, in_about
from tests.calibration.conftest import CONFIG


@pytest.fixture(scope="module")
def recording(compressed, teacher, data) -> Recording:
    records = tuple(calibrate(compressed(), teacher, data, CONFIG))
    strips = np.arange(2 * 3 * 16, dtype=np.uint8).reshape(2, 3, 1, 4, 4)
    return Recording(
        name="tiny",
        records=records,
        strips=strips,
        strip_steps=(0, 30),
        config=CONFIG.to_dict(),
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


FORGED = {
    "another array": lambda a: a.update(more=np.zeros(1)),
    "strips of floats": lambda a: a.update(strips=a["strips"].astype(np.float32)),
    "strips without steps": lambda a: a.update(strip_steps=a["strip_steps"][:1]),
    "steps of floats": lambda a: a.update(strip_steps=a["strip_steps"] / 2),
    "another key": in_about(lambda about: about["records"][0].update(renamed=0)),
    "a key less": in_about(lambda about: about["records"][0].pop("revived")),
    "a figure in words": in_about(lambda about: about["records"][0].update(total="1")),
    "a figure that is not finite": in_about(lambda about: about["records"][0].update(total=np.nan)),
    "a list of settings": in_about(lambda about: about.update(config=[])),
    "no name": in_about(lambda about: about.pop("name")),
}


@pytest.mark.parametrize("forge", FORGED.values(), ids=FORGED.keys())
def test_what_is_not_a_recording_is_refused(recording, tmp_path: Path, forge):
    path = tmp_path / "run.npz"
    recording.save(path)
    change_npz(path, forge)
    with pytest.raises(CheckpointError, match=r"run\.npz cannot be read as a recording.*recipes/"):
        Recording.load(path)


def test_objects_are_never_unpickled(tmp_path: Path):
    path = tmp_path / "run.npz"
    objects = np.array([object()], dtype=object)
    np.savez(path, about=objects, strips=objects, strip_steps=objects)
    with pytest.raises(CheckpointError):
        Recording.load(path)
