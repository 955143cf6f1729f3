"""The tables about speed: what was aimed at and what was measured, on a GPU and on a CPU.

With the standard library alone, as a commit hook runs it.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks import record
from benchmarks.markdown import Record, quantity, table

SUITES = ("kernels", "sampler", "cpu_kernels")
FAMILIES = {"vq": "VQ", "dpq": "DPQ", "best": "Best"}
MODES = ("modulation ahead", "modulation per step")

Line = tuple[str, str, str, str]
"""What, bits, against, device."""


def speed_table(folder: Path = record.RESULTS, bits: str | None = None) -> str:
    """Every row for which a goal or a floor was set, the presets beside each other.

    Of presets of ``bits`` alone, if given.

    Of several ways to compute the same with the same preset (such as decoding aside or not) the
    fastest counts; of memory the larger.
    """
    lines: dict[Line, dict[str, Record]] = {}
    for suite in SUITES:
        for measured in record.latest(suite, folder).values():
            if measured["goal"] is None and measured["floor"] is None:
                continue
            line, family = _place(measured)
            if bits not in (None, line[1]):
                continue
            best = lines.setdefault(line, {}).get(family)
            if best is None or measured["value"] > best["value"]:
                lines[line][family] = measured
    header = (
        "what", "bits", "against", "device", *FAMILIES.values(), "goal", "at worst", "limit",
    )  # fmt: skip
    rows = [(*line, *_cells(found)) for line, found in lines.items()]
    sources = [measured for found in lines.values() for measured in found.values()]
    return table(header, rows, sources, words=4)


def one_bit_speed_table(folder: Path = record.RESULTS) -> str:
    """The same of the presets of one bit."""
    return speed_table(folder, "1")


def _place(measured: Record) -> tuple[Line, str]:
    """Return the line that a record belongs to, and the family of its preset."""
    work, _, way = measured["row"].partition(": ")
    preset, _, variant = way.partition(", ")
    family, _, bits = preset.partition("-")
    what = work.partition(", against ")[0]
    if variant in MODES and measured["metric"] == "speed":
        what += f", {variant}"
    rival = (measured["rival"] or "").removesuffix(f", {variant}")
    return (what, bits.removesuffix("bit"), rival, measured["device"]), family


def _cells(found: dict[str, Record]) -> list[str]:
    """Return the families' values, goal, floor and limit of a line."""
    some = next(iter(found.values()))
    limits = [r["limit"] for r in found.values() if r["limit"] is not None]
    values = [found[family]["value"] if family in found else None for family in FAMILIES]
    numbers = [*values, some["goal"], some["floor"], max(limits, default=None)]
    return [quantity(number, some["unit"]) for number in numbers]
