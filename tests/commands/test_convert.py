"""From the original's file to a compressed folder, by commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dpqlab.cli import main
from tests.checkpoint.original_dit import random_state

SHAPE = {"width": 64, "heads": 4, "depth": 2, "side": 8, "patch": 2, "channels": 4, "classes": 5}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "DiT-tiny.pt"
    torch.save(random_state(**SHAPE), path)
    return path


def test_from_a_pt_to_a_compressed_folder(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, small = tmp_path / "dit", tmp_path / "small"
    words = [
        "convert",
        str(source),
        str(out),
        "--heads",
        "4",
        "--licence",
        "cc-by-nc-4.0",
        "--json",
    ]
    assert main(words) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["layers"], said["width"], said["classes"]) == (2, 64, 5)
    card = (out / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in card
    assert "DiT-tiny.pt" in card
    assert "downscale_freq_shift" in card
    assert main(["compress", str(out), str(small), "--preset", "vq-2bit", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["licence"] == "cc-by-nc-4.0", "the card of the source is read"


def test_words_for_people(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(source), str(tmp_path / "dit"), "--heads", "4"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "2 blocks of width 64" in said
    assert "names no licence" in said
    assert "next: dpqlab plan" in said


def test_what_is_there_stays(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "dit"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    assert main(["convert", str(source), str(out), "--heads", "4"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main(["convert", str(source), str(out), "--overwrite"]) == 2, "no heads"
    assert (out / "mine.txt").read_text() == "mine"
