"""Making the calibrated presets, of a tiny teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import recipes.calibrate_presets as recipe
from benchmarks.record import read
from dpqlab.calibration import calibration_for
from dpqlab.calibration.recording import Recording
from dpqlab.checkpoint import load_compressed
from dpqlab.checkpoint.load import read_config
from dpqlab.commands.expected import PRESETS
from dpqlab.diffusion import models
from dpqlab.diffusion.models import load_pipeline
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import compress_, preset, presets
from dpqlab.nn.linear import CompressedLinear
from recipes.calibrate_presets import main
from tests.avatars import write_data, write_model
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
    assets = Path(models.__file__).parents[1] / "assets"
    for source, names in PRESETS.items():
        there = {path.parent.name for path in assets.glob(f"{source}-*/model_index.json")}
        assert there == {f"{source}-{name}" for name in names}
        assert {*names} <= presets().keys(), "and they can be made again"


def test_the_recipe_from_end_to_end(data_folder, tmp_path, capsys):
    out = tmp_path / "out"
    settings = ["--data", str(data_folder), "--out", str(out), "--presets", "pq-1bit", "best-2bit"]
    settings += ["--steps", "4", "--every", "2", "--holdout", "16", "--batch", "8"]
    main([*settings, "--images", "60"])
    for name in ("pq-1bit", "best-2bit"):
        folder = out / f"fashion-dit-{name}"
        recording = Recording.load(out / "runs" / f"{name}.npz")
        records = recording.records
        assert [record.step for record in records] == [0, 2, 4]
        assert recording.strip_steps == (0, 2, 4)
        assert recording.strips.shape == (3, 10, 1, 28, 28)
        assert not (out / f"{name}.progress").exists()

        provenance = read_config(folder).quantization.provenance
        assert provenance["preset"] == name
        assert provenance["calibration_steps"] == 4
        assert provenance["calibration_images"] == 60
        card = (folder / "README.md").read_text()
        best = min(records, key=lambda record: record.total)
        before, after = records[0].output, best.output
        assert f"held-out error of the model's output | {before:.5f} to {after:.5f}" in card
        rate = calibration_for(name).learning_rate
        assert f"4 steps of 8, 60 images, rate {rate:g}" in card
        measured = [r for r in read("calibration", out) if r["row"] == name]
        assert [r["step"] for r in measured[0]["details"]["course"]] == [0, 2, 4]

        plain = load_pipeline("fashion-dit").transformer
        compress_(plain, preset(name))
        student = load_compressed(folder)
        moved = 0
        for layer_name, layer in plain.named_modules():
            if isinstance(layer, CompressedLinear):
                ours = student.get_submodule(layer_name)
                assert isinstance(ours, CompressedLinear)
                if name == "pq-1bit":  # its codes are those of compress_ alone
                    assert torch.equal(ours.weight, layer.weight)
                moved += not torch.equal(ours.pool, layer.pool)
        assert moved == 14
    assert "pq-1bit  step      4" in capsys.readouterr().out


def test_an_interrupted_recipe_goes_on(data_folder, tmp_path, monkeypatch):
    settings = ["--data", str(data_folder), "--presets", "best-2bit", "--steps", "6", "--every"]
    settings += ["2", "--holdout", "16", "--batch", "8", "--images", "60"]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    main([*settings, "--out", str(whole)])
    drawn = recipe.strip

    def stop(student: Any) -> Any:
        if (parts / "best-2bit.progress").exists() and len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(1)
        return drawn(student)

    calls: list[int] = []
    monkeypatch.setattr(recipe, "strip", stop)
    with pytest.raises(KeyboardInterrupt):
        main([*settings, "--out", str(parts)])
    monkeypatch.setattr(recipe, "strip", drawn)
    main([*settings, "--out", str(parts)])
    one, other = (f / "fashion-dit-best-2bit/transformer" for f in (whole, parts))
    for path in one.glob("*.safetensors"):
        assert path.read_bytes() == (other / path.name).read_bytes()


def test_the_recipe_for_a_second_model(tmp_path):
    write_model(tmp_path / "assets")
    data, out = write_data(tmp_path / "data"), tmp_path / "out"
    settings = ["--model", "avatars-dit", "--data", str(data), "--out", str(out)]
    settings += ["--presets", "pq-1bit", "--steps", "2", "--every", "1", "--holdout", "16"]
    main([*settings, "--batch", "7"])
    recording = Recording.load(out / "runs" / "pq-1bit.npz")
    assert recording.strips.shape == (3, 15, 3, 64, 64)
    assert len(read("calibration-avatars", out)) == 1
    assert not read("calibration", out), "that is the other model's"
    folder = out / "avatars-dit-pq-1bit"
    card = (folder / "README.md").read_text()
    assert "# avatars-dit-pq-1bit" in card
    assert "DiceBear" in card and "Fashion" not in card
    assert "range(15)" in card
    assert read_config(folder).quantization.provenance["source"] == "avatars-dit"
    assert load_pipeline(folder).scheduler.config.prediction_type == "v_prediction"
