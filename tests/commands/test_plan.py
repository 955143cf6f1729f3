from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dpqlab.checkpoint import load_compressed
from dpqlab.cli import main
from dpqlab.commands.plan import report_of
from dpqlab.nn.surgery import ledger_of_model

CHANGES = {
    "pq-1bit": [],
    "pq-2bit": [],
    "vq-1bit": ["--k", "200"],
    "best-1bit": [],
    "dpq-1bit": ["--no-pool"],
    "pq-2bit, uneven": ["--d", "2", "--k", "64", "--scope", "group", "--group", "5"],
}


@pytest.mark.parametrize("case", CHANGES)
def test_says_beforehand_what_compress_stores(
    case: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(tiny), "--preset", case.partition(",")[0], *CHANGES[case]]
    assert main(["plan", *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    out = tmp_path / "out"
    assert main(["compress", arguments[0], str(out), *arguments[1:]]) == 0
    found = report_of(ledger_of_model(load_compressed(out)))
    assert said == found | {"preset": said["preset"]}


def test_a_budget_is_the_most_that_a_pool_takes(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = ["--d", "2", "--k", "16", "--scope", "layer", "--across", "kind", "--budget", "1/16"]
    assert main(["plan", str(tiny), *codec, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert main(["compress", str(tiny), str(tmp_path / "out"), *codec]) == 0
    found = report_of(ledger_of_model(load_compressed(tmp_path / "out")))
    assert found["bytes"] <= said["bytes"]
    assert sum(layer["pool_bytes"] for layer in said["layers"]) > 0


def test_reads_no_weights(
    save_tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny(tmp_path / "model")
    for weights in (folder / "transformer").glob("*.safetensors"):
        weights.unlink()
    assert main(["plan", str(folder), "--preset", "vq-1bit"]) == 0
    shown = capsys.readouterr().out
    assert "true bits per weight" in shown
    assert "smaller than fp32" in shown


def test_refuses_what_is_no_full_precision_model(
    tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny_pq)]) == 2
    assert "compressed already" in capsys.readouterr().err
    assert main(["plan", str(tmp_path)]) == 2


def test_refuses_a_codec_that_compress_refuses(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(tiny), "--preset", "rtn-2bit"]) == 2
    assert "has 32 inputs, fewer than the 384 values" in capsys.readouterr().err
