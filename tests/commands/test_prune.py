from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.checkpoint import load_compressed, read_config
from dpqlab.cli import main
from dpqlab.commands.prune import fraction
from dpqlab.nn.linear import CompressedLinear
from dpqlab.nn.surgery import ledger_of_model

SMALL = ["--d", "2", "--k", "16", "--scope", "layer", "--across", "kind"]


def prune(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    """Run ``dpqlab prune --json`` and return what it says."""
    assert main(["prune", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_what_is_written_is_what_the_table_says(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "nested" / "pruned"
    said = prune(capsys, tiny, out, *SMALL, "--budget", "1/32", "--budgets", "1/2", "1/32")
    whole, *_, chosen = said["budgets"]
    assert whole["budget"] is None
    assert [row["budget"] for row in said["budgets"][1:]] == pytest.approx([1 / 2, 1 / 32])
    assert chosen["codewords"] < whole["codewords"]
    assert chosen["true_bits"] < whole["true_bits"]
    assert chosen["weighted_error"] > whole["weighted_error"]
    assert chosen["share"] <= 1 / 32
    stored = load_compressed(out)
    ledger = ledger_of_model(stored)
    assert ledger.true_bits_per_weight == pytest.approx(chosen["true_bits"])
    assert said["written"]["true_bits_per_weight"] == pytest.approx(chosen["true_bits"])
    assert said["written"]["codewords_kept"] == chosen["codewords"]
    pools = {id(m.pool): len(m.pool) for m in stored.modules() if isinstance(m, CompressedLinear)}
    assert sum(pools.values()) == chosen["codewords"]
    assert read_config(out).quantization.provenance["budget"] == 1 / 32


@pytest.mark.parametrize("form", ["ragged", "indexed", "auto"])
def test_every_form_can_be_written_and_keeps_its_budget(
    form: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = ["--d", "2", "--k", "8", "--scope", "group", "--group", "16", "--across", "kind"]
    arguments = [*codec, "--pool", form, "--budget", "1/4", "--budgets", "1/4"]
    said = prune(capsys, tiny, tmp_path / form, *arguments)
    assert said["pool"]["form"] == form
    forms = {record["form"] for pool in said["pools"] for record in pool["records"]}
    assert forms == ({"ragged", "indexed"} if form == "auto" else {form})
    ledger = ledger_of_model(load_compressed(tmp_path / form))
    assert sum(p.pool + p.table for p in ledger.layers) <= sum(p.codes for p in ledger.layers) / 4
    chosen = said["budgets"][-1]
    assert ledger.true_bits_per_weight == pytest.approx(chosen["true_bits"])


def test_a_dry_run_shows_and_writes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.iterdir())
    assert main(["prune", str(tiny), "--dry-run", *SMALL, "--budgets", "1/2", "1e-6"]) == 0
    shown = capsys.readouterr().out
    assert "1/2" in shown
    assert "a pool cannot fit" in shown
    assert sorted(tmp_path.iterdir()) == before


def test_paths_are_whole_and_may_measure_the_output(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = prune(capsys, tiny, "--dry-run", *SMALL, "--output-error", "--measure", "removal")
    assert said["written"] is None
    assert said["pool"]["measure"] == "removal"
    layers = [name for pool in said["pools"] for name in pool["layers"]]
    assert len(layers) == len(set(layers))
    for pool in said["pools"]:
        counts = [record["codewords"] for record in pool["records"]]
        assert counts == sorted(counts, reverse=True)
        assert all(record["output_error"] >= 0 for record in pool["records"])
        assert all("encoded" not in record for record in pool["records"])


def test_a_budget_that_cannot_be_met_writes_nothing(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["prune", str(tiny), str(out), *SMALL, "--budget", "1e-6"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "--budget 1e-06 cannot be met" in error
    assert not out.exists()


def test_nothing_is_replaced_without_being_asked(
    tiny: Path, tiny_pq: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prune", str(tiny), str(tiny_pq), "--budget", "1/4"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["prune", str(tiny_pq), str(tmp_path / "out"), "--budget", "1/4"]) == 2
    assert "compressed already" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        prune(capsys, tiny, tmp_path / name, *SMALL, "--budget", "1/4")
    first, second = (load_compressed(tmp_path / name).state_dict() for name in ("a", "b"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_shares_are_written_as_people_say_them() -> None:
    assert [fraction(x) for x in (1.0, 1 / 3, 0.4)] == ["1", "1/3", "0.4"]
