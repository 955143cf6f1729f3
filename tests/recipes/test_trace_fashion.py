"""The recorded traces: of a tiny model."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest

from dpqlab.checkpoint import save_compressed
from dpqlab.core import CodebookCodec
from dpqlab.diffusion import models
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, compress_
from dpqlab.nn.embedder import untie_embedders_
from dpqlab.tracing import load_trace
from recipes import trace_fashion
from recipes.trace_fashion import bundled_presets, main
from tests.recipes.conftest import GEOMETRY
from tests.tiny import tiny_dit


@pytest.fixture
def assets(tmp_path, monkeypatch):
    """A tiny teacher with two students, in the place of what is bundled."""
    monkeypatch.setattr(models, "ASSETS", tmp_path)
    teacher = tiny_dit(**GEOMETRY)
    scheduler: Any = make_scheduler()
    for name in ("best-1bit", "vq-1bit"):
        student = copy.deepcopy(teacher)
        compress_(student, Plan.for_blocks(CodebookCodec(d=4, k=4, iterations=1)))
        config = json.loads(scheduler.to_json_string())
        folder = tmp_path / f"fashion-dit-{name}"
        save_compressed(student, folder, scheduler_config=config, provenance={}, card="# Tiny\n")
    untie_embedders_(teacher)
    PixelDiTPipeline(teacher, scheduler).save_pretrained(tmp_path / "fashion-dit")
    return tmp_path


def test_the_recipe_from_end_to_end(assets, monkeypatch, capsys):
    assert bundled_presets("fashion-dit") == ["vq-1bit", "best-1bit"]
    runs = assets / "fashion-dit-runs"
    main(["--out", str(runs), "--steps", "2", "--images", "12"])
    assert {path.name for path in runs.iterdir()} == {"trace-vq-1bit.npz", "trace-best-1bit.npz"}
    found = load_trace("vq-1bit")
    assert found.about.labels == (*range(10), 0, 1)
    assert found.error("accumulated").shape == (2, 2)
    assert found.pictures.shape[:3] == (2, 2, 8)
    said = capsys.readouterr().out
    assert "trace-best-1bit.npz" in said
    main(["--out", str(runs), "--steps", "1", "--images", "1", "--students", "best-1bit"])
    assert load_trace("best-1bit").steps == 1
    assert load_trace("vq-1bit").steps == 2
    monkeypatch.setitem(trace_fashion.MOST_BYTES, "fashion-dit", 10)
    with pytest.raises(RuntimeError, match="more than 10"):
        main(["--out", str(assets / "other"), "--steps", "1", "--images", "1"])
    assert not list((assets / "other").iterdir())
