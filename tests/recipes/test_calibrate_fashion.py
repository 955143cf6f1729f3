"""Making the calibrated presets, of a tiny teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.load import read_config
from dpqlab.diffusion import models
from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import compress_, preset
from dpqlab.nn.linear import CompressedLinear
from recipes.calibrate_fashion import PRESETS, main
from tests.recipes.conftest import GEOMETRY
from tests.tiny import tiny_dit


@pytest.fixture(autouse=True)
def tiny_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model by the name of the bundled one."""
    monkeypatch.setattr(models, "ASSETS", tmp_path / "assets")
    model = tiny_dit(**GEOMETRY)
    pipeline = PixelDiTPipeline(model, make_scheduler())
    pipeline.save_pretrained(tmp_path / "assets/fashion-dit")


def test_the_presets_that_ship():
    shipped = {f"fashion-dit-{name}" for name in PRESETS}
    assets = Path(models.__file__).parents[1] / "assets"
    assert shipped <= {path.parent.name for path in assets.glob("fashion-dit-*/model_index.json")}


def test_the_recipe_from_end_to_end(data_folder, tmp_path, capsys):
    out = tmp_path / "out"
    settings = ["--data", str(data_folder), "--out", str(out), "--presets", "pq-1bit", "vq-2bit"]
    settings += ["--steps", "4", "--every", "2", "--holdout", "16", "--batch", "8", "--rate", ".02"]
    main([*settings, "--images", "60"])
    for name in ("pq-1bit", "vq-2bit"):
        folder = out / f"fashion-dit-{name}"
        log = (out / f"fashion-dit-{name}.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in log]
        assert [record["step"] for record in records] == [0, 2, 4]
        assert records[-1]["best"]

        provenance = read_config(folder).quantization.provenance
        assert provenance["preset"] == name
        assert provenance["calibration_steps"] == 4
        assert provenance["calibration_images"] == 60
        card = (folder / "README.md").read_text()
        before, after = records[0]["output"], records[-1]["output"]
        assert f"held-out error of the predicted noise | {before:.5f} to {after:.5f}" in card
        assert "4 steps of 8, 60 images, rate 0.02" in card

        # the codes are those of compress_ alone, the codebooks are not
        plain = load_pipeline("fashion-dit").transformer
        compress_(plain, preset(name))
        student = load_compressed(folder)
        moved = 0
        for layer_name, layer in plain.named_modules():
            if isinstance(layer, CompressedLinear):
                ours = student.get_submodule(layer_name)
                assert isinstance(ours, CompressedLinear)
                assert torch.equal(ours.weight, layer.weight)
                moved += not torch.equal(ours.pool, layer.pool)
        assert moved == 14
    assert "pq-1bit  step      4" in capsys.readouterr().out
