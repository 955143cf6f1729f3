from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.cli import main
from dpqlab.commands.overrides import measures_inputs, overridden
from dpqlab.core import CodebookCodec, PoolConfig
from dpqlab.diffusion.models import weight_bytes
from dpqlab.errors import ConfigError
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import ledger_of_model


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
    with pytest.raises(ConfigError, match="start from a vq, pq, dpq or best preset"):
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


SMALL = ["--d", "2", "--k", "16", "--scope", "layer", "--across", "kind", "--no-row-scale"]


def test_a_budget_is_kept_and_the_codewords_are_counted(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pruned"
    arguments = [*SMALL, "--budget", "1/32", "--pool", "ragged", "--merge", "0"]
    assert main(["compress", str(tiny), str(out), *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    ledger = ledger_of_model(load_compressed(out))
    codes, pools = (sum(getattr(p, n) for p in ledger.layers) for n in ("codes", "pool"))
    assert pools <= codes / 32
    assert said["codewords_kept"] == pools / 32, "16 bits for each of two values"
    assert said["codewords_kept"] < said["codewords_made"] == 16 * 7
    assert said["weighted_error"] is None
    assert main(["compress", str(tiny), str(out), *SMALL, "--overwrite"]) == 0
    assert "112 codewords, all that k-means made" in capsys.readouterr().out


def test_importance_by_inputs_measures_them(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*SMALL, "--budget", "1/8", "--measure", "removal"]
    assert main(["compress", str(tiny), str(tmp_path / "out"), *arguments, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert 0 < said["weighted_error"] < 1


def test_a_budget_that_cannot_be_met_writes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compress", str(tiny), str(out), *SMALL, "--budget", "1e-6"]) == 2
    assert "cannot be met" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


def test_options_of_the_pool_change_the_presets_own() -> None:
    mine = _pools("dpq-1bit", budget=0.5, measure="weighted")
    assert mine == {PoolConfig(budget=0.5, measure="weighted", form="ragged")}
    assert _pools("vq-1bit", pool="indexed") == {PoolConfig(form="indexed")}
    assert _pools("dpq-1bit", no_pool=True) == {None}
    assert _pools("dpq-1bit", across="layer") == {preset("dpq-1bit").rules[1].pool}
    plan = overridden(preset("vq-1bit"), _arguments(measure="removal"))
    assert measures_inputs(plan)
    assert not measures_inputs(preset("dpq-1bit"))


def test_no_pool_and_a_pool_are_refused() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        overridden(preset("dpq-1bit"), _arguments(no_pool=True, budget=0.5))
    with pytest.raises(ConfigError, match="no codebooks"):
        overridden(preset("rtn-1bit"), _arguments(no_pool=True))


def _pools(name: str, **given: object) -> set[PoolConfig | None]:
    plan = overridden(preset(name), _arguments(**given))
    return {rule.pool for rule in plan.rules if rule.codec is not None}


def _arguments(**given: object) -> argparse.Namespace:
    names = ("d", "k", "scope", "group", "across", "row_scale")
    return argparse.Namespace(**dict.fromkeys(names) | given)
