"""The recorded pruning paths: of a tiny model, and those that ship."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dpqlab.core import CodebookCodec, PoolConfig, PruneRecord
from dpqlab.diffusion import models
from dpqlab.diffusion.models import bundled
from dpqlab.diffusion.pipeline import PixelDiTPipeline
from dpqlab.diffusion.schedules import make_scheduler
from dpqlab.nn import Plan, kind_of
from dpqlab.nn.plan import Coding
from recipes import prune_fashion
from recipes.prune_fashion import MOST_BYTES, PRESETS, main
from tests.recipes.conftest import GEOMETRY
from tests.tiny import tiny_dit

FIELDS = {name for name in PruneRecord.__dataclass_fields__ if name != "encoded"} | {"share"}
SHIPPED = Path(models.__file__).parents[1] / "assets/fashion-dit-runs"
CODING = Coding(
    codec=CodebookCodec(d=4, k=4, across="kind", iterations=2),
    pool=PoolConfig(form="ragged", refits=0),
)


def test_the_recipe_from_end_to_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(models, "ASSETS", tmp_path / "assets")
    pipeline = PixelDiTPipeline(tiny_dit(**GEOMETRY), make_scheduler())
    pipeline.save_pretrained(tmp_path / "assets/fashion-dit")
    monkeypatch.setattr(prune_fashion, "preset", lambda name: Plan.for_blocks(CODING, name=name))
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
    assert "7 pools" in capsys.readouterr().out


@pytest.mark.parametrize("name", PRESETS)
def test_what_ships(name):
    file = SHIPPED / f"pruning-{name}.json"
    assert file.stat().st_size <= MOST_BYTES
    pools = json.loads(file.read_text())
    assert len(pools) == 7
    for pool in pools:
        assert len(pool["layers"]) == 8
        ragged = [record for record in pool["records"] if record["form"] == "ragged"]
        counts = [record["codewords"] for record in ragged]
        assert counts == sorted(counts, reverse=True)
        assert len(ragged) > 20
        assert ragged[0]["output_error"] < ragged[-1]["output_error"]


def test_recordings_are_no_model():
    assert "fashion-dit-runs" not in {entry.name for entry in bundled()}
