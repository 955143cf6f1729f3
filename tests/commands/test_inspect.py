from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dpqlab.cli import main
from dpqlab.commands.inspect import by_kind, inspect, notes
from dpqlab.commands.measure import find_source, origin_of
from dpqlab.diffusion.models import bundled, weight_bytes


def test_json_has_all_that_is_promised(tiny_pq: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tiny_pq), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["bytes_on_disk"] == weight_bytes(tiny_pq)
    assert report["ratio_fp32"] == pytest.approx(report["fp32_bytes"] / report["bytes_on_disk"])
    assert report["ratio_bf16"] == pytest.approx(report["ratio_fp32"] / 2)
    assert len(report["layers"]) == 14
    weights = 0
    bits = 0
    for layer in report["layers"]:
        assert layer["scope"] == "position"
        assert layer["across"] == "layer"
        assert layer["d"] == 6
        assert layer["k"] == 16
        assert layer["codec"].startswith("PQ")
        assert 0 < layer["relative_error"] < 1
        assert layer["bits"]["total"] == sum(v for k, v in layer["bits"].items() if k != "total")
        weights += layer["shape"][0] * layer["shape"][1]
        bits += layer["bits"]["total"]
    assert report["compressed_weights"] == weights
    assert report["true_bits_per_weight"] == pytest.approx(bits / weights)


def test_recorded_errors_are_those_against_the_source(tiny: Path, tiny_pq: Path) -> None:
    recorded = inspect(str(tiny_pq))
    measured = inspect(str(tiny_pq), source=str(tiny))
    assert recorded["weight_errors_against"] == "recorded when it was compressed"
    assert measured["weight_errors_against"] == str(tiny)
    for old, new in zip(recorded["layers"], measured["layers"], strict=True):
        assert old["relative_error"] == pytest.approx(new["relative_error"], rel=1e-3)


def test_another_source_is_refused(
    tiny_pq: Path, save_tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = save_tiny(tmp_path / "narrow", attention_head_dim=8)
    assert main(["inspect", str(tiny_pq), "--source", str(other)]) == 2
    assert "no layer" in capsys.readouterr().err


def test_full_precision_has_no_compressed_layers(tiny: Path) -> None:
    report = inspect(str(tiny))
    assert report["layers"] == []
    assert report["compressed_weights"] == 0
    assert report["true_bits_per_weight"] > 32
    assert report["weight_errors_against"] is None


def test_kinds_add_up(tiny_pq: Path) -> None:
    layers = inspect(str(tiny_pq))["layers"]
    kinds = by_kind(layers)
    assert [kind["count"] for kind in kinds] == [2] * 7
    total = sum(kind["bits"]["total"] for kind in kinds)
    assert total == sum(layer["bits"]["total"] for layer in layers)


def test_what_is_easily_misread_is_said() -> None:
    layer = {"relative_error": 1.1, "across": "layer"}
    assert notes({"layers": [layer], "provenance": {}}) == []
    (calibrated,) = notes({"layers": [layer], "provenance": {"calibration_steps": 10}})
    assert "no longer tell" in calibrated
    (shared,) = notes({"layers": [layer | {"across": "kind"}], "provenance": {}})
    assert "counted in the first" in shared
    assert notes({"layers": [], "provenance": {"calibration_steps": 10}}) == []


@pytest.mark.parametrize("flags", [[], ["--layers"]])
def test_a_person_can_read_it(
    flags: list[str],
    tiny_pq: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # whatever the folder is called
    assert main(["inspect", str(tiny_pq), *flags]) == 0
    shown = capsys.readouterr().out
    assert "true bits per weight" in shown
    assert ("transformer_blocks.1.ff.net.0.proj" in shown) == bool(flags)


def test_damage_is_found(tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_pq, broken)
    (weights,) = (broken / "transformer").glob("*.safetensors")
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert main(["inspect", str(broken)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bundled_source_is_found_by_name_and_hash() -> None:
    (teacher,) = [entry for entry in bundled() if entry.name == "fashion-dit"]
    origin = origin_of("some/folder/fashion-dit", teacher.path)
    assert find_source(origin) == "fashion-dit"
    assert find_source({"source": "fashion-dit"}) == "fashion-dit"
    assert find_source(origin | {"source_sha256": "0" * 64}) is None
    assert find_source({}) is None
