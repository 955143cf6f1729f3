"""All that is promised in SECURITY.md, run and recorded before a release.

    python -m benchmarks.release_check [PART ...] [--list]

Each part is a module of its own that appends to ``benchmarks/results``; to add one, add a line to
``PARTS``. A part holds when it ended well, recorded something, and everything that it recorded
holds. A part that is missing, fails, records nothing or could not look is shown as such, and the
check fails: only "held" is a pass. The whole takes hours on two cores, most of them for the loader.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import record
from benchmarks.reliability import HELD, MISSED, NOT_RUN, OPEN, status_of, verdict


@dataclass(frozen=True, kw_only=True)
class Part:
    """One module to run, and the suite that it appends to."""

    title: str
    module: str
    suite: str
    arguments: tuple[str, ...] = ()


PARTS: dict[str, Part] = {
    "loader": Part(
        title="the loader against hostile files",
        module="benchmarks.fuzz_loader",
        suite="reliability-loader",
        arguments=("--inputs", "1000000"),
    ),
    "jobs": Part(
        title="jobs that are killed, and disks that are full",
        module="benchmarks.survival",
        suite="reliability-jobs",
    ),
    "app": Part(
        title="the app against bad requests",
        module="benchmarks.app_probes",
        suite="reliability-app",
    ),
    "supply": Part(
        title="what dpqlab is installed from",
        module="benchmarks.supply_chain",
        suite="reliability-supply",
    ),
    "network": Part(
        title="what dpqlab asks of other machines",
        module="benchmarks.network",
        suite="reliability-network",
    ),
    "crowd": Part(
        title="the app under load",
        module="benchmarks.app_load",
        suite="app",
    ),
}
NOTHING = "recorded nothing"


def is_there(module: str) -> bool:
    """Whether a module can be run: a file, or a package with ``__main__``."""
    try:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.submodule_search_locations is None:
            return spec is not None
        return importlib.util.find_spec(f"{module}.__main__") is not None
    except ModuleNotFoundError:
        return False


def run(part: Part, folder: Path = record.RESULTS) -> str:
    """Run a part, its lines on the terminal; "held", or in words what else became of it."""
    if not is_there(part.module):
        return f"missing: there is no module {part.module}"
    before = len(record.read(part.suite, folder))
    command = [sys.executable, "-m", part.module, *part.arguments]
    code = subprocess.run(
        command, check=False, cwd=record.ROOT, stdin=subprocess.DEVNULL
    ).returncode
    return outcome(code, record.read(part.suite, folder)[before:])


def outcome(code: int, made: Sequence[dict]) -> str:
    """What became of a part, of its exit code and the records that it made."""
    verdicts = [(measured, verdict(measured)) for measured in made]
    wrong = [
        f"{measured['row']}, {measured['metric'].replace('_', ' ')}: {said}"
        for measured, said in verdicts
        if said not in (HELD, OPEN)
    ]
    if wrong:
        only_open = all(status_of(m) == NOT_RUN for m, said in verdicts if said not in (HELD, OPEN))
        return f"{NOT_RUN if only_open else MISSED}: {'; '.join(wrong)}"
    if code:
        return f"failed: exit code {code}"
    return HELD if verdicts else NOTHING


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for, or all; 1 unless every one of them holds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.release_check", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--list", action="store_true", help="say what there is, and run nothing")
    chosen = parser.parse_args(arguments)
    names = chosen.parts or list(PARTS)
    unknown = sorted(set(names) - PARTS.keys())
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    if chosen.list:
        for name in names:
            part = PARTS[name]
            there = "" if is_there(part.module) else "  (missing)"
            print(f"{name:<8} {part.title}: {part.module} -> {part.suite}.jsonl{there}")
        return 0
    outcomes: dict[str, str] = {}
    for name in names:
        print(f"\n== {name}: {PARTS[name].title}", flush=True)
        started = time.monotonic()
        outcomes[name] = run(PARTS[name])
        print(f"== {name}: {outcomes[name]} ({time.monotonic() - started:.0f} s)", flush=True)
    print("\n" + "\n".join(f"{name:<8} {said}" for name, said in outcomes.items()))
    held = all(said == HELD for said in outcomes.values())
    print("Everything holds." if held else "Not everything holds.")
    print("Then: python -m benchmarks.tables --write")
    return int(not held)


if __name__ == "__main__":
    raise SystemExit(main())
