from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from dpqlab.calibration.recording import TEACHER, bundled_recording, bundled_recordings
from recipes import record_teacher
from recipes.calibrate_presets import strip
from tests.tiny import tiny_dit


def test_the_teachers_strip_is_a_recording_without_a_course(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = tiny_dit()
    pipeline = SimpleNamespace(transformer=teacher)
    monkeypatch.setattr(record_teacher, "load_pipeline", lambda _name: pipeline)
    record_teacher.main(["--out", str(tmp_path)])
    recorded = bundled_recording(TEACHER, tmp_path)
    assert recorded.records == () and (recorded.strips[0] == strip(teacher)).all()
    assert bundled_recordings(tmp_path) == (), "nothing to replay"
