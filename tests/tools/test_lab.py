from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tools import lab


def test_nothing_of_jupyter_lands_in_the_home_folder(tmp_path: Path) -> None:
    found = lab.environment(tmp_path, {"HOME": "elsewhere", "PYTHONPATH": "mine"})
    folders = [value for name, value in found.items() if name.startswith(("JUPYTER", "IPYTHON"))]
    assert len(folders) == 6 and all(Path(value).is_relative_to(tmp_path) for value in folders)
    assert found["HF_HUB_OFFLINE"] == found["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert found["PYTHONPATH"].split(os.pathsep) == [str(lab.ROOT), "mine"]
    assert found["HOME"] == "elsewhere", "everything else stays"


def test_news_and_updates_are_off_by_default(tmp_path: Path) -> None:
    path = lab.write_settings(tmp_path)
    assert path.relative_to(tmp_path).as_posix() == (
        "config/labconfig/default_setting_overrides.json"
    )
    settings = json.loads(path.read_text())["@jupyterlab/apputils-extension:notification"]
    assert settings["fetchNews"] == "false" and settings["checkForUpdates"] is False


def test_it_serves_this_machine_alone_and_opens_the_tour() -> None:
    command = lab.command(browser=False)
    assert "--ServerApp.ip=127.0.0.1" in command and "--no-browser" in command
    assert f"--LabApp.default_url=/lab/tree/{lab.TOUR}" in command
    assert "--no-browser" not in lab.command()


def test_it_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda _name: object())
    assert lab.main(["--notebook", "notebooks/none.ipynb"]) == 1
    assert "does not exist" in capsys.readouterr().out
    monkeypatch.setattr(lab.importlib.util, "find_spec", lambda _name: None)
    assert lab.main([]) == 1
    assert "make setup" in capsys.readouterr().out


@pytest.mark.slow
def test_the_server_answers_with_these_settings(tmp_path: Path) -> None:
    pytest.importorskip("jupyterlab", reason="the extra 'lab' is not installed")
    lab.write_settings(tmp_path)
    port = 18_000 + os.getpid() % 2000
    run = [*lab.command(port=port, browser=False), "--IdentityProvider.token=t"]
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(
            run, env=lab.environment(tmp_path), stdout=log, stderr=subprocess.STDOUT
        )
    plugin = "@jupyterlab/apputils-extension:notification"
    address = f"http://127.0.0.1:{port}/lab/api/settings/{plugin}?token=t"
    try:
        settings = _answer(address, server)
    finally:
        server.terminate()
        server.wait(20)
    defaults = settings["schema"]["properties"]
    assert defaults["fetchNews"]["default"] == "false"
    assert (tmp_path / "runtime").is_dir()


def _answer(address: str, server: subprocess.Popen[bytes]) -> dict:
    until = time.monotonic() + 120
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.loads(answer.read())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.5)
    raise AssertionError(f"{sys.executable} -m jupyterlab does not answer")
