"""How long ``dpqlab demo`` takes, from the command to its last line.

    python -m benchmarks.demo [--dry-run]

Runs it once in a process of its own and records wall and CPU seconds. Two minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time

from benchmarks.record import append, make_record

GOAL_SECONDS = 240.0


def main() -> None:
    """Run the demo and append one record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    args = parser.parse_args()
    before, started = os.times(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [sys.executable, "-m", "dpqlab", "demo", "--out", f"{folder}/demo"], check=True
        )
    wall, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system - before.children_user
    cpu -= before.children_system
    print(f"{wall:.0f} s, {cpu:.0f} s of CPU")
    if not args.dry_run:
        append(
            make_record(
                "demo",
                "dpqlab demo",
                "wall_seconds",
                wall,
                "s",
                goal=GOAL_SECONDS,
                floor=GOAL_SECONDS,
                higher_is_better=False,
                details={"cpu_seconds": round(cpu, 1), "load_before": os.getloadavg()[0]},
            )
        )


if __name__ == "__main__":
    main()
