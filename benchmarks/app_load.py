"""How the app's server bears a crowd; the engine only waits, so the server is what is measured.

    python -m benchmarks.app_load [--quick] [--page plain] [--out FOLDER] [--dry-run]

Four runs, each against a server in a process of its own: 20 visitors with 600 requests; 64 visitors
against a full queue; memory over 3,000 requests; 50 visitors who leave in the middle. About six
minutes on two cores; ``--quick`` does less in a minute and a half, and records nothing. Needs Linux
(memory is read from /proc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.app_client import Answer, Request, crowd, leave_early
from benchmarks.record import RESULTS, ROOT, append, make_record

SUITE = "app"
MOST_GROWTH_MB = 10.0
WARM = 1000
"""Requests after which memory should not grow any more."""


@dataclass(frozen=True, kw_only=True)
class Served:
    """A server in a process of its own, and the log of its stub."""

    url: str
    pid: int
    log: Path

    def rss_mb(self) -> float:
        """Resident memory, MB."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def events(self) -> list[dict[str, Any]]:
        """What the stub has noted so far."""
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


@contextmanager
def served(page: str, step_ms: float) -> Iterator[Served]:
    """Start ``benchmarks.app_stub``; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "events.jsonl")
        command = [sys.executable, "-m", "benchmarks.app_stub", "--page", page]
        command += ["--step-ms", str(step_ms), "--log", str(log)]
        paths = os.pathsep.join([str(ROOT), str(ROOT / "apps")])
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": paths},
        ) as process:
            assert process.stdout is not None and process.stdin is not None
            url = process.stdout.readline().strip()
            if not url.startswith("http"):
                raise RuntimeError("the server did not start; its lines stand above")
            try:
                yield Served(url=url, pid=process.pid, log=log)
            finally:
                process.stdin.close()
                process.wait(timeout=120)  # it removes its temporary files: slow on some disks


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How much is asked in each run, by how many."""

    throughput: int = 600
    full: int = 400
    memory: int = 3000
    leaving: int = 50


QUICK = Plan(throughput=60, full=100, memory=2000, leaving=5)


