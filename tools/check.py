"""Everything ``make check`` checks: runs each tool, shows only what failed, ends with a summary.

``python -m tools.check lint types`` runs those two only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# import-linter has a command but no __main__.
LINT_IMPORTS = (
    "import sys; sys.path.insert(0, 'apps'); "
    "from importlinter.cli import lint_imports_command; lint_imports_command()"
)
CHECKS: dict[str, tuple[str, list[str]]] = {
    "format": ("ruff format: layout of code and notebooks", ["-m", "ruff", "format", "--check"]),
    "lint": ("ruff: likely mistakes and style", ["-m", "ruff", "check"]),
    "types": ("basedpyright: types, strict in core and checkpoint", ["-m", "basedpyright"]),
    "layers": ("import-linter: imports point down", ["-c", LINT_IMPORTS]),
    "rules": ("repository: changelog, sizes, safe loading, paths", ["-m", "tools.rules"]),
    "books": ("notebooks are in step with their sources", ["-m", "tools.notebooks", "--check"]),
    "tables": (
        "tables of README, SECURITY and docs equal the records",
        ["-m", "benchmarks.tables", "--check"],
    ),
}


def run_check(name: str) -> bool:
    """Run one check; print one line, and the tool's output where it fails."""
    title, arguments = CHECKS[name]
    started = time.monotonic()
    finished = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    passed = finished.returncode == 0
    seconds = time.monotonic() - started
    print(f"{'ok  ' if passed else 'FAIL'}  {name:<7} {title} ({seconds:.1f} s)", flush=True)
    if not passed:
        print(finished.stdout.rstrip() + "\n", flush=True)
    return passed


def main() -> int:
    """Run the chosen checks, or all of them; 1 when one failed."""
    parser = argparse.ArgumentParser(prog="python -m tools.check", description=__doc__)
    parser.add_argument("checks", nargs="*", metavar="CHECK", help=f"of {', '.join(CHECKS)}")
    chosen = parser.parse_args().checks or list(CHECKS)
    unknown = sorted(set(chosen) - CHECKS.keys())
    if unknown:
        parser.error(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    failed = [name for name in chosen if not run_check(name)]
    print(f"failed: {', '.join(failed)}" if failed else "All checks hold.")
    return bool(failed)


if __name__ == "__main__":
    raise SystemExit(main())
