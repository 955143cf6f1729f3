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
    seconds = {row["name"]: row.pop("seconds") for row in said["layers"]}
    assert said.pop("seconds") == pytest.approx(sum(seconds.values()))
    assert all(value > 0 for value in seconds.values())
    memory = said.pop("memory")
    assert memory["peak_bytes"] == memory["libraries_bytes"] + sum(
        memory[part] for part in ("output_bytes", "working_bytes")
    )
    assert 0 < memory["output_bytes"] <= said["bytes"]
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
    assert "estimated from a short measurement" in shown
    assert "MB of memory" in shown


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


CONFIGS = {
    "{": "is not valid JSON",
    "[]": "expected an object",
    '{"_class_name": "PixArtTransformer2DModel"}': "that of a 'PixArtTransformer2DModel': expected",
    '{"num_attention_heads": "x"}': "num_attention_heads is 'x': expected int",
    '{"num_layers": 0}': "num_layers is 0: expected 1 to 256",
    '{"num_layers": 1000000000}': "expected 1 to 256",
    '{"patch_size": 64}': "patch_size is 64: expected 1 to 32",
}


@pytest.mark.parametrize("config", CONFIGS)
def test_refuses_a_config_of_something_else_in_one_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(config)
    assert main(["plan", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert CONFIGS[config] in said.err
    assert len(said.err.splitlines()) == 1
    assert not said.out


def test_reads_the_config_of_an_older_diffusers(
    save_tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = save_tiny(tmp_path / "model") / "transformer"
    config = json.loads((folder / "config.json").read_text())
    old = config | {"_class_name": "Transformer2DModel", "use_linear_projection": False}
    reports = []
    for given in (config, old):
        (folder / "config.json").write_text(json.dumps(given))
        assert main(["plan", str(folder.parent), "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out)["layers"])
    assert [r["bytes"] for r in reports[0]] == [r["bytes"] for r in reports[1]]
