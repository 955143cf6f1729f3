"""Collect all that a room of machines needs to run notebooks and app without internet.

``make wheelhouse`` fills ``out/wheelhouse``: the pinned packages of requirements.lock (checked by
hash), torch, dpqlab itself with its models, the notebooks, and a README with the one command that
installs them. Copy the folder to a stick or a share. The wheels fit one Python version and one
platform: this machine's, or those that are asked for.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tools.setup import LOCK, ROOT, TORCH_CPU_INDEX

EXTRAS = ("cli", "fast", "diffusers", "lab", "app")
"""What the notebooks and the app need of dpqlab's extras."""
KEPT = ("notebooks", "tools/lab.py", "LICENSE")
README = """\
# dpqlab for a room without internet

These files install dpqlab with its models, JupyterLab and PyTorch {torch} on machines with
Python {python} ({platform}), and ask nothing of a network. In this folder:

    {install}

(`python -m venv dpqlab-room` first, and that environment's python, keep it apart from what else is
on the machine.) Then

    python tools/lab.py

opens the tour of the notebooks in JupyterLab, and

    python -m dpqlab app

the app. {count} wheels, {size:.0f} MB.
"""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Whom the wheels are for; None stands for this Python and this platform.

    ``torch`` is a version, ``build`` either ``"cpu"`` or ``"default"``.
    """

    torch: str
    build: str = "cpu"
    python: str | None = None
    platform: str | None = None

    @property
    def options(self) -> list[str]:
        """Options of ``pip download`` for it."""
        python = [] if self.python is None else ["--python-version", self.python]
        return python if self.platform is None else [*python, "--platform", self.platform]

    @property
    def torch_requirement(self) -> str:
        """The requirement that names the build as well."""
        local = self.build == "cpu" and not (self.platform or sys.platform).startswith(
            ("darwin", "macosx")
        )
        return f"torch=={self.torch}{'+cpu' if local else ''}"


def downloads(target: Target, wheels: Path, lock: Path = LOCK) -> list[list[str]]:
    """Return the commands of pip that fill ``wheels``, in order."""
    download = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-input",
    ]
    download += ["--only-binary", ":all:", "--dest", str(wheels), *target.options]
    pinned = [*download, "--require-hashes", "--no-deps", "--requirement", str(lock)]
    torch = [*download, target.torch_requirement]
    if target.build == "cpu":
        torch += ["--no-deps", "--index-url", TORCH_CPU_INDEX]
    own = [sys.executable, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-deps"]
    own += ["--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT)]
    return [pinned, torch, own]


def install_command(target: Target) -> str:
    """Return the one command that installs from the folder it is run in."""
    wanted = f'"dpqlab[{",".join(EXTRAS)}]" {target.torch_requirement}'
    return f"python -m pip install --no-index --find-links wheels {wanted}"


def readme(target: Target, wheels: Path) -> str:
    """Return the README of a folder whose wheels are there already."""
    found = list(wheels.glob("*.whl"))
    return README.format(
        torch=target.torch,
        python=target.python or ".".join(map(str, sys.version_info[:2])),
        platform=target.platform or sys.platform,
        install=install_command(target),
        count=len(found),
        size=sum(path.stat().st_size for path in found) / 1e6,
    )


def collect(out: Path, target: Target, commands: list[list[str]]) -> int:
    """Run the downloads, copy the notebooks and write the README; pip's exit code if one fails."""
    wheels = out / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for command in commands:
        finished = subprocess.run(command, check=False, cwd=ROOT)
        if finished.returncode:
            print(
                "pip failed (its lines stand above). Check the network and the free disk space, "
                "then run the same command again: what is there is not fetched twice.",
                file=sys.stderr,
            )
            return finished.returncode
    for name in KEPT:
        _copy(ROOT / name, out / name)
    (out / "README.md").write_text(readme(target, wheels), encoding="utf-8")
    return 0


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns(".ipynb_checkpoints", "__pycache__")
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignored)
    elif source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def main(arguments: list[str] | None = None) -> int:
    """Collect, and say where everything is."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="python -m tools.wheelhouse", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "wheelhouse")
    parser.add_argument(
        "--torch", choices=("cpu", "default"), default="cpu", help="build of torch (cpu: smallest)"
    )
    parser.add_argument("--python", metavar="3.12", help="of the room, if it is not this one")
    parser.add_argument("--platform", metavar="win_amd64", help="of the room, as pip names it")
    options = parser.parse_args(arguments)
    target = Target(
        torch=pyproject["tool"]["dpqlab"]["torch"],
        build=options.torch,
        python=options.python,
        platform=options.platform,
    )
    code = collect(options.out, target, downloads(target, options.out / "wheels"))
    if code == 0:
        print(f"{options.out} is ready; its README.md has the command to install it.")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
