from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.cli import main
from dpqlab.commands.compress import overridden
from dpqlab.core import CodebookCodec
from dpqlab.diffusion.models import weight_bytes
from dpqlab.errors import ConfigError
from dpqlab.nn.plan import preset


def test_writes_a_folder_that_loads_and_says_what_it_is(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nested" / "pq"
    assert (
        main(["compress", str(tiny), str(out), "--preset", "pq-2bit", "--seed", "3", "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["path"] == str(out)
    assert said["bytes_on_disk"] == weight_bytes(out)
    assert said["true_bits_per_weight"] > 1
    kept = {group["reason"]: (group["count"], group["names"]) for group in said["kept"]}
    assert kept.pop("outside the transformer blocks") == (2, ["proj_out_1", "proj_out_2"])
    ((reason, (count, _)),) = kept.items()
    assert "embedder" in reason
    assert count == 2
    stored = read_config(out).quantization
    assert stored.provenance["seed"] == 3
    assert stored.provenance["source"] == "tiny"
    assert str(tmp_path) not in json.dumps(stored.to_dict())
    assert str(tiny.parent) not in (out / "README.md").read_text("utf-8")
    load_compressed(out)


def test_the_same_seed_gives_the_same_weights(tiny: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        assert main(["compress", str(tiny), str(folder), "--preset", "vq-1bit"]) == 0
    first, second = (load_compressed(folder).state_dict() for folder in folders)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_overrides_change_the_codec(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    changes = ["--d", "4", "--k", "8", "--scope", "group", "--group", "2", "--no-row-scale"]
    assert main(["compress", str(tiny), str(out), *changes]) == 0
    assert "kept 2 Linears" in capsys.readouterr().out
    codecs = {entry.codec for entry in read_config(out).quantization.layers.values()}
    assert codecs == {CodebookCodec(d=4, k=8, scope="group", group=2, row_scale=False)}


def test_another_scope_drops_the_group() -> None:
    grouped = overridden(preset("pq-1bit"), _arguments(scope="group", group=4))
    back = overridden(grouped, _arguments(scope="layer"))
    assert {r.codec.scope for r in back.rules if isinstance(r.codec, CodebookCodec)} == {"layer"}


def test_rounding_has_no_codebook_to_change() -> None:
    with pytest.raises(ConfigError, match="start from a vq or pq preset"):
        overridden(preset("rtn-1bit"), _arguments(k=4))


def test_nothing_is_replaced_without_being_asked(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "there"
    assert main(["compress", str(tiny), str(out)]) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert main(["compress", str(tiny), str(out)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert before == {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert main(["compress", str(tiny), str(out), "--overwrite", "--preset", "vq-2bit"]) == 0
    assert read_config(out).quantization.provenance["preset"] == "vq-2bit"


def test_a_compressed_model_is_no_source(
    tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(tiny_pq), str(tmp_path / "twice")]) == 2
    assert "compressed already" in capsys.readouterr().err


def _arguments(**given: object) -> argparse.Namespace:
    names = ("d", "k", "scope", "group", "row_scale")
    return argparse.Namespace(**dict.fromkeys(names) | given)
