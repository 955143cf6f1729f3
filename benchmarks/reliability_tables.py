"""The table of SECURITY.md: what was aimed at, what was measured, and whether it holds.

With the standard library alone, as a commit hook makes it.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import record
from benchmarks.markdown import MISSING, Record, quantity, table
from benchmarks.release_check import PARTS
from benchmarks.reliability import RAN, status_of, verdict

HEADER = ("part", "what", "measure", "verdict", "value", "goal")


def reliability_table(folder: Path = record.RESULTS) -> str:
    """A line for each row of the suites ``reliability-*``; parts without a record say so."""
    rows: list[tuple[str, ...]] = []
    sources: list[Record] = []
    for part in PARTS.values():
        if not part.suite.startswith("reliability-"):
            continue  # the table of the app stands in the README
        found = list(record.latest(part.suite, folder).values())
        sources += found
        rows += [_row(part.title, measured) for measured in found]
        if not found:
            rows.append((part.title, MISSING, MISSING, "not run yet", MISSING, MISSING))
    return table(HEADER, rows, sources, words=4)


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
