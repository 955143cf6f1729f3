from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dpqlab.calibration.ablation import ablation_row, ablation_rows
from dpqlab.cli import main
from dpqlab.commands import ablation_bench
from dpqlab.commands.ablate import cost_note
from dpqlab.evaluation.config import EvaluationConfig

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = ["--steps", "2", "--batch", "4", "--images", "24", "--sampling-steps", "1"]
DRAWN = ["--data-free", "1", "--device", "cpu"]


def test_without_names_all_rows_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in said] == list(ablation_rows())
    assert main(["ablate"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ablation_rows())
    assert "compared with" in shown


def test_rows_are_compressed_calibrated_and_judged(
    tiny: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["dpq k-means", "best distil", "dpq k-means"]
    assert main(["ablate", *names, "--source", str(tiny), *SHORT, *DRAWN, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    plain, trained = said["rows"]
    assert (plain["row"], trained["row"]) == ("dpq k-means", "best distil")
    assert (plain["records"], plain["loss"]) == ([], None)
    assert [record["step"] for record in trained["records"]] == [0, 1, 2]
    assert trained["config"]["batch"] == 4
    assert trained["evaluation"]["config"]["images"] == 24
    assert trained["evaluation"]["fcd"]["value"] > 0
    assert "is not the recorded teacher" in said["teacher"]


def test_rows_that_are_done_are_shown_when_the_next_is_stopped(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ablation_bench, "run_calibration", stopped)
    monkeypatch.setenv("COLUMNS", "200")  # whatever the folder is called
    rows = ["dpq k-means", "best distil"]
    assert main(["ablate", *rows, "--source", str(tiny), *SHORT, *DRAWN]) == 130
    captured = capsys.readouterr()
    assert "256 codewords a position" in captured.out
    assert captured.err.splitlines()[-1] == "dpqlab ablate: stopped"


def test_a_loss_that_needs_images_is_refused_first(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation_bench.Bench, "run", None)
    assert main(["ablate", "vq paper", "--source", str(tiny), *SHORT, *DRAWN]) == 2
    assert "give --data" in capsys.readouterr().err.splitlines()[-1]


def test_sources_that_cannot_be(
    tiny_pq: Path, save_tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ablate", "dpq k-means", "--source", str(tiny_pq)]) == 2
    assert "is compressed" in capsys.readouterr().err
    other = save_tiny(tmp_path / "other", num_embeds_ada_norm=4)
    assert main(["ablate", "dpq k-means", "--source", str(other)]) == 2
    assert "4 classes" in capsys.readouterr().err


def test_what_it_costs_is_said() -> None:
    row, config = ablation_row("dpq latent"), EvaluationConfig.quick()
    on_cpu = cost_note([row], config, torch.device("cpu"))
    assert on_cpu.startswith("1 row, 2,500 steps of calibration, 2,000 images each")
    assert "hours on two cores" in on_cpu
    assert "hours" not in cost_note([row], config, torch.device("cuda"))
