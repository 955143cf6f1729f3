from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dpqlab import __version__, cli
from dpqlab.errors import BackendError

ROOT = Path(__file__).resolve().parent.parent


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    """Run ``dpqlab models`` with a command that raises ``error``."""

    def run(args: Any) -> int:
        raise error

    fake = SimpleNamespace(configure=lambda parser: None, run=run)
    monkeypatch.setattr(cli, "import_module", lambda name: fake)
    return cli.main(["models"])


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(command in shown for command in cli.COMMANDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: dpqlab {command}")
    assert "--json" in shown
    assert max(map(len, shown.splitlines())) <= 100


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"dpqlab {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nope"],
        ["models", "--nope"],
        ["compress"],
        ["compress", "no-such-model", "out"],
        ["compress", "fashion-dit", "out", "--preset", "nope"],
        ["compress", "fashion-dit", "out", "--seed", "-1"],
        ["compress", "fashion-dit", "out", "--no-pool", "--budget", "1/4"],
        ["compress", "fashion-dit", "out", "--budget", "none"],
        ["compress", "fashion-dit", "out", "--preset", "rtn-1bit", "--budget", "1/4"],
        ["compress", "fashion-dit", "out", "--across", "model"],
        ["compress", "fashion-dit", "out", "--merge", "-1"],
        ["prune", "no-such-model", "--dry-run"],
        ["prune", "fashion-dit"],
        ["prune", "fashion-dit", "out"],
        ["prune", "fashion-dit", "--dry-run", "--preset", "rtn-1bit"],
        ["prune", "fashion-dit", "--dry-run", "--budgets", "0"],
        ["calibrate", "no-such-model", "out"],
        ["calibrate", "fashion-dit", "out"],
        ["calibrate", "fashion-dit", "out", "--preset", "nope"],
        ["calibrate", "fashion-dit", "out", "--preset", "pq-1bit", "--data", "no-such-folder"],
        ["calibrate", "fashion-dit", "out", "--preset", "pq-1bit", "--data-free", "-1"],
        ["calibrate", "fashion-dit", "out", "--preset", "pq-1bit", "--steps", "0"],
        ["calibrate", "fashion-dit", "out", "--preset", "pq-1bit", "--rate", "0"],
        ["calibrate", "fashion-dit", "fashion-dit", "--data", "x", "--data-free"],
        ["calibrate", "fashion-dit", ".", "--preset", "pq-1bit"],
        ["ablate", "no such row"],
        ["ablate", "best-1bit", "--steps", "0"],
        ["ablate", "best-1bit", "--images", "1"],
        ["ablate", "best-1bit", "--data", "no-such-folder"],
        ["bench"],
        ["bench", "nope"],
        ["bench", "sampler", "--presets", "nope"],
        ["bench", "sampler", "--model", "no-such-model"],
        ["bench", "sampler", "--model", "fashion-dit-best-1bit"],
        ["bench", "sampler", "--images", "0"],
        ["bench", "kernels", "--images", "1"],
        ["bench", "kmeans", "--presets", "best-1bit"],
        ["bench", "kmeans", "--json", "no-such-folder/rows.json"],
        ["inspect", "no-such-model"],
        ["sample", "no-such-model"],
        ["sample", "fashion-dit", "--steps", "0"],
        ["sample", "fashion-dit", "--steps", "many"],
        ["sample", "fashion-dit", "--count", "0"],
        ["sample", "fashion-dit", "--out", "sheet.jpg"],
        ["sample", "fashion-dit", "--device", "abacus"],
        ["evaluate", "no-such-model", "--quick"],
        ["evaluate", "fashion-dit", "--images", "1"],
        ["demo", "--steps", "0"],
        ["demo", "--out", "pyproject.toml"],
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert cli.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("dpqlab")
    assert not (ROOT / "out").joinpath("model_index.json").exists()


def test_an_error_of_the_package_is_reported_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(monkeypatch, BackendError("first\n  second")) == 2
    assert capsys.readouterr().err == "dpqlab models: first second\n"


def test_a_full_disk_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_raising(monkeypatch, OSError(28, "No space left on device", "sheet.png")) == 2
    assert capsys.readouterr().err == "dpqlab models: sheet.png: No space left on device\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_raising(monkeypatch, KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "dpqlab models: stopped\n"


def test_a_missing_package_names_its_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = ModuleNotFoundError("No module named 'rich.table'", name="rich.table")
    assert run_raising(monkeypatch, missing) == 2
    assert "pip install -e '.[cli]'" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        run_raising(monkeypatch, ZeroDivisionError())
    with pytest.raises(ModuleNotFoundError):
        run_raising(monkeypatch, ModuleNotFoundError(name="surprise"))


def test_extras_are_those_of_the_project() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    for module, extra in cli.EXTRAS.items():
        if module not in ("PIL", "dpqlab_app"):  # one comes with diffusers, one is our own
            assert any(line.startswith(module) for line in extras[extra])


def test_help_imports_no_heavy_library() -> None:
    code = (
        "import sys; from dpqlab.cli import main; main(['--help']);"
        "print([m for m in ('torch', 'diffusers', 'rich', 'plotly', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_pipe_may_close_early() -> None:
    module = "import sys; from dpqlab.cli import main; sys.exit(main(['doctor', '--json']))"
    done = subprocess.run(
        [
            "bash",
            "-c",
            f'set -o pipefail; {sys.executable} -c "{module}" | true; exit ${{PIPESTATUS[0]}}',
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr


def test_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dpqlab", "models", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "models" in json.loads(done.stdout)
    assert done.stderr == ""
