from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dpqlab.cli import main
from dpqlab_app.serving import server
from dpqlab_app.serving.config import ServerConfig
from dpqlab_app.serving.server import Started

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[ServerConfig]:
    """What would have been served; the server says that it has started, and ends."""
    configs: list[ServerConfig] = []

    def serve(config: ServerConfig, started: object) -> None:
        configs.append(config)
        assert callable(started)
        started(Started(url="http://127.0.0.1:7860"))

    monkeypatch.setattr(server, "serve", serve)
    return configs


def test_it_serves_this_machine_unless_told_otherwise(
    served: list[ServerConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app"]) == 0
    assert served == [ServerConfig()]
    assert not served[0].is_open and served[0].browser
    assert "http://127.0.0.1:7860" in capsys.readouterr().out


def test_arguments_reach_the_server(served: list[ServerConfig], tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("long enough\n")
    password.chmod(0o600)
    options = ["--host", "0.0.0.0", "--port", "8000", "--name", "lab.example", "--no-browser"]
    options += ["--device", "cpu", "--password-file", str(password)]
    assert main(["app", "mine", "yours", *options]) == 0
    (config,) = served
    assert config == ServerConfig(
        folders=(Path("mine"), Path("yours")),
        host="0.0.0.0",
        port=8000,
        names=("lab.example",),
        password="long enough",
        device="cpu",
        browser=False,
    )


def test_json_is_one_value(served: list[ServerConfig], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["app", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"url": "http://127.0.0.1:7860", "open": False}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--host", "0.0.0.0"], "--password-file"),
        (["--name", "lab.example"], "--password-file"),
        (["--port", "99999"], "0 to 65535"),
        (["--port", "http"], "invalid int"),
        (["--password-file", "no-such-file"], "No such file"),
        (["--device", "tpu-9"], "cannot be used"),
        (["--share"], "--share"),
    ],
)
def test_bad_arguments_are_one_line(
    served: list[ServerConfig],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    assert main(["app", *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("dpqlab app: ") and says in said and said.count("\n") == 1
    assert served == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="ends by a signal")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_answers_and_tidies_up(tmp_path: Path, sign: signal.Signals) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO")}
    env |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "apps")]), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "dpqlab", "app", "--port", "0", "--no-browser", "--json"]
    with subprocess.Popen(
        command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        lines = [process.stdout.readline() for _ in range(4)]
        url = json.loads("".join(lines))["url"]
        assert urllib.request.urlopen(url, timeout=30).status == 200
        assert list(tmp_path.glob("dpqlab-app-*"))
        process.send_signal(sign)
        said = process.stderr.read()
    assert process.returncode == 0 and "Traceback" not in said, said
    assert not list(tmp_path.glob("dpqlab-app-*"))
