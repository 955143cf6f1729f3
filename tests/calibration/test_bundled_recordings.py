from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dpqlab.calibration import CalibrationRecord
from dpqlab.calibration.recording import (
    TEACHER,
    Recording,
    bundled_recording,
    bundled_recordings,
    recorded_on,
)
from dpqlab.errors import CheckpointError, ConfigError
from tests.archives import change_npz


def record(step: int, true_bits: float) -> CalibrationRecord:
    return CalibrationRecord(
        step=step,
        total=1.0,
        output=1.0,
        features=1.0,
        blocks=(1.0,),
        changed=0.0,
        revived=0,
        best=True,
        true_bits=true_bits,
        seconds=0.0,
        remaining=0.0,
    )


def recording(name: str, bits: float | None, steps: tuple[int, ...] = (0,)) -> Recording:
    records = () if bits is None else tuple(record(step, bits) for step in steps)
    strips = np.stack([np.full((2, 1, 4, 4), step, np.uint8) for step in steps])
    return Recording(name=name, records=records, strips=strips, strip_steps=steps, config={})


def test_recordings_are_found_by_their_files_and_sorted_by_bits(tmp_path: Path) -> None:
    recording("b", 2.0).save(tmp_path / "b.npz")
    recording("c", 1.0).save(tmp_path / "c.npz")
    recording(TEACHER, None).save(tmp_path / f"{TEACHER}.npz")
    np.savez(tmp_path / "trace-b.npz", other=np.zeros(3))
    (tmp_path / "notes.npz").write_bytes(b"no archive")
    assert [r.name for r in bundled_recordings(tmp_path)] == ["c", "b"]
    assert bundled_recording("b", tmp_path).true_bits == 2.0
    assert bundled_recording(TEACHER, tmp_path).strips.shape == (1, 2, 1, 4, 4)
    with pytest.raises(ConfigError, match=r"'x'.*expected one of b, c, teacher"):
        bundled_recording("x", tmp_path)
    with pytest.raises(ConfigError, match="expected one of"):
        bundled_recording("trace-b", tmp_path)


def test_a_damaged_recording_is_named(tmp_path: Path) -> None:
    recording("b", 2.0).save(path := tmp_path / "b.npz")
    change_npz(path, lambda arrays: arrays.update(about=np.zeros(4, np.uint8)))
    with pytest.raises(CheckpointError, match=r"b\.npz cannot be read"):
        bundled_recordings(tmp_path)


def test_the_strip_of_a_step_is_the_latest_drawn_by_then() -> None:
    run = recording("b", 2.0, steps=(0, 10, 20))
    seen = [int(run.strip_at(step)[0, 0, 0, 0]) for step in (0, 9, 10, 19, 20, 999)]
    assert seen == [0, 0, 10, 10, 20, 20]


def test_what_ships_is_complete() -> None:
    runs = bundled_recordings()
    assert {"best-1bit", "best-2bit"} <= {run.name for run in runs}
    teacher = bundled_recording(TEACHER)
    for run in runs:
        assert run.strips.shape[1:] == teacher.strips.shape[1:], "to be shown beside each other"
        assert run.strip_steps[0] == 0 and run.records[0].step == 0
        assert min(run.records, key=lambda r: r.total).total < run.records[0].total / 10


def test_the_device_is_read_from_the_model_that_came_of_the_run() -> None:
    assert "NVIDIA" in recorded_on("best-1bit")
    assert recorded_on("no-such-model") == ""
