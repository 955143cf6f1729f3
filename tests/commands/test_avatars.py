"""The commands with a second bundled model: colour images of 64x64 in fifteen classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpqlab.checkpoint import read_config
from dpqlab.cli import main
from dpqlab.commands.evaluate import sampler_of
from dpqlab.commands.expected import CALIBRATED, sources
from dpqlab.commands.terminal import Terminal
from dpqlab.demo import DemoConfig, run_demo
from dpqlab.diffusion import models
from dpqlab.diffusion.classes import AVATARS
from dpqlab.evaluation import bundled
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.evaluator import draw_teacher_steps, last_of
from dpqlab.tracing import Trace
from tests.avatars import MODEL, use_assets, write_data, write_model

pytestmark = pytest.mark.usefixtures("one_thread", "assets")

SHORT = ["--images", "30", "--steps", "1"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Assets of a tiny model by the name of the real one."""
    return write_model(tmp_path_factory.mktemp("assets"))


@pytest.fixture
def assets(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those in the place of what ships."""
    use_assets(monkeypatch, made)
    return made


@pytest.fixture(scope="module")
def student(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of that model, compressed; read only."""
    folder = tmp_path_factory.mktemp("student") / "student"
    with pytest.MonkeyPatch.context() as patch:
        use_assets(patch, made)
        assert main(["compress", MODEL, str(folder), "--preset", "pq-2bit"]) == 0
    return folder


def test_it_is_listed_and_expected(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    assert [m["name"] for m in json.loads(capsys.readouterr().out)["models"]] == [MODEL]
    assert sources() == ("fashion-dit", MODEL)
    assert main(["doctor", "--json"]) == 0
    found = {a["name"]: a["problem"] for a in json.loads(capsys.readouterr().out)["assets"]}
    assert found["feature network of avatars-dit"] is None
    assert found["avatars-dit-best-1bit"] == "not bundled in this installation"
    assert CALIBRATED[0].startswith("fashion-dit")


def test_compress_inspect_and_sample(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert read_config(student).quantization.provenance["source"] == MODEL
    assert main(["inspect", str(student), "--source", MODEL, "--layers"]) == 0
    sheet = tmp_path / "sheet.png"
    arguments = ["sample", MODEL, str(student), "--classes", "pixel art,Rings,0-1", "--steps", "2"]
    assert main([*arguments, "--out", str(sheet), "--count", "3", "--zoom", "1"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Pixel art, Rings, Adventurer, Big ears from left to right" in shown
    picture = Image.open(sheet)
    assert picture.mode == "RGB"
    assert picture.size == (4 * 66 - 2, 2 * 3 * 66 - 2)
    assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100, "not grey"
    assert main(["sample", MODEL, "--classes", "Bag", "--out", str(sheet)]) == 2
    assert AVATARS.names[0] in capsys.readouterr().err


def test_evaluate_chooses_what_judges(student: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(student), *SHORT, "--teacher", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["teacher"] == MODEL
    assert result["feature_net"] == bundled.bundled_feature_net(MODEL).sha256
    assert 0 < result["fidelity"]["psnr"] < 100


def test_a_teacher_of_other_images_is_refused(
    student: Path, tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(student), *SHORT, "--teacher", str(tiny)]) == 2
    assert "expected a teacher of the same images" in capsys.readouterr().err


def test_a_quick_evaluation_says_that_the_teacher_is_not_on_record(
    student: Path, assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dpqlab.evaluation.config.QUICK_IMAGES", 20)
    monkeypatch.setattr("dpqlab.evaluation.config.QUICK_STEPS", 1)
    assert main(["evaluate", str(student), "--quick", "--json"]) == 0
    said = capsys.readouterr()
    assert "what avatars-dit draws is not on record; --teacher draws it" in " ".join(
        said.err.split()
    )
    assert json.loads(said.out)["fidelity"] is None


def test_a_quick_evaluation_uses_its_own_recorded_teacher(
    student: Path, assets: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dpqlab.evaluation.config.QUICK_IMAGES", 30)
    monkeypatch.setattr("dpqlab.evaluation.config.QUICK_STEPS", 1)
    net = bundled.bundled_feature_net(MODEL)
    pipeline: Any = models.load_pipeline(MODEL)
    with Terminal(as_json=True).progress("", 2) as meter:
        steps = draw_teacher_steps(
            sampler_of(pipeline, meter, ""), net, EvaluationConfig.quick(resamples=5)
        )
        samples = last_of(steps)
    file = assets / MODEL / "quick_reference.npz"
    samples.save(file)
    assert samples.images is not None
    assert samples.images.shape == (30, 3, 64, 64)
    try:
        assert main(["evaluate", str(student), "--quick", "--json"]) == 0
    finally:
        file.unlink()
    result = json.loads(capsys.readouterr().out)
    assert result["teacher"] == "recorded"
    assert result["fidelity"]["psnr"] < 100


def test_trace(student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "trace.npz"
    arguments = ["trace", MODEL, str(student), "--out", str(out), "--steps", "3"]
    assert main([*arguments, "--classes", "Thumbs,14", "--count", "3"]) == 0
    trace = Trace.load(out)
    assert set(trace.about.labels) == {11, 14}
    assert trace.pictures.shape[-3:] == (3, 64, 64)


@pytest.mark.parametrize("batch", [1, 7])
def test_calibrate_without_data(
    student: Path, tmp_path: Path, batch: int, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "calibrated"
    settings = ["--steps", "2", "--every", "1", "--batch", str(batch), "--data-free", "2"]
    assert main(["calibrate", str(student), str(out), *settings, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stopped"] is False


def test_calibrate_with_its_own_data(
    student: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    settings = ["--steps", "2", "--every", "1", "--batch", "5", "--data", str(data)]
    assert main(["calibrate", str(student), str(tmp_path / "out"), *settings, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "60 images of avatars"
    assert main(["calibrate", str(student), str(tmp_path / "no"), "--data", str(tmp_path)]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "train-images-idx3-ubyte.gz (Fashion-MNIST)" in said
    assert "train-images-idx4-ubyte.gz (avatars)" in said


def test_the_data_of_another_model_are_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_data(tmp_path / "data")
    arguments = [str(tiny), str(tmp_path / "out"), "--preset", "pq-2bit", "--data", str(data)]
    assert main(["calibrate", *arguments]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "the teacher draws 10 classes of 1x28x28 images, avatars has 15 of 3x64x64" in said


def test_prune(tmp_path: Path) -> None:
    out = tmp_path / "pruned"
    codec = ["--d", "2", "--k", "16", "--scope", "layer", "--across", "kind"]
    assert main(["prune", MODEL, str(out), *codec, "--budget", "1/32", "--measure", "usage"]) == 0
    assert read_config(out).quantization.provenance["source"] == MODEL


def test_demo(tmp_path: Path) -> None:
    config = DemoConfig.of(MODEL, tmp_path / "demo", presets=("vq-2bit",), steps=1)
    assert config.calibrated == (), "students that are not there are not asked for"
    report = run_demo(config, Terminal())
    assert report.classes == AVATARS.names
    assert report.rows[0].images.shape == (15, 3, 64, 64)
    assert report.ablation is None
    page = (tmp_path / "demo" / "report.html").read_text("utf-8")
    assert "dpqlab demo --model avatars-dit" in page
