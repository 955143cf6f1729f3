"""What dpqlab asks of other machines while it demonstrates, teaches and draws: nothing.

    python -m benchmarks.network [--dry-run]

Runs the demo, a notebook and the app up to its first picture, each twice watched: in a network
namespace without a route, where the kernel counts every packet that found none, and with an audit
hook on Python's sockets, which counts and refuses. Both are shown a connection first that they must
see. Where namespaces are not permitted the hook alone counts, and the row about working without a
route is recorded as not run. About four minutes on two quiet cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.network import isolation
from benchmarks.network.parts import PATIENCE_S, commands
from benchmarks.record import RESULTS, ROOT, append
from benchmarks.reliability import FAILED, HELD, NOT_RUN, counted, not_counted, verdict

SUITE = "reliability-network"
WATCH = Path(__file__).resolve().parent / "watch"
TRY = f"import socket; socket.create_connection({isolation.NOWHERE!r}, 1)"


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one command.

    Attributes
    ----------
    code
        Its exit code.
    watched
        Processes that the hook was in.
    refused
        What the hook refused: ``event target``.
    unsent
        Packets that the kernel could not send; None without a namespace of its own.
    proved
        Whether the kernel was seen to count.
    """

    code: int
    seconds: float
    watched: int
    refused: list[str] = field(default_factory=list)
    unsent: int | None = None
    proved: bool = False
    said: str = ""

    @property
    def connections(self) -> int:
        """Everything that would have left this machine."""
        return len(self.refused) + (self.unsent or 0)


QUIET = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "GRADIO_ANALYTICS_ENABLED")
"""What would keep libraries quiet is not handed on: dpqlab itself has to see to that."""


def under_watch(arguments: list[str], log: Path) -> list[str]:
    """`arguments` run with the watch; the processes around them are not part of what is watched."""
    paths = os.pathsep.join([str(WATCH), str(ROOT), str(ROOT / "apps")])
    return ["env", f"PYTHONPATH={paths}", f"DPQLAB_WATCH={log}", *arguments]


def watch(arguments: list[str], folder: Path, *, isolated: bool) -> Seen:
    """Run a command under the watch, isolated or not, and return what was seen of it."""
    log, report = folder / "watch.jsonl", folder / "kernel.json"
    log.unlink(missing_ok=True)
    report.unlink(missing_ok=True)
    watched = under_watch(arguments, log)
    run = isolation.command(report, watched) if isolated else watched
    started = time.perf_counter()
    try:
        finished = subprocess.run(
            run,
            check=False,
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name not in QUIET},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
            encoding="utf-8",
            errors="replace",
        )
        code, said = finished.returncode, finished.stdout
    except subprocess.TimeoutExpired:
        code, said = 124, f"no end within {PATIENCE_S} s"
    seconds = time.perf_counter() - started
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    kernel = json.loads(report.read_text()) if report.exists() else {}
    refused = [f"{line['event']} {line['target']}" for line in lines if line["event"] != "watching"]
    return Seen(
        code=code,
        seconds=seconds,
        watched=len({line["pid"] for line in lines if line["event"] == "watching"}),
        refused=refused,
        unsent=kernel.get("attempts"),
        proved=bool(kernel.get("canary")),
        said=said[-2000:],
    )


def unproved(folder: Path) -> str | None:
    """Why the hook cannot be believed here; None when it sees a connection that is tried."""
    seen = watch([sys.executable, "-c", TRY], folder, isolated=False)
    if seen.watched != 1 or not seen.refused or seen.code == 0:
        return f"the watch did not see a connection that was tried: {seen}"
    return None


def judged(name: str, seen: Seen, *, isolated: bool) -> dict[str, Any]:
    """The record of one part."""
    details = {
        "seconds": round(seen.seconds, 1),
        "load": round(os.getloadavg()[0], 1),  # of the machine: the seconds are not a measurement
        "watched_processes": seen.watched,
        "refused": seen.refused[:10],
        "unsent_packets": seen.unsent,
    }
    record = counted(
        SUITE,
        name,
        "connections_beyond_this_machine",
        seen.connections,
        "connections",
        goal=0,
        details=details,
    )
    if seen.code:
        return not_counted(record, FAILED, f"exit code {seen.code}: {last_line(seen.said)}")
    if not seen.watched or (isolated and not seen.proved):
        return not_counted(record, FAILED, "the watch was not in it, or the kernel did not count")
    return record


def last_line(text: str) -> str:
    """The last line that says something, for a reason."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "silence")[:200]


def main() -> int:
    """Watch the parts and append their records; 1 when one does not hold, 2 when not all ran."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the records go")
    args = parser.parse_args()
    reason = isolation.why_not()
    records: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        doubt = unproved(folder)
        if doubt is not None:
            print(doubt, file=sys.stderr)
            return 1
        for name, command in commands(folder).items():
            print(f"{name} ...", flush=True)
            seen = watch(command, folder, isolated=reason is None)
            records.append(judged(name, seen, isolated=reason is None))
            print(f"  {seen.connections} connections, {verdict(records[-1])}", flush=True)
    working = sum(record["details"]["status"] == "ran" for record in records)
    alone = counted(
        SUITE, "in a network namespace without a route", "parts_that_work", working, "parts",
        goal=len(records), higher_is_better=True,
    )  # fmt: skip
    if reason is not None:
        alone = not_counted(alone, NOT_RUN, reason)
        print(f"NOT RUN: {reason}", file=sys.stderr)
    records.append(alone)
    if not args.dry_run:
        for record in records:
            append(record, args.results)
    if any(verdict(record) != HELD for record in records if record is not alone or reason is None):
        return 1
    return 0 if reason is None else 2


if __name__ == "__main__":
    raise SystemExit(main())
