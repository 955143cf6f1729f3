"""Write requirements.lock: what ``tools/setup.py`` installs beside torch, pinned and hashed.

Run by ``make lock`` after a change to the dependencies in pyproject.toml. Needs ``uv``
(``pip install uv``). The versions already in the lock are kept where they still fit; ``--upgrade``
takes the newest ones.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEADER = """\
# Everything that tools/setup.py installs except torch, pinned by version and hash, for
# Python 3.11 to 3.13 on every platform. Written by `make lock` from pyproject.toml: do not edit.
"""


def read_pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    """Normalized distribution name of a requirement: ``"Foo_bar[x]>=1"`` gives ``"foo-bar"``."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    if match is None:
        raise ValueError(f"not a requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def direct_requirements(pyproject: dict[str, Any]) -> list[str]:
    """What set-up asks for by name, without torch itself, each once, sorted."""
    project, own = pyproject["project"], pyproject["tool"]["dpqlab"]
    wanted = [*project["dependencies"], *pyproject["build-system"]["requires"], "editables"]
    for extra in own["setup-extras"]:
        wanted += project["optional-dependencies"][extra]
    wanted += own["torch-needs"]
    return sorted({r for r in wanted if name_of(r) != "torch"})


def main() -> int:
    """Resolve and write the lock."""
    parser = argparse.ArgumentParser(description="Write requirements.lock with uv.")
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit")
    arguments = parser.parse_args()
    if shutil.which("uv") is None:
        print("uv is needed to write the lock: pip install uv", file=sys.stderr)
        return 1
    pyproject = read_pyproject()
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder, "wanted.in")
        excluded = Path(folder, "excluded.txt")
        output = Path(folder, "lock.txt")
        wanted.write_text("\n".join(direct_requirements(pyproject)) + "\n", encoding="utf-8")
        excluded.write_text("torch\n", encoding="utf-8")
        if LOCK.exists():
            shutil.copy(LOCK, output)
        command = ["uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11"]
        command += ["--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--excludes", str(excluded), "--output-file", str(output), str(wanted)]
        command += ["--upgrade"] if arguments.upgrade else []
        finished = subprocess.run(command, check=False)
        if finished.returncode != 0:
            return finished.returncode
        LOCK.write_text(HEADER + output.read_text(encoding="utf-8"), encoding="utf-8")
    pins = sum("==" in line for line in LOCK.read_text(encoding="utf-8").splitlines())
    print(f"requirements.lock: {pins} pins")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
