"""The recorded pruning paths: of a tiny model, and those that ship."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dpqlab.core import CodebookCodec, PoolConfig, PruneRecord
from dpqlab.diffusion import SampleRequest, models, sample_images
from dpqlab.diffusion.models import bundled
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, kind_of
from dpqlab.nn.plan import Coding
from dpqlab.studies.pruning_runs import PruningRun
from recipes import prune_fashion
from recipes.prune_fashion import DRAWING, MOST_BYTES, main
from tests.recipes.conftest import GEOMETRY
from tests.tiny import tiny_dit

FIELDS = {name for name in PruneRecord.__dataclass_fields__ if name != "encoded"} | {"share"}
SHIPPED = Path(models.__file__).parents[1] / "assets/fashion-dit-runs"
FILES = sorted(SHIPPED.glob("pruning-*.json"))
CODING = Coding(
    codec=CodebookCodec(d=4, k=4, across="kind", iterations=2),
    pool=PoolConfig(form="ragged", refits=0),
)


def test_the_recipe_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "ASSETS", tmp_path / "assets")
    pipeline = PixelDiTPipeline(tiny_dit(**GEOMETRY), make_scheduler())
    pipeline.save_pretrained(tmp_path / "assets/fashion-dit")
    monkeypatch.setattr(prune_fashion, "preset", lambda name: Plan.for_blocks(CODING, name=name))
    request = SampleRequest(labels=(0, 1), steps=2)
    monkeypatch.setattr(prune_fashion, "REQUEST", request)
    monkeypatch.setattr(prune_fashion, "DRAWING", ("tiny",))
    # the pools of so small a model are as large as its codes
    budgets = (float("inf"), 2.0, 1.0, 1 / 2, 1e-9)
    monkeypatch.setattr(prune_fashion, "BUDGETS", budgets)
    main(["--out", str(tmp_path / "out"), "--presets", "tiny"])
    pools = json.loads((tmp_path / "out/pruning-tiny.json").read_text())
    assert len(pools) == 7
    for pool in pools:
        assert {kind_of(name) for name in pool["layers"]} == {pool["pool"]}
        assert len(pool["layers"]) == 2
        assert pool["pruning"]["form"] == "auto"
        assert {record["form"] for record in pool["records"]} == {"ragged", "indexed"}
        assert all(record.keys() == FIELDS for record in pool["records"])
        assert all(record["output_error"] is not None for record in pool["records"])
        bits = pool["records"][0]["true_bits"] * pool["weights"]
        parts = [pool["records"][0][part] for part in ("codes", "table", "pool", "scale")]
        assert bits == pytest.approx(sum(parts), rel=1e-5)
    run = PruningRun.load(tmp_path / "out/pruning-tiny.npz")
    teacher = sample_images(pipeline.transformer, make_scheduler("ddim"), request).numpy()
    # a sum may round to the other side
    assert np.abs(run.teacher.astype(int) - teacher).max() <= 1
    assert run.labels == (0, 1)
    assert [point.budget for point in run.points][:1] == [None]
    codewords = [point.codewords for point in run.points]
    assert len(set(codewords)) == len(codewords) > 2
    first = run.points[0]
    assert sum(first.parts.values()) == pytest.approx(8 * first.stored_bytes, abs=8)
    assert "7 pools" in capsys.readouterr().out


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_ships(file):
    assert file.stat().st_size <= MOST_BYTES[".json"]
    pools = json.loads(file.read_text())
    assert len(pools) == 7
    for pool in pools:
        assert len(pool["layers"]) == 8
        ragged = [record for record in pool["records"] if record["form"] == "ragged"]
        counts = [record["codewords"] for record in ragged]
        assert counts == sorted(counts, reverse=True)
        assert len(ragged) > 20
        assert ragged[0]["output_error"] < ragged[-1]["output_error"]


@pytest.mark.parametrize("name", DRAWING)
def test_runs_that_ship(name):
    """Whole models are the sums of the pools in the file beside them."""
    file = SHIPPED / f"pruning-{name}.npz"
    assert file.stat().st_size <= MOST_BYTES[".npz"]
    run = PruningRun.load(file)
    pools = json.loads(file.with_suffix(".json").read_text())
    assert run.samples.shape[1:] == (10, 1, 28, 28)
    assert 8 <= len(run.points) <= 16
    assert run.points[0].noise_error < 0.1 < run.points[-1].noise_error
    for point in run.points:
        assert [pool.kind for pool in point.pools] == [pool["pool"] for pool in pools]
        missed = 0.0
        for pool, found in zip(pools, point.pools, strict=True):
            limit = float("inf") if point.budget is None else point.budget * (1 + 1e-5)
            fitting = [r for r in pool["records"] if r["share"] <= limit]
            best = min(fitting, key=lambda record: record["weighted_error"])
            assert (best["form"], best["codewords"]) == (found.form, found.codewords)
            missed += best["weighted_error"] * pool["weighted_energy"]
        whole = sum(pool["weighted_energy"] for pool in pools)
        assert point.weighted_error == pytest.approx(missed / whole, rel=1e-4)


def test_recordings_are_no_model():
    assert "fashion-dit-runs" not in {entry.name for entry in bundled()}
