from __future__ import annotations

import json
import shutil
import tomllib
from hashlib import sha256
from pathlib import Path

import pytest

from dpqlab.cli import main
from dpqlab.commands import doctor
from dpqlab.commands.checksums import SUMS, check_sums
from dpqlab.errors import CheckpointError

ROOT = Path(__file__).resolve().parents[2]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {backend["name"] for backend in found["backends"]} >= {"torch", "numba"}
    assert found["wanted"] is None
    last = found["rules"][-1]
    assert (last["backend"], last["method"], last["applies"]) == ("torch", "decode", True)
    assert found["cpu"]["cores"] >= 1
    assert found["free_disk_bytes"] > 0
    assert "fashion-dit" in {asset["name"] for asset in found["assets"]}


def test_the_rules_are_shown_with_what_the_machine_lacks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DPQLAB_BACKEND", "torch")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "by the first that fits" in shown
    assert "numba table" in shown
    assert "DPQLAB_BACKEND=torch" in shown


def test_missing_things_are_named_and_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "plotly" else "1.0")
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "pip install -e '.[cli]'" in shown
    assert "pip install -e '.[fast]'" not in shown


def test_a_damaged_asset_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(_model: str) -> None:
        raise CheckpointError("the file is cut off")

    monkeypatch.setattr(doctor, "bundled_feature_net", damaged)
    problems = {asset["name"]: asset["problem"] for asset in doctor.assets()}
    assert problems["feature network"] == "the file is cut off"


def test_the_teacher_is_hashed_and_damage_named(tiny: Path, tmp_path: Path) -> None:
    model = tmp_path / "teacher"
    shutil.copytree(tiny, model)
    assert doctor._check_model(model) == "present, not verified"
    files = sorted(p for p in model.rglob("*") if p.is_file())
    (model / SUMS).write_text(
        "".join(f"{sha256(p.read_bytes()).hexdigest()}  {p.relative_to(model)}\n" for p in files)
    )
    assert doctor._check_model(model) == f"intact: {len(files)} files match their SHA-256"
    weights = next(path for path in files if path.suffix == ".safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match=rf"{weights.name} does not match"):
        check_sums(model)
    weights.unlink()
    with pytest.raises(CheckpointError, match=rf"{weights.name} is missing"):
        check_sums(model)


def test_a_file_that_no_list_names_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / SUMS).write_text(f"{sha256(b'a').hexdigest()}  a.txt\n")
    (tmp_path / ".hidden").touch()
    assert check_sums(tmp_path) == 1
    (tmp_path / "b.py").touch()
    with pytest.raises(CheckpointError, match=r"b\.py is not listed"):
        check_sums(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no file"),
        ("0" * 63 + "  a\n", "line 1"),
        ("0" * 64 + "  ../a\n", "path in the folder"),
        ("0" * 64 + "  /a\n", "path in the folder"),
        (("0" * 64 + "  a\n") * 2, "line 2: a is listed twice"),
    ],
)
def test_malformed_lists_are_refused(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / SUMS).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        check_sums(tmp_path)


def test_extras_are_those_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for extra, members in doctor.EXTRAS.items():
        for name, _ in members:
            assert any(line.startswith(name) for line in extras[extra]), (extra, name)


@pytest.mark.slow
def test_this_checkout_is_complete() -> None:
    assert [asset for asset in doctor.assets() if asset["problem"]] == []
