"""Rivals of the compressed ``fashion-dit``: same teacher, same evaluator, sizes counted alike.

    python -m benchmarks.rivals [--rows sdnq-2bit-row vq4dit ...] [--images 10000] [--results DIR]

``sdnq-*``    SDNQ (0.2.8; GPL-3.0, so no dependency: it is imported for these rows only)
              in its codebook modes. Install it anywhere on PYTHONPATH: ``pip install --no-deps
              --target DIR sdnq==0.2.8``. It needs torch and diffusers, nothing else.
``rtn-*``     round to nearest with groups, the presets of that name.
``scalar-*``  a codebook of single weights (d=1); ``-calibrated`` as the best presets are, codes and
              all, for as many steps as a row of the ablation.
``vq4dit``    VQ4DiT (arXiv 2408.17131): per-layer VQ, candidate codes with learned ratios, matched
              to the teacher block by block on its own trajectories; no images are needed.

All draw the same seeds and labels as ``benchmarks.fashion``: 50 DDIM steps, guidance 1.5. Bytes on
disk are those of all tensors, without file headers.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.fashion import TEACHER, Judge
from benchmarks.record import RESULTS, append
from benchmarks.sdnq import SDNQ_MODES, quantize_sdnq
from benchmarks.vq4dit import VQ4DIT, Vq4ditConfig, vq4dit, vq4dit_config
from dpqlab.calibration import CalibrationConfig, calibrate
from dpqlab.calibration.presets import BEST, lasting
from dpqlab.core import CodebookCodec, Codec
from dpqlab.diffusion import load_pipeline
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.datasets import calibration_images
from dpqlab.evaluation.sizes import size_figures
from dpqlab.nn import Plan, compress_, preset
from dpqlab.nn.accounting import ledger_of_model

SUITE = "rivals"

SCALAR: dict[str, CodebookCodec] = {
    "scalar-2bit": CodebookCodec(d=1, k=4, scope="layer", row_scale=True),
    "scalar-1bit": CodebookCodec(d=1, k=2, scope="position", row_scale=True),
}
"""Codebooks of single weights, nearest to the presets in true bits: one a layer, one a column."""

ROWS = (
    *(f"sdnq-{mode}" for mode in SDNQ_MODES),
    "rtn-2bit",
    "rtn-1bit",
    *SCALAR,
    *(f"{name}-calibrated" for name in SCALAR),
    "vq4dit",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """What making a row may need: the teacher on its device, and how to calibrate."""

    teacher: Any
    device: str
    data: Path | None
    calibration: CalibrationConfig
    vq4dit: Vq4ditConfig


def make(row: str, setting: Setting) -> tuple[Any, dict[str, Any]]:
    """Return the transformer of a row, and sizes and settings for its record."""
    model: Any = load_pipeline(TEACHER).transformer
    if row.startswith("sdnq-"):
        model, _, details = quantize_sdnq(model, row.removeprefix("sdnq-"))
        return model.to(setting.device), details
    # on the CPU, where k-means gives the same codes everywhere
    compress_(model, plan_of(row))
    ledger = ledger_of_model(model)
    model.to(setting.device)
    details: dict[str, Any] = size_figures(ledger, ledger.stored_bytes)
    details["codec"] = ledger.layers[0].codec
    if row == "vq4dit":
        course = [_told(row, r) for r in vq4dit(model, setting.teacher, setting.vq4dit)]
        details |= {"settings": dataclasses.asdict(setting.vq4dit), "course": course}
    elif row.endswith("-calibrated"):
        steps = calibrate(
            model,
            setting.teacher,
            calibration_images(TEACHER, setting.data, setting.device),
            setting.calibration,
        )
        course = [_told(row, record) for record in steps]
        details |= {"settings": dataclasses.asdict(setting.calibration), "course": course}
    return model, details


def plan_of(row: str) -> Plan:
    """Return how the layers of a row that dpqlab's own codecs make are coded."""
    name = row.removesuffix("-calibrated")
    codecs: dict[str, Codec] = {**SCALAR, "vq4dit": VQ4DIT}
    return Plan.for_blocks(codecs[name], name=name) if name in codecs else preset(name)


def _told(row: str, record: Any) -> dict[str, Any]:
    values: dict[str, Any] = dataclasses.asdict(record)
    shown = (
        f"{key} {value:.4g}" for key, value in values.items() if isinstance(value, int | float)
    )
    print(f"{row}  {'  '.join(shown)}", flush=True)
    return values


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows and append their records."""
    args = _arguments(argv)
    judge = Judge.make(EvaluationConfig(images=args.images, steps=args.steps, batch=args.batch))
    full = load_pipeline(TEACHER, device=judge.device).transformer.requires_grad_(False)
    setting = Setting(
        teacher=full,
        device=judge.device,
        data=args.data,
        calibration=lasting(BEST, args.calibration_steps),
        vq4dit=vq4dit_config(args.vq4dit),
    )
    for row in args.rows:
        started = time.perf_counter()
        model, details = make(row, setting)
        made = time.perf_counter()
        details["seconds_to_make"] = round(made - started, 1)
        append(judge.record(SUITE, row, model, details), args.results)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.rivals", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    parser.add_argument("--data", type=Path, help="the four idx.gz files")
    parser.add_argument("--calibration-steps", type=int, default=CalibrationConfig().steps)
    parser.add_argument("--vq4dit", nargs="*", default=[], metavar="KEY=VALUE", help="its settings")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
