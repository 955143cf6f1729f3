from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpqlab.cli import main
from dpqlab.commands import drawing
from dpqlab.commands.evaluate import why_no_teacher
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.evaluation.bundled import quick_reference
from dpqlab.evaluation.config import EvaluationConfig

SHORT = ["--images", "24", "--steps", "1"]


def test_without_a_teacher(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny), *SHORT, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["config"]["images"] == 24
    assert result["fcd"]["value"] > 0
    assert result["fidelity"] is None
    assert "images is 24" in result["teacher"]


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
    assert why_no_teacher(EvaluationConfig.quick()) == ""
    assert why_no_teacher(EvaluationConfig.quick(seed=1)) == (
        "not compared: seed is 1, the recorded teacher's 0; --teacher draws it"
    )
    assert why_no_teacher(EvaluationConfig(guidance=2.0)).count("the recorded teacher's") == 3


def test_why_there_is_no_teacher_is_said(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tiny), "--quick", *SHORT, "--guidance", "2"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "guidance is 2, the recorded teacher's 1.5; --teacher draws it" in shown
    assert "add --quick" not in shown


def test_every_model_is_drawn_with_ddim(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "dpm"
    shutil.copytree(tiny, other)
    scheduler: Any = make_scheduler("dpm")
    scheduler.save_pretrained(other / "scheduler")
    found = []
    for model in (tiny, other):
        assert main(["evaluate", str(model), *SHORT, "--steps", "3", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["scheduler"] == found[1]["scheduler"] == "ddim"
    assert found[0]["fcd"] == found[1]["fcd"]


@pytest.mark.slow
def test_bundled_quick_reference_is_the_quick_protocols() -> None:
    assert quick_reference().protocol == EvaluationConfig.quick().protocol()
