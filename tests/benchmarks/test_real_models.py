"""Models of full size: what is measured, and that they come out as small as promised."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import real_models
from benchmarks.random_dit import XL_2, write_random_dit
from benchmarks.record import read
from dpqlab.checkpoint import verify
from dpqlab.checkpoint.dense import open_dense
from dpqlab.commands.plan import skeleton
from dpqlab.nn.accounting import ledger_of_model

SMALL = {"attention_head_dim": 16, "num_attention_heads": 2, "num_embeds_ada_norm": 10}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model of two small blocks."""
    return write_random_dit(tmp_path_factory.mktemp("random") / "dit", layers=2, **SMALL)


def test_a_random_model_is_one_that_diffusers_loads(source: Path) -> None:
    from diffusers import DiTTransformer2DModel

    loader: Any = DiTTransformer2DModel.from_pretrained
    model, info = loader(source / "transformer", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    skeleton_of_it: Any = open_dense(source).skeleton()
    blocks = skeleton_of_it.transformer_blocks
    assert blocks[0].norm1.emb is blocks[1].norm1.emb, "copies are equal"
    assert float(model.proj_out_1.weight.detach().std()) == pytest.approx(0.02, rel=0.1)


def test_the_geometry_is_that_of_dit_xl_2(tmp_path: Path) -> None:
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(XL_2), "utf-8")
    assert ledger_of_model(skeleton(tmp_path)).parameters == 674_834_720


def test_rows_are_measured_and_described(source: Path, tmp_path: Path) -> None:
    fields = real_models.measured("best-1bit", source, tmp_path / "out", "cpu")
    assert [entry["metric"] for entry in fields] == [
        "smaller than fp32",
        "seconds",
        "peak resident",
    ]
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    ledger = ledger_of_model(skeleton(source))
    assert fields[0]["value"] == pytest.approx(4 * ledger.parameters / size, rel=1e-6)
    assert 50 < fields[2]["value"] < 5000
    record = real_models.described(fields[1], "tiny", "cpu")
    assert record["details"]["processor_seconds"] > 0
    assert record["goal"] == 900


def test_a_failed_run_is_no_row(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="ended with 2"):
        real_models.run([], tmp_path, tmp_path / "out", "cpu")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_dit_xl_2_is_24_times_smaller_than_float32(tmp_path: Path) -> None:
    source = write_random_dit(tmp_path / "xl")
    ratio, _, resident = real_models.measured("best-1bit", source, tmp_path / "out", "cpu")
    verify(tmp_path / "out")
    assert ratio["details"]["fp32_bytes_of_unique_parameters"] == 4 * 674_834_720
    assert ratio["value"] >= 24
    assert resident["value"] < 2500


@pytest.mark.parametrize("row", ["best-1bit", "best-2bit"])
def test_what_is_on_record_keeps_the_promise(row: str) -> None:
    known = {(r["row"], r["metric"]): r for r in read(real_models.SUITE)}
    ratio, resident = known[row, "smaller than fp32"], known[row, "peak resident"]
    assert ratio["value"] >= ratio["goal"]
    assert resident["value"] < resident["goal"]
