from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import wheelhouse
from tools.wheelhouse import Target, collect, downloads, install_command, readme

HERE = Target(torch="2.13.0")


def fake_wheel(folder: Path, name: str = "roomy", version: str = "1.0") -> Path:
    """A package of one module, made by hand."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "ANSWER = 42\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    listing = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in (files | {f"{info}/RECORD": listing}).items():
            archive.writestr(path, text)
    return wheel


def test_packages_are_pinned_by_hash_and_nothing_is_built(tmp_path: Path) -> None:
    pinned, torch, own = downloads(HERE, tmp_path)
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(pinned)
    assert pinned[-1] == str(wheelhouse.LOCK)
    assert "--no-deps" in torch and "--only-binary" in torch
    assert "--no-build-isolation" in own, "building must not fetch a build backend"


@pytest.mark.parametrize(
    ("target", "requirement"),
    [
        (Target(torch="2.13.0", platform="win_amd64"), "torch==2.13.0+cpu"),
        (Target(torch="2.13.0", platform="macosx_12_0_arm64"), "torch==2.13.0"),
        (Target(torch="2.13.0", build="default"), "torch==2.13.0"),
    ],
)
def test_the_build_of_torch_is_the_one_asked_for(target: Target, requirement: str) -> None:
    assert target.torch_requirement == requirement
    assert requirement in install_command(target)


def test_another_room_may_have_another_python(tmp_path: Path) -> None:
    room = Target(torch="2.13.0", python="3.12", platform="win_amd64")
    for command in downloads(room, tmp_path)[:2]:
        at = command.index("--python-version")
        assert command[at : at + 4] == ["--python-version", "3.12", "--platform", "win_amd64"]
    text = readme(room, tmp_path)
    assert "Python 3.12 (win_amd64)" in text and "--no-index" in text


def test_it_collects_wheels_notebooks_and_instructions(tmp_path: Path) -> None:
    source, out = fake_wheel(tmp_path / "index").parent, tmp_path / "house"
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-index", "--no-deps"]
    download += ["--find-links", str(source), "--dest", str(out / "wheels"), "roomy"]
    assert collect(out, HERE, [download]) == 0
    assert [path.name for path in (out / "wheels").iterdir()] == ["roomy-1.0-py3-none-any.whl"]
    assert (out / "tools" / "lab.py").is_file() and (out / "notebooks").is_dir()
    assert "1 wheels" in (out / "README.md").read_text()


def test_what_was_collected_installs_without_an_index(tmp_path: Path) -> None:
    fake_wheel(tmp_path / "wheels")
    command = install_command(HERE).split(" ")
    command = [sys.executable, *command[1 : command.index("wheels") + 1], "roomy"]
    finished = subprocess.run(
        [*command, "--target", "site", "--quiet"], cwd=tmp_path, check=False, capture_output=True
    )
    assert finished.returncode == 0, finished.stderr.decode()
    assert (tmp_path / "site" / "roomy.py").is_file()


def test_a_failed_download_stops_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failing = [sys.executable, "-c", "raise SystemExit(3)"]
    assert collect(tmp_path, HERE, [failing]) == 3
    assert not (tmp_path / "README.md").exists()
    assert "pip failed" in capsys.readouterr().err
