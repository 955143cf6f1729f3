"""Which part of the method earns what: the ablation table of docs/results.md.

    python -m benchmarks.ablation [--rows "dpq distil" ...] [--steps 2500] [--results FOLDER]
    python -m benchmarks.ablation --model avatars-dit
    python -m benchmarks.ablation [--model avatars-dit] --export FILE

Every row is compressed, calibrated for as many optimizer steps on the same batches, and judged as
``benchmarks.fashion`` judges: FCD of 10,000 images, 50 DDIM steps, guidance 1.5. About a minute a
row on one H100. The rows stand in ``dpqlab.calibration.ablation``. ``--export`` measures nothing:
it writes the latest records as they ship, ``fashion-dit-runs/ablation.json`` in the assets. The
records of ``avatars-dit`` are the suite ``ablation-avatars``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.fashion import TEACHER, Judge
from benchmarks.record import RESULTS, append, latest, suite_of
from dpqlab.calibration import CalibrationData, calibrate
from dpqlab.calibration.ablation import AblationRow, ablation_rows
from dpqlab.checkpoint.atomic import replace_file
from dpqlab.diffusion import load_pipeline
from dpqlab.evaluation.ablation import Ablation, AblationResult, in_order
from dpqlab.evaluation.config import EvaluationConfig
from dpqlab.evaluation.datasets import MODELS, calibration_images
from dpqlab.evaluation.frechet import Interval
from dpqlab.nn import compress_, ledger_of_model

KIND = "ablation"
METRIC = "fcd_10k"


def student_of(
    row: AblationRow, data: CalibrationData, source: str | Path = TEACHER
) -> tuple[Any, dict[str, Any]]:
    """Compress and calibrate a row of ``source``; also return what came of it, for the record."""
    started = time.perf_counter()
    student = load_pipeline(source).transformer
    compress_(student, row.plan)
    details: dict[str, Any] = {
        "true_bits": ledger_of_model(student).true_bits_per_weight,
        "base": row.base,
        "change": row.change,
        "plan": row.plan.name,
        "compress_seconds": round(time.perf_counter() - started, 1),
        "calibration": None,
    }
    if row.config is None:
        return student, details
    device = data.images.device
    teacher = load_pipeline(source, device=device).transformer.requires_grad_(False)
    records = []
    for record in calibrate(student.to(device), teacher, data, row.config):
        records.append(record.to_dict())
        print(row.name, record.step, f"{record.total:.5f}", f"{record.seconds:.0f} s", flush=True)
    details |= {
        "calibration": row.config.to_dict(),
        "calibration_seconds": records[-1]["seconds"],
        "calibration_images": len(data),
        "course": records,
    }
    return student, details


def exported(folder: Path = RESULTS, model: str = TEACHER) -> Ablation:
    """Collect the latest records of all rows, and of the teacher under the same protocol.

    Raises
    ------
    ValueError
        If the teacher was not measured, or no row was.
    """
    teacher = latest(suite_of(model), folder).get(("teacher", METRIC))
    measured = latest(suite_of(model, KIND), folder)
    found = [r for (_, metric), r in measured.items() if metric == METRIC]
    if teacher is None or not found:
        raise ValueError(
            f"{folder} has {len(found)} rows of the ablation and "
            f"{'no' if teacher is None else 'a'} teacher: run benchmarks.fashion and this first"
        )
    details = teacher["details"]
    return Ablation(
        teacher=Interval(**details["fcd"]),
        noise_floor=Interval(**details["noise_floor"]),
        images=details["images"],
        sampling_steps=details["steps"],
        guidance=details["guidance"],
        results=in_order([result_of(record) for record in found]),
    )


def result_of(record: dict[str, Any]) -> AblationResult:
    """Take from a record what ships."""
    details = record["details"]
    excess = details.get("excess_fcd")
    return AblationResult(
        name=record["row"],
        change=details["change"],
        base=details["base"],
        true_bits=details["true_bits"],
        fcd=Interval(**details["fcd"]),
        excess_fcd=None if excess is None else Interval(**excess),
        psnr=details.get("psnr"),
        calibration_steps=(details.get("calibration") or {}).get("steps"),
        calibration_seconds=details.get("calibration_seconds"),
        device=record["device"],
        date=record["date"],
    )


def export(path: Path, folder: Path = RESULTS, model: str = TEACHER) -> None:
    """Write :func:`exported` as JSON."""
    text = json.dumps(exported(folder, model).to_dict(), indent=1, allow_nan=False)
    replace_file(path, (text + "\n").encode())


def main() -> None:
    """Measure the rows and append their records."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=TEACHER, choices=MODELS)
    parser.add_argument("--rows", nargs="+", default=list(ablation_rows()), metavar="ROW")
    parser.add_argument("--steps", type=int, default=2500, help="optimizer steps of each row")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--sampling-steps", type=int, default=50)
    parser.add_argument("--data", type=Path, help="the four idx.gz files")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to append to")
    parser.add_argument("--share", default="0/1", help="I/N: every Nth row only, from the Ith")
    parser.add_argument(
        "--seconds", type=float, default=float("inf"), help="begin no row after so long"
    )
    parser.add_argument("--export", type=Path, metavar="FILE", help="write the records, and stop")
    args = parser.parse_args()
    if args.export:
        export(args.export, args.results, args.model)
        return
    index, count = (int(part) for part in args.share.split("/"))
    started = time.monotonic()
    config = EvaluationConfig(images=args.images, steps=args.sampling_steps, batch=1000)
    judge = Judge.make(config, args.model)
    data = calibration_images(args.model, args.data, judge.device)
    rows = ablation_rows(args.steps)
    for name in args.rows[index::count]:
        if time.monotonic() - started > args.seconds:
            print("out of time before", name, flush=True)
            break
        student, details = student_of(rows[name], data, args.model)
        record = judge.record(
            suite_of(args.model, KIND), name, student, details, rows[name].base or None
        )
        append(record, args.results)


if __name__ == "__main__":
    main()