def summary(answers: Sequence[Answer], seconds: float) -> dict[str, Any]:
    """Counts by kind, times of the results in seconds, and the first errors."""
    times = sorted(a.seconds for a in answers if a.kind == "result")
    errors = [a.text for a in answers if a.kind == "error"]
    return {
        "results": len(times),
        "busy": sum(a.kind == "busy" for a in answers),
        "errors": len(errors),
        "first_errors": errors[:3],
        "seconds": round(seconds, 1),
        "p50_s": round(times[len(times) // 2], 3) if times else None,
        "p95_s": round(times[int(len(times) * 0.95)], 3) if times else None,
    }


def throughput(page: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """20 visitors, drawings of 50 ms; who meets a full queue asks again, as a person would."""
    with served(page, step_ms=10) as server:
        started = time.perf_counter()
        request = Request(steps=5)
        answers = asyncio.run(
            crowd(server.url, request, clients=20, requests=plan.throughput, retry=True)
        )
        found = summary(answers, time.perf_counter() - started) | {"clients": 20}
    missing = plan.throughput - found["results"]
    yield _record("20 clients", "errors", missing + found["errors"], "requests", found, goal=0)
    rate = found["results"] / found["seconds"]
    yield _record("20 clients", "rate", rate, "requests/s", found, higher_is_better=True)


def full_queue(page: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """64 visitors who do not ask again: each gets its pictures, or is told at once."""
    with served(page, step_ms=40) as server:
        started = time.perf_counter()
        request = Request(steps=5)
        answers = asyncio.run(
            crowd(server.url, request, clients=64, requests=plan.full, retry=False)
        )
        found = summary(answers, time.perf_counter() - started) | {"clients": 64}
    waits = sorted(a.seconds for a in answers if a.kind == "busy")
    found["busy_p95_s"] = round(waits[int(len(waits) * 0.95)], 3) if waits else None
    if not (found["results"] and found["busy"]):
        raise RuntimeError(f"the queue was never full, or never served: {found}")
    yield _record("64 clients, full queue", "errors", found["errors"], "requests", found, goal=0)


def memory(page: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """8 visitors, drawings that take no time; resident memory every 100 requests."""
    with served(page, step_ms=0) as server:
        series: dict[int, float] = {0: round(server.rss_mb(), 1)}

        def look(done: int) -> None:
            if done % 100 == 0:
                series[done] = round(server.rss_mb(), 1)

        started = time.perf_counter()
        request = Request(steps=2)
        answers = asyncio.run(
            crowd(server.url, request, clients=8, requests=plan.memory, retry=True, progress=look)
        )
        found = summary(answers, time.perf_counter() - started) | {"clients": 8}
    found["rss_mb"] = [series[done] for done in sorted(series)]
    warm = min(WARM, plan.memory // 200 * 100)
    growth = series[plan.memory // 100 * 100] - series[warm]
    row = f"memory, requests {warm} to {plan.memory}"
    yield _record(row, "growth", growth, "MB", found, goal=MOST_GROWTH_MB)
    yield _record(row, "errors", found["errors"], "requests", found, goal=0)


def leaving(page: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """Visitors who hang up in the middle of a long drawing: how long it goes on."""
    step_s = 0.2
    late: list[float] = []
    with served(page, step_ms=1000 * step_s) as server:
        for number in range(plan.leaving):
            left = asyncio.run(leave_early(server.url, Request(steps=100, seed=number)))
            late.append(_closed_at(server, number + 1) - left)
        steps = sum(event["event"] == "step" for event in server.events())
    details = {
        "disconnects": plan.leaving,
        "step_s": step_s,
        "steps_drawn_each": round(steps / plan.leaving, 2),
        "median_s": round(sorted(late)[len(late) // 2], 3),
        "all_s": [round(value, 3) for value in late],
    }
    row = f"{plan.leaving} disconnects"
    yield _record(row, "stops after, at most", max(late), "s", details, goal=step_s + 1)


def _closed_at(server: Served, count: int) -> float:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        closed = [event for event in server.events() if event["event"] == "close"]
        if len(closed) >= count:
            return closed[count - 1]["time"]
        time.sleep(0.02)
    raise RuntimeError("the drawing went on for 30 s after its visitor had left")


def _record(
    row: str,
    metric: str,
    value: float,
    unit: str,
    details: dict[str, Any],
    *,
    goal: float | None = None,
    higher_is_better: bool = False,
) -> dict[str, Any]:
    return make_record(
        SUITE,
        row,
        metric,
        value,
        unit,
        goal=goal,
        floor=goal,
        higher_is_better=higher_is_better,
        details=details | {"load_before": round(os.getloadavg()[0], 2)},
    )


RUNS = {"throughput": throughput, "full": full_queue, "memory": memory, "leaving": leaving}


def main(arguments: list[str] | None = None) -> int:
    """Run, print, append; 1 when a goal was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="less of it; appends nothing")
    parser.add_argument("--page", choices=("app", "plain"), default="app")
    parser.add_argument("--only", choices=sorted(RUNS), help="one of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of records")
    parser.add_argument("--dry-run", action="store_true", help="append nothing")
    options = parser.parse_args(arguments)
    plan = QUICK if options.quick else Plan()
    missed = 0
    for run in RUNS if options.only is None else (options.only,):
        started = time.perf_counter()
        for record in RUNS[run](options.page, plan):
            record["details"]["page"] = options.page
            good = record["goal"] is None or record["value"] <= record["goal"]
            missed += not good
            verdict = "" if record["goal"] is None else f"  (at most {record['goal']:g})"
            print(
                f"{'ok  ' if good else 'MISS'}  {record['row']}: {record['metric']} "
                f"{record['value']:.3g} {record['unit']}{verdict}",
                flush=True,
            )
            if not (options.quick or options.dry_run):
                append(record, options.out)
        print(f"      {run} took {time.perf_counter() - started:.0f} s", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
