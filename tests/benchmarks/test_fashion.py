"""The main table's measurement, of the second model: tiny here."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import fashion, judges
from benchmarks.record import read, suite_of
from dpqlab.evaluation.teacher import TeacherSamples
from dpqlab.nn import compress_, preset
from tests.avatars import MODEL, use_assets, write_data, write_model
from tests.tiny import tiny_dit

pytestmark = pytest.mark.usefixtures("one_thread")


@dataclass(frozen=True, kw_only=True)
class NarrowJudge(judges.TwoSampleConfig):
    """A judge that learns in a second."""

    width: int = 2


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model by the name of the real one."""
    root = write_model(tmp_path / "assets")
    use_assets(monkeypatch, root)
    return root


def test_suites_are_named_after_models() -> None:
    assert suite_of("fashion-dit") == "fashion"
    assert suite_of("fashion-dit", "ablation") == "ablation"
    assert suite_of(MODEL, "ablation") == "ablation-avatars"


def test_a_second_model_has_a_suite_of_its_own(
    assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, quick = tmp_path / "results", tmp_path / "quick.npz"
    monkeypatch.setattr("dpqlab.evaluation.config.QUICK_IMAGES", 20)
    monkeypatch.setattr("dpqlab.evaluation.config.QUICK_STEPS", 1)
    arguments = ["--model", MODEL, "--images", "33", "--steps", "1", "--batch", "10"]
    arguments += ["--rows", "teacher", "pq-2bit", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", ["fashion", *arguments, "--quick-reference", str(quick)])
    fashion.main()
    teacher, student = read("avatars", results)
    assert not read("fashion", results)
    assert (teacher["row"], student["row"]) == ("teacher", "pq-2bit")
    assert teacher["goal"] is None, "what was aimed at is the other model's"
    assert teacher["details"]["psnr"] > student["details"]["psnr"] > 0
    samples = TeacherSamples.load(quick)
    assert samples.images is not None
    assert samples.images.shape == (20, 3, 64, 64)


@pytest.mark.usefixtures("assets")
def test_judges_of_a_second_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, data = tmp_path / "results", write_data(tmp_path / "data")
    arguments = ["--model", MODEL, "--rows", "pq-2bit", "--no-controls", "--images", "150"]
    arguments += ["--steps", "1", "--seeds", "1", "--epochs", "1", "--data", str(data)]
    # what is wired is tested here; how well a judge of full width judges, in tests/evaluation
    monkeypatch.setattr(judges, "TwoSampleConfig", NarrowJudge)
    monkeypatch.setattr(sys, "argv", ["judges", *arguments, "--results", str(results)])
    judges.main()
    (record,) = read("judges-avatars", results)
    assert record["metric"] == "two_sample_accuracy"
    assert record["details"]["held_out"] == 60
    monkeypatch.setattr(sys, "argv", ["judges", "--model", MODEL, "--images", "200"])
    with pytest.raises(SystemExit):
        judges.main()


def test_a_canvas_draws_as_the_compressed_model_does() -> None:
    student, canvas = tiny_dit(), tiny_dit()
    compress_(student, preset("pq-2bit"))
    sides = [student.config[name] for name in ("in_channels", "sample_size", "sample_size")]
    inputs = {"timestep": torch.tensor([1, 500, 999]), "class_labels": torch.tensor([0, 1, 2])}

    def drawn(model: Any) -> torch.Tensor:
        noise = torch.randn(3, *sides, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            return model(noise, **inputs).sample

    wanted = drawn(student)
    assert not torch.allclose(drawn(canvas), wanted, atol=1e-3)
    fashion.fill_(canvas, student)
    torch.testing.assert_close(drawn(canvas), wanted)


def test_bf16_wants_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(sys, "argv", ["fashion", "--bf16"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        fashion.main()
    assert "--bf16 wants a GPU" in capsys.readouterr().err
