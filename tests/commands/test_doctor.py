from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from dpqlab.cli import main
from dpqlab.commands import doctor
from dpqlab.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {backend["name"] for backend in found["backends"]} >= {"torch", "numba"}
    assert found["cpu"]["cores"] >= 1
    assert found["free_disk_bytes"] > 0
    assert "fashion-dit" in {asset["name"] for asset in found["assets"]}


def test_missing_things_are_named_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "gradio" else "1.0")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "pip install 'dpqlab[app]'" in shown
    assert "pip install 'dpqlab[lab]'" not in shown


def test_a_damaged_asset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged() -> None:
        raise CheckpointError("the file is cut off")

    monkeypatch.setattr(doctor, "bundled_feature_net", damaged)
    problems = {asset["name"]: asset["problem"] for asset in doctor.assets()}
    assert problems["feature network"] == "the file is cut off"


def test_extras_are_those_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for extra, members in doctor.EXTRAS.items():
        for name, _ in members:
            assert any(line.startswith(name) for line in extras[extra]), (extra, name)


@pytest.mark.slow
def test_this_checkout_is_complete() -> None:
    assert [asset for asset in doctor.assets() if asset["problem"]] == []
