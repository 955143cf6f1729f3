"""The recorded speeds as they ship: ``fashion-dit-runs/speed.json`` in the assets.

    python -m benchmarks.speed_export dpqlab/assets/fashion-dit-runs/speed.json

Measures nothing: takes the latest records of the suites ``kernels`` and ``sampler`` that
``benchmarks.speed`` wrote on a GPU.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, latest
from dpqlab.checkpoint.atomic import replace_file
from dpqlab.speed import DIT_XL_2, MODULATION
from dpqlab.studies.recorded_speed import LayerSpeed, RecordedSpeed, StepSpeed

LAYERS = re.compile(r"(28 modulation layers|token layers), M=(\d+): (.+)")
STEPS = re.compile(r"guided step, (\d+) images?, against diffusers: (.+)")
LEFT_OUT = ("decoding alone", "torchao int8")
"""Computes no product; fell back to a slow path in our set-up (``LOG.md``), which shows nothing."""
PLACES = 5  # significant ones: more is noise


def exported(folder: Path = RESULTS) -> RecordedSpeed:
    """Collect the latest records of all rows that were measured on a GPU.

    Raises
    ------
    ValueError
        If there are none of layers or of steps.
    """
    kernels, sampler = latest("kernels", folder), latest("sampler", folder)
    layers = tuple(
        _layer(match, record)
        for (row, _), record in kernels.items()
        if (match := LAYERS.fullmatch(row)) and not any(word in row for word in LEFT_OUT)
    )
    steps = tuple(
        _step(match, record, sampler.get((row.replace("diffusers", "our runtime", 1), "speed")))
        for (row, _), record in sampler.items()
        if (match := STEPS.fullmatch(row))
    )
    if not layers or not steps:
        raise ValueError(
            f"{folder} has {len(layers)} rows of layers and {len(steps)} of steps on a GPU: "
            "run benchmarks.speed first"
        )
    return RecordedSpeed(
        # in the order of the suite; rivals, which were added in other runs, beside their layers
        layers=tuple(sorted(layers, key=lambda one: (one.work, one.rows))),
        steps=tuple(sorted(steps, key=lambda one: one.images)),
    )


def _layer(match: re.Match[str], record: dict[str, Any]) -> LayerSpeed:
    work, rows, way = match[1], int(match[2]), match[3]
    details = record["details"]
    weights = sum(k.weights for k in DIT_XL_2 if (k.name == MODULATION) == ("modulation" in work))
    return LayerSpeed(
        work=work,
        way=way,
        rows=rows,
        microseconds=_rounded(details["median_us"]),
        speed=_rounded(record["value"]),
        goal=record["goal"],
        least=record["floor"],
        floor_microseconds=_rounded(details["floor_us"]),
        bytes=details["bytes"],
        flops=2.0 * rows * weights,
        copy=_rounded(details["copy_GB_per_s"] * 1e9),
        product=_rounded(details["product_TFLOP_per_s"] * 1e12),
        device=record["device"],
        date=record["date"],
    )


def _step(match: re.Match[str], record: dict[str, Any], own: dict[str, Any] | None) -> StepSpeed:
    details = record["details"]
    held: dict[str, int] = details["bytes"]
    apart = ("modulation", "graphs")
    return StepSpeed(
        images=int(match[1]),
        way=match[2],
        microseconds=_rounded(details["median_us"]),
        against_diffusers=_rounded(record["value"]),
        against_own=None if own is None else _rounded(own["value"]),
        weight_bytes=sum(count for part, count in held.items() if part not in apart),
        modulation_bytes=held.get("modulation", 0),
        error=None if details["error"] is None else _rounded(details["error"]),
        device=record["device"],
        date=record["date"],
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{PLACES}g}")


def export(path: Path, folder: Path = RESULTS) -> None:
    """Write :func:`exported` as JSON."""
    text = json.dumps(exported(folder).to_dict(), indent=1, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("path", type=Path, metavar="FILE")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the records")
    args = parser.parse_args()
    export(args.path, args.results)


if __name__ == "__main__":
    main()
