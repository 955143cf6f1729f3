"""The tables of SECURITY.md: what was aimed at, what was measured, and whether it holds.

With the standard library alone, as a commit hook makes it.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import record
from benchmarks.markdown import MISSING, Record, quantity, table
from benchmarks.release_check import PARTS
from benchmarks.reliability import HELD, RAN, status_of, verdict

JOBS = PARTS["jobs"].suite
NAMES = ("compress", "prune", "calibrate", "evaluate", "trace", "sample", "train")
"""Of the jobs, in the order of the columns."""
HEADER = ("part", "what", "measure", "verdict", "value", "goal")


def reliability_table(folder: Path = record.RESULTS) -> str:
    """A line for each row of the suites ``reliability-*``; parts without a record say so.

    The jobs have a table of their own.
    """
    rows: list[tuple[str, ...]] = []
    sources: list[Record] = []
    for part in PARTS.values():
        if not part.suite.startswith("reliability-") or part.suite == JOBS:
            continue  # the table of the app stands in the README
        found = list(record.latest(part.suite, folder).values())
        sources += found
        rows += [_row(part.title, measured) for measured in found]
        if not found:
            rows.append((part.title, MISSING, MISSING, "not run yet", MISSING, MISSING))
    return table(HEADER, rows, sources, words=4)


def jobs_table(folder: Path = record.RESULTS) -> str:
    """A line for each thing that may happen to a job, a column for each job."""
    found = record.latest(JOBS, folder)
    metrics = list(dict.fromkeys(metric for _, metric in found))
    odd = sorted({row for row, _ in found} - set(NAMES))
    if odd:
        raise ValueError(f"no column for {', '.join(odd)}: add it to NAMES")
    rows = [
        (metric, *(_attempts(found.get((name, metric))) for name in NAMES)) for metric in metrics
    ]
    return table(("what happens", *NAMES), rows, list(found.values()), words=1)


def _attempts(measured: Record | None) -> str:
    if measured is None:
        return MISSING
    held, details = verdict(measured), measured["details"]
    if not {"good", "attempts"} <= details.keys():
        return held
    counted = f"{details['good']:,} of {details['attempts']:,}"
    return counted if held == HELD else f"{held}: {counted}"


def _row(title: str, measured: Record) -> tuple[str, ...]:
    value, goal = _value_and_goal(measured)
    return (
        title,
        measured["row"],
        measured["metric"].replace("_", " "),
        verdict(measured),
        value if status_of(measured) == RAN else MISSING,
        goal,
    )


def _value_and_goal(measured: Record) -> tuple[str, str]:
    """Both in words; a share that counts attempts as ``40 of 40``."""
    details, unit = measured["details"], measured["unit"]
    if unit == "share" and {"good", "attempts"} <= details.keys():
        return f"{details['good']:,} of {details['attempts']:,}", "all"
    sign = "at least" if measured["higher_is_better"] else "at most"
    goal = measured["goal"]
    return count(
        measured["value"], unit
    ), MISSING if goal is None else f"{sign} {count(goal, unit)}"


def count(value: float, unit: str) -> str:
    """A number with its unit; whole numbers in full: of a million every one counts."""
    return f"{value:,.0f} {unit}" if float(value).is_integer() else quantity(value, unit)
