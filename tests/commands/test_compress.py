from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.cli import main
from dpqlab.commands import inputs
from dpqlab.commands.licences import licence_in
from dpqlab.commands.overrides import measures_inputs, overridden
from dpqlab.core import CodebookCodec, PoolConfig
from dpqlab.diffusion.models import weight_bytes
from dpqlab.errors import ConfigError
from dpqlab.nn.presets import preset
from dpqlab.nn.surgery import ledger_of_model
from tests.commands.journals import stop_after


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


def _files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def _killed(source: Path, out: Path, layers: int, *arguments: str) -> None:
    """Run the command in a process that dies without warning once it has written some layers."""
    script = (
        "import os, signal, sys\n"
        "from dpqlab.checkpoint.journal import Journal\n"
        "from dpqlab.cli import main\n"
        "write, left = Journal.write, [int(sys.argv[1])]\n"
        "def dying(self, *given):\n"
        "    write(self, *given)\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "Journal.write = dying\n"
        "main(['compress', *sys.argv[2:]])\n"
    )
    command = [sys.executable, "-c", script, str(layers), str(source), str(out), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def _stopped(source: Path, out: Path, layers: int, *arguments: str) -> None:
    """Run the command here, until it has written some layers."""
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, layers)
        assert main(["compress", str(source), str(out), *arguments]) == 130


def test_a_killed_run_is_resumed_to_the_same_bytes(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preset_of = ["--preset", "vq-1bit"]
    (tmp_path / "whole").mkdir()
    assert main(["compress", str(tiny), str(tmp_path / "whole" / "m"), *preset_of]) == 0
    out = tmp_path / "m"
    _killed(tiny, out, 5, *preset_of)
    assert not out.exists()
    assert main(["compress", str(tiny), str(out), *preset_of]) == 2
    error = capsys.readouterr().err
    assert "--resume" in error
    assert "--overwrite" in error
    assert main(["compress", str(tiny), str(out), "--resume", "--preset", "vq-2bit"]) == 2
    assert "differs in plan" in capsys.readouterr().err
    assert main(["compress", str(tiny), str(out), *preset_of, "--resume"]) == 0
    assert "5 of 14 layers were in" in capsys.readouterr().out
    assert _files(out) == _files(tmp_path / "whole" / "m")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("m")] == ["m"]


def test_a_stopped_run_is_dropped_with_overwrite(tiny: Path, tmp_path: Path) -> None:
    _stopped(tiny, tmp_path / "m", 5)
    assert main(["compress", str(tiny), str(tmp_path / "m"), "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_inputs_are_measured_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [*SMALL, "--k", "4", "--budget", "1/8", "--measure", "removal"]
    (tmp_path / "whole").mkdir()
    assert main(["compress", str(tiny), str(tmp_path / "whole" / "m"), *changes]) == 0
    _stopped(tiny, tmp_path / "m", 14 + 3, *changes)  # inputs of 14 layers, then 3 of them
    monkeypatch.setattr(inputs, "input_steps", None)
    assert main(["compress", str(tiny), str(tmp_path / "m"), *changes, "--resume"]) == 0
    assert _files(tmp_path / "m") == _files(tmp_path / "whole" / "m")


def test_the_card_names_the_licence_that_it_knows(
    save_tiny: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_tiny(tmp_path / "source")
    out = tmp_path / "out"
    compress = ["compress", str(source), str(out), "--overwrite"]
    assert main(compress) == 0
    assert "names no licence" in capsys.readouterr().out
    card = (out / "README.md").read_text("utf-8")
    assert "license:" not in card
    assert "is not stated here" in card
    assert "licence" not in read_config(out).quantization.provenance
    (source / "README.md").write_text("---\nlicense: mit\n---\nText\n", "utf-8")
    assert main(compress) == 0
    assert "names no licence" not in capsys.readouterr().out
    assert "\nlicense: mit\n" in (out / "README.md").read_text("utf-8")
    assert main([*compress, "--licence", 'My own: ask "me"']) == 0
    card = (out / "README.md").read_text("utf-8")
    assert '\nlicense: other\nlicense_name: "My own: ask \\"me\\""\n' in card
    assert read_config(out).quantization.provenance["licence"] == 'My own: ask "me"'
    for empty in ("", "two\nlines", "x" * 300):
        assert main([*compress, "--licence", empty]) == 2


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"),
        ("---\r\ntags: [a]\r\nlicense: 'mit' # comment\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: flux-dev\n---\n", "flux-dev"),
        ("---\nlicense: other\n---\n", "other"),
        ("---\nlicense:\n---\n", None),
        ("---\ntags: [a]\n---\nlicense: mit\n", None),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("", None),
    ],
)
def test_a_licence_is_read_from_the_head_of_a_card(card: str, licence: str | None) -> None:
    assert licence_in(card) == licence


def test_the_card_lists_what_is_stored(tiny_pq: Path) -> None:
    card = (tiny_pq / "README.md").read_text("utf-8")
    ledger = ledger_of_model(load_compressed(tiny_pq))
    assert f"| codes | {sum(part.codes for part in ledger.layers) / 8e6:.2f} |" in card
    assert f"| kept as it was, rounded | {sum(t.bits for t in ledger.kept) / 8e6:.2f} |" in card
    assert "PQ d=6 k=16" in card


def test_a_transformer_alone_is_a_source(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert main(["compress", str(tiny), str(tmp_path / "a" / "m")]) == 0
    assert main(["compress", str(tiny / "transformer"), str(tmp_path / "m")]) == 0
    whole, alone = _files(tmp_path / "a" / "m"), _files(tmp_path / "m")
    shard = "transformer/diffusion_pytorch_model.safetensors"
    assert whole[shard] == alone[shard]
    assert read_config(tmp_path / "m").scheduler["_class_name"] == "DDIMScheduler"
    load_compressed(tmp_path / "m")


def test_a_compressed_transformer_is_no_source(
    tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny_pq / "transformer"
    assert main(["compress", str(source), str(tmp_path / "out")]) == 2
    assert "compressed already" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_refused(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compress", str(tiny), str(tmp_path / "out"), "--device", "nonsense"]) == 2
    assert "cannot be used" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
