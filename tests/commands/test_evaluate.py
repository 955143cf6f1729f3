from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dpqlab.cli import main
from dpqlab.commands import drawing
from dpqlab.commands.evaluate import known_teacher
from dpqlab.evaluation.config import EvaluationConfig

SHORT = ["--images", "24", "--steps", "1"]


def test_without_a_teacher(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny), *SHORT, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["images"] == 24
    assert result["fcd"]["value"] > 0
    assert result["fidelity"] is None


def test_its_own_teacher_agrees(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny), *SHORT, "--teacher", str(tiny)]) == 0
    shown = capsys.readouterr().out
    assert "72 images" in shown, "the teacher draws at the evaluated and at other seeds"
    assert "PSNR to teacher" in shown
    assert "100.00 dB" in shown


def test_other_images_are_refused(
    save_tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny(tmp_path / "other", num_embeds_ada_norm=4)
    assert main(["evaluate", str(other), *SHORT]) == 2
    assert "4 classes" in capsys.readouterr().err


def test_ctrl_c_while_drawing(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drawing, "sample_steps", interrupted)
    assert main(["evaluate", str(tiny), *SHORT]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_the_recorded_teacher_is_for_its_own_protocol_only() -> None:
    assert known_teacher(EvaluationConfig(images=100), asked=None) is None
    assert known_teacher(EvaluationConfig.quick(), asked="another") is None


@pytest.mark.slow
def test_bundled_quick_reference_is_the_quick_protocols() -> None:
    teacher = known_teacher(EvaluationConfig.quick(), asked=None)
    assert teacher is not None
