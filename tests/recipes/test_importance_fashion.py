"""The recorded removals: of a tiny model."""

from __future__ import annotations

import pytest
import torch

from dpqlab.diffusion import models
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.studies import codeword_inputs, removal_records, removals
from dpqlab.studies.codeword_inputs import activations_of, bundled_inputs
from dpqlab.studies.removal_records import bundled_removals
from recipes import importance_fashion
from recipes.importance_fashion import KINDS, main
from tests.recipes.conftest import GEOMETRY
from tests.tiny import tiny_dit


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A tiny teacher in the place of what is bundled."""
    for module in (models, codeword_inputs, removal_records):
        monkeypatch.setattr(module, "ASSETS", tmp_path)
    teacher = tiny_dit(**GEOMETRY)
    untie_embedders_(teacher)
    PixelDiTPipeline(teacher, make_scheduler()).save_pretrained(tmp_path / "fashion-dit")
    return tmp_path


def test_the_inputs_alone(assets, capsys):
    runs = assets / "fashion-dit-runs"
    main(["--out", str(runs), "--presets"])
    assert [path.name for path in runs.iterdir()] == ["importance-inputs.npz"]
    record = bundled_inputs()
    assert record is not None
    fresh = activations_of(tiny_dit(**GEOMETRY), list(record.moments))
    assert len(record.moments) == 14
    for name, value in record.moments.items():
        torch.testing.assert_close(value, fresh.choose[name])
    assert record.about["source"] == "fashion-dit"
    assert "inputs of 14 layers" in capsys.readouterr().out


def test_the_recipe_from_end_to_end(assets, monkeypatch):
    monkeypatch.setattr(importance_fashion, "SHARES", (0.5,))
    race = removals.race_steps
    monkeypatch.setattr(importance_fashion, "race_steps", lambda study: race(study, (0.5,)))
    runs = assets / "fashion-dit-runs"
    main(["--out", str(runs)])
    records = bundled_removals("dpq-4bit")
    assert records is not None
    assert tuple(pool.kind for pool in records.pools) == KINDS
    assert all(len(pool.removals) == 6 for pool in records.pools)


def test_a_file_that_is_too_large_does_not_stay(assets, monkeypatch):
    monkeypatch.setattr(importance_fashion, "MOST_INPUT_BYTES", 10)
    with pytest.raises(RuntimeError, match="more than 10 may ship"):
        main(["--out", str(assets / "other"), "--presets"])
    assert not list((assets / "other").iterdir())
