"""The tables of README, SECURITY and docs, generated from the latest benchmark records.

A table stands between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``::

    python -m benchmarks.tables            print all tables
    python -m benchmarks.tables --check    fail when a document differs from the records
    python -m benchmarks.tables --write    bring the documents up to date
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import quality_tables as quality
from benchmarks import record
from benchmarks.markdown import MISSING, quantity, table
from benchmarks.reliability_tables import jobs_table, reliability_table
from benchmarks.speed_tables import one_bit_speed_table, speed_table

DOCUMENTS = tuple(
    record.ROOT / name for name in ("README.md", "SECURITY.md", "docs/results.md", "docs/speed.md")
)


def kmeans_table(folder: Path = record.RESULTS) -> str:
    """Speed and quality of dpqlab's k-means against its rivals."""
    return measurement_table("kmeans", folder)


def measurement_table(suite: str, folder: Path = record.RESULTS) -> str:
    """The plain form: one line a (row, metric), in the order in which they were first recorded."""
    found = list(record.latest(suite, folder).values())
    header = ("what", "measure", "value", "against", "goal", "at worst")
    rows = [
        (
            measured["row"],
            measured["metric"].replace("_", " "),
            quantity(measured["value"], measured["unit"]),
            measured["rival"] or MISSING,
            quantity(measured["goal"], measured["unit"]),
            quantity(measured["floor"], measured["unit"]),
        )
        for measured in found
    ]
    return table(header, rows, found)


def app_table(folder: Path = record.RESULTS) -> str:
    """What was aimed at in the app and what was measured."""
    found = [r for r in record.latest("app", folder).values() if r["goal"] is not None]
    rows = [
        (
            measured["row"],
            measured["metric"].replace("_seconds", "").replace("_", " "),
            quantity(measured["value"], measured["unit"]),
            f"at most {quantity(measured['goal'], measured['unit'])}",
        )
        for measured in found
    ]
    return table(("what", "measure", "value", "goal"), rows, found, words=2)


TABLES: dict[str, Callable[[Path], str]] = {
    "overview": quality.overview_table,
    "fashion": quality.fashion_table,
    "avatars": quality.avatars_table,
    "avatars-calibration": quality.avatars_calibration_table,
    "best": quality.best_table,
    "ablation": quality.ablation_table,
    "calibrated-pairs": quality.calibrated_pairs_table,
    "judges": quality.judges_table,
    "rivals": quality.rivals_table,
    "kmeans": kmeans_table,
    "speed": speed_table,
    "one-bit-speed": one_bit_speed_table,
    "app": app_table,
    "reliability": reliability_table,
    "jobs": jobs_table,
}


def generate(text: str, folder: Path = record.RESULTS) -> str:
    """`text` with every marked table replaced by the one that the records in `folder` give.

    Raises
    ------
    ValueError
        When a marker names no table, or is not closed, or closes nothing.
    """
    pattern = re.compile(r"(<!-- table:([\w-]+) -->\n)(.*?)(<!-- /table:\2 -->)", re.DOTALL)
    opened = re.findall(r"<!-- table:([\w-]+) -->", text)
    closed = re.findall(r"<!-- /table:([\w-]+) -->", text)
    if opened != closed or opened != [match[2] for match in pattern.finditer(text)]:
        raise ValueError(
            f"table markers do not pair up: opened {opened}, closed {closed}; each table needs "
            "<!-- table:NAME --> and <!-- /table:NAME --> on lines of their own"
        )
    unknown = sorted(set(opened) - TABLES.keys())
    if unknown:
        raise ValueError(f"unknown tables {unknown}; benchmarks/tables.py makes {sorted(TABLES)}")
    return pattern.sub(lambda m: f"{m[1]}\n{TABLES[m[2]](folder)}\n{m[4]}", text)


def bring_up_to_date(path: Path, *, write: bool) -> bool:
    """Whether the document agrees with the records, after writing it where that is asked for.

    Raises
    ------
    OSError, ValueError
        When it cannot be read or written, or its markers do not fit.
    """
    text = path.read_text(encoding="utf-8")
    wanted = generate(text)
    if wanted != text and write:
        path.write_text(wanted, encoding="utf-8", newline="\n")
    return write or wanted == text


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, check or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail when a document is out of date")
    what.add_argument("--write", action="store_true", help="bring the documents up to date")
    chosen = parser.parse_args(arguments)
    if not (chosen.check or chosen.write):
        print("\n".join(f"{name}\n\n{make(record.RESULTS)}" for name, make in TABLES.items()))
        return 0
    for path in DOCUMENTS:
        try:
            agrees = bring_up_to_date(path, write=chosen.write)
        except (OSError, ValueError) as error:
            print(f"tables: {path.name}: {error}", file=sys.stderr)
            return 1
        if not agrees:
            print(f"{path.name} differs from the records: python -m benchmarks.tables --write")
            return 1
        print(f"{path.name} agrees with the records")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
