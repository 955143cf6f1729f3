"""The tables of the README, generated from the latest benchmark records.

A table stands between ``<!-- table:NAME -->`` and ``<!-- /table:NAME -->``::

    python -m benchmarks.tables            print all tables
    python -m benchmarks.tables --check    fail when README.md differs from the records
    python -m benchmarks.tables --write    bring README.md up to date
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
from benchmarks.speed_tables import speed_table

README = record.ROOT / "README.md"


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
    "fashion": quality.fashion_table,
    "avatars": quality.avatars_table,
    "best": quality.best_table,
    "ablation": quality.ablation_table,
    "judges": quality.judges_table,
    "rivals": quality.rivals_table,
    "kmeans": kmeans_table,
    "speed": speed_table,
    "app": app_table,
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, check or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail when README.md is out of date")
    what.add_argument("--write", action="store_true", help="bring README.md up to date")
    chosen = parser.parse_args(arguments)
    if not (chosen.check or chosen.write):
        print("\n".join(f"{name}\n\n{make(record.RESULTS)}" for name, make in TABLES.items()))
        return 0
    try:
        text = README.read_text(encoding="utf-8")
        wanted = generate(text)
    except (OSError, ValueError) as error:
        print(f"tables: {error}", file=sys.stderr)
        return 1
    if wanted != text and chosen.check:
        print("README.md differs from the records: python -m benchmarks.tables --write")
        return 1
    if wanted != text:
        README.write_text(wanted, encoding="utf-8", newline="\n")
    print("README.md agrees with the records")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
