"""The app against bad requests and against probes of the web, counted for SECURITY.md.

    python -m benchmarks.app_probes [--requests 5000] [--seed 0] [--dry-run]

The requests are those of :mod:`benchmarks.bad_requests`, sent one after the other to a server in a
process of its own, whose engine only makes noise. The probes (traversal, foreign origins and hosts,
oversized bodies, uploads, addresses instead of files) are tests of ``tests/apps/serving``, run
here once more; one that passes is one that the app withstood.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from benchmarks.app_load import served
from benchmarks.bad_requests import Bad, bad_requests, send
from benchmarks.record import RESULTS, ROOT, append
from benchmarks.reliability import FAILED, counted, not_counted

SUITE = "reliability-app"
PROBES = ("test_probes.py", "test_guard.py", "test_addresses.py")
LEAST = 1000  # bad requests
LEAST_PROBES = 40


def requests_record(count: int, seed: int) -> dict[str, Any]:
    """Send bad requests, and return how many did not end in a sentence."""
    faults: list[tuple[Bad, str]] = []
    statuses: Counter[int] = Counter()
    started = time.perf_counter()
    with served("app", 0.0) as server:
        for number, one in enumerate(bad_requests(count, seed), 1):
            verdict = send(server.url, one, server.log)
            statuses[verdict.status] += 1
            if verdict.fault is not None:
                faults.append((one, verdict.fault))
                print(f"{verdict.fault}: {one.path} {one.body[:300]!r}", flush=True)
            if number % 500 == 0:
                print(f"{number} requests, {len(faults)} faults", flush=True)
    record = counted(
        SUITE,
        "bad requests",
        "not refused with a sentence",
        len(faults),
        "requests",
        goal=0,
        details={
            "requests": count,
            "seed": seed,
            "statuses": {str(status): n for status, n in sorted(statuses.items())},
            "first_faults": [f"{fault}: {one.what[:100]}" for one, fault in faults[:5]],
            "seconds": round(time.perf_counter() - started, 1),
        },
    )
    if count < LEAST:
        return not_counted(record, FAILED, f"only {count} requests, {LEAST} are promised")
    return record


def probes_record() -> dict[str, Any]:
    """Run the probes among the tests, and return how many the app did not withstand."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        folder = ROOT / "tests" / "apps" / "serving"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "", f"--junit-xml={report}"]
        subprocess.run([*command, *map(str, (folder / p for p in PROBES))], cwd=ROOT, check=False)
        cases = list(ET.parse(report).iter("testcase")) if report.exists() else []
    bad = [c for c in cases if c.find("failure") is not None or c.find("error") is not None]
    run = [case for case in cases if case.find("skipped") is None]
    record = counted(
        SUITE,
        "web probes",
        "not withstood",
        len(bad),
        "probes",
        goal=0,
        details={"probes": len(run), "first_faults": [c.get("name", "") for c in bad[:5]]},
    )
    if len(run) < LEAST_PROBES:
        return not_counted(record, FAILED, f"only {len(run)} probes ran")
    return record


def main() -> int:
    """Measure, and append the records; 1 if something was not withstood."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    args = parser.parse_args()
    failed = 0
    for record in (requests_record(args.requests, args.seed), probes_record()):
        print(f"{record['row']}: {record['value']} {record['metric']}; {record['details']}")
        failed |= bool(record["value"]) or record["details"]["status"] == FAILED
        if not args.dry_run:
            append(record, args.results)
    return failed


if __name__ == "__main__":
    sys.exit(main())
