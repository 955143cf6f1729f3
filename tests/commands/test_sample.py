from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dpqlab.cli import main
from dpqlab.commands.drawing import batches, draw
from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.sampling import SampleRequest, sample_images
from dpqlab.errors import BackendError
from dpqlab.kernels.devices import device_of


def test_sheet_of_several_models(
    tiny: Path, tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "sheet.png"
    models = [str(tiny), str(tiny_pq), str(tiny)]
    options = ["--classes", "bag,0-2", "--steps", "2", "--zoom", "1", "--out", str(out), "--json"]
    assert main(["sample", *models, *options]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == ["Bag", "T-shirt/top", "Trouser", "Pullover"]
    with Image.open(out) as picture:
        assert picture.size == (4 * 30 - 2, 3 * 30 - 2)
        pixels = np.asarray(picture)
    assert np.array_equal(pixels[:28], pixels[60:88]), "the same model draws the same images"
    assert not np.array_equal(pixels[:28], pixels[30:58])


def test_dpm_and_count(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sheet.png"
    options = [
        "--classes",
        "3",
        "--count",
        "2",
        "--steps",
        "2",
        "--scheduler",
        "dpm",
        "--zoom",
        "1",
    ]
    assert main(["sample", str(tiny), *options, "--out", str(out)]) == 0
    assert "Dress" in capsys.readouterr().out
    with Image.open(out) as picture:
        assert picture.size == (28, 58)


def test_the_papers_sampler(save_tiny: Any, tmp_path: Path) -> None:
    model, out = save_tiny(tmp_path / "sigma", out_channels=2), tmp_path / "sheet.png"
    pictures = []
    for sampler in ("ddpm", "ddim"):
        options = ["--classes", "3", "--steps", "2", "--sampler", sampler, "--zoom", "1"]
        assert main(["sample", str(model), *options, "--out", str(out)]) == 0
        with Image.open(out) as picture:
            pictures.append(np.asarray(picture))
    assert not np.array_equal(*pictures)


def test_models_of_other_images_do_not_mix(
    tiny: Path, save_tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny(tmp_path / "other", sample_size=16)
    assert main(["sample", str(tiny), str(other), "--out", str(tmp_path / "x.png")]) == 2
    assert "only models of the same images" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


def test_batches_do_not_change_images(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_pipeline(tiny)
    request = SampleRequest(labels=(1, 2, 3, 4, 5), steps=2, first_index=7)
    whole = sample_images(pipeline.transformer, pipeline.scheduler, request)
    monkeypatch.setattr("dpqlab.commands.drawing.BATCH", 2)
    parts = draw(pipeline, request)
    assert (whole.int() - parts.int()).abs().max() <= 1, "rounding may differ by one level"
    assert batches(101, 50) == 3


def test_devices() -> None:
    assert device_of("cpu") == torch.device("cpu")
    assert device_of("auto").type in ("cpu", "cuda")
    with pytest.raises(BackendError, match="abacus"):
        device_of("abacus")
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="cuda"):
            device_of("cuda")
