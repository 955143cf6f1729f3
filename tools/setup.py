"""Make dpqlab's own environment, .venv, and install into it what today's parts need.

``python tools/setup.py`` needs nothing but Python 3.11 to 3.13 and pip; ``make`` calls the same
script. Everything except torch comes from requirements.lock, checked by hash. torch comes in the
build that pip picks for this platform, or with ``--torch cpu`` in the far smaller one without CUDA.
A stamp inside the environment makes the next call return at once while nothing has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
STAMP = "dpqlab-setup.json"
OLDEST, NEWEST = (3, 11), (3, 13)
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> int:
    """Parse the command line, set up, and say what happened."""
    parser = argparse.ArgumentParser(description="Set up dpqlab's environment.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv)")
    parser.add_argument(
        "--torch",
        choices=("default", "cpu"),
        help="build of torch: pip's default for this platform, or without CUDA",
    )
    arguments = parser.parse_args()
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return _start_again_with_fitting_python()
    try:
        return set_up(arguments.venv.absolute(), arguments.torch)
    except SetupError as error:
        print(f"\nSet-up stopped: {error}", file=sys.stderr)
        return 1


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


def set_up(venv: Path, torch_build: str | None) -> int:
    """Bring `venv` to the state that the repository's files describe."""
    pyproject = _read_pyproject()
    wanted = {"fingerprint": fingerprint(pyproject), "torch": torch_build}
    stamp = venv / STAMP
    if is_current(stamp, wanted, environment_python(venv)):
        os.utime(stamp)  # so that make, which goes by file times, agrees
        return 0

    started = time.monotonic()
    version = pyproject["tool"]["dpqlab"]["torch"]
    print(f"Setting up dpqlab in {_shown(venv)} (Python {sys.version.split()[0]}).", flush=True)
    stamp.unlink(missing_ok=True)
    make_environment(venv)
    python = environment_python(venv)
    print("[2/4] Installing the pinned packages (about 300 MB on the first run)", flush=True)
    locked = ["--require-hashes", "--no-deps", "--only-binary", ":all:", "-r", str(LOCK)]
    pip_install(python, locked)
    what = "the build without CUDA" if torch_build == "cpu" else "pip's build for this platform"
    print(f"[3/4] Installing PyTorch {version}, {what} (0.2 to 3 GB)", flush=True)
    pip_install(python, torch_arguments(version, torch_build))
    print("[4/4] Installing dpqlab itself, editable", flush=True)
    pip_install(python, ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
    stamp.write_text(json.dumps(wanted) + "\n", encoding="utf-8")
    print(f"Ready after {time.monotonic() - started:.0f} s.", flush=True)
    return 0


def fingerprint(pyproject: dict) -> str:
    """Hash of all that decides what is installed: tool settings, for one, do not count."""
    parts = [pyproject["project"], pyproject["build-system"], pyproject["tool"]["dpqlab"]]
    described = json.dumps([parts, list(sys.version_info[:2])], sort_keys=True).encode()
    return hashlib.sha256(described + LOCK.read_bytes()).hexdigest()


def is_current(stamp: Path, wanted: dict, python: Path) -> bool:
    """Whether `stamp` says that everything in `wanted` is installed already."""
    try:
        found = json.loads(stamp.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same_torch = wanted["torch"] in (None, found.get("torch"))
    return python.exists() and found.get("fingerprint") == wanted["fingerprint"] and same_torch


def make_environment(venv: Path) -> None:
    """Create the virtual environment, or keep one that works with this Python."""
    config = venv / "pyvenv.cfg"
    if config.exists() and _works(environment_python(venv)):
        print("[1/4] Keeping the environment that is there", flush=True)
        return
    if venv.exists() and not config.exists() and any(venv.iterdir()):
        raise SetupError(f"{_shown(venv)} exists and is not an environment; remove or rename it.")
    print("[1/4] Making the environment", flush=True)
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=False)
    if made.returncode != 0:
        raise SetupError(
            "Python could not make a virtual environment (the lines above say why). On Debian and "
            "Ubuntu install the package python3-venv; then run this again."
        )


def torch_arguments(version: str, build: str | None) -> list:
    """Arguments of pip for torch: the lock has its pure dependencies, the rest comes with it."""
    if build != "cpu":
        return [f"torch=={version}"]
    local = "" if sys.platform == "darwin" else "+cpu"
    return ["--no-deps", "--index-url", TORCH_CPU_INDEX, f"torch=={version}{local}"]


def pip_install(python: Path, arguments: list) -> None:
    """Run pip in the environment; show one live line on a terminal, and all of it on failure."""
    command = [str(python), "-m", "pip", "install", "--no-input", *arguments]
    settings = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONUNBUFFERED": "1"}
    lines = []
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **settings},
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line.rstrip())
            _show_progress(line.strip())
    _show_progress("")
    if process.returncode != 0:
        print("\n".join(lines[-30:]), file=sys.stderr)
        raise SetupError(
            "pip failed (its last lines stand above). Check the network and the free disk space, "
            "then run the same command again: it goes on where it stopped."
        )


def environment_python(venv: Path = ROOT / ".venv") -> Path:
    """The interpreter of the environment, whether or not it exists yet."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _works(python: Path) -> bool:
    """Whether `python` starts, has pip, and is of the same minor version as this one."""
    ask = "import pip, sys; print(sys.version_info[:2] == tuple(map(int, sys.argv[1:])))"
    version = [str(part) for part in sys.version_info[:2]]
    try:
        answer = subprocess.run(
            [str(python), "-c", ask, *version], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    return answer.stdout.strip() == "True"


def _start_again_with_fitting_python() -> int:
    """Hand over to a python3.x of the right version on the path, if there is one."""
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which(f"python3.{minor}")
        if other is None:
            continue
        trial = subprocess.run([other, "-c", "import venv"], check=False, capture_output=True)
        if trial.returncode == 0:
            return subprocess.run([other, *sys.argv], check=False).returncode
    print(
        f"dpqlab needs Python 3.11, 3.12 or 3.13; this is {sys.version.split()[0]} at "
        f"{sys.executable}. Install one of them, then run `python3.12 tools/setup.py`, or with "
        "make: `make setup PYTHON=python3.12`.",
        file=sys.stderr,
    )
    return 1


def _read_pyproject() -> dict:
    import tomllib  # not at the top: older Pythons must get as far as the message about versions

    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _show_progress(line: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 6
        print(f"\r\033[K{'      ' + line[:width] if line else ''}", end="", flush=True)


def _shown(path: Path) -> str:
    """The path from the repository's root where it lies inside."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    raise SystemExit(main())
