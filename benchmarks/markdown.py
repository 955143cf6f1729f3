"""How numbers and tables are written in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

MISSING = "–"
Record = dict[str, Any]


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    sources: Sequence[Record],
    *,
    words: int = 1,
) -> str:
    """A Markdown table and the line that says where it comes from.

    The first `words` columns are text, aligned to the left; the others are numbers.
    """
    if not sources:
        return "*No records yet: `make bench` measures, then fills this table.*\n"
    rule = ["---"] * words + ["--:"] * (len(header) - words)
    lines = ["| " + " | ".join(_cell(c) for c in cells) + " |" for cells in (header, rule, *rows)]
    return "\n".join([*lines, "", _origin(sources)]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _origin(sources: Sequence[Record]) -> str:
    """One small line with date, commit and device of the records; several where they differ."""
    dates = sorted({source["date"][:10] for source in sources})
    days = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    commits = _listed(source["commit"] for source in sources)
    devices = _listed(source["device"] for source in sources)
    torch = _listed(source["versions"].get("torch", "unknown") for source in sources)
    return f"<sub>Measured {days}, commit {commits}, {devices}, torch {torch}.</sub>"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(_cell(name) for name in dict.fromkeys(names))


def fixed(value: object, digits: int, unit: str = "") -> str:
    """A number with so many decimals, or a dash for what is no number."""
    if not isinstance(value, int | float):
        return MISSING
    text = f"{value:.{digits}f}"
    # "-0.00" would read as damage with a sign
    return (text.removeprefix("-") if float(text) == 0 else text) + unit


def percent(value: object) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %" if isinstance(value, int | float) else MISSING


def megabytes(value: object) -> str:
    """Decimal megabytes, as disks and downloads count."""
    return f"{value / 1e6:.2f} MB" if isinstance(value, int | float) else MISSING


def interval(value: object, digits: int) -> str:
    """``0.123 ± 0.040`` of {"value", "low", "high"}, fewer digits from 10 up.

    The wider side where the interval is not symmetric; the value alone where there is none.
    """
    parts: dict[str, Any] = value if isinstance(value, dict) else {"value": value}
    centre, low, high = parts.get("value"), parts.get("low"), parts.get("high")
    if isinstance(centre, int | float) and abs(centre) >= 10:
        digits = 1
    if centre is None or low is None or high is None:
        return fixed(centre, digits)
    return f"{fixed(centre, digits)} ± {fixed(max(centre - low, high - centre), digits)}"


def quantity(value: float | None, unit: str) -> str:
    """Three significant digits with the unit: ``1.27×``, ``13.4 ms``."""
    if value is None:
        return MISSING
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{digits}×" if unit in ("x", "×", "ratio") else f"{digits} {unit}"
