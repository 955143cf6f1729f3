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
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import record

README = record.ROOT / "README.md"
MISSING = "–"
Record = dict[str, Any]

# Rows of the suite "fashion" in the order of the table; others follow as they were recorded.
FASHION_ROWS = {
    "teacher": "full precision",
    "rtn-2bit": "RTN, 2 bits",
    "vq-2bit": "VQ, 2 bits",
    "pq-2bit": "PQ, 2 bits",
    "vq-2bit-calibrated": "VQ, 2 bits, calibrated",
    "pq-2bit-calibrated": "PQ, 2 bits, calibrated",
    "rtn-1bit": "RTN, 1 bit",
    "vq-1bit": "VQ, 1 bit",
    "pq-1bit": "PQ, 1 bit",
    "vq-1bit-calibrated": "VQ, 1 bit, calibrated",
    "pq-1bit-calibrated": "PQ, 1 bit, calibrated",
}


def fashion_table(folder: Path = record.RESULTS) -> str:
    """Size and quality of every compressed form of the bundled model `fashion-dit`."""
    found = {
        row: r
        for (row, metric), r in record.latest("fashion", folder).items()
        if metric == "fcd_10k"
    }
    order = [row for row in FASHION_ROWS if row in found]
    order += [row for row in found if row not in FASHION_ROWS]
    header = (
        "model", "true bits", "on disk", "smaller than fp32", "FCD-10k", "excess FCD",
        "precision / recall", "PSNR", "feature cosine", "agreement",
    )  # fmt: skip
    rows = [_fashion_row(FASHION_ROWS.get(row, row), found[row]) for row in order]
    floors = [found[row]["details"].get("noise_floor") for row in order]
    if any(floors):
        floor = _interval(next(filter(None, floors)), 3)
        rows.append(("real test images: the noise floor", *[MISSING] * 3, floor, *[MISSING] * 5))
    return _table(header, rows, [found[row] for row in order])


def _fashion_row(label: str, measured: Record) -> tuple[str, ...]:
    details = measured["details"]
    precision, recall = (_fixed(details.get(key), 3) for key in ("precision", "recall"))
    return (
        label,
        _fixed(details.get("true_bits"), 3),
        _bytes(details.get("bytes_on_disk")),
        _fixed(details.get("ratio_fp32"), 1, "×"),
        _interval(details.get("fcd", measured["value"]), 3),
        _interval(details.get("excess_fcd"), 3),
        f"{precision} / {recall}",
        _fixed(details.get("psnr"), 1, " dB"),
        _fixed(details.get("feature_cosine"), 3),
        _percent(details.get("agreement")),
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
            _quantity(measured["value"], measured["unit"]),
            measured["rival"] or MISSING,
            _quantity(measured["goal"], measured["unit"]),
            _quantity(measured["floor"], measured["unit"]),
        )
        for measured in found
    ]
    return _table(header, rows, found)


TABLES: dict[str, Callable[[Path], str]] = {"fashion": fashion_table, "kmeans": kmeans_table}


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


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], sources: list[Record]) -> str:
    """A Markdown table and the line that says where it comes from."""
    if not sources:
        return "*No records yet: `make bench` measures, then fills this table.*\n"
    # the first column is text, the others are numbers
    rule = ["---", *["--:"] * (len(header) - 1)]
    lines = ["| " + " | ".join(_cell(c) for c in cells) + " |" for cells in (header, rule, *rows)]
    return "\n".join([*lines, "", _origin(sources)]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _origin(sources: list[Record]) -> str:
    """One small line with date, commit and device of the records; several where they differ."""
    dates = sorted({source["date"][:10] for source in sources})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    commits = _listed(source["commit"] for source in sources)
    devices = _listed(source["device"] for source in sources)
    torch = _listed(source["versions"].get("torch", "unknown") for source in sources)
    return f"<sub>Measured {days}, commit {commits}, {devices}, torch {torch}.</sub>"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_cell(name) for name in dict.fromkeys(names))


def _fixed(value: object, digits: int, unit: str = "") -> str:
    if not isinstance(value, int | float):
        return MISSING
    text = f"{value:.{digits}f}"
    # "-0.00" would read as damage with a sign
    return (text.removeprefix("-") if float(text) == 0 else text) + unit


def _percent(value: object) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else MISSING


def _bytes(value: object) -> str:
    """Decimal megabytes, as disks and downloads count."""
    return f"{value / 1e6:.2f} MB" if isinstance(value, int | float) else MISSING


def _interval(value: object, digits: int) -> str:
    """``0.123 ± 0.040`` of {"value", "low", "high"}, fewer digits from 10 up.

    The wider side where the interval is not symmetric; the value alone where there is none.
    """
    parts: dict[str, Any] = value if isinstance(value, dict) else {"value": value}
    centre, low, high = parts.get("value"), parts.get("low"), parts.get("high")
    if isinstance(centre, int | float) and abs(centre) >= 10:
        digits = 1
    if centre is None or low is None or high is None:
        return _fixed(centre, digits)
    return f"{_fixed(centre, digits)} ± {_fixed(max(centre - low, high - centre), digits)}"


def _quantity(value: float | None, unit: str) -> str:
    """Three significant digits with the unit: ``1.27×``, ``13.4 ms``."""
    if value is None:
        return MISSING
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{digits}×" if unit in ("x", "×", "ratio") else f"{digits} {unit}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, check or write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="fail when README.md is out of date")
    what.add_argument("--write", action="store_true", help="bring README.md up to date")
    chosen = parser.parse_args(arguments)
    if not (chosen.check or chosen.write):
        print("\n".join(f"{name}\n\n{table(record.RESULTS)}" for name, table in TABLES.items()))
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
